//! A running endpoint with one model, asked over real sockets.

use crate::support::{model, name, release};
use flotilla_agent::api::{self, Address, Status};
use flotilla_agent::host::ModelHost;
use flotilla_protocol::ErrorCode;
use flotilla_protocol::message::SlotName;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A running endpoint with one model.
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    pub(crate) host: Arc<ModelHost>,
    pub(crate) shutdown: CancellationToken,
    pub(crate) task: JoinHandle<()>,
}

pub(crate) async fn start() -> Endpoint {
    start_on(ModelHost::new()).await
}

/// An endpoint on this host.
pub(crate) async fn start_on(host: ModelHost) -> Endpoint {
    let host = Arc::new(host);
    host.install(name("letters"), release("r0"), SlotName::A, model(0)).unwrap();
    let listener = api::bind(&"127.0.0.1:0".parse().unwrap(), 0).await.unwrap();
    let Address::Tcp(address) = listener.address().clone() else { panic!("another address") };
    let status: Status = Arc::new(|| json!({"phase": "confirmed"}));
    let shutdown = CancellationToken::new();
    let task = api::serve(listener, Arc::clone(&host), status, shutdown.clone());
    Endpoint { address, host, shutdown, task }
}

/// A response, read to its end.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) async fn read(stream: &mut TcpStream) -> Self {
        let mut bytes = Vec::new();
        // A server that refuses a body may reset the connection after its answer.
        while stream.read_buf(&mut bytes).await.is_ok_and(|read| read > 0) {}
        let split = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a whole response head");
        let head = String::from_utf8(bytes[..split].to_vec()).unwrap().to_ascii_lowercase();
        Self { status: head[9..12].parse().unwrap(), head, body: bytes[split + 4..].to_vec() }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Checks the problem document and gives its code.
    pub(crate) fn problem(&self) -> ErrorCode {
        assert!(self.head.contains("content-type: application/problem+json"), "{}", self.head);
        let document = self.json();
        assert_eq!(document["status"], self.status);
        for field in ["type", "title", "detail"] {
            assert!(document[field].as_str().is_some_and(|text| !text.is_empty()), "{document}");
        }
        ErrorCode::from_text(document["code"].as_str().unwrap())
    }
}

impl Endpoint {
    pub(crate) async fn send(&self, request: &[u8]) -> Reply {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        // The server may have answered and closed before everything is written.
        let _ = stream.write_all(request).await;
        Reply::read(&mut stream).await
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        let head = format!("GET {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", self.address);
        self.send(head.as_bytes()).await
    }

    pub(crate) async fn predict(&self, model: &str, headers: &str, body: &[u8]) -> Reply {
        self.post(&format!("/predict/{model}"), headers, body).await
    }

    pub(crate) async fn post(&self, path: &str, headers: &str, body: &[u8]) -> Reply {
        let (address, length) = (self.address, body.len());
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n"
        );
        self.send(&[head.as_bytes(), body].concat()).await
    }
}

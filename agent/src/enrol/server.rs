//! The enrolment server: one JSON question and answer over a TLS connection of its own.

use super::system;
use crate::Error;
use crate::http_client::{Ask, ask};
use crate::identity::split_address;
use crate::tls::NotTheCa;
use flotilla_protocol::{ErrorCode, limits};
use http::{Method, StatusCode};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const CONNECT: Duration = Duration::from_secs(15);
const ANSWER: Duration = Duration::from_secs(60);

/// The server, and how it is recognised before anything is sent to it.
pub(super) struct Server<'a> {
    /// `host:port`.
    pub(super) address: &'a str,
    pub(super) tls: Arc<ClientConfig>,
}

#[derive(Deserialize)]
struct Problem {
    code: ErrorCode,
    #[serde(default)]
    detail: String,
}

impl Server<'_> {
    /// Posts `question` to `path`.
    pub(super) async fn post<Q: Serialize, A: DeserializeOwned>(
        &self,
        path: &str,
        question: &Q,
    ) -> Result<A, Error> {
        let server = self.address.to_owned();
        let body = serde_json::to_vec(question).map_err(|e| system("writing the request", &e))?;
        let stream = self.connect().await?;
        let asked = Ask {
            host: self.address,
            method: Method::POST,
            path,
            content_type: "application/json",
            body,
            max_answer: limits::ENROL_BODY,
            timeout: ANSWER,
        };
        let (status, body) =
            ask(stream, asked).await.map_err(|problem| Error::Network { server: server.clone(), problem })?;
        if status != StatusCode::OK && status != StatusCode::CREATED {
            let problem = serde_json::from_slice(&body).unwrap_or_else(|_| Problem {
                code: ErrorCode::Unknown,
                detail: format!("HTTP status {status}"),
            });
            let detail = problem.detail.chars().filter(|c| !c.is_control()).take(limits::TEXT).collect();
            return Err(Error::Refused { server, code: problem.code, detail });
        }
        serde_json::from_slice(&body).map_err(|e| Error::Answer {
            server,
            code: ErrorCode::Malformed,
            problem: format!("it cannot be read: {e}"),
        })
    }

    /// Opens a TLS connection to the right server, or to none.
    async fn connect(&self) -> Result<TlsStream<TcpStream>, Error> {
        let network = |problem: String| Error::Network { server: self.address.to_owned(), problem };
        let (host, port) =
            split_address(self.address).ok_or_else(|| network("its address is not HOST:PORT".to_owned()))?;
        let name = ServerName::try_from(host.to_owned()).map_err(|e| network(e.to_string()))?;
        let shake = async {
            let tcp = TcpStream::connect((host, port)).await.map_err(|e| network(e.to_string()))?;
            TlsConnector::from(Arc::clone(&self.tls))
                .connect(name, tcp)
                .await
                .map_err(|e| handshake_error(self.address, &e))
        };
        let shaken = tokio::time::timeout(CONNECT, shake).await;
        shaken.unwrap_or_else(|_| Err(network(format!("no connection within {} s", CONNECT.as_secs()))))
    }
}

fn handshake_error(server: &str, error: &io::Error) -> Error {
    let server = server.to_owned();
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(tls) if NotTheCa::is_cause_of(tls) => Error::CaMismatch { server },
        Some(tls) => Error::Tls { server, problem: tls.to_string() },
        None => Error::Network { server, problem: error.to_string() },
    }
}

//! One HTTP/1.1 request with bounds on time and size, for enrolment and for the commands that ask a running agent.

use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// A request.
#[derive(Clone, Debug)]
pub struct Ask<'a> {
    /// Value of the Host header.
    pub host: &'a str,
    /// Method.
    pub method: Method,
    /// Path.
    pub path: &'a str,
    /// Type of the body.
    pub content_type: &'a str,
    /// The body.
    pub body: Vec<u8>,
    /// Largest answer.
    pub max_answer: usize,
    /// Time for everything.
    pub timeout: Duration,
}

/// Sends the request over `stream` and returns status and body, or what went wrong as text.
pub async fn ask<S>(stream: S, ask: Ask<'_>) -> Result<(StatusCode, Bytes), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let timeout = ask.timeout;
    let answered = tokio::time::timeout(timeout, exchange(stream, ask)).await;
    answered.unwrap_or_else(|_| Err(format!("no answer within {} s", timeout.as_secs())))
}

async fn exchange<S>(stream: S, ask: Ask<'_>) -> Result<(StatusCode, Bytes), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let request = Request::builder()
        .method(ask.method)
        .uri(ask.path)
        .header(header::HOST, ask.host)
        .header(header::CONTENT_TYPE, ask.content_type)
        .header(header::CONNECTION, "close")
        .body(Full::new(Bytes::from(ask.body)))
        .map_err(|e| e.to_string())?;
    let (mut sender, connection) =
        http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    let work = async {
        let answer = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let status = answer.status();
        let body =
            Limited::new(answer.into_body(), ask.max_answer).collect().await.map_err(|e| e.to_string())?;
        Ok((status, body.to_bytes()))
    };
    // The connection has to be driven while the answer is awaited; how it ends after that does not matter.
    let mut connection = std::pin::pin!(connection);
    let mut work = std::pin::pin!(work);
    tokio::select! {
        answer = &mut work => answer,
        _ = &mut connection => work.await,
    }
}

//! Motion-JPEG over HTTP/1.1: one request, and frames until the camera ends.

use super::FRAME;
use flotilla_device::Fault;
use flotilla_device::multipart::{Multipart, MultipartError, Part};
use flotilla_protocol::{ErrorCode, limits};
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

/// Time to connect and to answer.
const OPEN: Duration = Duration::from_secs(10);
/// Bytes of the answer's headers, and of its body that are read ahead.
const BUFFER: usize = 64 * limits::KIB;

/// An open stream.
pub(super) struct Mjpeg {
    body: Incoming,
    decoder: Multipart,
    parts: VecDeque<Part>,
    _connection: AbortOnDropHandle<()>,
}

impl Mjpeg {
    pub(super) async fn open(url: &Uri) -> Result<Self, Fault> {
        let late = || {
            let detail = format!("{} did not answer within {} s", place(url), OPEN.as_secs());
            Fault::transient(ErrorCode::Timeout, detail)
        };
        tokio::time::timeout(OPEN, Self::ask(url)).await.map_err(|_| late())?
    }

    async fn ask(url: &Uri) -> Result<Self, Fault> {
        let host = place(url);
        let network = |what: &str, error: &dyn std::fmt::Display| {
            Fault::transient(ErrorCode::Network, format!("{host}: {what}: {error}"))
        };
        let address = format!("{}:{}", url.host().unwrap_or_default(), url.port_u16().unwrap_or(80));
        let stream = TcpStream::connect(address).await.map_err(|e| network("no connection", &e))?;
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(BUFFER)
            .handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
            .await
            .map_err(|e| network("no connection", &e))?;
        // It is driven beside whatever reads the frames, and how it ends shows there.
        let connection = AbortOnDropHandle::new(tokio::spawn(async move { drop(connection.await) }));
        let path = url.path_and_query().map_or("/", |path| path.as_str());
        let request = Request::get(path)
            .header(header::HOST, &host)
            .header(header::ACCEPT, "multipart/x-mixed-replace")
            .body(Empty::new())
            .map_err(|e| network("the address cannot be asked for", &e))?;
        let answer = sender.send_request(request).await.map_err(|e| network("no answer", &e))?;
        if answer.status() != StatusCode::OK {
            let detail = format!("{host} answers {} for {path}; check url", answer.status());
            return Err(Fault::transient(ErrorCode::Unsupported, detail));
        }
        let content_type = answer.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let decoder = Multipart::new(content_type.unwrap_or_default(), FRAME).map_err(|e| unusable(&e))?;
        Ok(Self { body: answer.into_body(), decoder, parts: VecDeque::new(), _connection: connection })
    }

    /// The next frame. May be given up at any time.
    pub(super) async fn frame(&mut self) -> Result<Vec<u8>, Fault> {
        let gone = |detail: String| Fault::transient(ErrorCode::Network, detail);
        loop {
            while let Some(part) = self.parts.pop_front() {
                // Cameras send other things in between, and some name no type.
                if !part.body.is_empty()
                    && matches!(part.content_type.as_str(), "image/jpeg" | "image/jpg" | "")
                {
                    return Ok(part.body);
                }
            }
            if self.decoder.is_ended() {
                return Err(gone("the camera ended its stream".to_owned()));
            }
            let frame =
                self.body.frame().await.ok_or_else(|| gone("the camera closed the connection".to_owned()))?;
            let frame = frame.map_err(|error| gone(format!("the connection broke: {error}")))?;
            if let Ok(bytes) = frame.into_data() {
                self.parts.extend(self.decoder.push(&bytes).map_err(|error| unusable(&error))?);
            }
        }
    }
}

/// The camera without what its address may tell.
fn place(url: &Uri) -> String {
    url.authority().map_or_else(String::new, ToString::to_string)
}

/// Another try may find another camera there.
fn unusable(error: &MultipartError) -> Fault {
    Fault::transient(error.code(), format!("the camera sends what cannot be used: {error}"))
}

//! Motion-JPEG over HTTP/1.1: one request, and frames until the camera ends.

use super::super::config::CameraUrl;
use super::FRAME;
use flotilla_device::Fault;
use flotilla_device::multipart::{Multipart, MultipartError, Part};
use flotilla_protocol::{ErrorCode, limits};
use http::{Request, StatusCode, header};
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
    pub(super) async fn open(url: &CameraUrl) -> Result<Self, Fault> {
        let late = || {
            let detail = format!("{url} did not answer within {} s", OPEN.as_secs());
            Fault::transient(ErrorCode::Timeout, detail)
        };
        tokio::time::timeout(OPEN, Self::ask(url)).await.map_err(|_| late())?
    }

    async fn ask(camera: &CameraUrl) -> Result<Self, Fault> {
        let url = camera.uri();
        let network = |what: &str, error: &dyn std::fmt::Display| {
            Fault::transient(ErrorCode::Network, format!("{camera}: {what}: {error}"))
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
            .header(header::HOST, url.authority().map_or("", |authority| authority.as_str()))
            .header(header::ACCEPT, "multipart/x-mixed-replace")
            .body(Empty::new())
            .map_err(|e| network("the address cannot be asked for", &e))?;
        let answer = sender.send_request(request).await.map_err(|e| network("no answer", &e))?;
        if answer.status() != StatusCode::OK {
            let detail = format!("{camera} answers {}; check url", answer.status());
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

/// Another try may find another camera there.
fn unusable(error: &MultipartError) -> Fault {
    Fault::transient(error.code(), format!("the camera sends what cannot be used: {error}"))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::super::super::config::StreamFeed;
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// Many cameras take their user and password in the query; a fault goes into the log, the status and to the cloud.
    #[tokio::test]
    async fn no_fault_tells_what_the_cameras_query_says() {
        for (answer, words) in [
            (
                "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n",
                "/cgi/video answers 401 Unauthorized; check url",
            ),
            ("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n", "cannot be used"),
            ("rubbish\r\n\r\n", "/cgi/video: no answer"),
            ("", "/cgi/video: no answer"),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let text = format!(
                "name = \"door\"\nmodel = \"m\"\nrate = 1\nurl = \"http://{address}/cgi/video?user=admin&pwd=s3cret\""
            );
            let feed: StreamFeed = toml::from_str(&text).unwrap();
            let url = feed.url.clone().unwrap();
            let camera = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut asked = vec![0; 1_024];
                let length = stream.read(&mut asked).await.unwrap();
                assert!(
                    asked.starts_with(b"GET /cgi/video?user=admin&pwd=s3cret HTTP/1.1\r\n"),
                    "it is asked for"
                );
                assert!(length > 0);
                stream.write_all(answer.as_bytes()).await.unwrap();
            };
            let (opened, ()) = tokio::join!(Mjpeg::open(&url), camera);
            let fault = opened.err().unwrap();
            assert!(fault.detail.contains(words), "{fault}");
            drop(listener);
            let gone = Mjpeg::open(&url).await.err().unwrap();
            assert!(gone.detail.contains("/cgi/video: no connection"), "{gone}");
            for told in [fault.to_string(), gone.to_string(), format!("{feed:?}")] {
                assert!(!told.contains("s3cret") && !told.contains("admin"), "{told}");
            }
        }
    }
}

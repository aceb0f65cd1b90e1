//! The command line's HTTP client. It talks to a running control plane and nothing else.

use crate::http::Problem;
use flotilla_protocol::ErrorCode;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::time::Duration;
use ureq::http::Response;

/// Where a running control plane notes its addresses, within its folder.
pub const SERVER_FILE: &str = "server.json";
/// Longest answer that is read into memory.
const ANSWER: u64 = 1024 * 1024 * 1024;

/// What [`SERVER_FILE`] holds.
#[derive(Clone, Debug, Serialize, serde::Deserialize)]
pub struct ServerFile {
    /// `http://host:port` of the HTTP API.
    pub http: String,
    /// `host:port` of the MQTT broker.
    pub mqtt: String,
    /// Process id of the control plane.
    pub pid: u32,
}

/// Why a request did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server refused, and says why.
    #[error("{}", .0.detail)]
    Refused(Problem),
    /// The server cannot be reached.
    #[error(
        "no answer from {url}: {source}; is the control plane running? Start it with `flotilla up`, or name another with --server"
    )]
    Unreachable {
        /// The address.
        url: String,
        /// What failed.
        source: Box<ureq::Error>,
    },
    /// The folder does not say how to reach a server.
    #[error("{path} cannot be read ({source}): {hint}")]
    Folder {
        /// The file.
        path: PathBuf,
        /// What failed.
        source: std::io::Error,
        /// What to do.
        hint: &'static str,
    },
    /// The answer is not what this version expects.
    #[error(
        "the answer of {url} is not understood: {detail}; client and server may be of different versions"
    )]
    Answer {
        /// The address.
        url: String,
        /// What is wrong.
        detail: String,
    },
}

impl ClientError {
    /// The stable code.
    pub fn code(&self) -> ErrorCode {
        match self {
            ClientError::Refused(problem) => ErrorCode::from_text(&problem.code),
            ClientError::Unreachable { .. } => ErrorCode::Network,
            ClientError::Folder { .. } => ErrorCode::NotFound,
            ClientError::Answer { .. } => ErrorCode::Malformed,
        }
    }
}

/// One page of a list.
pub struct AnswerPage<T> {
    /// What is on it.
    pub answer: T,
    /// How many there are on all pages, if the server says so.
    pub total: Option<u64>,
    /// Path of the next page; none after the last.
    pub next: Option<String>,
}

/// A client of one control plane.
#[derive(Clone)]
pub struct Client {
    agent: ureq::Agent,
    base: String,
    token: String,
}

impl Client {
    /// A client for the server at `base` (`http://host:port`).
    pub fn new(base: impl Into<String>, token: impl Into<String>) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(5)))
            .max_redirects(0)
            .build();
        let base = base.into().trim_end_matches('/').to_owned();
        Self { agent: config.into(), base, token: token.into().trim().to_owned() }
    }

    /// A client for the control plane that runs in this folder on this machine.
    pub fn of_folder(folder: &Path) -> Result<Self, ClientError> {
        let hint = "name the folder of a running control plane with --dir, or an address with --server and --token-file";
        let read = |name: &str| {
            let path = folder.join(name);
            std::fs::read_to_string(&path).map_err(|source| ClientError::Folder { path, source, hint })
        };
        let text = read(SERVER_FILE)?;
        let server: ServerFile = serde_json::from_str(&text).map_err(|e| ClientError::Answer {
            url: folder.join(SERVER_FILE).display().to_string(),
            detail: e.to_string(),
        })?;
        Ok(Self::new(server.http, read(flotilla_identity::ADMIN_TOKEN_FILE)?))
    }

    /// The server's address.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// GET a JSON value.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        parse(&self.url(path), &self.get_bytes(path)?)
    }

    /// GET a page of a list.
    pub fn get_page<T: DeserializeOwned>(&self, path: &str) -> Result<AnswerPage<T>, ClientError> {
        let url = self.url(path);
        let sent = self.agent.get(&url).header("authorization", self.bearer()).call();
        let text = |response: &Response<ureq::Body>, name: &str| {
            response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
        };
        let (total, link) = match &sent {
            Ok(response) => (text(response, "x-total-count"), text(response, "link")),
            Err(_) => (None, None),
        };
        let next = link.and_then(|link| {
            let (path, of) = link.strip_prefix('<')?.split_once('>')?;
            (path.starts_with('/') && of.contains("rel=\"next\"")).then(|| path.to_owned())
        });
        let bytes = finish(url.clone(), sent)?;
        let total = total.and_then(|total| total.parse().ok());
        Ok(AnswerPage { answer: parse(&url, &bytes)?, total, next })
    }

    /// DELETE for a JSON value.
    pub fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let url = self.url(path);
        let sent = self.agent.delete(&url).header("authorization", self.bearer()).call();
        let bytes = finish(url.clone(), sent)?;
        parse(&url, &bytes)
    }

    /// GET any body.
    pub fn get_bytes(&self, path: &str) -> Result<Vec<u8>, ClientError> {
        let url = self.url(path);
        let sent = self.agent.get(&url).header("authorization", self.bearer()).call();
        finish(url, sent)
    }

    /// POST a JSON value for a JSON value.
    pub fn post<B: Serialize, T: DeserializeOwned>(&self, path: &str, body: &B) -> Result<T, ClientError> {
        let url = self.url(path);
        let sent = self.agent.post(&url).header("authorization", self.bearer()).send_json(body);
        let bytes = finish(url.clone(), sent)?;
        parse(&url, &bytes)
    }

    /// POST a JSON value for any body.
    pub fn post_for_bytes<B: Serialize>(&self, path: &str, body: &B) -> Result<Vec<u8>, ClientError> {
        let url = self.url(path);
        let sent = self.agent.post(&url).header("authorization", self.bearer()).send_json(body);
        finish(url, sent)
    }

    /// PATCH with a JSON value for a JSON value.
    pub fn patch<B: Serialize, T: DeserializeOwned>(&self, path: &str, body: &B) -> Result<T, ClientError> {
        let url = self.url(path);
        let sent = self.agent.patch(&url).header("authorization", self.bearer()).send_json(body);
        let bytes = finish(url.clone(), sent)?;
        parse(&url, &bytes)
    }

    /// POST a file as the body.
    pub fn post_file<T: DeserializeOwned>(&self, path: &str, file: std::fs::File) -> Result<T, ClientError> {
        self.post_bytes(path, file.metadata().ok().map(|facts| facts.len()), file)
    }

    /// POST what this yields as the body: `length` bytes, where that is known. The server is asked first, so that a
    /// refusal comes before the body goes out.
    pub fn post_bytes<T: DeserializeOwned>(
        &self,
        path: &str,
        length: Option<u64>,
        mut body: impl std::io::Read,
    ) -> Result<T, ClientError> {
        let url = self.url(path);
        let mut request = self
            .agent
            .post(&url)
            .header("expect", "100-continue")
            .header("authorization", self.bearer())
            .header("content-type", "application/octet-stream");
        if let Some(length) = length {
            request = request.header("content-length", length);
        }
        let bytes = finish(url.clone(), request.send(ureq::SendBody::from_reader(&mut body)))?;
        parse(&url, &bytes)
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    fn bearer(&self) -> String {
        format!("Bearer {}", self.token)
    }
}

fn finish(url: String, sent: Result<Response<ureq::Body>, ureq::Error>) -> Result<Vec<u8>, ClientError> {
    let mut response =
        sent.map_err(|source| ClientError::Unreachable { url: url.clone(), source: Box::new(source) })?;
    let status = response.status();
    let bytes = response
        .body_mut()
        .with_config()
        .limit(ANSWER)
        .read_to_vec()
        .map_err(|e| ClientError::Answer { url: url.clone(), detail: e.to_string() })?;
    if status.is_success() {
        return Ok(bytes);
    }
    let problem = serde_json::from_slice(&bytes).map_err(|_| ClientError::Answer {
        url,
        detail: format!("status {status} without a problem report"),
    })?;
    Err(ClientError::Refused(problem))
}

fn parse<T: DeserializeOwned>(url: &str, bytes: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(bytes)
        .map_err(|e| ClientError::Answer { url: url.to_owned(), detail: e.to_string() })
}

//! Asks the agent that runs on a folder, over its local endpoint.

use crate::Error;
use crate::api::Address;
use crate::folder::{ENDPOINT, Folder};
use crate::http_client::{Ask, ask};
use flotilla_protocol::{ErrorCode, limits};
use http::Method;
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(60);
const ANSWER: usize = limits::MIB;

/// Sends a request to the agent on `dir` and returns its JSON answer.
pub(super) async fn request(
    dir: &Path,
    method: Method,
    path: &str,
    content_type: &str,
    body: Vec<u8>,
) -> Result<Value, Error> {
    let not_running = || Error::NotRunning { folder: dir.to_owned() };
    if !dir.is_dir() {
        return Err(not_running());
    }
    let folder = Folder::open(dir)?;
    let text = folder.disk().read(ENDPOINT.as_ref(), 256)?.ok_or_else(not_running)?;
    let address: Address = String::from_utf8_lossy(&text).trim().parse().map_err(|_| not_running())?;
    // A file that a killed agent left behind names an address at which nobody listens any more.
    let stream = address.connect().await.map_err(|_| not_running())?;
    let server = address.host();
    let asked = Ask { host: &server, method, path, content_type, body, max_answer: ANSWER, timeout: TIMEOUT };
    let answered = ask(stream, asked).await;
    let (status, body) = answered.map_err(|problem| Error::Network { server: server.clone(), problem })?;
    let value: Value = serde_json::from_slice(&body).map_err(|e| Error::Answer {
        server: server.clone(),
        code: ErrorCode::Malformed,
        problem: format!("it cannot be read: {e}"),
    })?;
    if status.is_success() {
        return Ok(value);
    }
    let text = |name: &str| value.get(name).and_then(Value::as_str);
    let code = text("code").map_or(ErrorCode::Unknown, ErrorCode::from_text);
    let detail = text("detail").unwrap_or("without a reason").to_owned();
    Err(Error::Refused { server: "the agent".to_owned(), code, detail })
}

//! Requests to answers.

use super::problem::Problem;
use super::{BODIES, Status, guard, oip, predict};
use crate::host::ModelHost;
use flotilla_protocol::{ErrorCode, limits};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use std::sync::Arc;
use tokio::sync::Semaphore;

/// A complete answer.
pub(super) type Answered = Response<Full<Bytes>>;

/// What answers are made of.
pub(super) struct Api {
    pub(super) host: Arc<ModelHost>,
    status: Status,
    /// Room for request bodies, in KiB.
    pub(super) bodies: Arc<Semaphore>,
}

impl Api {
    pub(super) fn new(host: Arc<ModelHost>, status: Status) -> Self {
        Self { host, status, bodies: Arc::new(Semaphore::new(BODIES / limits::KIB)) }
    }

    pub(super) async fn answer(&self, request: Request<Incoming>) -> Answered {
        self.route(request).await.unwrap_or_else(Problem::into_response)
    }

    /// What the status says of the streams, each with its latest result.
    fn streams(&self) -> serde_json::Value {
        (self.status)().get("streams").cloned().unwrap_or_else(|| serde_json::json!({}))
    }

    async fn route(&self, request: Request<Incoming>) -> Result<Answered, Problem> {
        let (parts, body) = request.into_parts();
        guard::check(&parts)?;
        let read = matches!(parts.method, Method::GET | Method::HEAD);
        if parts.uri.path() == "/v2" || parts.uri.path().starts_with("/v2/") {
            return Ok(oip::answer(self, &parts, body).await);
        }
        match parts.uri.path() {
            "/healthz" if read => Ok(json(r#"{"status":"ok"}"#.to_owned())),
            "/status" if read => Ok(json((self.status)().to_string())),
            "/streams" if read => Ok(json(self.streams().to_string())),
            "/healthz" | "/status" | "/streams" => Err(Problem::method("GET, HEAD")),
            path if path.starts_with("/streams/") && read => {
                let name = &path["/streams/".len()..];
                self.streams().get(name).map(|stream| json(stream.to_string())).ok_or_else(|| {
                    let detail = "there is no such stream; GET /streams names them".to_owned();
                    Problem::new(StatusCode::NOT_FOUND, ErrorCode::NotFound, detail)
                })
            }
            path => match path.strip_prefix("/predict/") {
                Some(model) if parts.method == Method::POST => {
                    predict::answer(self, model, &parts, body).await
                }
                Some(_) => Err(Problem::method("POST")),
                None => Err(Problem::new(
                    StatusCode::NOT_FOUND,
                    ErrorCode::NotFound,
                    "there is POST /predict/{model}, GET /streams[/{name}], GET /healthz, GET /status, and /v2",
                )),
            },
        }
    }
}

pub(super) fn json(body: String) -> Answered {
    respond(StatusCode::OK, "application/json", body)
}

pub(super) fn respond(status: StatusCode, content_type: &'static str, body: String) -> Answered {
    respond_bytes(status, content_type, body.into_bytes())
}

pub(super) fn respond_bytes(status: StatusCode, content_type: &'static str, body: Vec<u8>) -> Answered {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let fixed = [
        (header::CONTENT_TYPE, content_type),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    for (name, value) in fixed {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

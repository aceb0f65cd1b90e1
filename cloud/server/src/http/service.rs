//! One warp filter in front of the ROUTES table: who asks, which route, may they, what to answer.

use super::problem::Problem;
use super::routes::{self, Access, Route};
use crate::app::App;
use bytes::{Buf, Bytes, BytesMut};
use flotilla_identity::Actor;
use flotilla_protocol::ErrorCode;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};
use http::{HeaderMap, Method, Response, StatusCode, header};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use warp::Filter;
use warp::reply::Reply;

/// Largest JSON body of a request.
const JSON_BODY: usize = 256 * 1024;
/// Time until the next piece of a body.
const PIECE: Duration = Duration::from_secs(30);
/// Time for a whole body that is kept in memory.
const BODY: Duration = Duration::from_secs(60);
/// Name of the console's session cookie.
pub const COOKIE: &str = "flotilla_session";

/// Where a request comes from.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// The peer's address.
    pub address: SocketAddr,
    /// Whether the connection is encrypted.
    pub tls: bool,
}

/// The body of a request, piece by piece.
pub type BodyStream = BoxStream<'static, std::io::Result<Bytes>>;

/// Everything a handler can know.
pub struct Call {
    /// The control plane.
    pub app: Arc<App>,
    /// Who asks; only on routes that need a permission.
    pub actor: Option<Actor>,
    /// Values of `{name}` in the route's path, percent-decoded.
    pub path: BTreeMap<&'static str, String>,
    /// Query parameters.
    pub query: BTreeMap<String, String>,
    /// Bytes of the body, where the request says how many come.
    pub length: Option<u64>,
    /// The body. The lock is never contended: it makes a call shareable between the awaits of one handler.
    body: Mutex<BodyStream>,
    /// Where the request comes from.
    pub peer: Peer,
}

/// What a handler answers.
pub enum Answer {
    /// A complete response.
    Whole(Response<Bytes>),
    /// Server-sent events, each with a name and one JSON value.
    Events(mpsc::Receiver<(&'static str, serde_json::Value)>),
}

/// A handler's result.
pub type Handled = Result<Answer, Problem>;
/// A handler's future.
pub type Handling = BoxFuture<'static, Handled>;

impl Answer {
    /// 200 with a JSON body.
    pub fn json<T: Serialize>(value: &T) -> Handled {
        Self::json_with(StatusCode::OK, value)
    }

    /// A JSON body with another status.
    pub fn json_with<T: Serialize>(status: StatusCode, value: &T) -> Handled {
        let body = serde_json::to_vec(value).map_err(|e| Problem::new(ErrorCode::Internal, e))?;
        Self::bytes(status, "application/json", body.into())
    }

    /// The same answer with one more header.
    pub fn with(mut self, name: http::HeaderName, value: &str) -> Handled {
        let value = value.parse().map_err(|e| Problem::new(ErrorCode::Internal, e))?;
        if let Self::Whole(response) = &mut self {
            response.headers_mut().insert(name, value);
        }
        Ok(self)
    }

    /// Any body.
    pub fn bytes(status: StatusCode, content_type: &str, body: Bytes) -> Handled {
        Response::builder()
            .status(status)
            .header(header::CONTENT_TYPE, content_type)
            .body(body)
            .map(Answer::Whole)
            .map_err(|e| Problem::new(ErrorCode::Internal, e))
    }
}

impl Call {
    /// The actor of a route that needs a permission.
    pub fn actor(&self) -> Result<&Actor, Problem> {
        self.actor
            .as_ref()
            .ok_or_else(|| Problem::new(ErrorCode::Unauthenticated, "this route needs an actor"))
    }

    /// The path value `name`, parsed.
    pub fn param<T: std::str::FromStr>(&self, name: &'static str) -> Result<T, Problem>
    where
        T::Err: std::fmt::Display,
    {
        let text = self.path.get(name).map(String::as_str).unwrap_or_default();
        text.parse().map_err(|e| Problem::new(ErrorCode::InvalidInput, format!("{name}: {e}")))
    }

    /// The query value `name`, parsed, if it is there.
    pub fn query<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, Problem>
    where
        T::Err: std::fmt::Display,
    {
        let Some(text) = self.query.get(name) else { return Ok(None) };
        text.parse()
            .map(Some)
            .map_err(|e| Problem::new(ErrorCode::InvalidInput, format!("query parameter {name}={text}: {e}")))
    }

    /// The body, piece by piece.
    pub fn body(&mut self) -> &mut BodyStream {
        self.body.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    /// The whole body, up to `max` bytes.
    pub async fn bytes(&mut self, max: usize) -> Result<Bytes, Problem> {
        let whole = tokio::time::timeout(BODY, self.collect(max)).await;
        whole.unwrap_or_else(|_| Err(broken_body(too_slow(BODY))))
    }

    async fn collect(&mut self, max: usize) -> Result<Bytes, Problem> {
        let mut whole = BytesMut::new();
        while let Some(piece) = self.body().try_next().await.map_err(broken_body)? {
            if whole.len() + piece.len() > max {
                return Err(Problem::new(
                    ErrorCode::TooLarge,
                    format!("the body is over the bound of {max} bytes"),
                ));
            }
            whole.extend_from_slice(&piece);
        }
        Ok(whole.freeze())
    }

    /// The body as JSON.
    pub async fn json<T: DeserializeOwned>(&mut self) -> Result<T, Problem> {
        let bytes = self.bytes(JSON_BODY).await?;
        serde_json::from_slice(&bytes).map_err(|e| {
            Problem::new(ErrorCode::InvalidInput, format!("the body is not the expected JSON: {e}"))
        })
    }
}

/// The problem of a body that does not come to its end.
pub(super) fn broken_body(error: std::io::Error) -> Problem {
    match error.kind() {
        std::io::ErrorKind::TimedOut => Problem::new(ErrorCode::Timeout, error),
        _ => Problem::new(ErrorCode::Network, format!("the body ended early: {error}")),
    }
}

fn too_slow(limit: Duration) -> std::io::Error {
    let detail = format!("the body does not come: {} s have passed", limit.as_secs());
    std::io::Error::new(std::io::ErrorKind::TimedOut, detail)
}

/// The same stream, with an error in place of a piece that is too long in coming.
fn in_time(body: BodyStream) -> BodyStream {
    let next = async |mut body: BodyStream| match tokio::time::timeout(PIECE, body.next()).await {
        Ok(piece) => Some((piece?, body)),
        Err(_) => Some((Err(too_slow(PIECE)), body)),
    };
    futures::stream::unfold(body, next).boxed()
}

/// The HTTP API as a service.
#[derive(Clone)]
pub struct Api {
    app: Arc<App>,
}

impl Api {
    /// The API of this control plane.
    pub fn new(app: Arc<App>) -> Self {
        Self { app }
    }

    /// Answers one request through the warp filter.
    pub fn call(
        &self,
        request: hyper::Request<hyper::body::Incoming>,
    ) -> impl Future<Output = Result<warp::reply::Response, Infallible>> + Send + use<> {
        use hyper::service::Service;
        let service = hyper_util::service::TowerToHyperService::new(warp::service(filter(self.app.clone())));
        service.call(request)
    }
}

fn filter(
    app: Arc<App>,
) -> impl Filter<Extract = (warp::reply::Response,), Error = warp::Rejection> + Clone + Send + Sync + 'static
{
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    warp::method()
        .and(warp::path::full())
        .and(query)
        .and(warp::header::headers_cloned())
        .and(warp::ext::get::<Peer>())
        .and(warp::body::stream())
        .then(move |method, path: warp::path::FullPath, query: String, headers, peer, body| {
            let app = app.clone();
            let body = StreamExt::boxed(TryStreamExt::map_err(
                TryStreamExt::map_ok(body, |piece| {
                    let mut piece = piece;
                    let remaining = Buf::remaining(&piece);
                    Buf::copy_to_bytes(&mut piece, remaining)
                }),
                std::io::Error::other,
            ));
            async move { respond(app, method, path.as_str(), &query, headers, peer, in_time(body)).await }
        })
}

async fn respond(
    app: Arc<App>,
    method: Method,
    path: &str,
    query: &str,
    headers: HeaderMap,
    peer: Peer,
    body: BodyStream,
) -> warp::reply::Response {
    let started = std::time::Instant::now();
    let outcome = dispatch(app, &method, path, query, &headers, peer, body).await;
    let mut response = match outcome {
        Ok(Answer::Whole(response)) => response.into_response(),
        Ok(Answer::Events(mut events)) => {
            let events = futures::stream::poll_fn(move |context| events.poll_recv(context));
            let events = events.map(|(name, value)| {
                Ok::<_, Infallible>(warp::sse::Event::default().event(name).data(value.to_string()))
            });
            warp::sse::reply(warp::sse::keep_alive().stream(events)).into_response()
        }
        Err(problem) => problem.response().into_response(),
    };
    harden(response.headers_mut());
    tracing::debug!(%method, path, status = response.status().as_u16(), us = started.elapsed().as_micros(), "request");
    response
}

/// Headers that every answer carries: nothing of ours may be framed, sniffed or load foreign code.
fn harden(headers: &mut HeaderMap) {
    let fixed = [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'",
        ),
    ];
    for (name, value) in fixed {
        headers.entry(name).or_insert(header::HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(header::HeaderValue::from_static("no-store"));
}

async fn dispatch(
    app: Arc<App>,
    method: &Method,
    path: &str,
    query: &str,
    headers: &HeaderMap,
    peer: Peer,
    body: BodyStream,
) -> Handled {
    check_host(headers, peer)?;
    let (route, values) = find(method, path)?;
    let actor = admit(&app, route, method, headers, peer).await?;
    let query = parse_query(query)?;
    let length =
        headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
    let call = Call { app, actor, path: values, query, length, body: Mutex::new(body), peer };
    // A panic in a handler costs that request only.
    match std::panic::AssertUnwindSafe((route.handler)(call)).catch_unwind().await {
        Ok(handled) => handled,
        Err(_) => {
            Err(Problem::new(ErrorCode::Internal, "the request failed inside the server; its log says where"))
        }
    }
}

/// The route for this method and path, with the path's values.
fn find(method: &Method, path: &str) -> Result<(&'static Route, BTreeMap<&'static str, String>), Problem> {
    let mut other_method = false;
    for route in routes::ROUTES {
        if let Some(values) = route.matches(path) {
            if route.method == *method {
                return Ok((route, values));
            }
            other_method = true;
        }
    }
    let mut problem = Problem::no_route(method, path);
    if other_method {
        problem.status = StatusCode::METHOD_NOT_ALLOWED.as_u16();
        problem.title = "Method Not Allowed".into();
    }
    Err(problem)
}

/// Names of this machine only on plain connections, so that no foreign page can reach us by a rebound name.
fn check_host(headers: &HeaderMap, peer: Peer) -> Result<(), Problem> {
    if peer.tls {
        return Ok(());
    }
    let host = headers.get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or_default();
    let name =
        host.rsplit_once(':').map_or(host, |(name, port)| if port.contains(']') { host } else { name });
    let local = name == "localhost"
        || name.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    if local {
        return Ok(());
    }
    Err(Problem::new(
        ErrorCode::PermissionDenied,
        format!("host {host:?} is not this machine; use localhost or HTTPS"),
    ))
}

async fn admit(
    app: &App,
    route: &Route,
    method: &Method,
    headers: &HeaderMap,
    peer: Peer,
) -> Result<Option<Actor>, Problem> {
    let permission = match route.access {
        Access::Public => return Ok(None),
        Access::PublicTls if peer.tls => return Ok(None),
        Access::PublicTls => {
            return Err(Problem::new(ErrorCode::Tls, "this route is served over HTTPS only"));
        }
        Access::Needs(permission) => permission,
    };
    let bearer = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "));
    let actor = match (bearer, cookie(headers)) {
        (Some(token), _) => app.identity.authenticate(token.trim())?,
        (None, Some(session)) => {
            check_same_origin(method, headers)?;
            app.identity.authenticate_session(&session, flotilla_identity::now_ms()).await?
        }
        (None, None) => {
            return Err(Problem::new(
                ErrorCode::Unauthenticated,
                "send `Authorization: Bearer TOKEN` (the token is in the file admin-token of the server's folder), or open the console by `flotilla login`",
            ));
        }
    };
    flotilla_identity::authorize(&actor, permission)?;
    Ok(Some(actor))
}

/// The console's session from the cookie header.
fn cookie(headers: &HeaderMap) -> Option<String> {
    let cookies = headers.get(header::COOKIE)?.to_str().ok()?;
    cookies
        .split(';')
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(name, _)| *name == COOKIE)
        .map(|(_, value)| value.to_owned())
}

/// A browser that carries our cookie may change things from our own pages only.
fn check_same_origin(method: &Method, headers: &HeaderMap) -> Result<(), Problem> {
    if method.is_safe() {
        return Ok(());
    }
    let text = |name| headers.get(name).and_then(|v| v.to_str().ok());
    let host = text(header::HOST).unwrap_or_default();
    let same = text(header::ORIGIN)
        .and_then(|origin| origin.split_once("://"))
        .is_some_and(|(_, origin)| origin == host);
    if same {
        Ok(())
    } else {
        Err(Problem::new(ErrorCode::PermissionDenied, "the request comes from another site"))
    }
}

fn parse_query(query: &str) -> Result<BTreeMap<String, String>, Problem> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((percent_decode(name)?, percent_decode(value)?))
        })
        .collect()
}

/// Percent-encodes one path segment or query value (RFC 3986, unreserved characters stay).
pub(crate) fn percent_encode(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(b).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}

/// Decodes `%XX` and `+` (as HTML forms and `URLSearchParams` write them).
pub(super) fn percent_decode(text: &str) -> Result<String, Problem> {
    let bad =
        || Problem::new(ErrorCode::InvalidInput, format!("{text:?} is not valid percent-encoding of UTF-8"));
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let digits = [bytes.next().ok_or_else(bad)?, bytes.next().ok_or_else(bad)?];
                let digits = std::str::from_utf8(&digits).map_err(|_| bad())?;
                out.push(u8::from_str_radix(digits, 16).map_err(|_| bad())?);
            }
            b'+' => out.push(b' '),
            other => out.push(other),
        }
    }
    String::from_utf8(out).map_err(|_| bad())
}

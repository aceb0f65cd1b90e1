//! The console's files, and the way in.

use super::super::problem::Problem;
use super::super::service::{Answer, COOKIE, Call, Handled};
use bytes::Bytes;
use flotilla_console::Asset;
use flotilla_identity::{SESSION_TTL_MS, now_ms};
use flotilla_protocol::ErrorCode;
use http::{HeaderValue, Response, StatusCode, header};

/// `GET /`
pub(crate) async fn index(_call: Call) -> Handled {
    serve(flotilla_console::index())
}

/// `GET /console/{file}`
pub(crate) async fn file(call: Call) -> Handled {
    let path: String = call.param("file")?;
    match flotilla_console::asset(&path) {
        Some(asset) => serve(asset),
        None => Err(Problem::new(ErrorCode::NotFound, format!("the console has no file {path}"))),
    }
}

fn serve(asset: &Asset) -> Handled {
    let mut answer = Answer::bytes(StatusCode::OK, asset.content_type, Bytes::from_static(asset.bytes))?;
    if let Answer::Whole(response) = &mut answer {
        // Unversioned names: ask again, so that a new binary never runs with an old script.
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    }
    Ok(answer)
}

/// `GET /login?code=…`: the code becomes a cookie and leaves the address bar.
pub(crate) async fn login(call: Call) -> Handled {
    let code: String = call.query("code")?.unwrap_or_default();
    let session = call.app.identity.login(&code, now_ms()).await?;
    let secure = if call.peer.tls { "; Secure" } else { "" };
    let cookie = format!(
        "{COOKIE}={}; Path=/; HttpOnly; SameSite=Strict; Max-Age={}{secure}",
        session.cookie.expose(),
        SESSION_TTL_MS / 1000
    );
    let response = Response::builder()
        .status(StatusCode::SEE_OTHER)
        .header(header::LOCATION, "/")
        .header(header::SET_COOKIE, cookie)
        .body(Bytes::new())
        .map_err(|e| Problem::new(ErrorCode::Internal, e))?;
    Ok(Answer::Whole(response))
}

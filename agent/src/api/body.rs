//! Request bodies: within their bounds, all of them together within one.

use super::BODY_TIME;
use super::answer::Api;
use super::problem::Problem;
use flotilla_protocol::{ErrorCode, limits};
use http::StatusCode;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Bytes, Incoming};
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

/// The body, and the room that it takes until it is dropped.
pub(super) async fn read(api: &Api, body: Incoming) -> Result<(Bytes, OwnedSemaphorePermit), Problem> {
    let too_large = || {
        let detail = format!("the input is over the bound of {} bytes", limits::PREDICT_INPUT);
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::TooLarge, detail)
    };
    // A body of unsaid length may become as large as any.
    let announced = body.size_hint().upper().unwrap_or(limits::PREDICT_INPUT as u64);
    let announced = usize::try_from(announced).ok().filter(|length| *length <= limits::PREDICT_INPUT);
    let kib = announced.ok_or_else(too_large)?.div_ceil(limits::KIB);
    let room =
        u32::try_from(kib).ok().and_then(|kib| Arc::clone(&api.bodies).try_acquire_many_owned(kib).ok());
    let room = room.ok_or_else(|| Problem::busy("too many inputs are being received; try again"))?;

    let collected = Limited::new(body, limits::PREDICT_INPUT).collect();
    match tokio::time::timeout(BODY_TIME, collected).await {
        Ok(Ok(body)) => Ok((body.to_bytes(), room)),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(error)) => Err(Problem::new(
            StatusCode::BAD_REQUEST,
            ErrorCode::InvalidInput,
            format!("no full body: {error}"),
        )),
        Err(_) => Err(Problem::new(
            StatusCode::REQUEST_TIMEOUT,
            ErrorCode::Timeout,
            format!("the body did not arrive within {} s", BODY_TIME.as_secs()),
        )),
    }
}

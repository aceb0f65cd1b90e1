//! `POST …/infer`: tensors in, tensors out.

use super::super::answer::{Answered, Api};
use super::super::body;
use super::super::problem::Problem;
use super::request::Request;
use super::response;
use flotilla_protocol::{ErrorCode, ModelName};
use http::{HeaderMap, StatusCode};
use hyper::body::Incoming;

pub(super) async fn answer(
    api: &Api,
    model: &ModelName,
    headers: &HeaderMap,
    incoming: Incoming,
) -> Result<Answered, Problem> {
    let (bytes, room) = body::read(api, incoming).await?;
    let (mut request, binary) = Request::read(headers, &bytes)?;
    let ticket = api.host.admit(model)?;
    let interface = ticket.interface().clone();
    let asked = response::asked(&interface, &request)?;
    let batch = request.rows(&interface, binary)?;
    let turn = ticket.turn().await;
    let rows = batch.len();
    // The work goes on when the client hangs up meanwhile, so the room is taken until it is done.
    let work = move || {
        let inferred = turn.infer(request.stream(), &batch);
        drop((bytes, room));
        (inferred, request)
    };
    let (inferred, request) = tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Internal, e.to_string()))?;
    Ok(response::answer(model, &interface, &request, &asked, &inferred?, rows))
}

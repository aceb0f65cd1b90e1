//! `POST /predict/{model}`: a picture or raw pixels in, labels and scores out.

use super::answer::{Answered, Api, json};
use super::body;
use super::problem::Problem;
use crate::host::Answer;
use flotilla_protocol::message::SlotName;
use flotilla_protocol::{Digest, ErrorCode, ModelName};
use flotilla_runtime::Input;
use http::{HeaderMap, StatusCode, header};
use hyper::body::Incoming;
use serde::Serialize;

/// The answer's document.
#[derive(Serialize)]
struct Document<'a> {
    model: &'a ModelName,
    release: Digest,
    slot: SlotName,
    label: &'a str,
    label_index: usize,
    score: f32,
    scores: &'a [f32],
    latency_us: u64,
}

pub(super) async fn answer(
    api: &Api,
    model: &str,
    headers: &HeaderMap,
    incoming: Incoming,
) -> Result<Answered, Problem> {
    let name: ModelName = model
        .parse()
        .map_err(|e| Problem::new(StatusCode::NOT_FOUND, ErrorCode::NotFound, format!("{e}")))?;
    // Refused before its body is read; whether there is a place in the queue is asked when it is needed.
    if api.host.served(&name).is_none() {
        return Err(crate::host::HostError::NotServing { model: name }.into());
    }
    let form = Form::of(headers)?;
    let (bytes, room) = body::read(api, incoming).await?;
    let ticket = api.host.admit(&name)?;
    // The work goes on when the client hangs up meanwhile, so the room is taken until it is done.
    let work = move || {
        let answer = ticket.predict(form.input(&bytes));
        drop((bytes, room));
        answer
    };
    let answer = tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Internal, e.to_string()))??;
    document(&name, &answer)
}

fn document(model: &ModelName, answer: &Answer) -> Result<Answered, Problem> {
    let prediction = &answer.prediction;
    let document = Document {
        model,
        release: answer.release,
        slot: answer.slot,
        label: &prediction.label,
        label_index: prediction.label_index,
        score: prediction.score,
        scores: &prediction.scores,
        latency_us: answer.latency_us,
    };
    serde_json::to_string(&document)
        .map(json)
        .map_err(|e| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Internal, e.to_string()))
}

/// How the body is to be read.
#[derive(Clone, Copy)]
enum Form {
    Encoded,
    Raw,
    /// The sender did not say; told by the file's signature.
    Unsaid,
}

impl Form {
    fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(Form::Unsaid) };
        let text = value.to_str().unwrap_or_default();
        let kind = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match kind.as_str() {
            "image/png" | "image/jpeg" | "image/jpg" => Ok(Form::Encoded),
            "application/octet-stream" => Ok(Form::Raw),
            // What common clients send where nobody thought of it.
            "" | "image/*" | "application/x-www-form-urlencoded" => Ok(Form::Unsaid),
            _ => Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                ErrorCode::Unsupported,
                "send a picture as image/png or image/jpeg, or the model's raw pixels as application/octet-stream",
            )),
        }
    }

    fn input(self, bytes: &[u8]) -> Input<'_> {
        match self {
            Form::Encoded => Input::Encoded(bytes),
            Form::Raw => Input::Raw(bytes),
            Form::Unsaid => Input::of(bytes),
        }
    }
}

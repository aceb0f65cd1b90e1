//! `POST /predict/{model}`: a picture, raw pixels or JSON in, labels and scores out; `?top=N` says how many of the best.

use super::answer::{Answered, Api, json};
use super::problem::Problem;
use super::thing::{self, Thing};
use super::{TOP, body};
use crate::host::{Answer, HostError, Ranked, Ticket, Turn};
use flotilla_protocol::message::SlotName;
use flotilla_protocol::{Digest, ErrorCode, ModelName, limits};
use flotilla_runtime::{Error, Input};
use http::request::Parts;
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
    top: Vec<Ranked<'a>>,
    latency_us: u64,
}

pub(super) async fn answer(
    api: &Api,
    model: &str,
    request: &Parts,
    incoming: Incoming,
) -> Result<Answered, Problem> {
    let name: ModelName = model
        .parse()
        .map_err(|e| Problem::new(StatusCode::NOT_FOUND, ErrorCode::NotFound, format!("{e}")))?;
    // Refused before its body is read; whether there is a place in the queue is asked when it is needed.
    if api.host.served(&name).is_none() {
        return Err(HostError::NotServing { model: name }.into());
    }
    let (form, top) = (Form::of(&request.headers)?, top(request.uri.query())?);
    let (bytes, room) = body::read(api, incoming).await?;
    let ticket = api.host.admit(&name)?;
    form.check(&ticket, &name, &bytes)?;
    let turn = ticket.turn().await;
    // The work goes on when the client hangs up meanwhile, so the room is taken until it is done.
    let work = move || {
        let answer = form.predict(turn, &bytes);
        drop((bytes, room));
        answer
    };
    let answer = tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Internal, e.to_string()))??;
    document(&name, &answer, top)
}

fn document(model: &ModelName, answer: &Answer, top: usize) -> Result<Answered, Problem> {
    let prediction = &answer.prediction;
    let document = Document {
        model,
        release: answer.release,
        slot: answer.slot,
        label: &prediction.label,
        label_index: prediction.label_index,
        score: prediction.score,
        scores: &prediction.scores,
        top: answer.top(top),
        latency_us: answer.latency_us,
    };
    serde_json::to_string(&document)
        .map(json)
        .map_err(|e| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Internal, e.to_string()))
}

/// How many of the best labels are asked for.
fn top(query: Option<&str>) -> Result<usize, Problem> {
    let pairs = query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    let Some((_, text)) = pairs.into_iter().find(|(name, _)| *name == "top") else { return Ok(TOP) };
    let count = text.parse().ok().filter(|count| (1..=limits::LABELS).contains(count));
    count.ok_or_else(|| {
        let detail = format!("top is {text:?}; a number from 1 to {} is possible", limits::LABELS);
        Problem::new(StatusCode::BAD_REQUEST, ErrorCode::InvalidInput, detail)
    })
}

/// How the body is to be read.
#[derive(Clone, Copy)]
enum Form {
    Encoded,
    Raw,
    Json,
    /// The sender did not say; told by the file's signature.
    Unsaid,
}

impl Form {
    fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let unsupported =
            |detail: String| Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, ErrorCode::Unsupported, detail);
        if let Some(coding) = headers.get(header::CONTENT_ENCODING).filter(|coding| *coding != "identity") {
            return Err(unsupported(format!(
                "Content-Encoding {coding:?} is not supported; send the body as it is"
            )));
        }
        let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(Form::Unsaid) };
        let text = value.to_str().unwrap_or_default();
        let kind = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match kind.as_str() {
            kind if flotilla_runtime::PICTURES.contains(&kind) || kind == "image/jpg" => Ok(Form::Encoded),
            "application/octet-stream" => Ok(Form::Raw),
            "application/json" => Ok(Form::Json),
            // What common clients send where nobody thought of it.
            "" | "image/*" | "application/x-www-form-urlencoded" => Ok(Form::Unsaid),
            _ => Err(unsupported(format!(
                "Content-Type {kind:?} is not supported; send a picture as {}, the model's raw pixels as application/octet-stream, or application/json",
                flotilla_runtime::PICTURES.join(" or ")
            ))),
        }
    }

    /// Refuses what can be told at once to be nothing that the model takes.
    fn check(self, ticket: &Ticket, model: &ModelName, bytes: &[u8]) -> Result<(), Problem> {
        let input = match self {
            Form::Raw => Input::Raw(bytes),
            Form::Unsaid => Input::of(bytes),
            Form::Encoded | Form::Json => return Ok(()),
        };
        ticket.check(input).map_err(|error| match (self, &error) {
            (Form::Unsaid, HostError::Predict { source: Error::RawLength { got, need }, .. }) => {
                let detail = format!(
                    "the body is neither a PNG nor JPEG picture, nor {need} bytes of raw pixels as model {model} takes them: it has {got} bytes"
                );
                Problem::new(StatusCode::BAD_REQUEST, error.code(), detail)
            }
            _ => error.into(),
        })
    }

    fn predict(self, turn: Turn, bytes: &[u8]) -> Result<Answer, Problem> {
        let input = match self {
            Form::Encoded => Input::Encoded(bytes),
            Form::Raw => Input::Raw(bytes),
            Form::Unsaid => Input::of(bytes),
            Form::Json => {
                return match thing::read(bytes, &turn.interface().image)? {
                    Thing::Picture(picture) => Ok(turn.predict(Input::Encoded(&picture))?),
                    Thing::Pixels(pixels) => Ok(turn.predict(Input::Raw(&pixels))?),
                };
            }
        };
        Ok(turn.predict(input)?)
    }
}

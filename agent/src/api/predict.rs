//! `POST /predict/{model}`: a picture, raw pixels or JSON in, labels and scores out; `?top=N` says how many of the best.

use super::answer::{Answered, Api, json};
use super::problem::Problem;
use super::thing::{self, Thing};
use super::{TOP, body};
use crate::host::{Answer, HostError, Ranked, Ticket, Turn};
use flotilla_protocol::message::SlotName;
use flotilla_protocol::pipeline::TensorKind;
use flotilla_protocol::{Digest, ErrorCode, ModelName, limits};
use flotilla_runtime::{Anomaly, Answer as What, Error, Input, Label, Object, Stream, Tensor, Value, Values};
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
    #[serde(flatten)]
    said: Said<'a>,
    latency_us: u64,
}

/// What the document says, by kind of model.
#[derive(Serialize)]
#[serde(untagged)]
enum Said<'a> {
    Class {
        #[serde(flatten)]
        label: &'a Label,
        scores: &'a [f32],
        top: Vec<Ranked<'a>>,
    },
    Labels {
        labels: &'a [Label],
        scores: &'a [f32],
        top: Vec<Ranked<'a>>,
    },
    Objects {
        objects: &'a [Object],
    },
    Values {
        values: &'a [Value],
    },
    Anomaly(&'a Anomaly),
    Embedding {
        embedding: &'a [f32],
    },
    Tensors {
        outputs: Vec<Output<'a>>,
    },
}

/// A tensor, as the Open Inference Protocol has it.
#[derive(Serialize)]
struct Output<'a> {
    name: &'a str,
    datatype: TensorKind,
    shape: &'a [usize],
    data: serde_json::Value,
}

impl<'a> Said<'a> {
    fn of(answer: &'a Answer, top: usize) -> Self {
        let scores = &answer.prediction.scores;
        match &answer.prediction.answer {
            What::Class(label) => Said::Class { label, scores, top: answer.top(top) },
            What::Labels(labels) => Said::Labels { labels, scores, top: answer.top(top) },
            What::Objects(objects) => Said::Objects { objects },
            What::Values(values) => Said::Values { values },
            What::Anomaly(anomaly) => Said::Anomaly(anomaly),
            What::Embedding => Said::Embedding { embedding: scores },
            What::Tensors(tensors) => {
                let output = |tensor: &'a Tensor| Output {
                    name: &tensor.name,
                    datatype: tensor.datatype,
                    shape: &tensor.shape,
                    data: numbers(&tensor.values),
                };
                Said::Tensors { outputs: tensors.iter().map(output).collect() }
            }
        }
    }
}

/// Values as JSON has them: whole numbers stay whole.
pub(super) fn numbers(values: &Values) -> serde_json::Value {
    match values {
        Values::Fp32(list) => list.as_slice().into(),
        Values::Fp64(list) => list.as_slice().into(),
        Values::Int8(list) => list.as_slice().into(),
        Values::Int16(list) => list.as_slice().into(),
        Values::Int32(list) => list.as_slice().into(),
        Values::Int64(list) => list.as_slice().into(),
        Values::Uint8(list) => list.as_slice().into(),
        Values::Uint16(list) => list.as_slice().into(),
        Values::Uint32(list) => list.as_slice().into(),
        Values::Uint64(list) => list.as_slice().into(),
        Values::Bool(list) => list.as_slice().into(),
    }
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
    let query = request.uri.query().unwrap_or_default();
    let (form, top, asked) = (Form::of(&request.headers)?, top(query)?, Asked::of(query)?);
    let (bytes, room) = body::read(api, incoming).await?;
    let ticket = api.host.admit(&name)?;
    form.check(&ticket, &name, &bytes)?;
    let turn = ticket.turn().await;
    // The work goes on when the client hangs up meanwhile, so the room is taken until it is done.
    let work = move || {
        let answer = form.predict(turn, asked.stream(), &bytes);
        drop((bytes, room));
        answer
    };
    let answer = tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Internal, e.to_string()))??;
    document(&name, &answer, top)
}

fn document(model: &ModelName, answer: &Answer, top: usize) -> Result<Answered, Problem> {
    let document = Document {
        model,
        release: answer.release,
        slot: answer.slot,
        said: Said::of(answer, top),
        latency_us: answer.latency_us,
    };
    serde_json::to_string(&document)
        .map(json)
        .map_err(|e| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Internal, e.to_string()))
}

/// How many of the best labels are asked for.
fn top(query: &str) -> Result<usize, Problem> {
    let Some(text) = parameter(query, "top") else { return Ok(TOP) };
    let count = text.parse().ok().filter(|count| (1..=limits::LABELS).contains(count));
    count.ok_or_else(|| {
        let detail = format!("top is {text:?}; a number from 1 to {} is possible", limits::LABELS);
        Problem::new(StatusCode::BAD_REQUEST, ErrorCode::InvalidInput, detail)
    })
}

fn parameter<'a>(query: &'a str, wanted: &str) -> Option<&'a str> {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|(name, _)| *name == wanted).map(|(_, text)| text)
}

/// Which stream of a stateful model an input belongs to: `?stream=NAME&start=true&end=true`.
struct Asked {
    name: String,
    start: bool,
    end: bool,
}

impl Asked {
    fn of(query: &str) -> Result<Self, Problem> {
        let bad = |detail: String| Problem::new(StatusCode::BAD_REQUEST, ErrorCode::InvalidInput, detail);
        let flag = |name: &str| match parameter(query, name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => Err(bad(format!("{name} is {other:?}; true or false is possible"))),
        };
        let name = parameter(query, "stream").unwrap_or_default();
        let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        if name.len() > limits::ID || !plain {
            return Err(bad(format!(
                "stream is no name: at most {} letters, digits, dots, dashes and underscores are possible",
                limits::ID
            )));
        }
        Ok(Self { name: name.to_owned(), start: flag("start")?, end: flag("end")? })
    }

    fn stream(&self) -> Stream<'_> {
        Stream { name: &self.name, start: self.start, end: self.end }
    }
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
            // Recordings have many names each.
            kind if kind.starts_with("audio/") => Ok(Form::Encoded),
            "text/csv" => Ok(Form::Encoded),
            "application/octet-stream" => Ok(Form::Raw),
            "application/json" => Ok(Form::Json),
            // What common clients send where nobody thought of it.
            "" | "image/*" | "application/x-www-form-urlencoded" => Ok(Form::Unsaid),
            _ => Err(unsupported(format!(
                "Content-Type {kind:?} is not supported; send a picture as {}, a recording as audio/wav, a row as text/csv, the model's raw input as application/octet-stream, or application/json",
                flotilla_runtime::PICTURES.join(" or ")
            ))),
        }
    }

    /// Refuses what can be told at once to be nothing that the model takes.
    fn check(self, ticket: &Ticket, model: &ModelName, bytes: &[u8]) -> Result<(), Problem> {
        let input = match self {
            Form::Raw => Input::Raw(bytes),
            Form::Unsaid => Input::Unsaid(bytes),
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

    fn predict(self, turn: Turn, stream: Stream<'_>, bytes: &[u8]) -> Result<Answer, Problem> {
        let input = match self {
            Form::Encoded => Input::Encoded(bytes),
            Form::Raw => Input::Raw(bytes),
            Form::Unsaid => Input::Unsaid(bytes),
            Form::Json => {
                return match thing::read(bytes, &turn.interface().takes)? {
                    Thing::File(file) => Ok(turn.predict_in(stream, Input::Encoded(&file))?),
                    Thing::Pixels(pixels) => Ok(turn.predict_in(stream, Input::Raw(&pixels))?),
                    Thing::Document => Ok(turn.predict_in(stream, Input::Encoded(bytes))?),
                };
            }
        };
        Ok(turn.predict_in(stream, input)?)
    }
}

//! The answer to an inference request.

use super::super::answer::{Answered, json, respond_bytes};
use super::super::problem::Problem;
use super::request::{JSON_LENGTH, OutputParameters, Request, RequestedOutput};
use super::tensor::{FP32, texts_to_binary, to_binary};
use crate::host::{Inferred, Interface};
use flotilla_protocol::{ErrorCode, ModelName};
use flotilla_runtime::Prediction;
use http::{HeaderValue, StatusCode};
use serde_json::{Map, Value, json as document};

enum Content {
    Numbers(Vec<f32>),
    Texts(Vec<String>),
}

/// Makes the answer of `rows` rows.
pub(super) fn answer(
    model: &ModelName,
    interface: &Interface,
    request: &Request,
    asked: &[OutputParameters],
    inferred: &Inferred,
    rows: usize,
) -> Answered {
    let (mut outputs, mut binary) = (Vec::new(), Vec::new());
    for parameters in asked {
        let (shape, content) = content(interface, inferred, rows, *parameters);
        let datatype = if matches!(content, Content::Numbers(_)) { FP32 } else { "BYTES" };
        let mut output = Map::new();
        output.insert("name".to_owned(), interface.output.0.clone().into());
        output.insert("datatype".to_owned(), datatype.into());
        output.insert("shape".to_owned(), shape.into());
        if parameters.binary(request) {
            let bytes = match &content {
                Content::Numbers(numbers) => to_binary(numbers),
                Content::Texts(texts) => texts_to_binary(texts),
            };
            output.insert("parameters".to_owned(), document!({ "binary_data_size": bytes.len() }));
            binary.extend(bytes);
        } else {
            let data: Value = match content {
                Content::Numbers(numbers) => numbers.into(),
                Content::Texts(texts) => texts.into(),
            };
            output.insert("data".to_owned(), data);
        }
        outputs.push(Value::Object(output));
    }
    let mut response = Map::new();
    response.insert("model_name".to_owned(), model.as_str().into());
    response.insert("model_version".to_owned(), inferred.release.short().to_string().into());
    if let Some(id) = &request.id {
        response.insert("id".to_owned(), id.as_str().into());
    }
    response.insert("outputs".to_owned(), outputs.into());
    let text = Value::Object(response).to_string();
    if binary.is_empty() {
        return json(text);
    }
    let length = HeaderValue::from(text.len());
    let mut bytes = text.into_bytes();
    bytes.extend(binary);
    let mut response = respond_bytes(StatusCode::OK, "application/octet-stream", bytes);
    response.headers_mut().insert(JSON_LENGTH, length);
    response
}

/// The outputs that are asked for; without any, all there are.
pub(super) fn asked(interface: &Interface, request: &Request) -> Result<Vec<OutputParameters>, Problem> {
    if request.outputs.is_empty() {
        return Ok(vec![OutputParameters::default()]);
    }
    let one = |output: &RequestedOutput| {
        if output.name == interface.output.0 {
            return Ok(output.parameters);
        }
        let detail = format!("the model's output is {}, not {:?}", interface.output.0, output.name);
        Err(Problem::new(StatusCode::BAD_REQUEST, ErrorCode::InvalidInput, detail))
    };
    // Each once: the answer would only repeat it.
    if request.outputs.len() > 1 {
        let detail = format!("the model has one output; the request asks for {}", request.outputs.len());
        return Err(Problem::new(StatusCode::BAD_REQUEST, ErrorCode::InvalidInput, detail));
    }
    request.outputs.iter().map(one).collect()
}

fn content(
    interface: &Interface,
    inferred: &Inferred,
    rows: usize,
    parameters: OutputParameters,
) -> (Vec<usize>, Content) {
    if parameters.classification == 0 {
        let mut shape = interface.output.1.clone();
        if let Some(batch) = shape.first_mut() {
            *batch = rows;
        }
        return (shape, Content::Numbers(inferred.outputs.clone()));
    }
    let classes = inferred.predictions.first().map_or(0, |prediction| prediction.scores.len());
    let count = usize::try_from(parameters.classification).unwrap_or(usize::MAX).min(classes);
    let texts = inferred
        .predictions
        .iter()
        .flat_map(|prediction| best(prediction, &inferred.labels, count))
        .collect();
    (vec![rows, count], Content::Texts(texts))
}

/// `score:index:label`, best first, the first of equals before the others.
fn best(prediction: &Prediction, labels: &[String], count: usize) -> Vec<String> {
    let mut order: Vec<usize> = (0..prediction.scores.len()).collect();
    order.sort_by(|a, b| prediction.scores[*b].total_cmp(&prediction.scores[*a]));
    let text = |index: &usize| {
        let label = labels.get(*index).map_or("", String::as_str);
        format!("{}:{index}:{label}", prediction.scores[*index])
    };
    order.iter().take(count).map(text).collect()
}

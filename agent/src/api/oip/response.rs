//! The answer to an inference request.

use super::super::answer::{Answered, json, respond_bytes};
use super::super::predict::numbers;
use super::super::problem::Problem;
use super::request::{JSON_LENGTH, OutputParameters, Request, RequestedOutput};
use super::tensor::texts_to_binary;
use crate::host::{Inferred, Interface};
use flotilla_protocol::{ErrorCode, ModelName};
use flotilla_runtime::{Port, Prediction, Values};
use http::{HeaderValue, StatusCode};
use serde_json::{Map, Value, json as document};

enum Content {
    Values(Values),
    Texts(Vec<String>),
}

/// An output that is given.
pub(super) struct Asked {
    /// Its place among the network's outputs.
    place: usize,
    parameters: OutputParameters,
}

/// Makes the answer of `rows` rows.
pub(super) fn answer(
    model: &ModelName,
    interface: &Interface,
    request: &Request,
    asked: &[Asked],
    inferred: &Inferred,
    rows: usize,
) -> Answered {
    let (mut outputs, mut binary) = (Vec::new(), Vec::new());
    for Asked { place, parameters } in asked {
        let port = &interface.outputs[*place];
        let (shape, content) = content(port, *place, inferred, rows, *parameters);
        let datatype = if matches!(content, Content::Values(_)) { port.kind.as_str() } else { "BYTES" };
        let mut output = Map::new();
        output.insert("name".to_owned(), port.name.clone().into());
        output.insert("datatype".to_owned(), datatype.into());
        output.insert("shape".to_owned(), shape.into());
        if parameters.binary(request) {
            let bytes = match &content {
                Content::Values(values) => values.to_bytes(),
                Content::Texts(texts) => texts_to_binary(texts),
            };
            output.insert("parameters".to_owned(), document!({ "binary_data_size": bytes.len() }));
            binary.extend(bytes);
        } else {
            let data: Value = match content {
                Content::Values(values) => numbers(&values),
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
pub(super) fn asked(interface: &Interface, request: &Request) -> Result<Vec<Asked>, Problem> {
    let ports = &interface.outputs;
    if request.outputs.is_empty() {
        let all = (0..ports.len()).map(|place| Asked { place, parameters: OutputParameters::default() });
        return Ok(all.collect());
    }
    let bad = |detail: String| Problem::new(StatusCode::BAD_REQUEST, ErrorCode::InvalidInput, detail);
    // Each once: the answer would only repeat it.
    if request.outputs.len() > ports.len() {
        let has = if ports.len() == 1 { "one output".to_owned() } else { format!("{} outputs", ports.len()) };
        return Err(bad(format!("the model has {has}; the request asks for {}", request.outputs.len())));
    }
    let one = |output: &RequestedOutput| match ports.iter().position(|port| port.name == output.name) {
        Some(place) => Ok(Asked { place, parameters: output.parameters }),
        None => {
            let names: Vec<&str> = ports.iter().map(|port| port.name.as_str()).collect();
            Err(bad(format!("the model's output is {}, not {:?}", names.join(", "), output.name)))
        }
    };
    request.outputs.iter().map(one).collect()
}

fn content(
    port: &Port,
    place: usize,
    inferred: &Inferred,
    rows: usize,
    parameters: OutputParameters,
) -> (Vec<usize>, Content) {
    if parameters.classification == 0 {
        let mut shape = port.shape.clone();
        if let Some(batch) = shape.first_mut().filter(|_| rows > 1) {
            *batch *= rows;
        }
        let values = Values::joined(port.kind, inferred.outputs.iter().filter_map(|row| row.get(place)));
        return (shape, Content::Values(values));
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

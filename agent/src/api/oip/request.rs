//! An inference request: JSON alone, or JSON with the tensors' bytes behind it.

use super::super::problem::Problem;
use super::BATCH;
use crate::host::Interface;
use flotilla_protocol::{ErrorCode, limits};
use flotilla_runtime::{Numbers, Port, Stream, Values};
use http::{HeaderMap, StatusCode, header};
use serde::Deserialize;

/// Says how many bytes of the body are JSON.
pub(super) const JSON_LENGTH: &str = "inference-header-content-length";

/// The document of a request.
#[derive(Debug, Deserialize)]
pub(super) struct Request {
    #[serde(default)]
    pub(super) id: Option<String>,
    #[serde(default)]
    parameters: RequestParameters,
    inputs: Vec<InputTensor>,
    #[serde(default)]
    pub(super) outputs: Vec<RequestedOutput>,
}

#[derive(Debug, Default, Deserialize)]
struct RequestParameters {
    #[serde(default)]
    binary_data_output: bool,
    #[serde(default)]
    sequence_id: Option<SequenceId>,
    #[serde(default)]
    sequence_start: bool,
    #[serde(default)]
    sequence_end: bool,
}

#[derive(Debug, Deserialize)]
struct InputTensor {
    name: String,
    shape: Vec<u64>,
    datatype: String,
    #[serde(default)]
    parameters: InputParameters,
    #[serde(default)]
    data: Option<Numbers>,
}

#[derive(Debug, Default, Deserialize)]
struct InputParameters {
    #[serde(default)]
    binary_data_size: Option<u64>,
}

/// An output that is asked for.
#[derive(Debug, Deserialize)]
pub(super) struct RequestedOutput {
    pub(super) name: String,
    #[serde(default)]
    pub(super) parameters: OutputParameters,
}

/// How an output is to be given.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(super) struct OutputParameters {
    #[serde(default)]
    binary_data: Option<bool>,
    /// The best so many classes in place of the tensor; 0 for the tensor.
    #[serde(default)]
    pub(super) classification: u32,
}

impl OutputParameters {
    /// Whether it is to be binary.
    pub(super) fn binary(self, request: &Request) -> bool {
        self.binary_data.unwrap_or(request.parameters.binary_data_output)
    }
}

fn bad(detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, ErrorCode::InvalidInput, detail)
}

impl Request {
    /// Reads a body; what is behind the JSON comes second.
    pub(super) fn read<'a>(headers: &HeaderMap, body: &'a [u8]) -> Result<(Self, &'a [u8]), Problem> {
        if let Some(coding) = headers.get(header::CONTENT_ENCODING).filter(|coding| *coding != "identity") {
            let detail = format!("Content-Encoding {coding:?} is not supported; send the body as it is");
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, ErrorCode::Unsupported, detail));
        }
        let json_bytes = match headers.get(JSON_LENGTH) {
            None => body.len(),
            Some(length) => {
                let length = length.to_str().ok().and_then(|text| text.parse::<usize>().ok());
                length.filter(|length| *length <= body.len()).ok_or_else(|| {
                    bad(format!(
                        "{JSON_LENGTH} must be a number of bytes of the body, which has {}",
                        body.len()
                    ))
                })?
            }
        };
        let (json, binary) = body.split_at(json_bytes);
        let request =
            serde_json::from_slice(json).map_err(|e| bad(format!("the request is not readable: {e}")))?;
        Ok((request, binary))
    }

    /// The rows of a batch, a tensor an input of the network each, checked against what it takes.
    pub(super) fn rows(&mut self, interface: &Interface, binary: &[u8]) -> Result<Vec<Vec<Values>>, Problem> {
        let ports = &interface.inputs;
        if self.inputs.len() != ports.len() {
            let names: Vec<&str> = ports.iter().map(|port| port.name.as_str()).collect();
            return Err(bad(format!(
                "the model has {} input{}, {}; the request has {}",
                if ports.len() == 1 { "one".to_owned() } else { ports.len().to_string() },
                if ports.len() == 1 { "" } else { "s" },
                names.join(", "),
                self.inputs.len()
            )));
        }
        // A network without a batch takes one row.
        let batches = ports.iter().all(|port| port.shape.first() == Some(&1));
        let mut left = binary;
        let mut columns: Vec<Option<(usize, Values)>> = ports.iter().map(|_| None).collect();
        for input in &mut self.inputs {
            let Some(place) = ports.iter().position(|port| port.name == input.name) else {
                let names: Vec<&str> = ports.iter().map(|port| port.name.as_str()).collect();
                return Err(bad(format!("the model's input is {}, not {:?}", names.join(", "), input.name)));
            };
            let column = input.read(&ports[place], batches, &mut left)?;
            if columns[place].replace(column).is_some() {
                return Err(bad(format!("input {} is given twice", input.name)));
            }
        }
        if !left.is_empty() {
            return Err(bad(match left.len() == binary.len() {
                true => "bytes follow the JSON, but no input says binary_data_size".to_owned(),
                false => format!("{} bytes follow the JSON that belong to no input", left.len()),
            }));
        }
        let columns: Vec<(usize, Values)> = columns.into_iter().flatten().collect();
        let rows = columns.first().map_or(0, |(rows, _)| *rows);
        if columns.iter().any(|(other, _)| *other != rows) {
            return Err(bad("the inputs have different numbers of rows"));
        }
        let row = |row: usize| {
            let cut = |((_, values), port): (&(usize, Values), &Port)| {
                values.part(row * port.values(), port.values())
            };
            columns.iter().zip(ports).map(cut).collect()
        };
        Ok((0..rows).map(row).collect())
    }

    /// The stream of a stateful model that it belongs to, as Triton's sequence extension has it.
    pub(super) fn stream(&self) -> Stream<'_> {
        let RequestParameters { sequence_id, sequence_start, sequence_end, .. } = &self.parameters;
        let name = sequence_id.as_ref().map_or("", |id| id.0.as_str());
        Stream { name, start: *sequence_start, end: *sequence_end }
    }
}

impl InputTensor {
    /// Its number of rows and its values; what is binary is taken off the front of `left`.
    fn read(&mut self, port: &Port, batches: bool, left: &mut &[u8]) -> Result<(usize, Values), Problem> {
        let (name, kind) = (&port.name, port.kind);
        if self.datatype != kind.as_str() {
            return Err(bad(format!("input {name} is {kind}, not {:?}", self.datatype)));
        }
        let wanted: Vec<u64> = port.shape.iter().map(|n| *n as u64).collect();
        let rows = match (self.shape.split_first(), wanted.split_first()) {
            (Some((rows, row)), Some((_, wanted))) if batches && row == wanted => {
                usize::try_from(*rows).unwrap_or(usize::MAX)
            }
            _ if !batches && self.shape == wanted => 1,
            _ if batches => {
                let row = list(&wanted);
                return Err(bad(format!("input {name} has shape [-1, {row}], not {:?}", self.shape)));
            }
            _ => return Err(bad(format!("input {name} has shape {wanted:?}, not {:?}", self.shape))),
        };
        if !(1..=BATCH).contains(&rows) {
            return Err(bad(format!("a batch has 1 to {BATCH} rows, not {rows}")));
        }
        let values = match (self.data.take(), self.parameters.binary_data_size) {
            (Some(numbers), None) if !numbers.list => {
                return Err(bad(format!("data of input {name} must be a list")));
            }
            (Some(numbers), None) => Values::from_f64(kind, &numbers.values)
                .ok_or_else(|| bad(format!("a value of input {name} does not fit into {kind}")))?,
            (None, Some(bytes)) => {
                let own = usize::try_from(bytes).ok().and_then(|bytes| left.split_at_checked(bytes));
                let Some((own, rest)) = own else {
                    return Err(bad(format!(
                        "binary_data_size is {bytes}, but {} bytes follow the JSON",
                        left.len()
                    )));
                };
                *left = rest;
                if !own.len().is_multiple_of(kind.bytes()) {
                    return Err(bad(format!("{bytes} bytes are no whole number of {kind} values")));
                }
                Values::from_bytes(kind, own)
            }
            (Some(_), Some(_)) => {
                return Err(bad(format!("input {name} has both data and binary_data_size")));
            }
            (None, None) => return Err(bad(format!("input {name} has neither data nor binary_data_size"))),
        };
        let need = port.values().saturating_mul(rows);
        if values.len() != need {
            return Err(bad(format!(
                "input {name} has {} values; its shape {:?} needs {need}",
                values.len(),
                self.shape
            )));
        }
        if let Some(at) = values.not_finite() {
            return Err(bad(format!("value {at} of input {name} is not a finite number")));
        }
        Ok((rows, values))
    }
}

/// The name of a stream: a text or a number; 0 and nothing are none.
#[derive(Debug, Default)]
struct SequenceId(String);

impl<'de> Deserialize<'de> for SequenceId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Number(u64),
            Text(String),
        }
        match Either::deserialize(deserializer)? {
            Either::Number(0) => Ok(Self::default()),
            Either::Number(number) => Ok(Self(number.to_string())),
            Either::Text(text) if text.len() <= limits::ID => Ok(Self(text)),
            Either::Text(_) => {
                Err(serde::de::Error::custom(format!("sequence_id is longer than {} bytes", limits::ID)))
            }
        }
    }
}

fn list(shape: &[u64]) -> String {
    let row: Vec<String> = shape.iter().skip(1).map(ToString::to_string).collect();
    row.join(", ")
}

//! An inference request: JSON alone, or JSON with the tensors' bytes behind it.

use super::super::problem::Problem;
use super::BATCH;
use super::tensor::{FP32, Numbers, from_binary};
use crate::host::Interface;
use flotilla_protocol::ErrorCode;
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

    /// The input's values, checked against what the network takes, and the number of rows.
    pub(super) fn tensor(
        &mut self,
        interface: &Interface,
        binary: &[u8],
    ) -> Result<(Vec<f32>, usize), Problem> {
        let (name, shape) = &interface.input;
        let [input] = &mut self.inputs[..] else {
            return Err(bad(format!(
                "the model has one input, {name}; the request has {}",
                self.inputs.len()
            )));
        };
        if input.name != *name {
            return Err(bad(format!("the model's input is {name}, not {:?}", input.name)));
        }
        if input.datatype != FP32 {
            return Err(bad(format!("input {name} is {FP32}, not {:?}", input.datatype)));
        }
        let wanted: Vec<u64> = shape.iter().map(|n| *n as u64).collect();
        let rows = match (input.shape.split_first(), wanted.split_first()) {
            (Some((rows, row)), Some((_, wanted))) if row == wanted => {
                usize::try_from(*rows).unwrap_or(usize::MAX)
            }
            _ => {
                return Err(bad(format!(
                    "input {name} has shape [-1, {}], not {:?}",
                    list(&wanted),
                    input.shape
                )));
            }
        };
        if !(1..=BATCH).contains(&rows) {
            return Err(bad(format!("a batch has 1 to {BATCH} rows, not {rows}")));
        }
        let values = match (input.data.take(), input.parameters.binary_data_size) {
            (Some(Numbers(values)), None) if binary.is_empty() => values,
            (None, Some(bytes)) if bytes == binary.len() as u64 => {
                if !binary.len().is_multiple_of(4) {
                    return Err(bad(format!("{} bytes are no whole number of {FP32} values", binary.len())));
                }
                from_binary(binary)
            }
            (None, Some(bytes)) => {
                let detail =
                    format!("binary_data_size is {bytes}, but {} bytes follow the JSON", binary.len());
                return Err(bad(detail));
            }
            (Some(_), Some(_)) => {
                return Err(bad(format!("input {name} has both data and binary_data_size")));
            }
            (Some(_), None) => return Err(bad("bytes follow the JSON, but no input says binary_data_size")),
            (None, None) => return Err(bad(format!("input {name} has neither data nor binary_data_size"))),
        };
        let need = shape.iter().product::<usize>().saturating_mul(rows);
        if values.len() != need {
            let detail =
                format!("input {name} has {} values; its shape {:?} needs {need}", values.len(), input.shape);
            return Err(bad(detail));
        }
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            return Err(bad(format!("value {at} of input {name} is not a finite number")));
        }
        Ok((values, rows))
    }
}

fn list(shape: &[u64]) -> String {
    let row: Vec<String> = shape.iter().skip(1).map(ToString::to_string).collect();
    row.join(", ")
}

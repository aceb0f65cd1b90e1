//! The Open Inference Protocol, version 2, over HTTP (KServe `open-inference-protocol`, `specification/protocol/
//! inference_rest.md`), with Triton's binary tensor extension (`extension_binary_data.md`) and its classification
//! extension (`extension_classification.md`).
//!
//! Inputs and outputs go by the names that they have in the graph. The first dimension is the batch, where all inputs have
//! one. `sequence_id`, `sequence_start` and `sequence_end` name the stream of a stateful model (`extension_sequence.md`).
//! What goes in is the tensor after pre-processing; who has pictures uses `/predict/{model}`. A version is the
//! first twelve digits of a release's digest, or all of them.

mod infer;
mod request;
mod response;
mod tensor;

use super::answer::{Answered, Api, json, respond};
use super::problem::Problem;
use flotilla_protocol::{ErrorCode, ModelName};
use flotilla_runtime::Port;
use http::request::Parts;
use http::{Method, StatusCode};
use hyper::body::Incoming;
use serde_json::json as document;

/// Rows of one request at most.
pub(super) const BATCH: usize = 256;

const PATHS: &str = "there is GET /v2, /v2/health/live, /v2/health/ready, /v2/models/{model}[/versions/{version}], …/ready, \
    and POST …/infer";

/// Answers a request below `/v2`. Errors are documents of this protocol.
pub(super) async fn answer(api: &Api, parts: &Parts, body: Incoming) -> Answered {
    route(api, parts, body).await.unwrap_or_else(Problem::into_oip_response)
}

async fn route(api: &Api, parts: &Parts, body: Incoming) -> Result<Answered, Problem> {
    let path = parts.uri.path().trim_end_matches('/');
    let segments: Vec<&str> = path.split('/').skip(2).collect();
    let read = matches!(parts.method, Method::GET | Method::HEAD);
    let reads = || if read { Ok(()) } else { Err(Problem::method("GET, HEAD")) };
    let (model, rest) = match segments[..] {
        [] => return reads().map(|()| server()),
        ["health", "live"] => return reads().map(|()| empty()),
        ["health", "ready"] => {
            reads()?;
            return if api.host.all_served().is_empty() { Err(no_model()) } else { Ok(empty()) };
        }
        ["models", model, "versions", version, ref rest @ ..] => (named(api, model, Some(version))?, rest),
        ["models", model, ref rest @ ..] => (named(api, model, None)?, rest),
        _ => return Err(Problem::new(StatusCode::NOT_FOUND, ErrorCode::NotFound, PATHS)),
    };
    match rest {
        [] => reads().and_then(|()| metadata(api, &model)),
        ["ready"] => reads().map(|()| empty()),
        ["infer"] if parts.method == Method::POST => infer::answer(api, &model, &parts.headers, body).await,
        ["infer"] => Err(Problem::method("POST")),
        _ => Err(Problem::new(StatusCode::NOT_FOUND, ErrorCode::NotFound, PATHS)),
    }
}

fn server() -> Answered {
    let extensions = ["binary_tensor_data", "classification", "sequence"];
    let document = document!({
        "name": "flotilla-agent",
        "version": env!("CARGO_PKG_VERSION"),
        "extensions": extensions,
    });
    json(document.to_string())
}

fn empty() -> Answered {
    respond(StatusCode::OK, "application/json", String::new())
}

fn no_model() -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::WrongState, "no model serves on this device yet")
}

/// The model of this name, if it serves, in this version if one is asked for.
fn named(api: &Api, model: &str, version: Option<&str>) -> Result<ModelName, Problem> {
    let missing = |detail: String| Problem::new(StatusCode::NOT_FOUND, ErrorCode::NotFound, detail);
    let name: ModelName = model.parse().map_err(|e| missing(format!("{e}")))?;
    let Some(served) = api.host.served(&name) else {
        return Err(missing(format!("no model {name} serves on this device")));
    };
    let (short, whole) = (served.release.short().to_string(), served.release.to_string());
    match version.filter(|version| ![short.as_str(), whole.as_str()].contains(version)) {
        Some(version) => {
            Err(missing(format!("model {name} serves in version {short} on this device, not {version}")))
        }
        None => Ok(name),
    }
}

fn metadata(api: &Api, model: &ModelName) -> Result<Answered, Problem> {
    let interface = api.host.interface(model).ok_or_else(no_model)?;
    let batches = interface.inputs.iter().all(|port| port.shape.first() == Some(&1));
    let port = |port: &Port| {
        let mut dimensions: Vec<i64> =
            port.shape.iter().map(|n| i64::try_from(*n).unwrap_or(i64::MAX)).collect();
        if let Some(batch) = dimensions.first_mut().filter(|_| batches) {
            *batch = -1;
        }
        document!({ "name": port.name, "datatype": port.kind.as_str(), "shape": dimensions })
    };
    let document = document!({
        "name": model,
        "versions": [interface.release.short().to_string()],
        "platform": "tract_onnx",
        "inputs": interface.inputs.iter().map(port).collect::<Vec<_>>(),
        "outputs": interface.outputs.iter().map(port).collect::<Vec<_>>(),
    });
    Ok(json(document.to_string()))
}

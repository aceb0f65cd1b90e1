//! The Open Inference Protocol, by hand and with Triton's own client.

use crate::endpoint::{Endpoint, Reply, start};
use crate::support::{model, name, release};
use flotilla_agent::host::QUEUE;
use flotilla_protocol::message::SlotName;
use serde_json::{Value, json};
use std::path::Path;
use tokio::process::Command;

const INFER: &str = "/v2/models/letters/infer";
const JSON: &str = "content-type: application/json\r\n";

/// A batch of so many rows.
fn request(rows: usize) -> Value {
    let data = vec![0.5; 4 * rows];
    json!({ "id": "7", "inputs": [{ "name": "x", "shape": [rows, 1, 2, 2], "datatype": "FP32", "data": data }] })
}

async fn infer(endpoint: &Endpoint, request: &Value) -> Reply {
    endpoint.post(INFER, JSON, request.to_string().as_bytes()).await
}

/// The JSON and what follows it as FP32.
fn split(reply: &Reply) -> (Value, Vec<f32>) {
    let line = reply.head.lines().find_map(|line| line.strip_prefix("inference-header-content-length: "));
    let (json, binary) = reply.body.split_at(line.expect("the header").trim().parse().unwrap());
    let values = binary.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect();
    (serde_json::from_slice(json).unwrap(), values)
}

#[tokio::test]
async fn server_and_model_describe_themselves() {
    let endpoint = start().await;
    let server = endpoint.get("/v2").await.json();
    assert_eq!(server["name"], "flotilla-agent");
    assert_eq!(server["extensions"], json!(["binary_tensor_data", "classification", "sequence"]));
    for path in ["/v2/health/live", "/v2/health/ready", "/v2/models/letters/ready", "/v2/"] {
        assert_eq!(endpoint.get(path).await.status, 200, "{path}");
    }
    let version = release("r0").short().to_string();
    for path in ["/v2/models/letters".to_owned(), format!("/v2/models/letters/versions/{version}")] {
        let model = endpoint.get(&path).await;
        assert_eq!(
            (model.status, model.json()),
            (
                200,
                json!({
                    "name": "letters",
                    "versions": [version],
                    "platform": "tract_onnx",
                    "inputs": [{ "name": "x", "datatype": "FP32", "shape": [-1, 1, 2, 2] }],
                    "outputs": [{ "name": "y", "datatype": "FP32", "shape": [-1, 3] }],
                })
            )
        );
    }
    endpoint.host.remove(&name("letters"));
    assert_eq!(endpoint.get("/v2/health/ready").await.status, 503);
    assert_eq!(endpoint.get("/v2/health/live").await.status, 200);
    assert_eq!(endpoint.get("/v2/models/letters/ready").await.status, 404);
}

#[tokio::test]
async fn tensors_go_in_and_come_out_as_json_and_as_bytes() {
    let endpoint = start().await;
    let reply = infer(&endpoint, &request(2)).await;
    assert_eq!(reply.status, 200, "{}", String::from_utf8_lossy(&reply.body));
    let document = reply.json();
    assert_eq!((&document["model_name"], &document["id"]), (&json!("letters"), &json!("7")));
    assert_eq!(document["model_version"], release("r0").short().to_string());
    let output = &document["outputs"][0];
    assert_eq!(
        (&output["name"], &output["datatype"], &output["shape"]),
        (&json!("y"), &json!("FP32"), &json!([2, 3]))
    );
    let by_json: Vec<f32> =
        output["data"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect();
    assert_eq!(by_json.len(), 6);
    assert!(by_json[0] > 9.0, "the network's own output, not a probability: {by_json:?}");

    // Nested data, binary in, binary out: the same values.
    let mut nested = request(2);
    nested["inputs"][0]["data"] = json!([[[[0.5, 0.5], [0.5, 0.5]]], [[[0.5, 0.5], [0.5, 0.5]]]]);
    nested["outputs"] = json!([{ "name": "y", "parameters": { "binary_data": true } }]);
    assert_eq!(split(&infer(&endpoint, &nested).await).1, by_json);
    let head = json!({
        "inputs": [{
            "name": "x", "shape": [2, 1, 2, 2], "datatype": "FP32", "parameters": { "binary_data_size": 32 },
        }],
        "parameters": { "binary_data_output": true },
    });
    let json = head.to_string();
    let values: Vec<u8> = [0.5f32; 8].iter().flat_map(|v| v.to_le_bytes()).collect();
    let headers = format!("inference-header-content-length: {}\r\n", json.len());
    let reply = endpoint.post(INFER, &headers, &[json.as_bytes(), &values].concat()).await;
    let (document, by_bytes) = split(&reply);
    assert_eq!(by_bytes, by_json);
    assert_eq!(document["outputs"][0]["parameters"]["binary_data_size"], 24);
}

#[tokio::test]
async fn the_best_classes_come_with_score_index_and_label() {
    let endpoint = start().await;
    let mut request = request(1);
    request["outputs"] = json!([{ "name": "y", "parameters": { "classification": 2 } }]);
    let output = infer(&endpoint, &request).await.json()["outputs"][0].clone();
    assert_eq!((&output["datatype"], &output["shape"]), (&json!("BYTES"), &json!([1, 2])));
    let best = output["data"][0].as_str().unwrap();
    assert!(best.starts_with("0.999") && best.ends_with(":0:a"), "{best}");
}

#[tokio::test]
async fn every_wrong_request_says_what_is_wrong_and_counts_for_nothing() {
    let endpoint = start().await;
    let with = |change: &dyn Fn(&mut Value)| {
        let mut request = request(1);
        change(&mut request);
        request
    };
    let cases: [(Value, &str); 13] = [
        (with(&|r| r["inputs"][0]["name"] = json!("z")), "input is x, not \"z\""),
        (with(&|r| r["inputs"][0]["datatype"] = json!("UINT8")), "FP32, not \"UINT8\""),
        (with(&|r| r["inputs"][0]["shape"] = json!([1, 4])), "shape [-1, 1, 2, 2]"),
        (with(&|r| r["inputs"][0]["shape"] = json!([0, 1, 2, 2])), "1 to 256 rows"),
        (
            with(&|r| r["inputs"][0]["shape"] = json!([9_000_000_000_000_000_000u64, 1, 2, 2])),
            "1 to 256 rows",
        ),
        (with(&|r| r["inputs"][0]["shape"] = json!([2, 1, 2, 2])), "has 4 values"),
        (with(&|r| r["inputs"][0]["shape"] = json!([-1, 1, 2, 2])), "not readable"),
        (with(&|r| r["inputs"][0]["data"] = json!(["a"])), "a number, or a list"),
        (with(&|r| r["inputs"][0]["data"] = json!(null)), "neither data"),
        (with(&|r| r["inputs"] = json!([])), "has one input"),
        (with(&|r| r["outputs"] = json!([{ "name": "z" }])), "output is y"),
        (with(&|r| r["inputs"][0]["parameters"] = json!({ "binary_data_size": 16 })), "both data and"),
        (json!({ "inputs": 3 }), "not readable"),
    ];
    for (request, word) in cases {
        let reply = infer(&endpoint, &request).await;
        let document = reply.json();
        let error = document["error"].as_str().unwrap();
        assert!(reply.status == 400 && error.contains(word), "{request}: {} {error}", reply.status);
    }
    let json = request(1).to_string();
    for (headers, body, status, word) in [
        ("inference-header-content-length: 9999\r\n", json.as_str(), 400, "number of bytes of the body"),
        ("inference-header-content-length: x\r\n", &json, 400, "number of bytes of the body"),
        ("content-encoding: gzip\r\n", &json, 415, "Content-Encoding"),
        ("inference-header-content-length: 10\r\n", "{\"inputs\":[]}zzzz", 400, "not readable"),
    ] {
        let reply = endpoint.post(INFER, headers, body.as_bytes()).await;
        let error = reply.json()["error"].as_str().unwrap().to_owned();
        assert!(reply.status == status && error.contains(word), "{headers}: {} {error}", reply.status);
    }
    for (path, status) in [
        ("/v2/models/numbers", 404),
        ("/v2/models/numbers/infer", 405),
        ("/v2/models/../infer", 404),
        ("/v2/models/letters/versions/1", 404),
        ("/v2/else", 404),
        (INFER, 405),
    ] {
        let reply = endpoint.get(path).await;
        assert!(reply.json()["error"].is_string(), "{path}");
        let missing = path.contains("numbers");
        assert_eq!(reply.status, if missing { 404 } else { status }, "{path}");
    }
    let health = endpoint.host.health(&name("letters")).unwrap();
    assert_eq!((health.predictions, health.failures), (0, 0), "none of it says anything about the release");
}

#[tokio::test]
async fn a_full_queue_says_when_to_come_again() {
    let endpoint = start().await;
    let taken: Vec<_> = (0..QUEUE).map(|_| endpoint.host.admit(&name("letters")).unwrap()).collect();
    let reply = infer(&endpoint, &request(1)).await;
    assert_eq!(reply.status, 429);
    assert!(reply.head.contains("retry-after: 1"), "{}", reply.head);
    drop(taken);
    assert_eq!(infer(&endpoint, &request(1)).await.status, 200);
}

#[tokio::test]
async fn an_answer_is_of_one_release_whatever_is_swapped_meanwhile() {
    let endpoint = start().await;
    endpoint.host.install(name("letters"), release("r1"), SlotName::B, model(1)).unwrap();
    let document = infer(&endpoint, &request(3)).await.json();
    assert_eq!(document["model_version"], release("r1").short().to_string());
    assert_eq!(document["outputs"][0]["shape"], json!([3, 3]));
}

/// Triton's client, which others wrote. `tests/run` installs it.
#[tokio::test(flavor = "multi_thread")]
async fn tritons_own_client_finds_everything_it_looks_for() {
    let Some(python) = std::env::var_os("FLOTILLA_TRITON_PYTHON") else {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "CI must have tritonclient");
        eprintln!("skipped: FLOTILLA_TRITON_PYTHON names no Python with tritonclient[http]");
        return;
    };
    let endpoint = start().await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/serving/triton.py");
    let output = Command::new(python).arg(script).arg(endpoint.address.to_string()).output().await.unwrap();
    let (said, problem) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.trim_end().ends_with("all right"), "{said}\n{problem}");
}

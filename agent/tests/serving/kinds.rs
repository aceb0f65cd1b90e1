//! Models that are no classifiers of pictures, asked as applications do.

use crate::endpoint::{Endpoint, start};
use crate::support::{name, release};
use flotilla_onnx::{GraphBuilder, Node, Value};
use flotilla_protocol::message::SlotName;
use flotilla_protocol::pipeline::table::{Column, ColumnKind, Number};
use flotilla_protocol::pipeline::{
    Input, Output, Regression, StateTensor, TableInput, Target, TensorKind, TensorSpec, TensorsInput,
    TensorsOutput,
};
use flotilla_protocol::{ErrorCode, Pipeline};
use flotilla_runtime::Model;
use serde_json::json;

const JSON: &str = "content-type: application/json\r\n";

fn install(endpoint: &Endpoint, model: &str, pipeline: &Pipeline, graph: GraphBuilder) {
    let onnx = graph.build().unwrap().write();
    let loaded = Model::load(pipeline, &onnx).unwrap();
    endpoint.host.install(name(model), release("kinds"), SlotName::A, loaded).unwrap();
}

fn value(name: &str) -> Value {
    Value::f32(name, [1_usize, 2])
}

fn spec(name: &str) -> TensorSpec {
    TensorSpec { name: name.into(), kind: TensorKind::Fp32, shape: vec![1, 2] }
}

/// Adds two tensors, and what it has added before.
async fn counting() -> Endpoint {
    let endpoint = start().await;
    let graph = GraphBuilder::new("sum")
        .input(value("a"))
        .input(value("b"))
        .input(value("before"))
        .output(value("sum"))
        .output(value("after"))
        .node(Node::new("Add", ["a", "b"], ["step"]))
        .node(Node::new("Add", ["before", "step"], ["after"]))
        .node(Node::new("Identity", ["after"], ["sum"]));
    let input = Input::Tensors(TensorsInput { tensors: vec![spec("a"), spec("b")] });
    let pipeline = Pipeline {
        states: vec![StateTensor { input: spec("before"), output: "after".into() }],
        ..Pipeline::new(input, Output::Tensors(TensorsOutput {}))
    };
    install(&endpoint, "sums", &pipeline, graph);
    endpoint
}

#[tokio::test]
async fn tensors_are_posted_as_json_and_a_stream_goes_on_where_it_was() {
    let endpoint = counting().await;
    let ask = async |query: &str| {
        let body = json!({ "a": [[1, 2]], "b": [[10, 20]] }).to_string();
        endpoint.post(&format!("/predict/sums?{query}"), JSON, body.as_bytes()).await
    };
    let sum = async |query: &str| {
        let reply = ask(query).await;
        assert_eq!(reply.status, 200, "{}", String::from_utf8_lossy(&reply.body));
        reply.json()["outputs"].clone()
    };
    let output = |data| json!([{ "name": "sum", "datatype": "FP32", "shape": [1, 2], "data": data }]);
    assert_eq!(sum("stream=door").await, output([11.0, 22.0]));
    assert_eq!(sum("stream=yard").await, output([11.0, 22.0]));
    assert_eq!(sum("stream=door").await, output([22.0, 44.0]));
    assert_eq!(sum("stream=door&start=true").await, output([11.0, 22.0]));
    for wrong in ["stream=a%20b", "stream=door&start=maybe"] {
        let reply = ask(wrong).await;
        assert_eq!((reply.status, reply.problem()), (400, ErrorCode::InvalidInput), "{wrong}");
    }
}

#[tokio::test]
async fn the_open_inference_protocol_has_several_inputs_and_sequences() {
    let endpoint = counting().await;
    let model = endpoint.get("/v2/models/sums").await.json();
    let names: Vec<_> = model["inputs"].as_array().unwrap().iter().map(|port| port["name"].clone()).collect();
    assert_eq!(names, ["a", "b"], "states are nobody's business");
    assert_eq!(model["outputs"].as_array().unwrap().len(), 1);
    let tensor = |name: &str, data: [f32; 2]| json!({ "name": name, "shape": [1, 2], "datatype": "FP32", "data": data });
    let ask = async |inputs: serde_json::Value, sequence: u64| {
        let request = json!({ "parameters": { "sequence_id": sequence }, "inputs": inputs });
        endpoint.post("/v2/models/sums/infer", JSON, request.to_string().as_bytes()).await
    };
    let both = json!([tensor("b", [10.0, 20.0]), tensor("a", [1.0, 2.0])]);
    for (sequence, expected) in [(7, [11.0, 22.0]), (7, [22.0, 44.0]), (8, [11.0, 22.0])] {
        let reply = ask(both.clone(), sequence).await;
        assert_eq!(reply.status, 200, "{}", String::from_utf8_lossy(&reply.body));
        assert_eq!(reply.json()["outputs"][0]["data"], json!(expected), "sequence {sequence}");
    }
    for (inputs, word) in [
        (json!([tensor("a", [1.0, 2.0])]), "the model has 2 inputs, a, b; the request has 1"),
        (json!([tensor("a", [1.0, 2.0]), tensor("a", [1.0, 2.0])]), "given twice"),
        (json!([tensor("a", [1.0, 2.0]), tensor("c", [1.0, 2.0])]), "input is a, b, not"),
    ] {
        let reply = ask(inputs, 9).await;
        let text = String::from_utf8_lossy(&reply.body).into_owned();
        assert!(reply.status == 400 && text.contains(word), "{text}");
    }
}

#[tokio::test]
async fn a_row_of_a_table_gives_a_number_in_its_unit() {
    let endpoint = start().await;
    let column = |name: &str, mean, std| Column {
        name: name.into(),
        kind: ColumnKind::Number(Number { missing: None, clip: None, mean, std }),
    };
    let table = TableInput { columns: vec![column("inside", 20.0, 10.0), column("outside", 0.0, 1.0)] };
    let target = Target { name: "power".into(), unit: "kW".into(), mean: 5.0, std: 2.0 };
    let output = Output::Regression(Regression { targets: vec![target], output: None });
    let graph = GraphBuilder::new("power")
        .input(value("x"))
        .output(Value::f32("y", [1_usize, 1]))
        .initializer_f32("w", &[2, 1], vec![1.0, 0.5])
        .node(Node::new("MatMul", ["x", "w"], ["y"]));
    install(&endpoint, "power", &Pipeline::new(Input::Table(table), output), graph);
    // (30 - 20) / 10 + 2 / 2 = 2, times 2 and 5.
    for (headers, body) in [
        (JSON, r#"{"outside": 2, "inside": 30}"#),
        (JSON, "[30, 2]"),
        ("content-type: text/csv\r\n", "inside,outside\n30,2\n"),
        ("", "30,2"),
    ] {
        let reply = endpoint.predict("power", headers, body.as_bytes()).await;
        assert_eq!(reply.status, 200, "{body}: {}", String::from_utf8_lossy(&reply.body));
        assert_eq!(
            reply.json()["values"],
            json!([{ "name": "power", "value": 9.0, "unit": "kW" }]),
            "{body}"
        );
    }
    let reply = endpoint.predict("power", JSON, br#"{"inside": "warm", "outside": 2}"#).await;
    assert_eq!(reply.status, 400);
    let text = String::from_utf8_lossy(&reply.body).into_owned();
    assert!(text.contains("inside"), "the column is named: {text}");
    let health = endpoint.host.health(&name("power")).unwrap();
    assert_eq!((health.predictions, health.failures), (4, 0), "a wrong row is its sender's fault");
}

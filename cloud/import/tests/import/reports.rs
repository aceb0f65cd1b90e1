//! What a report says of real models: costs are held against what others publish.

use flotilla_import::{Error, Options, inspect};
use flotilla_onnx::{Dim, GraphBuilder, Node, Value};
use flotilla_protocol::ErrorCode;
use tract_onnx::prelude::{Framework, InferenceModelExt};
use tract_onnx::tract_core::ops::Cost;

use crate::support::{classifier, file, import, noise, report};

#[test]
fn costs_of_known_models_are_what_others_publish() {
    // Million multiply-accumulates, and parameters, of MLPerf Tiny.
    let known = [
        ("mlperf-tiny/ic_resnet8_float.onnx", 12.5, 78_666.0),
        ("mlperf-tiny/ic_resnet8_int8.onnx", 12.5, 78_666.0),
        ("mlperf-tiny/vww_mobilenetv1_float.onnx", 7.5, 221_794.0),
        ("mlperf-tiny/vww_mobilenetv1_int8.onnx", 7.5, 221_794.0),
        ("mlperf-tiny/kws_dscnn_float.onnx", 2.66, 24_908.0),
        ("mlperf-tiny/kws_dscnn_int8.onnx", 2.66, 24_908.0),
        ("mlperf-tiny/ad_autoencoder_float.onnx", 0.264, 267_928.0),
        ("mlperf-tiny/ad_autoencoder_int8.onnx", 0.264, 267_928.0),
    ];
    for (path, millions, parameters) in known {
        let Some(report) = report(path) else { return };
        let macs = report.macs.unwrap() as f64 / 1e6;
        println!("{path}: {macs} M, {} parameters, {:?}", report.parameters, report.memory);
        assert!((macs / millions - 1.0).abs() < 0.03, "{path}: {macs} M");
        assert!((report.parameters as f64 / parameters - 1.0).abs() < 0.12, "{path}: {}", report.parameters);
        assert!(report.runs && report.missing.is_empty(), "{path}: {:?}", report.engine_error);
    }
}

/// What the engine itself says of convolutions and products.
fn engine_cost(model: &[u8]) -> u64 {
    let loader = tract_onnx::onnx().with_ignore_output_shapes(true).with_ignore_value_info(true);
    let typed =
        loader.model_for_read(&mut &*model).unwrap().into_typed().unwrap().into_decluttered().unwrap();
    let mut total = 0;
    for node in typed.nodes().iter().filter(|node| matches!(&*node.op.name(), "Conv" | "EinSum")) {
        for (cost, times) in node.op.cost(&typed.node_input_facts(node.id).unwrap()).unwrap() {
            if matches!(cost, Cost::FMA(_)) {
                total += u64::try_from(times.to_i64().unwrap()).unwrap();
            }
        }
    }
    total
}

#[test]
fn costs_are_what_the_engine_counts() {
    for path in
        ["ultraface-RFB-320.onnx", "yunet_n_320_320.onnx", "mnist.onnx", "mlperf-tiny/ic_resnet8_float.onnx"]
    {
        let Some(bytes) = file(path) else { return };
        let import = inspect(&bytes, &Options::default()).unwrap();
        assert_eq!(import.report.macs, Some(engine_cost(&import.model)), "{path}");
    }
}

#[test]
fn costs_are_what_one_counts_by_hand() {
    let import = import(&classifier().build().unwrap());
    let report = import.report;
    // 6 x 6 places, 4 channels out, 3 x 3 x 3 in; then 144 x 3.
    assert_eq!(report.macs, Some(6 * 6 * 4 * 27 + 144 * 3));
    assert_eq!(report.parameters, 108 + 4 + 432 + 3);
    let memory = report.memory.unwrap();
    // The engine has a constant or two of its own, as the zero of a Relu.
    let weights = 4 * (108 + 4 + 432 + 3);
    assert!((weights..weights + 16).contains(&memory.weights), "{memory:?}");
    // At least the picture and what the convolution makes of it; not many times that.
    let least = 4 * (3 * 64 + 144);
    assert!((least..4 * least).contains(&memory.activations), "{memory:?}");
}

#[test]
fn recurrent_and_transposed_layers_count_too() {
    let (steps, inputs, hidden) = (7, 5, 6);
    let lstm = GraphBuilder::new("lstm")
        .input(Value::f32("x", [steps, 1, inputs]))
        .output(Value::f32("y", [steps, 1, 1, hidden]))
        .initializer_f32("w", &[1, 4 * hidden, inputs], noise(1, 4 * hidden * inputs))
        .initializer_f32("r", &[1, 4 * hidden, hidden], noise(2, 4 * hidden * hidden))
        .node(Node::new("LSTM", ["x", "w", "r"], ["y"]).int("hidden_size", hidden as i64));
    let macs = import(&lstm.build().unwrap()).report.macs;
    assert_eq!(macs, Some((steps * 4 * hidden * (inputs + hidden)) as u64));
    let wide = GraphBuilder::new("up")
        .input(Value::f32("x", [1, 2, 5, 5]))
        .output(Value::f32("y", [1, 3, 11, 11]))
        .initializer_f32("w", &[2, 3, 3, 3], noise(1, 54))
        .node(Node::new("ConvTranspose", ["x", "w"], ["y"]).ints("strides", [2, 2]));
    assert_eq!(import(&wide.build().unwrap()).report.macs, Some(2 * 25 * 27));
}

#[test]
fn the_report_says_what_is_there_and_what_was_done() {
    let import = import(&classifier().build().unwrap());
    let report = &import.report;
    assert_eq!(report.inputs[0].shape.as_deref().unwrap(), ["N", "3", "8", "8"]);
    assert_eq!(report.outputs[0].shape.as_deref().unwrap(), ["1", "3"]);
    assert_eq!(report.inputs[0].data_type.as_deref(), Some("FLOAT"));
    let used: Vec<(&str, u64)> = report.operators.iter().map(|op| (op.name.as_str(), op.count)).collect();
    assert!(used.contains(&("Dropout", 1)) && used.contains(&("Conv", 1)), "{used:?}");
    assert_eq!((report.opset, report.runs, report.missing.len()), (11, true, 0));
    assert!(
        report.cleaned.steps.iter().any(|step| step.pass == "nodes that do nothing"),
        "{:?}",
        report.cleaned
    );
    let json = serde_json::to_value(report).unwrap();
    assert_eq!(json["guess"]["input"]["kind"], "image");
    assert_eq!(json["macs"], report.macs.unwrap());
    // The model that is registered is the cleaned one.
    let model = flotilla_onnx::Model::read(&import.model).unwrap();
    assert_eq!(import.model.len() as u64, report.model_bytes);
    assert!(!model.nodes().iter().any(|node| node.op_type == "Dropout"));
}

#[test]
fn a_model_that_the_engine_lacks_operators_for_is_reported_and_not_refused() {
    let graph = GraphBuilder::new("g")
        .input(Value::f32("x", [Dim::from("N"), Dim::from(4)]))
        .output(Value::f32("y", [Dim::from("N"), Dim::from(4)]))
        .node(Node::new("Swizzle", ["x"], ["a"]))
        .node(Node::new("Relu", ["a"], ["y"]));
    let report = import(&graph.build().unwrap()).report;
    assert!(
        !report.runs && report.engine_error.as_ref().is_some_and(|error| error.contains("Swizzle")),
        "{report:?}"
    );
    assert_eq!((report.missing[0].operator.as_str(), report.missing[0].count), ("Swizzle", 1));
    assert!(report.warnings.iter().any(|warning| warning.contains("Swizzle")), "{:?}", report.warnings);
}

#[test]
fn weights_that_are_no_numbers_are_an_error_and_masks_are_not() {
    let with = |weights: Vec<f32>| {
        let graph = GraphBuilder::new("g")
            .input(Value::f32("x", [1, 4]))
            .output(Value::f32("y", [1, 4]))
            .initializer_f32("w", &[4], weights)
            .node(Node::new("Add", ["x", "w"], ["y"]));
        inspect(&graph.build().unwrap().write(), &Options::default())
    };
    for bad in [f32::NAN, f32::INFINITY] {
        let error = with(vec![0.5, 1.0, bad, 2.0]).unwrap_err();
        assert!(matches!(&error, Error::NotFinite { tensor, element: 2, .. } if tensor == "w"), "{error}");
        assert_eq!(error.code(), ErrorCode::ModelInvalid);
    }
    assert!(with(vec![0.0, f32::NEG_INFINITY, f32::NEG_INFINITY, 0.0]).is_ok());
}

#[test]
fn open_dimensions_are_asked_for() {
    let dims = || vec![Dim::from("N"), Dim::from("T"), Dim::from(4)];
    let value = |name: &str| Value { dims: Some(dims()), ..Value::f32(name, [1]) };
    let graph =
        GraphBuilder::new("g").input(value("x")).output(value("y")).node(Node::new("Relu", ["x"], ["y"]));
    let bytes = graph.build().unwrap().write();
    let report = inspect(&bytes, &Options::default()).unwrap().report;
    assert!(report.warnings.iter().any(|warning| warning.contains("`T`")), "{:?}", report.warnings);
    let mut options = Options::default();
    options.clean.dimensions.insert("T".into(), 9);
    let report = inspect(&bytes, &options).unwrap().report;
    assert_eq!(report.outputs[0].shape.as_deref().unwrap(), ["1", "9", "4"]);
    assert!(report.warnings.is_empty() && report.memory.is_some(), "{:?}", report.warnings);
}

#[test]
fn a_model_of_ten_megabytes_is_told_about() {
    let mut graph = GraphBuilder::new("large")
        .input(Value::f32("x", [Dim::from("N"), Dim::from(512)]))
        .output(Value::f32("y", [Dim::from("N"), Dim::from(512)]));
    let mut from = "x".to_owned();
    for layer in 0..10 {
        let to = if layer == 9 { "y".to_owned() } else { format!("h{layer}") };
        graph = graph
            .initializer_f32(&format!("w{layer}"), &[512, 512], noise(layer, 512 * 512))
            .initializer_f32(&format!("b{layer}"), &[512], noise(layer, 512))
            .node(Node::new("MatMul", [from.clone(), format!("w{layer}")], [format!("m{layer}")]))
            .node(Node::new("Add", [format!("m{layer}"), format!("b{layer}")], [to.clone()]));
        from = to;
    }
    let bytes = graph.build().unwrap().write();
    assert!(bytes.len() > 10_000_000);
    let begun = std::time::Instant::now();
    let report = inspect(&bytes, &Options::default()).unwrap().report;
    println!("{} bytes: {:?}", bytes.len(), begun.elapsed());
    assert_eq!(report.macs, Some(10 * 512 * 512));
    assert_eq!(
        report.cleaned.steps.iter().find(|step| step.pass.contains("products")).map(|step| step.changes),
        Some(10)
    );
}

#[test]
fn quantised_models_are_reported_as_they_were_brought() {
    let Some(bytes) = file("mlperf-tiny/kws_dscnn_int8.onnx") else { return };
    let import = inspect(&bytes, &Options::default()).unwrap();
    assert!(import.report.operators.iter().any(|op| op.name == "DequantizeLinear" && op.count == 32));
    assert!(import.model.len() < bytes.len(), "{} {}", import.model.len(), bytes.len());
    assert_eq!(import.report.inputs[0].data_type.as_deref(), Some("INT8"));
}

//! The pipeline that is proposed, and what a person is asked about it.

use std::io::Read;

use flotilla_import::{Import, Options, generated_inputs, inspect};
use flotilla_onnx::{DataType, Dim, GraphBuilder, Node, Value};
use flotilla_protocol::pipeline::{Activation, Colour, Input as Takes, Output, TensorKind};
use flotilla_runtime::{Answer, Input, Model, Prediction};

use crate::support::{file, models, zip};

fn brought(path: &str, labels: Option<&[&str]>) -> Option<Import> {
    let labels = labels.map(|names| names.iter().map(|&name| name.to_owned()).collect());
    let options = Options { labels, ..Options::default() };
    Some(inspect(&file(path)?, &options).unwrap_or_else(|error| panic!("{path}: {error}")))
}

/// The fields that a person is asked about.
fn asked(import: &Import) -> Vec<&str> {
    import.report.proposal.points.iter().map(|point| point.field.as_str()).collect()
}

fn load(import: &Import) -> Model {
    let proposal = &import.report.proposal;
    assert_eq!(proposal.problem, None);
    Model::load(&proposal.pipeline, &import.model).unwrap_or_else(|error| panic!("{error:?}: {proposal:#?}"))
}

/// A file of the sample inputs.
fn sample(name: &str) -> Vec<u8> {
    let archive = std::fs::File::open(models().unwrap().join("sample-inputs.zip")).unwrap();
    let mut archive = ::zip::ZipArchive::new(archive).unwrap();
    let mut bytes = Vec::new();
    archive.by_name(&format!("sample-inputs/{name}")).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

fn label(prediction: &Prediction) -> &str {
    prediction.headline().unwrap().label
}

#[test]
fn every_model_of_the_test_data_runs_with_what_is_proposed() {
    let Some(folder) = models() else { return };
    let mut paths = Vec::new();
    for folder in [folder.clone(), folder.join("mlperf-tiny"), folder.join("onnx-ml")] {
        paths.extend(std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()));
    }
    paths.retain(|path| path.extension().is_some_and(|end| end == "onnx"));
    assert!(paths.len() >= 12, "{paths:?}");
    for path in paths {
        let import = inspect(&std::fs::read(&path).unwrap(), &Options::default()).unwrap();
        let proposal = &import.report.proposal;
        assert_eq!(proposal.problem, None, "{}", path.display());
        let mut model = Model::load(&proposal.pipeline, &import.model)
            .unwrap_or_else(|error| panic!("{}: {error:?}: {proposal:#?}", path.display()));
        let inputs = generated_inputs(&proposal.pipeline);
        assert!(
            inputs.len() >= 2 && inputs.iter().map(Vec::len).sum::<usize>() <= 1 << 20,
            "{}",
            path.display()
        );
        let mut said = Vec::new();
        for input in &inputs {
            said.push(model.predict(Input::Unsaid(input)).unwrap().scores);
        }
        assert!(said[0] != said[1], "{}: {said:?}", path.display());
    }
}

const KEYWORDS: [&str; 12] =
    ["Down", "Go", "Left", "No", "Off", "On", "Right", "Stop", "Up", "Yes", "Silence", "Unknown"];

#[test]
fn keywords_are_understood_with_what_is_proposed() {
    // The quantised one hears "Go" in the recording of "no", in TensorFlow Lite too.
    for (path, no) in [("kws_dscnn_float", "No"), ("kws_dscnn_int8", "Go")] {
        let Some(import) = brought(&format!("mlperf-tiny/{path}.onnx"), Some(&KEYWORDS)) else { return };
        assert_eq!(asked(&import), ["input.sound.features"], "{path}");
        let mut model = load(&import);
        for (word, expected) in [("yes", "Yes"), ("no", no), ("noise", "Unknown"), ("silence", "Silence")] {
            let said = model.predict(Input::Unsaid(&sample(&format!("{word}_1000ms.wav")))).unwrap();
            assert_eq!(label(&said), expected, "{path}: {said:?}");
        }
    }
}

#[test]
fn what_a_scale_tells_of_pixels_is_not_asked() {
    for (path, expected) in [("vww_mobilenetv1_int8", "no person"), ("ic_resnet8_int8", "")] {
        let labels = ["no person", "person"];
        let labels = if expected.is_empty() { None } else { Some(&labels[..]) };
        let Some(import) = brought(&format!("mlperf-tiny/{path}.onnx"), labels) else { return };
        assert!(!asked(&import).contains(&"input.image.mean"), "{:?}", asked(&import));
        assert!(asked(&import).contains(&"input.image.colour"), "{:?}", asked(&import));
        let mut model = load(&import);
        // Pixels are what the network takes, and its scores are probabilities.
        assert_eq!(model.outputs()[0].kind, TensorKind::Fp32);
        let sum: f32 = model.predict(Input::Unsaid(&sample("china.jpg"))).unwrap().scores.iter().sum();
        assert!((sum - 1.0).abs() < 0.05, "{path}: {sum}");
        let flower = model.predict(Input::Unsaid(&sample("flower.jpg"))).unwrap();
        let face = model.predict(Input::Unsaid(&sample("face_2.jpg"))).unwrap();
        if !expected.is_empty() {
            assert_eq!((label(&flower), label(&face)), (expected, "person"));
        }
    }
}

#[test]
fn faces_are_found_with_what_is_proposed_once_its_points_are_settled() {
    let Some(mut import) = brought("ultraface-RFB-320.onnx", Some(&["face"])) else { return };
    assert_eq!(
        asked(&import),
        ["input.image.colour", "input.image.resize", "input.image.mean", "output.detection.decoder"]
    );
    let Takes::Image(image) = &mut import.report.proposal.pipeline.input else { panic!() };
    (image.mean, image.std) = (vec![127.0 / 255.0; 3], vec![128.0 / 255.0; 3]);
    let mut ultraface = load(&import);
    let mut import = brought("yunet_n_320_320.onnx", Some(&["face"])).unwrap();
    let Takes::Image(image) = &mut import.report.proposal.pipeline.input else { panic!() };
    (image.colour, image.std) = (Colour::Bgr, vec![1.0 / 255.0; 3]);
    let mut yunet = load(&import);
    let photo = sample("face_2.jpg");
    for model in [&mut ultraface, &mut yunet] {
        let Answer::Objects(found) = model.predict(Input::Encoded(&photo)).unwrap().answer else { panic!() };
        assert!(
            !found.is_empty() && found[0].label.label == "face" && found[0].label.score > 0.7,
            "{found:?}"
        );
    }
}

#[test]
fn labels_of_a_package_are_not_asked_and_missing_ones_are() {
    let Some(onnx) = file("mlperf-tiny/vww_mobilenetv1_float.onnx") else { return };
    let package = zip(&[("model/m.onnx", &onnx), ("model/labels.txt", b"empty\nperson")]);
    let import = inspect(&package, &Options::default()).unwrap();
    assert_eq!(asked(&import), ["input.image.colour", "input.image.resize", "input.image.mean"]);
    assert_eq!(import.report.proposal.pipeline.labels(), ["empty", "person"]);
    let import = inspect(&onnx, &Options::default()).unwrap();
    assert_eq!(import.report.proposal.pipeline.labels(), ["class-0", "class-1"]);
    let points = &import.report.proposal.points;
    assert!(points.iter().any(|point| point.text.contains("nobody names the 2 classes")), "{points:?}");
}

/// A network that hears whether somebody speaks: samples, a state and a rate in, a score and the state out.
fn voice() -> Vec<u8> {
    let samples = [Dim::Symbol("batch".into()), Dim::from(512)];
    let state = || [Dim::from(2), Dim::Symbol("batch".into()), Dim::from(4)];
    GraphBuilder::new("voice")
        .input(Value::f32("input", samples))
        .input(Value::f32("state", state()))
        .input(Value { data_type: Some(DataType::Int64), ..Value::f32("sr", Vec::<Dim>::new()) })
        .output(Value::f32("output", [Dim::Symbol("batch".into()), Dim::from(1)]))
        .output(Value::f32("stateN", state()))
        .initializer_f32("w", &[512, 1], vec![0.01; 512])
        .node(Node::new("Cast", ["sr"], ["rate"]).int("to", 1))
        .node(Node::new("MatMul", ["input", "w"], ["sum"]))
        .node(Node::new("Div", ["sum", "rate"], ["part"]))
        .node(Node::new("Sigmoid", ["part"], ["output"]))
        .node(Node::new("Add", ["state", "output"], ["stateN"]))
        .build()
        .unwrap()
        .write()
}

#[test]
fn a_stream_is_proposed_with_its_state_and_its_rate() {
    let labels = Some(vec!["silence".to_owned(), "speech".to_owned()]);
    let import = inspect(&voice(), &Options { labels, ..Options::default() }).unwrap();
    let pipeline = &import.report.proposal.pipeline;
    assert_eq!(pipeline.states[0].output, "stateN");
    assert_eq!(
        (pipeline.states[0].input.shape.as_slice(), pipeline.constants[0].values[0]),
        (&[2, 1, 4][..], 16_000.0)
    );
    let Output::MultiLabel(multi) = &pipeline.output else { panic!("{pipeline:?}") };
    assert_eq!((multi.labels.as_slice(), multi.activation), (&["speech".to_owned()][..], Activation::None));
    for field in ["states", "constants", "input.sound.rate"] {
        assert!(asked(&import).contains(&field), "{field}: {:?}", asked(&import));
    }
    let mut model = load(&import);
    assert!(model.is_stateful());
    assert!(model.predict(Input::Unsaid(&generated_inputs(&import.report.proposal.pipeline)[0])).is_ok());
    let samples: Vec<u8> = [0.5_f32; 512].iter().flat_map(|value| value.to_le_bytes()).collect();
    assert_eq!(label(&model.predict(Input::Raw(&samples)).unwrap()), "speech");
}

#[test]
fn what_a_file_leaves_open_is_asked() {
    let open = |name: &str| Dim::Symbol(name.into());
    let onnx = GraphBuilder::new("open")
        .input(Value::f32("image", [open("N"), Dim::from(3), open("H"), open("W")]))
        .output(Value::f32("scores", [open("N"), Dim::from(3)]))
        .node(Node::new("GlobalAveragePool", ["image"], ["means"]))
        .node(Node::new("Flatten", ["means"], ["scores"]).int("axis", 1))
        .build()
        .unwrap()
        .write();
    let import = inspect(&onnx, &Options::default()).unwrap();
    for field in ["input.image.width", "input.image.height", "output.classification.activation"] {
        assert!(asked(&import).contains(&field), "{field}: {:?}", asked(&import));
    }
    load(&import);
}

#[test]
fn an_anomaly_detector_of_integers_compares_real_numbers() {
    let Some(floats) = brought("mlperf-tiny/ad_autoencoder_float.onnx", None) else { return };
    let integers = brought("mlperf-tiny/ad_autoencoder_int8.onnx", None).unwrap();
    let input = generated_inputs(&floats.report.proposal.pipeline).swap_remove(0);
    // About what one of its recordings has: decibels.
    let decibels: Vec<u8> = input
        .as_chunks::<4>()
        .0
        .iter()
        .flat_map(|value| (f32::from_le_bytes(*value) * 10.0 - 30.0).to_le_bytes())
        .collect();
    let score = |import: &Import| match load(import).predict(Input::Unsaid(&decibels)).unwrap().answer {
        Answer::Anomaly(anomaly) => anomaly.score,
        other => panic!("{other:?}"),
    };
    let (float, integer) = (score(&floats), score(&integers));
    assert!((float - integer).abs() < 0.1 * float, "{float} and {integer}");
}

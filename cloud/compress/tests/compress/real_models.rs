//! Models that others trained, on real pictures.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use flotilla_compress::{Budget, Form, FourBit, Options, Precision, Recipe, RuntimeEvaluator, Step, Weights};
use flotilla_onnx::Model;
use flotilla_protocol::Pipeline;
use flotilla_protocol::pipeline::{
    Activation, Classification, Colour, ImageInput, Input, Layout, Output, Resize,
};
use flotilla_runtime::engine::Engine;

use crate::support::{difference, quietly, test_data};

const CIFAR: [&str; 10] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

/// One array of 32-bit floats from a file of numpy arrays: its first dimension and its values.
fn array(npz: &Path, name: &str) -> (usize, Vec<f32>) {
    let mut archive = zip::ZipArchive::new(BufReader::new(File::open(npz).unwrap())).unwrap();
    let mut bytes = Vec::new();
    archive.by_name(&format!("{name}.npy")).unwrap().read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes[..8], *b"\x93NUMPY\x01\x00");
    let start = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let header = std::str::from_utf8(&bytes[10..start]).unwrap();
    assert!(header.contains("'<f4'") && header.contains("'fortran_order': False"), "{header}");
    let first = header.split_once("'shape': (").unwrap().1.split(',').next().unwrap();
    let values = bytes[start..].chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
    (first.parse().unwrap(), values.collect())
}

#[test]
fn resnet8_takes_three_tenths_of_the_room_and_answers_alike() {
    let Some(data) = test_data() else { return };
    let float = std::fs::read(data.join("models/mlperf-tiny/ic_resnet8_float.onnx")).unwrap();
    let int8 = Recipe::default().apply(&float).unwrap();
    let ratio = int8.len() as f64 / float.len() as f64;
    println!("ResNet-8: {} bytes to {}, {ratio:.3}", float.len(), int8.len());
    assert!(ratio <= 0.30, "{ratio}");
    let golden = data.join("models/golden/ic_resnet8_float.npz");
    let ((count, inputs), (_, outputs)) = (array(&golden, "input"), array(&golden, "output"));
    let (inputs, outputs) = (inputs.chunks(inputs.len() / count), outputs.chunks(outputs.len() / count));
    let mut engine = Engine::load_plain(&int8, &[1, 32, 32, 3]).unwrap();
    let label = |scores: &[f32]| (0..10).max_by(|&a, &b| scores[a].total_cmp(&scores[b]));
    let (mut largest, mut sum, mut alike) = (0.0_f32, 0.0, 0);
    for (input, expected) in inputs.zip(outputs) {
        let found = engine.run_plain(input).unwrap();
        for (a, b) in expected.iter().zip(&found) {
            largest = largest.max((a - b).abs());
            sum += (a - b).abs();
        }
        alike += usize::from(label(expected) == label(&found));
    }
    let mean = sum / (10 * count) as f32;
    println!(
        "ResNet-8: {alike} of {count} labels alike, probabilities off by {mean:.5}, at most {largest:.4}"
    );
    assert!(count == 20 && alike >= 19 && mean < 0.005 && largest < 0.10);
}

#[test]
fn resnet8_keeps_its_accuracy_on_photographs() {
    let Some(data) = test_data() else { return };
    let float = std::fs::read(data.join("models/mlperf-tiny/ic_resnet8_float.onnx")).unwrap();
    let file = File::open(data.join("images/cifar10-subset.zip")).unwrap();
    let mut archive = zip::ZipArchive::new(BufReader::new(file)).unwrap();
    let mut names: Vec<String> = archive.file_names().map(|name| name.unwrap().into_owned()).collect();
    names.retain(|name| name.ends_with(".jpg") && name.split('/').any(|part| part == "test"));
    names.sort();
    let (mut samples, mut labels) = (Vec::new(), Vec::new());
    for name in names.iter().step_by(8) {
        let class = name.rsplit('/').nth(1).unwrap();
        labels.push(CIFAR.iter().position(|c| *c == class).unwrap());
        let mut jpeg = Vec::new();
        archive.by_name(name).unwrap().read_to_end(&mut jpeg).unwrap();
        samples.push(jpeg);
    }
    assert_eq!(samples.len(), 250);
    // The model takes bytes as they are: dividing by 1/255 undoes the division by 255.
    let pipeline = Pipeline::new(
        Input::Image(ImageInput {
            width: 32,
            height: 32,
            colour: Colour::Rgb,
            resize: Resize::Exact,
            layout: Layout::Nhwc,
            mean: vec![0.0; 3],
            std: vec![1.0 / 255.0; 3],
            ..ImageInput::none()
        }),
        Output::Classification(Classification::new(
            CIFAR.iter().map(|&c| c.to_owned()).collect(),
            Activation::None,
        )),
    );
    let options = Options { four_bit: FourBit::Never, ..Options::default() };
    let mut evaluator = RuntimeEvaluator::new(&pipeline, samples, labels).unwrap();
    let compressed = quietly(&float, &options, &Budget::default(), &mut evaluator).unwrap();
    let report = &compressed.report;
    println!(
        "ResNet-8: accuracy {} to {}, {} to {} bytes, {} layers, p50 {:.2} to {:.2} ms",
        report.value_before,
        report.value_after,
        report.bytes_before,
        report.bytes_after,
        report.layers.len(),
        report.latency_before.p50_ms,
        report.latency_after.p50_ms,
    );
    for layer in &report.layers {
        println!("  {}: {:?} dB, output error {:.5}", layer.name, layer.weight_sqnr_db, layer.output_error);
    }
    assert!(report.value_before > 0.70, "the model is read as it was trained");
    assert!(report.drop <= 0.01 && report.bytes_after * 10 <= report.bytes_before * 3);
    assert!(report.layers.iter().all(|layer| layer.precision == Precision::Int8));
    assert!(report.layers.iter().all(|layer| layer.output_error > 0.0 && layer.output_error < 0.05));
}

/// 8-bit weights and all that makes a file smaller without samples.
fn tidy() -> Recipe {
    Recipe::new(vec![
        Step::StripNotes { everywhere: true },
        Step::Fold {},
        Step::Weights(Weights { half_scales: true, ..Weights::new(Form::Int8) }),
        Step::Weights(Weights { min_elements: 16, ..Weights::new(Form::F16) }),
        Step::Tidy {},
    ])
}

#[test]
fn models_of_other_exporters_still_run_and_answer_alike() {
    let Some(data) = test_data() else { return };
    for (file, golden, shape, bound) in [
        ("mlperf-tiny/kws_dscnn_float.onnx", "kws_dscnn_float.npz", &[1, 49, 10, 1][..], 0.05),
        ("mlperf-tiny/vww_mobilenetv1_float.onnx", "vww_mobilenetv1_float.npz", &[1, 96, 96, 3], 0.10),
        ("mlperf-tiny/ad_autoencoder_float.onnx", "ad_autoencoder_float.npz", &[1, 640], 0.05),
        ("mnist.onnx", "mnist.npz", &[1, 1, 28, 28], 0.05),
    ] {
        let float = std::fs::read(data.join("models").join(file)).unwrap();
        let int8 = Recipe::default().apply(&float).unwrap();
        let (count, inputs) = array(&data.join("models/golden").join(golden), "input");
        let [mut before, mut after] = [&float, &int8].map(|onnx| Engine::load_plain(onnx, shape).unwrap());
        let inputs: Vec<&[f32]> = inputs.chunks(inputs.len() / count).collect();
        let off = inputs
            .iter()
            .map(|input| difference(&before.run_plain(input).unwrap(), &after.run_plain(input).unwrap()));
        let off = off.fold(0.0, f32::max);
        println!("{file}: {} bytes to {}, outputs differ by {off:.4}", float.len(), int8.len());
        assert!(off > 0.0 && off <= bound, "{file}: {off}");
        assert!(int8.len() * 5 <= float.len() * 2, "{file}");
        // With all that needs no samples: the names alone are an eighth of the smallest of these.
        let tidy = tidy().apply(&float).unwrap();
        let ratio = tidy.len() as f64 / float.len() as f64;
        let mut engine = Engine::load_plain(&tidy, shape).unwrap();
        let found = inputs
            .iter()
            .map(|input| difference(&before.run_plain(input).unwrap(), &engine.run_plain(input).unwrap()));
        let off = found.fold(0.0, f32::max);
        println!("{file}: tidied {} bytes, {ratio:.3}, outputs differ by {off:.4}", tidy.len());
        assert!(ratio <= 0.30 && off <= bound, "{file}: {ratio} {off}");
    }
    for file in ["ultraface-RFB-320.onnx", "yunet_n_320_320.onnx"] {
        let float = std::fs::read(data.join("models").join(file)).unwrap();
        let int8 = Recipe::default().apply(&float).unwrap();
        println!("{file}: {} bytes to {}", float.len(), int8.len());
        assert!(int8.len() * 2 < float.len(), "{file}");
        let folded = Model::read(&tidy().apply(&float).unwrap()).unwrap();
        println!("{file}: tidied {} bytes", folded.write().len());
        assert!(!folded.summary().operators.contains_key("BatchNormalization"), "{file}");
        let (before, after) = (Model::read(&float).unwrap(), Model::read(&int8).unwrap());
        assert_eq!(before.outputs(), after.outputs());
    }
}

//! Models and data that nobody in this project made, against the outputs of another engine.

use crate::support::{classes, data, engine, floats, grey, gunzip, image, npz, png, rgb, run};
use flotilla_protocol::Pipeline;
use flotilla_protocol::Truth;
use flotilla_protocol::pipeline::{Activation, Layout, Resize};
use flotilla_runtime::quality::Outcomes;
use flotilla_runtime::{Model, Trial, judge};
use std::io::Read;

const DIGITS: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];

/// The largest difference between our outputs and the recorded ones.
fn worst(model: &str, golden: &str, shape: &[usize]) -> Option<f32> {
    let onnx = std::fs::read(data(model)?).unwrap();
    let mut engine = engine(&onnx, shape).unwrap();
    let inputs = floats(npz(data(golden)?, "input"));
    let outputs = floats(npz(data(golden)?, "output"));
    assert!(inputs.len() >= 8 && inputs.len() == outputs.len());
    let differences = inputs.iter().zip(&outputs).flat_map(|(input, expected)| {
        let got = run(&mut engine, input).unwrap();
        assert_eq!(got.len(), expected.len());
        got.iter().zip(expected).map(|(a, b)| (a - b).abs()).collect::<Vec<_>>()
    });
    Some(differences.fold(0.0, |worst, d| if d.is_nan() { f32::INFINITY } else { f32::max(worst, d) }))
}

#[test]
fn mnist_gives_the_recorded_logits() {
    if let Some(worst) = worst("models/mnist.onnx", "models/golden/mnist.npz", &[1, 1, 28, 28]) {
        // Logits reach thousands: this is a few units in the last place.
        assert!(worst < 0.02, "{worst}");
    }
}

#[test]
fn resnet8_gives_the_recorded_probabilities() {
    let golden = "models/golden/ic_resnet8_float.npz";
    if let Some(worst) = worst("models/mlperf-tiny/ic_resnet8_float.onnx", golden, &[1, 32, 32, 3]) {
        assert!(worst < 1e-5, "{worst}");
    }
}

#[test]
fn mobilenet_gives_the_recorded_probabilities() {
    let golden = "models/golden/vww_mobilenetv1_float.npz";
    if let Some(worst) = worst("models/mlperf-tiny/vww_mobilenetv1_float.onnx", golden, &[1, 96, 96, 3]) {
        assert!(worst < 1e-5, "{worst}");
    }
}

/// The model wants 0 to 255: `(byte / 255 - 0) / (1 / 255)`.
fn bytes_as_they_are(mut pipeline: Pipeline, activation: Activation) -> Pipeline {
    let image = image(&mut pipeline);
    image.std.fill(1.0 / 255.0);
    let classification = classes(&mut pipeline);
    classification.activation = activation;
    pipeline
}

#[test]
fn mnist_reads_handwriting_as_well_as_elsewhere() {
    let (Some(onnx), Some(images), Some(labels)) = (
        data("models/mnist.onnx"),
        data("images/mnist-t10k/t10k-images-idx3-ubyte.gz"),
        data("images/mnist-t10k/t10k-labels-idx1-ubyte.gz"),
    ) else {
        return;
    };
    let pipeline = bytes_as_they_are(grey(28, 28, Resize::Exact, &DIGITS), Activation::Softmax);
    let mut model = Model::load(&pipeline, &std::fs::read(onnx).unwrap()).unwrap();
    let (images, labels) = (gunzip(images), gunzip(labels));
    let raw = images[16..].chunks(28 * 28).map(<[u8]>::to_vec);
    let truth = labels[8..].iter().map(|&label| Truth::Class(u32::from(label)));
    let trial = Trial::run(&mut model, raw.zip(truth.clone())).unwrap();
    // Another engine counts 9,891 of these 10,000.
    let counts = trial.quality().metrics();
    assert_eq!(counts.samples, 10_000);
    assert!(counts.correct.abs_diff(9_891) <= 1, "{} correct", counts.correct);

    let pictures = images[16..]
        .chunks(28 * 28)
        .take(500)
        .map(|pixels| png(image::GrayImage::from_raw(28, 28, pixels.to_vec()).unwrap()));
    let decoded = Trial::run(&mut model, pictures.zip(truth)).unwrap();
    let (Outcomes::Classes(raw), Outcomes::Classes(decoded)) = (trial.outcomes, decoded.outcomes) else {
        panic!("it gives classes");
    };
    assert_eq!(decoded, raw[..500], "pixels in a PNG are the same pixels");
}

#[test]
fn resnet8_sorts_jpeg_photographs() {
    let (Some(onnx), Some(pictures)) =
        (data("models/mlperf-tiny/ic_resnet8_float.onnx"), data("images/cifar10-subset.zip"))
    else {
        return;
    };
    let classes = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];
    let pipeline = bytes_as_they_are(rgb(32, 32, Resize::Exact, Layout::Nhwc, &classes), Activation::None);
    let mut model = Model::load(&pipeline, &std::fs::read(onnx).unwrap()).unwrap();
    let mut archive = zip::ZipArchive::new(std::fs::File::open(pictures).unwrap()).unwrap();
    let names: Vec<String> = archive.file_names().map(|name| name.unwrap().into_owned()).collect();
    let samples: Vec<(Vec<u8>, Truth)> = names
        .iter()
        .filter(|name| name.contains("test/") && name.ends_with(".jpg"))
        .map(|name| {
            let label = classes.iter().position(|class| name.contains(&format!("/{class}/"))).unwrap();
            let mut bytes = Vec::new();
            archive.by_name(name).unwrap().read_to_end(&mut bytes).unwrap();
            (bytes, Truth::Class(label as u32))
        })
        .collect();
    let quality = judge(&mut model, samples).unwrap();
    assert_eq!(quality.samples, 2_000);
    // Another engine counts 0.764 with another JPEG decoder; this model is sensitive to such copies.
    let accuracy = quality.headline.value.unwrap();
    assert!((accuracy - 0.764).abs() < 0.01, "{accuracy}");
}

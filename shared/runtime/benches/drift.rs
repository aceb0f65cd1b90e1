//! What watching for drift adds to a prediction: `cargo bench -p flotilla-runtime --bench drift [-- SLOT …]`, or with
//! `--profile dev`.
//!
//! Both ways are measured in turns in one run: predicting alone, and predicting and counting. Slots of devices
//! (`models/MODEL/slot-a`) bring their own baseline; ResNet-8 and MNIST of the test data get one of noise, whose cost is
//! the same.
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot measure ends")]

use flotilla_protocol::manifest::ENGINE_TRACT;
use flotilla_protocol::pipeline::{
    Activation, Classification, Colour, ImageInput, Input as Raw, Layout, Output, Resize,
};
use flotilla_protocol::{Envelope, Pipeline, ReleaseManifest, codec, limits};
use flotilla_runtime::drift::{Collector, Monitor};
use flotilla_runtime::{Bundle, Input, Model, Stream};
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

/// Turns of either way; the medians are compared.
const TURNS: usize = 41;
/// How long one turn takes, about.
const TURN: Duration = Duration::from_millis(100);

fn main() {
    println!("{:<28} {:>12} {:>12} {:>9}", "model", "predict", "and count", "more");
    if let Some(data) = std::env::var_os("FLOTILLA_TEST_DATA") {
        let models = Path::new(&data).join("models");
        let small = pipeline(28, Colour::Grey, Layout::Nchw);
        let (mut model, monitor) = of_file(&models.join("mnist.onnx"), &small);
        compare("mnist", &mut model, monitor);
        let photo = pipeline(32, Colour::Rgb, Layout::Nhwc);
        let (mut model, monitor) = of_file(&models.join("mlperf-tiny/ic_resnet8_float.onnx"), &photo);
        compare("resnet8", &mut model, monitor);
    }
    for slot in std::env::args().skip(1).filter(|argument| !argument.starts_with("--")) {
        let slot = Path::new(&slot);
        let envelope = Envelope::from_bytes(&std::fs::read(slot.join("release.cbor")).unwrap()).unwrap();
        let manifest: ReleaseManifest = codec::decode(&envelope.payload, limits::ENVELOPE).unwrap();
        let name = manifest.model.to_string();
        let bundle = Bundle::open(slot.join("files"), manifest).unwrap();
        let mut model = Model::from_bundle(&bundle, "any", ENGINE_TRACT).unwrap();
        let monitor = *model.take_monitor().unwrap();
        compare(&name, &mut model, monitor);
    }
}

fn pipeline(side: u32, colour: Colour, layout: Layout) -> Pipeline {
    let channels = colour.channels();
    let (mean, std) = (vec![0.0; channels], vec![1.0; channels]);
    let image = ImageInput {
        width: side,
        height: side,
        colour,
        resize: Resize::Exact,
        layout,
        mean,
        std,
        ..ImageInput::none()
    };
    let labels = (0..10).map(|label| label.to_string()).collect();
    let output = Output::Classification(Classification::new(labels, Activation::Softmax));
    Pipeline::new(Raw::Image(image), output)
}

fn of_file(onnx: &Path, pipeline: &Pipeline) -> (Model, Monitor) {
    let mut model = Model::load(pipeline, &std::fs::read(onnx).unwrap()).unwrap();
    let mut collector = Collector::new(pipeline);
    for seed in 0..100 {
        let picture = noise(&model, seed);
        collector.trained(&mut model, Input::Raw(&picture)).unwrap();
        collector.held_out(&mut model, Input::Raw(&picture)).unwrap();
    }
    (model, Monitor::new(pipeline, collector.finish().unwrap()))
}

fn noise(model: &Model, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..model.inputs()[0].values()).map(|_| next()).collect()
}

fn compare(name: &str, model: &mut Model, mut monitor: Monitor) {
    let picture = noise(model, 1);
    let once = |model: &mut Model, monitor: Option<&mut Monitor>| {
        let prepared = model.prepare(Input::Raw(&picture)).unwrap();
        let prediction = model.predict_prepared(Stream::default(), &prepared).unwrap();
        if let Some(monitor) = monitor {
            black_box(monitor.count(&prepared.values(), &prediction));
        }
        black_box(prediction);
    };
    let started = Instant::now();
    let mut runs = 0_u32;
    while started.elapsed() < TURN {
        once(model, None);
        runs += 1;
    }
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..TURNS {
        for (way, times) in times.iter_mut().enumerate() {
            let started = Instant::now();
            (0..runs).for_each(|_| once(model, (way == 1).then_some(&mut monitor)));
            times.push(started.elapsed() / runs);
        }
    }
    let [alone, counted] = times.map(|mut times| {
        times.sort_unstable();
        times[TURNS / 2].as_secs_f64() * 1e6
    });
    let prepared = model.prepare(Input::Raw(&picture)).unwrap();
    let prediction = model.predict_prepared(Stream::default(), &prepared).unwrap();
    let tensor = prepared.values();
    let started = Instant::now();
    for _ in 0..10_000 {
        black_box(monitor.count(&tensor, &prediction));
    }
    let count = started.elapsed().as_secs_f64() * 1e6 / 10_000.0;
    println!(
        "{name:<28} {alone:>9.2} µs {counted:>9.2} µs {:>+8.2} %   (counting alone {count:.2} µs, {:.2} %)",
        (counted / alone - 1.0) * 100.0,
        count / alone * 100.0
    );
}

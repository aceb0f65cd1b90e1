//! The parts of a training, each against what it is for; whole trainings on images that a test can draw.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use burn::tensor::module::{batch_norm_train, conv2d};
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, TensorData, activation::relu, activation::softmax};
use flotilla_onnx::Model;
use flotilla_protocol::ErrorCode;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tract_onnx::prelude::*;

use crate::augment::Augmenter;
use crate::export::Notes;
use crate::fit::{Fit, Lesson, tensor};
use crate::fold::Folded;
use crate::network::{Network, numbers};
use crate::operation::Norm;
use crate::plan::{NetworkPlan, Stage};
use crate::schedule::Schedule;
use crate::{
    Algorithm, Augment, Config, EpochMetrics, Error, Images, Observer, Silent, export, operation, train,
};

/// Bars that lie, stand or lean, anywhere in the image, under noise.
pub(crate) fn bars(count: usize, seed: u64) -> Images {
    const SIDE: usize = 9;
    let mut rng = StdRng::seed_from_u64(seed);
    let mut images = Images {
        channels: 1,
        height: SIDE,
        width: SIDE,
        classes: ["lying", "standing", "leaning"].map(String::from).to_vec(),
        pixels: Vec::new(),
        labels: Vec::new(),
    };
    for index in 0..count {
        let (label, at) = (index % 3, rng.random_range(2..SIDE - 2));
        for y in 0..SIDE {
            for x in 0..SIDE {
                let on = match label {
                    0 => y == at,
                    1 => x == at,
                    _ => (x + 4).abs_diff(y + at) == 0,
                };
                images.pixels.push(f32::from(u8::from(on)) * 2.0 - 1.0 + rng.random_range(-0.3..0.3));
            }
        }
        images.labels.push(label as u32);
    }
    images
}

pub(crate) fn quick() -> Config {
    Config { epochs: 6, batch_size: 16, warmup_epochs: 1, threads: 2, seed: 7, ..Config::default() }
}

pub(crate) fn probabilities(onnx: &[u8], images: &Images) -> Vec<f32> {
    let model = tract_onnx::onnx().with_ignore_output_shapes(true).with_ignore_value_info(true);
    let model = model.model_for_read(&mut &*onnx).unwrap();
    let shape = [1, images.channels, images.height, images.width];
    let model = model.with_input_fact(0, f32::fact(shape).into()).unwrap();
    let model = model.into_optimized().unwrap().into_runnable().unwrap();
    let mut out = Vec::new();
    for image in images.pixels.chunks_exact(images.values()) {
        let input = Tensor::from_shape(&shape, image).unwrap();
        let result = model.run(tvec!(input.into())).unwrap();
        out.extend(result[0].to_plain_array_view::<f32>().unwrap().iter().copied());
    }
    out
}

pub(crate) fn accuracy(onnx: &[u8], images: &Images) -> f64 {
    let rows = probabilities(onnx, images);
    let best = |row: &[f32]| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
    let rows = rows.chunks_exact(images.classes.len()).zip(&images.labels);
    rows.filter(|(row, label)| best(row) == **label as usize).count() as f64 / images.labels.len() as f64
}

#[test]
fn a_trained_file_recognises_images_it_has_not_seen() {
    let (train_on, validate_on, unseen) = (bars(240, 1), bars(60, 2), bars(150, 3));
    let config = Config { epochs: 12, ..quick() };
    let trained = train(&config, &train_on, &validate_on, &mut Silent).unwrap();
    let accuracy = accuracy(&trained.onnx, &unseen);
    assert!(accuracy > 0.95, "{accuracy}");
    assert_eq!(trained.epochs as usize, trained.history.len());
    let kept = &trained.history[trained.best_epoch as usize - 1];
    assert!(trained.history.iter().all(|m| m.validation_loss >= kept.validation_loss));
    let summary = Model::read(&trained.onnx).unwrap().summary();
    assert_eq!(summary.parameters, trained.parameters);
    assert_eq!(
        (summary.inputs, summary.outputs),
        (vec!["image: FLOAT[N,1,9,9]".into()], vec!["probabilities: FLOAT[N,3]".into()])
    );
    let model = Model::read(&trained.onnx).unwrap();
    assert_eq!(model.metadata_value("classes"), Some(r#"["lying","standing","leaning"]"#));
    assert_eq!(model.metadata_value("algorithm"), Some("dscnn-s"));
    assert!(!summary.operators.contains_key("BatchNormalization"), "normalisation is folded");
}

fn random<const D: usize>(dims: [usize; D], seed: u64, device: &Device) -> burn::tensor::Tensor<D> {
    let mut rng = StdRng::seed_from_u64(seed);
    let values: Vec<f32> = (0..dims.iter().product()).map(|_| rng.random_range(-1.0..1.0)).collect();
    burn::tensor::Tensor::from_data(TensorData::new(values, dims), device)
}

fn close(what: &str, ours: Vec<f32>, theirs: Vec<f32>) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    let scale = theirs.iter().fold(1.0_f32, |most, v| most.max(v.abs()));
    let worst = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst <= 1e-5 * scale, "{what}: {worst} of {scale}");
}

/// Our depthwise convolution and the engine's give the same values and gradients.
#[test]
fn depthwise_agrees_with_the_engine() {
    let device = Device::flex().autodiff();
    for (height, width, stride) in [(8, 8, 1), (8, 8, 2), (7, 5, 1), (7, 5, 2), (4, 9, 2), (1, 1, 1)] {
        let channels = 6;
        let x = random([3, channels, height, width], 1, &device).require_grad();
        let weight = random([channels, 1, 3, 3], 2, &device).require_grad();
        let ours = operation::depthwise(x.clone(), weight.clone(), stride).unwrap();
        let options = ConvOptions::new([stride; 2], [1, 1], [1, 1], channels);
        let theirs = conv2d(x.clone(), weight.clone(), None, options);
        assert_eq!(ours.dims(), theirs.dims());
        let pull = random(ours.dims(), 3, &device);
        let gradients = |y: burn::tensor::Tensor<4>| {
            let all = (y * pull.clone()).sum().backward();
            (numbers(x.grad(&all).unwrap()).unwrap(), numbers(weight.grad(&all).unwrap()).unwrap())
        };
        close("output", numbers(ours.clone()).unwrap(), numbers(theirs.clone()).unwrap());
        let ((our_x, our_weight), (their_x, their_weight)) = (gradients(ours), gradients(theirs));
        close("gradient of the input", our_x, their_x);
        close("gradient of the weights", our_weight, their_weight);
    }
}

/// Our convolution and the engine's give the same values and gradients, on a device that learns and on one that does not.
#[test]
fn convolution_agrees_with_the_engine() {
    let device = Device::flex().autodiff();
    for (kernel, stride, height, width) in
        [(3, 1, 8, 8), (3, 2, 7, 5), (3, 2, 8, 6), (5, 1, 4, 9), (7, 2, 1, 3), (1, 2, 5, 6), (3, 1, 1, 1)]
    {
        let x = random([3, 4, height, width], 1, &device).require_grad();
        let weight = random([6, 4, kernel, kernel], 2, &device).require_grad();
        let ours = operation::convolve(x.clone(), weight.clone(), stride).unwrap();
        let options = ConvOptions::new([stride; 2], [kernel / 2; 2], [1, 1], 1);
        let theirs = conv2d(x.clone(), weight.clone(), None, options);
        assert_eq!(ours.dims(), theirs.dims());
        let pull = random(ours.dims(), 3, &device);
        let gradients = |y: burn::tensor::Tensor<4>| {
            let all = (y * pull.clone()).sum().backward();
            (numbers(x.grad(&all).unwrap()).unwrap(), numbers(weight.grad(&all).unwrap()).unwrap())
        };
        let plain = operation::convolve(x.clone().inner(), weight.clone().inner(), stride).unwrap();
        close("output without learning", numbers(plain).unwrap(), numbers(theirs.clone()).unwrap());
        close("output", numbers(ours.clone()).unwrap(), numbers(theirs.clone()).unwrap());
        let ((our_x, our_weight), (their_x, their_weight)) = (gradients(ours), gradients(theirs));
        close("gradient of the input", our_x, their_x);
        close("gradient of the weights", our_weight, their_weight);
    }
}

/// Our normalisation with rectifier and the engine's two operations give the same values and gradients.
#[test]
fn normalisation_agrees_with_the_engine() {
    let device = Device::flex().autodiff();
    for (images, height, width, rectified) in
        [(4, 8, 8, true), (5, 3, 7, true), (2, 1, 1, true), (3, 4, 5, false)]
    {
        let channels = 5;
        let x = (random([images, channels, height, width], 1, &device) * 3.0 + 0.5).detach().require_grad();
        let gamma = random([channels], 2, &device).require_grad();
        let beta = random([channels], 3, &device).require_grad();
        let norm = Norm { epsilon: 1e-5, rectified };
        let (ours, statistics) = operation::normalise(x.clone(), gamma.clone(), beta.clone(), norm).unwrap();
        let normal = batch_norm_train(x.clone(), gamma.clone(), beta.clone(), 1e-5);
        close("mean", statistics.mean, numbers(normal.mean).unwrap());
        close("variance", statistics.variance, numbers(normal.variance).unwrap());
        let theirs = if rectified { relu(normal.output) } else { normal.output };
        let pull = random(ours.dims(), 4, &device);
        let gradients = |y: burn::tensor::Tensor<4>| {
            let all = (y * pull.clone()).sum().backward();
            let of = |t: &burn::tensor::Tensor<1>| numbers(t.grad(&all).unwrap()).unwrap();
            (numbers(x.grad(&all).unwrap()).unwrap(), of(&gamma), of(&beta))
        };
        close("output", numbers(ours.clone()).unwrap(), numbers(theirs.clone()).unwrap());
        let (ours, theirs) = (gradients(ours), gradients(theirs));
        close("gradient of the input", ours.0, theirs.0);
        close("gradient of the scale", ours.1, theirs.1);
        close("gradient of the shift", ours.2, theirs.2);
    }
}

/// The exported file computes what the training engine computes, for every algorithm and for odd sizes and colours.
#[test]
fn the_file_and_the_training_engine_agree() {
    for (algorithm, channels, side) in [
        (Algorithm::DscnnS, 1, 9),
        (Algorithm::DscnnM, 3, 13),
        (Algorithm::DscnnS, 3, 33),
        (Algorithm::CnnS, 3, 13),
        (Algorithm::Resnet8, 3, 17),
    ] {
        let mut rng = StdRng::seed_from_u64(5);
        let mut random = |count: usize| Images {
            channels,
            height: side,
            width: side + 2,
            classes: vec!["a".into(), "b".into(), "c".into(), "d".into()],
            pixels: (0..count * channels * side * (side + 2)).map(|_| rng.random_range(-2.0..2.0)).collect(),
            labels: (0..count as u32).map(|n| n % 4).collect(),
        };
        let (train_on, other) = (random(24), random(8));
        let config = Config { algorithm, epochs: 2, ..quick() };
        let plan = NetworkPlan::for_images(algorithm, &train_on);
        let fit = Fit::new(&config, &plan, Lesson::default(), &train_on, &other);
        let fitted = fit.run(&mut Silent).unwrap();
        let network = Network::load(&plan, &fitted.weights, &Device::flex());
        let input = tensor(other.pixels.clone(), other.len(), &other, &Device::flex());
        let expected = numbers(softmax(network.forward(input).unwrap(), 1)).unwrap();
        let folded = Folded::new(fitted.weights);
        let notes = Notes { algorithm: algorithm.name(), classes: &other.classes, ranges: None };
        let file = export::onnx(&folded, &plan, notes).unwrap();
        let found = probabilities(&file, &other);
        assert_eq!(found.len(), expected.len());
        let worst = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-4, "{algorithm:?} {channels}x{side}: {worst}");
        assert!(expected.iter().any(|p| (p - 0.25).abs() > 1e-2), "the outputs say something");
    }
}

#[test]
fn the_same_seed_gives_the_same_file_and_another_seed_another() {
    let (train_on, validate_on) = (bars(60, 1), bars(30, 2));
    let config = Config { epochs: 3, ..quick() };
    let file = |config: &Config| train(config, &train_on, &validate_on, &mut Silent).unwrap().onnx;
    let first = file(&config);
    assert!(first == file(&config), "byte for byte");
    assert!(first == file(&Config { threads: 1, ..config.clone() }), "on any number of threads");
    assert!(first != file(&Config { seed: 8, ..config }));
}

#[derive(Default)]
pub(crate) struct StopAfter {
    pub(crate) epochs: u32,
    pub(crate) seen: Vec<EpochMetrics>,
}

impl Observer for StopAfter {
    fn epoch(&mut self, metrics: EpochMetrics) {
        self.seen.push(metrics);
    }
    fn cancelled(&self) -> bool {
        self.seen.len() >= self.epochs as usize
    }
}

#[test]
fn an_observer_sees_each_epoch_and_can_end_the_training() {
    let mut observer = StopAfter { epochs: 2, ..StopAfter::default() };
    let error = train(&quick(), &bars(60, 1), &bars(30, 2), &mut observer).unwrap_err();
    assert!(matches!(error, Error::Cancelled { epoch: 3 }));
    assert_eq!(error.code(), ErrorCode::Cancelled);
    assert_eq!(observer.seen.iter().map(|m| (m.epoch, m.of)).collect::<Vec<_>>(), [(1, 6), (2, 6)]);
    assert!(observer.seen[0].train_loss > 0.0 && observer.seen[0].learning_rate > 0.0);
}

#[test]
fn training_ends_early_when_validation_does_not_improve() {
    // Labels that say nothing about the image: no epoch stays the best for long.
    let mut noise = bars(30, 1);
    noise.labels.rotate_left(1);
    let config = Config { epochs: 200, patience: 2, learning_rate: 1e-7, ..quick() };
    let trained = train(&config, &noise, &bars(30, 2), &mut Silent).unwrap();
    assert!(trained.epochs < 200);
    assert_eq!(trained.epochs, trained.best_epoch + 2);
}

#[test]
fn a_training_that_diverges_says_so() {
    // The sums of the first layer leave the range of the numbers.
    let huge = |mut images: Images| {
        images.pixels.iter_mut().for_each(|p| *p *= 2e38);
        images
    };
    let error = train(&quick(), &huge(bars(60, 1)), &huge(bars(30, 2)), &mut Silent).unwrap_err();
    assert!(matches!(error, Error::Diverged { .. }), "{error}");
    assert_eq!(error.code(), ErrorCode::TrainingFailed);
}

#[test]
fn images_that_cannot_be_trained_on_are_refused() {
    let refused = |change: &dyn Fn(&mut Images, &mut Images)| {
        let (mut train_on, mut validate_on) = (bars(30, 1), bars(15, 2));
        change(&mut train_on, &mut validate_on);
        train(&quick(), &train_on, &validate_on, &mut Silent).unwrap_err()
    };
    let empty = |images: &mut Images| {
        images.pixels.clear();
        images.labels.clear();
    };
    assert!(matches!(refused(&|t, _| empty(t)), Error::NoSamples { part: "training" }));
    assert!(matches!(refused(&|_, v| empty(v)), Error::NoSamples { part: "validation" }));
    let one = refused(&|t, _| t.labels.fill(1));
    assert!(one.to_string().contains("standing"), "{one}");
    assert_eq!(one.code(), ErrorCode::DatasetTooSmall);
    assert!(matches!(refused(&|t, _| t.labels[3] = 3), Error::Mismatch { what: "a label", .. }));
    assert!(matches!(refused(&|t, _| t.pixels.truncate(100)), Error::Mismatch { .. }));
    assert!(matches!(refused(&|t, _| t.classes.truncate(1)), Error::Mismatch { .. }));
    assert!(matches!(refused(&|t, _| t.height = 1000), Error::Mismatch { what: "the height", .. }));
    assert!(matches!(refused(&|t, _| t.channels = 0), Error::Mismatch { .. }));
    assert!(matches!(refused(&|t, _| t.pixels[85] = f32::NAN), Error::NotFinite { image: 1, .. }));
    assert!(matches!(refused(&|_, v| v.classes.swap(0, 1)), Error::Mismatch { part: "validation", .. }));
    assert!(matches!(
        refused(&|_, v| (v.height, v.width) = (27, 3)),
        Error::Mismatch { part: "validation", .. }
    ));
}

#[test]
fn settings_out_of_bounds_or_unknown_are_refused() {
    let refused = |change: &dyn Fn(&mut Config)| {
        let mut config = Config::default();
        change(&mut config);
        match config.validate() {
            Err(Error::Setting { setting, .. }) => setting,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refused(&|c| c.epochs = 0), "epochs");
    assert_eq!(refused(&|c| c.batch_size = 1), "batch_size");
    assert_eq!(refused(&|c| c.learning_rate = f64::NAN), "learning_rate");
    assert_eq!(refused(&|c| c.label_smoothing = 0.9), "label_smoothing");
    assert_eq!(refused(&|c| c.augment.scale = 1.0), "augment.scale");
    Config::default().validate().unwrap();
    let read = |text| serde_json::from_str::<Config>(text);
    assert_eq!(read("{}").unwrap(), Config::default());
    assert_eq!(read(r#"{"algorithm": "dscnn-m"}"#).unwrap().algorithm, Algorithm::DscnnM);
    assert!(read(r#"{"epoch": 3}"#).unwrap_err().to_string().contains("unknown field"));
    assert!(read(r#"{"augment": {"shift": 3}}"#).is_err() && read(r#"{"algorithm": "resnet-9"}"#).is_err());
    let config = Config { seed: u64::MAX, ..quick() };
    assert_eq!(read(&serde_json::to_string(&config).unwrap()).unwrap(), config);
}

#[test]
fn a_step_that_would_not_fit_in_memory_is_refused() {
    let images = Images { height: 256, width: 256, ..bars(3, 1) };
    let plan = NetworkPlan::for_images(Algorithm::DscnnM, &images);
    assert!(plan.check_memory(8).is_ok());
    assert!(matches!(plan.check_memory(4096), Err(Error::TooLarge { .. })));
}

#[test]
fn planes_are_halved_until_they_are_small() {
    let strides = |algorithm, side| {
        let images = Images { height: side, width: side, ..bars(1, 1) };
        let mut strides =
            NetworkPlan::for_images(algorithm, &images).stages.into_iter().map(|stage| match stage {
                Stage::Conv { stride, .. }
                | Stage::Separable { stride, .. }
                | Stage::Residual { stride, .. } => stride,
            });
        (strides.next().unwrap(), strides.collect::<Vec<usize>>())
    };
    assert_eq!(strides(Algorithm::DscnnS, 4), (1, vec![1, 1, 1]));
    assert_eq!(strides(Algorithm::DscnnS, 8), (1, vec![1, 2, 1]));
    assert_eq!(strides(Algorithm::DscnnS, 28), (1, vec![1, 2, 2]));
    assert_eq!(strides(Algorithm::DscnnS, 32), (2, vec![1, 2, 2]));
    assert_eq!(strides(Algorithm::DscnnM, 96), (1, vec![1, 2, 2, 2, 2]));
    assert_eq!(strides(Algorithm::Resnet8, 32), (1, vec![1, 2, 2]));
    assert_eq!(strides(Algorithm::CnnS, 28), (1, vec![1, 2, 2]));
}

#[test]
fn the_learning_rate_rises_and_falls() {
    let schedule = Schedule::new(1.0, 4, 24);
    let rates: Vec<f64> = (0..24).map(|step| schedule.rate(step)).collect();
    assert!(rates[..5].is_sorted() && rates[4] == 1.0, "{rates:?}");
    assert!(rates[4..].is_sorted_by(|a, b| a > b) && rates[23] < 0.05, "{rates:?}");
    let only_rise = Schedule::new(1.0, 10, 1);
    assert!(only_rise.rate(0) > 0.0 && only_rise.rate(99).is_finite());
}

#[test]
fn augmentation_moves_images_but_not_their_background() {
    let image = Images { pixels: vec![-1.0; 81], labels: vec![0], ..bars(1, 1) };
    let settings = Augment { shift_px: 2.0, rotate_deg: 30.0, scale: 0.2, noise: 0.0, mirror: false };
    let mut rng = StdRng::seed_from_u64(1);
    let mut out = Vec::new();
    Augmenter::new(settings.clone(), &image).apply(&image.pixels, &mut rng, &mut out);
    assert!(
        out.iter().all(|v| (v + 1.0).abs() < 1e-5),
        "what comes in from outside has the colour of the border"
    );
    let bar = bars(1, 1);
    let augmenter = Augmenter::new(settings, &bar);
    let mut copies: Vec<Vec<f32>> = Vec::new();
    for _ in 0..8 {
        let mut copy = Vec::new();
        augmenter.apply(&bar.pixels, &mut rng, &mut copy);
        assert_eq!(copy.len(), 81);
        assert!(copy.iter().all(|v| (-1.4..=1.4).contains(v)), "values between those there were");
        assert!(!copies.contains(&copy) && copy != bar.pixels);
        copies.push(copy);
    }
    let mut same = Vec::new();
    Augmenter::new(Augment::none(), &bar).apply(&bar.pixels, &mut rng, &mut same);
    assert_eq!(same, bar.pixels);
}

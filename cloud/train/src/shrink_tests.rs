//! The parts of a shrinking, each against what it is for, on images that a test can draw.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use burn::tensor::{Device, activation::softmax};
use flotilla_compress::Recipe;
use flotilla_onnx::{Model, Node};
use flotilla_protocol::ErrorCode;
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::export::{self, ACTIVATIONS_KEY, NETWORK_KEY, Notes};
use crate::fit::{Fit, Lesson, measure, tensor};
use crate::fold::Folded;
use crate::importance::scores;
use crate::network::{Network, numbers};
use crate::prune::{Kept, choose, narrow};
use crate::rounding::Channels;
use crate::size::Frame;
use crate::tests::{StopAfter, bars, probabilities, quick};
use crate::weights::Weights;
use crate::wiring::Wiring;
use crate::{
    Algorithm, Bits, Config, Distil, Error, Images, Importance, Measure, NetworkPlan, Result, Shrink, Silent,
    Source, Stage, Teacher, Way, distil, shrink, train, train_plan,
};

const ALGORITHMS: [Algorithm; 4] =
    [Algorithm::DscnnS, Algorithm::DscnnM, Algorithm::CnnS, Algorithm::Resnet8];

/// A network that has learnt a little, so that no two of its numbers are the same by chance.
fn begun(plan: &NetworkPlan, images: &Images) -> Weights {
    let config = Config { epochs: 1, ..quick() };
    Fit::new(&config, plan, Lesson::default(), images, images).run(&mut Silent).unwrap().weights
}

fn answers(plan: &NetworkPlan, weights: &Weights, images: &Images) -> Vec<f32> {
    let device = Device::flex();
    let network = Network::load(plan, weights, &device);
    let input = tensor(images.pixels.clone(), images.len(), images, &device);
    numbers(softmax(network.forward(input).unwrap(), 1)).unwrap()
}

fn worst(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn file(plan: &NetworkPlan, weights: Weights, images: &Images) -> Vec<u8> {
    let notes = Notes { algorithm: "test", classes: &images.classes, ranges: None };
    export::onnx(&Folded::new(weights), plan, notes).unwrap()
}

#[test]
fn a_file_is_read_back_as_the_network_that_it_was() {
    let images = bars(48, 1);
    for algorithm in ALGORITHMS {
        let plan = NetworkPlan::for_images(algorithm, &images);
        let onnx = file(&plan, begun(&plan, &images), &images);
        let source = Source::read(&onnx).unwrap();
        assert_eq!(source.plan(), &plan);
        assert_eq!((source.classes(), source.bytes()), (images.classes.as_slice(), onnx.len()));
        let revived = source.revive(&images).unwrap();
        let off = worst(&answers(&plan, &revived, &images), &probabilities(&onnx, &images));
        assert!(off < 1e-4, "{algorithm:?}: {off}");
        // It learns on from there: normalised by a batch, it is still nearly the same network.
        let config = Config { epochs: 1, learning_rate: 1e-7, warmup_epochs: 0, ..quick() };
        let lesson = Lesson { start: Some(&revived), ..Lesson::default() };
        let after = Fit::new(&config, &plan, lesson, &images, &images).run(&mut Silent).unwrap();
        let off = worst(&answers(&plan, &after.weights, &images), &answers(&plan, &revived, &images));
        assert!(off < 0.1, "{algorithm:?} after an epoch: {off}");
        assert!(file(&plan, revived, &images).len() == onnx.len());
    }
}

#[test]
fn files_that_were_not_trained_here_are_refused_with_what_they_lack() {
    let images = bars(24, 1);
    let plan = NetworkPlan::for_images(Algorithm::Resnet8, &images);
    let onnx = file(&plan, begun(&plan, &images), &images);
    let refused = |onnx: &[u8]| match Source::read(onnx) {
        Err(error @ Error::NotOurs { .. }) => {
            assert_eq!(error.code(), ErrorCode::ModelUnsupported);
            error.to_string()
        }
        other => panic!("{other:?}"),
    };
    let with = |key: &str, value: &str| {
        let mut model = Model::read(&onnx).unwrap();
        model.set_metadata(key, value);
        model.write()
    };
    let message = refused(&with(NETWORK_KEY, ""));
    assert!(message.contains("trained here") && message.contains("8-bit weights"), "{message}");
    assert!(refused(&with(NETWORK_KEY, r#"{"format":2,"network":{}}"#)).contains("missing field"));
    assert!(refused(&with("classes", r#"["one"]"#)).contains("classes"));
    let note = |plan: &NetworkPlan| {
        with(NETWORK_KEY, &serde_json::to_string(&export::Note { format: 1, network: plan.clone() }).unwrap())
    };
    assert!(refused(&note(&plan.scaled(0.5, 4))).contains("stem.weight"));
    let huge =
        NetworkPlan { stages: vec![Stage::Conv { width: 1 << 40, kernel: 3, stride: 1 }], ..plan.clone() };
    assert!(refused(&note(&huge)).contains("width"));
    let newer = serde_json::to_string(&export::Note { format: 2, network: plan }).unwrap();
    assert!(refused(&with(NETWORK_KEY, &newer)).contains("format 2"));
    assert!(refused(&Recipe::default().apply(&onnx).unwrap()).contains("before it was compressed"));
    let mut model = Model::read(&onnx).unwrap();
    model.insert_nodes(0, [Node::new("Identity", ["image"], ["again"])]).unwrap();
    assert!(refused(&model.write()).contains("graph"));
    assert!(matches!(Source::read(&onnx[..onnx.len() / 2]), Err(Error::Read(_))));
    assert!(matches!(Source::read(b"no model"), Err(Error::Read(_))));
}

#[test]
fn plans_that_cannot_be_are_refused() {
    let images = bars(3, 1);
    for algorithm in ALGORITHMS {
        let plan = NetworkPlan::for_images(algorithm, &images);
        plan.validate().unwrap();
        let text = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<NetworkPlan>(&text).unwrap(), plan);
        // Known from the file that a real training writes.
        let trained = train(&Config { algorithm, epochs: 1, ..quick() }, &bars(30, 1), &images, &mut Silent);
        let summary = Model::read(&trained.unwrap().onnx).unwrap().summary();
        assert_eq!(plan.parameters(), summary.parameters);
    }
    let plan = |stages: &[Stage]| NetworkPlan {
        stages: [&[Stage::Conv { width: 8, kernel: 3, stride: 1 }], stages].concat(),
        ..NetworkPlan::for_images(Algorithm::CnnS, &images)
    };
    let refused = |plan: NetworkPlan| match plan.validate() {
        Err(Error::Plan { problem }) => problem,
        other => panic!("{other:?}"),
    };
    let residual = |width, stride| Stage::Residual { inner: 8, width, stride, projection: false };
    assert!(plan(&[residual(8, 1)]).validate().is_ok());
    assert!(refused(plan(&[residual(9, 1)])).contains("projection"));
    assert!(refused(plan(&[residual(8, 2)])).contains("projection"));
    assert!(refused(plan(&[Stage::Conv { width: 8, kernel: 2, stride: 1 }])).contains("kernel"));
    assert!(refused(plan(&[Stage::Separable { width: 0, stride: 1 }])).contains("width"));
    assert!(refused(plan(&[Stage::Separable { width: 8, stride: 3 }])).contains("stride"));
    assert!(refused(plan(&[Stage::Separable { width: 8, stride: 1 }; 64])).contains("stages"));
    assert!(refused(plan(&[Stage::Conv { width: 2048, kernel: 7, stride: 1 }; 2])).contains("numbers"));
    assert!(refused(NetworkPlan { channels: 9, ..plan(&[]) }).contains("channels"));
    assert!(refused(NetworkPlan { stages: vec![residual(1, 1)], ..plan(&[]) }).contains("first stage"));
    let wrong = NetworkPlan { height: 8, ..plan(&[]) };
    let error = train_plan(&quick(), &wrong, &bars(30, 1), &images, &mut Silent).unwrap_err();
    assert!(matches!(error, Error::Mismatch { what: "what the network takes", .. }), "{error}");
}

/// Channels that say nothing can go: around residual stages and through depthwise convolutions, nothing else changes.
#[test]
fn channels_that_say_nothing_go_without_a_trace() {
    let images = bars(40, 3);
    for algorithm in ALGORITHMS {
        let plan = NetworkPlan::for_images(algorithm, &images);
        let mut weights = begun(&plan, &images);
        let wiring = Wiring::new(&plan);
        let mut rng = StdRng::seed_from_u64(9);
        let kept: Vec<Vec<usize>> = wiring
            .widths
            .iter()
            .enumerate()
            .map(|(space, &width)| (0..width).filter(|_| space == 0 || rng.random::<f32>() < 0.6).collect())
            .collect();
        for (unit, numbers) in wiring.units.iter().zip(&mut weights.units) {
            for channel in (0..unit.outputs()).filter(|channel| !kept[unit.to].contains(channel)) {
                (numbers.gamma[channel], numbers.beta[channel]) = (0.0, 0.0);
            }
        }
        for importance in [Importance::Taylor, Importance::Norm, Importance::Scale] {
            let scores = scores(importance, &plan, &weights, &images).unwrap();
            for (space, scores) in scores.iter().enumerate().skip(1) {
                let silent = |channel: &usize| !kept[space].contains(channel);
                let (silent, heard): (Vec<usize>, Vec<usize>) = (0..scores.len()).partition(silent);
                assert!(silent.iter().all(|&channel| scores[channel] == 0.0), "{algorithm:?} {importance:?}");
                assert!(heard.iter().any(|&channel| scores[channel] > 0.0), "{algorithm:?} {importance:?}");
            }
        }
        let (small, narrowed) = narrow(&plan, &weights, &Kept(kept));
        small.validate().unwrap();
        assert!(small.macs() < plan.macs() / 2, "{algorithm:?}");
        let expected = answers(&plan, &weights, &images);
        let off = worst(&answers(&small, &narrowed, &images), &expected);
        assert!(off < 1e-5, "{algorithm:?}: {off}");
        let off = worst(&probabilities(&file(&small, narrowed, &images), &images), &expected);
        assert!(off < 1e-4, "{algorithm:?} in its file: {off}");
    }
}

#[test]
fn a_cut_meets_its_goal_and_leaves_every_layer_half_of_its_channels() {
    let images = bars(40, 3);
    for (algorithm, measure) in [(Algorithm::DscnnS, Measure::Bytes), (Algorithm::Resnet8, Measure::Macs)] {
        let plan = NetworkPlan::for_images(algorithm, &images);
        let weights = begun(&plan, &images);
        let frame = Frame::of(&plan, file(&plan, weights.clone(), &images).len());
        let scores = scores(Importance::Taylor, &plan, &weights, &images).unwrap();
        let cut = |goal| {
            let kept = choose(&plan, frame, &scores, measure, goal);
            let widths: Vec<usize> = kept.0.iter().map(Vec::len).collect();
            (frame.measure(measure, &plan.with_widths(&widths)), widths)
        };
        let before = frame.measure(measure, &plan);
        let goal = before * 7 / 10;
        let (after, _) = cut(goal);
        assert!(after <= goal && after > goal * 9 / 10, "{after} for {goal}");
        let (_, least) = cut(0);
        let all = Wiring::new(&plan).widths;
        assert_eq!(least[0], all[0]);
        assert!(all.iter().zip(&least).skip(1).all(|(all, least)| *least == all.div_ceil(2)));
    }
}

/// The scale of rounded weights is the one that `flotilla-compress` finds, to the last bit.
#[test]
fn rounded_weights_are_what_compression_stores() {
    let mut rng = StdRng::seed_from_u64(4);
    for bits in [Bits::Eight, Bits::Four] {
        for _ in 0..20_000 {
            let size = 10.0_f32.powf(rng.random_range(-12.0..6.0));
            let mut values: Vec<f32> = (0..9).map(|_| size * rng.random_range(-1.0..1.0)).collect();
            bits.round(&mut values, Channels::rows(1));
            let peak = values.iter().fold(0.0_f32, |most, v| most.max(v.abs()));
            let scale = peak / bits.largest();
            let again: Vec<f32> = values.iter().map(|v| (v / scale).round_ties_even() * scale).collect();
            assert_eq!(values, again, "{bits:?}");
        }
    }
    let images = bars(40, 3);
    let plan = NetworkPlan::for_images(Algorithm::DscnnM, &images);
    let notes = Notes { algorithm: "test", classes: &images.classes, ranges: None };
    let folded = Folded::new(begun(&plan, &images));
    let float = export::onnx(&folded.clone().rounded(Bits::Eight), &plan, notes).unwrap();
    let int8 = Recipe::default().apply(&float).unwrap();
    assert!(int8.len() < float.len() / 3);
    let mut whole = 0;
    let (float_model, int8_model) = (Model::read(&float).unwrap(), Model::read(&int8).unwrap());
    for node in int8_model.nodes().iter().filter(|node| node.op_type == "Mul") {
        let integers = int8_model.producer_of(&node.input[0]).unwrap().input[0].clone();
        let integers = int8_model.tensor_i8(&integers).unwrap().data;
        let scales = int8_model.tensor_f32(&node.input[1]).unwrap().data;
        let each = integers.len() / scales.len();
        let stored = integers.iter().enumerate().map(|(n, &v)| f32::from(v) * scales[n / each]);
        assert_eq!(stored.collect::<Vec<f32>>(), float_model.tensor_f32(&node.output[0]).unwrap().data);
        whole += 1;
    }
    assert_eq!(whole, 12, "all of the weights but one of nine a channel and few channels");
    let unrounded = export::onnx(&folded, &plan, notes).unwrap();
    let lost = worst(&probabilities(&unrounded, &images), &probabilities(&float, &images));
    assert!(lost > 0.0 && lost < 0.05, "{lost}");
}

#[test]
fn training_with_rounded_weights_loses_less_than_rounding_afterwards() {
    let noisy = |mut images: Images| {
        let mut rng = StdRng::seed_from_u64(images.len() as u64);
        images.pixels.iter_mut().for_each(|pixel| *pixel += rng.random_range(-1.5..1.5));
        images
    };
    let (train_on, validate_on) = (noisy(bars(240, 1)), noisy(bars(120, 2)));
    let plan = NetworkPlan::for_images(Algorithm::CnnS, &train_on).scaled(0.2, 4);
    let weights = Fit::new(&quick(), &plan, Lesson::default(), &train_on, &validate_on)
        .run(&mut Silent)
        .unwrap()
        .weights;
    let loss = |weights: &Weights, bits: Option<Bits>| {
        measure(&plan, weights, bits.map(|bits| (bits, None)), &validate_on).unwrap().loss()
    };
    let learn = |bits| {
        let config = Config { epochs: 4, learning_rate: 0.002, warmup_epochs: 0, ..quick() };
        let lesson = Lesson { start: Some(&weights), bits, ..Lesson::default() };
        Fit::new(&config, &plan, lesson, &train_on, &validate_on).run(&mut Silent).unwrap().weights
    };
    let bits = Some(Bits::Four);
    let (aware, unaware) = (loss(&learn(bits), bits), loss(&learn(None), bits));
    assert!(aware < unaware, "{aware} after training with 4 bits, {unaware} without");
}

/// Says what the bars are, for images of which no label says anything.
struct Knows;

impl Teacher for Knows {
    fn logits(&mut self, pixels: &[f32], images: usize) -> Result<Vec<f32>> {
        let side = 9;
        let mut logits = Vec::new();
        for image in pixels.chunks_exact(pixels.len() / images) {
            let row = |y: usize| image[y * side..(y + 1) * side].iter().sum::<f32>();
            let column = |x: usize| (0..side).map(|y| image[y * side + x]).sum::<f32>();
            let most = |sums: &dyn Fn(usize) -> f32| (0..side).map(sums).fold(f32::NEG_INFINITY, f32::max);
            logits.extend([most(&row), most(&column), 3.0]);
        }
        Ok(logits)
    }
}

#[test]
fn a_student_learns_what_its_teacher_knows_and_no_label_says() {
    let (mut train_on, validate_on, unseen) = (bars(240, 1), bars(60, 2), bars(150, 3));
    train_on.labels.iter_mut().enumerate().for_each(|(n, label)| *label = (n / 3) as u32 % 3);
    let plan = NetworkPlan::for_images(Algorithm::DscnnS, &train_on).scaled(0.3, 4);
    let config = Config { epochs: 12, augment: crate::Augment::none(), ..quick() };
    let right = |alpha| {
        let settings = Distil { temperature: 2.0, alpha };
        let trained =
            distil(&config, settings, &plan, &mut Knows, &train_on, &validate_on, &mut Silent).unwrap();
        crate::tests::accuracy(&trained.onnx, &unseen)
    };
    let (taught, untaught) = (right(1.0), right(0.0));
    assert!(taught > 0.9 && untaught < 0.7, "{taught} {untaught}");
    struct Silence;
    impl Teacher for Silence {
        fn logits(&mut self, _pixels: &[f32], _images: usize) -> Result<Vec<f32>> {
            Ok(Vec::new())
        }
    }
    let settings = Distil::default();
    let error = distil(&config, settings, &plan, &mut Silence, &train_on, &validate_on, &mut Silent);
    assert!(matches!(error.unwrap_err(), Error::Mismatch { part: "teacher's", .. }));
}

fn small() -> Shrink {
    Shrink {
        shares: vec![0.15, 0.12],
        cut_epochs: 1,
        epochs: 3,
        rounded_epochs: 1,
        batch_size: 16,
        threads: 1,
        seed: 3,
        ..Shrink::default()
    }
}

fn source(images: &Images) -> Source {
    Source::read(&train(&quick(), images, &bars(60, 2), &mut Silent).unwrap().onnx).unwrap()
}

#[test]
fn a_series_is_the_same_for_a_seed_and_its_files_are_sources_again() {
    let (train_on, validate_on) = (bars(120, 1), bars(60, 2));
    let source = source(&train_on);
    let run = |settings: &Shrink| {
        let mut shrunk = shrink(settings, &source, &train_on, &validate_on, &mut Silent).unwrap();
        shrunk.points.iter_mut().for_each(|point| point.seconds = 0.0);
        shrunk
    };
    let first = run(&small());
    assert!(first == run(&small()), "byte for byte");
    assert!(first.points[0].onnx != run(&Shrink { seed: 4, ..small() }).points[0].onnx);
    assert_eq!((first.points.len(), first.bytes), (2, source.bytes() as u64));
    for (point, share) in first.points.iter().zip([0.15, 0.12]) {
        assert!(point.share <= share && point.share > share * 0.8, "{point:?}");
        let file = Recipe::default().apply(&point.onnx).unwrap();
        assert!(file.len().abs_diff(point.int8_bytes as usize) * 50 < file.len(), "{} {point:?}", file.len());
        let found = crate::tests::accuracy(&file, &validate_on);
        assert!((found - point.accuracy).abs() < 0.02, "{found} {point:?}");
        assert_eq!(Source::read(&point.onnx).unwrap().plan(), &point.plan);
        assert_eq!((point.plan.macs(), point.plan.parameters()), (point.macs, point.parameters));
    }
    let student = run(&Shrink { way: Way::Student, ..small() });
    assert!(student.points[0].plan != first.points[0].plan && student.points[0].share <= 0.15);
}

#[test]
fn a_series_in_multiplications_and_with_activations_of_few_bits() {
    let (train_on, validate_on) = (bars(120, 1), bars(60, 2));
    let source = source(&train_on);
    let settings = Shrink { shares: vec![0.5], measure: Measure::Macs, activations: true, ..small() };
    let shrunk = shrink(&settings, &source, &train_on, &validate_on, &mut Silent).unwrap();
    let point = &shrunk.points[0];
    assert!(point.macs * 2 <= shrunk.macs && point.macs * 5 > shrunk.macs * 2, "{point:?}");
    let model = Model::read(&point.onnx).unwrap();
    let ranges: std::collections::BTreeMap<String, [f32; 2]> =
        serde_json::from_str(model.metadata_value(ACTIVATIONS_KEY).unwrap()).unwrap();
    let made = |name: &str| model.producer_of(name).is_some() || name == "image";
    assert!(ranges.keys().all(|name| made(name)), "{ranges:?}");
    assert_eq!(ranges.len(), 8);
    for (name, [low, high]) in &ranges {
        assert!(low < high, "{name}");
        assert_eq!(*low == 0.0, name != "image", "{name} is rectified: {low}");
    }
}

#[test]
fn a_shrinking_can_be_watched_and_ended() {
    let (train_on, validate_on) = (bars(60, 1), bars(30, 2));
    let source = source(&train_on);
    let mut observer = StopAfter { epochs: 3, ..StopAfter::default() };
    let error = shrink(&small(), &source, &train_on, &validate_on, &mut observer).unwrap_err();
    assert_eq!(error.code(), ErrorCode::Cancelled);
    assert_eq!(observer.seen.iter().map(|m| m.epoch).collect::<Vec<_>>(), [1, 2, 3]);
}

#[test]
fn what_cannot_be_shrunk_is_refused() {
    let (train_on, validate_on) = (bars(60, 1), bars(30, 2));
    let source = source(&train_on);
    let refused =
        |settings: Shrink| shrink(&settings, &source, &train_on, &validate_on, &mut Silent).unwrap_err();
    let setting = |settings| match refused(settings) {
        Error::Setting { setting, .. } => setting,
        other => panic!("{other}"),
    };
    assert_eq!(setting(Shrink { shares: vec![], ..small() }), "shares");
    assert_eq!(setting(Shrink { shares: vec![0.1, 0.2], ..small() }), "shares");
    assert_eq!(setting(Shrink { shares: vec![f64::NAN], ..small() }), "shares");
    assert_eq!(setting(Shrink { max_drop: -0.1, ..small() }), "max_drop");
    assert_eq!(setting(Shrink { epochs: 0, ..small() }), "epochs");
    assert_eq!(
        setting(Shrink { distil: Distil { alpha: 2.0, temperature: 1.0 }, ..small() }),
        "distil.alpha"
    );
    let hot = Distil { alpha: 0.5, temperature: 0.0 };
    assert_eq!(setting(Shrink { distil: hot, ..small() }), "distil.temperature");
    for way in [Way::Prune, Way::Student] {
        let error = refused(Shrink { shares: vec![0.01], way, epochs: 1, ..small() });
        assert!(matches!(error, Error::OutOfReach { .. }), "{error}");
        assert_eq!(error.code(), ErrorCode::OverBudget);
    }
    let mut others = train_on.clone();
    others.classes.swap(0, 1);
    let like = Images { classes: others.classes.clone(), ..validate_on.clone() };
    let error = shrink(&small(), &source, &others, &like, &mut Silent).unwrap_err();
    assert!(matches!(error, Error::Mismatch { what: "the list of classes", .. }), "{error}");
}

//! Each transform on its own: exact where it should be, and worth it where it rounds.

use flotilla_compress::{Calibration, Error, Form, Means, Recipe, Rounding, Step, Weights};
use flotilla_onnx::{GraphBuilder, Model, Node};
use flotilla_protocol::ErrorCode;

use crate::support::{Noise, SIDE, difference, graph, run};

const SHAPE: [usize; 4] = [1, 1, SIDE, SIDE];

/// Two convolutions with normalisation, a depthwise one in between, scale and shift in other spellings, and a dense layer
/// whose bias is added by a node of its own.
fn normalised(activation: &str) -> Model {
    let mut noise = Noise(21);
    let mut some = |count: usize, scale: f32| -> Vec<f32> {
        noise.values(count).into_iter().map(|v| v * scale).collect()
    };
    let mut builder = graph("normalised", 10)
        .initializer_f32("conv1", &[16, 1, 3, 3], some(144, 0.5))
        .initializer_f32("conv2", &[16, 1, 3, 3], some(144, 0.5))
        .initializer_f32("bias2", &[16], some(16, 0.3))
        .initializer_f32("conv3", &[24, 16, 1, 1], some(384, 0.4))
        .initializer_f32("factor", &[24, 1, 1], some(24, 1.0))
        .initializer_f32("shift", &[1, 24, 1, 1], some(24, 0.2))
        .initializer_f32("one_for_all", &[], vec![1.5])
        .initializer_f32("dense", &[24, 10], some(240, 0.4))
        .initializer_f32("dense_bias", &[10], some(10, 0.4));
    for (norm, channels) in [("n1", 16), ("n2", 16)] {
        let spread = some(channels, 0.4).iter().map(|v| v.abs() + 0.2).collect();
        builder = builder
            .initializer_f32(&format!("{norm}_scale"), &[channels], some(channels, 1.5))
            .initializer_f32(&format!("{norm}_shift"), &[channels], some(channels, 0.5))
            .initializer_f32(&format!("{norm}_mean"), &[channels], some(channels, 0.5))
            .initializer_f32(&format!("{norm}_variance"), &[channels], spread);
    }
    let normalise = |input: &str, norm: &str, output: &str| {
        let parts = ["scale", "shift", "mean", "variance"].map(|part| format!("{norm}_{part}"));
        let inputs = std::iter::once(input.to_owned()).chain(parts);
        Node::new("BatchNormalization", inputs, [output]).float("epsilon", 1e-3)
    };
    let active = |input: &str, output: &str| Node::new(activation, [input], [output]);
    builder
        .node(Node::new("Conv", ["image", "conv1"], ["c1"]).ints("pads", [1, 1, 1, 1]))
        .node(normalise("c1", "n1", "b1"))
        .node(active("b1", "r1"))
        .node(
            Node::new("Conv", ["r1", "conv2", "bias2"], ["c2"])
                .int("group", 16)
                .ints("strides", [2, 2])
                .ints("pads", [0, 0, 1, 1]),
        )
        .node(normalise("c2", "n2", "b2"))
        .node(active("b2", "r2"))
        .node(Node::new("Conv", ["r2", "conv3"], ["c3"]))
        .node(Node::new("Mul", ["c3", "factor"], ["m3"]))
        .node(Node::new("Sub", ["m3", "shift"], ["s3"]))
        .node(Node::new("Div", ["s3", "one_for_all"], ["d3"]))
        .node(active("d3", "r3"))
        .node(Node::new("GlobalAveragePool", ["r3"], ["p"]))
        .node(Node::new("Flatten", ["p"], ["f"]).int("axis", 1))
        .node(Node::new("MatMul", ["f", "dense"], ["g"]))
        .node(Node::new("Add", ["g", "dense_bias"], ["logits"]))
        .build()
        .unwrap()
}

fn inputs(count: u64) -> Vec<Vec<f32>> {
    (0..count).map(|seed| Noise(100 + seed).values(SIDE * SIDE)).collect()
}

fn calibration(count: u64) -> Calibration {
    let samples = (0..count).map(|seed| Noise(5000 + seed).values(SIDE * SIDE)).collect();
    Calibration::new(SHAPE, samples).unwrap()
}

/// The largest difference of outputs over some inputs.
fn apart(before: &[u8], after: &[u8]) -> f32 {
    let off = inputs(8)
        .into_iter()
        .map(|input| difference(&run(before, &SHAPE, &input), &run(after, &SHAPE, &input)));
    off.fold(0.0, f32::max)
}

/// The mean square of what outputs are off, and of their mean over inputs.
fn errors(before: &[u8], after: &[u8]) -> (f64, f64) {
    let mut sums = [0.0; 10];
    let (mut square, inputs) = (0.0, inputs(40));
    for input in &inputs {
        let (expected, found) = (run(before, &SHAPE, input), run(after, &SHAPE, input));
        for (sum, (a, b)) in sums.iter_mut().zip(expected.iter().zip(&found)) {
            *sum += f64::from(b - a);
            square += f64::from(b - a).powi(2);
        }
    }
    let count = inputs.len() as f64;
    (square / count, sums.iter().map(|sum| (sum / count).powi(2)).sum())
}

fn operators(onnx: &[u8]) -> Vec<String> {
    Model::read(onnx).unwrap().summary().operators.into_keys().collect()
}

#[test]
fn normalisation_and_constant_factors_fold_into_the_layers_before() {
    let float = normalised("Relu").write();
    let folded = Recipe::new(vec![Step::Fold {}]).apply(&float).unwrap();
    assert_eq!(
        operators(&folded),
        ["Add", "Conv", "Flatten", "GlobalAveragePool", "MatMul", "Relu"],
        "the sum behind `MatMul` is its bias"
    );
    let off = apart(&float, &folded);
    assert!(off > 0.0 && off < 1e-5, "{off}");
    let model = Model::read(&folded).unwrap();
    assert!(model.initializer("n1_scale").is_none() && model.initializer("factor").is_none());
    assert_eq!(
        model.tensor_f32("bias2").unwrap().dims,
        [16],
        "a bias that was there is changed in its place"
    );
}

#[test]
fn what_others_read_as_well_is_not_folded() {
    let mut proto = normalised("Relu").into_proto();
    let graph = proto.graph.as_mut().unwrap();
    let mut second = graph.output[0].clone();
    second.name = "c1".into();
    graph.output.push(second);
    let float = Model::from_proto(proto).unwrap();
    let folded = Model::read(&Recipe::new(vec![Step::Fold {}]).apply(&float.write()).unwrap()).unwrap();
    let left = folded.summary().operators;
    assert_eq!(left["BatchNormalization"], 1, "the one behind `c1`, which the caller gets");
    assert_eq!(folded.tensor_f32("conv1").unwrap(), float.tensor_f32("conv1").unwrap());
}

#[test]
fn equalisation_changes_weights_and_nothing_else() {
    let float = normalised("Relu").write();
    let steps = |rounds| Recipe::new(vec![Step::Fold {}, Step::Equalise { rounds }]);
    let equal = steps(20).apply(&float).unwrap();
    let off = apart(&float, &equal);
    assert!(off > 0.0 && off < 1e-5, "{off}");
    let (before, after) = (
        Model::read(&Recipe::new(vec![Step::Fold {}]).apply(&float).unwrap()).unwrap(),
        Model::read(&equal).unwrap(),
    );
    // Channel by channel, the largest weights of neighbours are the same now.
    let by_row = |model: &Model, name: &str, cols: usize| -> Vec<f32> {
        let rows = model.tensor_f32(name).unwrap().data;
        rows.chunks(cols).map(|row| row.iter().fold(0.0_f32, |peak, v| peak.max(v.abs()))).collect()
    };
    let off = |model: &Model| -> f32 {
        let (first, second) = (by_row(model, "conv1", 9), by_row(model, "conv2", 9));
        first.iter().zip(&second).map(|(a, b)| (a / b).ln().abs()).fold(0.0, f32::max)
    };
    assert!(off(&before) > 0.5 && off(&after) < 0.05, "{} to {}", off(&before), off(&after));
}

#[test]
fn factors_do_not_pass_operators_with_an_edge() {
    let float = normalised("Sigmoid").write();
    let folded = Recipe::new(vec![Step::Fold {}]).apply(&float).unwrap();
    let equal = Recipe::new(vec![Step::Fold {}, Step::Equalise { rounds: 5 }]).apply(&float).unwrap();
    assert!(folded == equal, "nothing is moved over a Sigmoid");
}

#[test]
fn factors_do_not_pass_windows_over_the_channels_of_dense_layers() {
    let mut noise = Noise(9);
    let window =
        Node::new("AveragePool", ["a"], ["p"]).ints("kernel_shape", [1, 3]).ints("pads", [0, 1, 0, 1]);
    let float = GraphBuilder::new("smoothed")
        .input(flotilla_onnx::Value::f32("image", [1_usize, 1, SIDE, SIDE]))
        .output(flotilla_onnx::Value::f32("logits", [1_usize, 10]))
        .initializer_f32("first", &[SIDE, SIDE], noise.values(SIDE * SIDE))
        .initializer_f32("second", &[SIDE, 10], noise.values(SIDE * 10))
        .node(Node::new("MatMul", ["image", "first"], ["a"]))
        .node(window)
        .node(Node::new("MatMul", ["p", "second"], ["b"]))
        .node(Node::new("ReduceMean", ["b"], ["logits"]).ints("axes", [1, 2]).int("keepdims", 0))
        .build()
        .unwrap()
        .write();
    let equal = Recipe::new(vec![Step::Equalise { rounds: 5 }]).apply(&float).unwrap();
    let off = apart(&float, &equal);
    assert!(off < 1e-5, "{off}");
}

#[test]
fn reconstructed_rounding_and_corrected_biases_bring_outputs_nearer() {
    let float = normalised("Relu").write();
    let set = calibration(64);
    let build = |rounding, correct: Option<Means>| {
        let weights = Weights { min_elements: 1, rounding, ..Weights::new(Form::Int4) };
        let mut steps = vec![Step::Fold {}, Step::Weights(weights)];
        steps.extend(correct.map(|by| Step::CorrectBias { by }));
        Recipe::new(steps).apply_with(&float, &set).unwrap()
    };
    let (nearest, bias) = errors(&float, &build(Rounding::Nearest, None));
    let (reconstructed, _) = errors(&float, &build(Rounding::Reconstruct, None));
    assert!(reconstructed < 0.6 * nearest, "{reconstructed} of {nearest}");
    let (corrected, left) = errors(&float, &build(Rounding::Nearest, Some(Means::Samples)));
    assert!(corrected < nearest && left < 0.05 * bias, "{corrected} of {nearest}, mean {left} of {bias}");
    let (both, _) = errors(&float, &build(Rounding::Reconstruct, Some(Means::Samples)));
    assert!(both < 0.5 * nearest, "{both} of {nearest}");
}

#[test]
fn what_normalisation_knew_corrects_biases_without_samples() {
    // Normalisation whose numbers are those of the data, as training leaves them.
    let (mut moments, samples) = (vec![(0.0, 0.0); 16], inputs(200));
    let mut noise = Noise(77);
    let weight: Vec<f32> = noise.values(256 * 16);
    for input in &samples {
        for (row, (sum, square)) in moments.iter_mut().enumerate() {
            let value: f32 = weight[row * 256..(row + 1) * 256].iter().zip(input).map(|(w, x)| w * x).sum();
            (*sum, *square) = (*sum + f64::from(value), *square + f64::from(value).powi(2));
        }
    }
    let mean: Vec<f32> = moments.iter().map(|(sum, _)| (sum / 200.0) as f32).collect();
    let variance = moments.iter().zip(&mean).map(|((_, s), m)| (s / 200.0) as f32 - m * m).collect();
    let model = GraphBuilder::new("known")
        .input(flotilla_onnx::Value::f32("image", [1_usize, 1, SIDE, SIDE]))
        .output(flotilla_onnx::Value::f32("logits", [1_usize, 10]))
        .initializer_f32("first", &[16, 256], weight)
        .initializer_f32("scale", &[16], vec![1.0; 16])
        .initializer_f32("shift", &[16], vec![0.5; 16])
        .initializer_f32("mean", &[16], mean)
        .initializer_f32("variance", &[16], variance)
        .initializer_f32("second", &[10, 16], noise.values(160))
        .initializer_f32("bias", &[10], noise.values(10))
        .node(Node::new("Flatten", ["image"], ["x"]).int("axis", 1))
        .node(Node::new("Gemm", ["x", "first"], ["g"]).int("transB", 1))
        .node(Node::new("BatchNormalization", ["g", "scale", "shift", "mean", "variance"], ["b"]))
        .node(Node::new("Relu", ["b"], ["r"]))
        .node(Node::new("Gemm", ["r", "second", "bias"], ["logits"]).int("transB", 1))
        .build()
        .unwrap();
    let float = model.write();
    // Only the second layer is rounded, and coarsely, so that its bias has something to take back.
    let weights = Weights { min_elements: 1, only: vec!["second".into()], ..Weights::new(Form::Int4) };
    let plain = Recipe::new(vec![Step::Fold {}, Step::Weights(weights.clone())]).apply(&float).unwrap();
    let steps = vec![Step::Fold {}, Step::Weights(weights), Step::CorrectBias { by: Means::Norms }];
    let corrected = Recipe::new(steps).apply(&float).unwrap();
    let ((_, before), (_, after)) = (errors(&float, &plain), errors(&float, &corrected));
    assert!(after < 0.2 * before, "{after} of {before}");
}

#[test]
fn sixteen_bit_floats_halve_the_file_and_hardly_change_it() {
    let float = normalised("Relu").write();
    let weights = Weights { min_elements: 16, ..Weights::new(Form::F16) };
    let half = Recipe::new(vec![Step::Fold {}, Step::Weights(weights), Step::Tidy {}]).apply(&float).unwrap();
    let off = apart(&float, &half);
    assert!(off > 0.0 && off < 1e-3, "{off}");
    assert!(half.len() * 2 < float.len(), "{} of {}", half.len(), float.len());
    // What 16 bits cannot hold stays: a layer whose elements differ by nine orders of magnitude keeps the large ones.
    let wide = graph("wide", 2)
        .initializer_f32("w", &[256, 2], (0..512).map(|i| if i == 0 { 1e5 } else { 1.0 }).collect())
        .node(Node::new("Flatten", ["image"], ["x"]).int("axis", 1))
        .node(Node::new("MatMul", ["x", "w"], ["logits"]))
        .build()
        .unwrap()
        .write();
    let error = Recipe::new(vec![Step::Weights(Weights::new(Form::F16))]).apply(&wide).unwrap_err();
    assert!(matches!(error, Error::NothingToCompress { .. }), "{error}");
}

#[test]
fn both_forms_of_four_bits_compute_what_they_hold() {
    let float = normalised("Relu").write();
    for (form, layers) in [(Form::Int4, 2), (Form::MatMulNBits, 1)] {
        let weights = Weights { min_elements: 1, ..Weights::new(form) };
        let steps = vec![Step::Fold {}, Step::Weights(weights), Step::Tidy {}];
        let four = Recipe::new(steps).apply(&float).unwrap();
        let off = apart(&float, &four);
        assert!(off > 1e-4 && off < 0.3, "{form}: {off}");
        let model = Model::read(&four).unwrap();
        let count = model.summary().operators;
        let found = if form == Form::Int4 { count["Floor"] } else { count["com.microsoft.MatMulNBits"] };
        assert_eq!(found, layers, "{form}");
        // What a tensor of 15 evenly spread values becomes is exact.
        let exact: Vec<f32> = (0..2560).map(|i| (((i / 10 * 4 + i) % 15) as f32 - 7.0) * 0.125).collect();
        let grid = graph("grid", 10)
            .initializer_f32("w", &[256, 10], exact)
            .initializer_f32("b", &[10], Noise(4).values(10))
            .node(Node::new("Flatten", ["image"], ["x"]).int("axis", 1))
            .node(Node::new("Gemm", ["x", "w", "b"], ["logits"]))
            .build()
            .unwrap()
            .write();
        let weights = Weights::new(form);
        let packed = Recipe::new(vec![Step::Weights(weights), Step::Tidy {}]).apply(&grid).unwrap();
        assert!(packed.len() * 10 < grid.len() * 2, "{form}: {} of {}", packed.len(), grid.len());
        let off = apart(&grid, &packed);
        assert!(off < 1e-5, "{form}: {off}");
    }
}

#[test]
fn precision_is_mixed_layer_by_layer_in_the_order_of_the_steps() {
    let float = normalised("Relu").write();
    let of = |form, only: &[&str]| {
        let only = only.iter().map(|&name| name.to_owned()).collect();
        Step::Weights(Weights { min_elements: 1, only, ..Weights::new(form) })
    };
    let steps = vec![
        Step::Fold {},
        of(Form::Int4, &["conv3"]),
        of(Form::F16, &["conv1"]),
        Step::Weights(Weights { min_elements: 1, except: vec!["dense".into()], ..Weights::new(Form::Int8) }),
    ];
    let mixed = Recipe::new(steps).apply(&float).unwrap();
    let model = Model::read(&mixed).unwrap();
    let maker = |name: &str| model.producer_of(name).map(|node| node.op_type.as_str());
    assert_eq!(
        [maker("conv1"), maker("conv2"), maker("conv3")],
        [Some("Cast"), Some("Mul"), Some("Reshape")]
    );
    assert!(model.initializer("dense").is_some());
    assert!(apart(&float, &mixed) < 0.2);
}

#[test]
fn tidy_files_are_smaller_and_the_same() {
    let float = normalised("Relu").write();
    let tidy = Recipe::new(vec![Step::StripNotes { everywhere: true }, Step::Tidy {}]).apply(&float).unwrap();
    assert!(tidy.len() + 250 < float.len(), "{} of {}", tidy.len(), float.len());
    assert_eq!(apart(&float, &tidy), 0.0);
    let (before, after) = (Model::read(&float).unwrap(), Model::read(&tidy).unwrap());
    assert_eq!((before.inputs(), before.outputs()), (after.inputs(), after.outputs()));
}

#[test]
fn recipes_with_samples_are_replayed_with_the_same_samples_only() {
    let float = normalised("Relu").write();
    let set = calibration(16);
    let weights = Weights { min_elements: 1, rounding: Rounding::Reconstruct, ..Weights::new(Form::Int8) };
    let steps =
        vec![Step::Fold {}, Step::Weights(weights), Step::CorrectBias { by: Means::Samples }, Step::Tidy {}];
    let recipe = Recipe { calibration: Some(set.digest()), ..Recipe::new(steps) };
    let once = recipe.apply_with(&float, &set).unwrap();
    let again: Recipe = serde_json::from_str(&serde_json::to_string(&recipe).unwrap()).unwrap();
    assert!(again.apply_with(&float, &calibration(16)).unwrap() == once, "the same bytes");
    let error = recipe.apply_with(&float, &calibration(17)).unwrap_err();
    assert!(matches!(error, Error::OtherCalibration { .. }), "{error}");
    assert_eq!(error.code(), ErrorCode::InvalidInput);
    let error = recipe.apply(&float).unwrap_err();
    assert!(matches!(error, Error::NeedsCalibration { step: 1 }), "{error}");
    assert!(error.to_string().starts_with("step 2 of the recipe"), "people count from 1: {error}");
}

#[test]
fn calibration_sets_that_cannot_be_meant_are_refused() {
    let problem = |shape: &[usize], samples: Vec<Vec<f32>>| {
        let error = Calibration::new(shape, samples).unwrap_err();
        assert!(matches!(error, Error::Calibration { .. }), "{error}");
        assert_eq!(error.code(), ErrorCode::InvalidInput);
        error.to_string()
    };
    assert!(problem(&[1, 2], vec![]).contains("it is empty"));
    assert!(problem(&[1, 2], vec![vec![0.0; 2], vec![0.0; 3]]).contains("sample 1 has 3 values"));
    assert!(problem(&[1, 2], vec![vec![0.0, f32::NAN]]).contains("no finite number"));
    assert!(problem(&[0], vec![vec![]]).contains("has 0"));
    assert!(problem(&[usize::MAX, 2], vec![vec![1.0]]).contains("has 0"));
    assert!(problem(&[1], vec![vec![1.0]; 4097]).contains("limit"));
    let set = Calibration::new([1], vec![vec![1.0], vec![2.0]]).unwrap();
    assert!(matches!(set.clone().labelled(vec![1]), Err(Error::LabelCount { samples: 2, labels: 1 })));
    assert_eq!(set.clone().labelled(vec![3, 3]).unwrap().only_class(), Some(3));
    assert_eq!((set.clone().labelled(vec![3, 4]).unwrap().only_class(), set.only_class()), (None, None));
    // The model takes something else.
    let error = Recipe::new(vec![Step::CorrectBias { by: Means::Samples }]);
    let weights = Weights { rounding: Rounding::Reconstruct, min_elements: 1, ..Weights::new(Form::Int8) };
    assert!(
        error.apply_with(&normalised("Relu").write(), &set).is_ok(),
        "nothing was rounded, so nothing is run"
    );
    let error =
        Recipe::new(vec![Step::Weights(weights)]).apply_with(&normalised("Relu").write(), &set).unwrap_err();
    assert!(matches!(error, Error::Runtime(_)), "{error}");
}

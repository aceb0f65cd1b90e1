//! The pipeline that is guessed around a model.

use flotilla_import::{Colour, Detection, Guess, Input, Layout, Level, Normalisation, Output};
use flotilla_onnx::{DataType, Dim, GraphBuilder, Node, Value};

use crate::support::{classifier, import, noise, report};

fn image(input: &Input) -> (Layout, Option<usize>, Option<usize>, Colour, Normalisation) {
    match *input {
        Input::Image { layout, width, height, colour, normalisation } => {
            (layout, width, height, colour, normalisation)
        }
        ref other => panic!("{other:?}"),
    }
}

#[test]
fn models_of_the_test_data_are_what_they_are() {
    let guess = |path: &str| report(path).map(|report| report.guess);
    let Some(resnet) = guess("mlperf-tiny/ic_resnet8_float.onnx") else { return };
    assert_eq!(
        image(&resnet.input),
        (Layout::Nhwc, Some(32), Some(32), Colour::Colour, Normalisation::Unknown)
    );
    let ten = Output::Classification { classes: 10, probabilities: true, several: false };
    assert_eq!(resnet.output, ten, "{resnet:?}");

    let resnet = guess("mlperf-tiny/ic_resnet8_int8.onnx").unwrap();
    assert_eq!(resnet.output, ten, "{resnet:?}");
    let (.., normalisation) = image(&resnet.input);
    assert!(
        matches!(normalisation, Normalisation::Quantised { zero: -128, most, .. } if most == 255.0),
        "{resnet:?}"
    );
    let vww = guess("mlperf-tiny/vww_mobilenetv1_int8.onnx").unwrap();
    let (.., normalisation) = image(&vww.input);
    assert!(
        matches!(normalisation, Normalisation::Quantised { most, .. } if (most - 1.0).abs() < 0.01),
        "{vww:?}"
    );

    for path in ["mlperf-tiny/kws_dscnn_float.onnx", "mlperf-tiny/kws_dscnn_int8.onnx"] {
        let kws = guess(path).unwrap();
        assert!(
            matches!(kws.input, Input::SoundFeatures { frames: Some(49), features: Some(10), .. }),
            "{kws:?}"
        );
        assert!(
            matches!(kws.output, Output::Classification { classes: 12, probabilities: true, .. }),
            "{kws:?}"
        );
    }
    for path in ["mlperf-tiny/ad_autoencoder_float.onnx", "mlperf-tiny/ad_autoencoder_int8.onnx"] {
        assert_eq!(guess(path).unwrap().output, Output::Anomaly, "{path}");
    }
    let mnist = guess("mnist.onnx").unwrap();
    assert!(matches!(image(&mnist.input), (Layout::Nchw, Some(28), Some(28), Colour::Grey, _)), "{mnist:?}");
    assert!(
        matches!(mnist.output, Output::Classification { classes: 10, probabilities: false, .. }),
        "{mnist:?}"
    );

    let faces = guess("ultraface-RFB-320.onnx").unwrap();
    assert!(
        matches!(image(&faces.input), (Layout::Nchw, Some(320), Some(240), Colour::Colour, _)),
        "{faces:?}"
    );
    let ssd = Detection::Ssd {
        boxes: "boxes".into(),
        scores: "scores".into(),
        scores_each: 2,
        probabilities: true,
    };
    assert_eq!(faces.output, Output::Detection(ssd));
    let faces = guess("yunet_n_320_320.onnx").unwrap();
    let levels = [8, 16, 32].map(|stride| Level {
        stride,
        classes: format!("cls_{stride}"),
        objectness: Some(format!("obj_{stride}")),
        boxes: format!("bbox_{stride}"),
    });
    let levels = Detection::AnchorFree { levels: levels.into(), classes: 1, box_numbers: 4, points: 5 };
    assert_eq!(faces.output, Output::Detection(levels));

    for path in ["onnx-ml/xgboost_classifier_tree.onnx", "onnx-ml/lgbm_classifier_tensor.onnx"] {
        let table = guess(path).unwrap();
        assert!(matches!(table.input, Input::Table { columns: Some(13), .. }), "{table:?}");
        assert!(
            matches!(table.output, Output::Classification { classes: 3, probabilities: true, .. }),
            "{table:?}"
        );
    }
}

/// A model that makes each output from its first input by cutting, so that only names and shapes count.
fn shapes(inputs: &[(&str, &[usize])], outputs: &[(&str, &[usize])]) -> Guess {
    let mut graph = GraphBuilder::new("g");
    for (name, dims) in inputs {
        graph = graph.input(Value::f32(*name, dims.iter().copied()));
    }
    for (place, (name, dims)) in outputs.iter().enumerate() {
        let shape: Vec<i64> = dims.iter().map(|&dim| dim as i64).collect();
        let (s, e) = (format!("s{place}"), format!("e{place}"));
        graph = graph.output(Value::f32(*name, dims.iter().copied()));
        graph = graph.initializer_i64(&s, &[shape.len()], shape);
        graph = graph
            .node(Node::new("ReduceMean", [inputs[0].0], [e.clone()]).int("keepdims", 0))
            .node(Node::new("Expand", [e, s], [(*name).to_owned()]));
    }
    import(&graph.build().unwrap()).report.guess
}

#[test]
fn detectors_are_told_apart_by_their_outputs() {
    let picture = [("images", &[1, 3, 640, 640][..])];
    let detection = |outputs: &[(&str, &[usize])]| match shapes(&picture, outputs).output {
        Output::Detection(detection) => detection,
        other => panic!("{other:?}"),
    };
    let output = || "output0".to_owned();
    assert_eq!(detection(&[("output0", &[1, 84, 8400])]), Detection::Yolo { output: output(), classes: 80 });
    assert_eq!(
        detection(&[("output0", &[1, 25200, 85])]),
        Detection::YoloObjectness { output: output(), classes: 80, anchors: 3 }
    );
    assert_eq!(
        detection(&[("output0", &[1, 8400, 85])]),
        Detection::YoloObjectness { output: output(), classes: 80, anchors: 1 }
    );
    let ssd = detection(&[("loc", &[1, 8732, 4]), ("conf", &[1, 8732, 21])]);
    assert_eq!(
        ssd,
        Detection::Ssd { boxes: "loc".into(), scores: "conf".into(), scores_each: 21, probabilities: false }
    );
    let nanodet = detection(&[
        ("cls_pred_stride_8", &[1, 6400, 80]),
        ("cls_pred_stride_16", &[1, 1600, 80]),
        ("dis_pred_stride_8", &[1, 6400, 32]),
        ("dis_pred_stride_16", &[1, 1600, 32]),
    ]);
    let levels = [8, 16].map(|stride| Level {
        stride,
        classes: format!("cls_pred_stride_{stride}"),
        objectness: None,
        boxes: format!("dis_pred_stride_{stride}"),
    });
    assert_eq!(
        nanodet,
        Detection::AnchorFree { levels: levels.into(), classes: 80, box_numbers: 32, points: 0 }
    );
    let chosen = detection(&[("boxes", &[1, 100, 4]), ("scores", &[1, 100]), ("class_ids", &[1, 100])]);
    assert_eq!(chosen, Detection::Chosen);
    // A picture to a picture is no detector.
    assert_eq!(shapes(&picture, &[("mask", &[1, 1, 640, 640])]).output, Output::Tensors);
}

#[test]
fn states_are_matched_by_name_and_shape() {
    let silero = shapes(
        &[("input", &[1, 512]), ("state", &[2, 1, 128]), ("sr", &[1])],
        &[("output", &[1, 1]), ("stateN", &[2, 1, 128])],
    );
    assert_eq!((silero.states.len(), silero.states[0].input.as_str()), (1, "state"), "{silero:?}");
    assert_eq!(silero.states[0].output, "stateN");
    assert!(matches!(silero.input, Input::Sound { samples: Some(512) }), "{silero:?}");
    let lstm = shapes(
        &[("audio", &[1, 160]), ("h_in", &[1, 1, 64]), ("c_in", &[1, 1, 64])],
        &[("speech", &[1, 160]), ("h_out", &[1, 1, 64]), ("c_out", &[1, 1, 64])],
    );
    let pairs: Vec<(&str, &str)> =
        lstm.states.iter().map(|s| (s.input.as_str(), s.output.as_str())).collect();
    assert_eq!(pairs, [("h_in", "h_out"), ("c_in", "c_out")]);
    // Two tensors in and two out that are not related are no states.
    let none = shapes(&[("left", &[1, 8]), ("right", &[1, 9])], &[("sum", &[1, 3]), ("product", &[1, 4])]);
    assert!(none.states.is_empty(), "{none:?}");
}

#[test]
fn vectors_are_told_apart_by_what_makes_them() {
    let dense = |columns: usize, last: &str, output: &str| {
        let graph = GraphBuilder::new("g")
            .input(Value::f32("x", [Dim::from("N"), Dim::from(6)]))
            .output(Value::f32(output, [Dim::from("N"), Dim::from(columns)]))
            .initializer_f32("w", &[6, columns], noise(1, 6 * columns));
        let graph = match last {
            "" => graph.node(Node::new("MatMul", ["x", "w"], [output])),
            op => graph.node(Node::new("MatMul", ["x", "w"], ["h"])).node(Node::new(op, ["h"], [output])),
        };
        import(&graph.build().unwrap()).report.guess
    };
    assert_eq!(dense(1, "", "price").output, Output::Regression { values: 1 });
    assert_eq!(dense(128, "", "y").output, Output::Embedding { length: 128 });
    assert_eq!(dense(5, "", "embedding").output, Output::Embedding { length: 5 });
    let several = Output::Classification { classes: 7, probabilities: true, several: true };
    assert_eq!(dense(7, "Sigmoid", "y").output, several);
    let logits = Output::Classification { classes: 7, probabilities: false, several: false };
    assert_eq!(dense(7, "", "y").output, logits);
    assert!(matches!(dense(7, "", "y").input, Input::Table { columns: Some(6), .. }));
}

#[test]
fn a_model_that_scales_its_input_itself_takes_bytes() {
    let graph = classifier();
    let own = GraphBuilder::new("g")
        .input(Value { data_type: Some(DataType::Uint8), ..Value::f32("image", [1, 8, 8, 3]) })
        .output(Value::f32("scores", [1, 192]))
        .initializer_f32("d", &[], vec![255.0])
        .node(Node::new("Cast", ["image"], ["f"]).int("to", 1))
        .node(Node::new("Div", ["f", "d"], ["n"]))
        .node(Node::new("Flatten", ["n"], ["scores"]));
    let (layout, .., normalisation) = image(&import(&own.build().unwrap()).report.guess.input);
    assert_eq!((layout, normalisation), (Layout::Nhwc, Normalisation::Bytes));
    let (.., normalisation) = image(&import(&graph.build().unwrap()).report.guess.input);
    assert_eq!(normalisation, Normalisation::Unknown);
}

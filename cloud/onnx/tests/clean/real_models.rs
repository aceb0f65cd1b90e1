//! Models of other tools answer after the clean-up what they answered before, and what ONNX Runtime answers.

use flotilla_onnx::clean::{LABELS, Options, clean, missing_operators};

use crate::support::{array, difference, model, models, run, sample};

/// A model, its golden file, names of outputs in both, and how far numbers may differ.
type Golden = (&'static str, &'static str, &'static [(&'static str, &'static str)], f32);

/// Float models.
const FLOATS: [Golden; 6] = [
    ("mlperf-tiny/ic_resnet8_float.onnx", "golden/ic_resnet8_float.npz", &[("Identity", "output")], 1e-5),
    (
        "mlperf-tiny/vww_mobilenetv1_float.onnx",
        "golden/vww_mobilenetv1_float.npz",
        &[("Identity", "output")],
        1e-5,
    ),
    ("mlperf-tiny/kws_dscnn_float.onnx", "golden/kws_dscnn_float.npz", &[("dense", "output")], 1e-5),
    (
        "mlperf-tiny/ad_autoencoder_float.onnx",
        "golden/ad_autoencoder_float.npz",
        &[("Identity", "output")],
        1e-3,
    ),
    ("mnist.onnx", "golden/mnist.npz", &[("Plus214_Output_0", "output")], 2e-2),
    (
        "ultraface-RFB-320.onnx",
        "golden/ultraface-RFB-320.npz",
        &[("scores", "scores"), ("boxes", "boxes")],
        1e-4,
    ),
];

#[test]
fn float_models_answer_what_onnx_runtime_answers() {
    for (file, golden, outputs, tolerance) in FLOATS {
        let Some(mut model) = model(file) else { return };
        let cleaned = clean(&mut model, &Options::default()).unwrap();
        println!("{file}: {cleaned:?} {:?}", model.summary());
        assert_eq!(model.opset(), 13, "{file}");
        assert!(missing_operators(&model).is_empty(), "{file}");
        assert!(
            !model.nodes().iter().any(|node| node.op_type == "Shape" || node.op_type == "Constant"),
            "{file}"
        );
        let input = array(golden, "input");
        for index in 0..input.shape()[0].min(4) {
            let answers = run(&model, &[sample(&input, index)]).unwrap();
            for (name, array_name) in outputs {
                let off = difference(&answers[*name], &sample(&array(golden, array_name), index));
                assert!(off <= tolerance, "{file} {name} sample {index}: {off}");
            }
        }
        // A second time there is nothing to do.
        let (again, before) = (clean(&mut model, &Options::default()).unwrap(), model.write());
        assert_eq!((again.changes(), model.write()), (0, before), "{file}: {again:?}");
    }
}

#[test]
fn a_detector_with_twelve_outputs_keeps_them_all() {
    let Some(mut model) = model("yunet_n_320_320.onnx") else { return };
    clean(&mut model, &Options::default()).unwrap();
    let golden = "golden/yunet_n_320_320.npz";
    let answers = run(&model, &[sample(&array(golden, "input"), 0)]).unwrap();
    assert_eq!(answers.len(), 12);
    for (name, answer) in answers {
        let off = difference(&answer, &sample(&array(golden, &name), 0));
        assert!(off <= 1e-3, "{name}: {off}");
    }
}

#[test]
fn classifiers_of_onnx_ml_keep_their_probabilities_only() {
    for name in ["xgboost_classifier_tree", "lgbm_classifier_tensor"] {
        let Some(mut model) = model(&format!("onnx-ml/{name}.onnx")) else { return };
        let cleaned = clean(&mut model, &Options::default()).unwrap();
        let outputs: Vec<String> = model.outputs().into_iter().map(|output| output.name).collect();
        assert_eq!(outputs, ["probabilities"]);
        assert!(cleaned.notes.iter().any(|note| note.contains("label")), "{cleaned:?}");
        let io = format!("onnx-ml/{name}.io.npz");
        let (input, probabilities) = (array(&io, "input"), array(&io, "probabilities"));
        for index in 0..input.shape()[0] {
            let answer = run(&model, &[sample(&input, index)]).unwrap();
            let off = difference(&answer["probabilities"], &sample(&probabilities, index));
            assert!(off <= 1e-5, "{name}: {off}");
        }
    }
    let Some(mut model) = model("onnx-ml/xgboost_classifier_tree.onnx") else { return };
    clean(&mut model, &Options::default()).unwrap();
    assert_eq!(model.metadata_value(LABELS), Some("0\n1\n2"));
}

#[test]
fn every_model_of_the_test_data_is_cleaned_whole() {
    let Some(folder) = models() else { return };
    for part in ["", "mlperf-tiny", "onnx-ml"] {
        for entry in std::fs::read_dir(folder.join(part)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "onnx") {
                let mut model = flotilla_onnx::Model::read(&std::fs::read(&path).unwrap()).unwrap();
                let inputs = model.inputs().len();
                clean(&mut model, &Options::default()).unwrap();
                assert_eq!(model.inputs().len(), inputs, "{}", path.display());
                let read = flotilla_onnx::Model::read(&model.write()).unwrap();
                read.check_order().unwrap();
            }
        }
    }
}

//! Models that other tools have quantised give the numbers of ONNX Runtime.

use flotilla_onnx::clean::{Options, clean, missing_operators};

use tract_onnx::prelude::tvec;

use crate::support::{array, cases, difference, load, model, run, sample};

/// Models in 8 bits; the most steps that a sample may be off, and the mean over samples: rounded, and clamped only.
/// ResNet-8 is sensitive to single roundings: TensorFlow Lite's own two kernels differ by up to 52 steps.
const INT8: [(&str, [f32; 2], [f32; 2]); 5] = [
    ("vww_mobilenetv1_int8", [0.0, 0.0], [8.0, 2.0]),
    ("kws_dscnn_int8", [0.0, 0.0], [12.0, 5.0]),
    ("ad_autoencoder_int8", [1.0, 0.05], [8.0, 3.0]),
    ("ic_resnet8_int8", [20.0, 2.0], [52.0, 15.0]),
    ("kws_dscnn_int8weights_f32io", [1e-6, 1e-6], [1e-6, 1e-6]),
];

fn worst(name: &str, options: &Options) -> Option<(f32, f32)> {
    let mut model = model(&format!("mlperf-tiny/{name}.onnx"))?;
    let before = model.write().len();
    let cleaned = clean(&mut model, options).unwrap();
    println!("{name}: {cleaned:?} {before} -> {} bytes {:?}", model.write().len(), model.summary().operators);
    assert!(model.write().len() < before + before / 20, "{name}: the file grew");
    assert!(!model.nodes().iter().any(|node| node.op_type.contains("Quantize")), "{name}");
    assert!(missing_operators(&model).is_empty());
    let golden = format!("golden/{name}.npz");
    let (input, output) = (array(&golden, "input"), array(&golden, "output"));
    let (mut most, mut sum) = (0.0_f32, 0.0);
    let samples = input.shape()[0];
    let (plan, _) = load(&model, &[sample(&input, 0)]).unwrap();
    for index in 0..samples {
        let answers = plan.run(tvec!(sample(&input, index).into())).unwrap();
        assert_eq!(answers[0].datum_type(), output.datum_type());
        let off = difference(&answers[0], &sample(&output, index));
        most = most.max(off);
        sum += off;
    }
    println!("{name}: worst {most}, mean of the worst of each sample {}", sum / samples as f32);
    Some((most, sum / samples as f32))
}

#[test]
fn models_of_tensorflow_lite_give_the_numbers_of_onnx_runtime() {
    for (name, [most, mean], _) in INT8 {
        let Some((worst, average)) = worst(name, &Options::default()) else { return };
        assert!(worst <= most && average <= mean, "{name}: {worst} {average}");
    }
}

#[test]
fn without_rounding_they_stay_near() {
    for (name, _, [most, mean]) in INT8 {
        let options = Options { float_activations: true, ..Options::default() };
        let Some((worst, average)) = worst(name, &options) else { return };
        assert!(worst <= most && average <= mean, "{name}: {worst} {average}");
    }
}

#[test]
fn every_quantised_form_gives_the_numbers_of_onnx_runtime() {
    let cases = cases(|name| name.starts_with("q_"));
    assert!(cases.len() > 40, "{}", cases.len());
    let mut wrong = Vec::new();
    for case in cases {
        let before =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(&case.model, &case.inputs)));
        let before = match before {
            Ok(Ok(answers)) => {
                let off = answers.iter().map(|(name, answer)| difference(answer, &case.outputs[name]));
                format!("{}", off.fold(0.0, f32::max))
            }
            Ok(Err(_)) => "does not run".into(),
            Err(_) => "panics".into(),
        };
        let mut model = case.model.clone();
        let cleaned = clean(&mut model, &Options::default());
        let after = cleaned.map_err(|error| error.to_string()).and_then(|_| {
            let answers = run(&model, &case.inputs).map_err(|error| format!("{error:?}"))?;
            let mut most = 0.0_f32;
            for (name, answer) in answers {
                let wanted = &case.outputs[&name];
                if answer.datum_type() != wanted.datum_type() || answer.shape() != wanted.shape() {
                    return Err(format!("{answer:?}, not {wanted:?}"));
                }
                most = most.max(difference(&answer, wanted));
            }
            Ok(most)
        });
        println!("{}: before {before}, after {after:?}", case.name);
        // Real numbers may differ in their last places, integers not at all.
        let left = model
            .nodes()
            .iter()
            .find(|node| node.op_type.contains("Quantize") || node.op_type.contains("QLinear"));
        if let Some(node) = left {
            wrong.push(format!("{}: {} is left", case.name, node.op_type));
        }
        if !after.as_ref().is_ok_and(|&off| off <= 2e-5) {
            wrong.push(format!("{}: {after:?}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

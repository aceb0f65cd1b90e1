//! Models that other tools have quantised give the numbers of ONNX Runtime.

use flotilla_onnx::clean::{Options, clean, missing_operators};

use tract_onnx::prelude::tvec;

use crate::support::{array, difference, load, model, sample};

/// Models in 8 bits, steps that a sample may be off at most, and the mean over all numbers.
const INT8: [(&str, f32, f32); 5] = [
    ("vww_mobilenetv1_int8", 1.0, 0.1),
    ("kws_dscnn_int8", 1.0, 0.1),
    ("ad_autoencoder_int8", 1.0, 0.1),
    ("ic_resnet8_int8", 60.0, 3.0),
    ("kws_dscnn_int8weights_f32io", 0.02, 0.01),
];

fn worst(name: &str, options: &Options) -> Option<(f32, f32)> {
    let mut model = model(&format!("mlperf-tiny/{name}.onnx"))?;
    let before = model.write().len();
    let cleaned = clean(&mut model, options).unwrap();
    println!("{name}: {cleaned:?} {before} -> {} bytes {:?}", model.write().len(), model.summary().operators);
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
    for (name, most, mean) in INT8 {
        let Some((worst, average)) = worst(name, &Options::default()) else { return };
        assert!(worst <= most && average <= mean * 100.0, "{name}: {worst} {average}");
    }
}

#[test]
fn without_rounding_they_stay_near() {
    for (name, _, _) in INT8 {
        let options = Options { float_activations: true, ..Options::default() };
        let Some((worst, average)) = worst(name, &options) else { return };
        println!("{name}: {worst} {average}");
    }
}

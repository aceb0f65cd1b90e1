//! Forms of operator sets 7 to 20, against what ONNX Runtime answers.

use flotilla_onnx::clean::{Options, clean};
use flotilla_onnx::{DataType, Model};

use crate::support::{cases, difference, run};

fn is_quantised(name: &str) -> bool {
    name.starts_with("q_")
}

#[test]
fn every_form_answers_what_onnx_runtime_answers() {
    let cases = cases(|name| !is_quantised(name));
    assert!(cases.len() > 60, "{}", cases.len());
    let (mut newly, mut wrong) = (Vec::new(), Vec::new());
    for case in cases {
        let mut model = case.model.clone();
        let cleaned = clean(&mut model, &Options::default());
        if let Err(error) = cleaned {
            wrong.push(format!("{}: {error}", case.name));
            continue;
        }
        let before =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(&case.model, &case.inputs).is_ok()));
        if !before.unwrap_or(false) {
            newly.push(case.name.clone());
        }
        match run(&model, &case.inputs) {
            Err(error) => wrong.push(format!("{}: {error:?}", case.name)),
            Ok(answers) => {
                for (name, answer) in answers {
                    if answer.shape() != case.outputs[&name].shape() {
                        wrong.push(format!(
                            "{} {name}: {:?}, not {:?}",
                            case.name,
                            answer.shape(),
                            case.outputs[&name].shape()
                        ));
                    } else if difference(&answer, &case.outputs[&name]) > 1e-5 {
                        wrong.push(format!(
                            "{} {name}: {}",
                            case.name,
                            difference(&answer, &case.outputs[&name])
                        ));
                    }
                }
            }
        }
        if case.model.opset() < 13 {
            assert_eq!(model.opset(), 13, "{}", case.name);
        }
        assert_eq!(Model::read(&model.write()).unwrap().outputs()[0].data_type, model.outputs()[0].data_type);
    }
    println!("not run without the clean-up: {newly:?}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn chains_of_shapes_become_constants() {
    for case in cases(|name| name.contains("chain")) {
        let mut model = case.model;
        clean(&mut model, &Options::default()).unwrap();
        assert_eq!(model.nodes().len(), 1, "{}: {:?}", case.name, model.summary().operators);
    }
}

#[test]
fn a_product_with_a_bias_becomes_one_layer_only_where_it_is_the_same() {
    for (name, gemm) in
        [("matmul_add_matrix", true), ("matmul_add_stack", false), ("matmul_add_column", false)]
    {
        let mut model = cases(|case| case == name).remove(0).model;
        clean(&mut model, &Options::default()).unwrap();
        assert_eq!(model.nodes().iter().any(|node| node.op_type == "Gemm"), gemm, "{name}");
    }
}

#[test]
fn integers_stay_what_they_were() {
    let mut model = cases(|case| case == "top_k_7").remove(0).model;
    clean(&mut model, &Options::default()).unwrap();
    let kinds: Vec<_> = model.outputs().into_iter().map(|output| output.data_type).collect();
    assert_eq!(kinds, [Some(DataType::Float), Some(DataType::Int64)]);
}

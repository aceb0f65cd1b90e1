//! Files that are cut or changed: an error, or a model that answers what the engine itself says it answers.
//!
//! `FLOTILLA_IMPORT_MUTANTS` says how many mutants; 200 without it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use flotilla_import::{Options, inspect};
use flotilla_onnx::{GraphBuilder, Model, Node, Value};
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::infer::Factoid;

use crate::support::{Random, classifier, file};

/// How long one mutant may take, by far: what hangs is found, a busy machine is not.
const PATIENCE: Duration = Duration::from_secs(60);

fn mutants() -> usize {
    std::env::var("FLOTILLA_IMPORT_MUTANTS").ok().and_then(|count| count.parse().ok()).unwrap_or(200)
}

/// Whole models to change.
fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![classifier().build().unwrap().write()];
    for path in ["mlperf-tiny/kws_dscnn_int8.onnx", "onnx-ml/lgbm_classifier_tensor.onnx", "mnist.onnx"] {
        seeds.extend(file(path));
    }
    seeds
}

/// Changes a file: bytes, cuts, pieces doubled or taken out. Structure stands in the first part, so half aim there.
fn mutate(seed: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=random.below(4) {
        let reach = if random.below(2) == 0 { bytes.len().min(4096) } else { bytes.len() };
        let at = random.below(reach.max(1));
        let length = random.below(64).min(bytes.len() - at.min(bytes.len()));
        match random.below(5) {
            0 | 1 => bytes[at] = random.next() as u8,
            2 => bytes.truncate(at.max(1)),
            3 => drop(bytes.drain(at..at + length)),
            _ => {
                let piece = bytes[at..at + length].to_vec();
                bytes.splice(at..at, piece);
            }
        }
        if bytes.is_empty() {
            break;
        }
    }
    bytes
}

/// What the engine answers to zeros; none where it does not run.
fn answers(model: &Model) -> Option<BTreeMap<String, Vec<f32>>> {
    let run = || {
        let loader = onnx().with_ignore_output_shapes(true).with_ignore_value_info(true);
        let mut parsed = loader.model_for_read(&mut &*model.write()).ok()?;
        let mut inputs = tvec!();
        for (place, input) in model.inputs().iter().enumerate() {
            let fixed =
                |dim: &flotilla_onnx::Dim| if let flotilla_onnx::Dim::Fixed(size) = dim { *size } else { 1 };
            let dims: Vec<usize> = input.dims.as_ref()?.iter().map(fixed).collect();
            let kind = parsed.input_fact(place).ok()?.datum_type.concretize()?;
            if dims.iter().product::<usize>() > 1 << 20 {
                return None;
            }
            parsed.set_input_fact(place, InferenceFact::dt_shape(kind, &dims)).ok()?;
            inputs.push(Tensor::zero_dt(kind, &dims).ok()?.into());
        }
        let names: Vec<String> = model.outputs().into_iter().map(|output| output.name).collect();
        let outputs = parsed.into_optimized().ok()?.into_runnable().ok()?.run(inputs).ok()?;
        let floats = |tensor: TValue| {
            let tensor = tensor.cast_to::<f32>().ok()?.into_owned();
            Some(tensor.to_plain_array_view::<f32>().ok()?.iter().copied().collect::<Vec<f32>>())
        };
        names.into_iter().zip(outputs).map(|(name, tensor)| Some((name, floats(tensor)?))).collect()
    };
    std::panic::catch_unwind(run).ok().flatten()
}

/// Changes a model whose parts still fit together: operators, names, attributes, sizes and numbers.
fn distort(seed: &[u8], random: &mut Random) -> Vec<u8> {
    let mut proto = Model::read(seed).unwrap().into_proto();
    let graph = proto.graph.as_mut().unwrap();
    for _ in 0..=random.below(3) {
        let nodes = graph.node.len();
        let (at, other) = (random.below(nodes.max(1)), random.below(nodes.max(1)));
        let value = [0, 1, -1, 2, 3, 7, 1 << 20, i64::MAX, i64::MIN][random.below(9)];
        match random.below(8) {
            0 => graph.node[at].op_type = graph.node[other].op_type.clone(),
            1 => {
                let name = graph.node[other].input.first().cloned().unwrap_or_default();
                if let Some(input) = graph.node[at].input.first_mut() {
                    *input = name;
                }
            }
            2 => drop(graph.node[at].input.pop()),
            3 if nodes > 1 => drop(graph.node.remove(at)),
            4 => {
                for attribute in &mut graph.node[at].attribute {
                    attribute.i = value;
                    let place = random.below(attribute.ints.len().max(1));
                    attribute.ints.get_mut(place).into_iter().for_each(|int| *int = value);
                }
            }
            5 => {
                let place = random.below(graph.initializer.len().max(1));
                if let Some(tensor) = graph.initializer.get_mut(place) {
                    let byte = random.below(tensor.raw_data.len().max(1));
                    tensor.raw_data.get_mut(byte).into_iter().for_each(|byte| *byte = random.next() as u8);
                    tensor.dims.reverse();
                }
            }
            6 => {
                let place = random.below(graph.initializer.len().max(1));
                let tensor = graph.initializer.get_mut(place).filter(|tensor| tensor.data_type == 7);
                if let Some(tensor) = tensor {
                    let at = random.below(tensor.raw_data.len().max(8) / 8) * 8;
                    let raw = tensor.raw_data.get_mut(at..at + 8);
                    raw.into_iter().for_each(|raw| raw.copy_from_slice(&value.to_le_bytes()));
                }
            }
            _ => {
                let name = graph.node[at].output.first().cloned().unwrap_or_default();
                graph.output.first_mut().into_iter().for_each(|output| output.name = name.clone());
            }
        }
    }
    Model::from_proto(proto).map(|model| model.write()).unwrap_or_default()
}

/// The most memory that this process has had, in MiB, where the system tells.
fn most_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib >> 10)
}

#[test]
fn mutants_are_refused_or_answer_as_the_engine_does() {
    let seeds = seeds();
    let (mut refused, mut compared, mut unrun) = (0, 0, 0);
    for number in 0..mutants() {
        let mut random = Random(number as u64);
        let seed = &seeds[number % seeds.len()];
        let bytes = if number % 3 == 0 { mutate(seed, &mut random) } else { distort(seed, &mut random) };
        let begun = Instant::now();
        let import = inspect(&bytes, &Options::default());
        assert!(begun.elapsed() < PATIENCE, "mutant {number} took {:?}", begun.elapsed());
        let import = match import {
            Err(error) => {
                assert!(!error.to_string().is_empty() && !error.code().as_str().is_empty());
                refused += 1;
                continue;
            }
            Ok(import) => import,
        };
        let cleaned = Model::read(&import.model).unwrap();
        cleaned.check_order().unwrap();
        // What the report says does not run may be what asks for gigabytes.
        if !import.report.runs {
            unrun += 1;
            continue;
        }
        // Quantised forms are where the engine itself is wrong: they have their own tests.
        let original = Model::read(&bytes).unwrap();
        let quantised = original.nodes().iter().any(|node| node.op_type.contains("Quantize"));
        match (answers(&original), answers(&cleaned)) {
            (Some(before), Some(after)) if !quantised => {
                for (name, answer) in after {
                    let Some(expected) = before.get(&name) else { continue };
                    let same = |(a, b): (&f32, &f32)| {
                        a == b || (a - b).abs() <= 1e-4 * b.abs().max(1.0) || (a.is_nan() && b.is_nan())
                    };
                    let equal = answer.len() == expected.len() && answer.iter().zip(expected).all(same);
                    assert!(equal, "mutant {number}, `{name}`: {answer:?}, not {expected:?}");
                }
                compared += 1;
            }
            (Some(_), None) if !quantised => {
                panic!("mutant {number} does not run any more")
            }
            _ => unrun += 1,
        }
    }
    println!("{refused} refused, {compared} answer alike, {unrun} do not run or are quantised");
    assert!(refused > 0 && compared > 0);
    let most = most_memory();
    println!("at most {most:?} MiB");
    assert!(most.is_none_or(|most| most < 2048), "{most:?} MiB");
}

#[test]
fn a_file_cut_anywhere_is_refused_or_still_whole() {
    let bytes = classifier().build().unwrap().write();
    for end in (0..bytes.len()).step_by(29) {
        if let Ok(import) = inspect(&bytes[..end], &Options::default()) {
            Model::read(&import.model).unwrap().check_order().unwrap();
        }
    }
}

/// A few hundred bytes of which the engine would make a value of terabytes, before it looks at the size.
#[test]
fn constants_that_grow_by_each_other_are_not_computed() {
    let graph = GraphBuilder::new("g")
        .input(Value::f32("x", [1_usize, 1]))
        .output(Value::f32("y", [1_usize, 1]))
        .initializer_i64("tall", &[2], vec![1_000_000, 1])
        .initializer_i64("wide", &[2], vec![1, 1_000_000])
        .node(Node::new("ConstantOfShape", ["tall"], ["a"]))
        .node(Node::new("ConstantOfShape", ["wide"], ["b"]))
        .node(Node::new("Add", ["a", "b"], ["c"]))
        .node(Node::new("Mul", ["x", "c"], ["y"]));
    let report = inspect(&graph.build().unwrap().write(), &Options::default()).unwrap().report;
    let error = report.engine_error.unwrap();
    assert!(!report.runs && error.contains("beyond all bounds"), "{error}");
}

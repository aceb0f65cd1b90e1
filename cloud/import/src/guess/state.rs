//! Tensors that go from one call to the next: an output has the shape of an input, and their names are related.

use std::collections::HashMap;

use flotilla_onnx::clean::Known;
use flotilla_onnx::{Dim, Model};

use super::State;

/// Words that exporters put before or behind the name of a state.
const AROUND: [&str; 18] = [
    "input", "output", "in", "out", "new", "next", "prev", "previous", "old", "updated", "present", "past",
    "n", "t", "0", "1", "i", "o",
];

/// Names without a relation that mean a state all the same.
const WORDS: [&str; 9] = ["state", "hidden", "cell", "h", "c", "hn", "cn", "cache", "memory"];

/// Pairs of inputs and outputs.
pub(super) fn pairs(model: &Model, known: &HashMap<String, Known>, why: &mut Vec<String>) -> Vec<State> {
    let inputs = model.inputs();
    let outputs = model.outputs();
    if inputs.len() < 2 || outputs.len() < 2 {
        return Vec::new();
    }
    let mut left: Vec<&str> = outputs.iter().map(|output| output.name.as_str()).collect();
    let mut pairs = Vec::new();
    for input in &inputs {
        let core = core(&input.name);
        let rank = input.dims.as_ref().map(Vec::len);
        let fits = |output: &&&str| {
            let shape = known.get(**output).and_then(|known| known.dims.as_ref());
            let sizes = input.dims.iter().flatten().zip(shape.into_iter().flatten());
            let same = sizes.map(|(a, b)| match (a, b) {
                (Dim::Fixed(a), Some(b)) => a == b,
                _ => true,
            });
            shape.map(Vec::len) == rank && rank.is_some() && same.into_iter().all(|same| same)
        };
        let candidates: Vec<&str> = left.iter().filter(fits).copied().collect();
        let named = candidates.iter().find(|output| !core.is_empty() && self::core(output) == core);
        let word = |name: &str| parts(name).iter().any(|part| WORDS.contains(&part.as_str()));
        let only =
            || candidates.iter().find(|output| candidates.len() == 1 && word(&input.name) && word(output));
        if let Some(&output) = named.or_else(only) {
            why.push(format!("`{}` and `{output}` have one shape and related names: a state", input.name));
            left.retain(|name| *name != output);
            pairs.push(State { input: input.name.clone(), output: output.to_owned() });
        }
    }
    // Something has to go in and come out beside states.
    if pairs.len() >= inputs.len() || pairs.len() >= outputs.len() {
        pairs.pop();
    }
    pairs
}

/// What a name says without words for direction: `h_in` and `h_out` are both `h`; `state` and `stateN` both `state`.
fn core(name: &str) -> String {
    let parts: Vec<String> =
        parts(name).into_iter().filter(|part| !AROUND.contains(&part.as_str())).collect();
    parts.join("_")
}

/// Words of a name, at underscores and capitals.
fn parts(name: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut lower = false;
    for c in name.chars() {
        if !c.is_alphanumeric() {
            parts.push(String::new());
        } else {
            if c.is_uppercase() && lower {
                parts.push(String::new());
            }
            if let Some(last) = parts.last_mut() {
                last.extend(c.to_lowercase());
            }
        }
        lower = c.is_lowercase();
    }
    parts.retain(|part| !part.is_empty());
    parts
}

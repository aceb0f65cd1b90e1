//! The block at the head of a Markdown card by which other tools find and compare models: Hugging Face's model-card
//! metadata, YAML between two lines of dashes.
//!
//! Texts are written as JSON strings, which YAML reads as they are.

use crate::Card;
use flotilla_protocol::pipeline::{Input, Output};
use flotilla_runtime::metrics::Metric;
use flotilla_runtime::quality::Figures;
use serde_json::Value;
use std::fmt::Write as _;

/// Licences that the metadata's readers know by a short name, of those that models and data come under.
const KNOWN: [&str; 24] = [
    "apache-2.0",
    "mit",
    "bsd",
    "bsd-2-clause",
    "bsd-3-clause",
    "cc",
    "cc0-1.0",
    "cc-by-2.0",
    "cc-by-3.0",
    "cc-by-4.0",
    "cc-by-sa-3.0",
    "cc-by-sa-4.0",
    "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0",
    "cc-by-nc-nd-4.0",
    "gpl-2.0",
    "gpl-3.0",
    "agpl-3.0",
    "lgpl-2.1",
    "lgpl-3.0",
    "mpl-2.0",
    "openrail",
    "isc",
    "unlicense",
];

pub(crate) fn block(card: &Card) -> String {
    let mut yaml = String::from("---\n");
    // Writing to a string does not fail.
    match card.licence.as_deref() {
        None => yaml.push_str("license: unknown\n"),
        Some(licence) => {
            let short = licence.to_ascii_lowercase();
            let short = short.trim_end_matches("-only").trim_end_matches("-or-later");
            match KNOWN.contains(&short) {
                true => {
                    let _ = writeln!(yaml, "license: {short}");
                }
                false => {
                    let _ = writeln!(yaml, "license: other\nlicense_name: {}", text(licence));
                }
            }
        }
    }
    yaml.push_str("library_name: onnx\n");
    let task = task(&card.pipeline.input, &card.pipeline.output);
    if let Some(task) = task {
        let _ = writeln!(yaml, "pipeline_tag: {task}");
    }
    yaml.push_str("tags:\n- onnx\n- edge\n- flotilla\n");
    if let Some(data) = &card.data {
        let _ = writeln!(yaml, "datasets:\n- {}", text(&data.dataset));
    }
    let measured = measured(card);
    if !measured.is_empty() {
        yaml.push_str("metrics:\n");
        for (id, ..) in &measured {
            let _ = writeln!(yaml, "- {id}");
        }
    }
    // The format wants a dataset with every result.
    if let (Some(data), false) = (&card.data, measured.is_empty()) {
        let _ = writeln!(yaml, "model-index:\n- name: {}\n  results:", text(&card.title()));
        let _ = writeln!(yaml, "  - task:\n      type: {}", task.unwrap_or("other"));
        let _ = writeln!(
            yaml,
            "    dataset:\n      name: {}\n      type: {}\n      split: test\n      revision: {}",
            text(&format!("{} v{}", data.dataset, data.version)),
            text(&data.dataset),
            text(&format!("v{}", data.version)),
        );
        yaml.push_str("    metrics:\n");
        for (id, name, value) in &measured {
            let _ = writeln!(yaml, "    - type: {id}\n      name: {name}\n      value: {value}");
        }
    }
    yaml.push_str("---\n");
    yaml
}

/// What was measured: the metric's name among Hugging Face's, its name for people, the figure.
fn measured(card: &Card) -> Vec<(&'static str, &'static str, f64)> {
    let Some(quality) = &card.quality else {
        let accuracy = ("accuracy", "Accuracy", card.metrics.accuracy);
        return if card.metrics.samples > 0 { vec![accuracy] } else { Vec::new() };
    };
    let (id, name) = match quality.metric {
        Metric::Accuracy => ("accuracy", "Accuracy"),
        Metric::Map => ("mean_average_precision", "Mean average precision"),
        Metric::R2 => ("r_squared", "R2"),
        Metric::Mae => ("mae", "Mean absolute error"),
        Metric::Auc => ("roc_auc", "AUC"),
        Metric::Fidelity => ("fidelity", "Fidelity"),
    };
    let mut all: Vec<_> = quality.headline.value.map(|value| (id, name, value)).into_iter().collect();
    let macro_f1 = match &quality.figures {
        Figures::Classification(figures) => figures.macro_f1,
        Figures::MultiLabel(figures) => figures.macro_f1,
        Figures::Detection(_) | Figures::Regression(_) | Figures::Anomaly(_) => None,
    };
    all.extend(macro_f1.map(|value| ("f1", "Macro F1", value)));
    all
}

const fn task(input: &Input, output: &Output) -> Option<&'static str> {
    match (input, output) {
        (Input::Image(_), Output::Classification(_) | Output::MultiLabel(_)) => Some("image-classification"),
        (Input::Image(_), Output::Detection(_)) => Some("object-detection"),
        (Input::Image(_), Output::Embedding(_)) => Some("image-feature-extraction"),
        (Input::Sound(_), Output::Classification(_) | Output::MultiLabel(_)) => Some("audio-classification"),
        (Input::Table(_), Output::Classification(_) | Output::MultiLabel(_)) => {
            Some("tabular-classification")
        }
        (Input::Table(_), Output::Regression(_)) => Some("tabular-regression"),
        _ => None,
    }
}

/// A text as YAML has it; without signs that a reader of HTML would take for a tag.
fn text(text: &str) -> String {
    Value::String(text.to_owned()).to_string().replace('<', "\\u003c")
}

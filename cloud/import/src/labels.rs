//! Names of classes: from the caller, the package, or the file's metadata.

use std::collections::{BTreeMap, HashSet};

use flotilla_onnx::Model;
use flotilla_onnx::clean::LABELS;

use crate::{Detection, Error, Output, Result};

/// Labels, and where they are from.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Labels {
    pub(crate) names: Vec<String>,
    pub(crate) from: &'static str,
}

/// Metadata in which exporters keep them.
const KEYS: [&str; 5] = [LABELS, "names", "labels", "classes", "class_names"];

/// The labels of the first that names any.
pub(crate) fn find(given: Option<&[String]>, package: &[String], model: &Model) -> Result<Labels> {
    let labels = match given {
        Some(names) => Labels { names: names.to_vec(), from: "the caller" },
        None if !package.is_empty() => Labels { names: package.to_vec(), from: "the package" },
        None => {
            let names = KEYS.iter().find_map(|key| parse(model.metadata_value(key)?));
            Labels { names: names.unwrap_or_default(), from: "the file's metadata" }
        }
    };
    let mut seen = HashSet::new();
    for label in &labels.names {
        if label.trim().is_empty() {
            return Err(Error::Label { label: label.clone(), problem: "is empty" });
        }
        if !seen.insert(label) {
            return Err(Error::Label { label: label.clone(), problem: "stands twice" });
        }
    }
    Ok(labels)
}

/// Refuses labels that are more or fewer than what the model scores.
pub(crate) fn check(labels: &Labels, output: &Output) -> Result<()> {
    let given = labels.names.len();
    let (outputs, fits) = match output {
        // One number between 0 and 1 tells two classes apart.
        Output::Classification { classes: 1, .. } => (1, given == 1 || given == 2),
        Output::Classification { classes, .. } => (*classes, given == *classes),
        // The background may have a score and no label.
        Output::Detection(Detection::Ssd { scores_each, .. }) => {
            (*scores_each, given == *scores_each || given + 1 == *scores_each)
        }
        Output::Detection(
            Detection::Yolo { classes, .. }
            | Detection::YoloObjectness { classes, .. }
            | Detection::AnchorFree { classes, .. },
        ) => (*classes, given == *classes),
        _ => return Ok(()),
    };
    if given == 0 || fits {
        return Ok(());
    }
    Err(Error::Labels { source_of: labels.from, labels: given, outputs })
}

/// Lines, a JSON list, a JSON object by numbers, or the same as Python writes it: `{0: 'person', 1: 'car'}`.
fn parse(text: &str) -> Option<Vec<String>> {
    let text = text.trim();
    if let Ok(list) = serde_json::from_str::<Vec<String>>(text) {
        return Some(list);
    }
    if let Ok(numbered) = serde_json::from_str::<BTreeMap<u64, String>>(text) {
        return Some(numbered.into_values().collect());
    }
    if let Some(inner) = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')) {
        return python(inner);
    }
    let separator = if text.contains('\n') { '\n' } else { ',' };
    let names: Vec<String> = text.split(separator).map(|name| name.trim().to_owned()).collect();
    (names.len() > 1).then_some(names)
}

fn python(inner: &str) -> Option<Vec<String>> {
    let mut names = BTreeMap::new();
    let mut rest = inner.trim();
    while !rest.is_empty() {
        let (number, after) = rest.split_once(':')?;
        let after = after.trim_start();
        let quote = after.chars().next().filter(|quote| matches!(quote, '\'' | '"'))?;
        let (name, after) = after[1..].split_once(quote)?;
        names.insert(number.trim().parse::<u64>().ok()?, name.to_owned());
        rest = after.trim_start().trim_start_matches(',').trim_start();
    }
    (!names.is_empty()).then(|| names.into_values().collect())
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn labels_are_read_in_the_ways_exporters_write_them() {
        let two = Some(vec!["person".to_owned(), "it's".to_owned()]);
        for text in [
            "person\nit's",
            "[\"person\", \"it's\"]",
            "{\"0\": \"person\", \"1\": \"it's\"}",
            "{0: 'person', 1: \"it's\"}",
            "person, it's",
        ] {
            assert_eq!(parse(text), two, "{text}");
        }
        for text in ["", "person", "{0: person}", "{'a': 'b'}"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}

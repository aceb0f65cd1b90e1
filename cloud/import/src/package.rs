//! A ModelArts model package: `model/config.json` beside the model. Its `customize_service.py` is never run.

mod archive;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::format::{Archive, refuse_foreign};
use crate::{Error, Result};

/// The largest `config.json`.
const MAX_CONFIG_BYTES: usize = 1 << 20;

/// Model types of ModelArts under which an ONNX file may stand.
const USABLE_TYPES: [&str; 5] = ["onnx", "image", "custom", "mindspore", "template"];

/// What a package says about its model.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Package {
    /// Where the model stands in it.
    pub model: String,
    /// The engine that it was made for, as `ONNX` or `Image`.
    pub model_type: Option<String>,
    /// What the model does, as `image_classification`.
    pub algorithm: Option<String>,
    /// What was measured when it was made. It is shown, and never taken for a measurement of ours.
    pub metrics: Metrics,
    /// Paths of its interface.
    pub apis: Vec<String>,
    /// Labels, where a file beside the model names them.
    pub labels: Vec<String>,
    /// Whether it holds Python code, which is not run.
    pub has_code: bool,
}

/// What the maker of a package says he has measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Metrics {
    /// F1 score.
    pub f1: Option<f64>,
    /// Recall.
    pub recall: Option<f64>,
    /// Precision.
    pub precision: Option<f64>,
    /// Accuracy.
    pub accuracy: Option<f64>,
}

#[derive(Deserialize)]
struct Config {
    model_type: Option<String>,
    #[serde(alias = "algorithm")]
    model_algorithm: Option<String>,
    #[serde(default)]
    metrics: BTreeMap<String, serde_json::Value>,
    #[serde(default)]
    apis: Vec<Api>,
    #[serde(default, alias = "label_names")]
    labels: Option<Labels>,
}

#[derive(Deserialize)]
struct Api {
    #[serde(default)]
    url: String,
    #[serde(default = "post")]
    method: String,
}

fn post() -> String {
    "post".into()
}

/// Labels as a list, or by their numbers.
#[derive(Deserialize)]
#[serde(untagged)]
enum Labels {
    List(Vec<String>),
    Numbered(BTreeMap<String, String>),
}

impl Labels {
    fn list(self) -> Vec<String> {
        match self {
            Self::List(labels) => labels,
            Self::Numbered(labels) => {
                let mut numbered: Vec<(u64, String)> =
                    labels.into_iter().filter_map(|(n, label)| Some((n.parse().ok()?, label))).collect();
                numbered.sort();
                numbered.into_iter().map(|(_, label)| label).collect()
            }
        }
    }
}

/// Opens an archive; gives the bytes of its model.
pub(crate) fn open(bytes: &[u8], kind: Archive) -> Result<(Vec<u8>, Package)> {
    let mut archive = archive::read(bytes, kind)?;
    let names: Vec<&str> = archive.keys().map(String::as_str).collect();
    refuse_foreign(&names)?;
    let models: Vec<&str> = names.iter().copied().filter(|name| name.ends_with(".onnx")).collect();
    let model = match models.as_slice() {
        [model] => (*model).to_owned(),
        [] => {
            let problem =
                "there is no .onnx file in it; export the model as ONNX and pack it beside config.json";
            return Err(Error::Package { problem: problem.into() });
        }
        many => {
            let problem =
                format!("there are {} .onnx files in it ({}); keep one", many.len(), many.join(", "));
            return Err(Error::Package { problem });
        }
    };
    let folder = model.rsplit_once('/').map_or("", |(folder, _)| folder);
    let beside = |name: &str| if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
    let mut package = Package {
        model: model.clone(),
        has_code: archive.keys().any(|name| name.ends_with(".py")),
        ..Package::default()
    };
    if let Some(config) = archive.get(&beside("config.json")) {
        described(config, &mut package)?;
    }
    if package.labels.is_empty() {
        let files = ["labels.txt", "label.txt", "labels.json", "index.json"];
        let found = files.iter().find_map(|name| archive.get(&beside(name)).map(|bytes| (*name, bytes)));
        if let Some((name, bytes)) = found {
            package.labels = listed(name, bytes)?;
        }
    }
    let bytes = archive.remove(&model).unwrap_or_default();
    Ok((bytes, package))
}

fn described(bytes: &[u8], package: &mut Package) -> Result<()> {
    if bytes.len() > MAX_CONFIG_BYTES {
        return Err(Error::Package { problem: "its config.json is larger than 1 MiB".into() });
    }
    let config: Config = serde_json::from_slice(bytes)
        .map_err(|error| Error::Package { problem: format!("its config.json cannot be read: {error}") })?;
    if let Some(kind) = &config.model_type
        && !USABLE_TYPES.contains(&kind.to_lowercase().as_str())
    {
        let problem =
            format!("its model_type is {kind}, and the .onnx file in it is not what that runs; say ONNX");
        return Err(Error::Package { problem });
    }
    let metric = |name: &str| {
        let value = config.metrics.get(name)?;
        let number = value.as_f64().or_else(|| value.as_str()?.trim().parse().ok());
        number.filter(|number| number.is_finite())
    };
    package.metrics = Metrics {
        f1: metric("f1"),
        recall: metric("recall"),
        precision: metric("precision"),
        accuracy: metric("accuracy"),
    };
    package.apis =
        config.apis.iter().map(|api| format!("{} {}", api.method.to_uppercase(), api.url)).collect();
    package.labels = config.labels.map(Labels::list).unwrap_or_default();
    package.model_type = config.model_type;
    package.algorithm = config.model_algorithm;
    Ok(())
}

fn listed(name: &str, bytes: &[u8]) -> Result<Vec<String>> {
    let unreadable =
        |problem: String| Error::Package { problem: format!("its {name} cannot be read: {problem}") };
    if bytes.len() > MAX_CONFIG_BYTES {
        return Err(unreadable("it is larger than 1 MiB".into()));
    }
    if name.ends_with(".json") {
        let labels: Labels = serde_json::from_slice(bytes).map_err(|error| unreadable(error.to_string()))?;
        return Ok(labels.list());
    }
    let text = std::str::from_utf8(bytes).map_err(|error| unreadable(error.to_string()))?;
    Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

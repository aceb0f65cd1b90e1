//! Models and their versions.

use crate::error::{Error, Result};
use bytes::Bytes;
use flotilla_protocol::manifest::{AGENT_NAME, Lineage, Metrics};
use flotilla_protocol::{ActorId, Baseline, Digest, JobId, ModelName, Pipeline, limits};
use flotilla_runtime::Quality;
use flotilla_storage::{Entity, Table, compound};
use serde::{Deserialize, Serialize};

/// Inputs that may come with one version.
pub const SAMPLE_INPUTS: usize = 16;

/// Other figures beside the accuracy that one version may carry.
const OTHER_METRICS: usize = 64;

/// A model: a name under which versions and releases are counted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// Its name.
    pub name: ModelName,
    /// The newest version; versions count 1, 2, 3 …
    pub latest_version: u32,
    /// The counter of the newest release; 0 where there is none.
    #[serde(default)]
    pub latest_release: u64,
    /// When the first version came, in milliseconds since 1970.
    pub created_at_ms: u64,
    /// Who made the first version.
    pub created_by: ActorId,
}

impl Entity for Model {
    const TABLE: Table = Table::new("models");

    fn id(&self) -> Vec<u8> {
        self.name.as_str().into()
    }
}

/// One immutable version of a model. Large parts are objects, named by their digest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelVersion {
    /// The model.
    pub model: ModelName,
    /// Which one.
    pub version: u32,
    /// The ONNX file.
    pub onnx: Digest,
    /// Size of the ONNX file.
    pub onnx_bytes: u64,
    /// The pre- and post-processing: an object with the JSON of a [`Pipeline`].
    pub pipeline: Digest,
    /// How it came about.
    pub source: Source,
    /// What was measured on this very file.
    pub metrics: Metrics,
    /// Where it comes from.
    pub lineage: Lineage,
    /// How good this very file is: an object with the JSON of a [`Quality`]. Versions of earlier releases have none.
    #[serde(default)]
    pub quality: Option<Digest>,
    /// What training or compression has to say about it: an object with JSON.
    #[serde(default)]
    pub report: Option<Digest>,
    /// What it saw and answered in training: an object with the CBOR of a [`Baseline`], as releases carry it.
    #[serde(default)]
    pub baseline: Option<Digest>,
    /// The licence that it comes under, as an SPDX expression or in a few words; none where nobody says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub licence: Option<String>,
    /// Inputs that its releases are checked with, where no dataset has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples: Option<SampleInputs>,
    /// When it was made, in milliseconds since 1970.
    pub created_at_ms: u64,
    /// Who made it.
    pub created_by: ActorId,
}

impl ModelVersion {
    pub(crate) fn id_of(model: &ModelName, version: u32) -> Vec<u8> {
        compound([model.as_str().as_bytes(), &version.to_be_bytes()])
    }
}

impl Entity for ModelVersion {
    const TABLE: Table = Table::new("model-versions");

    fn id(&self) -> Vec<u8> {
        Self::id_of(&self.model, self.version)
    }
}

/// Inputs that came with a model: objects, each a whole input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SampleInputs {
    /// Whether they were made up because nobody gave any: they prove that a device computes the same, and nothing else.
    pub generated: bool,
    /// The inputs.
    pub inputs: Vec<Digest>,
}

/// How a model version came about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Source {
    /// A training job made it.
    Trained {
        /// The job.
        job: JobId,
    },
    /// Compression made it of another version.
    Compressed {
        /// The version it was made of.
        from_version: u32,
        /// What was done, as one line of text.
        recipe: String,
        /// The job, where one ran.
        job: Option<JobId>,
    },
    /// It was brought in from elsewhere.
    Imported {
        /// From where, for people.
        from: String,
    },
}

/// A model version that is to be added.
#[derive(Clone, Debug)]
pub struct NewVersion {
    /// The model; made where it does not exist yet.
    pub model: ModelName,
    /// The ONNX file.
    pub onnx: Bytes,
    /// Its pre- and post-processing.
    pub pipeline: Pipeline,
    /// How it came about.
    pub source: Source,
    /// What was measured on this very file.
    pub metrics: Metrics,
    /// Where it comes from.
    pub lineage: Lineage,
    /// How good this very file is, where that was measured.
    pub quality: Option<Quality>,
    /// What training or compression has to say about it.
    pub report: Option<serde_json::Value>,
    /// What this very file saw and answered in training, where that is known.
    pub baseline: Option<Baseline>,
    /// The licence that it comes under, as an SPDX expression or in a few words.
    pub licence: Option<String>,
    /// Inputs that its releases are checked with, where no dataset has any.
    pub samples: Option<NewSamples>,
}

/// Inputs that come with a model.
#[derive(Clone, Debug)]
pub struct NewSamples {
    /// Whether they were made up because nobody gave any.
    pub generated: bool,
    /// Whole inputs.
    pub inputs: Vec<Bytes>,
}

impl NewVersion {
    /// Checks everything that does not need the model to be loaded.
    pub(crate) fn check(&self) -> Result<()> {
        if self.model.as_str() == AGENT_NAME {
            return Err(Error::Invalid(format!(
                "{AGENT_NAME} is the agent's name: name the model otherwise"
            )));
        }
        let (size, bound) = (self.onnx.len() as u64, limits::RELEASE_FILE);
        if size > bound {
            return Err(Error::TooLarge { what: "the model file", size, bound });
        }
        self.pipeline.check().map_err(|error| Error::Invalid(error.to_string()))?;
        if let Some(baseline) = &self.baseline {
            baseline.check().map_err(|error| Error::Invalid(error.to_string()))?;
        }
        let metrics = &self.metrics;
        // JSON has no form for what is not a number: such a record could be written but never read.
        let finite = metrics.accuracy.is_finite() && metrics.other.values().all(|value| value.is_finite());
        if !finite || metrics.correct > metrics.samples || metrics.other.len() > OTHER_METRICS {
            return Err(Error::Invalid(format!(
                "the metrics are not usable: finite figures, at most {OTHER_METRICS} beside the accuracy"
            )));
        }
        let samples = self.samples.iter().flat_map(|samples| &samples.inputs);
        let (count, size) = samples.fold((0, 0), |(count, size), input| (count + 1, size + input.len()));
        if count > SAMPLE_INPUTS {
            return Err(Error::Invalid(format!("{count} sample inputs; up to {SAMPLE_INPUTS} are possible")));
        }
        if size > limits::PREDICT_INPUT {
            let (size, bound) = (size as u64, limits::PREDICT_INPUT as u64);
            return Err(Error::TooLarge { what: "the sample inputs", size, bound });
        }
        let texts = [&self.lineage.dataset, &self.lineage.training_job, &self.lineage.recipe];
        let recipe = match &self.source {
            Source::Compressed { recipe, .. } => recipe.as_str(),
            Source::Imported { from } => from.as_str(),
            Source::Trained { .. } => "",
        };
        check_licence(self.licence.as_deref())?;
        match texts.into_iter().map(String::as_str).chain([recipe]).find(|text| text.len() > limits::TEXT) {
            Some(text) => Err(Error::TooLarge {
                what: "a text of the lineage",
                size: text.len() as u64,
                bound: limits::TEXT as u64,
            }),
            None => Ok(()),
        }
    }
}

/// Refuses a licence that is no line of text.
pub(crate) fn check_licence(licence: Option<&str>) -> Result<()> {
    match licence {
        Some(text) if text.len() > limits::TEXT => {
            let (size, bound) = (text.len() as u64, limits::TEXT as u64);
            Err(Error::TooLarge { what: "the licence", size, bound })
        }
        Some(text) if text.trim().is_empty() || text.chars().any(char::is_control) => Err(Error::Invalid(
            "the licence is no line of text: give an SPDX expression such as Apache-2.0, or a few words"
                .into(),
        )),
        _ => Ok(()),
    }
}

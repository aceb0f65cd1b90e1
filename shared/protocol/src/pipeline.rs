//! The declarative pre- and post-processing of a model, carried in the release manifest.
//!
//! The same description runs in training, evaluation, cloud inference and on the device, so that no skew
//! between them can arise. `flotilla-runtime` executes it. What is added to it later is left out where it has its
//! default, so that a pipeline which needs nothing new is read by every version, and one that does is refused by an older
//! device as malformed.

pub mod detection;
mod image;
mod output;
pub mod sound;
pub mod table;
mod tensors;

pub use detection::{Decoder, Detection};
pub use image::{Colour, Filter, ImageInput, Layout, Place, Resize};
pub use output::{
    Activation, Anomaly, AnomalyScore, Classification, Embedding, MultiLabel, Output, Regression, Target,
    TensorsOutput,
};
pub use sound::SoundInput;
pub use table::TableInput;
pub use tensors::{ConstantTensor, StateTensor, TensorKind, TensorSpec, TensorsInput};

use serde::{Deserialize, Serialize};

/// What stands between the raw input and the tensors, and between the tensors and the answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pipeline {
    /// Format version: 1.
    pub format: u16,
    /// Raw input to tensor.
    pub input: Input,
    /// Tensor to answer.
    pub output: Output,
    /// What the network keeps from one call to the next.
    #[serde(default, skip_serializing_if = "is_default")]
    pub states: Vec<StateTensor>,
    /// Inputs of the network that are always the same.
    #[serde(default, skip_serializing_if = "is_default")]
    pub constants: Vec<ConstantTensor>,
}

/// How raw input becomes a tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Input {
    /// One picture.
    Image(ImageInput),
    /// A recording.
    Sound(SoundInput),
    /// A row of a table.
    Table(TableInput),
    /// Tensors as they are.
    Tensors(TensorsInput),
}

/// Why a pipeline cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the pipeline's {field} is not usable: {problem}")]
pub struct InvalidPipeline {
    /// The field.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

impl Pipeline {
    /// A pipeline without states and constants.
    pub fn new(input: Input, output: Output) -> Self {
        Self { format: 1, input, output, states: Vec::new(), constants: Vec::new() }
    }

    /// The pipeline of a release that holds no model. It is not usable.
    pub fn none() -> Self {
        let classification = Classification::new(Vec::new(), Activation::None);
        Self::new(Input::Image(ImageInput::none()), Output::Classification(classification))
    }

    /// Checks every bound; executing a checked pipeline cannot divide by zero or allocate without bound.
    pub fn check(&self) -> Result<(), InvalidPipeline> {
        let fail = |field, problem: String| Err(InvalidPipeline { field, problem });
        if self.format != 1 {
            return fail("format", format!("version {} is not known here, only 1", self.format));
        }
        let mut names = Vec::new();
        match &self.input {
            Input::Image(image) => image.check()?,
            Input::Sound(sound) => sound.check()?,
            Input::Table(table) => table.check()?,
            Input::Tensors(input) if input.tensors.is_empty() => {
                return fail("tensors", "there is none".to_owned());
            }
            Input::Tensors(input) => tensors::check_all("tensors", &input.tensors, &mut names)?,
        }
        tensors::check_all("states", self.states.iter().map(|state| &state.input), &mut names)?;
        tensors::check_all("constants", self.constants.iter().map(|constant| &constant.input), &mut names)?;
        let wrong = |constant: &&ConstantTensor| {
            constant.input.values() != Some(constant.values.len())
                || constant.values.iter().any(|value| !value.is_finite())
        };
        if let Some(constant) = self.constants.iter().find(wrong) {
            let problem = format!("{} needs as many finite values as its shape has", constant.input.name);
            return fail("constants", problem);
        }
        if self.image().is_none() && matches!(self.output, Output::Detection(_)) {
            return fail("output", "things are found in pictures only".to_owned());
        }
        self.output.check()
    }

    /// Label names, in the order of their indices; none where an answer has no label.
    pub fn labels(&self) -> Vec<String> {
        self.output.labels()
    }

    /// The picture that it takes, if it takes one.
    pub fn image(&self) -> Option<&ImageInput> {
        match &self.input {
            Input::Image(image) => Some(image),
            Input::Sound(_) | Input::Table(_) | Input::Tensors(_) => None,
        }
    }
}

/// Whether a field has its default and need not be written.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

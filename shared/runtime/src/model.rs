//! A loaded model: pipeline and engine together.

use crate::drift::Monitor;
use crate::engine::{self, Engine};
use crate::{Bundle, Error, Input, Preprocessor, Result};
use flotilla_protocol::Pipeline;
use flotilla_protocol::pipeline::{Activation, ImageInput, Output};
use serde::{Deserialize, Serialize};

/// The answer to one input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// Index of the label with the highest score; the first of equals.
    pub label_index: usize,
    /// Its name.
    pub label: String,
    /// Its score.
    pub score: f32,
    /// All scores, in the order of the labels.
    pub scores: Vec<f32>,
}

/// A model ready to predict. One prediction at a time; it may move between threads.
#[derive(Debug)]
pub struct Model {
    preprocessor: Preprocessor,
    engine: Engine,
    activation: Activation,
    labels: Vec<String>,
    monitor: Option<Box<Monitor>>,
}

impl Model {
    /// Loads an ONNX model that belongs to `pipeline`.
    pub fn load(pipeline: &Pipeline, onnx: &[u8]) -> Result<Self> {
        let preprocessor = Preprocessor::new(pipeline)?;
        let engine = Engine::load(onnx, &preprocessor.shape())?;
        let Output::Classification(classification) = &pipeline.output;
        let outputs = engine.output_shape().iter().product();
        let labels = classification.labels.clone();
        if outputs != labels.len() {
            return Err(Error::Labels { outputs, labels: labels.len() });
        }
        Ok(Self { preprocessor, engine, activation: classification.activation, labels, monitor: None })
    }

    /// Loads the first variant of a release that is for this board and engine ([`engine::NAME`]).
    pub fn from_bundle(bundle: &Bundle, board: &str, engine: &str) -> Result<Self> {
        if engine != engine::NAME {
            return Err(Error::UnknownEngine { engine: engine.to_owned() });
        }
        let manifest = bundle.manifest();
        let variant = manifest.variant_for(board, engine)?;
        let model = Self::load(&manifest.pipeline, &bundle.read(&variant.model)?)?;
        let monitor = bundle.baseline()?.map(|baseline| Monitor::new(&manifest.pipeline, baseline));
        Ok(Self { monitor: monitor.map(Box::new), ..model })
    }

    /// What compares predictions with the release's baseline, if it has one. It is given out once: whoever predicts
    /// counts with it, so that it can be read while a prediction runs.
    pub fn take_monitor(&mut self) -> Option<Box<Monitor>> {
        self.monitor.take()
    }

    /// What turns inputs into tensors.
    pub fn preprocessor(&self) -> &Preprocessor {
        &self.preprocessor
    }

    /// Label names, in the order of the scores.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// The picture that the pipeline takes.
    pub fn image(&self) -> &ImageInput {
        self.preprocessor.image()
    }

    /// Shape of the input tensor, with a batch of one.
    pub fn input_shape(&self) -> &[usize] {
        self.engine.input_shape()
    }

    /// Name and shape of the tensor that the network takes, with a batch of one.
    pub fn input(&self) -> (&str, &[usize]) {
        (self.engine.input_name(), self.engine.input_shape())
    }

    /// Name and shape of the tensor that the network gives, with a batch of one.
    pub fn output(&self) -> (&str, &[usize]) {
        (self.engine.output_name(), self.engine.output_shape())
    }

    /// Predicts one input.
    pub fn predict(&mut self, input: Input<'_>) -> Result<Prediction> {
        let tensor = self.tensor(input)?;
        self.predict_tensor(&tensor)
    }

    /// Pre-processing alone.
    pub fn tensor(&self, input: Input<'_>) -> Result<Vec<f32>> {
        self.preprocessor.tensor(input)
    }

    /// Engine and post-processing alone, for a tensor of [`Model::tensor`].
    pub fn predict_tensor(&mut self, tensor: &[f32]) -> Result<Prediction> {
        let output = self.engine.run(tensor)?;
        self.read(output)
    }

    /// What the network itself gives for a tensor, and what post-processing makes of it.
    pub fn run(&mut self, tensor: &[f32]) -> Result<(Vec<f32>, Prediction)> {
        let output = self.engine.run(tensor)?;
        let prediction = self.read(output.clone())?;
        Ok((output, prediction))
    }

    /// Post-processing alone.
    fn read(&self, mut scores: Vec<f32>) -> Result<Prediction> {
        if let Activation::Softmax = self.activation {
            softmax(&mut scores);
        }
        if let Some(index) = scores.iter().position(|score| !score.is_finite()) {
            return Err(Error::NotFinite { index });
        }
        let label_index =
            (1..scores.len()).fold(0, |best, i| if scores[i] > scores[best] { i } else { best });
        let label = self.labels[label_index].clone();
        Ok(Prediction { label_index, label, score: scores[label_index], scores })
    }
}

/// Logits to probabilities. The largest is subtracted first, so that no exponential overflows.
fn softmax(values: &mut [f32]) {
    let largest = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for value in values.iter_mut() {
        *value = (*value - largest).exp();
    }
    let sum: f32 = values.iter().sum();
    for value in values {
        *value /= sum;
    }
}

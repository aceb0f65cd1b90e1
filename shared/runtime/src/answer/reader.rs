//! A network's outputs to an answer.

use super::detection::{Detector, find, sigmoid};
use super::{Anomaly, Answer, Label, Prediction, Tensor, Value};
use crate::preprocess::Frame;
use crate::tensor::{Port, Values};
use crate::{Error, Result};
use flotilla_protocol::Pipeline;
use flotilla_protocol::pipeline::{Activation, AnomalyScore, MultiLabel, Output, Regression};

/// Post-processing whose outputs are found and whose shapes fit.
#[derive(Clone, Debug)]
pub(crate) struct Reader {
    kind: Kind,
    labels: Vec<String>,
    ports: Vec<Port>,
}

#[derive(Clone, Debug)]
enum Kind {
    Classification { output: usize, activation: Activation },
    MultiLabel { output: usize, spec: MultiLabel },
    Detection(Box<Detector>),
    Regression { output: usize, spec: Regression },
    Anomaly { output: usize, score: AnomalyScore, threshold: f32 },
    Embedding { output: usize, normalise: bool },
    Tensors,
}

/// What one run of a network was given and gave.
#[derive(Debug)]
pub(crate) struct Seen {
    /// The first input.
    pub(crate) input: Values,
    /// Outputs, states aside.
    pub(crate) outputs: Vec<Values>,
}

impl Reader {
    /// Finds the outputs among those of a network; `input` is its first input.
    pub(crate) fn new(pipeline: &Pipeline, input: &Port, ports: Vec<Port>) -> Result<Self> {
        let labels = pipeline.labels();
        let scores = |output: &Option<String>| {
            let place = find(&ports, output.as_deref())?;
            let outputs = ports[place].values();
            if outputs == labels.len() {
                Ok(place)
            } else {
                Err(Error::Labels { outputs, labels: labels.len() })
            }
        };
        let kind = match &pipeline.output {
            Output::Classification(spec) => {
                Kind::Classification { output: scores(&spec.output)?, activation: spec.activation }
            }
            Output::MultiLabel(spec) => {
                Kind::MultiLabel { output: scores(&spec.output)?, spec: spec.clone() }
            }
            Output::Detection(spec) => {
                let image = pipeline.image().ok_or_else(|| {
                    Error::Interface("it finds things in pictures, but takes none".to_owned())
                })?;
                Kind::Detection(Box::new(Detector::new(spec, (image.width, image.height), &ports)?))
            }
            Output::Regression(spec) => {
                let output = find(&ports, spec.output.as_deref())?;
                let (outputs, targets) = (ports[output].values(), spec.targets.len());
                if outputs != targets {
                    return Err(Error::Interface(format!(
                        "it gives {outputs} numbers, but the pipeline names {targets} targets"
                    )));
                }
                Kind::Regression { output, spec: spec.clone() }
            }
            Output::Anomaly(spec) => {
                let output = find(&ports, spec.output.as_deref())?;
                let need = match spec.score {
                    AnomalyScore::Direct => 1,
                    AnomalyScore::SquaredError | AnomalyScore::AbsoluteError => input.values(),
                };
                let got = ports[output].values();
                if got != need {
                    return Err(Error::Interface(format!(
                        "its output {} has {got} values; an anomaly of this kind needs {need}",
                        ports[output].name
                    )));
                }
                Kind::Anomaly { output, score: spec.score, threshold: spec.threshold }
            }
            Output::Embedding(spec) => {
                let output = find(&ports, spec.output.as_deref())?;
                Kind::Embedding { output, normalise: spec.normalise }
            }
            Output::Tensors(_) => Kind::Tensors,
        };
        Ok(Self { kind, labels, ports })
    }

    /// Label names, in the order of their indices.
    pub(crate) fn labels(&self) -> &[String] {
        &self.labels
    }

    /// What the network gives, states aside.
    pub(crate) fn ports(&self) -> &[Port] {
        &self.ports
    }

    /// The answer to an input of one or several windows: scores, numbers and vectors are averaged over them; of things and
    /// tensors the first window counts.
    pub(crate) fn read(&self, windows: Vec<Seen>, frame: Option<&Frame>) -> Result<Prediction> {
        let mut rows = Vec::with_capacity(windows.len());
        for window in &windows {
            rows.push(self.scores(window)?);
        }
        let count = rows.len();
        let mut rows = rows.into_iter();
        let mut scores = rows.next().unwrap_or_default();
        if count > 1 && !matches!(self.kind, Kind::Detection(_) | Kind::Tensors) {
            for row in rows {
                scores.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
            }
            scores.iter_mut().for_each(|sum| *sum /= count as f32);
        }
        if let Kind::Embedding { normalise: true, .. } = self.kind {
            // Squares of 32-bit floats have room in 64 bits.
            let length = scores.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
            if length > 0.0 {
                scores.iter_mut().for_each(|value| *value = (f64::from(*value) / length) as f32);
            }
        }
        if let Some(index) = scores.iter().position(|score| !score.is_finite()) {
            return Err(Error::NotFinite { index });
        }
        let answer = self.answer(&scores, &windows, frame)?;
        Ok(Prediction { answer, scores })
    }

    /// The numbers of one window that the answer is made of.
    fn scores(&self, window: &Seen) -> Result<Vec<f32>> {
        let of = |output: usize| window.outputs[output].to_f32().into_owned();
        Ok(match &self.kind {
            Kind::Classification { output, activation } => activated(of(*output), *activation),
            Kind::MultiLabel { output, spec } => activated(of(*output), spec.activation),
            Kind::Regression { output, spec } => {
                let values = of(*output);
                values
                    .iter()
                    .zip(&spec.targets)
                    .map(|(value, target)| value * target.std + target.mean)
                    .collect()
            }
            Kind::Anomaly { output, score, .. } => {
                let (output, input) = (of(*output), window.input.to_f32());
                let pairs = output.iter().zip(input.iter()).map(|(a, b)| a - b);
                let count = output.len() as f32;
                vec![match score {
                    AnomalyScore::Direct => output[0],
                    AnomalyScore::SquaredError => pairs.map(|d| d * d).sum::<f32>() / count,
                    AnomalyScore::AbsoluteError => pairs.map(f32::abs).sum::<f32>() / count,
                }]
            }
            Kind::Embedding { output, .. } => of(*output),
            Kind::Detection(_) | Kind::Tensors => {
                window.outputs.iter().flat_map(|values| values.to_f32().into_owned()).collect()
            }
        })
    }

    fn answer(&self, scores: &[f32], windows: &[Seen], frame: Option<&Frame>) -> Result<Answer> {
        let label = |label_index: usize| Label {
            label_index,
            label: self.labels[label_index].clone(),
            score: scores[label_index],
        };
        Ok(match &self.kind {
            Kind::Classification { .. } => {
                let best = |best: usize, i: usize| if scores[i] > scores[best] { i } else { best };
                Answer::Class(label((1..scores.len()).fold(0, best)))
            }
            Kind::MultiLabel { spec, .. } => {
                let threshold = |index: usize| spec.thresholds.get(index).unwrap_or(&spec.thresholds[0]);
                let reached = |index: &usize| scores[*index] >= *threshold(*index);
                let mut labels: Vec<Label> = (0..scores.len()).filter(reached).map(label).collect();
                labels.sort_by(|a, b| b.score.total_cmp(&a.score));
                Answer::Labels(labels)
            }
            Kind::Detection(detector) => {
                let Some(frame) = frame else {
                    return Err(Error::Interface(
                        "boxes need the picture that was sent; a tensor has none".to_owned(),
                    ));
                };
                let floats: Vec<_> = windows[0].outputs.iter().map(Values::to_f32).collect();
                let outputs: Vec<&[f32]> = floats.iter().map(|values| &**values).collect();
                Answer::Objects(detector.read(&outputs, frame))
            }
            Kind::Regression { spec, .. } => Answer::Values(
                spec.targets
                    .iter()
                    .zip(scores)
                    .map(|(target, value)| Value {
                        name: target.name.clone(),
                        value: *value,
                        unit: target.unit.clone(),
                    })
                    .collect(),
            ),
            Kind::Anomaly { threshold, .. } => {
                let (score, threshold) = (scores[0], *threshold);
                Answer::Anomaly(Anomaly { score, threshold, anomalous: score > threshold })
            }
            Kind::Embedding { .. } => Answer::Embedding,
            Kind::Tensors => Answer::Tensors(
                self.ports
                    .iter()
                    .zip(&windows[0].outputs)
                    .map(|(port, values)| Tensor {
                        name: port.name.clone(),
                        datatype: port.kind,
                        shape: port.shape.clone(),
                        values: values.clone(),
                    })
                    .collect(),
            ),
        })
    }
}

fn activated(mut values: Vec<f32>, activation: Activation) -> Vec<f32> {
    match activation {
        Activation::None => {}
        Activation::Softmax => softmax(&mut values),
        Activation::Sigmoid => values.iter_mut().for_each(|value| *value = sigmoid(*value)),
    }
    values
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

//! What a model says.

mod detection;
mod reader;
mod suppress;

pub(crate) use reader::{Reader, Seen};

use crate::metrics::detection::iou;
use crate::tensor::Values;
use flotilla_protocol::pipeline::TensorKind;
use serde::{Deserialize, Serialize};

/// Numbers behind an answer that are compared with those of another.
pub const COMPARED: usize = flotilla_protocol::limits::LABELS;

/// The answer to one input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// What it says.
    pub answer: Answer,
    /// The numbers behind it, by which two runs can be compared: a score a label where it has labels, else everything that
    /// the network gave.
    pub scores: Vec<f32>,
}

/// What an answer says, by kind of model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The label with the highest score; the first of equals.
    Class(Label),
    /// The labels whose scores reach their thresholds, the best first.
    Labels(Vec<Label>),
    /// Things in a picture, the surest first.
    Objects(Vec<Object>),
    /// Numbers by name.
    Values(Vec<Value>),
    /// How unusual the input is.
    Anomaly(Anomaly),
    /// A vector; its values are the scores.
    Embedding,
    /// What the network gave.
    Tensors(Vec<Tensor>),
}

/// A label and its score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Label {
    /// Index of the label.
    pub label_index: usize,
    /// Its name.
    pub label: String,
    /// Its score.
    pub score: f32,
}

/// A thing in a picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Object {
    /// What it is.
    #[serde(flatten)]
    pub label: Label,
    /// Left, top, right, bottom in pixels of the picture that was sent.
    #[serde(rename = "box")]
    pub place: [f32; 4],
}

/// A number by name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Value {
    /// What it is.
    pub name: String,
    /// The number.
    pub value: f32,
    /// Its unit; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub unit: String,
}

/// How unusual an input is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Anomaly {
    /// The more the less usual.
    pub score: f32,
    /// Above it is anomalous.
    pub threshold: f32,
    /// Whether it is.
    pub anomalous: bool,
}

/// A tensor by name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tensor {
    /// Its name in the graph.
    pub name: String,
    /// What it holds.
    pub datatype: TensorKind,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its values, in row-major order.
    pub values: Values,
}

/// The one label that an answer can be counted under.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Headline<'a> {
    /// Index of the label.
    pub label_index: usize,
    /// Its name.
    pub label: &'a str,
    /// How sure the model is, 0 to 1, where it says so.
    pub confidence: Option<f32>,
}

impl Prediction {
    /// The one label under which this is counted: the class, the best of several labels, the surest thing, normal or
    /// anomalous. None for numbers, and where nothing was found.
    pub fn headline(&self) -> Option<Headline<'_>> {
        let of = |label: &Label| (label.label_index, label.score);
        let ((label_index, score), label) = match &self.answer {
            Answer::Class(label) => (of(label), label.label.as_str()),
            Answer::Labels(labels) => labels.first().map(|label| (of(label), label.label.as_str()))?,
            Answer::Objects(objects) => {
                objects.first().map(|object| (of(&object.label), object.label.label.as_str()))?
            }
            Answer::Anomaly(anomaly) => {
                let (label_index, label) = if anomaly.anomalous { (1, "anomalous") } else { (0, "normal") };
                return Some(Headline { label_index, label, confidence: None });
            }
            Answer::Values(_) | Answer::Embedding | Answer::Tensors(_) => return None,
        };
        Some(Headline { label_index, label, confidence: Some(score) })
    }

    /// The same for comparison by [`Self::agrees`], of bounded size: numbers beyond [`COMPARED`] are left out, and so are
    /// the tensors themselves.
    pub fn shortened(&self) -> Self {
        let answer = match &self.answer {
            Answer::Tensors(_) => Answer::Tensors(Vec::new()),
            answer => answer.clone(),
        };
        Self { answer, scores: self.scores.iter().take(COMPARED).copied().collect() }
    }

    /// Whether two models said the same of one input: the same label or labels, things that lie on each other (an overlap
    /// of one half) and have the same label, numbers and vectors that differ by a hundredth of their size at most.
    pub fn agrees(&self, other: &Self) -> bool {
        match (&self.answer, &other.answer) {
            (Answer::Class(a), Answer::Class(b)) => a.label == b.label,
            (Answer::Labels(a), Answer::Labels(b)) => {
                let names = |labels: &[Label]| {
                    let mut names: Vec<String> = labels.iter().map(|label| label.label.clone()).collect();
                    names.sort_unstable();
                    names
                };
                names(a) == names(b)
            }
            (Answer::Objects(a), Answer::Objects(b)) => same_objects(a, b),
            (Answer::Anomaly(a), Answer::Anomaly(b)) => a.anomalous == b.anomalous,
            (Answer::Values(_), Answer::Values(_))
            | (Answer::Embedding, Answer::Embedding)
            | (Answer::Tensors(_), Answer::Tensors(_)) => close(&self.scores, &other.scores),
            _ => false,
        }
    }
}

fn same_objects(a: &[Object], b: &[Object]) -> bool {
    let mut left: Vec<&Object> = b.iter().collect();
    let found = a.iter().all(|object| {
        let same = |other: &&Object| {
            other.label.label == object.label.label && iou(other.place, object.place) >= 0.5
        };
        left.iter().position(same).map(|place| left.swap_remove(place)).is_some()
    });
    found && left.is_empty()
}

fn close(a: &[f32], b: &[f32]) -> bool {
    const PART: f64 = 0.01;
    let square = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>();
    let difference = square(&mut a.iter().zip(b).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    let size = square(&mut a.iter().map(|value| f64::from(*value)));
    a.len() == b.len() && difference <= PART * PART * size.max(f64::MIN_POSITIVE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(label_index: usize, place: [f32; 4]) -> Object {
        Object { label: Label { label_index, label: label_index.to_string(), score: 0.9 }, place }
    }

    fn prediction(answer: Answer, scores: &[f32]) -> Prediction {
        Prediction { answer, scores: scores.to_vec() }
    }

    #[test]
    fn things_agree_where_each_lies_on_one_of_the_same_label() {
        let here = object(1, [0.0, 0.0, 10.0, 10.0]);
        let near = object(1, [1.0, 0.0, 11.0, 10.0]);
        let far = object(1, [9.0, 0.0, 19.0, 10.0]);
        let other = object(2, [0.0, 0.0, 10.0, 10.0]);
        let of = |objects: &[&Object]| {
            prediction(Answer::Objects(objects.iter().map(|&object| object.clone()).collect()), &[])
        };
        assert!(of(&[&here, &far]).agrees(&of(&[&far, &near])));
        for others in [&[&far][..], &[&other], &[&here, &near], &[]] {
            assert!(!of(&[&here]).agrees(&of(others)), "{others:?}");
        }
    }

    #[test]
    fn numbers_agree_within_a_hundredth() {
        let of = |scores: &[f32]| prediction(Answer::Embedding, scores);
        assert!(of(&[1.0, 0.0]).agrees(&of(&[1.0, 0.009])));
        assert!(!of(&[1.0, 0.0]).agrees(&of(&[1.0, 0.02])));
        assert!(!of(&[1.0, 0.0]).agrees(&of(&[f32::NAN, 0.0])));
        assert!(!of(&[1.0]).agrees(&of(&[1.0, 0.0])));
        assert!(of(&[0.0]).agrees(&of(&[0.0])));
    }

    #[test]
    fn an_answer_without_a_label_has_no_headline() {
        assert_eq!(prediction(Answer::Objects(vec![]), &[]).headline(), None);
        assert_eq!(prediction(Answer::Embedding, &[1.0]).headline(), None);
        let anomaly = Anomaly { score: 3.0, threshold: 2.0, anomalous: true };
        let said = prediction(Answer::Anomaly(anomaly), &[3.0]);
        assert_eq!(said.headline().map(|h| (h.label, h.confidence)), Some(("anomalous", None)));
    }
}

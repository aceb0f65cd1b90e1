//! What a dataset calls its classes, in the order of a model that may come from elsewhere.

use flotilla_protocol::pipeline::Output;
use flotilla_protocol::{ErrorCode, Pipeline, Truth};
use serde::{Deserialize, Serialize};

/// Names that an error lists.
const NAMED: usize = 8;

/// The classes of a dataset as labels of a model, found by their names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Labels {
    /// The model's label of each class of the dataset, if it has one.
    places: Vec<Option<u32>>,
    classes: Vec<String>,
    /// Whether the model says normal or anomalous.
    anomaly: bool,
}

impl Labels {
    /// The labels of a model for such a dataset. It must know one of its classes at least, if there are any.
    pub(crate) fn of(classes: &[String], pipeline: &Pipeline) -> Result<Self, (ErrorCode, String)> {
        let labels = pipeline.labels();
        let place = |class: &String| {
            let same = labels.iter().position(|label| label == class);
            let alike = || labels.iter().position(|label| label.trim().eq_ignore_ascii_case(class.trim()));
            same.or_else(alike).map(|place| place as u32)
        };
        let places: Vec<Option<u32>> = classes.iter().map(place).collect();
        if !labels.is_empty() && !classes.is_empty() && places.iter().all(Option::is_none) {
            let detail = format!(
                "the model says {}, and the dataset knows {}: none of these is one of those",
                listed(&labels),
                listed(classes)
            );
            return Err((ErrorCode::InvalidInput, detail));
        }
        let anomaly = matches!(pipeline.output, Output::Anomaly(_));
        Ok(Self { places, classes: classes.to_vec(), anomaly })
    }

    /// The model's label of a class of the dataset.
    pub(crate) fn label(&self, class: u32) -> Option<u32> {
        self.places.get(class as usize).copied().flatten()
    }

    /// What is true of a sample, with labels of the model. A class that the model does not know cannot be judged; a box of
    /// one is not what it looks for.
    pub(crate) fn truth(&self, truth: Truth) -> Result<Truth, (ErrorCode, String)> {
        let known = |class: u32| {
            self.label(class).ok_or_else(|| {
                let name = self.classes.get(class as usize).map_or("?", String::as_str);
                (
                    ErrorCode::InvalidInput,
                    format!("the model has no label {name:?}, which samples of the dataset have"),
                )
            })
        };
        Ok(match truth {
            Truth::Class(class) if self.anomaly => Truth::Anomalous(known(class)? == 1),
            Truth::Class(class) => Truth::Class(known(class)?),
            Truth::Labels(labels) => Truth::Labels(labels.into_iter().map(known).collect::<Result<_, _>>()?),
            Truth::Boxes(mut boxes) => {
                boxes.retain_mut(|thing| match self.label(thing.label) {
                    Some(label) => {
                        thing.label = label;
                        true
                    }
                    None => false,
                });
                Truth::Boxes(boxes)
            }
            other => other,
        })
    }
}

fn listed(names: &[String]) -> String {
    let more = if names.len() > NAMED { ", ..." } else { "" };
    format!("{}{more}", names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;
    use flotilla_protocol::TrueBox;
    use flotilla_protocol::pipeline::{
        Activation, Anomaly, AnomalyScore, Classification, ImageInput, Input, Pipeline,
    };

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn model(labels: &[&str]) -> Pipeline {
        let output = Output::Classification(Classification::new(names(labels), Activation::None));
        Pipeline::new(Input::Image(ImageInput::none()), output)
    }

    #[test]
    fn classes_are_labels_by_their_names() {
        let labels = Labels::of(&names(&["dog", "Cat"]), &model(&["bird", "cat", "dog"])).unwrap();
        assert_eq!(labels.truth(Truth::Class(0)).unwrap(), Truth::Class(2));
        assert_eq!(labels.truth(Truth::Class(1)).unwrap(), Truth::Class(1));
        let labels = Labels::of(&names(&["dog", "horse"]), &model(&["cat", "dog"])).unwrap();
        let area = [0.0, 0.0, 1.0, 1.0];
        let thing = |label| TrueBox { label, area, ignored: false };
        let boxes = labels.truth(Truth::Boxes(vec![thing(0), thing(1)])).unwrap();
        assert_eq!(boxes, Truth::Boxes(vec![thing(1)]), "nobody looks for horses");
        assert!(labels.truth(Truth::Class(1)).unwrap_err().1.contains("\"horse\""));
        let (_, why) = Labels::of(&names(&["0", "1"]), &model(&["cat", "dog"])).unwrap_err();
        assert!(why.contains("cat, dog") && why.contains("0, 1"), "{why}");
    }

    #[test]
    fn what_is_normal_and_what_not_may_be_classes() {
        let anomaly = Anomaly { score: AnomalyScore::Direct, threshold: 1.0, output: None };
        let pipeline = Pipeline { output: Output::Anomaly(anomaly), ..model(&["x"]) };
        let labels = Labels::of(&names(&["anomalous", "normal"]), &pipeline).unwrap();
        assert_eq!(labels.truth(Truth::Class(0)).unwrap(), Truth::Anomalous(true));
        assert_eq!(labels.truth(Truth::Class(1)).unwrap(), Truth::Anomalous(false));
    }
}

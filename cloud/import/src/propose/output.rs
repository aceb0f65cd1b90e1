//! What comes out.

use flotilla_protocol::limits;
use flotilla_protocol::pipeline::detection::{
    AnchorFree, AnchorFreeLevel, BoxForm, Boxes, CellBox, Decoder, Yolo, YoloGrid,
};
use flotilla_protocol::pipeline::{
    Activation, Anomaly, AnomalyScore, Classification, Detection, Embedding, MultiLabel, Output, Regression,
    Target, TensorsOutput,
};

use super::Draft;
use crate::{Detection as Form, Level, Output as Guess};

/// The score from which something is said to be there, until somebody measures a better one.
const SCORE: f32 = 0.5;
/// Part of their union that two boxes of one thing share.
const OVERLAP: f32 = 0.45;
/// Boxes of a picture.
const BOXES: u32 = 100;
/// Strides of the YOLO family.
const STRIDES: [u32; 3] = [8, 16, 32];

impl Draft<'_> {
    pub(super) fn output(&mut self) -> Output {
        let guess = self.guess;
        match &guess.output {
            Guess::Classification { classes, probabilities, several } if *classes <= limits::LABELS => {
                self.classes(*classes, *probabilities, *several)
            }
            Guess::Detection(form) => match self.decoder(form) {
                Some((decoder, classes)) => {
                    let labels = self.names(classes, "output.detection.labels");
                    let (score, overlap, limit) = (SCORE, OVERLAP, BOXES);
                    Output::Detection(Detection { labels, decoder, score, overlap, limit })
                }
                None => Output::Tensors(TensorsOutput {}),
            },
            Guess::Regression { values } if *values <= limits::LABELS => {
                self.confirm(
                    "output.regression.targets",
                    "what the numbers are, in which unit, and by how much training scaled them, is not in the file",
                );
                let name = |place: usize| {
                    if *values == 1 { "value".to_owned() } else { format!("value-{place}") }
                };
                let target = |place| Target { name: name(place), unit: String::new(), mean: 0.0, std: 1.0 };
                Output::Regression(Regression { targets: (0..*values).map(target).collect(), output: None })
            }
            Guess::Anomaly => {
                self.confirm(
                    "output.anomaly.threshold",
                    "an input counts as anomalous where what the model makes of it differs by more than 1 (mean square): \
                     take a quantile of what normal inputs have",
                );
                let (score, threshold) = (AnomalyScore::SquaredError, 1.0);
                Output::Anomaly(Anomaly { score, threshold, output: None })
            }
            Guess::Embedding { .. } => {
                self.confirm("output.embedding.normalise", "vectors are brought to the length 1");
                Output::Embedding(Embedding { normalise: true, output: None })
            }
            Guess::Classification { .. } | Guess::Regression { .. } | Guess::Tensors => {
                Output::Tensors(TensorsOutput {})
            }
        }
    }

    fn classes(&mut self, classes: usize, probabilities: bool, several: bool) -> Output {
        if several {
            let labels = match self.labels.names.as_slice() {
                // One number between 0 and 1 says how much it is the second of two.
                [_, second] if classes == 1 => vec![second.clone()],
                _ => self.names(classes, "output.multi_label.labels"),
            };
            self.confirm(
                "output.multi_label.thresholds",
                format!("a label applies from a score of {SCORE} on"),
            );
            let thresholds = vec![SCORE];
            let activation = if probabilities { Activation::None } else { Activation::Sigmoid };
            return Output::MultiLabel(MultiLabel { labels, activation, thresholds, output: None });
        }
        let labels = self.names(classes, "output.classification.labels");
        let activation = if probabilities { Activation::None } else { Activation::Softmax };
        if !probabilities {
            self.confirm(
                "output.classification.activation",
                "the scores are taken as logits, of which softmax makes probabilities; `none` leaves them as they are",
            );
        }
        Output::Classification(Classification::new(labels, activation))
    }

    /// Names of classes: those that somebody gave, else numbers.
    fn names(&mut self, classes: usize, field: &str) -> Vec<String> {
        if self.labels.names.len() == classes {
            return self.labels.names.clone();
        }
        self.confirm(
            field,
            format!(
                "nobody names the {}, so numbers stand there: give the names in the order of the scores (on the command \
                 line --labels FILE, a name a line)",
                if classes == 1 { "class".to_owned() } else { format!("{classes} classes") }
            ),
        );
        (0..classes).map(|class| format!("class-{class}")).collect()
    }

    /// How boxes are read, and the number of classes; none where the model has chosen them itself.
    fn decoder(&mut self, form: &Form) -> Option<(Decoder, usize)> {
        let field = "output.detection.decoder";
        Some(match form {
            Form::Ssd { boxes, scores, scores_each, probabilities } => {
                let names = self.labels.names.len();
                let background = names + 1 == *scores_each || (names == 0 && *scores_each > 1);
                let first = if background {
                    "the first score is that of the background"
                } else {
                    "no score is the background's"
                };
                self.confirm(
                    field,
                    format!(
                        "`{boxes}` is taken as corners in parts of the picture, decoded already, and {first}; where the \
                         boxes are offsets, write the priors that the model was trained with"
                    ),
                );
                let boxes = Boxes {
                    boxes: boxes.clone(),
                    scores: scores.clone(),
                    softmax: !probabilities,
                    background,
                    form: BoxForm::Corners,
                    relative: true,
                    priors: None,
                };
                (Decoder::Boxes(boxes), scores_each - usize::from(background))
            }
            Form::YoloObjectness { output, classes, anchors } => {
                let output = Some(output.clone());
                let decoder = if *anchors == 1 {
                    self.confirm(
                        field,
                        "boxes are taken as relative to the cells of strides 8, 16 and 32, as YOLOX exports them; where \
                         the network decodes them itself, write `yolo_v5`",
                    );
                    Decoder::YoloX(YoloGrid { output, strides: STRIDES.to_vec() })
                } else {
                    self.confirm(
                        field,
                        "boxes are taken as decoded by the network, as YOLOv5 and v7 export them",
                    );
                    Decoder::YoloV5(Yolo { output })
                };
                (decoder, *classes)
            }
            Form::Yolo { output, classes } => {
                self.confirm(field, "columns are taken as box and classes, as YOLOv8 and later export them");
                (Decoder::YoloV8(Yolo { output: Some(output.clone()) }), *classes)
            }
            Form::AnchorFree { levels, classes, box_numbers, .. } => {
                (self.anchor_free(levels, *box_numbers)?, *classes)
            }
            Form::Chosen => {
                self.confirm(
                    "output.tensors",
                    "the network chooses boxes itself, and applications get its outputs as they are: an export without \
                     NonMaxSuppression gives things with labels and places",
                );
                return None;
            }
        })
    }

    fn anchor_free(&mut self, levels: &[Level], box_numbers: usize) -> Option<Decoder> {
        let objectness = levels.iter().any(|level| level.objectness.is_some());
        // YuNet's box is an offset and a logarithm; without objectness distances are usual.
        let (boxes, what) = match box_numbers {
            4 if objectness => (CellBox::CentreSize, "an offset of the centre and the logarithm of the size"),
            4 => (CellBox::Distances, "distances to the four sides"),
            more if more % 4 == 0 => {
                let bins = u8::try_from(more / 4).ok()?;
                (CellBox::Distribution { bins }, "distributions of the distances to the four sides")
            }
            _ => return None,
        };
        let point = if objectness { 0.0 } else { 0.5 };
        self.confirm(
            "output.detection.decoder",
            format!(
                "boxes are taken as {what}, scores as probabilities{}, points of cells at {point} of a stride",
                if objectness { " whose root of the product with the objectness counts" } else { "" }
            ),
        );
        let level = |level: &Level| AnchorFreeLevel {
            stride: u32::try_from(level.stride).unwrap_or(u32::MAX),
            classes: level.classes.clone(),
            objectness: level.objectness.clone(),
            boxes: level.boxes.clone(),
        };
        let levels = levels.iter().map(level).collect();
        Some(Decoder::AnchorFree(AnchorFree { levels, boxes, sigmoid: false, root: objectness, point }))
    }
}

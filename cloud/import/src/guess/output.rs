//! What comes out.

use std::collections::HashMap;

use flotilla_onnx::Model;
use flotilla_onnx::clean::Known;
use serde::Serialize;

use super::{Input, Output, State};

/// Boxes from which an output is one of a detector.
const MANY: usize = 32;

/// Lengths of embeddings.
const LENGTHS: [usize; 9] = [32, 64, 96, 128, 192, 256, 512, 1024, 2048];

/// How a detector gives its boxes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "form")]
pub enum Detection {
    /// One tensor of boxes and one of scores, a row each for every prior.
    Ssd {
        /// The output with the boxes.
        boxes: String,
        /// The output with the scores.
        scores: String,
        /// Scores of a row, the background among them if there is one.
        scores_each: usize,
        /// Whether the scores are probabilities already.
        probabilities: bool,
    },
    /// One tensor whose rows are box, objectness and classes (YOLO v5, X).
    YoloObjectness {
        /// The output.
        output: String,
        /// Classes.
        classes: usize,
        /// Rows of a cell.
        anchors: usize,
    },
    /// One tensor whose columns are box and classes (YOLO v8 and later).
    Yolo {
        /// The output.
        output: String,
        /// Classes.
        classes: usize,
    },
    /// Classes, boxes and perhaps objectness and points, for each of several strides (YuNet, NanoDet and their like).
    AnchorFree {
        /// The levels, the finest first.
        levels: Vec<Level>,
        /// Classes of a cell.
        classes: usize,
        /// Numbers that describe the box of a cell.
        box_numbers: usize,
        /// Points of an object, as of a face.
        points: usize,
    },
    /// Boxes that the model has chosen already.
    Chosen,
}

/// The outputs of one stride.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Level {
    /// Pixels from one cell to the next.
    pub stride: usize,
    /// The output with the classes.
    pub classes: String,
    /// The output that says whether there is anything, if there is one.
    pub objectness: Option<String>,
    /// The output with the boxes.
    pub boxes: String,
}

/// What a guess is made from.
pub(super) struct Scene<'a> {
    pub(super) model: &'a Model,
    pub(super) known: &'a HashMap<String, Known>,
    pub(super) states: &'a [State],
    pub(super) input: &'a Input,
    pub(super) labels: usize,
}

impl Scene<'_> {
    /// Outputs that are no states, with their sizes.
    fn outputs(&self) -> Vec<(String, Vec<usize>)> {
        let outputs = self.model.outputs().into_iter().map(|output| output.name);
        let outputs = outputs.filter(|name| self.states.iter().all(|state| state.output != *name));
        let shape = |name: &str| self.known.get(name).and_then(Known::fixed).unwrap_or_default();
        outputs.map(|name| (name.clone(), shape(&name))).collect()
    }

    /// The operator that makes a value, past those that only move elements.
    fn maker(&self, name: &str) -> Option<&str> {
        let mut name = name.to_owned();
        for _ in 0..8 {
            let node = self.model.producer_of(&name)?;
            let passes = matches!(
                node.op_type.as_str(),
                "Reshape"
                    | "Flatten"
                    | "Squeeze"
                    | "Unsqueeze"
                    | "Identity"
                    | "Transpose"
                    | "Cast"
                    | "Clip"
                    | "Concat"
            );
            // What quantisation leaves behind a layer: a product, a clamp and rounding, with constants.
            let scaled = matches!(node.op_type.as_str(), "Mul" | "Add" | "Sub")
                && node.input.get(1).is_some_and(|constant| self.model.initializer(constant).is_some());
            if !passes && !scaled {
                return Some(&node.op_type);
            }
            name.clone_from(node.input.first()?);
        }
        None
    }
}

pub(super) fn guess(scene: &Scene<'_>, why: &mut Vec<String>) -> Output {
    let outputs = scene.outputs();
    if let Some(detection) = detection(scene, &outputs, why) {
        return Output::Detection(detection);
    }
    let [(name, dims)] = outputs.as_slice() else {
        why.push(format!("the model gives {} tensors", outputs.len()));
        return Output::Tensors;
    };
    let same = scene.model.inputs().iter().any(|input| {
        let sizes = scene.known.get(&input.name).and_then(Known::fixed);
        sizes.as_ref() == Some(dims)
    });
    if same && dims.len() >= 2 && dims.iter().product::<usize>() > 1 {
        why.push(format!(
            "`{name}` has the shape of the input: it is built anew, and how well tells what is unusual"
        ));
        return Output::Anomaly;
    }
    let maker = scene.maker(name);
    let values = match dims.as_slice() {
        [_, values] => *values,
        [_, 1, values] | [_, values, 1] | [_, values, 1, 1] => *values,
        [values] => *values,
        _ => {
            why.push(format!("`{name}` has {} dimensions", dims.len()));
            return Output::Tensors;
        }
    };
    vector(scene, name, values, maker, why)
}

/// One row of numbers.
fn vector(
    scene: &Scene<'_>,
    name: &str,
    values: usize,
    maker: Option<&str>,
    why: &mut Vec<String>,
) -> Output {
    let lower = name.to_lowercase();
    let classes = |probabilities, several| Output::Classification { classes: values, probabilities, several };
    match maker {
        Some("Softmax") => {
            why.push(format!("`{name}` comes from Softmax: probabilities of classes"));
            classes(true, false)
        }
        Some("TreeEnsembleClassifier" | "LinearClassifier" | "SVMClassifier" | "Normalizer") => {
            why.push(format!("`{name}` comes from a classifier"));
            classes(true, false)
        }
        Some("TreeEnsembleRegressor" | "LinearRegressor" | "SVMRegressor") => {
            why.push(format!("`{name}` comes from a regressor"));
            Output::Regression { values }
        }
        Some("Sigmoid" | "HardSigmoid") => {
            why.push(format!("`{name}` comes from Sigmoid: each class is for itself"));
            classes(true, true)
        }
        _ if scene.labels > 0 && (values == scene.labels || scene.labels > 1) => {
            why.push(format!("there are labels, so `{name}` has scores"));
            classes(false, false)
        }
        Some("LpNormalization" | "Div") => {
            why.push(format!("`{name}` is normalised to a length: it stands for the input"));
            Output::Embedding { length: values }
        }
        _ if lower.contains("emb") || lower.contains("feature") => {
            why.push(format!("the name `{name}` is one of an embedding"));
            Output::Embedding { length: values }
        }
        _ if values == 1 => {
            why.push(format!("`{name}` is one number"));
            Output::Regression { values }
        }
        _ if LENGTHS.contains(&values) && !lower.contains("logit") && !lower.contains("class") => {
            why.push(format!("`{name}` has {values} numbers, a usual length of embeddings, and no Softmax"));
            Output::Embedding { length: values }
        }
        _ => {
            why.push(format!("`{name}` has {values} numbers: scores of classes without Softmax"));
            classes(false, false)
        }
    }
}

fn detection(
    scene: &Scene<'_>,
    outputs: &[(String, Vec<usize>)],
    why: &mut Vec<String>,
) -> Option<Detection> {
    if scene.model.nodes().iter().any(|node| node.op_type == "NonMaxSuppression") {
        why.push("the model chooses among boxes itself (NonMaxSuppression)".into());
        return Some(Detection::Chosen);
    }
    let named = |word: &str| outputs.iter().any(|(name, _)| name.to_lowercase().contains(word));
    if outputs.len() >= 3
        && named("box")
        && named("score")
        && (named("class") || named("label") || named("num"))
    {
        why.push("the names of the outputs are those of chosen boxes".into());
        return Some(Detection::Chosen);
    }
    let Input::Image { width, height, .. } = scene.input else { return None };
    let size = width.zip(*height);
    match outputs {
        [a, b] => priors(scene, a, b, why).or_else(|| priors(scene, b, a, why)),
        [(name, dims)] => yolo(name, dims, size, why),
        _ => levels(outputs, size?, why),
    }
}

/// A row of box and a row of scores for each prior.
fn priors(
    scene: &Scene<'_>,
    boxes: &(String, Vec<usize>),
    scores: &(String, Vec<usize>),
    why: &mut Vec<String>,
) -> Option<Detection> {
    let ([_, rows, 4], [_, same, each]) = (boxes.1.as_slice(), scores.1.as_slice()) else { return None };
    // Where both have four columns, names decide.
    let swapped = *each == 4 && scores.0.to_lowercase().contains("box");
    if rows != same || *rows < MANY || swapped {
        return None;
    }
    let (boxes, scores) = (boxes.0.clone(), scores.0.clone());
    why.push(format!("`{boxes}` and `{scores}` have {rows} rows each: boxes and scores"));
    let probabilities = matches!(scene.maker(&scores), Some("Softmax" | "Sigmoid"));
    Some(Detection::Ssd { boxes, scores, scores_each: *each, probabilities })
}

/// Cells of the usual strides.
fn cells((width, height): (usize, usize), stride: usize) -> usize {
    width.div_ceil(stride) * height.div_ceil(stride)
}

fn yolo(
    name: &str,
    dims: &[usize],
    size: Option<(usize, usize)>,
    why: &mut Vec<String>,
) -> Option<Detection> {
    let &[_, a, b] = dims else { return None };
    let (rows, columns, rows_first) = if a >= b { (a, b, true) } else { (b, a, false) };
    let grid = size.map(|size| [8, 16, 32].iter().map(|&stride| cells(size, stride)).sum::<usize>());
    let anchors = match grid {
        Some(grid) if rows == grid => 1,
        Some(grid) if rows == 3 * grid => 3,
        Some(_) => return None,
        None if rows >= MANY => 1,
        None => return None,
    };
    let output = name.to_owned();
    if rows_first && columns >= 6 {
        why.push(format!(
            "`{name}` has {rows} rows of box, objectness and {} classes, {anchors} a cell",
            columns - 5
        ));
        return Some(Detection::YoloObjectness { output, classes: columns - 5, anchors });
    }
    if !rows_first && columns >= 5 {
        why.push(format!("`{name}` has {rows} columns of box and {} classes", columns - 4));
        return Some(Detection::Yolo { output, classes: columns - 4 });
    }
    None
}

/// Outputs for each of several strides.
fn levels(
    outputs: &[(String, Vec<usize>)],
    size: (usize, usize),
    why: &mut Vec<String>,
) -> Option<Detection> {
    let mut levels: Vec<Level> = Vec::new();
    let (mut classes, mut box_numbers, mut points) = (0, 0, 0);
    for (name, dims) in outputs {
        let (cells_here, each) = match dims.as_slice() {
            [_, cells, each] => (*cells, *each),
            [_, each, rows, columns] => (rows * columns, *each),
            _ => return None,
        };
        let stride = [4, 8, 16, 32, 64, 128].into_iter().find(|&stride| cells(size, stride) == cells_here)?;
        let place = match levels.iter().position(|level| level.stride == stride) {
            Some(place) => place,
            None => {
                levels.push(Level { stride, ..Level::default() });
                levels.len() - 1
            }
        };
        let level = &mut levels[place];
        let lower = name.to_lowercase();
        let has = |words: &[&str]| words.iter().any(|word| lower.contains(word));
        if has(&["kps", "landm", "keypoint", "kpt"]) {
            points = each / 2;
        } else if has(&["obj", "iou", "center"]) {
            level.objectness = Some(name.clone());
        } else if has(&["box", "reg", "loc", "dis_pred"]) {
            level.boxes.clone_from(name);
            box_numbers = each;
        } else if has(&["cls", "class", "score", "conf"]) {
            level.classes.clone_from(name);
            classes = each;
        }
    }
    levels.sort_unstable_by_key(|level| level.stride);
    let whole = levels.iter().all(|level| !level.classes.is_empty() && !level.boxes.is_empty());
    if levels.len() < 2 || !whole {
        return None;
    }
    let strides: Vec<usize> = levels.iter().map(|level| level.stride).collect();
    why.push(format!("the outputs give classes and boxes at the strides {strides:?}"));
    Some(Detection::AnchorFree { levels, classes, box_numbers, points })
}

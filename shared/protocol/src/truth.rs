//! What is true of a sample, as people or instruments said: what models are trained on and judged by.

use serde::{Deserialize, Serialize};

/// What is true of one sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Truth {
    /// It is of this one class: the index of its label.
    Class(u32),
    /// All these labels hold: their indices, in any order.
    Labels(Vec<u32>),
    /// These things are in the picture.
    Boxes(Vec<TrueBox>),
    /// Its targets, in the order and the units of the pipeline's outputs.
    Values(Vec<f64>),
    /// Whether it is an anomaly.
    Anomalous(bool),
}

/// A thing that is in a picture.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrueBox {
    /// Index of its label.
    pub label: u32,
    /// Left, top, right and bottom edge in pixels of the picture as people see it, its orientation applied.
    pub area: [f32; 4],
    /// Whether finding it counts neither for nor against a model: "difficult" in VOC, "crowd" in COCO.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ignored: bool,
}

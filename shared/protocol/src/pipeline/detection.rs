//! How a detector's outputs become boxes.

use super::output::check_labels;
use super::{InvalidPipeline, is_default};
use crate::limits;
use serde::{Deserialize, Serialize};

/// Boxes of one picture at most.
pub const OBJECTS: u32 = 1_000;
/// Outputs that a decoder may read at most.
const LEVELS: usize = 16;

/// Things in a picture: decoded, those with too low a score left out, and of boxes of one label that lie on each other the
/// best only (greedy non-maximum suppression, a label at a time).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Detection {
    /// Label names, in the order of the network's classes (without its background).
    pub labels: Vec<String>,
    /// What the outputs are.
    pub decoder: Decoder,
    /// The lowest score of a box, 0 to 1.
    pub score: f32,
    /// Boxes of one label whose intersection is more than this part of their union are one; 1 keeps all.
    pub overlap: f32,
    /// Boxes at most, the best; up to [`OBJECTS`].
    pub limit: u32,
}

/// What a detector's outputs are. Shapes are without the batch; boxes are in pixels of the network's picture where
/// nothing else is said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decoder {
    /// Boxes and scores of the same number of places.
    Boxes(Boxes),
    /// One output of rows `x, y, w, h, objectness, classes…` (`[boxes, 5 + classes]`), scores and centres decoded: YOLOv5
    /// and v7 as they are exported.
    YoloV5(Yolo),
    /// One output of columns `x, y, w, h, classes…` (`[4 + classes, boxes]`), decoded: YOLOv8 and later.
    YoloV8(Yolo),
    /// One output of rows as those of YOLOv5 whose boxes are still relative to their cell: the centre is `(value + cell) *
    /// stride`, the size `exp(value) * stride`. The cells are those of the strides, row by row.
    YoloX(YoloGrid),
    /// Outputs a stride, without anchors: FCOS, NanoDet, YuNet.
    AnchorFree(AnchorFree),
}

/// Boxes and scores of the same number of places: SSD and its kin.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Boxes {
    /// The output `[places, 4]`.
    pub boxes: String,
    /// The output `[places, classes]`.
    pub scores: String,
    /// What makes scores of it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub softmax: bool,
    /// The class that is nothing, before all others: SSD's background.
    #[serde(default, skip_serializing_if = "is_default")]
    pub background: bool,
    /// What the four numbers are.
    pub form: BoxForm,
    /// Whether they are parts of the picture's sides and not pixels.
    pub relative: bool,
    /// The priors that the boxes are offsets to; none where the network adds them.
    #[serde(default, skip_serializing_if = "is_default")]
    pub priors: Option<Priors>,
}

/// What the four numbers of a box are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BoxForm {
    /// Left, top, right, bottom.
    Corners,
    /// Top, left, bottom, right, as TensorFlow has them.
    TopLeft,
    /// The centre, then width and height.
    Centre,
}

/// SSD's priors (Liu et al. 2016, section 2.2), relative to the picture: for each level, row, column and size a square of
/// that many pixels around the centre of the cell. An offset is `(dx, dy, dw, dh)`: the centre moves by `dx * variance *
/// size`, the size grows by `exp(dw * variance)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Priors {
    /// The levels, in the order of the network's places.
    pub levels: Vec<PriorLevel>,
    /// Of centres.
    pub centre_variance: f32,
    /// Of sizes.
    pub size_variance: f32,
}

/// One level of priors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PriorLevel {
    /// Pixels from one cell to the next.
    pub stride: u32,
    /// Width and height of the priors of a cell, in pixels.
    pub sizes: Vec<[f32; 2]>,
}

/// A decoded output of the YOLO family.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Yolo {
    /// The output; none where the network has one only.
    #[serde(default, skip_serializing_if = "is_default")]
    pub output: Option<String>,
}

/// An output whose boxes are relative to the cells of a grid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct YoloGrid {
    /// The output; none where the network has one only.
    #[serde(default, skip_serializing_if = "is_default")]
    pub output: Option<String>,
    /// Pixels from one cell to the next, a level, in the order of the rows.
    pub strides: Vec<u32>,
}

/// Outputs a stride, without anchors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AnchorFree {
    /// The levels.
    pub levels: Vec<AnchorFreeLevel>,
    /// What the four numbers of a box are.
    pub boxes: CellBox,
    /// Whether classes and objectness are logits.
    #[serde(default, skip_serializing_if = "is_default")]
    pub sigmoid: bool,
    /// Whether the score is the square root of class times objectness, and not the product.
    #[serde(default, skip_serializing_if = "is_default")]
    pub root: bool,
    /// Where in a cell its point is: 0 at the left and top, 0.5 in the middle.
    #[serde(default, skip_serializing_if = "is_default")]
    pub point: f32,
}

/// One level. Outputs are `[cells, n]`, or `[n, rows, columns]`, told by their shape.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnchorFreeLevel {
    /// Pixels from one cell to the next.
    pub stride: u32,
    /// The output with a score a class.
    pub classes: String,
    /// The output with whether there is anything.
    #[serde(default, skip_serializing_if = "is_default")]
    pub objectness: Option<String>,
    /// The output with the boxes.
    pub boxes: String,
}

/// What the numbers of a cell's box are; all in strides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CellBox {
    /// Offset of the centre, logarithm of the size.
    CentreSize,
    /// Distances of the point to the left, top, right, bottom.
    Distances,
    /// The same, each as the mean of a distribution over so many bins (Li et al. 2020, generalised focal loss).
    Distribution {
        /// Bins of a side.
        bins: u8,
    },
}

impl Detection {
    pub(super) fn check(&self) -> Result<(), InvalidPipeline> {
        let fail = |field, problem: String| Err(InvalidPipeline { field, problem });
        check_labels("labels", &self.labels)?;
        if !(0.0..=1.0).contains(&self.score) || !(0.0..=1.0).contains(&self.overlap) {
            return fail("detection", "score and overlap are from 0 to 1".to_owned());
        }
        if !(1..=OBJECTS).contains(&self.limit) {
            return fail("limit", format!("{} boxes; 1 to {OBJECTS} are possible", self.limit));
        }
        let levels = |strides: &[u32]| {
            if strides.is_empty() || strides.len() > LEVELS || strides.contains(&0) {
                return fail("levels", format!("1 to {LEVELS} levels with a stride each are needed"));
            }
            Ok(())
        };
        match &self.decoder {
            Decoder::Boxes(boxes) => {
                let Some(priors) = &boxes.priors else { return Ok(()) };
                levels(&priors.levels.iter().map(|level| level.stride).collect::<Vec<_>>())?;
                let positive = |value: &f32| value.is_normal() && *value > 0.0;
                let sizes = priors.levels.iter().flat_map(|level| level.sizes.iter().flatten());
                let bounded =
                    priors.levels.iter().all(|level| (1..=limits::PRIORS).contains(&level.sizes.len()));
                let numbers = [priors.centre_variance, priors.size_variance];
                if bounded && sizes.chain(&numbers).all(positive) {
                    Ok(())
                } else {
                    fail("priors", "sizes and variances are positive numbers".to_owned())
                }
            }
            Decoder::YoloX(grid) => levels(&grid.strides),
            Decoder::AnchorFree(free) => {
                levels(&free.levels.iter().map(|level| level.stride).collect::<Vec<_>>())?;
                match free.boxes {
                    CellBox::Distribution { bins: 0 | 1 } => {
                        fail("bins", "a distribution has 2 bins at least".to_owned())
                    }
                    _ if !free.point.is_finite() => fail("point", "it is no finite number".to_owned()),
                    _ => Ok(()),
                }
            }
            Decoder::YoloV5(_) | Decoder::YoloV8(_) => Ok(()),
        }
    }
}

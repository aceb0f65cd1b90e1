//! What a network looks like, as data: decided before any weight is made, kept with the file, changed by pruning.

use serde::{Deserialize, Serialize};

use crate::wiring::Wiring;
use crate::{Algorithm, Error, Images, Result};

/// Side, in pixels, below which the planes are not halved any more.
const SMALLEST_PLANE: usize = 4;
/// Memory that one training step may take, by estimate.
const MAX_STEP_BYTES: u64 = 4 << 30;
/// Copies of an activation that a step holds: itself, normalised, rectified, and their gradients.
const COPIES: u64 = 6;
/// Most stages of a network.
const MAX_STAGES: usize = 64;
/// Most channels of a layer.
const MAX_WIDTH: usize = 2048;
/// Most numbers of a network (64 MiB).
const MAX_PARAMETERS: u64 = 1 << 24;

/// A part of a network. Each convolution is followed by its normalisation and, if nothing else is said, a rectifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Stage {
    /// A full convolution.
    Conv {
        /// Channels it gives.
        width: usize,
        /// Side of its kernel: 1, 3, 5 or 7.
        kernel: usize,
        /// 2 halves the planes.
        stride: usize,
    },
    /// A depthwise 3x3 convolution and the pointwise one behind it.
    Separable {
        /// Channels it gives.
        width: usize,
        /// 2 halves the planes.
        stride: usize,
    },
    /// Two full 3x3 convolutions and a way around them; the rectifier stands behind their sum.
    Residual {
        /// Channels between the two.
        inner: usize,
        /// Channels it gives.
        width: usize,
        /// 2 halves the planes.
        stride: usize,
        /// Whether the way around is a 1x1 convolution, as it must be where size or channels change.
        projection: bool,
    },
}

impl Stage {
    /// Channels it gives.
    #[must_use]
    pub fn width(&self) -> usize {
        match *self {
            Self::Conv { width, .. } | Self::Separable { width, .. } | Self::Residual { width, .. } => width,
        }
    }
}

/// A network: its stages, the mean of each plane, a linear layer that gives a number for each class.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkPlan {
    /// Colours of a pixel.
    pub channels: usize,
    /// Rows of an image.
    pub height: usize,
    /// Columns of an image.
    pub width: usize,
    /// Classes.
    pub classes: usize,
    /// The stages, of which the first is a full convolution.
    pub stages: Vec<Stage>,
}

impl NetworkPlan {
    /// The network that an algorithm trains on such images.
    #[must_use]
    pub fn for_images(algorithm: Algorithm, images: &Images) -> Self {
        let (stem, widths): (usize, &[usize]) = match algorithm {
            Algorithm::DscnnS => (32, &[64, 96, 128]),
            Algorithm::DscnnM => (48, &[96, 128, 160, 192, 256]),
            Algorithm::CnnS => (32, &[48, 64, 96]),
            Algorithm::Resnet8 => (16, &[16, 32, 64]),
            // It has no plan; [`crate::train`] refuses it.
            Algorithm::Mlp => (0, &[]),
        };
        let mut halvings =
            (images.height.min(images.width) / SMALLEST_PLANE).checked_ilog2().unwrap_or(0) as usize;
        // Large images are halved at once, small ones only after the first stage has seen every pixel. Residual
        // stages are few and wide: they see a plane more.
        let patience = widths.len() + usize::from(algorithm == Algorithm::Resnet8);
        let stem_stride = if halvings >= patience { 2 } else { 1 };
        halvings -= stem_stride - 1;
        let mut stages = vec![Stage::Conv { width: stem, kernel: 3, stride: stem_stride }];
        let mut inputs = stem;
        for (place, &width) in widths.iter().enumerate() {
            let stride = if place >= 1 && place <= halvings { 2 } else { 1 };
            stages.push(match algorithm {
                Algorithm::DscnnS | Algorithm::DscnnM => Stage::Separable { width, stride },
                Algorithm::CnnS | Algorithm::Mlp => Stage::Conv { width, kernel: 3, stride },
                Algorithm::Resnet8 => Stage::Residual {
                    inner: width,
                    width,
                    stride,
                    projection: stride != 1 || width != inputs,
                },
            });
            inputs = width;
        }
        Self {
            channels: images.channels,
            height: images.height,
            width: images.width,
            classes: images.classes.len(),
            stages,
        }
    }

    /// Refuses a network that cannot be, or that is too large.
    pub fn validate(&self) -> Result<()> {
        let fail = |problem: String| Err(Error::Plan { problem });
        Images::check_shape(self.channels, self.height, self.width, self.classes).map_err(
            |(what, found, expected)| Error::Plan {
                problem: format!("{what} is {found}, and must be {expected}"),
            },
        )?;
        if !(1..=MAX_STAGES).contains(&self.stages.len()) {
            return fail(format!("it has {} stages, and 1 to {MAX_STAGES} are possible", self.stages.len()));
        }
        if !matches!(self.stages[0], Stage::Conv { .. }) {
            return fail("its first stage must be a full convolution".into());
        }
        let mut inputs = self.channels;
        for (place, stage) in self.stages.iter().enumerate() {
            let (inner, kernel, stride) = match *stage {
                Stage::Conv { width, kernel, stride } => (width, kernel, stride),
                Stage::Separable { width, stride } => (width, 3, stride),
                Stage::Residual { inner, width, stride, projection } => {
                    if !projection && (stride != 1 || width != inputs) {
                        return fail(format!(
                            "stage {place} changes {inputs} channels to {width} with stride {stride}, so it needs a projection"
                        ));
                    }
                    (inner, 3, stride)
                }
            };
            if let Some(bad) = [inner, stage.width()].into_iter().find(|w| !(1..=MAX_WIDTH).contains(w)) {
                return fail(format!(
                    "stage {place} has a width of {bad}, and 1 to {MAX_WIDTH} are possible"
                ));
            }
            if ![1, 3, 5, 7].contains(&kernel) || ![1, 2].contains(&stride) {
                return fail(format!(
                    "stage {place} has a kernel of {kernel} and a stride of {stride}, and must have 1, 3, 5 or 7 and 1 or 2"
                ));
            }
            inputs = stage.width();
        }
        match Wiring::new(self).parameters() {
            parameters if parameters > MAX_PARAMETERS => {
                fail(format!("it has {parameters} numbers, and at most {MAX_PARAMETERS} are possible"))
            }
            _ => Ok(()),
        }
    }

    /// Multiplications of one prediction.
    #[must_use]
    pub fn macs(&self) -> u64 {
        Wiring::new(self).macs()
    }

    /// Numbers that the exported network has.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        Wiring::new(self).parameters()
    }

    /// Width of the layer before the classes.
    #[must_use]
    pub fn features(&self) -> usize {
        self.stages.last().map_or(self.channels, Stage::width)
    }

    /// The same network with each width multiplied by a factor, and at least `least`.
    #[must_use]
    pub fn scaled(&self, factor: f64, least: usize) -> Self {
        let mut widths = Wiring::new(self).widths;
        for width in &mut widths[1..] {
            let scaled = (*width as f64 * factor).round() as usize;
            *width = scaled.max(least).min((*width).max(least));
        }
        self.with_widths(&widths)
    }

    /// The same network with other channels in each space of its [`Wiring`], the images' own included.
    pub(crate) fn with_widths(&self, widths: &[usize]) -> Self {
        let mut plan = self.clone();
        let mut spaces = widths.iter().copied();
        plan.channels = spaces.next().unwrap_or(self.channels);
        let mut inputs = plan.channels;
        for stage in &mut plan.stages {
            let mut next = || spaces.next().unwrap_or(1);
            match stage {
                Stage::Conv { width, .. } | Stage::Separable { width, .. } => *width = next(),
                Stage::Residual { inner, width, projection, .. } => {
                    *inner = next();
                    *width = if *projection { next() } else { inputs };
                }
            }
            inputs = stage.width();
        }
        plan
    }

    /// Refuses a step that would not fit in memory.
    pub(crate) fn check_memory(&self, batch: usize) -> Result<()> {
        let values: u64 =
            Wiring::new(self).units.iter().map(|unit| (unit.outputs() * unit.plane()) as u64).sum();
        let found = values * batch as u64 * size_of::<f32>() as u64 * COPIES;
        if found <= MAX_STEP_BYTES {
            return Ok(());
        }
        let advice = "lower `batch_size` or make the images smaller";
        Err(Error::TooLarge { what: "the memory of a training step", found, limit: MAX_STEP_BYTES, advice })
    }
}

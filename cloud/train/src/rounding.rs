//! Weights and activations as few bits hold them, while a network learns and in its file.
//!
//! The scale of a channel is its largest magnitude divided by the largest integer, as in `flotilla-compress`, and so
//! rounding the weights of a file that this module wrote loses nothing. In the forward pass of a training the rounded
//! weights are used, and the gradient goes past the rounding (the straight-through estimator, Bengio et al.,
//! arXiv:1308.3432; for whole networks Jacob et al., arXiv:1712.05877). Normalisation that is merged into a convolution
//! multiplies each channel by a number, and its scale with it: rounding before or after is the same.

use burn::tensor::{Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::network::{Pass, Unit, numbers};

/// The largest integer of an activation: 8 bits without sign.
const LARGEST_ACTIVATION: f32 = 255.0;
/// Steps that are looked through for a scale that stays as it is.
const NEIGHBOURS: usize = 8;

/// How many bits a weight has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Bits {
    /// From -127 to 127.
    #[default]
    #[serde(rename = "8")]
    Eight,
    /// From -7 to 7.
    #[serde(rename = "4")]
    Four,
}

impl Bits {
    /// The largest integer.
    pub(crate) fn largest(self) -> f32 {
        match self {
            Self::Eight => 127.0,
            Self::Four => 7.0,
        }
    }

    /// Rounds channels whose elements lie apart by `count`, channel after channel (`inner` is 1) or row by row.
    pub(crate) fn round(self, values: &mut [f32], channels: Channels) {
        for channel in 0..channels.count {
            let peak =
                channels.places(channel, values.len()).fold(0.0_f32, |most, p| most.max(values[p].abs()));
            let scale = self.scale(peak);
            if scale.is_normal() {
                for place in channels.places(channel, values.len()) {
                    values[place] = (values[place] / scale).round_ties_even() * scale;
                }
            } else {
                channels.places(channel, values.len()).for_each(|place| values[place] = 0.0);
            }
        }
    }

    /// The scale of a channel: one that its own largest value gives again.
    fn scale(self, peak: f32) -> f32 {
        let largest = self.largest();
        let scale = peak / largest;
        let (mut up, mut down) = (scale, scale);
        for _ in 0..NEIGHBOURS {
            if let Some(same) = [up, down].into_iter().find(|s| s * largest / largest == *s) {
                return same;
            }
            (up, down) = (up.next_up(), down.next_down());
        }
        scale
    }
}

/// How the elements of a weight belong to output channels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Channels {
    count: usize,
    rows: bool,
}

impl Channels {
    /// Each channel is a row.
    pub(crate) fn rows(count: usize) -> Self {
        Self { count, rows: true }
    }

    /// Each channel is a column.
    pub(crate) fn columns(count: usize) -> Self {
        Self { count, rows: false }
    }

    fn places(self, channel: usize, elements: usize) -> impl Iterator<Item = usize> {
        let each = elements / self.count.max(1);
        (0..each).map(move |n| if self.rows { channel * each + n } else { n * self.count + channel })
    }
}

/// The smallest and the largest number that a value of a network took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Range {
    pub(crate) low: f32,
    pub(crate) high: f32,
}

impl Range {
    /// Rounds to one of 256 steps, of which one is zero.
    fn round(self, value: f32) -> f32 {
        let (low, high) = (self.low.min(0.0), self.high.max(0.0));
        let scale = (high - low) / LARGEST_ACTIVATION;
        if !scale.is_normal() {
            return value;
        }
        let zero = (-low / scale).round_ties_even();
        ((value / scale).round_ties_even().clamp(-zero, LARGEST_ACTIVATION - zero)) * scale
    }
}

/// A run with weights, and perhaps activations, of few bits.
pub(crate) struct Rounded<'a> {
    bits: Bits,
    ranges: Option<&'a [Range]>,
    place: usize,
}

impl<'a> Rounded<'a> {
    /// `ranges` are those of all values, in the order in which a pass sees them.
    pub(crate) fn new(bits: Bits, ranges: Option<&'a [Range]>) -> Self {
        Self { bits, ranges, place: 0 }
    }
}

impl Pass for Rounded<'_> {
    fn unit(&mut self, _place: usize, unit: &Unit, x: Tensor<4>) -> Result<Tensor<4>> {
        let weight = unit.weight.val();
        let channels = Channels::rows(weight.dims()[0]);
        unit.forward(x, past(weight, |values| self.bits.round(values, channels))?)
    }

    fn value(&mut self, x: Tensor<4>) -> Result<Tensor<4>> {
        let place = self.place;
        self.place += 1;
        let Some(range) = self.ranges.and_then(|ranges| ranges.get(place)).copied() else { return Ok(x) };
        // What is out of range does not learn through the border of the range.
        let x = if x.device().is_autodiff() { x.clamp(range.low.min(0.0), range.high.max(0.0)) } else { x };
        past(x, |values| values.iter_mut().for_each(|v| *v = range.round(*v)))
    }

    fn head(&mut self, weight: Tensor<2>) -> Result<Tensor<2>> {
        let channels = Channels::columns(weight.dims()[1]);
        past(weight, |values| self.bits.round(values, channels))
    }
}

/// The changed tensor, with the gradient of the one that was: `x + (q - x)`, where the difference is a constant.
fn past<const D: usize>(x: Tensor<D>, change: impl FnOnce(&mut [f32])) -> Result<Tensor<D>> {
    let before = numbers(x.clone())?;
    let mut values = before.clone();
    change(&mut values);
    values.iter_mut().zip(&before).for_each(|(value, before)| *value -= before);
    let difference = Tensor::from_data(TensorData::new(values, x.dims()), &x.device());
    Ok(x + difference)
}

/// A run that notes the range of every value.
#[derive(Default)]
pub(crate) struct Observed {
    pub(crate) ranges: Vec<Range>,
    place: usize,
}

impl Observed {
    /// Starts the next run.
    pub(crate) fn again(&mut self) {
        self.place = 0;
    }
}

impl Pass for Observed {
    fn value(&mut self, x: Tensor<4>) -> Result<Tensor<4>> {
        let values = numbers(x.clone())?;
        let new = values.iter().fold(Range { low: f32::INFINITY, high: f32::NEG_INFINITY }, |range, v| {
            Range { low: range.low.min(*v), high: range.high.max(*v) }
        });
        match self.ranges.get_mut(self.place) {
            Some(range) => *range = Range { low: range.low.min(new.low), high: range.high.max(new.high) },
            None => self.ranges.push(new),
        }
        self.place += 1;
        Ok(x)
    }
}

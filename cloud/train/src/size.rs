//! How many bytes a network takes when its weights are 8-bit integers, before the file is written.

use serde::{Deserialize, Serialize};

use crate::plan::NetworkPlan;
use crate::wiring::Wiring;

/// Weights with fewer elements stay 32-bit floats.
const SMALLEST_WEIGHT: usize = 256;
/// Names, nodes and dimensions that come with a weight of 8 bits.
const FORM_BYTES: usize = 96;

/// What a network is to get smaller in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// Bytes of the file, with weights of 8 bits.
    #[default]
    Bytes,
    /// Multiplications of one prediction.
    Macs,
}

/// The bytes of a file that are no numbers: they are the same for all networks with the same stages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame(u64);

impl Frame {
    /// Of a file of this plan whose weights are 32-bit floats.
    pub(crate) fn of(plan: &NetworkPlan, bytes: usize) -> Self {
        Self((bytes as u64).saturating_sub(4 * plan.parameters()))
    }

    /// Bytes of the file, with weights of 8 bits. Off by a few bytes, as lengths are written with one byte or two.
    pub(crate) fn int8_bytes(self, plan: &NetworkPlan) -> u64 {
        let wiring = Wiring::new(plan);
        let units =
            wiring.units.iter().map(|unit| weight(unit.elements(), unit.outputs()) + 4 * unit.outputs());
        let head = weight(wiring.head(), plan.classes) + 4 * plan.classes;
        self.0 + (units.sum::<usize>() + head) as u64
    }

    pub(crate) fn measure(self, measure: Measure, plan: &NetworkPlan) -> u64 {
        match measure {
            Measure::Bytes => self.int8_bytes(plan),
            Measure::Macs => plan.macs(),
        }
    }
}

fn weight(elements: usize, channels: usize) -> usize {
    let float = 4 * elements;
    if elements < SMALLEST_WEIGHT { float } else { float.min(elements + 4 * channels + FORM_BYTES) }
}

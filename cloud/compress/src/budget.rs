//! What compression may cost, and what a candidate was found to cost.

use std::fmt;

use flotilla_runtime::Latency;
use serde::{Deserialize, Serialize};

use crate::{Error, Evaluation, Result};

/// What compression may cost.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Budget {
    /// Accuracy that may be lost: a share of all samples, 0.01 for one in a hundred.
    pub max_drop: f64,
    /// The largest file.
    pub max_bytes: Option<u64>,
    /// The longest median time of one prediction, where the compression runs.
    pub max_latency_ms: Option<f64>,
}

impl Default for Budget {
    fn default() -> Self {
        Self { max_drop: 0.01, max_bytes: None, max_latency_ms: None }
    }
}

/// A candidate that was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Layers that this candidate turned back to 32-bit floats.
    pub kept_float: Vec<String>,
    /// Size of the file.
    pub bytes: u64,
    /// Share of the samples that it gets right.
    pub accuracy: f64,
    /// Accuracy lost against the model before compression; negative where it gained.
    pub drop: f64,
    /// Time of one prediction.
    pub latency: Latency,
}

/// One way in which a candidate is over the budget.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Breach {
    /// It loses too much accuracy.
    Drop {
        /// What was measured.
        measured: f64,
        /// What the budget allows.
        allowed: f64,
    },
    /// Its file is too large.
    Bytes {
        /// What was measured.
        measured: u64,
        /// What the budget allows.
        allowed: u64,
    },
    /// It is too slow.
    Latency {
        /// What was measured, in milliseconds.
        measured: f64,
        /// What the budget allows.
        allowed: f64,
    },
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Drop { measured, allowed } => {
                write!(f, "accuracy drops by {measured:.4} of {allowed:.4} allowed")
            }
            Self::Bytes { measured, allowed } => {
                write!(f, "the file has {measured} bytes of {allowed} allowed")
            }
            Self::Latency { measured, allowed } => {
                write!(f, "a prediction takes {measured:.3} ms of {allowed:.3} ms allowed")
            }
        }
    }
}

impl Budget {
    /// Checks that the bounds are usable numbers.
    pub(crate) fn check(&self) -> Result<()> {
        let fail = |field, problem: String| Err(Error::Budget { field, problem });
        if !(0.0..=1.0).contains(&self.max_drop) {
            return fail("max_drop", format!("{} is not between 0 and 1", self.max_drop));
        }
        match self.max_latency_ms {
            Some(limit) if !(limit.is_finite() && limit > 0.0) => {
                fail("max_latency_ms", format!("{limit} is not a positive number of milliseconds"))
            }
            _ => Ok(()),
        }
    }

    /// In which ways a candidate is over the budget; none if it is within.
    #[must_use]
    pub fn breaches(&self, point: &Point) -> Vec<Breach> {
        let drop = (point.drop > self.max_drop)
            .then_some(Breach::Drop { measured: point.drop, allowed: self.max_drop });
        let bytes = self.max_bytes.filter(|&allowed| point.bytes > allowed);
        let bytes = bytes.map(|allowed| Breach::Bytes { measured: point.bytes, allowed });
        let latency = self.max_latency_ms.filter(|&allowed| point.latency.p50_ms > allowed);
        let latency = latency.map(|allowed| Breach::Latency { measured: point.latency.p50_ms, allowed });
        drop.into_iter().chain(bytes).chain(latency).collect()
    }
}

impl Point {
    /// What the evaluation of a candidate says, beside that of the model before compression.
    pub(crate) fn new(kept_float: Vec<String>, bytes: u64, before: &Evaluation, after: &Evaluation) -> Self {
        Self {
            kept_float,
            bytes,
            accuracy: after.accuracy(),
            // From the counts: the difference of two rounded shares can lie on the wrong side of a bound.
            drop: (before.correct as f64 - after.correct as f64) / after.total as f64,
            latency: after.latency,
        }
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes with a drop of {:.4}, {:.3} ms", self.bytes, self.drop, self.latency.p50_ms)?;
        match self.kept_float.len() {
            0 => f.write_str(" and all layers in int8"),
            1 => write!(f, " and `{}` in f32", self.kept_float[0]),
            kept => write!(f, " and {kept} layers in f32"),
        }
    }
}

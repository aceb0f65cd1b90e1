//! What compression may cost, and what a candidate was found to cost.

use std::fmt;

use flotilla_runtime::Latency;
use flotilla_runtime::metrics::Metric;
use serde::{Deserialize, Serialize};

use crate::{Error, Evaluation, Result};

/// What compression may cost.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Budget {
    /// What may be lost, in the unit of the metric: of accuracy a share of all samples, 0.01 for one in a hundred.
    pub max_drop: f64,
    /// The largest file.
    pub max_bytes: Option<u64>,
    /// The longest median time of one prediction, where the compression runs.
    pub max_latency_ms: Option<f64>,
    /// The most memory that one prediction may take at its worst moment.
    pub max_peak_bytes: Option<u64>,
}

impl Default for Budget {
    fn default() -> Self {
        Self { max_drop: 0.01, max_bytes: None, max_latency_ms: None, max_peak_bytes: None }
    }
}

/// A candidate that was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// What it is, in a few words.
    #[serde(default)]
    pub name: String,
    /// Layers that this candidate turned back to floats.
    pub kept_float: Vec<String>,
    /// Layers that it holds in 4 bits.
    #[serde(default)]
    pub four_bit: Vec<String>,
    /// Size of the file.
    pub bytes: u64,
    /// What was measured.
    #[serde(default)]
    pub metric: Metric,
    /// What came out.
    #[serde(alias = "accuracy")]
    pub value: f64,
    /// What is lost against the model before compression; negative where something was gained.
    pub drop: f64,
    /// 95 % interval of what is lost, paired sample by sample.
    #[serde(default)]
    pub drop_interval: Option<[f64; 2]>,
    /// Relative L2 error of the outputs against the model before.
    #[serde(default)]
    pub output_error: Option<f64>,
    /// Time of one prediction.
    pub latency: Latency,
    /// Multiplications and additions of one prediction.
    #[serde(default)]
    pub macs: Option<u64>,
    /// Memory of one prediction at its worst moment.
    #[serde(default)]
    pub peak_bytes: Option<u64>,
    /// Whether no other candidate is as good in everything and better in something.
    #[serde(default)]
    pub pareto: bool,
}

/// One way in which a candidate is over the budget.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Breach {
    /// It loses too much of the metric.
    Drop {
        /// What was measured.
        #[serde(default)]
        metric: Metric,
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
    /// It takes too much memory.
    Memory {
        /// What was counted.
        measured: u64,
        /// What the budget allows.
        allowed: u64,
    },
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Drop { metric, measured, allowed } => {
                let moves = if metric.higher_is_better() { "drops" } else { "grows" };
                write!(f, "{metric} {moves} by {measured:.4} of {allowed:.4} allowed")
            }
            Self::Bytes { measured, allowed } => {
                write!(f, "the file has {measured} bytes of {allowed} allowed")
            }
            Self::Latency { measured, allowed } => {
                write!(f, "a prediction takes {measured:.3} ms of {allowed:.3} ms allowed")
            }
            Self::Memory { measured, allowed } => {
                write!(f, "a prediction takes {measured} bytes of memory of {allowed} allowed")
            }
        }
    }
}

impl Budget {
    /// Checks that the bounds are usable numbers for a metric.
    pub(crate) fn check(&self, metric: Metric) -> Result<()> {
        if metric.is_share() && !(0.0..=1.0).contains(&self.max_drop) {
            let problem = format!("{} is not between 0 and 1, as {metric} is", self.max_drop);
            return Err(Error::Budget { field: "max_drop", problem });
        }
        self.check_numbers()
    }

    /// Checks that the bounds are usable numbers, whatever is measured.
    pub fn check_numbers(&self) -> Result<()> {
        let fail = |field, problem: String| Err(Error::Budget { field, problem });
        if !(self.max_drop.is_finite() && self.max_drop >= 0.0) {
            return fail("max_drop", format!("{} is not a number of 0 or more", self.max_drop));
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
        let drop = (point.drop > self.max_drop).then_some(Breach::Drop {
            metric: point.metric,
            measured: point.drop,
            allowed: self.max_drop,
        });
        let bytes = self.max_bytes.filter(|&allowed| point.bytes > allowed);
        let bytes = bytes.map(|allowed| Breach::Bytes { measured: point.bytes, allowed });
        let latency = self.max_latency_ms.filter(|&allowed| point.latency.p50_ms > allowed);
        let latency = latency.map(|allowed| Breach::Latency { measured: point.latency.p50_ms, allowed });
        let memory = self.max_peak_bytes.zip(point.peak_bytes).filter(|(allowed, peak)| peak > allowed);
        let memory = memory.map(|(allowed, measured)| Breach::Memory { measured, allowed });
        drop.into_iter().chain(bytes).chain(latency).chain(memory).collect()
    }
}

impl Point {
    /// What the evaluation of a candidate says, beside that of the model before compression.
    pub(crate) fn new(name: String, bytes: u64, before: &Evaluation, after: &Evaluation) -> Self {
        Self {
            name,
            kept_float: Vec::new(),
            four_bit: Vec::new(),
            bytes,
            metric: after.metric,
            value: after.value,
            drop: after.drop_from(before),
            drop_interval: after.drop_interval(before),
            output_error: None,
            latency: after.latency,
            macs: after.macs,
            peak_bytes: after.peak_bytes,
            pareto: false,
        }
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, bytes, drop, latency, .. } = self;
        write!(f, "{name}: {bytes} bytes with a drop of {drop:.4}, {:.3} ms", latency.p50_ms)?;
        match self.kept_float.len() {
            0 => Ok(()),
            1 => write!(f, " and `{}` in floats", self.kept_float[0]),
            kept => write!(f, " and {kept} layers in floats"),
        }
    }
}

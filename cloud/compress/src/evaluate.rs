//! How a candidate is measured.

use flotilla_runtime::Latency;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Measures a model on samples that training has not seen.
///
/// Every call gets the bytes of a whole file, so that what is measured is what ships.
pub trait Evaluate {
    /// Runs the model on all samples.
    fn accuracy(&mut self, onnx: &[u8]) -> Result<Evaluation>;

    /// The model's outputs for at most `max_samples` samples, the same ones on each call.
    fn outputs(&mut self, onnx: &[u8], max_samples: usize) -> Result<Vec<Vec<f32>>>;
}

/// How a model did.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Samples it got right.
    pub correct: u64,
    /// Samples it was given.
    pub total: u64,
    /// Time of one prediction.
    pub latency: Latency,
}

impl Evaluation {
    /// The share of samples it got right.
    #[must_use]
    pub fn accuracy(&self) -> f64 {
        if self.total == 0 { 0.0 } else { self.correct as f64 / self.total as f64 }
    }

    /// Refuses counts that cannot be compared with those of another run.
    pub(crate) fn checked(self, samples: Option<u64>) -> Result<Self> {
        let fail = |problem: String| Err(Error::Evaluator { problem });
        if self.total == 0 {
            return fail("there was no sample to measure on".into());
        }
        if self.correct > self.total {
            return fail(format!("{} of {} samples were right", self.correct, self.total));
        }
        match samples.filter(|&samples| samples != self.total) {
            Some(samples) => fail(format!("one run had {samples} samples and another {}", self.total)),
            None => Ok(self),
        }
    }
}

/// How far outputs are from reference outputs: the L2 norm of the difference by that of the reference.
pub(crate) fn relative_error(reference: &[Vec<f32>], outputs: &[Vec<f32>]) -> Result<f64> {
    let fail = |problem: &str| Err(Error::Evaluator { problem: problem.into() });
    let same = reference.iter().map(Vec::len).eq(outputs.iter().map(Vec::len));
    if !same || reference.iter().all(Vec::is_empty) {
        return fail("two runs on the same samples gave outputs of other numbers or shapes, or none");
    }
    let (mut difference, mut norm) = (0.0_f64, 0.0_f64);
    for (&expected, &found) in reference.iter().flatten().zip(outputs.iter().flatten()) {
        difference += (f64::from(expected) - f64::from(found)).powi(2);
        norm += f64::from(expected).powi(2);
    }
    if !(difference.is_finite() && norm.is_finite()) {
        return fail("the model gives outputs that are no finite numbers");
    }
    // Reference outputs that are all zero leave nothing to be relative to.
    Ok(if norm > 0.0 { (difference / norm).sqrt() } else { difference.sqrt() })
}

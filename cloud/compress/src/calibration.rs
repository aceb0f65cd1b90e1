//! Samples that a model is calibrated on: tensors as the network takes them.

use flotilla_protocol::Digest;

use crate::{Error, Result};

/// Samples of a calibration set at most.
pub const MAX_CALIBRATION: usize = 4096;

/// Samples that a model is calibrated on: tensors as the network takes them, which nothing is measured on later.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibration {
    shape: Vec<usize>,
    samples: Vec<Vec<f32>>,
    labels: Vec<usize>,
}

impl Calibration {
    /// A set of tensors of this shape, a batch of one included.
    pub fn new(shape: impl Into<Vec<usize>>, samples: Vec<Vec<f32>>) -> Result<Self> {
        let shape = shape.into();
        let fail = |problem: String| Err(Error::Calibration { problem });
        if samples.is_empty() {
            return fail(
                "it is empty: give some samples, or none at all and do without what needs them".into(),
            );
        }
        if samples.len() > MAX_CALIBRATION {
            return fail(format!("it has {} samples, and the limit is {MAX_CALIBRATION}", samples.len()));
        }
        let need = shape.iter().try_fold(1_usize, |all, &dim| all.checked_mul(dim)).unwrap_or_default();
        if let Some(place) = samples.iter().position(|sample| sample.len() != need || need == 0) {
            let got = samples[place].len();
            return fail(format!("sample {place} has {got} values, and a tensor of {shape:?} has {need}"));
        }
        if let Some(place) = samples.iter().position(|sample| sample.iter().any(|v| !v.is_finite())) {
            return fail(format!("sample {place} has a value that is no finite number"));
        }
        Ok(Self { shape, samples, labels: Vec::new() })
    }

    /// Says which class each sample belongs to, so that a set of one class is noticed.
    pub fn labelled(mut self, labels: Vec<usize>) -> Result<Self> {
        if labels.len() != self.samples.len() {
            return Err(Error::LabelCount { samples: self.samples.len(), labels: labels.len() });
        }
        self.labels = labels;
        Ok(self)
    }

    /// At most so many of its samples, evenly spread.
    pub(crate) fn spread(&self, at_most: usize) -> Result<Self> {
        let places: Vec<usize> = crate::runtime::spread(self.samples.len(), at_most).collect();
        let samples = places.iter().map(|&place| self.samples[place].clone()).collect();
        let labels = places.iter().filter_map(|&place| self.labels.get(place).copied()).collect();
        Ok(Self { labels, ..Self::new(self.shape.clone(), samples)? })
    }

    /// Shape of each tensor.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The tensors.
    #[must_use]
    pub fn samples(&self) -> &[Vec<f32>] {
        &self.samples
    }

    /// The class that all samples belong to, where that is known and only one.
    #[must_use]
    pub fn only_class(&self) -> Option<usize> {
        let first = *self.labels.first()?;
        self.labels.iter().all(|label| *label == first).then_some(first)
    }

    /// Names the set: a recipe that was made with it says so.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut hasher = Digest::hasher();
        for dim in &self.shape {
            hasher.update(&(*dim as u64).to_le_bytes());
        }
        for value in self.samples.iter().flatten() {
            hasher.update(&value.to_le_bytes());
        }
        hasher.finish()
    }
}

//! The seeded, stratified split: which sample is for training, which for choosing, which for measuring.
//!
//! Each class is ordered by a hash of seed and sample, and cut by the ratios. So the split depends on the
//! content and the seed alone, equal samples stay together, and adding samples moves few others.
//! What the source says about its own splits is kept; where it has a training split but lacks one of the
//! other two, that one is cut from its training part.

use crate::dataset::{Split, SplitCounts};
use crate::error::{Error, Result};
use flotilla_protocol::Digest;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The share of each split.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ratios {
    /// For training; more than 0.
    pub train: f64,
    /// For validation.
    pub validation: f64,
    /// For the test.
    pub test: f64,
}

impl Default for Ratios {
    fn default() -> Self {
        Self { train: 0.7, validation: 0.1, test: 0.2 }
    }
}

impl Ratios {
    /// Refuses shares that are none.
    pub fn check(&self) -> Result<()> {
        let shares = [self.train, self.validation, self.test];
        let usable = shares.iter().all(|share| (0.0..=1.0).contains(share))
            && self.train > 0.0
            && (shares.iter().sum::<f64>() - 1.0).abs() < 1e-6;
        if usable {
            return Ok(());
        }
        let problem = format!(
            "train {}, validation {}, test {}; each is 0 to 1, train more than 0, together 1",
            self.train, self.validation, self.test
        );
        Err(Error::Option { option: "ratios", problem })
    }
}

/// What the split needs to know of a sample.
#[derive(Clone, Copy, Debug)]
pub struct Item {
    /// Its content.
    pub digest: Digest,
    /// Its class.
    pub label: u32,
    /// How often it is there.
    pub copies: u32,
    /// The split that the source gives.
    pub given: Option<Split>,
}

/// The split of each item, in their order. Digests are expected to differ.
pub fn assign(items: &[Item], ratios: Ratios, seed: u64) -> Vec<Split> {
    let given = |split| items.iter().any(|item| item.given == Some(split));
    // Training data with a test (or validation) part is a split; a lone part of some split is not.
    let keeps = given(Split::Train) && (given(Split::Validation) || given(Split::Test));
    let mut shares = Vec::new();
    for (split, share) in [(Split::Test, ratios.test), (Split::Validation, ratios.validation)] {
        if !keeps {
            shares.push((split, share));
        } else if !given(split) && share > 0.0 {
            shares.push((split, share / (ratios.train + share)));
        }
    }
    let mut splits = vec![Split::Train; items.len()];
    let mut classes: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (index, item) in items.iter().enumerate() {
        match item.given.filter(|_| keeps) {
            None | Some(Split::Train) => classes.entry(item.label).or_default().push(index),
            Some(split) => splits[index] = split,
        }
    }
    for mut class in classes.into_values() {
        class.sort_by_cached_key(|&index| order(seed, &items[index].digest));
        cut(&class, items, &shares, &mut splits);
    }
    splits
}

/// The place of a sample within its class.
fn order(seed: u64, digest: &Digest) -> [u8; 32] {
    let mut hasher = Digest::hasher();
    hasher.update(&seed.to_be_bytes());
    hasher.update(digest.as_bytes());
    *hasher.finish().as_bytes()
}

/// Gives the first samples of a class to the shares; the rest stays in training.
fn cut(class: &[usize], items: &[Item], shares: &[(Split, f64)], splits: &mut [Split]) {
    let weight = |index: usize| u64::from(items[index].copies);
    let total: u64 = class.iter().map(|&index| weight(index)).sum();
    let wanted = shares.iter().filter(|(_, share)| *share > 0.0).count() as u64;
    let mut class = class.iter();
    for &(split, share) in shares.iter().filter(|(_, share)| *share > 0.0) {
        // A class that is large enough stands in every split.
        let least = u64::from(total > wanted);
        let target = ((total as f64 * share).round() as u64).max(least);
        let mut taken = 0;
        while taken < target {
            let Some(&index) = class.next() else { return };
            splits[index] = split;
            taken += weight(index);
        }
    }
}

/// How many samples each split has.
pub fn count(items: &[Item], splits: &[Split]) -> SplitCounts {
    let mut counts = SplitCounts::default();
    for (item, &split) in items.iter().zip(splits) {
        counts.add(split, u64::from(item.copies));
    }
    counts
}

#[cfg(test)]
mod tests;

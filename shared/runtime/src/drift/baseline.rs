//! Making a baseline.

use super::{Features, bin, confidence_bin};
use crate::{Input, Model, Result, Stream};
use flotilla_protocol::baseline::{CONFIDENCE_BINS, FEATURE_BINS, FeatureBaseline, LABEL_BINS};
use flotilla_protocol::{Baseline, Pipeline};
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Sums up samples by what the model sees and answers. The same samples and model always give the same baseline.
#[derive(Clone, Debug)]
pub struct Collector {
    features: Features,
    values: Vec<Vec<f32>>,
    classes: BTreeMap<u32, u32>,
    confidence: Vec<u32>,
}

impl Collector {
    /// A collector for models of this pipeline.
    pub fn new(pipeline: &Pipeline) -> Self {
        let features = Features::of(pipeline);
        let values = vec![Vec::new(); features.names().len()];
        Self { features, values, classes: BTreeMap::new(), confidence: vec![0; CONFIDENCE_BINS] }
    }

    /// Counts a sample that the model was trained with: what it looks like, and what the model answers.
    pub fn trained(&mut self, model: &mut Model, input: Input<'_>) -> Result<()> {
        let prepared = model.prepare(input)?;
        let prediction = model.predict_prepared(Stream::default(), &prepared)?;
        for (values, value) in self.values.iter_mut().zip(self.features.measure(&prepared.values())) {
            values.push(value);
        }
        if let Some(headline) = prediction.headline() {
            *self.classes.entry(headline.label_index as u32).or_default() += 1;
        }
        Ok(())
    }

    /// Counts how sure the model is of a sample. It should be one that training has not fitted: a model is surer of what
    /// it has learnt by heart, and would seem to doubt everything that it sees later.
    pub fn held_out(&mut self, model: &mut Model, input: Input<'_>) -> Result<()> {
        let prediction = model.predict(input)?;
        if let Some(confidence) = prediction.headline().and_then(|headline| headline.confidence) {
            self.confidence[confidence_bin(confidence)] += 1;
        }
        Ok(())
    }

    /// The baseline. `None` where nothing was counted to compare with.
    pub fn finish(self) -> Option<Baseline> {
        let features = self.features.names().iter().zip(self.values).map(|(feature, values)| {
            let edges = edges(&values);
            let mut counts = vec![0; edges.len() + 1];
            values.iter().for_each(|value| counts[bin(&edges, *value)] += 1);
            FeatureBaseline { feature: *feature, edges, counts }
        });
        let mut classes: Vec<(u32, u32)> = self.classes.into_iter().collect();
        classes.sort_by_key(|(label, count)| (Reverse(*count), *label));
        let others = classes.split_off(classes.len().min(LABEL_BINS));
        let baseline = Baseline {
            format: Baseline::FORMAT,
            features: features.collect(),
            labels: classes.iter().map(|(label, _)| *label).collect(),
            classes: classes
                .iter()
                .map(|(_, count)| *count)
                .chain([others.iter().map(|(_, count)| *count).sum()])
                .collect(),
            confidence: self.confidence,
        };
        baseline.check().is_ok().then_some(baseline)
    }
}

/// Bounds that part the values into bins of about equal counts. Equal values are never parted, so that rounding on
/// another machine moves nothing: each bound lies in the middle between two values.
pub(super) fn edges(values: &[f32]) -> Vec<f32> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f32::total_cmp);
    let mut edges: Vec<f32> = Vec::new();
    for part in 1..FEATURE_BINS {
        let Some(below) = (part * sorted.len() / FEATURE_BINS).checked_sub(1).map(|at| sorted[at]) else {
            continue;
        };
        let above = sorted.partition_point(|value| *value <= below);
        let Some(above) = sorted.get(above) else { break };
        let edge = below.midpoint(*above);
        if edges.last().is_none_or(|last| *last < edge) {
            edges.push(edge);
        }
    }
    match sorted.first() {
        // Something that never varied: every other value is news.
        Some(only) if edges.is_empty() => {
            let width = only.abs().max(1.0) / 100.0;
            vec![only - width, only + width]
        }
        _ => edges,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bounds_part_values_evenly_and_never_equal_ones() {
        let even: Vec<f32> = (0..100).map(|i| i as f32).collect();
        assert_eq!(edges(&even), [9.5, 19.5, 29.5, 39.5, 49.5, 59.5, 69.5, 79.5, 89.5]);
        let mut lumpy = vec![0.0; 80];
        lumpy.extend((1..=20).map(|i| i as f32));
        assert_eq!(edges(&lumpy), [0.5, 10.5]);
        assert_eq!(edges(&[7.0; 50]), [6.93, 7.07]);
        assert!(edges(&[]).is_empty());
    }

    proptest! {
        #[test]
        fn bounds_rise_and_every_value_has_a_bin(values in prop::collection::vec(-1e6_f32..1e6, 1..300)) {
            let edges = edges(&values);
            prop_assert!(edges.len() < FEATURE_BINS && !edges.is_empty());
            prop_assert!(edges.windows(2).all(|pair| pair[0] < pair[1]), "{edges:?}");
            let mut counts = vec![0_usize; edges.len() + 1];
            values.iter().for_each(|value| counts[bin(&edges, *value)] += 1);
            prop_assert_eq!(counts.iter().sum::<usize>(), values.len());
        }
    }
}

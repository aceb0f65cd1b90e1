//! Counting predictions against a baseline.

use super::{Features, bin, confidence_bin, label_bin, psi};
use crate::Prediction;
use flotilla_protocol::baseline::{CONFIDENCE_BINS, Feature};
use flotilla_protocol::message::Drift;
use flotilla_protocol::{Baseline, Pipeline};

/// Predictions in one half of the window. The latest complete half and the one that is being filled are judged together:
/// at least so many predictions and fewer than twice as many. Without drift, an index of ten bins over so few is then
/// about 0.02 to 0.04 by chance alone.
pub const HALF_WINDOW: u32 = 300;

/// Counts the latest predictions of a release and compares them with its baseline. Its memory is bounded by that of the
/// baseline.
#[derive(Clone, Debug)]
pub struct Monitor {
    baseline: Baseline,
    features: Features,
    /// Which of the measured features each one of the baseline is; none for one that this build does not know.
    places: Vec<Option<usize>>,
    filling: Counts,
    complete: Option<Counts>,
}

#[derive(Clone, Debug)]
struct Counts {
    predictions: u32,
    features: Vec<Vec<u32>>,
    classes: Vec<u32>,
    confidence: Vec<u32>,
}

impl Monitor {
    /// A monitor that has seen nothing yet. The baseline must have been checked.
    pub fn new(pipeline: &Pipeline, baseline: Baseline) -> Self {
        let features = Features::of(pipeline);
        let place = |wanted: Feature| features.names().iter().position(|name| *name == wanted);
        let places = baseline.features.iter().map(|feature| place(feature.feature)).collect();
        let filling = Counts::none(&baseline);
        Self { baseline, features, places, filling, complete: None }
    }

    /// Counts one prediction. When this completes a half window after another, what both say together is returned.
    pub fn count(&mut self, tensor: &[f32], prediction: &Prediction) -> Option<Drift> {
        let measured = self.features.measure(tensor);
        let counts = &mut self.filling;
        for ((feature, place), counts) in
            self.baseline.features.iter().zip(&self.places).zip(&mut counts.features)
        {
            if let Some(place) = place {
                counts[bin(&feature.edges, measured[*place])] += 1;
            }
        }
        counts.classes[label_bin(&self.baseline, prediction.label_index)] += 1;
        counts.confidence[confidence_bin(prediction.score)] += 1;
        counts.predictions += 1;
        if counts.predictions < HALF_WINDOW {
            return None;
        }
        let whole = self.complete.is_some().then(|| self.drift()).flatten();
        let complete = std::mem::replace(&mut self.filling, Counts::none(&self.baseline));
        self.complete = Some(complete);
        whole
    }

    /// How far the latest predictions are from the baseline; `None` before the first half window is complete.
    pub fn drift(&self) -> Option<Drift> {
        let counts = self.complete.as_ref()?.plus(&self.filling);
        let index = |actual: &[u32], expected: &[u32]| (psi(actual, expected) * 1_000.0).round() as u32;
        let features = self.baseline.features.iter().zip(&counts.features);
        let features = features.zip(&self.places).filter(|(_, place)| place.is_some());
        let worst = features
            .map(|((feature, counts), _)| (index(counts, &feature.counts), feature.feature))
            // Of equals the first.
            .reduce(|worst, next| if next.0 > worst.0 { next } else { worst });
        Some(Drift {
            predictions: counts.predictions,
            inputs: worst.map_or(0, |(index, _)| index),
            feature: worst.map(|(_, feature)| feature),
            classes: index(&counts.classes, &self.baseline.classes),
            confidence: index(&counts.confidence, &self.baseline.confidence),
        })
    }
}

impl Counts {
    fn none(baseline: &Baseline) -> Self {
        Self {
            predictions: 0,
            features: baseline.features.iter().map(|feature| vec![0; feature.counts.len()]).collect(),
            classes: vec![0; baseline.classes.len()],
            confidence: vec![0; CONFIDENCE_BINS],
        }
    }

    fn plus(&self, other: &Self) -> Self {
        let sum = |a: &[u32], b: &[u32]| a.iter().zip(b).map(|(a, b)| a + b).collect::<Vec<_>>();
        Self {
            predictions: self.predictions + other.predictions,
            features: self.features.iter().zip(&other.features).map(|(a, b)| sum(a, b)).collect(),
            classes: sum(&self.classes, &other.classes),
            confidence: sum(&self.confidence, &other.confidence),
        }
    }
}

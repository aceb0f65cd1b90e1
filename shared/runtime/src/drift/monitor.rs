//! Counting predictions against a baseline.

use super::{Features, bin, chance, confidence_bin, label_bin, psi};
use crate::Prediction;
use flotilla_protocol::baseline::{CONFIDENCE_BINS, Feature, Shift};
use flotilla_protocol::message::{Chance, Drift};
use flotilla_protocol::{Baseline, Pipeline};

/// Predictions in one half of the window. The latest complete half and the one that is being filled are judged together:
/// at least so many predictions and fewer than twice as many. Without drift, an index of ten bins over so few is then
/// about 0.02 to 0.04 by chance alone, and more where the baseline has few samples itself: see [`Drift::judged`].
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
        let headline = prediction.headline();
        if let Some(headline) = headline {
            counts.classes[label_bin(&self.baseline, headline.label_index)] += 1;
        }
        if let Some(confidence) = headline.and_then(|headline| headline.confidence) {
            counts.confidence[confidence_bin(confidence)] += 1;
        }
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
        // The watched features, the answers and the confidence.
        let judged = self.places.iter().flatten().count() + 2;
        let index = |actual: &[u32], expected: &[u32]| {
            // What is larger than any index is not judged at all.
            let chance = milli(chance(actual, expected, judged));
            (milli(psi(actual, expected)), chance.saturating_sub(Shift::STABLE_BELOW_MILLI))
        };
        let features = self.baseline.features.iter().zip(&counts.features);
        let features = features.zip(&self.places).filter(|(_, place)| place.is_some());
        // Chance aside: features of few bins have less of it.
        let weight = |(index, chance): (u32, u32)| (index.saturating_sub(chance), index);
        let worst = features
            .map(|((feature, counts), _)| (index(counts, &feature.counts), feature.feature))
            // Of equals the first.
            .reduce(|worst, next| if weight(next.0) > weight(worst.0) { next } else { worst });
        let (inputs, of_inputs) = worst.map_or((0, 0), |(index, _)| index);
        let (classes, of_classes) = index(&counts.classes, &self.baseline.classes);
        let (confidence, of_confidence) = index(&counts.confidence, &self.baseline.confidence);
        Some(Drift {
            predictions: counts.predictions,
            inputs,
            feature: worst.map(|(_, feature)| feature),
            classes,
            confidence,
            chance: Chance { inputs: of_inputs, classes: of_classes, confidence: of_confidence },
        })
    }
}

/// In thousandths; the conversion takes what is too large for the largest number there is.
fn milli(index: f64) -> u32 {
    (index * 1_000.0).round() as u32
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

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::super::baseline::edges;
    use super::*;
    use flotilla_protocol::baseline::FeatureBaseline;
    use flotilla_protocol::pipeline::{
        Activation, Classification, Colour, ImageInput, Input, Layout, Output, Resize,
    };

    const ROUNDS: u32 = 200;
    /// Shares of labels, and of confidence from low to high, of a model that knows its trade.
    const LABELS: [f64; 8] = [0.3, 0.25, 0.15, 0.1, 0.1, 0.05, 0.03, 0.02];
    const SURE: [f64; 10] = [0.0, 0.0, 0.0, 0.01, 0.02, 0.03, 0.05, 0.09, 0.2, 0.6];

    fn pipeline() -> Pipeline {
        let (width, height, colour, layout) = (2, 2, Colour::Rgb, Layout::Nchw);
        let (mean, std, resize) = (vec![0.0; 3], vec![1.0; 3], Resize::Exact);
        let labels = LABELS.iter().enumerate().map(|(label, _)| label.to_string()).collect();
        Pipeline::new(
            Input::Image(ImageInput {
                width,
                height,
                colour,
                resize,
                layout,
                mean,
                std,
                ..ImageInput::none()
            }),
            Output::Classification(Classification::new(labels, Activation::None)),
        )
    }

    /// Numbers from a seed (SplitMix64).
    struct Dice(u64);

    impl Dice {
        /// From 0 to 1.
        fn roll(&mut self) -> f64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
        }

        fn one_of(&mut self, shares: &[f64]) -> usize {
            let mut left = self.roll();
            let beyond = |share: &f64| {
                left -= share;
                left < 0.0
            };
            shares.iter().position(beyond).unwrap_or(shares.len() - 1)
        }

        fn counts(&mut self, of: u32, bins: usize, bin: impl Fn(&mut Self) -> usize) -> Vec<u32> {
            let mut counts = vec![0; bins];
            (0..of).for_each(|_| counts[bin(self)] += 1);
            counts
        }

        /// A baseline of so many samples, made as the cloud makes it.
        fn baseline(&mut self, samples: u32) -> Baseline {
            let feature = |dice: &mut Self, feature| {
                let values: Vec<f32> = (0..samples).map(|_| dice.roll() as f32).collect();
                let edges = edges(&values);
                let mut counts = vec![0; edges.len() + 1];
                values.iter().for_each(|value| counts[bin(&edges, *value)] += 1);
                FeatureBaseline { feature, edges, counts }
            };
            let features = Features::of(&pipeline()).names().to_vec();
            let features = features.into_iter().map(|name| feature(self, name)).collect();
            let labels = (0..LABELS.len() as u32).collect();
            let classes = self.counts(samples, LABELS.len() + 1, |dice| dice.one_of(&LABELS));
            let confidence = self.counts(samples, CONFIDENCE_BINS, |dice| dice.one_of(&SURE));
            let baseline = Baseline { format: 1, features, labels, classes, confidence };
            baseline.check().unwrap();
            baseline
        }

        /// What a full window says of the very same world, seen through `lens`.
        fn judge(&mut self, baseline: Baseline, lens: impl Fn(f64) -> f64) -> Drift {
            let mut monitor = Monitor::new(&pipeline(), baseline);
            let of = 2 * HALF_WINDOW;
            let feature = |dice: &mut Self, feature: &FeatureBaseline| {
                dice.counts(of, feature.counts.len(), |dice| bin(&feature.edges, lens(dice.roll()) as f32))
            };
            let features = monitor.baseline.features.iter().map(|of| feature(self, of)).collect();
            let classes = self.counts(of, LABELS.len() + 1, |dice| dice.one_of(&LABELS));
            let confidence = self.counts(of, CONFIDENCE_BINS, |dice| dice.one_of(&SURE));
            monitor.complete = Some(Counts { predictions: of, features, classes, confidence });
            monitor.drift().unwrap()
        }
    }

    /// How many of all rounds say a major shift, by the index alone and as it is judged.
    fn major(samples: u32, lens: impl Fn(f64) -> f64) -> (u32, u32) {
        let mut dice = Dice(u64::from(samples));
        let (mut alone, mut judged) = (0, 0);
        for _ in 0..ROUNDS {
            let baseline = dice.baseline(samples);
            let drift = dice.judge(baseline, &lens);
            alone += u32::from(drift.score() > Shift::MAJOR_ABOVE_MILLI);
            judged += u32::from(drift.shift() == Shift::Major);
        }
        (alone, judged)
    }

    #[test]
    fn a_baseline_of_few_samples_makes_no_drift_of_chance() {
        let mut alone = Vec::new();
        for samples in [20, 30, 40, 60, 100, 200, 400, 1_000] {
            let (raw, judged) = major(samples, |value| value);
            assert_eq!(judged, 0, "of {ROUNDS} with {samples} samples");
            alone.push(raw);
        }
        // The index alone says it nearly always with 20 samples, and never with 400.
        assert!(alone[0] > ROUNDS * 9 / 10 && alone[6] == 0, "{alone:?}");
    }

    #[test]
    fn a_real_shift_is_found_whatever_the_baseline() {
        for samples in [20, 40, 100, 1_000] {
            let (_, judged) = major(samples, |value| 0.8 + value / 5.0);
            assert_eq!(judged, ROUNDS, "all too bright, {samples} samples");
        }
        // Half a bin's width more of everything, and less of the range: an index of about 0.4.
        let (_, judged) = major(1_000, |value| 0.3 + 0.7 * value);
        assert_eq!(judged, ROUNDS, "a slight one needs many samples");
    }

    #[test]
    fn what_is_reported_is_the_index_as_it_is_defined() {
        let mut dice = Dice(7);
        let baseline = dice.baseline(20);
        let (classes, confidence) = (baseline.classes.clone(), baseline.confidence.clone());
        let mut monitor = Monitor::new(&pipeline(), baseline.clone());
        let features: Vec<Vec<u32>> = baseline.features.iter().map(|of| vec![60; of.counts.len()]).collect();
        let seen = Counts {
            predictions: 600,
            features: features.clone(),
            classes: vec![67, 67, 67, 67, 67, 67, 66, 66, 66],
            confidence: vec![60; 10],
        };
        monitor.complete = Some(seen.clone());
        let drift = monitor.drift().unwrap();
        assert_eq!(drift.classes, milli(psi(&seen.classes, &classes)));
        assert_eq!(drift.confidence, milli(psi(&seen.confidence, &confidence)));
        let indices = baseline.features.iter().zip(&features).map(|(of, seen)| milli(psi(seen, &of.counts)));
        assert_eq!(Some(drift.inputs), indices.max());
        assert_eq!(drift.chance.classes, milli(chance(&seen.classes, &classes, 7)) - 100);
        // With many samples nothing is left out, and nothing is said of it.
        let many = dice.baseline(1_000);
        assert_eq!(dice.judge(many, |value| value).chance, Chance::default());
    }
}

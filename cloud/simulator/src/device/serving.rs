//! A model that serves: each prediction is drawn, not computed. What is drawn depends on the device, and on whether the
//! release is one that does worse there.

use super::Device;
use flotilla_device::drift::Watch;
use flotilla_device::update::Health;
use flotilla_protocol::baseline::{CONFIDENCE_BINS, Feature};
use flotilla_protocol::message::{Chance, Drift, ModelTelemetry};
use flotilla_protocol::{Digest, ModelName};
use rand::Rng;
use rand::rngs::SmallRng;
use std::collections::BTreeMap;

/// Predictions of a half window, after each of which drift is judged.
const HALF_WINDOW: u32 = 300;
/// Labels that are answered.
const CLASSES: u32 = 10;
/// Drift score without drift, in thousandths.
const STEADY_MILLI: u32 = 20;

/// How a release does on a device.
#[derive(Clone, Copy, Debug)]
pub(super) struct Traits {
    per_s: f64,
    errors: f64,
    latency_us: f64,
    confidence: f64,
}

/// A release that serves.
pub(super) struct Serving {
    pub(super) release: Digest,
    traits: Traits,
    /// Up to when predictions were drawn.
    drawn_ms: u64,
    /// The part of a prediction that is left over.
    rest: f64,
    counted: ModelTelemetry,
    drift: Option<Drift>,
    since_judged: u32,
    watch: Watch,
}

impl Serving {
    fn new(release: Digest, traits: Traits, now_ms: u64) -> Self {
        let counted = ModelTelemetry { release: Some(release), ..ModelTelemetry::default() };
        let (drift, watch) = (None, Watch::default());
        Self { release, traits, drawn_ms: now_ms, rest: 0.0, counted, drift, since_judged: 0, watch }
    }

    /// Draws the predictions since the last time. Gives the drift score that is to be told, if there is one.
    fn draw(&mut self, now_ms: u64, milli: u32, threshold: Option<u32>, rng: &mut SmallRng) -> Option<u32> {
        let due = now_ms.saturating_sub(self.drawn_ms) as f64 / 1_000.0 * self.traits.per_s + self.rest;
        self.drawn_ms = now_ms;
        self.rest = due.fract();
        let mut told = None;
        for _ in 0..due as u64 {
            self.predict(rng);
            self.since_judged += 1;
            if self.since_judged == HALF_WINDOW {
                self.since_judged = 0;
                told = self.judge(milli, threshold, rng).or(told);
            }
        }
        told
    }

    fn predict(&mut self, rng: &mut SmallRng) {
        let Traits { errors, latency_us, confidence, .. } = self.traits;
        if rng.random_bool(errors) {
            self.counted.failures += 1;
            return;
        }
        self.counted.predictions += 1;
        // Mostly about the mean, with a tail to three times of it.
        let tail =
            if rng.random_bool(0.05) { rng.random_range(1.0..3.0) } else { rng.random_range(0.8..1.2) };
        self.counted.latency.record((latency_us * tail) as u64);
        let score = (confidence + rng.random_range(-0.1..0.1)).clamp(0.0, 1.0);
        let bin = ((score * CONFIDENCE_BINS as f64) as usize).min(CONFIDENCE_BINS - 1);
        if self.counted.confidence.len() <= bin {
            self.counted.confidence.resize(bin + 1, 0);
        }
        self.counted.confidence[bin] += 1;
        *self.counted.classes.entry(rng.random_range(0..CLASSES)).or_default() += 1;
    }

    fn judge(&mut self, milli: u32, threshold: Option<u32>, rng: &mut SmallRng) -> Option<u32> {
        let inputs = milli + rng.random_range(0..STEADY_MILLI);
        let drift = Drift {
            predictions: self.drift.map_or(HALF_WINDOW, |_| 2 * HALF_WINDOW),
            inputs,
            feature: Some(Feature::Brightness),
            classes: STEADY_MILLI,
            confidence: STEADY_MILLI,
            chance: Chance::default(),
        };
        self.drift = Some(drift);
        let (watch, raise) = self.watch.step(drift.judged(), threshold);
        self.watch = watch;
        raise.then_some(inputs)
    }
}

impl Device {
    /// A release begins to serve on this device.
    pub(super) fn serving(&self, release: Digest, now_ms: u64) -> Serving {
        let (options, nature) = (&self.world.options, &self.nature);
        let faults = &options.faults;
        let usual = Traits {
            per_s: options.predictions_per_s,
            errors: options.errors.get(),
            latency_us: nature.latency_us,
            confidence: nature.confidence,
        };
        let worse = Traits {
            errors: (usual.errors + faults.worse_errors.get()).min(1.0),
            latency_us: usual.latency_us * faults.worse_latency,
            confidence: (usual.confidence - faults.worse_confidence.get()).max(0.0),
            ..usual
        };
        let traits = if nature.suffers && faults.strikes(&release) { worse } else { usual };
        Serving::new(release, traits, now_ms)
    }

    /// Draws what a model has predicted up to now.
    fn draw(&mut self, name: &ModelName, now_ms: u64) {
        let threshold = self.settings().drift_threshold_milli;
        let drifts = self.nature.drifts_after.is_some_and(|after| now_ms >= super::ms(after));
        let milli = if drifts { self.world.options.faults.drift_milli } else { STEADY_MILLI };
        let serving = self.run.models.get_mut(name).and_then(|managed| managed.serving.as_mut());
        let Some(serving) = serving else { return };
        let release = serving.release;
        if let Some(milli) = serving.draw(now_ms, milli, threshold, &mut self.rng) {
            self.drifted(name, release, milli);
        }
    }

    /// How a model has done since its release was loaded.
    pub(super) fn health(&mut self, name: &ModelName, now_ms: u64) -> Health {
        self.draw(name, now_ms);
        let serving = self.run.models.get(name).and_then(|managed| managed.serving.as_ref());
        serving.map_or_else(Health::default, |serving| Health {
            predictions: serving.counted.predictions,
            failures: serving.counted.failures,
            p95_us: serving.counted.latency.quantile_at_least_us(0.95),
            ..Health::default()
        })
    }

    pub(super) fn figures_of_models(&mut self, now_ms: u64) -> BTreeMap<ModelName, ModelTelemetry> {
        let names: Vec<ModelName> = self.run.models.keys().cloned().collect();
        names.iter().for_each(|name| self.draw(name, now_ms));
        let of = |(name, managed): (&ModelName, &super::Managed)| {
            let serving = managed.serving.as_ref()?;
            Some((name.clone(), ModelTelemetry { drift: serving.drift, ..serving.counted.clone() }))
        };
        self.run.models.iter().filter_map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    fn serve(traits: Traits, seconds: u64, milli: u32) -> (Serving, Option<u32>) {
        let mut rng = SmallRng::seed_from_u64(3);
        let mut serving = Serving::new(Digest::of(b"release"), traits, 0);
        let told = serving.draw(seconds * 1_000, milli, None, &mut rng);
        (serving, told)
    }

    const USUAL: Traits = Traits { per_s: 10.0, errors: 0.002, latency_us: 8_000.0, confidence: 0.9 };

    #[test]
    fn a_worse_release_shows_in_errors_latency_and_confidence() {
        let (usual, _) = serve(USUAL, 1_000, STEADY_MILLI);
        let worse = Traits { errors: 0.1, latency_us: 24_000.0, confidence: 0.6, ..USUAL };
        let (worse, _) = serve(worse, 1_000, STEADY_MILLI);
        let total = |serving: &Serving| serving.counted.predictions + serving.counted.failures;
        assert_eq!((total(&usual), total(&worse)), (10_000, 10_000));
        assert!(usual.counted.failures < 60 && worse.counted.failures > 800);
        let p95 = |serving: &Serving| serving.counted.latency.quantile_us(0.95);
        assert!(p95(&worse) > p95(&usual));
        let sure = |serving: &Serving| serving.counted.confidence.iter().skip(9).sum::<u64>();
        assert!(sure(&worse) == 0 && sure(&usual) > 1_000);
    }

    #[test]
    fn drift_is_told_once_after_a_full_window() {
        assert_eq!(serve(USUAL, 29, 400).1, None, "no window is full");
        assert!(serve(USUAL, 60, 400).1.is_some_and(|milli| milli >= 400));
        assert_eq!(serve(USUAL, 600, STEADY_MILLI).1, None);
        assert_eq!(serve(USUAL, 29, 400).0.drift, None);
    }
}

//! What the devices that serve one release say of it together.

use crate::error::Result;
use crate::ingest::{LatestSample, merge};
use crate::rollout::{Rollout, RolloutDevice};
use crate::store::{self, Store};
use flotilla_protocol::baseline::{CONFIDENCE_BINS, Shift};
use flotilla_protocol::message::{Drift, Histogram, ModelTelemetry};
use flotilla_protocol::{DeviceId, Digest, ModelName};
use serde::Serialize;
use std::collections::BTreeMap;

/// The latest samples of several devices in one. Counts are since each agent's start, or since the release took over if
/// that was later.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ReleaseTelemetry {
    /// Devices that serve it.
    pub devices: u64,
    /// Predictions answered.
    pub predictions: u64,
    /// Predictions failed.
    pub failures: u64,
    /// Latency of the answered ones.
    pub latency: Histogram,
    /// Answers a label index.
    pub classes: BTreeMap<u32, u64>,
    /// Answers by the score of the answered label.
    pub confidence: Vec<u64>,
    /// Devices a word; those that cannot tell are in none.
    pub shifts: BTreeMap<Shift, u64>,
    /// The device that has drifted most.
    pub worst: Option<(DeviceId, Drift)>,
}

impl ReleaseTelemetry {
    fn add(&mut self, device: &DeviceId, model: &ModelTelemetry) {
        self.devices += 1;
        self.predictions = self.predictions.saturating_add(model.predictions);
        self.failures = self.failures.saturating_add(model.failures);
        merge(&mut self.latency, &model.latency);
        for (label, count) in &model.classes {
            let sum = self.classes.entry(*label).or_default();
            *sum = sum.saturating_add(*count);
        }
        if self.confidence.len() < model.confidence.len() {
            self.confidence.resize(model.confidence.len().min(CONFIDENCE_BINS), 0);
        }
        for (sum, count) in self.confidence.iter_mut().zip(&model.confidence) {
            *sum = sum.saturating_add(*count);
        }
        let Some(drift) = model.drift else { return };
        *self.shifts.entry(drift.shift()).or_default() += 1;
        if self.worst.as_ref().is_none_or(|(_, worst)| drift.score() > worst.score()) {
            self.worst = Some((device.clone(), drift));
        }
    }
}

/// What all devices say of a model, by the release that they serve.
pub(crate) async fn of_model(store: &Store, model: &ModelName) -> Result<BTreeMap<Digest, ReleaseTelemetry>> {
    let mut all = BTreeMap::new();
    store::each(&store.samples, |sample| add(&mut all, &sample, model)).await?;
    Ok(all)
}

/// What the devices of a rollout say of its release.
pub(crate) async fn of_rollout(
    store: &Store,
    rollout: &Rollout,
    devices: &[RolloutDevice],
) -> Result<ReleaseTelemetry> {
    let mut all = BTreeMap::new();
    for RolloutDevice { device, .. } in devices {
        if let Some(sample) = store.samples.get(device.as_str()).await? {
            add(&mut all, &sample.value, &rollout.model);
        }
    }
    Ok(all.remove(&rollout.wanted.release).unwrap_or_default())
}

/// Adds what one device says of a model to what is said of the release that it serves.
fn add(all: &mut BTreeMap<Digest, ReleaseTelemetry>, of: &LatestSample, model: &ModelName) {
    let Some(telemetry) = of.sample.models.get(model) else { return };
    if let Some(release) = telemetry.release {
        all.entry(release).or_default().add(&of.device, telemetry);
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;
    use flotilla_protocol::message::TelemetrySample;

    #[test]
    fn a_release_is_summed_up_over_its_devices_and_names_the_one_that_drifted_most() {
        let model: ModelName = "digits".parse().unwrap();
        let sample = |device: &str, release: &[u8], inputs: Option<u32>| {
            let mut latency = Histogram::default();
            [900, 5_000].into_iter().for_each(|us| latency.record(us));
            let drift = inputs.map(|inputs| Drift {
                predictions: 300,
                inputs,
                feature: None,
                classes: 9,
                confidence: 8,
                chance: Default::default(),
            });
            let telemetry = ModelTelemetry {
                release: Some(Digest::of(release)),
                predictions: 2,
                failures: 1,
                latency,
                classes: [(3, 2)].into(),
                confidence: vec![0, 2],
                drift,
            };
            let models = [(model.clone(), telemetry)].into();
            LatestSample {
                device: device.parse().unwrap(),
                at_ms: 1,
                received_ms: 1,
                starts: 0,
                sample: TelemetrySample { models, ..TelemetrySample::default() },
            }
        };
        let samples = [
            sample("gate-1", b"new", Some(20)),
            sample("gate-2", b"new", Some(900)),
            sample("gate-3", b"new", None),
            sample("gate-4", b"old", Some(30)),
        ];
        let by_release = |model: &ModelName| {
            let mut all = BTreeMap::new();
            samples.iter().for_each(|sample| add(&mut all, sample, model));
            all
        };
        let all = by_release(&model);
        assert_eq!(all.len(), 2);
        let new = &all[&Digest::of(b"new")];
        assert_eq!((new.devices, new.predictions, new.failures, new.latency.count()), (3, 6, 3, 6));
        assert_eq!((&new.classes, &new.confidence), (&[(3, 6)].into(), &vec![0, 6]));
        assert_eq!(new.shifts, [(Shift::Stable, 1), (Shift::Major, 1)].into());
        assert_eq!(new.worst.as_ref().unwrap().0.as_str(), "gate-2");
        assert!(by_release(&"faces".parse().unwrap()).is_empty());
    }
}

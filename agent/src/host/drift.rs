//! Watching for drift while a release serves. Each release begins anew when it is installed, and so does a restarted
//! agent: what has drifted still is said again then.

use super::{ModelHost, lock};
use flotilla_device::drift::Watch;
use flotilla_protocol::message::Drift;
use flotilla_protocol::{Digest, ModelName};
use flotilla_runtime::Prediction;
use flotilla_runtime::drift::Monitor;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::sync::Notify;

/// Drift that has to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drifted {
    /// The model.
    pub model: ModelName,
    /// The release that served.
    pub release: Digest,
    /// How far it is off.
    pub drift: Drift,
    /// The score above which it is said, in thousandths.
    pub threshold: u32,
}

/// What all models share.
#[derive(Debug, Default)]
pub(super) struct Alarm {
    /// In thousandths; 0 for the usual one.
    threshold: AtomicU32,
    raised: Notify,
}

/// What one release is compared with. A release without a baseline is not watched.
#[derive(Debug)]
pub(super) struct Watched(Option<Mutex<State>>);

#[derive(Debug)]
struct State {
    monitor: Box<Monitor>,
    watch: Watch,
    raised: Option<Drift>,
}

impl Watched {
    pub(super) fn new(monitor: Option<Box<Monitor>>) -> Self {
        Self(monitor.map(|monitor| Mutex::new(State { monitor, watch: Watch::default(), raised: None })))
    }

    /// Counts a prediction.
    pub(super) fn count(&self, tensor: &[f32], prediction: &Prediction, alarm: &Alarm) {
        let Some(state) = &self.0 else { return };
        let mut state = lock(state);
        let Some(drift) = state.monitor.count(tensor, prediction) else { return };
        let (watch, raise) = state.watch.step(drift.judged(), alarm.threshold());
        state.watch = watch;
        if raise {
            state.raised = Some(drift);
            alarm.raised.notify_one();
        }
    }

    pub(super) fn drift(&self) -> Option<Drift> {
        lock(self.0.as_ref()?).monitor.drift()
    }
}

impl Alarm {
    fn threshold(&self) -> Option<u32> {
        Some(self.threshold.load(Ordering::Relaxed)).filter(|threshold| *threshold > 0)
    }
}

impl ModelHost {
    /// Sets the drift score, in thousandths, above which drift is told; none for the usual one.
    pub fn set_drift_threshold(&self, threshold: Option<u32>) {
        self.alarm.threshold.store(threshold.unwrap_or(0), Ordering::Relaxed);
    }

    /// Waits until a model has drifted.
    pub async fn drifts(&self) {
        self.alarm.raised.notified().await;
    }

    /// The models that have drifted since this was last asked.
    pub fn take_drifted(&self) -> Vec<Drifted> {
        let threshold =
            self.alarm.threshold().unwrap_or(flotilla_protocol::baseline::Shift::MAJOR_ABOVE_MILLI);
        let of = |serving: &std::sync::Arc<super::Serving>| {
            let drift = lock(serving.watched.0.as_ref()?).raised.take()?;
            let (model, release) = (serving.name.clone(), serving.served.release);
            Some(Drifted { model, release, drift, threshold })
        };
        self.read().values().filter_map(of).collect()
    }
}

//! Drift becomes an event.

use super::Daemon;
use crate::host::Drifted;
use flotilla_protocol::message::{EventKind, EventRecord};

impl Daemon {
    pub(super) fn on_drift(&mut self) {
        for Drifted { model, release, drift, threshold } in self.host.take_drifted() {
            let (cause, index) = drift.worst();
            let detail = format!(
                "{}: {cause} is {:.2} from the training data over the last {} predictions, above {:.2} (PSI)",
                drift.shift().as_str(),
                f64::from(index) / 1_000.0,
                drift.predictions,
                f64::from(threshold) / 1_000.0,
            );
            let (model, release) = (Some(model), Some(release));
            self.record_event(EventRecord { kind: EventKind::Drift, model, release, code: None, detail });
        }
    }
}

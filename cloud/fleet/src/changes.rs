//! News for consoles: which device or rollout has changed.

use flotilla_protocol::{DeviceId, RolloutId};
use tokio::sync::broadcast;

/// News that a watcher may be behind; one that is further behind is told so and reads everything again.
const BACKLOG: usize = 1024;

/// Something has changed; read it again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// A device: its state, connection, report or telemetry.
    Device(DeviceId),
    /// A rollout or one of its devices.
    Rollout(RolloutId),
}

/// Tells watchers about changes. Never waits for them.
#[derive(Clone, Debug)]
pub(crate) struct Changes(broadcast::Sender<Change>);

impl Changes {
    pub(crate) fn new() -> Self {
        Self(broadcast::channel(BACKLOG).0)
    }

    pub(crate) fn device(&self, device: &DeviceId) {
        self.tell(|| Change::Device(device.clone()));
    }

    pub(crate) fn rollout(&self, rollout: &RolloutId) {
        self.tell(|| Change::Rollout(rollout.clone()));
    }

    pub(crate) fn watch(&self) -> broadcast::Receiver<Change> {
        self.0.subscribe()
    }

    fn tell(&self, change: impl FnOnce() -> Change) {
        if self.0.receiver_count() > 0 {
            // That the last watcher has gone meanwhile is fine.
            let _ = self.0.send(change());
        }
    }
}

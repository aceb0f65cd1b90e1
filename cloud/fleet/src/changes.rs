//! News of what has changed: for consoles, which device or rollout; for the roster, which devices to read again.

use flotilla_protocol::{DeviceId, RolloutId};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, broadcast};

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
pub(crate) struct Changes {
    watchers: broadcast::Sender<Change>,
    stale: Arc<Stale>,
}

impl Changes {
    pub(crate) fn new() -> Self {
        Self { watchers: broadcast::channel(BACKLOG).0, stale: Arc::default() }
    }

    pub(crate) fn device(&self, device: &DeviceId) {
        self.stale.add(device);
        self.tell(|| Change::Device(device.clone()));
    }

    pub(crate) fn rollout(&self, rollout: &RolloutId) {
        self.tell(|| Change::Rollout(rollout.clone()));
    }

    pub(crate) fn watch(&self) -> broadcast::Receiver<Change> {
        self.watchers.subscribe()
    }

    /// The devices that have changed since the roster read them.
    pub(crate) fn stale(&self) -> Arc<Stale> {
        self.stale.clone()
    }

    fn tell(&self, change: impl FnOnce() -> Change) {
        if self.watchers.receiver_count() > 0 {
            // That the last watcher has gone meanwhile is fine.
            let _ = self.watchers.send(change());
        }
    }
}

/// Devices that have changed since somebody read them, each once however often it changed: never more than there are
/// devices.
#[derive(Debug, Default)]
pub(crate) struct Stale {
    devices: Mutex<BTreeSet<DeviceId>>,
    added: Notify,
}

impl Stale {
    fn devices(&self) -> MutexGuard<'_, BTreeSet<DeviceId>> {
        // Every change is a single insertion or a swap: the set is valid even after a panic.
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, device: &DeviceId) {
        let first = {
            let mut devices = self.devices();
            devices.insert(device.clone()) && devices.len() == 1
        };
        if first {
            self.added.notify_one();
        }
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.devices().is_empty()
    }

    /// Waits until there is one.
    pub(crate) async fn some(&self) {
        while self.devices().is_empty() {
            self.added.notified().await;
        }
    }

    /// Takes all of them, to read them. What is left of the taken ones when this is dropped is stale as before.
    pub(crate) fn take(&self) -> Taken<'_> {
        let devices = std::mem::take(&mut *self.devices());
        Taken { stale: self, devices, unreadable: Vec::new() }
    }
}

/// Devices that somebody reads now.
pub(crate) struct Taken<'a> {
    stale: &'a Stale,
    devices: BTreeSet<DeviceId>,
    unreadable: Vec<DeviceId>,
}

impl Taken<'_> {
    /// One that has yet to be read.
    pub(crate) fn first(&self) -> Option<DeviceId> {
        self.devices.first().cloned()
    }

    /// It cannot be read now: it is stale as before, and the others come first.
    pub(crate) fn later(&mut self, device: &DeviceId) {
        self.devices.remove(device);
        self.unreadable.push(device.clone());
    }

    /// It is read.
    pub(crate) fn done(&mut self, device: &DeviceId) {
        self.devices.remove(device);
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let left = std::mem::take(&mut self.devices);
        left.iter().chain(&self.unreadable).for_each(|device| self.stale.add(device));
    }
}

//! The rollouts that have something to do, in memory: read once, and changed with each commit. What is stored decides:
//! a commit that meets another version throws the memory away.

use super::planner::due_ms;
use super::state::{Rollout, RolloutDevice, RolloutState, Status, Tally};
use crate::error::Result;
use crate::store::{self, Store};
use flotilla_protocol::{DeviceId, RolloutId};
use flotilla_storage::Versioned;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What has happened since somebody last looked.
#[derive(Debug, Default)]
pub(crate) struct News(Mutex<Heard>);

#[derive(Debug, Default)]
pub(super) struct Heard {
    /// Devices that reported, were revoked, or were given something else.
    pub(super) devices: HashSet<DeviceId>,
    /// Rollouts whose devices an operator has changed.
    pub(super) rollouts: HashSet<RolloutId>,
}

impl News {
    fn heard(&self) -> MutexGuard<'_, Heard> {
        // Every change is a single insertion: the sets are valid even after a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There is news of a device.
    pub(super) fn device(&self, device: &DeviceId) {
        self.heard().devices.insert(device.clone());
    }

    /// An operator has changed devices of a rollout.
    pub(super) fn rollout(&self, rollout: &RolloutId) {
        self.heard().rollouts.insert(rollout.clone());
    }

    /// All of it, once.
    pub(super) fn take(&self) -> Heard {
        std::mem::take(&mut self.heard())
    }
}

/// How many devices of the rollouts under way stand where, for those who look on.
#[derive(Debug, Default)]
pub(crate) struct Board(Mutex<HashMap<RolloutId, Vec<Tally>>>);

impl Board {
    fn shown(&self) -> MutexGuard<'_, HashMap<RolloutId, Vec<Tally>>> {
        // Every change is a single insertion or removal.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn show(&self, work: &Work) {
        let rollout = &work.rollout.value;
        self.shown().insert(rollout.id.clone(), rollout.tally(&work.devices));
    }

    pub(super) fn get(&self, id: &RolloutId) -> Option<Vec<Tally>> {
        self.shown().get(id).cloned()
    }

    /// Whether more than one is under way.
    pub(super) fn several(&self) -> bool {
        self.shown().len() > 1
    }

    pub(super) fn keep(&self, wanted: &BTreeSet<RolloutId>) {
        self.shown().retain(|id, _| wanted.contains(id));
    }
}

/// A rollout and its devices.
pub(super) struct Work {
    pub(super) rollout: Versioned<Rollout>,
    /// In the rollout's order.
    pub(super) devices: Vec<RolloutDevice>,
    /// Beside each device, the commit that wrote it.
    versions: Vec<u64>,
    /// Places in the order, by device.
    places: Vec<u32>,
    /// When late comers were last looked for.
    pub(super) joined_ms: Option<u64>,
    /// Places of devices that are to be looked at.
    pub(super) heard: BTreeSet<usize>,
    /// Beside each device, whether a newer rollout has it; empty if none has any.
    taken: Vec<bool>,
    /// Newer rollouts that are in `taken`.
    taken_by: usize,
}

impl Work {
    /// Reads it. All devices that were told are to be looked at: what they said meanwhile nobody has heard.
    pub(super) async fn read(store: &Store, rollout: Versioned<Rollout>) -> Result<Self> {
        let found = store::all(&store.rollout_devices, &RolloutDevice::prefix(&rollout.value.id)).await?;
        let versions = found.iter().map(|device| device.version).collect();
        let devices: Vec<RolloutDevice> = found.into_iter().map(|device| device.value).collect();
        let mut places: Vec<u32> = (0..).take(devices.len()).collect();
        places.sort_unstable_by(|a, b| devices[*a as usize].device.cmp(&devices[*b as usize].device));
        let heard = (0..devices.len())
            .filter(|place| devices[*place].sent.is_some() || devices[*place].is_shadowed())
            .collect();
        Ok(Self {
            rollout,
            devices,
            versions,
            places,
            joined_ms: None,
            heard,
            taken: Vec::new(),
            taken_by: 0,
        })
    }

    /// The same with the rollout as it is stored now.
    pub(super) fn again(self, rollout: Versioned<Rollout>) -> Self {
        Self { rollout, ..self }
    }

    /// Where in the order a device stands.
    fn place(&self, device: &DeviceId) -> Option<usize> {
        let found = self.places.binary_search_by(|place| self.devices[*place as usize].device.cmp(device));
        found.ok().map(|at| self.places[at] as usize)
    }

    /// Devices of which there is news are to be looked at.
    pub(super) fn hear(&mut self, news: &HashSet<DeviceId>) {
        let places: Vec<usize> = news.iter().filter_map(|device| self.place(device)).collect();
        self.heard.extend(places);
    }

    /// Those that are late are looked at before they are judged.
    pub(super) fn hear_late(&mut self, now_ms: u64) {
        let rollout = &self.rollout.value;
        if rollout.state != RolloutState::Running {
            return;
        }
        let is_late = |device: &RolloutDevice| {
            device.status == Status::Sent
                && device.sent.as_deref().is_some_and(|sent| now_ms >= due_ms(rollout, sent))
        };
        let late = self.devices.iter().enumerate().take_while(|(_, device)| device.wave <= rollout.wave);
        self.heard.extend(late.filter(|(_, device)| is_late(device)).map(|(place, _)| place));
    }

    /// The device at this place as it was read or written last.
    pub(super) fn found(&self, place: usize) -> Versioned<RolloutDevice> {
        Versioned { value: self.devices[place].clone(), version: self.versions[place] }
    }

    /// A commit has written devices.
    pub(super) fn written(&mut self, changed: Vec<(usize, RolloutDevice)>, version: u64) {
        for (place, device) in changed {
            self.devices[place] = device;
            self.versions[place] = version;
        }
    }

    /// A commit has taken devices in.
    pub(super) fn taken_in(&mut self, rollout: Rollout, devices: Vec<RolloutDevice>, version: u64) {
        self.rollout = Versioned { value: rollout, version };
        for device in devices {
            let at =
                self.places.partition_point(|place| self.devices[*place as usize].device < device.device);
            self.places.insert(at, device.position);
            self.devices.push(device);
            self.versions.push(version);
        }
    }

    /// Whether the rollout is for a device.
    pub(super) fn has(&self, device: &DeviceId) -> bool {
        self.place(device).is_some()
    }

    /// Whether a newer rollout has the device at this place.
    pub(super) fn is_taken(&self, place: usize) -> bool {
        self.taken.get(place).copied().unwrap_or(false)
    }

    /// Reads which devices newer rollouts have, if there are any that it does not know.
    pub(super) async fn give_way(&mut self, store: &Store) -> Result<()> {
        let newer = self.rollout.value.superseded_by.clone();
        for id in newer.iter().skip(self.taken_by) {
            self.taken.resize(self.devices.len(), false);
            // One that has come to nothing has only what it told.
            let theirs = store.rollouts.get(id.as_str()).await?.map(|newer| newer.value.state);
            let is_over = matches!(theirs, Some(RolloutState::Aborted | RolloutState::RolledBack));
            for theirs in store::all(&store.rollout_devices, &RolloutDevice::prefix(id)).await? {
                let has = !is_over || theirs.value.sent.is_some();
                if let Some(place) = self.place(&theirs.value.device).filter(|_| has) {
                    self.taken[place] = true;
                }
            }
        }
        self.taken_by = newer.len();
        Ok(())
    }
}

//! What happens next on the device and around it: chance picks one of the things that can; if there is none, time
//! passes.

use super::device::Device;
use super::records::Records;
use flotilla_device::update::Event;
use flotilla_protocol::ModelName;
use rand::Rng;

enum Action {
    Job(ModelName),
    Load(ModelName),
    Tick(ModelName),
    Retry(ModelName),
    AtCloud,
    AtDevice,
    SyncCloud,
    Connect,
}

impl Device {
    fn actions(&self) -> Vec<Action> {
        let mut actions = Vec::new();
        let now_ms = self.now_ms;
        for (name, managed) in &self.run.models {
            if self.can_work(name, managed) {
                actions.push(Action::Job(name.clone()));
            }
            if managed.load.is_some() {
                actions.push(Action::Load(name.clone()));
            }
            if managed.tick_ms.is_some_and(|at_ms| at_ms <= now_ms) {
                actions.push(Action::Tick(name.clone()));
            }
            if managed.retries.iter().any(|(at_ms, _)| *at_ms <= now_ms) {
                actions.push(Action::Retry(name.clone()));
            }
        }
        if self.link.due_ms().is_some_and(|at_ms| at_ms <= now_ms) {
            actions.extend([Action::AtCloud, Action::AtDevice]);
        }
        if self.cloud.is_unsynced() {
            actions.push(Action::SyncCloud);
        }
        if self.online && !self.link.is_up() && self.run.reconnect_ms <= now_ms {
            actions.push(Action::Connect);
        }
        actions
    }

    /// When something happens by itself next.
    fn due_ms(&self) -> Option<u64> {
        let models = self.run.models.values();
        let timers =
            models.flat_map(|m| m.tick_ms.into_iter().chain(m.retries.iter().map(|(at_ms, _)| *at_ms)));
        let records = self.run.records.as_ref().filter(|_| self.link.is_up()).and_then(Records::due_ms);
        let connect = (self.online && !self.link.is_up()).then_some(self.run.reconnect_ms);
        timers.chain(records).chain(connect).chain(self.link.due_ms()).chain(self.download_due_ms()).min()
    }

    /// Lets one thing happen, or time pass. False if nothing is left to happen.
    pub(super) fn turn(&mut self) -> bool {
        let mut actions = self.actions();
        if actions.is_empty() {
            let Some(due_ms) = self.due_ms() else { return false };
            // What is due and cannot be done is asked for again in a while.
            self.now_ms = due_ms.max(self.now_ms + 1);
            self.guarded(|_| ());
            return true;
        }
        let action = actions.swap_remove(self.rng.random_range(0..actions.len()));
        self.guarded(|device| device.act(action));
        true
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Job(name) => self.work(&name),
            Action::Load(name) => self.load(&name),
            Action::Tick(name) => {
                self.run.models.get_mut(&name).unwrap().tick_ms = None;
                let health = self.health(&name);
                self.give(&name, Event::Tick { health });
            }
            Action::Retry(name) => {
                let now_ms = self.now_ms;
                let retries = &mut self.run.models.get_mut(&name).unwrap().retries;
                let due = retries.iter().position(|(at_ms, _)| *at_ms <= now_ms).unwrap();
                let (_, event) = retries.remove(due);
                self.give(&name, event);
            }
            Action::AtCloud => {
                let busy = self.link.trouble > 0 && self.rng.random_ratio(1, self.link.trouble);
                if let Some(message) = self.link.at_cloud(self.now_ms) {
                    for answer in self.cloud.hear(message, busy) {
                        self.send_down(Some(answer));
                    }
                }
            }
            Action::AtDevice => {
                if let Some(message) = self.link.at_device(self.now_ms) {
                    self.hear(message);
                }
            }
            Action::SyncCloud => {
                for ack in self.cloud.sync() {
                    self.send_down(Some(ack));
                }
            }
            Action::Connect => self.connect(),
        }
    }
}

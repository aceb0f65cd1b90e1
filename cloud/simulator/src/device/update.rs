//! The machines of a device's models: gives them what happens, and performs what they say.

use super::serving::Serving;
use super::work::Job;
use super::{Device, Kept};
use flotilla_device::Fault;
use flotilla_device::session;
use flotilla_device::update::{Context, Effect, Event, Update};
use flotilla_protocol::message::{DesiredModel, Phase, SlotName};
use flotilla_protocol::{Digest, ErrorCode, ModelName, limits};
use rand::Rng;

/// One model while the device runs.
pub(super) struct Managed {
    pub(super) update: Update,
    pub(super) tick_ms: Option<u64>,
    pub(super) serving: Option<Serving>,
    /// Slots that are being cleared.
    clears: u32,
    /// The phase that was counted last.
    phase: Option<Phase>,
    /// The confirmed release that was counted last.
    confirmed: Option<Digest>,
}

impl Device {
    /// Starts the machine of every model on the disk.
    pub(super) fn load_models(&mut self) {
        let names: Vec<ModelName> = self.disk.models.keys().cloned().collect();
        names.iter().for_each(|name| self.add(name));
    }

    fn add(&mut self, name: &ModelName) {
        let kept = self.disk.models.entry(name.clone()).or_default();
        let update = Update::new(name.clone(), kept.journal.clone());
        // What was counted before a crash goes on being counted until the machine says otherwise.
        let confirmed = kept.journal.confirmed.as_ref().map(|confirmed| confirmed.release);
        let managed = Managed { update, tick_ms: None, serving: None, clears: 0, phase: None, confirmed };
        self.run.models.insert(name.clone(), managed);
        // A crash of these devices is a power cut: nobody's fault.
        self.give(name, Event::Started { crashed: false });
        self.hear();
    }

    /// The device goes down, and with it what was counted as under way.
    pub(super) fn forget_models(&mut self) {
        for managed in self.run.models.values() {
            self.world.figures.phase(managed.phase, None);
        }
        self.run.models.clear();
    }

    fn wanted(&self, name: &ModelName) -> Option<DesiredModel> {
        self.disk.desired.as_ref()?.models.get(name).cloned()
    }

    /// Tells every model what is wanted of it. A lying device does nothing of it.
    pub(super) fn want_models(&mut self) {
        if self.nature.lies {
            return;
        }
        let wanted = self.disk.desired.iter().flat_map(|desired| desired.models.keys().cloned());
        for name in wanted.collect::<Vec<_>>() {
            if !self.run.models.contains_key(&name) {
                self.add(&name);
            }
        }
        for name in self.run.models.keys().cloned().collect::<Vec<_>>() {
            self.give(&name, Event::Desired(self.wanted(&name)));
        }
        self.hear();
    }

    pub(super) fn tick_models(&mut self, now_ms: u64) {
        let due = |(name, managed): (&ModelName, &Managed)| {
            managed.tick_ms.is_some_and(|at| now_ms >= at).then(|| name.clone())
        };
        for name in self.run.models.iter().filter_map(due).collect::<Vec<_>>() {
            if let Some(managed) = self.run.models.get_mut(&name) {
                managed.tick_ms = None;
            }
            let health = self.health(&name, now_ms);
            self.give(&name, Event::Tick { health });
        }
        self.hear();
    }

    pub(super) fn models_due_ms(&self) -> Option<u64> {
        self.run.models.values().filter_map(|managed| managed.tick_ms).min()
    }

    /// Gives the machines what their own effects have brought about.
    pub(super) fn hear(&mut self) {
        while let Some((name, event)) = self.run.news.pop_front() {
            self.give(&name, event);
        }
    }

    fn context(&mut self, name: &ModelName) -> Context {
        let settings = self.settings();
        Context {
            now_ms: self.clock.now_ms(),
            trusted_now_ms: self.clock.trusted_ms(),
            floor: self.disk.trust.floor(name),
            probation_ms: u64::from(settings.probation_s) * 1_000,
            probation_error_per_mille: settings.probation_error_per_mille,
            memory_bytes: 64 * limits::MIB as u64,
            temperature_c: 80,
            random: self.rng.random(),
        }
    }

    /// One step of a model's machine.
    pub(super) fn give(&mut self, name: &ModelName, event: Event) {
        let context = self.context(name);
        let Some(managed) = self.run.models.get_mut(name) else { return };
        let (next, effects) = managed.update.step(event, &context);
        managed.update = next;
        for effect in effects {
            self.perform(name, effect);
        }
        self.count(name);
    }

    fn count(&mut self, name: &ModelName) {
        let at_ms = self.present_ms();
        let Some(managed) = self.run.models.get_mut(name) else { return };
        let figures = &self.world.figures;
        let phase = Some(managed.update.phase());
        figures.phase(std::mem::replace(&mut managed.phase, phase), phase);
        let confirmed = managed.update.journal().confirmed.as_ref().map(|confirmed| confirmed.release);
        let before = std::mem::replace(&mut managed.confirmed, confirmed);
        figures.confirmed(self.index, name, before, confirmed, at_ms);
    }

    fn perform(&mut self, name: &ModelName, effect: Effect) {
        let now_ms = self.clock.now_ms();
        let model = name.clone();
        match effect {
            Effect::PersistJournal(journal) => {
                self.disk.models.entry(model).or_default().journal = journal;
            }
            Effect::Cancel => self.cancel_jobs(name),
            Effect::FetchRelease { ticket, slot, release, bytes } => {
                self.run.jobs.push_back(Job::release(model, ticket, slot, release, bytes));
            }
            Effect::FetchFiles { ticket, slot, release } => {
                self.run.jobs.push_back(Job::files(model, ticket, slot, release));
            }
            Effect::VerifyFiles { ticket, slot, release } => {
                self.run.jobs.push_back(Job::verify(model, ticket, slot, release));
            }
            Effect::Probe { ticket, slot, release } => {
                let due_ms = now_ms + self.world.options.probe_ms;
                self.run.jobs.push_back(Job::probe(model, ticket, slot, release, due_ms));
            }
            Effect::ClearSlot { slot } => {
                if let Some(managed) = self.run.models.get_mut(name) {
                    managed.clears += 1;
                }
                self.run.jobs.push_back(Job::clear(model, slot));
            }
            Effect::Activate { ticket, slot, release } => self.activate(name, ticket, slot, release),
            Effect::Deactivate => {
                if let Some(managed) = self.run.models.get_mut(name) {
                    managed.serving = None;
                }
            }
            Effect::Report => self.session(session::Event::ReportChanged),
            Effect::EmitEvent(event) => self.record_event(event),
            Effect::ScheduleTick { at_ms } => {
                if let Some(managed) = self.run.models.get_mut(name) {
                    managed.tick_ms = Some(at_ms);
                }
            }
        }
    }

    fn activate(&mut self, name: &ModelName, ticket: u64, slot: SlotName, release: Digest) {
        let whole = self.filled(name, slot).is_some_and(|filled| filled.release == release);
        let event = if whole {
            let serving = self.serving(release, self.clock.now_ms());
            if let Some(managed) = self.run.models.get_mut(name) {
                managed.serving = Some(serving);
            }
            Event::SwitchDone { ticket }
        } else {
            let detail = format!("slot {} does not hold the release", slot.as_str());
            Event::LoadFailed { ticket, fault: Fault::lasting(ErrorCode::StorageCorrupt, detail) }
        };
        self.run.news.push_back((name.clone(), event));
    }

    /// A slot of a model was cleared; of a model of which nothing is left, nothing is kept.
    pub(super) fn on_cleared(&mut self, name: &ModelName) {
        let Some(managed) = self.run.models.get_mut(name) else { return };
        managed.clears = managed.clears.saturating_sub(1);
        if managed.clears == 0 && managed.update.is_gone() && self.disk.desired.is_some() {
            self.world.figures.phase(managed.phase, None);
            self.run.models.remove(name);
            self.disk.models.remove(name);
            self.session(session::Event::ReportChanged);
        }
    }

    pub(super) fn kept(&mut self, name: &ModelName) -> &mut Kept {
        self.disk.models.entry(name.clone()).or_default()
    }
}

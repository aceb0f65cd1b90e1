//! The models: their update machines, and what these ask for.

use super::{Daemon, Jobs, Managed, News, journals, work};
use crate::folder::Folder;
use crate::intake::{Desk, Subject};
use crate::memory::Holder;
use flotilla_device::session;
use flotilla_device::update::{Context, Effect, Event, Health, Update, UpdateJournal};
use flotilla_protocol::message::EventKind;
use flotilla_protocol::{ErrorCode, ModelName};
use std::time::Duration;

/// A step whose journal could not be written is tried again after so long.
const JOURNAL_RETRY: Duration = Duration::from_secs(5);

impl Daemon {
    /// Starts the machine of every model on the disk; confirmed releases are loaded at once.
    pub(super) fn load_models(&mut self) {
        let names = match journals::models(&self.options.folder) {
            Ok(names) => names,
            Err(error) => {
                // Those that are wanted are found by their names.
                tracing::error!(%error, "the models cannot be listed");
                return;
            }
        };
        for name in names {
            let journal = self.journal(&name);
            self.add(&name, journal);
        }
    }

    /// The journal of a model, as far as there is one.
    pub(super) fn journal(&mut self, name: &ModelName) -> UpdateJournal {
        let desk = self.desk(name);
        let wanted = self.wanted(name).map(|wanted| wanted.release);
        let found = journals::take_up(&desk.folder, name, || {
            let board = desk.board().ok()?;
            let (trust, trusted_ms) = (&desk.trust, desk.clock.trusted_ms());
            Some(journals::recovered(&desk.folder, name, wanted, trust, trusted_ms, &board))
        });
        let (journal, Some(problem)) = found else { return found.0 };
        let found =
            journal.candidate.as_ref().map_or("nothing usable was found", |_| "a whole release was found");
        tracing::warn!(model = %name, %problem, found, "the update journal is damaged");
        let detail = format!("journal of {name}: {problem}; {found} in the slots");
        self.event(EventKind::Repaired, Some(ErrorCode::StorageCorrupt), detail);
        if let Err(error) = journals::store(&self.options.folder, name, &journal) {
            // A later step writes it.
            tracing::warn!(model = %name, %error, "the update journal stays damaged for now");
        }
        journal
    }

    pub(super) fn add(&mut self, name: &ModelName, journal: UpdateJournal) {
        let managed = Managed {
            update: Update::new(name.clone(), journal),
            tick_ms: None,
            jobs: Jobs::default(),
            clears: 0,
        };
        self.models.insert(name.clone(), managed);
        let crashed = self.host.notes().was_at_work(name);
        self.give(name, Event::Started { crashed });
    }

    pub(super) fn tick(&mut self, name: &ModelName) {
        if let Some(managed) = self.models.get_mut(name) {
            managed.tick_ms = None;
        }
        let served = self.host.health(name);
        let vitals = self.sensors.vitals();
        let health = served.map_or(Health::default(), |served| Health {
            predictions: served.predictions,
            failures: served.failures,
            p95_us: served.p95_us,
            vitals,
            unready: None,
        });
        self.give(name, Event::Tick { health });
    }

    fn context(&self, name: &ModelName) -> Context {
        let settings = self.settings();
        Context {
            now_ms: self.clock.now_ms(),
            trusted_now_ms: self.clock.trusted_ms(),
            floor: self.trust.floor(name),
            probation_ms: u64::from(settings.probation_s) * 1_000,
            probation_error_per_mille: settings.probation_error_per_mille,
            memory_bytes: self.options.config.probe_memory_bytes,
            temperature_c: self.options.config.temperature_limit_c,
            random: rand::random(),
        }
    }

    /// One step of a model's machine. If its journal cannot be written the step did not happen, and is tried again
    /// later.
    pub(super) fn give(&mut self, name: &ModelName, event: Event) {
        let event = match event {
            // One that waited for the disk may be overtaken by now.
            Event::Desired(_) => Event::Desired(self.wanted(name)),
            other => other,
        };
        let context = self.context(name);
        let Some(managed) = self.models.get_mut(name) else { return };
        let (next, effects) = managed.update.step(event.clone(), &context);
        if let Some(Effect::PersistJournal(journal)) = effects.first()
            && let Err(error) = journals::store(&self.options.folder, name, journal)
        {
            tracing::error!(model = %name, %error, "the update journal cannot be written");
            let (news, name) = (self.news.clone(), name.clone());
            tokio::spawn(async move {
                tokio::time::sleep(JOURNAL_RETRY).await;
                let _ = news.send(News::Update(Some(name), event)).await;
            });
            return;
        }
        let phase = next.phase();
        if phase != managed.update.phase() {
            tracing::info!(model = %name, phase = phase.as_str(), "update");
        }
        managed.update = next;
        let taken = managed.update.journal().memory_bytes();
        self.shares.set(Holder::Model(name.clone()), taken);
        for effect in effects {
            self.perform(name, effect);
        }
        self.shadow_follows(name);
    }

    fn perform(&mut self, name: &ModelName, effect: Effect) {
        let desk = self.desk(name);
        let Some(managed) = self.models.get_mut(name) else { return };
        let jobs = &mut managed.jobs;
        match effect {
            // Done before the step counted.
            Effect::PersistJournal(_) => {}
            Effect::Cancel => jobs.cancel(),
            Effect::FetchRelease { ticket, slot, release, bytes } => {
                jobs.work(|cancel| desk.fetch_release(cancel, ticket, slot, release, bytes));
            }
            Effect::FetchFiles { ticket, slot, release } => {
                jobs.work(|cancel| desk.fetch_files(cancel, ticket, slot, release));
            }
            Effect::VerifyFiles { ticket, slot, release } => {
                jobs.work(|_| desk.verify_files(ticket, slot, release));
            }
            Effect::Probe { ticket, slot, release } => {
                jobs.work(|cancel| desk.probe(cancel, ticket, slot, release));
            }
            Effect::Activate { ticket, slot, release } => {
                let (model, host) = (name.clone(), self.host.clone());
                jobs.load(ticket, |latest| work::load(desk, model, host, latest, ticket, slot, release));
            }
            Effect::Deactivate => jobs.stop(|| {
                self.host.remove(name);
            }),
            Effect::ClearSlot { slot } => {
                let model = name.clone();
                managed.clears += 1;
                jobs.work(|_| work::clear(desk, model, slot));
            }
            Effect::Report => {
                self.status_stale = true;
                self.session(session::Event::ReportChanged);
            }
            Effect::EmitEvent(event) => self.record_event(event),
            Effect::ScheduleTick { at_ms } => managed.tick_ms = Some(at_ms),
        }
    }

    /// A slot of a model was cleared.
    pub(super) fn on_cleared(&mut self, name: &ModelName) {
        let Some(managed) = self.models.get_mut(name) else { return };
        managed.clears = managed.clears.saturating_sub(1);
        self.remove_if_gone(name);
    }

    /// Removes the folder of a model of which nothing is left, its shadow included.
    pub(super) fn remove_if_gone(&mut self, name: &ModelName) {
        let Some(managed) = self.models.get(name) else { return };
        // What is still to be cleared must not come after the same model's next release.
        let gone = managed.clears == 0 && managed.update.is_gone() && !self.shadows.contains_key(name);
        if !gone || self.desired.is_none() {
            return;
        }
        self.models.remove(name);
        self.shares.set(Holder::Model(name.clone()), 0);
        if let Err(error) = self.options.folder.disk().remove(&Folder::model(name)) {
            tracing::warn!(model = %name, %error, "the folder of a removed model stays behind");
        }
        self.status_stale = true;
        self.session(session::Event::ReportChanged);
    }

    /// What slow work of a model takes with it.
    fn desk(&self, name: &ModelName) -> Desk {
        let (exe, prefix) = (self.options.exe.clone(), self.options.prefix.clone());
        self.desk_of(Subject::Model { name: name.clone(), exe, prefix })
    }

    pub(super) fn desk_of(&self, subject: Subject) -> Desk {
        Desk {
            subject,
            folder: self.options.folder.clone(),
            config: self.options.config.clone(),
            trust: self.trust.clone(),
            clock: self.clock.clone(),
            memory_bytes: self.sensors.memory_bytes(),
            shares: self.shares.clone(),
            fetcher: self.fetcher.clone(),
            probes: self.probes.clone(),
            news: self.news.clone(),
        }
    }
}

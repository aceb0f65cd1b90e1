//! The models: their update machines, and what these ask for.

use super::{Daemon, Jobs, Managed, News, work};
use crate::folder::{Folder, MODELS};
use crate::intake::{Desk, Subject};
use flotilla_device::release::examine;
use flotilla_device::session;
use flotilla_device::update::{Context, Effect, Event, Health, Update, UpdateJournal};
use flotilla_protocol::message::{EventKind, SlotName};
use flotilla_protocol::{ErrorCode, ModelName, limits};
use std::time::Duration;

const JOURNAL: usize = 64 * limits::KIB;
/// A step whose journal could not be written is tried again after so long.
const JOURNAL_RETRY: Duration = Duration::from_secs(5);

impl Daemon {
    /// Starts the machine of every model on the disk; confirmed releases are loaded at once.
    pub(super) fn load_models(&mut self) {
        let names = match self.options.folder.disk().folders(MODELS.as_ref()) {
            Ok(names) => names,
            Err(error) => {
                tracing::error!(%error, "the models cannot be listed");
                return;
            }
        };
        for name in names.iter().filter_map(|name| name.parse::<ModelName>().ok()) {
            let journal = self.journal(&name);
            self.add(&name, journal);
        }
    }

    fn journal(&mut self, name: &ModelName) -> UpdateJournal {
        let read = self.options.folder.disk().read(&Folder::journal(name), JOURNAL);
        let (problem, missing) = match read {
            Ok(None) => ("it is missing".to_owned(), true),
            Ok(Some(bytes)) => match UpdateJournal::from_bytes(&bytes) {
                Ok(journal) => return journal,
                Err(error) => (error.to_string(), false),
            },
            Err(error) => (error.to_string(), false),
        };
        let journal = self.recover(name);
        if missing && journal.is_empty() {
            // A model that comes or goes has nothing in its slots that could be lost.
            return journal;
        }
        let found =
            journal.candidate.as_ref().map_or("nothing usable was found", |_| "a whole release was found");
        tracing::warn!(model = %name, %problem, found, "the update journal is damaged");
        let detail = format!("journal of {name}: {problem}; {found} in the slots");
        self.event(EventKind::Repaired, Some(ErrorCode::StorageCorrupt), detail);
        let rewritten = self.options.folder.disk().replace(&Folder::journal(name), &journal.to_bytes());
        if let Err(error) = rewritten {
            // A later step writes it.
            tracing::warn!(model = %name, %error, "the update journal stays damaged for now");
        }
        journal
    }

    /// Without a journal nobody knows which slot worked. A whole release that passes every check of a new one, the
    /// wanted one first, is taken as a candidate, and has to pass probe and probation again.
    fn recover(&self, name: &ModelName) -> UpdateJournal {
        let desk = self.desk(name);
        let whole = |slot: SlotName| {
            let place = desk.slot(slot);
            let bytes = place.envelope_bytes()?;
            let release = flotilla_protocol::Digest::of(&bytes);
            let board = desk.board().ok()?;
            let manifest =
                examine(&bytes, release, name, &desk.trust, desk.clock.trusted_ms(), &board, |m| {
                    m.total_bytes()
                })
                .ok()?;
            let counter = manifest.counter;
            place.bundle(manifest).ok()?;
            Some((counter, slot, release))
        };
        let best =
            [SlotName::A, SlotName::B].into_iter().filter_map(whole).max_by_key(|(counter, _, release)| {
                let wanted = self.wanted(name).is_some_and(|wanted| wanted.release == *release);
                (wanted, *counter)
            });
        best.map_or_else(UpdateJournal::default, |(counter, slot, release)| {
            UpdateJournal::recovered(slot, release, counter)
        })
    }

    pub(super) fn add(&mut self, name: &ModelName, journal: UpdateJournal) {
        let managed =
            Managed { update: Update::new(name.clone(), journal), tick_ms: None, jobs: Jobs::default() };
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
        if let Some(Effect::PersistJournal(journal)) = effects.first() {
            let stored = self.options.folder.disk().replace(&Folder::journal(name), &journal.to_bytes());
            if let Err(error) = stored {
                tracing::error!(model = %name, %error, "the update journal cannot be written");
                let (news, name) = (self.news.clone(), name.clone());
                tokio::spawn(async move {
                    tokio::time::sleep(JOURNAL_RETRY).await;
                    let _ = news.send(News::Update(Some(name), event)).await;
                });
                return;
            }
        }
        let phase = next.phase();
        if phase != managed.update.phase() {
            tracing::info!(model = %name, phase = phase.as_str(), "update");
        }
        managed.update = next;
        for effect in effects {
            self.perform(name, effect);
        }
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

    /// Removes the folder of a model of which nothing is left.
    pub(super) fn forget_if_gone(&mut self, name: &ModelName) {
        let gone = self.models.get(name).is_some_and(|managed| managed.update.is_gone());
        if !gone || self.desired.is_none() {
            return;
        }
        self.models.remove(name);
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
            fetcher: self.fetcher.clone(),
            probes: self.probes.clone(),
            news: self.news.clone(),
        }
    }
}

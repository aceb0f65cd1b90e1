//! Shadows: their machines, and what these ask for. A shadow follows its model: it runs while that rests, and goes with it.

use super::{Daemon, Jobs, News, journals};
use crate::folder::Folder;
use crate::host::ModelHost;
use crate::intake::{Desk, Subject, blocking};
use crate::memory::Holder;
use crate::shadow::{self, Job};
use flotilla_device::shadow::{Beside, Context, Effect, Event, Shadow, ShadowJournal};
use flotilla_device::{session, update};
use flotilla_protocol::message::{EventKind, ShadowRelease, ShadowReport, SlotName};
use flotilla_protocol::{Digest, ErrorCode, ModelName};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A step whose journal could not be written is tried again after so long.
const JOURNAL_RETRY: Duration = Duration::from_secs(5);
/// A shadow has one place; the machinery that brings releases in asks for a slot.
const PLACE: SlotName = SlotName::A;

/// The shadow of a model.
pub(super) struct Managed {
    machine: Shadow,
    tick_ms: Option<u64>,
    jobs: Jobs,
    /// Clearings of its place that are under way.
    clears: u32,
    running: Option<JoinHandle<()>>,
    stop: CancellationToken,
    /// What its machine last knew of the model.
    model: Standing,
}

/// How a model stands, as far as its shadow is concerned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Standing {
    confirmed: Option<Digest>,
    beside: Option<Beside>,
    coming: Option<Digest>,
}

impl Standing {
    fn of(update: &update::Update) -> Self {
        let beside = |confirmed: &update::Confirmed| Beside {
            release: confirmed.release,
            memory_bytes: confirmed.probe.as_ref().map_or(0, |probe| probe.peak_rss_bytes),
        };
        Self {
            confirmed: update.journal().confirmed.as_ref().map(|confirmed| confirmed.release),
            beside: update.at_rest().map(beside),
            coming: update.coming(),
        }
    }
}

impl Daemon {
    /// Starts the machine of every shadow that is on the disk.
    pub(super) fn load_shadows(&mut self) {
        let names: Vec<ModelName> = self.models.keys().cloned().collect();
        for name in names {
            let disk = self.options.folder.disk();
            let there = |path: &Path| disk.exists(path).unwrap_or(true);
            let place = Folder::model(&name).join("shadow");
            if there(&Folder::shadow_journal(&name)) || there(&place) {
                self.add_shadow(&name);
            }
        }
    }

    fn add_shadow(&mut self, name: &ModelName) {
        let journal = self.shadow_journal(name);
        let managed = Managed {
            machine: Shadow::new(name.clone(), journal),
            tick_ms: None,
            jobs: Jobs::default(),
            clears: 0,
            running: None,
            stop: CancellationToken::new(),
            model: Standing::default(),
        };
        self.shadows.insert(name.clone(), managed);
    }

    /// The journal of a shadow; one that cannot be read costs a new look at what is in the shadow's place.
    fn shadow_journal(&mut self, name: &ModelName) -> ShadowJournal {
        let journal = journals::read_shadow(&self.options.folder, name);
        journal.unwrap_or_else(|problem| {
            let detail = format!("journal of the shadow of {name}: {problem}");
            self.event(EventKind::Repaired, Some(ErrorCode::StorageCorrupt), detail);
            ShadowJournal::default()
        })
    }

    /// The shadow that the accepted document names for a model that it names, too.
    fn wanted_shadow(&self, name: &ModelName) -> Option<ShadowRelease> {
        let desired = self.desired.as_ref()?;
        desired.shadows.get(name).filter(|_| desired.models.contains_key(name)).cloned()
    }

    /// Takes the accepted document for what is wanted.
    pub(super) fn want_shadows(&mut self) {
        let named = self.desired.iter().flat_map(|desired| desired.shadows.keys());
        let names: BTreeSet<ModelName> = named.chain(self.shadows.keys()).cloned().collect();
        for name in names {
            if !self.shadows.contains_key(&name) {
                if self.wanted_shadow(&name).is_none() {
                    continue;
                }
                self.add_shadow(&name);
            }
            self.give_shadow(&name, Event::Desired(None));
        }
    }

    /// A model has taken a step: its shadow hears of it if that matters to it.
    pub(super) fn shadow_follows(&mut self, name: &ModelName) {
        let standing = self.models.get(name).map(|model| Standing::of(&model.update)).unwrap_or_default();
        if self.shadows.get(name).is_some_and(|shadow| shadow.model != standing) {
            self.give_shadow(name, Event::Model);
        }
    }

    /// One step of a shadow's machine. If its journal cannot be written the step did not happen, and is tried again later.
    pub(super) fn give_shadow(&mut self, name: &ModelName, event: Event) {
        let event = match event {
            // One that waited for the disk may be overtaken by now.
            Event::Desired(_) => Event::Desired(self.wanted_shadow(name)),
            other => other,
        };
        let standing = self.models.get(name).map(|model| Standing::of(&model.update)).unwrap_or_default();
        let context = Context {
            now_ms: self.clock.now_ms(),
            trusted_now_ms: self.clock.trusted_ms(),
            floor: self.trust.floor(name),
            confirmed: standing.confirmed,
            beside: standing.beside,
            coming: standing.coming,
            memory_bytes: self.options.config.probe_memory_bytes,
            random: rand::random(),
        };
        let Some(managed) = self.shadows.get_mut(name) else { return };
        managed.model = standing;
        let (next, effects) = managed.machine.step(event.clone(), &context);
        if let Some(Effect::PersistJournal(journal)) = effects.first()
            && let Err(error) = journals::store_shadow(&self.options.folder, name, journal)
        {
            tracing::error!(model = %name, %error, "the journal of a shadow cannot be written");
            let (news, name) = (self.news.clone(), name.clone());
            tokio::spawn(async move {
                tokio::time::sleep(JOURNAL_RETRY).await;
                let _ = news.send(News::Shadow(name, event)).await;
            });
            return;
        }
        let phase = |machine: &Shadow| machine.report().map(|report| report.phase);
        if phase(&next) != phase(&managed.machine) {
            let phase = phase(&next).map(|phase| phase.as_str());
            tracing::info!(model = %name, phase, "shadow");
        }
        managed.machine = next;
        let taken = managed.machine.journal().held.as_ref().map_or(0, |held| held.peak_bytes);
        self.shares.set(Holder::Shadow(name.clone()), taken);
        for effect in effects {
            self.perform_shadow(name, effect);
        }
    }

    fn perform_shadow(&mut self, name: &ModelName, effect: Effect) {
        let (exe, prefix) = (self.options.exe.clone(), self.options.prefix.clone());
        let subject = Subject::Shadow { name: name.clone(), exe: exe.clone(), prefix: prefix.clone() };
        let (desk, host) = (self.desk_of(subject), Arc::clone(&self.host));
        let Some(managed) = self.shadows.get_mut(name) else { return };
        match effect {
            // Done before the step counted.
            Effect::PersistJournal(_) => {}
            Effect::Cancel => managed.jobs.cancel(),
            Effect::FetchRelease { ticket, release, bytes } => {
                managed.jobs.work(|cancel| desk.fetch_release(cancel, ticket, PLACE, release, bytes));
            }
            Effect::FetchFiles { ticket, release } => {
                managed.jobs.work(|cancel| desk.fetch_files(cancel, ticket, PLACE, release));
            }
            Effect::VerifyFiles { ticket, release } => {
                managed.jobs.work(|_| desk.verify_files(ticket, PLACE, release));
            }
            Effect::Probe { ticket, release } => {
                managed.jobs.work(|cancel| desk.probe(cancel, ticket, PLACE, release));
            }
            Effect::Start { ticket, release, against, share_per_mille } => {
                let p95_us = managed.machine.journal().held.as_ref().map_or(0, |held| held.p95_us);
                let model = name.clone();
                let job = Job { model, ticket, release, against, share_per_mille, p95_us, exe, prefix };
                managed.start(desk, host, job);
            }
            Effect::Share { share_per_mille } => host.share_with_shadow(name, share_per_mille),
            Effect::Stop => managed.stop.cancel(),
            Effect::Clear => {
                managed.clears += 1;
                let model = name.clone();
                managed.jobs.work(|_| clear(desk, model));
            }
            Effect::Report => {
                self.status_stale = true;
                self.session(session::Event::ReportChanged);
            }
            Effect::EmitEvent(event) => self.record_event(event),
            Effect::ScheduleTick { at_ms } => managed.tick_ms = Some(at_ms),
        }
    }

    /// The place of a shadow was cleared. Forgets one of which nothing is left, after what it found is told.
    pub(super) fn on_shadow_cleared(&mut self, name: &ModelName) {
        let Some(managed) = self.shadows.get_mut(name) else { return };
        managed.clears = managed.clears.saturating_sub(1);
        if managed.clears > 0 || !managed.machine.is_gone() {
            return;
        }
        self.shadows.remove(name);
        self.shares.set(Holder::Shadow(name.clone()), 0);
        self.sample_now();
        self.host.forget_shadow(name);
        let disk = self.options.folder.disk();
        if let Err(error) = disk.remove(&Folder::shadow_journal(name)) {
            tracing::warn!(model = %name, %error, "the journal of a shadow stays behind");
        }
        self.status_stale = true;
        self.session(session::Event::ReportChanged);
        self.remove_if_gone(name);
    }

    pub(super) fn tick_shadows(&mut self, now_ms: u64) {
        let due = |managed: &mut Managed| managed.tick_ms.take_if(|at_ms| now_ms >= *at_ms).is_some();
        let names: Vec<ModelName> = self
            .shadows
            .iter_mut()
            .filter_map(|(name, managed)| due(managed).then(|| name.clone()))
            .collect();
        for name in names {
            self.give_shadow(&name, Event::Tick);
        }
    }

    pub(super) fn shadows_due_ms(&self) -> Option<u64> {
        self.shadows.values().filter_map(|managed| managed.tick_ms).min()
    }

    pub(super) fn shadow_reports(&self) -> BTreeMap<ModelName, ShadowReport> {
        let report =
            |(name, managed): (&ModelName, &Managed)| Some((name.clone(), managed.machine.report()?));
        self.shadows.iter().filter_map(report).collect()
    }

    pub(super) async fn close_shadows(&mut self) {
        for managed in self.shadows.values_mut() {
            managed.jobs.cancel();
            managed.stop.cancel();
            if let Some(running) = managed.running.take()
                && let Err(error) = running.await
            {
                tracing::error!(%error, "a shadow ended badly");
            }
        }
    }
}

impl Managed {
    /// Starts it, after what ran before it has ended: there is room for one.
    fn start(&mut self, desk: Desk, host: Arc<ModelHost>, job: Job) {
        let (earlier, stop) = (self.running.take(), CancellationToken::new());
        self.stop = stop.clone();
        self.running = Some(tokio::spawn(async move {
            if let Some(Err(error)) = async { Some(earlier?.await) }.await {
                tracing::error!(%error, "a shadow ended badly");
            }
            shadow::run(desk, host, job, stop).await;
        }));
    }
}

async fn clear(desk: Desk, model: ModelName) {
    let place = desk.folder.shadow(&model);
    if let Err(fault) = blocking(move || place.clear()).await {
        tracing::warn!(model = %model, %fault, "the place of a shadow is not cleared");
    }
    let _ = desk.news.send(News::ShadowCleared(model)).await;
}

//! The agent's own release: its update machine, and the handover to the launcher.
//!
//! See [`crate::upgrade`]. The launch journal is written before whatever follows from it, and what is confirmed is
//! written there before it is confirmed in the update journal: a kill in between confirms once more.

use super::{Daemon, Jobs, journals, state};
use crate::folder::{AGENT, AGENT_JOURNAL, Folder};
use crate::launcher::file::LaunchFile;
use crate::upgrade::work::{self, Desk, News};
use flotilla_device::Fault;
use flotilla_device::launch::handover::{self, Handover};
use flotilla_device::launch::{LaunchJournal, Place};
use flotilla_device::session;
use flotilla_device::update::{Context, Effect, Event, Health, Step, Update, UpdateJournal};
use flotilla_protocol::manifest::agent_name;
use flotilla_protocol::message::{
    AgentReport, DesiredModel, EventKind, Failure, ModelReport, Phase, SlotName,
};
use flotilla_protocol::{Digest, ErrorCode, limits};
use std::time::Duration;

const JOURNAL: usize = 64 * limits::KIB;
/// A step whose journal could not be written is tried again after so long.
const JOURNAL_RETRY: Duration = Duration::from_secs(5);
/// A new agent that is not healthy after so long goes back.
const HEALTHY_MS: u64 = 120_000;
/// What a new agent may take beyond that and its probation before the launcher stops it.
const SPARE_MS: u64 = 120_000;
const HEALTH_INTERVAL_MS: u64 = 500;

/// The agent's own release.
pub(super) struct Upgrade {
    place: Place,
    file: LaunchFile,
    launch: LaunchJournal,
    update: Update,
    jobs: Jobs,
    tick_ms: Option<u64>,
    /// The activation that is awaited: an answer to an earlier one is too late.
    activation: u64,
    /// This agent is on trial, and the activation with this ticket waits until it is healthy, until this moment.
    unproven: Option<(u64, u64)>,
    /// The launcher is to start another binary.
    pub(super) leaves: bool,
}

/// Stored files that this build cannot read.
pub(crate) fn unreadable(folder: &Folder) -> Vec<String> {
    let mut damage = state::Damage::new();
    state::Accepted::read(folder, &mut damage);
    state::counter(folder, &crate::clock::Clock::new(0), &mut damage);
    state::commands(folder, &mut damage);
    damage
}

impl Daemon {
    /// Takes up the agent's own release, if the launcher started this agent. Nothing here needs the network.
    pub(super) fn load_upgrade(&mut self) {
        let Some(place) = self.options.launched else { return };
        let file = LaunchFile::new(self.options.folder.clone());
        let (launch, problem) = file.read();
        if let Some(problem) = problem {
            self.event(EventKind::Repaired, Some(ErrorCode::StorageCorrupt), problem);
        }
        let journal = handover::adopt(&launch, place, self.upgrade_journal(&launch));
        let update = Update::of_agent(journal);
        let jobs = Jobs::default();
        tracing::info!(%place, "the launcher started this agent");
        self.upgrade = Some(Upgrade {
            place,
            file,
            launch,
            update,
            jobs,
            tick_ms: None,
            activation: 0,
            unproven: None,
            leaves: false,
        });
        self.tidy_launch_journal();
        self.give_upgrade(Event::Started { crashed: false });
    }

    fn upgrade_journal(&mut self, launch: &LaunchJournal) -> UpdateJournal {
        journals::settle(&self.options.folder, AGENT.as_ref());
        let read = self.options.folder.disk().read(AGENT_JOURNAL.as_ref(), JOURNAL);
        let problem = match read {
            Ok(None) => return handover::recover(launch),
            Ok(Some(bytes)) => match UpdateJournal::from_bytes(&bytes) {
                Ok(journal) => return journal,
                Err(error) => error.to_string(),
            },
            Err(error) => error.to_string(),
        };
        let detail = format!("{AGENT_JOURNAL}: {problem}; taken anew from the launch journal");
        self.event(EventKind::Repaired, Some(ErrorCode::StorageCorrupt), detail);
        handover::recover(launch)
    }

    /// The accepted desired document names this release of the agent.
    pub(super) fn want_agent(&mut self) {
        self.tidy_launch_journal();
        let Some(wanted) = self.wanted_agent() else { return };
        self.give_upgrade(Event::Desired(Some(wanted)));
    }

    fn wanted_agent(&self) -> Option<DesiredModel> {
        self.desired.as_ref()?.agent.clone()
    }

    /// Forgets what was given up and is noted, and a spare below the signed floor.
    fn tidy_launch_journal(&mut self) {
        let Some(upgrade) = &mut self.upgrade else { return };
        let floor = self.trust.floor(&agent_name());
        let forgotten = handover::forget(&upgrade.launch, upgrade.update.journal());
        let tidied = forgotten.as_ref().unwrap_or(&upgrade.launch);
        let next = handover::raise_floor(tidied, floor).or(forgotten);
        if let Some(next) = next {
            // What cannot be written now is tidied up another time.
            upgrade.store(&next);
        }
    }

    /// News of slow work.
    pub(super) fn on_upgrade(&mut self, news: News) {
        match news {
            News::Update(event) => self.give_upgrade(event),
            News::Binary { ticket, result } => self.hand_over(ticket, result),
        }
    }

    /// One step of the machine. If a journal cannot be written the step did not happen, and is tried again later.
    pub(super) fn give_upgrade(&mut self, event: Event) {
        let event = match event {
            // One that waited for the disk may be overtaken by now.
            Event::Desired(_) => Event::Desired(self.wanted_agent()),
            other => other,
        };
        let context = self.upgrade_context();
        let folder = self.options.folder.clone();
        let Some(upgrade) = self.upgrade.as_mut().filter(|upgrade| !upgrade.leaves) else { return };
        let (next, effects) = upgrade.update.step(event.clone(), &context);
        if let Some(Effect::PersistJournal(journal)) = effects.first() {
            let stored = upgrade.confirm(journal)
                && folder
                    .disk()
                    .replace(AGENT_JOURNAL.as_ref(), &journal.to_bytes())
                    .inspect_err(|error| tracing::error!(%error, "the agent's journal cannot be written"))
                    .is_ok();
            if !stored {
                let news = self.upgrade_news.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(JOURNAL_RETRY).await;
                    let _ = news.send(News::Update(event)).await;
                });
                return;
            }
        }
        let phase = next.phase();
        if phase != upgrade.update.phase() {
            tracing::info!(phase = phase.as_str(), "upgrade");
        }
        upgrade.update = next;
        for effect in effects {
            self.perform_upgrade(effect);
        }
        self.tidy_launch_journal();
    }

    fn upgrade_context(&self) -> Context {
        let settings = self.settings();
        Context {
            now_ms: self.clock.now_ms(),
            trusted_now_ms: self.clock.trusted_ms(),
            floor: self.trust.floor(&agent_name()),
            probation_ms: u64::from(settings.probation_s) * 1_000,
            probation_error_per_mille: settings.probation_error_per_mille,
            memory_bytes: self.options.config.probe_memory_bytes,
            temperature_c: self.options.config.temperature_limit_c,
            random: rand::random(),
        }
    }

    fn perform_upgrade(&mut self, effect: Effect) {
        let desk = self.upgrade_desk();
        let Some(upgrade) = self.upgrade.as_mut().filter(|upgrade| !upgrade.leaves) else { return };
        match effect {
            // Done before the step counted. An agent is never removed.
            Effect::PersistJournal(_) | Effect::ClearSlot { .. } => {}
            Effect::Cancel => upgrade.jobs.cancel(),
            Effect::FetchRelease { ticket, slot, release, bytes } => {
                if let Some(next) = handover::refill(&upgrade.launch, slot)
                    && !upgrade.store(&next)
                {
                    let detail = "the launch journal cannot be written";
                    let result = Err(Fault::transient(ErrorCode::StorageIo, detail));
                    return self.give_upgrade(Event::EnvelopeFetched { ticket, result });
                }
                let work = |cancel| work::fetch_release(desk, cancel, ticket, slot, release, bytes);
                upgrade.jobs.work(work);
            }
            Effect::FetchFiles { ticket, slot, release } => {
                upgrade.jobs.work(|cancel| work::fetch_files(desk, cancel, ticket, slot, release));
            }
            Effect::VerifyFiles { ticket, slot, release } => {
                upgrade.jobs.work(|_| work::verify_files(desk, ticket, slot, release));
            }
            Effect::Probe { ticket, slot, release } => {
                upgrade.jobs.work(|cancel| work::probe(desk, cancel, ticket, slot, release));
            }
            Effect::Activate { ticket, slot, release } => self.activate_agent(desk, ticket, slot, release),
            Effect::Deactivate => {
                let (next, leaves) = handover::deactivate(&upgrade.launch, upgrade.place);
                upgrade.leaves = upgrade.store(&next) && leaves;
            }
            Effect::Report => {
                self.status_stale = true;
                self.session(session::Event::ReportChanged);
            }
            Effect::EmitEvent(event) => self.record_event(event),
            Effect::ScheduleTick { at_ms } => upgrade.tick_ms = Some(at_ms),
        }
    }

    fn activate_agent(&mut self, desk: Desk, ticket: u64, slot: SlotName, release: Digest) {
        let Some(upgrade) = &mut self.upgrade else { return };
        let here = upgrade.launch.at(upgrade.place).is_some_and(|binary| binary.release == release);
        (upgrade.unproven, upgrade.activation) = (None, ticket);
        if !here || upgrade.place != Place::Slot(slot) {
            // The launcher will want to know its file.
            return upgrade.jobs.work(|_| work::tell_binary(desk, ticket, slot, release));
        }
        if upgrade.on_trial(release) {
            upgrade.unproven = Some((ticket, self.clock.now_ms() + HEALTHY_MS));
        } else {
            self.give_upgrade(Event::SwitchDone { ticket });
        }
    }

    fn hand_over(&mut self, ticket: u64, binary: Result<flotilla_device::launch::Binary, Fault>) {
        let settings = self.settings();
        let patience_ms = HEALTHY_MS + SPARE_MS + u64::from(settings.probation_s) * 1_000;
        let awaited = |upgrade: &&mut Upgrade| !upgrade.leaves && upgrade.activation == ticket;
        let Some(upgrade) = self.upgrade.as_mut().filter(awaited) else { return };
        let handover = binary.map(|binary| {
            let trial = upgrade.on_trial(binary.release).then_some(patience_ms);
            handover::activate(&upgrade.launch, upgrade.place, binary, trial)
        });
        let fault = match handover {
            Ok(Handover::Here) => return self.give_upgrade(Event::SwitchDone { ticket }),
            Ok(Handover::Switch(next)) if upgrade.store(&next) => {
                tracing::info!("the launcher is asked to start another agent");
                upgrade.leaves = true;
                return;
            }
            Ok(Handover::Switch(_)) => {
                Fault::lasting(ErrorCode::StorageIo, "the launch journal cannot be written")
            }
            Ok(Handover::Refused(fault)) | Err(fault) => fault,
        };
        self.give_upgrade(Event::LoadFailed { ticket, fault });
    }

    /// What is due now.
    pub(super) fn tick_upgrade(&mut self, now_ms: u64) {
        let Some(upgrade) = &mut self.upgrade else { return };
        if upgrade.tick_ms.is_some_and(|at| now_ms >= at) {
            upgrade.tick_ms = None;
            let health = self.health_of_all();
            self.give_upgrade(Event::Tick { health });
        }
        let Some((ticket, due_ms)) = self.upgrade.as_ref().and_then(|upgrade| upgrade.unproven) else {
            return;
        };
        let event = match self.unhealthy() {
            None => Event::SwitchDone { ticket },
            Some(problem) if now_ms >= due_ms => {
                let detail =
                    format!("the new agent is not healthy after {} s: {problem}", HEALTHY_MS / 1_000);
                Event::LoadFailed { ticket, fault: Fault::lasting(ErrorCode::AgentUnhealthy, detail) }
            }
            Some(_) => return,
        };
        if let Some(upgrade) = &mut self.upgrade {
            upgrade.unproven = None;
        }
        self.give_upgrade(event);
    }

    /// When something is due next.
    pub(super) fn upgrade_due_ms(&self) -> Option<u64> {
        let upgrade = self.upgrade.as_ref()?;
        let health = upgrade.unproven.map(|_| self.clock.now_ms() + HEALTH_INTERVAL_MS);
        [upgrade.tick_ms, health].into_iter().flatten().min()
    }

    /// Why this agent cannot be called healthy yet: every confirmed model serves, and there is a session. A cloud that
    /// cannot be reached at all says nothing about this agent; one that refuses it does.
    fn unhealthy(&self) -> Option<String> {
        let silent = self.models.iter().find(|(name, model)| {
            model.update.journal().confirmed.is_some() && self.host.served(name).is_none()
        });
        if let Some((name, _)) = silent {
            return Some(format!("model {name} does not serve"));
        }
        match &self.link_problem {
            _ if self.session.is_up() => None,
            None => Some("there is no session yet".to_owned()),
            Some((ErrorCode::Network | ErrorCode::Timeout, _)) => None,
            Some((code, detail)) => Some(format!("{detail} ({code})")),
        }
    }

    /// How all models do since this agent started.
    fn health_of_all(&self) -> Health {
        let telemetry = self.host.telemetry();
        let sum = |count: fn(&flotilla_protocol::message::ModelTelemetry) -> u64| {
            telemetry.values().map(count).fold(0, u64::saturating_add)
        };
        Health {
            predictions: sum(|model| model.predictions),
            failures: sum(|model| model.failures),
            ..Health::default()
        }
    }

    /// What is reported of the agent itself.
    pub(super) fn agent_report(&self) -> AgentReport {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let Some(upgrade) = &self.upgrade else {
            let failure = self.wanted_agent().map(|wanted| {
                let detail = "this agent was not started by flotilla-launcher, so it cannot be replaced";
                let failure = Failure {
                    release: wanted.release,
                    code: ErrorCode::Unsupported,
                    detail: detail.to_owned(),
                };
                ModelReport {
                    phase: Phase::Failed,
                    attempt: wanted.attempt,
                    failure: Some(failure),
                    ..ModelReport::default()
                }
            });
            return AgentReport { version, slot: None, upgrade: failure.unwrap_or_default() };
        };
        AgentReport { version, slot: upgrade.place.slot(), upgrade: upgrade.update.report() }
    }

    pub(super) fn cancel_upgrade(&mut self) {
        if let Some(upgrade) = &mut self.upgrade {
            upgrade.jobs.cancel();
        }
    }

    fn upgrade_desk(&self) -> Desk {
        Desk {
            folder: self.options.folder.clone(),
            config: self.options.config.clone(),
            trust: self.trust.clone(),
            clock: self.clock.clone(),
            memory_bytes: self.sensors.memory_bytes(),
            fetcher: self.fetcher.clone(),
            probes: self.probes.clone(),
            news: self.upgrade_news.clone(),
        }
    }
}

impl Upgrade {
    fn on_trial(&self, release: Digest) -> bool {
        let candidate = self.update.journal().candidate.as_ref();
        candidate.is_some_and(|c| c.release == release && c.step == Step::Trial)
    }

    /// Writes the launch journal. False if that is not possible now; then nothing has changed.
    fn store(&mut self, next: &LaunchJournal) -> bool {
        match self.file.store(next) {
            Ok(()) => {
                self.launch = next.clone();
                true
            }
            Err(error) => {
                tracing::error!(%error, "the launch journal cannot be written");
                false
            }
        }
    }

    /// Tells the launcher of a release that is about to be confirmed.
    fn confirm(&mut self, journal: &UpdateJournal) -> bool {
        let release = journal.confirmed.as_ref().map(|confirmed| confirmed.release);
        let next = release.and_then(|release| handover::confirm(&self.launch, self.place, release));
        next.is_none_or(|next| self.store(&next))
    }
}

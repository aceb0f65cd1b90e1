//! The agent's own release: its update machine, and the handover to the launcher.
//!
//! See [`crate::upgrade`]. The launch journal is written before whatever follows from it, and what is confirmed is
//! written there before it is confirmed in the update journal: a kill in between confirms once more.

mod health;
mod launch;

pub(super) use launch::settle;

use super::{Daemon, Jobs, News, journals, state};
use crate::folder::{ACCEPTED, AGENT, AGENT_JOURNAL, COMMANDS, COUNTER, Folder};
use crate::intake::{Desk, Subject};
use crate::upgrade;
use flotilla_device::Fault;
use flotilla_device::launch::handover::{self, Handover};
use flotilla_device::launch::{Binary, LaunchJournal, Place, Terms, Trial};
use flotilla_device::session;
use flotilla_device::update::{Context, Effect, Event, Step, Unready, Update, UpdateJournal};
use flotilla_protocol::manifest::agent_name;
use flotilla_protocol::message::{
    AgentReport, DesiredModel, EventKind, EventRecord, Failure, ModelReport, Phase, Settings, SlotName,
};
use flotilla_protocol::{Digest, ErrorCode, limits};
use launch::{JOURNAL_RETRY_MS, Journals};
use std::time::Duration;

const JOURNAL: usize = 64 * limits::KIB;
/// A new agent that is not healthy after so long goes back.
const HEALTHY_MS: u64 = 120_000;
/// What a new agent may take beyond that and its probation before the launcher stops it.
const SPARE_MS: u64 = 180_000;
const HEALTH_INTERVAL_MS: u64 = 500;

/// The agent's own release.
pub(super) struct Upgrade {
    journals: Journals,
    update: Update,
    jobs: Jobs,
    tick_ms: Option<u64>,
    /// The activation that is awaited: an answer to an earlier one is too late.
    activation: u64,
    /// This agent is on trial, and the activation with this ticket waits until it is healthy, until this moment.
    unproven: Option<(u64, u64)>,
}

/// Stored files that this build cannot read, by name, and what is wrong with each.
pub(crate) fn unreadable(folder: &Folder) -> Vec<(&'static str, String)> {
    let clock = crate::clock::Clock::new(0);
    let mut all = Vec::new();
    let mut look = |name, read: &dyn Fn(&mut state::Damage)| {
        let mut damage = state::Damage::new();
        read(&mut damage);
        all.extend(damage.into_iter().map(|problem| (name, problem)));
    };
    look(ACCEPTED, &|damage| _ = state::Accepted::read(folder, damage));
    look(COUNTER, &|damage| _ = state::counter(folder, &clock, damage));
    look(COMMANDS, &|damage| _ = state::commands(folder, damage));
    all
}

impl Daemon {
    /// Whether no agent is on its way in, or on trial.
    pub(super) fn upgrade_rests(&self) -> bool {
        let rests = |phase| matches!(phase, Phase::Idle | Phase::Confirmed | Phase::Failed);
        self.upgrade.as_ref().is_none_or(|upgrade| rests(upgrade.update.phase()))
    }

    /// Takes up the agent's own release, if the launcher started this agent. Nothing here needs the network.
    pub(super) fn load_upgrade(&mut self) {
        let Some(place) = self.options.launched else { return };
        let folder = self.options.folder.clone();
        let (found, problem) = folder.launch_file().read();
        let damaged = problem.is_some();
        if let Some(problem) = problem {
            self.event(EventKind::Repaired, Some(ErrorCode::StorageCorrupt), problem);
        }
        let (journal, noted) = self.upgrade_journal(&found);
        let adopted = handover::adopt(&found, place, journal);
        if let Some((release, fault)) = adopted.gave_way.clone() {
            tracing::warn!(release = %release.short(), %fault, "the agent before this one gave way");
            for kind in [EventKind::Failed, EventKind::Reverted] {
                let (model, code, detail) = (Some(agent_name()), Some(fault.code), fault.detail.clone());
                self.record_event(EventRecord { kind, model, release: Some(release), code, detail });
            }
        }
        tracing::info!(%place, "the launcher started this agent");
        let now_ms = self.clock.now_ms();
        self.upgrade = Some(Upgrade {
            journals: Journals::new(folder, place, &found, damaged, noted, &adopted, now_ms),
            update: Update::of_agent(adopted.update),
            jobs: Jobs::default(),
            tick_ms: None,
            activation: 0,
            unproven: None,
        });
        self.tidy_upgrade();
        self.give_upgrade(Event::Started { crashed: false });
    }

    /// The update journal, and what the disk holds of it.
    fn upgrade_journal(&mut self, launch: &LaunchJournal) -> (UpdateJournal, Option<UpdateJournal>) {
        journals::settle(&self.options.folder, AGENT.as_ref());
        let read = self.options.folder.disk().read(AGENT_JOURNAL.as_ref(), JOURNAL);
        let problem = match read {
            Ok(None) => return (handover::recover(launch), Some(UpdateJournal::default())),
            Ok(Some(bytes)) => match UpdateJournal::from_bytes(&bytes) {
                Ok(journal) => return (journal.clone(), Some(journal)),
                Err(error) => error.to_string(),
            },
            Err(error) => error.to_string(),
        };
        let detail = format!("{AGENT_JOURNAL}: {problem}; taken anew from the launch journal");
        self.event(EventKind::Repaired, Some(ErrorCode::StorageCorrupt), detail);
        (handover::recover(launch), None)
    }

    /// The accepted desired document says what is wanted of the agent: a release, or none.
    pub(super) fn want_agent(&mut self) {
        self.give_upgrade(Event::Desired(self.wanted_agent()));
    }

    fn wanted_agent(&self) -> Option<DesiredModel> {
        self.desired.as_ref()?.agent.clone()
    }

    /// Brings the journals in order; what cannot be written now is another time.
    fn tidy_upgrade(&mut self) {
        let (floor, now_ms) = (self.trust.floor(&agent_name()), self.clock.now_ms());
        if let Some(upgrade) = self.upgrade.as_mut().filter(|upgrade| !upgrade.journals.has_left()) {
            upgrade.journals.tidy(&upgrade.update, floor, now_ms);
        }
    }

    /// Whether the launcher is to start another binary.
    pub(super) fn leaves(&self) -> bool {
        self.upgrade.as_ref().is_some_and(|upgrade| upgrade.journals.has_left())
    }

    /// One step of the machine. If a journal cannot be written the step did not happen, and is tried again later.
    pub(super) fn give_upgrade(&mut self, event: Event) {
        let event = match event {
            // One that waited for the disk may be overtaken by now.
            Event::Desired(_) => Event::Desired(self.wanted_agent()),
            other => other,
        };
        let context = self.upgrade_context();
        let Some(upgrade) = self.upgrade.as_mut().filter(|upgrade| !upgrade.journals.is_leaving()) else {
            return;
        };
        let (next, effects) = upgrade.update.step(event.clone(), &context);
        if let Some(Effect::PersistJournal(journal)) = effects.first()
            && !upgrade.journals.note(journal)
        {
            let news = self.news.clone();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(JOURNAL_RETRY_MS)).await;
                let _ = news.send(News::Update(None, event)).await;
            });
            return;
        }
        let phase = next.phase();
        if phase != upgrade.update.phase() {
            tracing::info!(phase = phase.as_str(), "upgrade");
        }
        upgrade.update = next;
        for effect in effects {
            self.perform_upgrade(effect);
        }
        self.tidy_upgrade();
    }

    fn upgrade_context(&self) -> Context {
        let settings = self.settings();
        let held_to =
            self.upgrade.as_ref().and_then(Upgrade::own_trial).map_or(0, |trial| trial.probation_ms);
        Context {
            now_ms: self.clock.now_ms(),
            trusted_now_ms: self.clock.trusted_ms(),
            floor: self.trust.floor(&agent_name()),
            // The launcher's patience was measured by what was wished at the handover.
            probation_ms: if held_to > 0 { held_to } else { probation_ms(&settings) },
            probation_error_per_mille: settings.probation_error_per_mille,
            memory_bytes: self.options.config.probe_memory_bytes,
            temperature_c: self.options.config.temperature_limit_c,
            random: rand::random(),
        }
    }

    fn perform_upgrade(&mut self, effect: Effect) {
        let desk = self.desk_of(Subject::Agent);
        let Some(upgrade) = self.upgrade.as_mut().filter(|upgrade| !upgrade.journals.is_leaving()) else {
            return;
        };
        match effect {
            // Done before the step counted. An agent is never removed.
            Effect::PersistJournal(_) | Effect::ClearSlot { .. } => {}
            Effect::Cancel => upgrade.jobs.cancel(),
            Effect::FetchRelease { ticket, slot, release, bytes } => match upgrade.free(slot) {
                Ok(()) => {
                    upgrade.jobs.work(|cancel| desk.fetch_release(cancel, ticket, slot, release, bytes));
                }
                Err(fault) => self.give_upgrade(Event::EnvelopeFetched { ticket, result: Err(fault) }),
            },
            Effect::FetchFiles { ticket, slot, release } => {
                upgrade.jobs.work(|cancel| desk.fetch_files(cancel, ticket, slot, release));
            }
            Effect::VerifyFiles { ticket, slot, release } => {
                upgrade.jobs.work(|_| desk.verify_files(ticket, slot, release));
            }
            Effect::Probe { ticket, slot, release } => {
                upgrade.jobs.work(|cancel| desk.probe(cancel, ticket, slot, release));
            }
            Effect::Activate { ticket, slot, release } => self.activate_agent(desk, ticket, slot, release),
            Effect::Deactivate => {
                let journals = &mut upgrade.journals;
                match handover::deactivate(journals.launch(), journals.place) {
                    (next, true) => journals.must_leave(next),
                    (next, false) => _ = journals.store(&next),
                }
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
        (upgrade.unproven, upgrade.activation) = (None, ticket);
        let is = |binary: &&Binary| binary.release == release && binary.slot == slot;
        let (launch, place) = (upgrade.journals.launch(), upgrade.journals.place);
        if place != Place::Slot(slot) || launch.at(place).filter(is).is_none() {
            // The launcher has to know its file, and knows that of the confirmed one.
            return match launch.confirmed.as_ref().filter(is).cloned() {
                Some(binary) => self.hand_over(ticket, Ok(binary)),
                None => upgrade.jobs.work(|_| upgrade::tell_binary(desk, ticket, slot, release)),
            };
        }
        if upgrade.on_trial(release) {
            upgrade.unproven = Some((ticket, self.clock.now_ms() + HEALTHY_MS));
        } else {
            self.give_upgrade(Event::SwitchDone { ticket });
        }
    }

    pub(super) fn hand_over(&mut self, ticket: u64, binary: Result<Binary, Fault>) {
        let probation_ms = probation_ms(&self.settings());
        let terms = Terms {
            patience_ms: HEALTHY_MS + SPARE_MS + probation_ms,
            probation_ms,
            online: self.session.is_up(),
            silent: u32::try_from(self.silent_models().count()).unwrap_or(u32::MAX),
        };
        let now_ms = self.clock.now_ms();
        let awaited = |upgrade: &&mut Upgrade| !upgrade.journals.is_leaving() && upgrade.activation == ticket;
        let Some(upgrade) = self.upgrade.as_mut().filter(awaited) else { return };
        let journals = &mut upgrade.journals;
        let handover = binary.map(|binary| {
            let trial = on_trial(&upgrade.update, binary.release).then_some(terms);
            handover::activate(journals.launch(), journals.place, binary, trial, journals.up_ms(now_ms))
        });
        let fault = match handover {
            Ok(Handover::Here) => return self.give_upgrade(Event::SwitchDone { ticket }),
            Ok(Handover::Switch(next)) if journals.leave(&next) => {
                return tracing::info!("the launcher is asked to start another agent");
            }
            Ok(Handover::Switch(_)) => {
                Fault::transient(ErrorCode::StorageIo, "the launch journal cannot be written")
            }
            Ok(Handover::Refused(fault)) | Err(fault) => fault,
        };
        self.give_upgrade(Event::LoadFailed { ticket, fault });
    }

    /// What is due now.
    pub(super) fn tick_upgrade(&mut self, now_ms: u64) {
        let Some(upgrade) = &mut self.upgrade else { return };
        if upgrade.journals.due_ms().is_some_and(|at| now_ms >= at) {
            self.tidy_upgrade();
        }
        let Some(upgrade) = &mut self.upgrade else { return };
        if upgrade.tick_ms.is_some_and(|at| now_ms >= at) {
            upgrade.tick_ms = None;
            let health = self.health_of_all();
            self.give_upgrade(Event::Tick { health });
        }
        let Some((ticket, due_ms)) = self.upgrade.as_ref().and_then(|upgrade| upgrade.unproven) else {
            return;
        };
        let event = match self.unready() {
            None => Event::SwitchDone { ticket },
            Some((why, problem)) if now_ms >= due_ms => {
                let detail =
                    format!("the new agent is not healthy after {} s: {problem}", HEALTHY_MS / 1_000);
                let fault = Fault::lasting(ErrorCode::AgentUnhealthy, detail);
                Event::LoadFailed { ticket, fault: Fault { transient: why == Unready::Offline, ..fault } }
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
        [upgrade.tick_ms, health, upgrade.journals.due_ms()].into_iter().flatten().min()
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
        AgentReport { version, slot: upgrade.journals.place.slot(), upgrade: upgrade.update.report() }
    }

    pub(super) fn cancel_upgrade(&mut self) {
        if let Some(upgrade) = &mut self.upgrade {
            upgrade.jobs.cancel();
        }
    }
}

impl Upgrade {
    fn on_trial(&self, release: Digest) -> bool {
        on_trial(&self.update, release)
    }

    /// The trial of this agent itself.
    fn own_trial(&self) -> Option<&Trial> {
        let here = |trial: &&Trial| self.journals.place == Place::Slot(trial.binary.slot);
        self.journals.launch().candidate.as_ref().filter(here)
    }

    /// What the launcher knows in this slot is not to be started any more: it is filled anew.
    fn free(&mut self, slot: SlotName) -> Result<(), Fault> {
        let journals = &mut self.journals;
        match handover::refill(journals.launch(), journals.place, slot)? {
            Some(next) if !journals.store(&next) => {
                Err(Fault::transient(ErrorCode::StorageIo, "the launch journal cannot be written"))
            }
            _ => Ok(()),
        }
    }
}

fn on_trial(update: &Update, release: Digest) -> bool {
    let candidate = update.journal().candidate.as_ref();
    candidate.is_some_and(|c| c.release == release && c.step == Step::Trial)
}

fn probation_ms(settings: &Settings) -> u64 {
    u64::from(settings.probation_s) * 1_000
}

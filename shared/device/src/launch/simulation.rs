//! Launcher and agent on a virtual device that is killed at every point.
//!
//! Both machines, the agent's update machine and the launcher's, run against one virtual disk through random sequences
//! of wanted agent releases, good and bad. After any effect the agent alone or the whole device may die, and the
//! journal write under way then is on the disk or is not. At the end, once the kills stop, the device must run a good
//! agent: the wanted one, or another one with a typed reason.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use super::handover::{self, Handover};
use super::*;
use crate::fault::Fault;
use crate::update::{self, Context, Health, ReleaseFacts, Update, UpdateJournal};
use flotilla_protocol::message::{DesiredModel, Phase, ProbeReport, SlotName};
use flotilla_protocol::{Digest, ErrorCode};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

const RELEASES: u8 = 9;
const PATIENCE: u64 = 90_000;
const PROBATION: u64 = 5_000;

/// `FLOTILLA_LAUNCH_SEEDS` takes more.
fn seeds() -> u64 {
    std::env::var("FLOTILLA_LAUNCH_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(2_000)
}

/// How an agent release behaves; fixed a release.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Nature {
    Good,
    FailsSelfTest,
    NoProgram,
    CrashesAtStart,
    CrashesOnProbation,
    Hangs,
    Unhealthy,
    EndsWithSwitch,
}

fn nature(index: u8) -> Nature {
    use Nature::*;
    [
        Good,
        Good,
        FailsSelfTest,
        NoProgram,
        CrashesAtStart,
        CrashesOnProbation,
        Hangs,
        Unhealthy,
        EndsWithSwitch,
    ][usize::from(index)]
}

fn digest(index: u8) -> Digest {
    Digest::of(&[index])
}

fn index_of(release: Digest) -> u8 {
    (0..RELEASES).find(|index| digest(*index) == release).unwrap()
}

fn binary(slot: SlotName, release: Digest) -> Binary {
    let index = index_of(release);
    let counter = u64::from(index) + 1;
    Binary { slot, release, counter, version: index.to_string(), file: "a".into(), bytes: 1, crc: 1 }
}

#[derive(Clone, Copy)]
enum Kills {
    Random { one_in: u32, left: u32 },
    Once { after: u32, whole_device: bool, kept: bool },
    Never,
}

/// A process died, or the whole device, or the agent ended to be replaced.
enum Died {
    Agent,
    Device,
    Switch,
}

struct Agent {
    place: Place,
    nature: Nature,
    update: Update,
    open: Vec<update::Effect>,
    tick_ms: Option<u64>,
    booted: bool,
    asked_to_stop: bool,
}

struct Device {
    rng: SmallRng,
    kills: Kills,
    label: String,
    // On the disk.
    launch: Vec<u8>,
    update: Vec<u8>,
    slots: [Option<(u8, bool)>; 2],
    desired: Option<DesiredModel>,
    // Processes.
    launcher: Launcher,
    launcher_tick: Option<u64>,
    agent: Option<Agent>,
    now_ms: u64,
    // What the test remembers.
    effects: u32,
    killed: u32,
    /// Starts of the candidate since it was handed over.
    trial_starts: u32,
    failures: Vec<ErrorCode>,
}

impl Device {
    fn new(seed: u64, kills: Kills, label: String) -> Self {
        Self {
            rng: SmallRng::seed_from_u64(seed),
            kills,
            label,
            launch: LaunchJournal::default().to_bytes(),
            update: UpdateJournal::default().to_bytes(),
            slots: [None; 2],
            desired: None,
            launcher: Launcher::default(),
            launcher_tick: None,
            agent: None,
            now_ms: 0,
            effects: 0,
            killed: 0,
            trial_starts: 0,
            failures: Vec::new(),
        }
    }

    fn launch(&self) -> LaunchJournal {
        LaunchJournal::from_bytes(&self.launch).unwrap_or_else(|e| panic!("{}: {e}", self.label))
    }

    fn update(&self) -> UpdateJournal {
        UpdateJournal::from_bytes(&self.update).unwrap_or_else(|e| panic!("{}: {e}", self.label))
    }

    fn content(&self, slot: SlotName) -> Option<(u8, bool)> {
        self.slots[usize::from(slot == SlotName::B)]
    }

    fn slot(&mut self, slot: SlotName) -> &mut Option<(u8, bool)> {
        &mut self.slots[usize::from(slot == SlotName::B)]
    }

    /// Counts an effect; who dies at it, if anybody, and whether a write under way is kept.
    fn strike(&mut self) -> (bool, Option<Died>) {
        self.effects += 1;
        match &mut self.kills {
            Kills::Random { one_in, left } if *left > 0 && self.rng.random_ratio(1, *one_in) => {
                *left -= 1;
                let who = if self.rng.random() { Died::Device } else { Died::Agent };
                (self.rng.random(), Some(who))
            }
            Kills::Once { after, whole_device, kept } if *after == self.effects => {
                (*kept, Some(if *whole_device { Died::Device } else { Died::Agent }))
            }
            _ => (true, None),
        }
    }

    /// A durable write, under which somebody may die.
    fn write_launch(&mut self, journal: &LaunchJournal) -> Result<(), Died> {
        let (kept, died) = self.strike();
        if kept {
            let before = self.launch();
            let handed_over = journal.candidate.as_ref().map(|t| t.binary.release);
            if handed_over != before.candidate.map(|t| t.binary.release) {
                self.trial_starts = 0;
            }
            self.launch = journal.to_bytes();
            self.check();
        }
        died.map_or(Ok(()), Err)
    }

    /// What is confirmed, and what is kept in case it does not start, is whole and good.
    fn check(&self) {
        let launch = self.launch();
        for binary in [&launch.confirmed, &launch.spare].into_iter().flatten() {
            let index = index_of(binary.release);
            assert_eq!(self.content(binary.slot), Some((index, true)), "{}: {launch:?}", self.label);
            assert_eq!(nature(index), Nature::Good, "{}: {launch:?}", self.label);
        }
    }

    // === the launcher ===

    fn boot(&mut self) {
        self.agent = None;
        (self.launcher, self.launcher_tick) = (Launcher::default(), None);
        self.launcher_event(Event::Started(self.launch()));
    }

    fn launcher_event(&mut self, event: Event) {
        let (next, effects) = self.launcher.step(event, self.now_ms, self.rng.random());
        self.launcher = next;
        let mut answer = None;
        for effect in effects {
            match self.perform_launch(effect) {
                Ok(event) => answer = event.or(answer),
                Err(died) => return self.bury(died),
            }
        }
        if let Some(event) = answer {
            self.launcher_event(event);
        }
    }

    fn bury(&mut self, died: Died) {
        self.killed += u32::from(!matches!(died, Died::Switch));
        match died {
            Died::Switch => {
                self.agent = None;
                self.launcher_event(Event::Exited(Exit::Code(EXIT_SWITCH.into()), self.launch()));
            }
            // A launcher that dies takes its agent with it: the agent's standard input ends.
            Died::Device => self.boot(),
            Died::Agent => {
                if self.agent.take().is_some() {
                    self.launcher_event(Event::Exited(Exit::Signal(9), self.launch()));
                } else {
                    self.boot();
                }
            }
        }
    }

    fn perform_launch(&mut self, effect: Effect) -> Result<Option<Event>, Died> {
        match effect {
            Effect::Persist(journal) => self.write_launch(&journal).map(|()| None),
            Effect::Run(place, binary) => {
                assert!(self.agent.is_none(), "{}: two agents", self.label);
                let (_, died) = self.strike();
                if let Some(died) = died {
                    return Err(died);
                }
                Ok(self.run(place, binary))
            }
            Effect::Ask => {
                let agent = self.agent.as_mut().unwrap();
                agent.asked_to_stop = true;
                Ok(None)
            }
            Effect::Kill => {
                self.agent = None;
                Ok(Some(Event::Exited(Exit::Signal(9), self.launch())))
            }
            Effect::ScheduleTick(at_ms) => {
                self.launcher_tick = Some(at_ms);
                Ok(None)
            }
            Effect::Log(_) => Ok(None),
            Effect::Finish => panic!("{}: nobody stopped it", self.label),
        }
    }

    fn run(&mut self, place: Place, binary: Option<Binary>) -> Option<Event> {
        let index = match &binary {
            None => 0,
            Some(binary) => {
                let index = index_of(binary.release);
                assert_eq!(self.content(binary.slot), Some((index, true)), "{}: not whole", self.label);
                index
            }
        };
        let trial = self.launch().candidate.filter(|trial| Some(&trial.binary) == binary.as_ref());
        if let Some(trial) = trial {
            self.trial_starts += 1;
            assert!(trial.starts >= 1 && self.trial_starts <= TRIAL_STARTS, "{}: too many", self.label);
        }
        match nature(index) {
            Nature::NoProgram => {
                return Some(Event::NotRunning { unusable: true, detail: "no program".into() });
            }
            Nature::CrashesAtStart => return Some(Event::Exited(Exit::Code(101), self.launch())),
            Nature::EndsWithSwitch => {
                return Some(Event::Exited(Exit::Code(EXIT_SWITCH.into()), self.launch()));
            }
            _ => {}
        }
        let journal = handover::adopt(&self.launch(), place, self.update());
        let update = Update::of_agent(journal);
        let (open, tick_ms, nature) = (Vec::new(), None, nature(index));
        let (booted, asked_to_stop) = (false, false);
        self.agent = Some(Agent { place, nature, update, open, tick_ms, booted, asked_to_stop });
        Some(Event::Running)
    }

    // === the agent ===

    /// The agent's first steps.
    fn agent_boot(&mut self) -> Result<(), Died> {
        if let Some(journal) = handover::forget(&self.launch(), &self.update()) {
            self.write_launch(&journal)?;
        }
        self.agent_step(update::Event::Started { crashed: false })?;
        match self.desired.clone() {
            Some(desired) => self.agent_step(update::Event::Desired(Some(desired))),
            None => Ok(()),
        }
    }

    fn agent_step(&mut self, event: update::Event) -> Result<(), Died> {
        let ctx = Context {
            now_ms: self.now_ms,
            trusted_now_ms: 1,
            floor: 0,
            probation_ms: PROBATION,
            probation_error_per_mille: 50,
            memory_bytes: 1_000,
            temperature_c: 90,
            random: self.rng.random(),
        };
        let Some(agent) = &mut self.agent else { return Ok(()) };
        let (next, effects) = agent.update.step(event, &ctx);
        let place = agent.place;
        if let Some(update::Effect::PersistJournal(journal)) = effects.first() {
            let confirmed = journal.confirmed.as_ref().map(|confirmed| confirmed.release);
            let launch = self.launch();
            if let Some(launch) = confirmed.and_then(|release| handover::confirm(&launch, place, release)) {
                self.write_launch(&launch)?;
            }
        }
        if let Some(agent) = &mut self.agent {
            agent.update = next;
        }
        for effect in effects {
            self.perform_update(effect)?;
        }
        if self.agent.is_some()
            && let Some(journal) = handover::forget(&self.launch(), &self.update())
        {
            self.write_launch(&journal)?;
        }
        Ok(())
    }

    fn perform_update(&mut self, effect: update::Effect) -> Result<(), Died> {
        use update::Effect as Of;
        let Some(place) = self.agent.as_ref().map(|agent| agent.place) else { return Ok(()) };
        match effect {
            Of::PersistJournal(journal) => {
                let (kept, died) = self.strike();
                if kept {
                    self.update = journal.to_bytes();
                }
                died.map_or(Ok(()), Err)
            }
            Of::FetchRelease { slot, release, .. } => {
                if let Some(journal) = handover::refill(&self.launch(), slot) {
                    self.write_launch(&journal)?;
                }
                let named = self.launch().confirmed.is_some_and(|confirmed| confirmed.slot == slot);
                assert!(!named, "{}: the confirmed slot is written to", self.label);
                let index = index_of(release);
                if self.slot(slot).is_none_or(|(there, _)| there != index) {
                    *self.slot(slot) = Some((index, false));
                }
                self.open(effect)
            }
            Of::FetchFiles { .. } | Of::VerifyFiles { .. } | Of::Probe { .. } => self.open(effect),
            Of::Activate { ticket, slot, release } => {
                let trial = self.agent.as_ref().is_some_and(|agent| {
                    let candidate = agent.update.journal().candidate.as_ref();
                    candidate.is_some_and(|c| c.release == release && c.step == update::Step::Trial)
                });
                let patience = trial.then_some(PATIENCE);
                let launch = self.launch();
                match handover::activate(&launch, place, binary(slot, release), patience) {
                    Handover::Here => {
                        let effect = Of::Activate { ticket, slot, release };
                        self.open(effect)
                    }
                    Handover::Refused(fault) => {
                        if trial {
                            self.failures.push(fault.code);
                        }
                        self.agent_step(update::Event::LoadFailed { ticket, fault })
                    }
                    Handover::Switch(journal) => {
                        self.write_launch(&journal)?;
                        Err(Died::Switch)
                    }
                }
            }
            Of::Deactivate => {
                let (journal, exit) = handover::deactivate(&self.launch(), place);
                self.write_launch(&journal)?;
                if exit { Err(Died::Switch) } else { Ok(()) }
            }
            Of::Cancel => {
                let agent = self.agent.as_mut().unwrap();
                agent.open.retain(|e| matches!(e, Of::Activate { .. }));
                Ok(())
            }
            Of::ScheduleTick { at_ms } => {
                self.agent.as_mut().unwrap().tick_ms = Some(at_ms);
                Ok(())
            }
            Of::ClearSlot { .. } => panic!("{}: an agent is never removed", self.label),
            Of::Report | Of::EmitEvent(_) => Ok(()),
        }
    }

    fn open(&mut self, effect: update::Effect) -> Result<(), Died> {
        let (_, died) = self.strike();
        self.agent.as_mut().unwrap().open.push(effect);
        died.map_or(Ok(()), Err)
    }

    fn answer(&mut self, nature_here: Nature, effect: update::Effect) -> update::Event {
        use update::Effect as Of;
        use update::Event as To;
        match effect {
            Of::FetchRelease { ticket, .. } => {
                let facts = ReleaseFacts {
                    counter: 1,
                    expires_at_ms: None,
                    total_bytes: 1,
                    promise: update::Promise::default(),
                };
                To::EnvelopeFetched { ticket, result: Ok(facts) }
            }
            Of::FetchFiles { ticket, .. } => To::FilesComplete { ticket, result: Ok(()) },
            Of::VerifyFiles { ticket, slot, release } => {
                *self.slot(slot) = Some((index_of(release), true));
                To::FilesVerified { ticket, result: Ok(()) }
            }
            Of::Probe { ticket, release, .. } => {
                let fails = nature(index_of(release)) == Nature::FailsSelfTest;
                let fault = || Fault::lasting(ErrorCode::ProbeMismatch, "self-test");
                let (p50_ms, p95_ms) = (1.0, 1.0);
                let report =
                    ProbeReport { vectors: 1, max_abs_error: 0.0, p50_ms, p95_ms, peak_rss_bytes: 1 };
                To::ProbeDone { ticket, result: if fails { Err(fault()) } else { Ok(report) } }
            }
            // Here: the shell waits until the agent is healthy.
            Of::Activate { ticket, .. } if nature_here == Nature::Unhealthy => {
                let fault = Fault::lasting(ErrorCode::AgentUnhealthy, "no session");
                To::LoadFailed { ticket, fault }
            }
            Of::Activate { ticket, .. } => To::SwitchDone { ticket },
            other => panic!("{}: {other:?} has no answer", self.label),
        }
    }

    /// Whatever comes next. False if nothing does.
    fn turn(&mut self) -> bool {
        let result = match &mut self.agent {
            Some(agent) if agent.nature != Nature::Hangs && agent.asked_to_stop => {
                self.agent = None;
                self.launcher_event(Event::Exited(Exit::Code(0), self.launch()));
                Ok(())
            }
            Some(agent) if agent.nature != Nature::Hangs && !agent.booted => {
                agent.booted = true;
                self.agent_boot()
            }
            Some(agent) if agent.nature != Nature::Hangs && !agent.open.is_empty() => {
                let at = self.rng.random_range(0..agent.open.len());
                let (effect, nature) = (agent.open.remove(at), agent.nature);
                let event = self.answer(nature, effect);
                self.agent_step(event)
            }
            _ => return self.time_passes(),
        };
        if let Err(died) = result {
            self.bury(died);
        }
        true
    }

    fn time_passes(&mut self) -> bool {
        let alive = self.agent.as_ref().filter(|agent| agent.nature != Nature::Hangs);
        let agent_tick = alive.and_then(|agent| agent.tick_ms);
        let Some(due) = [agent_tick, self.launcher_tick].into_iter().flatten().min() else { return false };
        self.now_ms = self.now_ms.max(due);
        if agent_tick == Some(due) {
            let agent = self.agent.as_mut().unwrap();
            agent.tick_ms = None;
            if agent.nature == Nature::CrashesOnProbation && agent.update.in_probation() {
                self.agent = None;
                self.launcher_event(Event::Exited(Exit::Signal(11), self.launch()));
            } else if let Err(died) = self.agent_step(update::Event::Tick { health: Health::default() }) {
                self.bury(died);
            }
        } else {
            self.launcher_tick = None;
            self.launcher_event(Event::Tick(self.launch()));
        }
        true
    }

    /// Lets things happen until they rest, or so many times.
    fn go(&mut self, turns: u32) -> bool {
        (0..turns).any(|_| !self.turn())
    }

    fn settle(&mut self) {
        assert!(self.go(5_000), "{}: does not come to rest: {:?}", self.label, self.launch());
    }

    fn want(&mut self, index: u8, attempt: u32) {
        let desired = DesiredModel { release: digest(index), envelope_bytes: 1, attempt };
        self.desired = Some(desired.clone());
        if self.agent.as_ref().is_some_and(|agent| agent.booted)
            && let Err(died) = self.agent_step(update::Event::Desired(Some(desired)))
        {
            self.bury(died);
        }
    }

    /// A good agent runs: the wanted one, or another one that says why not.
    fn check_converged(&mut self, wanted: u8) {
        let agent = self.agent.as_ref().unwrap_or_else(|| panic!("{}: no agent runs", self.label));
        assert_eq!(agent.nature, Nature::Good, "{}: {:?}", self.label, self.launch());
        let report = agent.update.report();
        let runs = self.launch().at(agent.place).map(|binary| binary.release);
        assert_eq!(runs, report.confirmed, "{}: {:?}", self.label, self.launch());
        match report.phase {
            Phase::Confirmed => assert_eq!(runs, Some(digest(wanted)), "{}", self.label),
            Phase::Failed => {
                assert_eq!(report.failure.map(|f| f.release), Some(digest(wanted)), "{}", self.label);
                assert!(
                    nature(wanted) != Nature::Good || self.killed > 0,
                    "{}: a good agent was refused",
                    self.label
                );
            }
            phase => panic!("{}: rests in {phase:?}", self.label),
        }
        assert_eq!(self.launch().candidate, None, "{}", self.label);
        assert_eq!(self.launch().given_up, None, "{}", self.label);
    }
}

#[test]
fn a_device_whose_agent_is_upgraded_under_kills_always_runs_one_that_works() {
    let (mut killed, mut refused) = (0, Vec::new());
    for seed in 0..seeds() {
        let one_in = [3, 8, 20][seed as usize % 3];
        let kills = Kills::Random { one_in, left: 30 };
        let mut device = Device::new(seed, kills, format!("seed {seed}"));
        device.boot();
        for attempt in 1..device.rng.random_range(2..6) {
            let index = device.rng.random_range(0..RELEASES);
            device.want(index, attempt);
            let turns = device.rng.random_range(0..60);
            device.go(turns);
            if device.rng.random_ratio(1, 4) {
                device.kills = Kills::Never;
                device.settle();
                device.check_converged(index);
                device.kills = Kills::Random { one_in, left: 30 };
            }
        }
        killed += device.killed;
        device.kills = Kills::Never;
        device.settle();
        let wanted = index_of(device.desired.as_ref().unwrap().release);
        device.check_converged(wanted);
        refused.append(&mut device.failures);
        // An operator can always bring a good release out.
        device.killed = 0;
        device.want(1, 1_000);
        device.settle();
        device.check_converged(1);
        let runs = device.launch().confirmed.map(|binary| binary.release);
        assert_eq!(runs, Some(digest(1)), "seed {seed}");
    }
    let of = |code| refused.iter().filter(|refused| **refused == code).count();
    println!(
        "agent upgrades: {} seeds, {killed} kills, 0 bricked, 0 wrong version; given up {} crashed, {} late, {} unusable",
        seeds(),
        of(ErrorCode::AgentCrashed),
        of(ErrorCode::AgentUnhealthy),
        of(ErrorCode::StorageCorrupt)
    );
    assert!(killed > 10_000, "only {killed} kills: the simulation does not test what it says");
    for code in [ErrorCode::AgentCrashed, ErrorCode::AgentUnhealthy, ErrorCode::StorageCorrupt] {
        assert!(of(code) > 100, "{code} is hardly met: the simulation does not test what it says");
    }
}

/// One kill, at each single effect of a whole upgrade: of the agent, of the device, with the write under way kept and
/// lost.
#[test]
fn one_kill_at_any_single_point_of_an_agent_upgrade_is_healed() {
    let mut all = 0;
    for target in 1..RELEASES {
        let mut points = 0;
        for after in 1.. {
            for (whole_device, kept) in [(false, false), (false, true), (true, false), (true, true)] {
                let label = format!("to {target}, after {after}, device {whole_device}, kept {kept}");
                let mut device = Device::new(7, Kills::Never, label);
                device.boot();
                device.want(0, 1);
                device.settle();
                device.check_converged(0);
                device.effects = 0;
                device.kills = Kills::Once { after, whole_device, kept };
                device.want(target, 2);
                device.settle();
                device.check_converged(target);
                let expected = if nature(target) == Nature::Good { target } else { 0 };
                let runs = device.launch().confirmed.map(|binary| binary.release);
                assert_eq!(runs, Some(digest(expected)), "{}", device.label);
                points = device.effects;
                all += device.killed;
            }
            if after >= points {
                break;
            }
        }
        assert!(points >= 6, "an upgrade to {target} has {points} effects only");
    }
    println!("agent upgrades: {all} single kills, 0 bricked, 0 wrong version");
}

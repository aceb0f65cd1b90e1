//! Launcher and agent on a virtual device that is killed at every point.
//!
//! Both machines, the agent's update machine and the launcher's, run against one virtual disk through random sequences
//! of wanted agent releases, good and bad. After any effect the agent alone or the whole device may die, and the
//! journal write under way then is on the disk or is not; and the disk may be full for a moment. At the end, once all that
//! stops, the device must run a good agent: the wanted one, or another one with a typed reason.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod agent;
mod launcher;

use super::handover::{self, Handover};
use super::*;
use crate::fault::Fault;
use crate::update::{self, Context, Health, ReleaseFacts, Update, UpdateJournal};
use flotilla_protocol::message::{DesiredModel, Phase, ProbeReport, SlotName};
use flotilla_protocol::{Digest, ErrorCode};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

const RELEASES: u8 = 10;
const PROBATION: u64 = 5_000;
const TERMS: Terms = Terms { patience_ms: 90_000, probation_ms: PROBATION, online: true, silent: 0 };
/// A step that could not be stored is tried again after so long.
const RETRY: u64 = 5_000;

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
    CrashesOnceConfirmed,
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
        CrashesOnceConfirmed,
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
    Random {
        one_in: u32,
        left: u32,
    },
    Once {
        after: u32,
        whole_device: bool,
        kept: bool,
    },
    /// Nobody dies, but one in so many writes fails.
    FullDisk {
        one_in: u32,
        left: u32,
    },
    Never,
}

/// What happens by itself when its time has come.
enum Due {
    Launcher,
    Tick,
    Retry,
    Tidy,
    Settle,
    Crash,
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
    since_ms: u64,
    /// What the launch journal is to hold, and whether the disk does not yet.
    launch: LaunchJournal,
    behind: bool,
    leaves: bool,
    /// What the disk holds of the update machine, as far as this agent knows.
    stored: UpdateJournal,
    /// Steps that wait for the disk.
    retries: Vec<(u64, update::Event)>,
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
    /// The accepted desired document, once there is one.
    desired: Option<Option<DesiredModel>>,
    // Processes.
    launcher: Launcher,
    launcher_tick: Option<u64>,
    agent: Option<Agent>,
    now_ms: u64,
    // What the test remembers.
    effects: u32,
    killed: u32,
    /// Writes that found no room.
    full: u32,
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
            full: 0,
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

    /// Whether a write finds no room.
    fn disk_is_full(&mut self) -> bool {
        let (Kills::Random { one_in, left } | Kills::FullDisk { one_in, left }) = &mut self.kills else {
            return false;
        };
        let full = *left > 0 && self.rng.random_ratio(1, 2 * *one_in);
        *left -= u32::from(full);
        self.full += u32::from(full);
        full
    }

    /// A durable write, under which somebody may die. False if the disk is full.
    fn write_launch(&mut self, journal: &LaunchJournal) -> Result<bool, Died> {
        if self.disk_is_full() {
            return Ok(false);
        }
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
        died.map_or(Ok(true), Err)
    }

    /// What is confirmed, and what is kept in case it does not start, is whole and good.
    fn check(&self) {
        let launch = self.launch();
        for binary in [&launch.confirmed, &launch.spare].into_iter().flatten() {
            let index = index_of(binary.release);
            assert_eq!(self.content(binary.slot), Some((index, true)), "{}: {launch:?}", self.label);
            let nature = nature(index);
            assert!(
                matches!(nature, Nature::Good | Nature::CrashesOnceConfirmed),
                "{}: {launch:?}",
                self.label
            );
        }
    }

    /// Lets things happen until they rest, or so many times.
    fn go(&mut self, turns: u32) -> bool {
        (0..turns).any(|_| !self.turn())
    }

    fn settle(&mut self) {
        assert!(self.go(5_000), "{}: does not come to rest: {:?}", self.label, self.launch());
    }

    fn want(&mut self, index: u8, attempt: u32) {
        self.accept(Some(DesiredModel { release: digest(index), envelope_bytes: 1, attempt }));
    }

    fn accept(&mut self, desired: Option<DesiredModel>) {
        self.desired = Some(desired.clone());
        if self.agent.as_ref().is_some_and(|agent| agent.booted)
            && let Err(died) = self.agent_step(update::Event::Desired(desired))
        {
            self.bury(died);
        }
    }

    /// A good agent runs, and both journals say so.
    fn check_rest(&mut self) {
        let agent = self.agent.as_ref().unwrap_or_else(|| panic!("{}: no agent runs", self.label));
        assert_eq!(agent.nature, Nature::Good, "{}: {:?}", self.label, self.launch());
        let report = agent.update.report();
        let place = agent.place;
        let runs = self.launch().at(place).map(|binary| binary.release);
        assert_eq!(runs, report.confirmed, "{}: {:?}", self.label, self.launch());
        assert_eq!(self.launch().candidate, None, "{}", self.label);
        assert_eq!(self.launch().given_up, None, "{}", self.label);
        assert_eq!(handover::settle(&self.launch(), place), None, "{}: it has stayed up", self.label);
    }

    /// A good agent runs: the wanted one, or another one that says why not.
    fn check_converged(&mut self, wanted: u8) {
        self.check_rest();
        let agent = self.agent.as_ref().unwrap();
        let report = agent.update.report();
        let runs = self.launch().at(agent.place).map(|binary| binary.release);
        match report.phase {
            Phase::Confirmed => assert_eq!(runs, Some(digest(wanted)), "{}", self.label),
            Phase::Failed => {
                let failed = report.failure.map(|f| f.release);
                // One that was killed over and over, or that could not be counted, is itself what does not start.
                let disturbed = self.killed + self.full > 0;
                assert!(failed == Some(digest(wanted)) || disturbed, "{}: {failed:?}", self.label);
                assert!(
                    nature(wanted) != Nature::Good || self.killed > 0,
                    "{}: a good agent was refused",
                    self.label
                );
            }
            phase => panic!("{}: rests in {phase:?}", self.label),
        }
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
        let wanted = index_of(device.desired.clone().flatten().unwrap().release);
        device.check_converged(wanted);
        refused.append(&mut device.failures);
        // An upgrade that is taken back leaves what is confirmed.
        let (index, turns) = (device.rng.random_range(0..RELEASES), device.rng.random_range(0..60));
        device.want(index, 999);
        device.go(turns);
        device.accept(None);
        device.settle();
        device.check_rest();
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

/// Full disks alone never make a good agent fail.
#[test]
fn a_good_agent_is_let_in_however_full_the_disk_was_for_a_while() {
    let mut failed_writes = 0;
    for seed in 0..seeds().min(10_000) {
        let kills = Kills::FullDisk { one_in: [1, 2, 5][seed as usize % 3], left: 20 };
        let mut device = Device::new(seed, kills, format!("full disk, seed {seed}"));
        device.boot();
        for (attempt, index) in [0, 1, 0].into_iter().enumerate() {
            device.want(index, attempt as u32);
            device.settle();
            device.check_converged(index);
            assert_eq!(
                device.launch().confirmed.map(|binary| binary.release),
                Some(digest(index)),
                "seed {seed}"
            );
        }
        failed_writes += device.full;
    }
    println!("agent upgrades: {failed_writes} failed writes, no good agent refused");
    assert!(failed_writes > 10_000, "{failed_writes}");
}

//! Rollouts to whole fleets, in virtual time: the real planner, the real effects and real twins; devices that are slow,
//! offline for a day, faulty, revoked, or say things twice and late, or lie; a control plane that is killed between two
//! commits, whose clock jumps, whose disk is full and whose broker starts anew; an operator who pauses and resumes. After
//! each step what must always hold is checked.
//!
//! `FLOTILLA_ROLLOUT_SEEDS` and `FLOTILLA_ROLLOUT_DEVICES` make the large fleets larger, `FLOTILLA_TROUBLED_SEEDS` the
//! number of those with all troubles together (`tests/run --full`).
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use super::effect::{self, Standing};
use super::planner::{Action, Observation, Observations, Report, plan};
use super::policy::{Pace, Policy, Retry};
use super::state::{Rollout, RolloutDevice, RolloutState, Status, WaveSpec};
use super::testing::{self, model, release};
use crate::devices::Twin;
use flotilla_protocol::message::{Failure, ModelReport, Phase, Settings};
use flotilla_protocol::{Digest, ErrorCode};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const DAY_MS: u64 = 24 * HOUR_MS;
/// Devices that have something to say within so long are heard together.
const TICK_MS: u64 = 2 * MINUTE_MS;
/// When it begins: late enough that a clock may jump back.
const START_MS: u64 = 10 * DAY_MS;

/// What a device is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Good,
    /// The release fails on it, always.
    Faulty,
    /// Its link fails the first time.
    Flaky,
    /// It is revoked before it is told.
    Revoked,
    /// It says that it has confirmed whatever it is told to run.
    Lies,
}

/// What goes wrong beside devices.
#[derive(Clone, Copy, Debug, Default)]
struct Troubles {
    /// Share of the devices that are away for a day.
    away: f64,
    /// Share of the devices that lie.
    lies: f64,
    /// The control plane is killed again and again, and its clock jumps.
    kills: bool,
    /// Commits fail for a while, again and again: the disk is full.
    full_disk: bool,
    /// The broker starts anew: all devices are away for a moment, and what they were saying comes twice.
    broker: bool,
    /// An operator pauses the rollout, and resumes it a while later.
    operator: bool,
    /// What must hold is checked after each commit, and not only once nothing is left to do.
    strict: bool,
}

struct Fleet {
    rollout: Rollout,
    devices: Vec<RolloutDevice>,
    twins: Vec<Twin>,
    kinds: Vec<Kind>,
    /// When a device that is away is back.
    back_ms: Vec<u64>,
    /// The last that each said, and what it said before.
    said: BTreeMap<usize, (Report, Option<Report>)>,
    /// When which device has something to say.
    next: BinaryHeap<Reverse<(u64, usize)>>,
    now_ms: u64,
    /// What the control plane's clock shows beside the time.
    skew_ms: i64,
    commits: u64,
    sent: u64,
    troubles: Troubles,
    /// Until when no commit succeeds.
    full_until_ms: u64,
    /// When an operator resumes the rollout.
    resumes_ms: u64,
}

impl Fleet {
    fn new(random: &mut SmallRng, devices: usize, troubles: Troubles) -> Self {
        let waves = [WaveSpec::Devices(1), WaveSpec::Percent(5), WaveSpec::Percent(30)];
        let (rollout, devices) =
            testing::rollout(&format!("rollout-{}", random.random::<u32>()), devices, &waves);
        let policy = Policy {
            pace: Pace {
                per_minute: None,
                ramp: None,
                concurrency: random.random_bool(0.5).then(|| (devices.len() as u32 / 4).max(10)),
            },
            retry: Retry { tries: 3, wait_ms: MINUTE_MS, codes: Vec::new() },
            ..Policy::default()
        };
        let rollout = Rollout { deadline_ms: 36 * HOUR_MS, policy, counted_from_ms: START_MS, ..rollout };
        let lies = (troubles.lies * 1_000.0) as u32;
        let kind = |random: &mut SmallRng| match random.random_range(0..1_000) {
            n if n >= 1_000 - lies => Kind::Lies,
            0..10 => Kind::Faulty,
            10..60 => Kind::Flaky,
            60..65 => Kind::Revoked,
            _ => Kind::Good,
        };
        let twin = |device: &RolloutDevice| {
            let mut twin = Twin::new(device.device.clone(), Settings::default(), 0);
            twin.want(&model(), old(), 90, 0).unwrap();
            twin
        };
        Self {
            twins: devices.iter().map(twin).collect(),
            kinds: devices.iter().map(|_| kind(random)).collect(),
            back_ms: devices
                .iter()
                .map(|_| if random.random_bool(troubles.away) { START_MS + DAY_MS } else { START_MS })
                .collect(),
            rollout,
            devices,
            said: BTreeMap::new(),
            next: BinaryHeap::new(),
            now_ms: START_MS,
            skew_ms: 0,
            commits: 0,
            sent: 0,
            troubles,
            full_until_ms: 0,
            resumes_ms: 0,
        }
    }

    fn clock_ms(&self) -> u64 {
        self.now_ms.saturating_add_signed(self.skew_ms)
    }

    /// What is known of a device; an older report may come once more.
    fn observed(&self, place: usize, again: bool) -> Observation {
        let report = self.said.get(&place).map(|(last, before)| match before {
            Some(before) if again => before.clone(),
            _ => last.clone(),
        });
        Observation {
            revoked: self.kinds[place] == Kind::Revoked,
            desired: self.twins[place].models.get(&model()).cloned(),
            report,
            ..Observation::default()
        }
    }

    /// Plans and performs until nothing is left to do now. A kill loses what was planned and what was heard.
    fn reconcile(&mut self, random: &mut SmallRng, heard: &[usize]) {
        // What was said before comes once more, ahead of what is said now.
        for again in [true, false] {
            let some = heard.iter().filter(|_| !again || random.random_bool(0.1));
            let seen = some.map(|place| (self.devices[*place].device.clone(), self.observed(*place, again)));
            let observed = seen.collect();
            self.go_as_far_as_possible(random, observed);
        }
    }

    fn go_as_far_as_possible(&mut self, random: &mut SmallRng, mut observed: Observations) {
        // Each death is followed by a look at all that were told: as many in a large fleet as in a small one.
        let deadly = 0.02 * (10_000.0 / self.devices.len() as f64).min(1.0);
        loop {
            if self.now_ms < self.full_until_ms {
                // Nothing is stored, so nothing has happened; what was heard is read again once there is room.
                return;
            }
            let actions = plan(&self.rollout, &self.devices, &observed, self.clock_ms(), self.devices.len());
            if actions.is_empty() {
                return;
            }
            if !actions.iter().all(|action| matches!(action, Action::Mark { .. })) {
                observed.clear();
            }
            for chunk in actions.chunks(32) {
                self.commits += 1;
                chunk.iter().for_each(|action| self.perform(random, action));
                if self.troubles.strict {
                    self.check();
                }
                if self.troubles.full_disk && random.random_bool(0.01) {
                    self.full_until_ms = self.now_ms + random.random_range(MINUTE_MS..HOUR_MS);
                    return;
                }
                if self.troubles.kills && random.random_bool(deadly) {
                    // It starts again and looks at all that were told.
                    observed = self.all_told();
                    break;
                }
            }
        }
    }

    /// What is known of all that were told.
    fn all_told(&self) -> Observations {
        let told = (0..self.devices.len()).filter(|place| self.devices[*place].sent.is_some());
        told.map(|place| (self.devices[place].device.clone(), self.observed(place, false))).collect()
    }

    fn perform(&mut self, random: &mut SmallRng, action: &Action) {
        let clock_ms = self.clock_ms();
        match action {
            Action::SetDesired { index } => {
                let device = &mut self.devices[*index];
                let revoked = self.kinds[*index] == Kind::Revoked;
                let standing = if revoked { Standing::Out(ErrorCode::Revoked) } else { Standing::Free };
                effect::send(&self.rollout, device, &mut self.twins[*index], standing, clock_ms);
                if device.status == Status::Sent {
                    self.sent += 1;
                    let takes = random.random_range(MINUTE_MS..10 * MINUTE_MS);
                    let at = self.now_ms.max(self.back_ms[*index]) + takes;
                    self.next.push(Reverse((at, *index)));
                }
            }
            Action::Mark { index, status } => self.devices[*index].status = status.clone(),
            Action::Revert { index } => {
                let twin = &mut self.twins[*index];
                effect::revert(&self.rollout, &mut self.devices[*index], Some(twin), None, clock_ms);
            }
            Action::Advance => self.rollout.advance(),
            Action::Succeed => self.rollout.finish(RolloutState::Succeeded, clock_ms),
            Action::Fail { reason } => self.rollout.fail(reason.clone(), clock_ms),
            Action::RolledBack => self.rollout.finish(RolloutState::RolledBack, clock_ms),
            other => panic!("nobody asked for {other:?}"),
        }
    }

    /// Time passes until somebody has something to say.
    fn live(&mut self) -> Vec<usize> {
        // A plan looks at every device: a very large fleet is heard less often.
        let tick_ms = TICK_MS * (self.devices.len() as u64 / 100_000).max(1);
        let until = self.next.peek().map_or(self.now_ms + tick_ms, |Reverse((at, _))| at + tick_ms);
        self.now_ms = self.now_ms.max(until);
        let mut heard = Vec::new();
        while let Some(Reverse((_, place))) =
            self.next.peek().copied().filter(|Reverse((at, _))| *at <= self.now_ms)
        {
            self.next.pop();
            let twin = &self.twins[place];
            let told = twin.models.get(&model()).cloned().unwrap();
            let fails = told.release == release()
                && match self.kinds[place] {
                    Kind::Faulty => true,
                    Kind::Flaky => self.devices[place].tries < 2,
                    Kind::Good | Kind::Revoked | Kind::Lies => false,
                };
            let flaky = self.kinds[place] == Kind::Flaky;
            let code = if flaky { ErrorCode::Network } else { ErrorCode::ProbeMismatch };
            let answer = ModelReport {
                phase: if fails { Phase::Failed } else { Phase::Confirmed },
                confirmed: Some(if fails { old() } else { told.release }),
                attempt: told.attempt,
                failure: fails.then(|| Failure { release: release(), code, detail: "so it is".into() }),
                ..ModelReport::default()
            };
            let report = Report { desired_version: twin.version, model: Some(answer) };
            let before = self.said.remove(&place).map(|(last, _)| last);
            self.said.insert(place, (report, before));
            heard.push(place);
            if heard.len().is_multiple_of(7) {
                heard.push(place); // It says so twice.
            }
        }
        heard
    }

    /// What must hold at any moment.
    fn check(&self) {
        let tallies = self.rollout.tally(&self.devices);
        for (wave, tally) in tallies.iter().enumerate() {
            let number = wave as u32;
            assert_eq!(tally.devices(), self.rollout.waves[wave].devices);
            if number < self.rollout.wave {
                assert_eq!(tally.open(), 0, "wave {wave} is through before the next begins");
            }
            if number > self.rollout.wave {
                assert_eq!(tally.pending, tally.devices(), "nobody of a later wave is touched");
            }
        }
        for (device, twin) in self.devices.iter().zip(&self.twins) {
            let runs = twin.models[&model()].release;
            match (&device.status, &device.sent) {
                (Status::Pending, None) => assert_eq!(runs, old(), "an untouched device is untouched"),
                (Status::Reverted { .. }, _) => assert_eq!(runs, old(), "it has been sent back"),
                (Status::Sent | Status::Confirmed { .. }, sent) => {
                    assert!(sent.is_some() && runs == release(), "its document says so");
                }
                _ => {}
            }
        }
    }

    fn run(&mut self, random: &mut SmallRng) {
        let mut heard = Vec::new();
        for _ in 0..20_000 {
            self.reconcile(random, &heard);
            self.check();
            if !self.rollout.is_active() {
                return;
            }
            self.suffer(random);
            heard = self.live();
            if self.full_until_ms > 0 && self.now_ms >= self.full_until_ms {
                self.full_until_ms = 0;
                heard = (0..self.devices.len()).filter(|place| self.devices[*place].sent.is_some()).collect();
            }
        }
        panic!("no end: {:?} {:?}", self.rollout.state, self.rollout.tally(&self.devices));
    }

    fn run_to_its_end(&mut self, random: &mut SmallRng, seed: u64) {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            self.run(random);
            self.check_end();
        }));
        if let Err(panic) = outcome {
            eprintln!("seed {seed}: {:?}", self.troubles);
            std::panic::resume_unwind(panic);
        }
    }

    /// What goes wrong between two looks.
    fn suffer(&mut self, random: &mut SmallRng) {
        let Troubles { kills, broker, operator, .. } = self.troubles;
        if kills && random.random_bool(0.1) {
            self.skew_ms = random.random_range(-(HOUR_MS as i64)..HOUR_MS as i64);
        }
        if broker && random.random_bool(0.1) {
            // Whoever was about to speak speaks later, and some of the others once more.
            let away_ms = random.random_range(TICK_MS..10 * TICK_MS);
            let waiting = std::mem::take(&mut self.next);
            self.next =
                waiting.into_iter().map(|Reverse((at, place))| Reverse((at + away_ms, place))).collect();
            let spoke: Vec<usize> = self.said.keys().copied().collect();
            for place in spoke.into_iter().filter(|_| random.random_bool(0.2)) {
                self.next.push(Reverse((self.now_ms + away_ms, place)));
            }
        }
        match self.rollout.state {
            RolloutState::Running if operator && random.random_bool(0.05) => {
                self.rollout.state = RolloutState::Paused;
                self.resumes_ms = self.now_ms + random.random_range(MINUTE_MS..5 * HOUR_MS);
            }
            RolloutState::Paused if self.now_ms >= self.resumes_ms => self.rollout.resume(self.clock_ms()),
            _ => {}
        }
    }

    /// The right end follows from what the devices are like.
    fn check_end(&self) {
        let kind = |device: &RolloutDevice| self.kinds[device.position as usize];
        let over = |wave: usize, max: u32| {
            let of = self.devices.iter().filter(|d| d.wave as usize == wave);
            let (mut faulty, mut good) = (0, 0);
            of.for_each(|d| match kind(d) {
                Kind::Faulty => faulty += 1,
                Kind::Good | Kind::Flaky | Kind::Lies => good += 1,
                Kind::Revoked => {}
            });
            faulty > max || good == 0
        };
        let mut waves = self.rollout.waves.iter().enumerate();
        let stops = waves.find(|(wave, of)| over(*wave, of.max_failures)).map(|(wave, _)| wave as u32);
        match stops {
            Some(wave) => {
                assert_eq!((self.rollout.state, self.rollout.wave), (RolloutState::RolledBack, wave));
                assert!(self.twins.iter().all(|twin| twin.models[&model()].release == old()));
            }
            None => {
                assert_eq!(self.rollout.state, RolloutState::Succeeded, "{:?}", self.rollout.reason);
                for device in &self.devices {
                    let is = device.status.as_str();
                    let should = match kind(device) {
                        Kind::Good | Kind::Flaky | Kind::Lies => "confirmed",
                        Kind::Faulty => "failed",
                        Kind::Revoked => "skipped",
                    };
                    assert_eq!(is, should, "{device:?}");
                }
            }
        }
    }
}

fn old() -> Digest {
    Digest::of(b"old release")
}

fn setting(name: &str, usual: usize) -> usize {
    std::env::var(name).ok().map_or(usual, |text| text.parse().unwrap())
}

#[test]
fn rollouts_to_a_whole_fleet_end_as_its_devices_are() {
    let seeds = setting("FLOTILLA_ROLLOUT_SEEDS", 20) as u64;
    let devices = setting("FLOTILLA_ROLLOUT_DEVICES", 10_000);
    let (mut ends, mut commits, mut sent) = (BTreeMap::new(), 0, 0);
    for seed in 0..seeds {
        let random = &mut SmallRng::seed_from_u64(seed);
        // A day without a third of the fleet, and a control plane that dies again and again, every other time.
        let away = if seed % 2 == 0 { 0.3 } else { 0.0 };
        let mut fleet =
            Fleet::new(random, devices, Troubles { away, kills: seed % 4 < 2, ..Troubles::default() });
        fleet.run_to_its_end(random, seed);
        *ends.entry(fleet.rollout.state.as_str()).or_insert(0) += 1;
        (commits, sent) = (commits + fleet.commits, sent + fleet.sent);
    }
    println!(
        "{seeds} rollouts to {devices} devices each: {ends:?}, {sent} documents sent, {commits} commits"
    );
    assert!(ends.contains_key("succeeded"), "{ends:?}");
}

#[test]
fn rollouts_end_as_they_should_with_all_troubles_together() {
    let seeds = setting("FLOTILLA_TROUBLED_SEEDS", 300) as u64;
    let (mut ends, mut commits) = (BTreeMap::new(), 0);
    for seed in 0..seeds {
        let random = &mut SmallRng::seed_from_u64(seed);
        let devices = random.random_range(1..400);
        let mut some = |share: f64| random.random_bool(share);
        let troubles = Troubles {
            away: if some(0.5) { 0.3 } else { 0.0 },
            lies: if some(0.5) { 0.02 } else { 0.0 },
            kills: some(0.8),
            full_disk: some(0.8),
            broker: some(0.8),
            operator: some(0.8),
            strict: true,
        };
        let mut fleet = Fleet::new(random, devices, troubles);
        fleet.run_to_its_end(random, seed);
        *ends.entry(fleet.rollout.state.as_str()).or_insert(0) += 1;
        commits += fleet.commits;
    }
    println!("{seeds} troubled rollouts: {ends:?}, {commits} commits, each checked");
    assert!(ends.contains_key("succeeded") && ends.contains_key("rolled_back"), "{ends:?}");
}

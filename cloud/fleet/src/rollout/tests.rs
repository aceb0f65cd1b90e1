//! What an operator may rely on: no second wave before the canary, a way back for every touched device, and the same
//! end whatever is killed in between.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use super::effect;
use super::planner::{Action, Observation, Observations, Report, plan};
use super::state::{Rollout, RolloutDevice, RolloutState, Status, Wanted, WaveSpec, resolve};
use crate::devices::Twin;
use flotilla_protocol::message::{DesiredModel, Failure, ModelReport, Phase, Settings};
use flotilla_protocol::{ActorId, DeviceId, Digest, ErrorCode, ModelName, RolloutId};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};

const DEADLINE_MS: u64 = 60_000;

fn device(n: usize) -> DeviceId {
    DeviceId::new(format!("d{n}")).unwrap()
}

fn model() -> ModelName {
    ModelName::new("digits").unwrap()
}

fn release() -> Digest {
    Digest::of(b"new release")
}

fn rollout(id: &str, devices: usize, specs: &[WaveSpec]) -> (Rollout, Vec<RolloutDevice>) {
    let id = RolloutId::new(id).unwrap();
    let (waves, devices) = resolve(&id, (0..devices).map(device).collect(), specs);
    let rollout = Rollout {
        id,
        model: model(),
        wanted: Wanted { release: release(), envelope_bytes: 100, version: 2, counter: 2 },
        waves,
        state: RolloutState::Running,
        wave: 0,
        deadline_ms: DEADLINE_MS,
        counted_from_ms: 0,
        created_by: ActorId::new("administrator").unwrap(),
        created_at_ms: 0,
        finished_at_ms: None,
        reason: None,
        watch: None,
        watched: None,
    };
    (rollout, devices)
}

const DEFAULT: &[WaveSpec] = &[WaveSpec::Devices(1), WaveSpec::Rest];

// === waves ===

#[test]
fn waves_cover_every_device_once_in_an_order_of_their_own() {
    let (rollout, devices) = rollout("r1", 3, DEFAULT);
    assert_eq!(rollout.waves.iter().map(|wave| wave.devices).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(devices.iter().map(|d| d.wave).collect::<Vec<_>>(), [0, 1, 1]);
    let all: BTreeSet<_> = devices.iter().map(|d| d.device.clone()).collect();
    assert_eq!(all, (0..3).map(device).collect());
    assert_eq!(rollout.waves.iter().map(|wave| wave.max_failures).collect::<Vec<_>>(), [0, 0]);
    let canaries: BTreeSet<_> =
        (0..50).map(|n| self::rollout(&format!("r{n}"), 3, DEFAULT).1[0].device.clone()).collect();
    assert_eq!(canaries.len(), 3, "the canary is not the same device every time");
    assert_eq!(self::rollout("r1", 3, DEFAULT).1, devices, "but the same for the same rollout");
}

#[test]
fn wave_sizes_follow_the_plan() {
    let sizes = |devices, specs: &[WaveSpec]| {
        let (rollout, targets) = rollout("r1", devices, specs);
        assert_eq!(targets.len(), devices);
        assert!(rollout.waves.iter().all(|wave| wave.devices > 0));
        rollout.waves.iter().map(|wave| (wave.devices, wave.max_failures)).collect::<Vec<_>>()
    };
    assert_eq!(sizes(1, DEFAULT), [(1, 0)]);
    assert_eq!(sizes(200, &[WaveSpec::Percent(1), WaveSpec::Percent(10)]), [(2, 0), (20, 2), (178, 17)]);
    assert_eq!(sizes(3, &[WaveSpec::Percent(1)]), [(1, 0), (2, 0)]);
    assert_eq!(sizes(5, &[WaveSpec::Devices(0), WaveSpec::Devices(10)]), [(5, 0)]);
    assert_eq!(sizes(100, &[WaveSpec::Devices(1); 200]).len(), super::state::WAVES);
    assert_eq!(sizes(0, DEFAULT), []);
}

#[test]
fn a_rollout_to_a_million_devices_is_planned_in_memory() {
    let (rollout, mut devices) = rollout("big", 1_000_000, &[WaveSpec::Devices(1), WaveSpec::Percent(10)]);
    assert_eq!(rollout.waves[1].devices, 100_000);
    devices[0].status = Status::Confirmed { at_ms: 1 };
    let observed = Observations::from([(devices[0].device.clone(), Observation::default())]);
    assert_eq!(plan(&rollout, &devices, &observed, 5), [Action::Advance]);
}

// === a simulated fleet ===

/// What a device makes of the release.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Outcome {
    Confirms,
    Fails,
    /// Never answers.
    Silent,
    /// Answers after its deadline.
    Late,
    Revoked,
    /// Another change gives it something else to run.
    Superseded,
}

struct World {
    rollout: Rollout,
    devices: Vec<RolloutDevice>,
    twins: BTreeMap<DeviceId, Twin>,
    before: BTreeMap<DeviceId, Option<DesiredModel>>,
    outcomes: BTreeMap<DeviceId, Outcome>,
    reports: BTreeMap<DeviceId, Report>,
    now_ms: u64,
}

impl World {
    fn new(random: &mut SmallRng, outcome: impl Fn(&mut SmallRng) -> Outcome) -> Self {
        let count = random.random_range(1..40);
        let specs: &[WaveSpec] = match random.random_range(0..3) {
            0 => DEFAULT,
            1 => &[WaveSpec::Devices(2), WaveSpec::Percent(50)],
            _ => &[WaveSpec::Percent(10), WaveSpec::Percent(30), WaveSpec::Rest],
        };
        let (rollout, devices) = rollout(&format!("r{}", random.random::<u32>()), count, specs);
        let mut world = Self {
            rollout,
            devices,
            twins: BTreeMap::new(),
            before: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            reports: BTreeMap::new(),
            now_ms: 1_000,
        };
        for n in 0..count {
            let mut twin = Twin::new(device(n), Settings::default(), 0);
            match random.random_range(0..4) {
                0 => {}
                // The device has tried this very release before.
                1 => drop(twin.want(&model(), release(), 100, 0).unwrap()),
                _ => drop(twin.want(&model(), Digest::of(b"old release"), 90, 0).unwrap()),
            }
            world.before.insert(device(n), twin.models.get(&model()).cloned());
            world.outcomes.insert(device(n), outcome(random));
            // What it says of its earlier life must not count.
            let stale = ModelReport {
                phase: Phase::Confirmed,
                confirmed: Some(release()),
                attempt: twin.models.get(&model()).map_or(0, |m| m.attempt),
                ..ModelReport::default()
            };
            let failure = Failure { release: release(), code: ErrorCode::ProbeTooSlow, detail: "old".into() };
            let stale = if random.random() {
                stale
            } else {
                ModelReport { phase: Phase::Failed, confirmed: None, failure: Some(failure), ..stale }
            };
            world.reports.insert(device(n), Report { desired_version: twin.version, model: Some(stale) });
            world.twins.insert(device(n), twin);
        }
        world
    }

    fn observed(&self) -> Observations {
        let observe = |(device, twin): (&DeviceId, &Twin)| {
            let observation = Observation {
                revoked: self.outcomes[device] == Outcome::Revoked,
                desired: twin.models.get(&model()).cloned(),
                report: self.reports.get(device).cloned(),
                figures: None,
            };
            (device.clone(), observation)
        };
        self.twins.iter().map(observe).collect()
    }

    fn plan(&self) -> Vec<Action> {
        plan(&self.rollout, &self.devices, &self.observed(), self.now_ms)
    }

    /// Performs one action as the service does, and checks what must hold at that moment.
    fn perform(&mut self, action: &Action) {
        match action {
            Action::SetDesired { index } => {
                self.check_earlier_waves(self.devices[*index].wave);
                let target = &mut self.devices[*index];
                let twin = self.twins.get_mut(&target.device).unwrap();
                let version = twin.version;
                effect::send(&self.rollout, target, twin, self.now_ms).unwrap();
                assert!(twin.version > version, "what is sent is a newer document");
            }
            Action::Mark { index, status } => {
                assert!(!self.devices[*index].status.is_decided(), "what is decided stays decided");
                self.devices[*index].status = status.clone();
            }
            Action::Watch => self.rollout.watch(self.now_ms),
            Action::Look { look, follows } => self.rollout.look(look.clone(), follows, self.now_ms),
            Action::Advance => self.rollout.advance(),
            Action::Succeed => self.rollout.finish(RolloutState::Succeeded, self.now_ms),
            Action::Fail { reason } => self.rollout.fail(reason.clone()),
            Action::Revert { index } => {
                let target = &mut self.devices[*index];
                let twin = self.twins.get_mut(&target.device).unwrap();
                let (version, before) = (twin.version, twin.clone());
                effect::revert(&self.rollout, target, Some(twin), self.now_ms);
                assert!(twin.version > version || *twin == before, "going back is a newer document");
            }
            Action::RolledBack => self.rollout.finish(RolloutState::RolledBack, self.now_ms),
        }
    }

    fn check_earlier_waves(&self, wave: u32) {
        for earlier in 0..wave {
            let devices = || self.devices.iter().filter(|d| d.wave == earlier);
            assert!(devices().all(|d| d.status.is_decided()), "wave {earlier} is through");
            assert!(devices().any(|d| matches!(d.status, Status::Confirmed { .. })), "and has confirmed");
            let failed = devices().filter(|d| matches!(d.status, Status::Failed { .. })).count();
            assert!(failed <= self.rollout.waves[earlier as usize].max_failures as usize);
        }
    }

    /// Some devices see their document and act on it.
    fn live(&mut self, random: &mut SmallRng) {
        self.now_ms += random.random_range(1..DEADLINE_MS / 4);
        for target in &mut self.devices {
            let Some(sent) = target.sent.clone() else { continue };
            if random.random_bool(0.3) {
                continue;
            }
            let late = self.now_ms >= sent.at_ms + DEADLINE_MS;
            let twin = self.twins.get_mut(&target.device).unwrap();
            let told = twin.models.get(&model()).cloned();
            let outcome = self.outcomes[&target.device];
            if outcome == Outcome::Superseded && told.as_ref().is_some_and(|t| t.attempt == sent.attempt) {
                twin.want(&model(), Digest::of(b"something else"), 80, self.now_ms).unwrap();
                continue;
            }
            let answer = match (outcome, &told) {
                (Outcome::Silent | Outcome::Revoked | Outcome::Superseded, _) => continue,
                (Outcome::Late, _) if !late => continue,
                (Outcome::Fails, Some(told)) if told.release == release() => ModelReport {
                    phase: Phase::Failed,
                    attempt: told.attempt,
                    failure: Some(Failure {
                        release: release(),
                        code: ErrorCode::ProbeMismatch,
                        detail: "scores differ".into(),
                    }),
                    ..ModelReport::default()
                },
                (_, told) => ModelReport {
                    phase: Phase::Confirmed,
                    confirmed: told.as_ref().map(|told| told.release),
                    attempt: told.as_ref().map_or(0, |told| told.attempt),
                    ..ModelReport::default()
                },
            };
            let report = Report { desired_version: twin.version, model: Some(answer) };
            self.reports.insert(target.device.clone(), report);
        }
    }

    /// Runs to the end. Where `kills`, the control plane dies again and again between two commits, or an operator
    /// pauses and resumes.
    fn run(&mut self, random: &mut SmallRng, kills: bool) {
        for _ in 0..2_000 {
            if !self.rollout.state.is_active() {
                assert_eq!(self.plan(), [], "an end is an end");
                return;
            }
            let actions = self.plan();
            if actions.is_empty() {
                self.live(random);
            }
            for action in &actions {
                self.perform(action);
                if kills && random.random_bool(0.2) {
                    break;
                }
            }
            if kills && random.random_bool(0.05) && self.rollout.state == RolloutState::Running {
                self.rollout.state = RolloutState::Paused;
                assert!(
                    self.plan().iter().all(|a| matches!(a, Action::Mark { .. })),
                    "paused touches nobody"
                );
                self.rollout.state = RolloutState::Running;
                self.rollout.counted_from_ms = self.now_ms;
            }
        }
        panic!("no end after 2,000 steps: {:?}", self.rollout);
    }

    fn touched(&self) -> impl Iterator<Item = &RolloutDevice> {
        self.devices.iter().filter(|d| d.sent.is_some())
    }

    fn check_end(&self) {
        let now = |d: &RolloutDevice| self.twins[&d.device].models.get(&model()).cloned();
        match self.rollout.state {
            RolloutState::Succeeded => {
                self.check_earlier_waves(self.rollout.waves.len() as u32);
                assert_eq!(self.rollout.reason, None);
                for target in self.touched().filter(|d| matches!(d.status, Status::Confirmed { .. })) {
                    assert_eq!(now(target).unwrap().release, release());
                    assert!([Outcome::Confirms, Outcome::Late].contains(&self.outcomes[&target.device]));
                }
            }
            RolloutState::RolledBack => {
                assert!(self.rollout.reason.is_some());
                for target in self.touched() {
                    let sent = target.sent.as_ref().unwrap();
                    let twin = &self.twins[&target.device];
                    assert!(
                        twin.version > sent.desired_version
                            || self.outcomes[&target.device] == Outcome::Revoked
                    );
                    match self.outcomes[&target.device] {
                        Outcome::Superseded if now(target) != self.before[&target.device] => {
                            assert_eq!(now(target).unwrap().release, Digest::of(b"something else"));
                        }
                        Outcome::Revoked => {}
                        _ => {
                            assert_eq!(now(target), self.before[&target.device], "back to what it ran before")
                        }
                    }
                }
            }
            state => panic!("{state:?} is no end"),
        }
        for target in self.devices.iter().filter(|d| d.sent.is_none()) {
            assert_eq!(now(target), self.before[&target.device], "an untouched device is untouched");
        }
    }
}

fn any_outcome(random: &mut SmallRng) -> Outcome {
    match random.random_range(0..40) {
        0 => Outcome::Fails,
        1 => Outcome::Silent,
        2 => Outcome::Late,
        3 => Outcome::Revoked,
        4 => Outcome::Superseded,
        _ => Outcome::Confirms,
    }
}

#[test]
fn rollouts_end_well_whatever_devices_do() {
    let (mut succeeded, mut rolled_back) = (0, 0);
    for seed in 0..4_000 {
        let random = &mut SmallRng::seed_from_u64(seed);
        let mut world = World::new(random, any_outcome);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            world.run(random, seed % 2 == 0);
            world.check_end();
            world.rollout.state
        }));
        match outcome {
            Ok(RolloutState::Succeeded) => succeeded += 1,
            Ok(_) => rolled_back += 1,
            Err(panic) => {
                eprintln!("seed {seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    assert!(succeeded > 500 && rolled_back > 500, "both ends are seen: {succeeded}, {rolled_back}");
}

#[test]
fn a_fleet_that_is_fine_gets_the_release_everywhere() {
    for seed in 0..500 {
        let random = &mut SmallRng::seed_from_u64(seed);
        let mut world = World::new(random, |_| Outcome::Confirms);
        world.run(random, true);
        world.check_end();
        assert_eq!(world.rollout.state, RolloutState::Succeeded, "seed {seed}");
        assert!(world.devices.iter().all(|d| matches!(d.status, Status::Confirmed { .. })), "seed {seed}");
    }
}

#[test]
fn a_bad_canary_stops_the_rollout_and_nobody_else_is_touched() {
    for seed in 0..1_000 {
        let random = &mut SmallRng::seed_from_u64(seed);
        let mut world = World::new(random, |_| Outcome::Confirms);
        let canary = world.devices[0].device.clone();
        let bad = [Outcome::Fails, Outcome::Silent][seed as usize % 2];
        world.outcomes.insert(canary, bad);
        if bad == Outcome::Fails {
            // It says so before its time is over.
            world.rollout.deadline_ms = u64::MAX;
        }
        world.run(random, false);
        world.check_end();
        assert_eq!(world.rollout.state, RolloutState::RolledBack, "seed {seed}");
        assert!(world.touched().all(|d| d.wave == 0), "seed {seed}");
        let reason = world.rollout.reason.unwrap();
        let code = if bad == Outcome::Fails { ErrorCode::ProbeMismatch } else { ErrorCode::Timeout };
        assert_eq!((reason.code, reason.device.is_some()), (code, true), "seed {seed}");
    }
}

#[test]
fn kills_between_commits_change_nothing() {
    for seed in 0..500 {
        let end = |kills: bool| {
            let random = &mut SmallRng::seed_from_u64(seed);
            let outcome = |random: &mut SmallRng| {
                if random.random_bool(0.05) { Outcome::Fails } else { Outcome::Confirms }
            };
            let mut world = World::new(random, outcome);
            // Nobody is late, so the end depends on the outcomes alone.
            world.rollout.deadline_ms = u64::MAX;
            world.run(random, kills);
            world.check_end();
            let touched: BTreeSet<_> = world.touched().map(|d| d.wave).collect();
            (world.rollout.state, world.rollout.wave, touched)
        };
        assert_eq!(end(true), end(false), "seed {seed}");
    }
}

#[test]
fn a_device_is_judged_by_its_answer_to_the_document_it_was_sent() {
    let (rollout, mut devices) = rollout("r1", 1, DEFAULT);
    let mut twin = Twin::new(devices[0].device.clone(), Settings::default(), 0);
    effect::send(&rollout, &mut devices[0], &mut twin, 1_000).unwrap();
    let sent = devices[0].sent.clone().unwrap();
    let status = |version: u64, now_ms: u64, change: &dyn Fn(&mut ModelReport)| {
        let mut report = ModelReport { attempt: sent.attempt, ..ModelReport::default() };
        change(&mut report);
        let observation = Observation {
            revoked: false,
            desired: twin.models.get(&model()).cloned(),
            report: Some(Report { desired_version: version, model: Some(report) }),
            figures: None,
        };
        let observed = Observations::from([(devices[0].device.clone(), observation)]);
        match plan(&rollout, &devices, &observed, now_ms).as_slice() {
            [] => "sent",
            [Action::Mark { status, .. }] => status.as_str(),
            other => panic!("{other:?}"),
        }
    };
    let confirmed = |r: &mut ModelReport| r.confirmed = Some(release());
    let failed = |r: &mut ModelReport| {
        r.phase = Phase::Failed;
        r.failure = Some(Failure { release: release(), code: ErrorCode::NoRoom, detail: String::new() });
    };
    let version = sent.desired_version;
    assert_eq!(status(version, 1_001, &confirmed), "confirmed");
    assert_eq!(status(version + 3, 1_001, &confirmed), "confirmed");
    assert_eq!(status(version - 1, 1_001, &confirmed), "sent", "an answer to an older document");
    assert_eq!(status(version, 1_001, &failed), "failed");
    assert_eq!(status(version - 1, 1_001, &failed), "sent");
    assert_eq!(status(version, 1_001, &|r| (failed(r), r.attempt -= 1).1), "sent", "an earlier attempt");
    assert_eq!(
        status(version, 1_001, &|r| (failed(r), r.phase = Phase::Downloading).1),
        "sent",
        "it goes on trying"
    );
    assert_eq!(status(version, 1_001, &|r| (confirmed(r), r.candidate = Some(release())).1), "sent");
    assert_eq!(status(version, 1_000 + DEADLINE_MS - 1, &|_| ()), "sent");
    assert_eq!(status(version, 1_000 + DEADLINE_MS, &|_| ()), "failed");
}

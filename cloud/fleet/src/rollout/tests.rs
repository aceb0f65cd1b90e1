//! What an operator may rely on: no second wave before the canary, a way back for every touched device, and the same
//! end whatever is killed in between.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use super::effect::{self, Standing};
use super::planner::{ACTIONS, Action, Observation, Observations, Report, plan};
use super::policy::{Failures, OnStop, Pace, Policy, Retry, Tolerance};
use super::state::{Rollout, RolloutDevice, RolloutState, Status, Target, WaveSpec, resolve};
use super::testing::{CANARY, DEADLINE_MS, device, model, release, rollout};
use crate::devices::Twin;
use flotilla_protocol::message::{DesiredModel, Failure, ModelReport, Phase, Settings};
use flotilla_protocol::{DeviceId, Digest, ErrorCode, RolloutId};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};

// === waves ===

#[test]
fn waves_cover_every_device_once_in_an_order_of_their_own() {
    let (rollout, devices) = rollout("r1", 3, CANARY);
    assert_eq!(rollout.waves.iter().map(|wave| wave.devices).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(devices.iter().map(|d| d.wave).collect::<Vec<_>>(), [0, 1, 1]);
    let all: BTreeSet<_> = devices.iter().map(|d| d.device.clone()).collect();
    assert_eq!(all, (0..3).map(device).collect());
    assert_eq!(rollout.waves.iter().map(|wave| wave.max_failures).collect::<Vec<_>>(), [0, 0]);
    let canaries: BTreeSet<_> =
        (0..50).map(|n| self::rollout(&format!("r{n}"), 3, CANARY).1[0].device.clone()).collect();
    assert_eq!(canaries.len(), 3, "the canary is not the same device every time");
    assert_eq!(self::rollout("r1", 3, CANARY).1, devices, "but the same for the same rollout");
}

#[test]
fn wave_sizes_follow_the_plan() {
    let sizes = |devices, specs: &[WaveSpec]| {
        let (rollout, targets) = rollout("r1", devices, specs);
        assert_eq!(targets.len(), devices);
        assert!(rollout.waves.iter().all(|wave| wave.devices > 0));
        rollout.waves.iter().map(|wave| (wave.devices, wave.max_failures)).collect::<Vec<_>>()
    };
    assert_eq!(sizes(1, CANARY), [(1, 0)]);
    assert_eq!(sizes(200, &[WaveSpec::Percent(1), WaveSpec::Percent(10)]), [(2, 0), (20, 2), (178, 17)]);
    assert_eq!(sizes(3, &[WaveSpec::Percent(1)]), [(1, 0), (2, 0)]);
    assert_eq!(sizes(5, &[WaveSpec::Devices(0), WaveSpec::Devices(10)]), [(5, 0)]);
    assert_eq!(sizes(100, &[WaveSpec::Devices(1); 200]).len(), super::state::WAVES);
    assert_eq!(sizes(0, CANARY), []);
}

#[test]
fn a_wave_tolerates_what_the_plan_says_once_enough_are_decided() {
    let id = RolloutId::new("r1").unwrap();
    let tolerance = Tolerance { failures: Failures::Percent(5), after: 20 };
    let targets = (0..101).map(|n| Target::from(device(n)));
    let (waves, devices) = resolve(&id, targets, &[WaveSpec::Devices(1)], Some(&tolerance));
    assert_eq!(
        waves.iter().map(|wave| (wave.max_failures, wave.counted_after)).collect::<Vec<_>>(),
        [(0, 20), (5, 20)]
    );
    let (usual, _) = rollout("r1", 101, CANARY);
    let rollout = Rollout { waves, wave: 1, ..usual };
    let failing = |failed: usize, confirmed: usize| {
        let mut devices = devices.clone();
        devices[0].status = Status::Confirmed { at_ms: 1 };
        let failure = Status::Failed { code: ErrorCode::NoRoom, detail: "full".into(), at_ms: 1 };
        let mut rest = devices[1..].iter_mut();
        rest.by_ref().take(failed).for_each(|device| device.status = failure.clone());
        rest.by_ref().take(confirmed).for_each(|device| device.status = Status::Confirmed { at_ms: 1 });
        rest.for_each(|device| device.status = Status::Sent);
        matches!(plan(&rollout, &devices, &Observations::new(), 2, ACTIONS)[..], [Action::Fail { .. }])
    };
    assert!(!failing(6, 13), "nineteen are decided");
    assert!(failing(6, 14));
    assert!(!failing(5, 90), "as many as it tolerates");
    assert!(failing(6, 94), "all are");
}

#[test]
fn a_rollout_to_a_million_devices_is_planned_in_memory() {
    let (rollout, mut devices) = rollout("big", 1_000_000, &[WaveSpec::Devices(1), WaveSpec::Percent(10)]);
    assert_eq!(rollout.waves[1].devices, 100_000);
    devices[0].status = Status::Confirmed { at_ms: 1 };
    let observed = Observations::from([(devices[0].device.clone(), Observation::default())]);
    assert_eq!(plan(&rollout, &devices, &observed, 5, ACTIONS), [Action::Advance]);
    let mut rollout = rollout;
    rollout.advance();
    let actions = plan(&rollout, &devices, &observed, 5, ACTIONS);
    assert!(actions.len() == 256 && matches!(actions[0], Action::SetDesired { index: 1 }));
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
    /// The link fails the first time.
    Flaky,
    /// Confirms, and falls back later.
    FallsBack,
}

struct World {
    rollout: Rollout,
    devices: Vec<RolloutDevice>,
    twins: BTreeMap<DeviceId, Twin>,
    before: BTreeMap<DeviceId, Option<DesiredModel>>,
    outcomes: BTreeMap<DeviceId, Outcome>,
    reports: BTreeMap<DeviceId, Report>,
    now_ms: u64,
    /// When each device was told last.
    told_ms: BTreeMap<DeviceId, u64>,
}

impl World {
    fn new(random: &mut SmallRng, outcome: impl Fn(&mut SmallRng) -> Outcome) -> Self {
        let count = random.random_range(1..40);
        let specs: &[WaveSpec] = match random.random_range(0..3) {
            0 => CANARY,
            1 => &[WaveSpec::Devices(2), WaveSpec::Percent(50)],
            _ => &[WaveSpec::Percent(10), WaveSpec::Percent(30), WaveSpec::Rest],
        };
        let (mut rollout, devices) = rollout(&format!("r{}", random.random::<u32>()), count, specs);
        rollout.policy = any_policy(random);
        let mut world = Self {
            rollout,
            devices,
            twins: BTreeMap::new(),
            before: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            reports: BTreeMap::new(),
            now_ms: 1_000,
            told_ms: BTreeMap::new(),
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
                ..Observation::default()
            };
            (device.clone(), observation)
        };
        self.twins.iter().map(observe).collect()
    }

    fn plan(&self) -> Vec<Action> {
        plan(&self.rollout, &self.devices, &self.observed(), self.now_ms, ACTIONS)
    }

    /// Performs one action as the service does, and checks what must hold at that moment.
    fn perform(&mut self, action: &Action) {
        match action {
            Action::SetDesired { index } => {
                self.check_earlier_waves(self.devices[*index].wave);
                let target = &mut self.devices[*index];
                let twin = self.twins.get_mut(&target.device).unwrap();
                let version = twin.version;
                let out = self.outcomes[&target.device] == Outcome::Revoked;
                let standing = if out { Standing::Out(ErrorCode::Revoked) } else { Standing::Free };
                effect::send(&self.rollout, target, twin, standing, self.now_ms);
                if target.status == Status::Sent {
                    assert!(twin.version > version, "what is sent is a newer document");
                    assert!(target.tries <= self.rollout.policy.retry.tries, "no more tries than asked for");
                    self.told_ms.insert(target.device.clone(), self.now_ms);
                    self.check_pace();
                }
            }
            Action::Mark { index, status } => {
                let before = &self.devices[*index].status;
                let fell = matches!(before, Status::Confirmed { .. });
                assert!(
                    !before.is_decided() || fell,
                    "what is decided stays decided, but for one that falls back"
                );
                self.devices[*index].status = status.clone();
            }
            Action::Watch => self.rollout.watch(self.now_ms),
            Action::Look { look, follows } => self.rollout.look(look.clone(), follows, self.now_ms),
            Action::Begin => self.rollout.begin(self.now_ms),
            Action::Ask { reason } => self.rollout.ask(reason.clone()),
            Action::GiveWay => self.rollout.give_way(self.now_ms),
            Action::Advance => {
                let asked = self.rollout.policy.approve_waves;
                assert!(!asked || self.rollout.approved_waves > self.rollout.wave, "nobody has approved it");
                self.rollout.advance();
            }
            Action::Succeed => self.rollout.finish(RolloutState::Succeeded, self.now_ms),
            Action::Fail { reason } => self.rollout.fail(reason.clone(), self.now_ms),
            Action::Revert { index } => {
                let target = &mut self.devices[*index];
                let twin = self.twins.get_mut(&target.device).unwrap();
                let (version, before) = (twin.version, twin.clone());
                effect::revert(&self.rollout, target, Some(twin), None, self.now_ms);
                assert!(twin.version > version || *twin == before, "going back is a newer document");
            }
            Action::RolledBack => self.rollout.finish(RolloutState::RolledBack, self.now_ms),
            other => panic!("nobody asked for a shadow: {other:?}"),
        }
    }

    /// What the pace allows is kept over any minute, and at any moment.
    fn check_pace(&self) {
        let pace = &self.rollout.policy.pace;
        let lately = self.told_ms.values().filter(|at| self.now_ms - **at < 60_000).count();
        assert!(
            pace.per_minute.is_none_or(|rate| lately <= rate as usize),
            "{lately} within a minute: {pace:?}"
        );
        let under_way = self.devices.iter().filter(|d| d.status == Status::Sent).count();
        assert!(pace.concurrency.is_none_or(|most| under_way <= most as usize), "{under_way}: {pace:?}");
    }

    fn check_earlier_waves(&self, wave: u32) {
        for earlier in 0..wave {
            let devices = || self.devices.iter().filter(|d| d.wave == earlier);
            assert!(devices().all(|d| d.status.is_decided()), "wave {earlier} is through");
            let failed = devices().filter(|d| matches!(d.status, Status::Failed { .. })).count();
            assert!(failed <= self.rollout.waves[earlier as usize].max_failures as usize);
        }
    }

    /// Some devices see their document and act on it.
    fn live(&mut self, random: &mut SmallRng) {
        self.now_ms += random.random_range(1..DEADLINE_MS / 4);
        for target in &mut self.devices {
            let Some(sent) = target.sent.as_deref().cloned() else { continue };
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
                (Outcome::Fails | Outcome::Flaky, Some(told))
                    if told.release == release() && (outcome == Outcome::Fails || target.tries < 2) =>
                {
                    let flaky = outcome == Outcome::Flaky;
                    let code = if flaky { ErrorCode::Network } else { ErrorCode::ProbeMismatch };
                    ModelReport {
                        phase: Phase::Failed,
                        attempt: told.attempt,
                        failure: Some(Failure { release: release(), code, detail: "so it is".into() }),
                        ..ModelReport::default()
                    }
                }
                (Outcome::FallsBack, Some(told))
                    if told.release == release() && matches!(target.status, Status::Confirmed { .. }) =>
                {
                    ModelReport { phase: Phase::Confirmed, attempt: told.attempt, ..ModelReport::default() }
                }
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
            if !self.rollout.is_active() {
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
            if self.rollout.state == RolloutState::Paused {
                let code = self.rollout.reason.as_ref().map(|reason| reason.code);
                assert_eq!(code, Some(ErrorCode::ApprovalNeeded), "nobody else asks");
                self.rollout.resume(self.now_ms);
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
                    let outcome = self.outcomes[&target.device];
                    use Outcome::{Confirms, FallsBack, Flaky, Late};
                    assert!([Confirms, FallsBack, Flaky, Late].contains(&outcome), "{outcome:?}");
                }
            }
            RolloutState::Failed => {
                assert!(self.rollout.reason.is_some() && self.rollout.policy.on_stop == OnStop::Hold);
                for target in self.touched() {
                    if self.outcomes[&target.device] != Outcome::Superseded {
                        assert_eq!(now(target).unwrap().release, release(), "it keeps what it has");
                    }
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
        5 => Outcome::FallsBack,
        6..10 => Outcome::Flaky,
        _ => Outcome::Confirms,
    }
}

fn any_policy(random: &mut SmallRng) -> Policy {
    let pace = Pace {
        per_minute: random.random_bool(0.3).then(|| random.random_range(1..20)),
        ramp: None,
        concurrency: random.random_bool(0.3).then(|| random.random_range(1..5)),
    };
    let retry = Retry {
        tries: if random.random_bool(0.5) { 3 } else { 1 },
        wait_ms: random.random_range(0..2 * DEADLINE_MS),
        codes: Vec::new(),
    };
    let on_stop = if random.random_bool(0.2) { OnStop::Hold } else { OnStop::GoBack };
    Policy { pace, retry, on_stop, approve_waves: random.random_bool(0.2), ..Policy::default() }
}

#[test]
fn rollouts_end_well_whatever_devices_do() {
    let (mut succeeded, mut rolled_back, mut held) = (0, 0, 0);
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
            Ok(RolloutState::Failed) => held += 1,
            Ok(_) => rolled_back += 1,
            Err(panic) => {
                eprintln!("seed {seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    let ends = format!("{succeeded}, {rolled_back}, {held}");
    assert!(succeeded > 500 && rolled_back > 500 && held > 100, "all ends are seen: {ends}");
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
        world.rollout.policy = Policy::default();
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
    let (rollout, mut devices) = rollout("r1", 1, CANARY);
    let mut twin = Twin::new(devices[0].device.clone(), Settings::default(), 0);
    effect::send(&rollout, &mut devices[0], &mut twin, Standing::Free, 1_000);
    let sent = devices[0].sent.as_deref().cloned().unwrap();
    let status = |version: u64, now_ms: u64, change: &dyn Fn(&mut ModelReport)| {
        let mut report = ModelReport { attempt: sent.attempt, ..ModelReport::default() };
        change(&mut report);
        let observation = Observation {
            revoked: false,
            desired: twin.models.get(&model()).cloned(),
            report: Some(Report { desired_version: version, model: Some(report) }),
            ..Observation::default()
        };
        let observed = Observations::from([(devices[0].device.clone(), observation)]);
        match plan(&rollout, &devices, &observed, now_ms, ACTIONS).as_slice() {
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

// === waiting ===

#[test]
fn a_draft_and_one_that_waits_for_approval_touch_nobody_and_a_scheduled_one_begins_in_time() {
    let (rollout, devices) = rollout("r1", 3, CANARY);
    for state in [RolloutState::Draft, RolloutState::WaitingForApproval] {
        let waits = Rollout { state, ..rollout.clone() };
        assert!(waits.is_active());
        assert_eq!(plan(&waits, &devices, &Observations::new(), u64::MAX, ACTIONS), []);
    }
    let mut scheduled = Rollout { state: RolloutState::Scheduled, starts_at_ms: Some(5_000), ..rollout };
    assert_eq!(plan(&scheduled, &devices, &Observations::new(), 4_999, ACTIONS), []);
    assert_eq!(plan(&scheduled, &devices, &Observations::new(), 5_000, ACTIONS), [Action::Begin]);
    scheduled.begin(5_000);
    assert_eq!(
        plan(&scheduled, &devices, &Observations::new(), 5_000, ACTIONS),
        [Action::SetDesired { index: 0 }]
    );
}

#[test]
fn a_device_is_told_within_its_own_maintenance_window() {
    let (mut rollout, mut devices) = rollout("r1", 3, &[WaveSpec::Rest]);
    rollout.policy.window = Some("daily 01:00-02:00".parse().unwrap());
    devices[1].zone = Some("Asia/Tokyo".into());
    let told = |hour: u64| -> Vec<usize> {
        let actions = plan(&rollout, &devices, &Observations::new(), hour * 3_600_000 + 60_000, ACTIONS);
        let index = |action: &Action| match action {
            Action::SetDesired { index } => *index,
            other => panic!("{other:?}"),
        };
        actions.iter().map(index).collect()
    };
    assert_eq!(told(1), [0, 2]);
    assert_eq!(told(16), [1], "one in the morning in Tokyo");
    assert_eq!(told(2), [] as [usize; 0]);
}

#[test]
fn devices_that_a_newer_rollout_has_end_the_older_one_without_harm() {
    let (mut rollout, mut devices) = rollout("r1", 3, CANARY);
    rollout.superseded_by.push(RolloutId::new("r2").unwrap());
    let taken = Status::Skipped { code: ErrorCode::Superseded, at_ms: 1 };
    devices[0].status = taken.clone();
    assert_eq!(
        plan(&rollout, &devices, &Observations::new(), 2, ACTIONS),
        [Action::Advance],
        "nothing failed"
    );
    rollout.advance();
    let actions = plan(&rollout, &devices, &Observations::new(), 2, ACTIONS);
    assert_eq!(actions, [Action::SetDesired { index: 1 }], "the next one stands for the canary");
    (devices[1].status, devices[2].status) = (taken.clone(), Status::Confirmed { at_ms: 1 });
    assert_eq!(plan(&rollout, &devices, &Observations::new(), 2, ACTIONS), [Action::Succeed]);
    devices[2].status = taken;
    assert_eq!(plan(&rollout, &devices, &Observations::new(), 2, ACTIONS), [Action::GiveWay]);
    rollout.give_way(2);
    assert_eq!(rollout.state, RolloutState::Aborted);
    let reason = rollout.reason.unwrap();
    assert!(reason.code == ErrorCode::Superseded && reason.detail.contains("r2"), "{reason:?}");
}

#[test]
fn one_that_is_told_again_goes_back_to_what_it_ran_before_the_first_time() {
    let (mut rollout, mut devices) = rollout("r1", 1, CANARY);
    rollout.policy.retry = Retry { tries: 3, wait_ms: 1_000, codes: Vec::new() };
    let mut twin = Twin::new(devices[0].device.clone(), Settings::default(), 0);
    twin.want(&model(), Digest::of(b"old release"), 90, 0).unwrap();
    let before = twin.models.get(&model()).cloned();
    for try_ in 1..=3 {
        effect::send(&rollout, &mut devices[0], &mut twin, Standing::Free, 1_000);
        assert_eq!(
            (devices[0].tries, devices[0].sent.as_ref().unwrap().previous.clone()),
            (try_, before.clone())
        );
    }
    // Somebody else's change is not undone.
    let mut other = (devices[0].clone(), twin.clone());
    other.1.want(&model(), Digest::of(b"something else"), 80, 0).unwrap();
    effect::send(&rollout, &mut other.0, &mut other.1, Standing::Free, 2_000);
    assert_eq!(other.0.status.as_str(), "skipped");
    effect::revert(&rollout, &mut devices[0], Some(&mut twin), None, 2_000);
    assert_eq!(twin.models.get(&model()).cloned(), before);
}

#[test]
fn one_of_an_earlier_wave_is_told_again_before_the_next_wave_begins() {
    let (mut rollout, mut devices) = rollout("r1", 3, &[WaveSpec::Devices(1), WaveSpec::Devices(1)]);
    rollout.wave = 1;
    devices[0].status = Status::Retrying { code: ErrorCode::Network, detail: "gone".into(), from_ms: 5 };
    devices[1].status = Status::Confirmed { at_ms: 1 };
    assert_eq!(plan(&rollout, &devices, &Observations::new(), 4, ACTIONS), []);
    assert_eq!(plan(&rollout, &devices, &Observations::new(), 5, ACTIONS), [Action::SetDesired { index: 0 }]);
}

#[test]
fn one_that_was_left_out_after_it_was_told_goes_back_with_the_others() {
    let (mut rollout, mut devices) = rollout("r1", 2, &[WaveSpec::Rest]);
    let mut twin = Twin::new(devices[0].device.clone(), Settings::default(), 0);
    effect::send(&rollout, &mut devices[0], &mut twin, Standing::Free, 1_000);
    devices[0].status = Status::Skipped { code: ErrorCode::Cancelled, at_ms: 2 };
    rollout.state = RolloutState::Stopping;
    let actions = plan(&rollout, &devices, &Observations::new(), 3, ACTIONS);
    assert_eq!(actions, [Action::Revert { index: 0 }]);
    devices[0].status = Status::Skipped { code: ErrorCode::Revoked, at_ms: 2 };
    assert_eq!(plan(&rollout, &devices, &Observations::new(), 3, ACTIONS), [Action::RolledBack]);
}

//! A fleet of devices that do anything, and whoever tells them by a rollout.

use crate::devices::Twin;
use crate::rollout::effect::{self, Standing};
use crate::rollout::planner::{ACTIONS, Action, Observation, Observations, Report, plan};
use crate::rollout::policy::{OnStop, Pace, Policy, Retry};
use crate::rollout::state::{Rollout, RolloutDevice, RolloutState, Status, WaveSpec};
use crate::rollout::testing::{CANARY, DEADLINE_MS, device, model, release, rollout};
use flotilla_protocol::message::{DesiredModel, Failure, ModelReport, Phase, Settings};
use flotilla_protocol::{DeviceId, Digest, ErrorCode};
use rand::Rng;
use rand::rngs::SmallRng;
use std::collections::BTreeMap;

/// What a device makes of the release.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Outcome {
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

pub(super) struct World {
    pub(super) rollout: Rollout,
    pub(super) devices: Vec<RolloutDevice>,
    pub(super) twins: BTreeMap<DeviceId, Twin>,
    pub(super) before: BTreeMap<DeviceId, Option<DesiredModel>>,
    pub(super) outcomes: BTreeMap<DeviceId, Outcome>,
    pub(super) reports: BTreeMap<DeviceId, Report>,
    pub(super) now_ms: u64,
    /// When each device was told last.
    pub(super) told_ms: BTreeMap<DeviceId, u64>,
}

impl World {
    pub(super) fn new(random: &mut SmallRng, outcome: impl Fn(&mut SmallRng) -> Outcome) -> Self {
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

    pub(super) fn observed(&self) -> Observations {
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

    pub(super) fn plan(&self) -> Vec<Action> {
        plan(&self.rollout, &self.devices, &self.observed(), self.now_ms, ACTIONS)
    }

    /// Performs one action as the service does, and checks what must hold at that moment.
    pub(super) fn perform(&mut self, action: &Action) {
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
    pub(super) fn check_pace(&self) {
        let pace = &self.rollout.policy.pace;
        let lately = self.told_ms.values().filter(|at| self.now_ms - **at < 60_000).count();
        assert!(
            pace.per_minute.is_none_or(|rate| lately <= rate as usize),
            "{lately} within a minute: {pace:?}"
        );
        let under_way = self.devices.iter().filter(|d| d.status == Status::Sent).count();
        assert!(pace.concurrency.is_none_or(|most| under_way <= most as usize), "{under_way}: {pace:?}");
    }

    pub(super) fn check_earlier_waves(&self, wave: u32) {
        for earlier in 0..wave {
            let devices = || self.devices.iter().filter(|d| d.wave == earlier);
            assert!(devices().all(|d| d.status.is_decided()), "wave {earlier} is through");
            let failed = devices().filter(|d| matches!(d.status, Status::Failed { .. })).count();
            assert!(failed <= self.rollout.waves[earlier as usize].max_failures as usize);
        }
    }

    /// Some devices see their document and act on it.
    pub(super) fn live(&mut self, random: &mut SmallRng) {
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
    pub(super) fn run(&mut self, random: &mut SmallRng, kills: bool) {
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

    pub(super) fn touched(&self) -> impl Iterator<Item = &RolloutDevice> {
        self.devices.iter().filter(|d| d.sent.is_some())
    }

    pub(super) fn check_end(&self) {
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

pub(super) fn any_outcome(random: &mut SmallRng) -> Outcome {
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

pub(super) fn any_policy(random: &mut SmallRng) -> Policy {
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

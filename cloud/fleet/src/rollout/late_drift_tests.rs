//! A release that is fine at first and drifts two hours later, under the plan that is usual for a large fleet: the real
//! planner and gates in virtual time.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use super::effect::{self, Standing};
use super::figures::Figures;
use super::health::{Baseline, Partner, partner};
use super::planner::{ACTIONS, Action, Observation, Observations, Report, plan};
use super::request::RolloutRequest;
use super::state::{Rollout, RolloutDevice, RolloutState, Status};
use super::testing::{self, model, release};
use crate::devices::Twin;
use flotilla_protocol::Digest;
use flotilla_protocol::message::{ModelReport, Phase, Settings};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

const MINUTE_MS: u64 = 60_000;
const DEVICES: usize = 10_000;
/// How long the release is fine on a device.
const FINE_MS: u64 = 120 * MINUTE_MS;

struct Fleet {
    rollout: Rollout,
    devices: Vec<RolloutDevice>,
    twins: Vec<Twin>,
    /// What the release adds to the drift index of a device after two hours.
    drift: f64,
    now_ms: u64,
}

impl Fleet {
    fn new(seed: u64, drift: f64) -> Self {
        let usual = RolloutRequest::newest(model());
        let (rollout, devices) = testing::rollout(&format!("r{seed}"), DEVICES, &usual.waves(DEVICES));
        let rollout = Rollout { watch: usual.watch(DEVICES).unwrap(), deadline_ms: u64::MAX, ..rollout };
        let twins = devices.iter().map(|d| Twin::new(d.device.clone(), Settings::default(), 0)).collect();
        Self { rollout, devices, twins, drift, now_ms: 1_000_000_000 }
    }

    /// What a device says now: the index of its drift, with the noise of a few hundred predictions.
    fn figures(&self, random: &mut SmallRng, place: usize) -> Figures {
        let sent = self.devices[place].sent.as_ref();
        let runs = sent.map_or_else(|| Digest::of(b"old release"), |_| release());
        let drifts = sent.is_some_and(|sent| self.now_ms >= sent.at_ms + FINE_MS);
        let noise = random.random_range(0.0..0.06);
        Figures {
            release: Some(runs),
            answered: (self.now_ms - 900_000_000) / 1_000,
            drift: Some(0.03 + noise + if drifts { self.drift } else { 0.0 }),
            memory_bytes: 20_000_000,
            received_ms: self.now_ms,
            ..Figures::default()
        }
    }

    fn observed(&self, random: &mut SmallRng) -> Observations {
        let looks = self.rollout.is_look_due(self.now_ms);
        let mut observed = Observations::new();
        let begun =
            self.devices.iter().enumerate().take_while(|(_, device)| device.wave <= self.rollout.wave);
        for (place, device) in begun.filter(|(_, device)| device.sent.is_some()) {
            let twin = &self.twins[place];
            let named = twin.models.get(&model()).cloned();
            let done = device.sent.as_ref().is_some_and(|sent| self.now_ms >= sent.at_ms + 5 * MINUTE_MS);
            let said = ModelReport {
                phase: if done { Phase::Confirmed } else { Phase::Downloading },
                confirmed: done.then(release),
                attempt: named.as_ref().map_or(0, |named| named.attempt),
                ..ModelReport::default()
            };
            let report = Some(Report { desired_version: twin.version, model: Some(said) });
            let figures = looks.then(|| self.figures(random, place));
            observed.insert(
                device.device.clone(),
                Observation { revoked: false, desired: named, report, figures, shadow: None },
            );
            if let Some(waits) = partner(&self.rollout, device).filter(|place| looks && *place < DEVICES) {
                let entry = observed.entry(self.devices[waits].device.clone()).or_default();
                entry.figures = Some(self.figures(random, waits));
            }
        }
        observed
    }

    fn perform(&mut self, random: &mut SmallRng, action: Action) {
        match action {
            Action::SetDesired { index } => {
                let own = self.figures(random, index);
                let waits = partner(&self.rollout, &self.devices[index]).filter(|place| *place < DEVICES);
                let partner = waits.map(|place| Partner {
                    device: self.devices[place].device.clone(),
                    figures: Some(self.figures(random, place)),
                });
                let device = &mut self.devices[index];
                device.baseline = Some(Box::new(Baseline { own, partner }));
                effect::send(&self.rollout, device, &mut self.twins[index], Standing::Free, self.now_ms);
            }
            Action::Mark { index, status } => self.devices[index].status = status,
            Action::Watch => self.rollout.watch(self.now_ms),
            Action::Look { look, follows } => self.rollout.look(look, &follows, self.now_ms),
            Action::Advance => self.rollout.advance(),
            Action::Succeed => self.rollout.finish(RolloutState::Succeeded, self.now_ms),
            Action::Fail { reason } => self.rollout.fail(reason, self.now_ms),
            other => panic!("nobody asked for {other:?}"),
        }
    }

    /// To its end, or until it asks. An operator lets it go on as long as `resumes` says so.
    fn run(&mut self, random: &mut SmallRng, resumes: bool) -> (RolloutState, usize) {
        for _ in 0..5_000 {
            let actions = plan(&self.rollout, &self.devices, &self.observed(random), self.now_ms, ACTIONS);
            let idle = actions.is_empty();
            actions.into_iter().for_each(|action| self.perform(random, action));
            match self.rollout.state {
                RolloutState::Running if idle => self.now_ms += 15 * MINUTE_MS,
                RolloutState::Running => {}
                RolloutState::Paused if resumes => self.rollout.resume(self.now_ms),
                _ => break,
            }
        }
        let told = self.devices.iter().filter(|device| device.status != Status::Pending).count();
        (self.rollout.state, told)
    }
}

#[test]
fn a_release_that_drifts_two_hours_later_is_stopped_before_a_twentieth_of_the_fleet_has_it() {
    for (seed, drift) in (0..20).map(|seed| (seed, if seed % 2 == 0 { 0.3 } else { 0.2 })) {
        let random = &mut SmallRng::seed_from_u64(seed);
        let (state, told) = Fleet::new(seed, drift).run(random, false);
        // The canary alone may be a reason to ask, and of a large effect it is.
        let stops = [(RolloutState::Paused, 1), (RolloutState::Stopping, 401)];
        assert!(
            stops[..if drift > 0.25 { 1 } else { 2 }].contains(&(state, told)),
            "{state:?}, {told}, seed {seed}"
        );
        // Even if somebody waves the canary through, the next wave proves it.
        let (state, told) = Fleet::new(seed, drift).run(random, true);
        assert_eq!(state, RolloutState::Stopping, "seed {seed}");
        assert!(told * 20 < DEVICES, "{told} of {DEVICES} had it, seed {seed}");
    }
}

#[test]
fn a_release_that_does_not_drift_reaches_everybody() {
    let random = &mut SmallRng::seed_from_u64(1);
    assert_eq!(Fleet::new(1, 0.0).run(random, false), (RolloutState::Succeeded, DEVICES));
}

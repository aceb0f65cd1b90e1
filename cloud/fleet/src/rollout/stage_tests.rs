//! The shadow stage: nobody depends on a release before its shadows have shown what it does.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use super::super::planner::{ACTIONS, plan};
use super::super::policy::OnStop;
use super::super::testing::{self, CANARY, model, release};
use super::*;
use flotilla_protocol::Digest;
use flotilla_protocol::message::{Failure, Settings};

const SOAK_MS: u64 = 60_000;

fn old() -> Digest {
    Digest::of(b"old release")
}

/// A rollout to 100 devices with a stage on so many; each runs the release before.
struct Fleet {
    rollout: Rollout,
    devices: Vec<RolloutDevice>,
    twins: Vec<Twin>,
    now_ms: u64,
}

impl Fleet {
    fn new(shadowed: u32) -> Self {
        let (rollout, devices) = testing::rollout("r1", 100, CANARY);
        let stage = ShadowStage::new(shadowed, 1_000, SOAK_MS, 4 * SOAK_MS, None);
        let twin = |device: &RolloutDevice| {
            let mut twin = Twin::new(device.device.clone(), Settings::default(), 0);
            twin.want(&model(), old(), 90, 0).unwrap();
            twin
        };
        let twins = devices.iter().map(twin).collect();
        Self { rollout: Rollout { shadow: Some(stage), ..rollout }, devices, twins, now_ms: 1_000_000 }
    }

    /// Plans with what shadows say, and does what the plan says.
    fn plan(&mut self, say: impl Fn(&RolloutDevice) -> Option<ShadowSeen>) -> Vec<Action> {
        let seen = |device: &RolloutDevice| {
            (device.device.clone(), Observation { shadow: say(device), ..Observation::default() })
        };
        let observed = self.devices.iter().map(seen).collect();
        let actions = plan(&self.rollout, &self.devices, &observed, self.now_ms, ACTIONS);
        let now_ms = self.now_ms;
        for action in &actions {
            match action {
                Action::Shadow { index } => {
                    let twin = Some(&mut self.twins[*index]);
                    shadow(&self.rollout, &mut self.devices[*index], twin, Standing::Free, now_ms);
                }
                Action::Unshadow { index, code } => {
                    let twin = Some(&mut self.twins[*index]);
                    unshadow(&self.rollout, &mut self.devices[*index], twin, *code, now_ms);
                }
                Action::WatchStage { told } => self.rollout.watch_stage(*told, now_ms),
                Action::LookAtStage { look, follows } => {
                    self.rollout.look_at_stage(look.clone(), follows, now_ms);
                }
                Action::EndStage => self.rollout.end_stage(),
                Action::Fail { reason } => self.rollout.fail(reason.clone(), now_ms),
                Action::Ask { reason } => self.rollout.ask(reason.clone()),
                Action::RolledBack => self.rollout.finish(RolloutState::RolledBack, now_ms),
                Action::SetDesired { .. } => {}
                other => panic!("nobody asked for {other:?}"),
            }
        }
        actions
    }

    fn shadows(&self) -> usize {
        self.twins.iter().filter(|twin| twin.shadows.contains_key(&model())).count()
    }

    /// All shadows are told and watched to the end of the first window.
    fn watched(shadowed: u32) -> Self {
        let mut fleet = Self::new(shadowed);
        assert_eq!(fleet.plan(|_| None).len(), shadowed as usize);
        assert_eq!(fleet.shadows(), shadowed as usize);
        assert_eq!(fleet.plan(|_| None), [Action::WatchStage { told: shadowed }]);
        fleet.now_ms += SOAK_MS - 1;
        assert_eq!(fleet.plan(|_| None), [], "not before the window is over");
        fleet.now_ms += 1;
        fleet
    }

    fn says(
        &self,
        agreed: u64,
        failures: u64,
        score: u64,
    ) -> impl Fn(&RolloutDevice) -> Option<ShadowSeen> + use<> {
        let side =
            |score: u64| ShadowSide { confidence_sum: 1_000 * score * 10_000, ..ShadowSide::default() };
        let figures = ShadowTelemetry {
            release: Some(release()),
            against: Some(old()),
            compared: 1_000,
            agreed,
            failures,
            confirmed: side(90),
            shadow: side(score),
            ..ShadowTelemetry::default()
        };
        let received_ms = self.now_ms;
        move |_| Some(ShadowSeen { report: None, figures: Some(figures.clone()), received_ms })
    }

    fn nobody_was_touched(&self) {
        assert!(self.twins.iter().all(|twin| twin.models[&model()].release == old()));
        assert!(self.devices.iter().all(|device| device.status == Status::Pending && device.sent.is_none()));
    }
}

#[test]
fn a_release_that_agrees_as_a_shadow_goes_to_the_first_wave_and_no_shadow_is_left() {
    let mut fleet = Fleet::watched(50);
    fleet.nobody_was_touched();
    let says = fleet.says(990, 0, 89);
    let actions = fleet.plan(says);
    assert!(matches!(&actions[..], [Action::LookAtStage { follows: Follows::Wave, .. }]), "{actions:?}");
    assert_eq!(fleet.plan(|_| None).len(), 50, "the shadows end");
    assert_eq!(fleet.shadows(), 0);
    assert_eq!(fleet.plan(|_| None), [Action::EndStage]);
    assert_eq!(fleet.plan(|_| None), [Action::SetDesired { index: 0 }], "the canary");
}

#[test]
fn a_release_that_does_worse_as_a_shadow_reaches_nobody() {
    for (agreed, failures, score, what) in
        [(700, 0, 90, "disagreement"), (1_000, 50, 90, "failed predictions"), (1_000, 0, 60, "confidence")]
    {
        let mut fleet = Fleet::watched(50);
        let says = fleet.says(agreed, failures, score);
        fleet.plan(says);
        assert_eq!(fleet.rollout.state, RolloutState::Stopping);
        let reason = fleet.rollout.reason.clone().unwrap().detail;
        assert!(reason.contains(what) && reason.contains("on 50 devices"), "{reason}");
        assert_eq!(fleet.plan(|_| None).len(), 50);
        assert_eq!((fleet.plan(|_| None), fleet.shadows()), (vec![Action::EndStage], 0));
        assert_eq!(fleet.plan(|_| None), [Action::RolledBack]);
        fleet.nobody_was_touched();
    }
}

#[test]
fn a_few_shadows_raise_an_alarm_and_silent_ones_a_question() {
    let mut fleet = Fleet::watched(3);
    let says = fleet.says(500, 0, 90);
    fleet.plan(says);
    assert_eq!(fleet.rollout.state, RolloutState::Paused);
    assert!(fleet.rollout.reason.as_ref().unwrap().detail.contains("too few to be certain"));
    fleet.rollout.resume(fleet.now_ms);
    assert_eq!(fleet.plan(|_| None).len(), 3, "the operator's word counts");

    let mut silent = Fleet::watched(3);
    let actions = silent.plan(|_| None);
    assert!(matches!(&actions[..], [Action::LookAtStage { follows: Follows::Window, .. }]), "{actions:?}");
    silent.now_ms += 2 * SOAK_MS;
    silent.plan(|_| None);
    silent.now_ms += 4 * SOAK_MS;
    silent.plan(|_| None);
    assert_eq!(silent.rollout.state, RolloutState::Paused, "silence is no evidence");
    // What came before the window began is none either.
    let mut stale = Fleet::watched(3);
    let says = stale.says(1_000, 0, 90);
    stale.now_ms += SOAK_MS;
    stale.rollout.shadow.as_mut().unwrap().watched.as_mut().unwrap().window_ms = stale.now_ms - 1;
    stale.now_ms += SOAK_MS;
    let actions = stale.plan(says);
    assert!(matches!(&actions[..], [Action::LookAtStage { follows: Follows::Window, .. }]), "{actions:?}");
}

#[test]
fn a_probe_that_fails_stops_the_rollout_and_a_device_without_room_is_replaced() {
    let failed = |code: ErrorCode| {
        move |device: &RolloutDevice| {
            let Some(ShadowPart::Told { attempt }) = device.shadow.as_deref() else { return None };
            let failure = Failure { release: release(), code, detail: "so it is".into() };
            let report = ShadowReport {
                release: release(),
                phase: ShadowPhase::Failed,
                attempt: *attempt,
                bytes_done: 0,
                bytes_total: 0,
                bytes_reused: 0,
                failure: Some(failure),
            };
            Some(ShadowSeen { report: Some(report), ..ShadowSeen::default() })
        }
    };
    let mut fleet = Fleet::new(2);
    fleet.plan(|_| None);
    fleet.plan(failed(ErrorCode::NoRoom));
    assert_eq!((fleet.shadows(), fleet.rollout.state), (0, RolloutState::Running));
    assert_eq!(fleet.plan(|_| None), [Action::Shadow { index: 2 }, Action::Shadow { index: 3 }]);
    fleet.plan(failed(ErrorCode::ProbeMismatch));
    assert_eq!(fleet.rollout.state, RolloutState::Stopping);
    assert_eq!(fleet.rollout.reason.as_ref().unwrap().detail, "it failed as a shadow: so it is");
    fleet.nobody_was_touched();
}

#[test]
fn a_model_that_nobody_runs_yet_needs_no_shadow() {
    let mut fleet = Fleet::new(2);
    fleet.twins.iter_mut().for_each(|twin| twin.clear(0));
    while !matches!(fleet.plan(|_| None)[..], [Action::EndStage]) {}
    assert_eq!(fleet.plan(|_| None), [Action::SetDesired { index: 0 }]);
}

#[test]
fn a_rollout_that_holds_or_is_ended_in_the_stage_leaves_no_shadow_either() {
    let mut held = Fleet::watched(50);
    held.rollout.policy.on_stop = OnStop::Hold;
    let says = held.says(500, 0, 90);
    held.plan(says);
    let mut aborted = Fleet::watched(50);
    aborted.rollout.finish(RolloutState::Aborted, 0);
    for fleet in [&mut held, &mut aborted] {
        assert!(fleet.rollout.is_active(), "there are shadows to be ended");
        assert_eq!(fleet.plan(|_| None).len(), 50);
        assert_eq!((fleet.plan(|_| None), fleet.shadows()), (vec![Action::EndStage], 0));
        assert!(!fleet.rollout.is_active());
        assert_eq!(fleet.plan(|_| None), []);
    }
}

#[test]
fn a_shadow_that_an_operator_has_started_stays() {
    let mut fleet = Fleet::new(100);
    fleet.twins[7].shadow(&model(), Digest::of(b"another"), 80, 1_000, 0).unwrap();
    fleet.plan(|_| None);
    assert_eq!(fleet.devices[7].shadow.as_deref(), Some(&ShadowPart::Out { code: ErrorCode::Busy }));
    // Another one takes the place of ours meanwhile.
    fleet.twins[8].shadow(&model(), Digest::of(b"another"), 80, 1_000, 0).unwrap();
    fleet.rollout.finish(RolloutState::Aborted, 0);
    fleet.plan(|_| None);
    assert_eq!(fleet.shadows(), 2);
}

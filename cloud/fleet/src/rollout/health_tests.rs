//! A wave that is watched: it waits for evidence, stops at harm, and asks where nothing is certain.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use super::super::planner::{ACTIONS, Action, Observation, Observations, Report, plan};
use super::super::state::{RolloutState, Sent, WaveSpec};
use super::super::testing::{self, release};
use super::*;
use crate::ingest::LatestSample;
use flotilla_protocol::message::{
    DesiredModel, Failure, Histogram, ModelReport, ModelTelemetry, Phase, TelemetrySample,
};
use flotilla_protocol::{Digest, ModelName};

const SOAK_MS: u64 = 60_000;

/// A rollout to 81 devices whose second wave of 40 has confirmed the release.
struct Fleet {
    rollout: Rollout,
    devices: Vec<RolloutDevice>,
    now_ms: u64,
}

fn figures(release: Digest, answered: u64, failed: u64) -> Figures {
    Figures { release: Some(release), answered, failed, memory_bytes: 20_000_000, ..Figures::default() }
}

fn old(answered: u64, failed: u64) -> Figures {
    figures(Digest::of(b"old release"), answered, failed)
}

impl Fleet {
    fn new() -> Self {
        let (rollout, mut devices) =
            testing::rollout("r1", 81, &[WaveSpec::Devices(1), WaveSpec::Devices(40)]);
        let watch = Watch { soak_ms: SOAK_MS, max_soak_ms: 4 * SOAK_MS, health: Health::default() };
        let rollout = Rollout { wave: 1, deadline_ms: 1_000, watch: Some(watch), ..rollout };
        let partners: Vec<Option<DeviceId>> = devices
            .iter()
            .map(|device| {
                partner(&rollout, device).and_then(|place| devices.get(place)).map(|d| d.device.clone())
            })
            .collect();
        for (device, partner) in devices.iter_mut().zip(partners).filter(|(device, _)| device.wave < 2) {
            device.status = Status::Confirmed { at_ms: 0 };
            let partner = partner.map(|device| Partner { device, figures: Some(old(1_000, 10)) });
            let sent = Sent { desired_version: 2, attempt: 1, at_ms: 0, previous: None };
            device.sent = Some(Box::new(sent));
            device.baseline = Some(Box::new(Baseline { own: old(1_000, 10), partner }));
        }
        Self { rollout, devices, now_ms: 1_000_000 }
    }

    /// What is known of a device beside its figures: it runs what it was told to.
    fn stands(&self, device: &RolloutDevice) -> Observation {
        let Some(sent) = &device.sent else { return Observation::default() };
        let desired = DesiredModel { release: release(), envelope_bytes: 100, attempt: sent.attempt };
        let model =
            ModelReport { confirmed: Some(release()), attempt: sent.attempt, ..ModelReport::default() };
        let report = Report { desired_version: sent.desired_version, model: Some(model) };
        Observation { desired: Some(desired), report: Some(report), ..Observation::default() }
    }

    /// Plans with what updated and waiting devices say now, and does what the plan says.
    fn plan(&mut self, updated: &Figures, waiting: &Figures) -> Vec<Action> {
        let say = |device: &RolloutDevice| {
            let figures = if device.wave <= self.rollout.wave { updated } else { waiting };
            let figures = Figures { received_ms: self.now_ms, ..figures.clone() };
            (device.device.clone(), Observation { figures: Some(figures), ..self.stands(device) })
        };
        let observed: Observations = self.devices.iter().map(say).collect();
        let actions = plan(&self.rollout, &self.devices, &observed, self.now_ms, ACTIONS);
        for action in &actions {
            match action {
                Action::Watch => self.rollout.watch(self.now_ms),
                Action::Look { look, follows } => self.rollout.look(look.clone(), follows, self.now_ms),
                Action::Advance => self.rollout.advance(),
                _ => {}
            }
        }
        actions
    }

    /// The wave is watched to the end of its first window.
    fn watched() -> Self {
        let mut fleet = Self::new();
        assert_eq!(fleet.plan(&Figures::default(), &Figures::default()), [Action::Watch]);
        assert!(!fleet.rollout.is_look_due(fleet.now_ms));
        fleet.now_ms += SOAK_MS - 1;
        assert_eq!(fleet.plan(&Figures::default(), &Figures::default()), [], "not before the window is over");
        fleet.now_ms += 1;
        assert!(fleet.rollout.is_look_due(fleet.now_ms));
        fleet
    }
}

#[test]
fn each_device_is_compared_with_one_that_waits_and_no_two_with_the_same() {
    let fleet = Fleet::new();
    let of = |wave: u32| -> Vec<DeviceId> {
        let members = fleet.devices.iter().filter(|device| device.wave == wave);
        let places = members.filter_map(|device| partner(&fleet.rollout, device));
        places.filter_map(|place| fleet.devices.get(place)).map(|device| device.device.clone()).collect()
    };
    let waiting: std::collections::BTreeSet<_> = of(1).into_iter().collect();
    assert_eq!(waiting.len(), 40);
    let last = fleet.devices.iter().filter(|device| device.wave == 2);
    assert!(last.clone().all(|device| waiting.contains(&device.device)));
    assert_eq!((of(0).len(), of(2).len()), (1, 0), "nobody waits for the last wave");
}

#[test]
fn a_release_that_does_as_well_goes_on_once_that_is_shown() {
    let mut fleet = Fleet::watched();
    // Both fail more often than before: it is the day's light, not the release.
    let actions = fleet.plan(&figures(release(), 1_000, 60), &old(2_000, 70));
    assert!(matches!(&actions[..], [Action::Look { follows: Follows::Wave, .. }]), "{actions:?}");
    assert_eq!(fleet.plan(&Figures::default(), &Figures::default()), [Action::Advance]);
    assert_eq!((fleet.rollout.wave, &fleet.rollout.watched), (2, &None));
}

#[test]
fn a_release_that_does_worse_than_those_that_wait_is_stopped_with_the_reason() {
    let mut fleet = Fleet::watched();
    let actions = fleet.plan(&figures(release(), 1_000, 60), &old(2_000, 20));
    assert!(matches!(&actions[..], [Action::Look { follows: Follows::Stop(_), .. }]), "{actions:?}");
    assert_eq!(fleet.rollout.state, RolloutState::Stopping);
    let reason = fleet.rollout.reason.clone().unwrap();
    assert_eq!(reason.code, ErrorCode::ProbationFailed);
    assert!(
        reason.detail.contains("failed predictions +") && reason.detail.contains("40 devices"),
        "{reason:?}"
    );
}

#[test]
fn where_nothing_is_certain_windows_grow_then_it_asks_and_an_operator_decides() {
    let mut fleet = Fleet::watched();
    // Hardly anybody asks them for anything.
    let (updated, waiting) = (figures(release(), 5, 0), old(1_005, 10));
    let window = |actions: &[Action]| matches!(actions, [Action::Look { follows: Follows::Window, .. }]);
    assert!(window(&fleet.plan(&updated, &waiting)));
    fleet.now_ms += 2 * SOAK_MS - 1;
    assert_eq!(fleet.plan(&updated, &waiting), []);
    fleet.now_ms += 1;
    assert!(window(&fleet.plan(&updated, &waiting)));
    // The last window ends with the longest watch.
    fleet.now_ms += SOAK_MS;
    let actions = fleet.plan(&updated, &waiting);
    assert!(matches!(&actions[..], [Action::Look { follows: Follows::Pause(_), .. }]), "{actions:?}");
    assert_eq!(fleet.rollout.state, RolloutState::Paused);
    assert!(fleet.rollout.reason.as_ref().unwrap().detail.contains("resume or roll back"));
    assert_eq!(fleet.plan(&updated, &waiting), []);
    fleet.rollout.resume(fleet.now_ms);
    assert_eq!(fleet.plan(&updated, &waiting), [Action::Advance]);
}

#[test]
fn silence_speaks_for_no_release_and_old_figures_are_none() {
    let mut fleet = Fleet::watched();
    // All have said that all is well, before the window.
    let say = |device: &RolloutDevice| {
        let figures = if device.wave < 2 { figures(release(), 1_000, 10) } else { old(2_000, 20) };
        let seen = Observation { figures: Some(figures), ..fleet.stands(device) };
        (device.device.clone(), seen)
    };
    let observed: Observations = fleet.devices.iter().map(say).collect();
    let actions = plan(&fleet.rollout, &fleet.devices, &observed, fleet.now_ms, ACTIONS);
    let [Action::Look { look, follows }] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!((look.findings.len(), follows), (0, &Follows::Window));
    // A device that waits is no witness if it already runs the release.
    let actions = fleet.plan(&figures(release(), 1_000, 60), &figures(release(), 2_000, 20));
    assert!(matches!(&actions[..], [Action::Look { follows: Follows::Window, .. }]), "{actions:?}");
}

#[test]
fn a_device_that_falls_back_while_its_wave_is_watched_counts_as_failed() {
    let fleet = Fleet::watched();
    let fallen = &fleet.devices[1];
    let mut seen = fleet.stands(fallen);
    let model = seen.report.as_mut().unwrap().model.as_mut().unwrap();
    model.confirmed = Some(Digest::of(b"old release"));
    model.phase = Phase::Failed;
    model.failure =
        Some(Failure { release: release(), code: ErrorCode::ModelCrashed, detail: "again and again".into() });
    let observed = Observations::from([(fallen.device.clone(), seen)]);
    let actions = plan(&fleet.rollout, &fleet.devices, &observed, fleet.now_ms, ACTIONS);
    let [Action::Mark { index: 1, status: Status::Failed { code, .. } }] = &actions[..] else {
        panic!("{actions:?}")
    };
    assert_eq!(*code, ErrorCode::ModelCrashed);
    // It need not say why, and nobody waits for its time to be over.
    let mut seen = fleet.stands(fallen);
    seen.report.as_mut().unwrap().model.as_mut().unwrap().confirmed = None;
    let observed = Observations::from([(fallen.device.clone(), seen)]);
    let actions = plan(&fleet.rollout, &fleet.devices, &observed, 1, ACTIONS);
    let [Action::Mark { index: 1, status: Status::Failed { code, .. } }] = &actions[..] else {
        panic!("{actions:?}")
    };
    assert_eq!(*code, ErrorCode::WrongState);
}

#[test]
fn a_release_under_which_agents_start_again_and_again_is_stopped_whatever_else_it_says() {
    let mut fleet = Fleet::watched();
    let fine = figures(release(), 1_000, 10);
    let actions = fleet.plan(&Figures { starts: 3, ..fine.clone() }, &old(2_000, 20));
    let [Action::Look { follows: Follows::Stop(reason), .. }] = &actions[..] else { panic!("{actions:?}") };
    assert!(reason.contains("starts a day"), "{reason}");
    // A power cut takes all of them down, and their counts of predictions with them.
    let mut fleet = Fleet::watched();
    let actions = fleet.plan(&Figures { starts: 1, ..fine }, &Figures { starts: 1, ..old(50, 0) });
    let [Action::Look { look, follows: Follows::Window }] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!(look.findings.iter().map(|finding| finding.metric).collect::<Vec<_>>(), [Metric::Restarts]);
}

#[test]
fn a_few_devices_that_do_harm_are_a_reason_to_ask_and_so_are_those_of_the_last_wave() {
    // The canary fails every tenth request: no evidence, but no reason to go on, either.
    let mut fleet = Fleet::new();
    fleet.rollout.wave = 0;
    for device in fleet.devices.iter_mut().filter(|device| device.wave == 1) {
        (device.status, device.baseline) = (Status::Pending, None);
    }
    let (updated, waiting) = (figures(release(), 900, 100), old(2_000, 20));
    assert_eq!(fleet.plan(&updated, &waiting), [Action::Watch]);
    fleet.now_ms += SOAK_MS;
    let actions = fleet.plan(&updated, &waiting);
    let [Action::Look { follows: Follows::Pause(why), .. }] = &actions[..] else { panic!("{actions:?}") };
    assert!(why.contains("too few to be certain") && why.contains("failed predictions +"), "{why}");

    // Nobody waits any more: what is worse may be the day.
    let mut fleet = Fleet::watched();
    for device in fleet.devices.iter_mut().filter(|device| device.wave == 1) {
        device.baseline.as_mut().unwrap().partner = None;
    }
    let actions = fleet.plan(&figures(release(), 900, 100), &waiting);
    let [Action::Look { follows: Follows::Pause(why), .. }] = &actions[..] else { panic!("{actions:?}") };
    assert!(why.contains("nobody waits any more"), "{why}");
}

#[test]
fn a_pause_begins_the_window_anew_and_a_clock_that_was_ahead_does_too() {
    let mut fleet = Fleet::watched();
    fleet.rollout.state = RolloutState::Paused;
    fleet.now_ms += 100 * SOAK_MS;
    fleet.rollout.resume(fleet.now_ms);
    assert!(!fleet.rollout.is_look_due(fleet.now_ms), "what was said during the pause is no evidence");
    fleet.now_ms -= 50 * SOAK_MS;
    assert!(fleet.rollout.is_look_due(fleet.now_ms));
    assert_eq!(fleet.plan(&Figures::default(), &Figures::default()), [Action::Watch]);
}

#[test]
fn figures_are_those_of_the_release_and_those_of_a_device_that_waits_of_the_time_since() {
    let mut latency = Histogram::default();
    (0..100).for_each(|n| latency.record(600 + n * 4));
    let model: ModelName = "digits".parse().unwrap();
    let telemetry = ModelTelemetry {
        release: Some(release()),
        predictions: 100,
        failures: 25,
        latency,
        confidence: vec![0, 0, 0, 0, 0, 0, 0, 0, 50, 50],
        ..ModelTelemetry::default()
    };
    let sample = TelemetrySample { rss_bytes: 7, ..TelemetrySample::default() };
    let device = DeviceId::new("d1").unwrap();
    let mut latest = LatestSample { device, at_ms: 1, received_ms: 2, starts: 3, sample };
    assert_eq!(Figures::of(&latest, &model), None);
    latest.sample.models.insert(model.clone(), telemetry);
    let said = Figures::of(&latest, &model).unwrap();
    let metrics = said.metrics();
    assert_eq!((metrics[&Metric::Errors], metrics[&Metric::Memory]), (0.2, 7.0));
    assert!((metrics[&Metric::Confidence] - 0.9).abs() < 1e-9);
    assert!((950.0..1_024.0).contains(&metrics[&Metric::LatencyP95]), "{metrics:?}");

    // Slower and less sure since then: the long time before does not hide it.
    let mut later = said.clone();
    (later.answered, later.failed) = (280, 45);
    (0..180).for_each(|_| later.latency.record(5_000));
    later.confidence[5] += 180;
    let since = later.since(&said).unwrap().metrics();
    assert_eq!((since[&Metric::Errors], since[&Metric::Confidence]), (0.1, 0.55));
    assert!(since[&Metric::LatencyP95] > 4_096.0);
    let few = Figures { answered: 110, ..said.clone() }.since(&said).unwrap();
    assert!(!few.metrics().contains_key(&Metric::Errors), "too few to speak of");
    assert_eq!(Figures { answered: 3, ..said.clone() }.since(&said), None, "started anew");
    assert_eq!(old(500, 30).since(&said), None, "another release");
}

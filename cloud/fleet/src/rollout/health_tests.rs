//! A wave that is watched: it waits for evidence, stops at harm, and asks where nothing is certain.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use super::super::planner::{Action, Observation, Observations, plan};
use super::super::state::{RolloutState, Wanted, WaveSpec, resolve};
use super::*;
use flotilla_protocol::message::ModelTelemetry;
use flotilla_protocol::{ActorId, RolloutId};

const SOAK_MS: u64 = 60_000;

/// A rollout to 41 devices whose second wave of 20 has confirmed the release.
struct Fleet {
    rollout: Rollout,
    devices: Vec<RolloutDevice>,
    now_ms: u64,
}

fn release() -> Digest {
    Digest::of(b"new release")
}

fn figures(release: Digest, answered: u64, failed: u64) -> Figures {
    Figures { release: Some(release), answered, failed, memory_bytes: 20_000_000, ..Figures::default() }
}

fn old(answered: u64, failed: u64) -> Figures {
    figures(Digest::of(b"old release"), answered, failed)
}

impl Fleet {
    fn new() -> Self {
        let id = RolloutId::new("r1").unwrap();
        let names = (0..41).map(|n| DeviceId::new(format!("d{n}")).unwrap()).collect();
        let (waves, mut devices) = resolve(&id, names, &[WaveSpec::Devices(1), WaveSpec::Devices(20)]);
        let rollout = Rollout {
            id,
            model: "digits".parse().unwrap(),
            wanted: Wanted { release: release(), envelope_bytes: 100, version: 2, counter: 2 },
            waves,
            state: RolloutState::Running,
            wave: 1,
            deadline_ms: 1_000,
            counted_from_ms: 0,
            created_by: ActorId::new("administrator").unwrap(),
            created_at_ms: 0,
            finished_at_ms: None,
            reason: None,
            watch: Some(Watch { soak_ms: SOAK_MS, max_soak_ms: 4 * SOAK_MS, health: Health::default() }),
            watched: None,
        };
        let partners: Vec<Option<DeviceId>> = devices
            .iter()
            .map(|device| {
                partner(&rollout, device).and_then(|place| devices.get(place)).map(|d| d.device.clone())
            })
            .collect();
        for (device, partner) in devices.iter_mut().zip(partners).filter(|(device, _)| device.wave < 2) {
            device.status = Status::Confirmed { at_ms: 0 };
            let partner = partner.map(|device| Partner { device, figures: Some(old(1_000, 10)) });
            device.baseline = Some(Baseline { own: old(1_000, 10), partner });
        }
        Self { rollout, devices, now_ms: 1_000_000 }
    }

    /// Plans with what updated and waiting devices say now, and does what the plan says.
    fn plan(&mut self, updated: &Figures, waiting: &Figures) -> Vec<Action> {
        let say = |device: &RolloutDevice| {
            let figures = if device.wave < 2 { updated } else { waiting };
            let seen = Observation { figures: Some(figures.clone()), ..Observation::default() };
            (device.device.clone(), seen)
        };
        let observed: Observations = self.devices.iter().map(say).collect();
        let actions = plan(&self.rollout, &self.devices, &observed, self.now_ms);
        for action in &actions {
            match action {
                Action::Watch => self.rollout.watch(self.now_ms),
                Action::Look { look, follows } => self.rollout.look(look.clone(), follows),
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
    assert_eq!(waiting.len(), 20);
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
    assert_eq!(fleet.rollout.state, RolloutState::Failed);
    let reason = fleet.rollout.reason.clone().unwrap();
    assert_eq!(reason.code, ErrorCode::ProbationFailed);
    assert!(
        reason.detail.contains("failed predictions +") && reason.detail.contains("20 devices"),
        "{reason:?}"
    );
}

#[test]
fn where_nothing_is_certain_windows_grow_then_it_asks_and_an_operator_decides() {
    let mut fleet = Fleet::watched();
    // They serve another release by now: nothing can be compared.
    let (updated, waiting) = (old(5, 0), old(5, 0));
    let actions = fleet.plan(&updated, &waiting);
    assert!(matches!(&actions[..], [Action::Look { follows: Follows::Window, .. }]), "{actions:?}");
    assert_eq!(fleet.plan(&updated, &waiting), []);
    fleet.now_ms += SOAK_MS;
    assert!(matches!(&fleet.plan(&updated, &waiting)[..], [Action::Look { follows: Follows::Window, .. }]));
    fleet.now_ms += 2 * SOAK_MS;
    assert!(matches!(&fleet.plan(&updated, &waiting)[..], [Action::Look { follows: Follows::Pause(_), .. }]));
    assert_eq!(fleet.rollout.state, RolloutState::Paused);
    assert!(fleet.rollout.reason.as_ref().unwrap().detail.contains("resume or roll back"));
    assert_eq!(fleet.plan(&updated, &waiting), []);
    fleet.rollout.resume(fleet.now_ms);
    assert_eq!(fleet.plan(&updated, &waiting), [Action::Advance]);
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
    let mut sample = TelemetrySample { rss_bytes: 7, ..TelemetrySample::default() };
    assert_eq!(Figures::of(&sample, &model), None);
    sample.models.insert(model.clone(), telemetry);
    let said = Figures::of(&sample, &model).unwrap();
    let metrics = said.metrics();
    assert_eq!((metrics[&Metric::Errors], metrics[&Metric::Memory]), (0.2, 7.0));
    assert!((metrics[&Metric::Confidence] - 0.9).abs() < 1e-9);
    assert!((950.0..1_024.0).contains(&metrics[&Metric::LatencyP95]), "{metrics:?}");

    let later = Figures { answered: 180, failed: 45, ..said.clone() };
    assert_eq!(later.metrics_since(&said)[&Metric::Errors], 0.2);
    assert!(
        !Figures { answered: 110, ..said.clone() }.metrics_since(&said).contains_key(&Metric::Errors),
        "too few"
    );
    assert!(Figures { answered: 3, ..said.clone() }.metrics_since(&said).is_empty(), "started anew");
    assert!(old(500, 30).metrics_since(&said).is_empty(), "another release");
}

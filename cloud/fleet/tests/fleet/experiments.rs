//! Two releases on two halves of a fleet: the worse one loses, and the better one goes to all.

use crate::support::{Device, Installation, device, model, soon};
use flotilla_fleet::{
    Error, Experiment, ExperimentRequest, ExperimentState, RolloutRequest, RolloutState, WaveSpec, Winner,
};
use flotilla_gates::versus::Side;
use flotilla_identity::audit;
use flotilla_protocol::manifest::ENGINE_TRACT;
use flotilla_protocol::message::{
    BoardFacts, Epoch, Hello, ModelTelemetry, Record, RecordBody, Stream, TelemetryBatch, TelemetrySample,
};
use flotilla_protocol::topic::Up;
use flotilla_protocol::{DeviceId, Digest, ErrorCode, ExperimentId, RolloutId};
use std::collections::BTreeMap;
use std::time::Duration;

/// Devices of both halves together.
const DEVICES: usize = 80;

struct Fleet {
    installation: Installation,
    devices: Vec<Device>,
    seq: u64,
}

impl Fleet {
    /// Devices that say which engine they have, and one that has none that could run the release.
    async fn open(folder: &std::path::Path, devices: usize) -> Self {
        let installation = Installation::open(folder).await;
        let mut fleet = Self { installation, devices: Vec::new(), seq: 0 };
        for n in 0..devices {
            fleet.devices.push(fleet.installation.device(&format!("d{n}")).await);
        }
        for device in &mut fleet.devices {
            let hello = Hello {
                protocol: 1,
                agent: "test 1.0".into(),
                counter: 2,
                epoch: Epoch(7),
                desired_version: 0,
                trust_version: device.trust.version,
                board: BoardFacts {
                    board: "test-board".into(),
                    cpus: 4,
                    engines: vec![ENGINE_TRACT.into()],
                    ..BoardFacts::default()
                },
            };
            device.send(Up::Hello, &hello).await;
            let id = device.id.clone();
            fleet.installation.until(id.as_str(), |view| !view.board.engines.is_empty()).await;
        }
        fleet
    }

    /// All devices run a release.
    async fn run(&mut self, release: Digest) {
        let request =
            RolloutRequest { waves: Some(vec![WaveSpec::Rest]), ..RolloutRequest::newest(model("digits")) };
        let (fleet, admin) = (&self.installation.fleet, &self.installation.admin);
        let rollout = fleet.start_rollout(admin, request).await.unwrap();
        for device in &mut self.devices {
            let desired = device.desired_release("digits", Some(release)).await;
            device.confirm(&desired, "digits").await;
        }
        let mut changes = fleet.watch();
        soon(async {
            while fleet.rollout(&rollout.id).await.unwrap().state != RolloutState::Succeeded {
                let _ = changes.recv().await;
            }
        })
        .await;
    }

    /// The devices that a rollout is for, in its order, once it has begun.
    async fn order(&self, rollout: &RolloutId) -> Vec<DeviceId> {
        let fleet = &self.installation.fleet;
        soon(async {
            while fleet.rollout(rollout).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        let devices = fleet.rollout_devices(rollout).await.unwrap();
        devices.into_iter().map(|device| device.device).collect()
    }

    /// The devices of a rollout get the release and confirm it: one first, and then the rest.
    async fn update(&mut self, order: &[DeviceId], release: Digest) {
        for id in order {
            let device = self.devices.iter_mut().find(|device| device.id == *id).unwrap();
            let desired = device.desired_release("digits", Some(release)).await;
            device.confirm(&desired, "digits").await;
        }
    }

    /// Each device says how often its release has answered and failed.
    async fn say(&mut self, figures: impl Fn(&Device) -> (Digest, u64, u64)) {
        self.seq += 1;
        let seq = self.seq;
        for device in &mut self.devices {
            let (release, predictions, failures) = figures(device);
            let telemetry =
                ModelTelemetry { release: Some(release), predictions, failures, ..ModelTelemetry::default() };
            let models = [(model("digits"), telemetry)].into();
            let sample =
                TelemetrySample { uptime_s: seq, rss_bytes: 1 << 20, models, ..TelemetrySample::default() };
            let record = Record { seq, at_ms: 1_000 * seq, body: RecordBody::Sample(sample) };
            let batch = TelemetryBatch {
                epoch: Epoch(7),
                stream: Stream::Live,
                records: vec![record],
                dropped: vec![],
            };
            device.send(Up::Telemetry, &batch).await;
        }
        // The last one that was sent has been heard.
        let (id, predictions) =
            self.devices.last().map(|device| (device.id.clone(), figures(device).1)).unwrap();
        self.installation
            .until(id.as_str(), |view| view.models.first().is_some_and(|m| m.predictions == predictions))
            .await;
    }

    async fn until(&self, id: &ExperimentId, wanted: ExperimentState) -> Experiment {
        soon(async {
            loop {
                let experiment = self.installation.fleet.experiment(id).await.unwrap();
                if experiment.state == wanted {
                    return experiment;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_releases_the_one_that_fails_more_often_loses_and_the_other_goes_to_all() {
    let folder = tempfile::tempdir().unwrap();
    let mut fleet = Fleet::open(folder.path(), DEVICES).await;
    let a = fleet.installation.release("digits", 1.0).await;
    fleet.run(a.digest).await;
    fleet.say(|_| (a.digest, 1_000, 10)).await;
    // One that has never connected takes no part.
    fleet.installation.enrol("stranger").await;

    let b = fleet.installation.release("digits", 2.0).await;
    let request = ExperimentRequest {
        soak_s: Some(3),
        max_soak_s: Some(60),
        winner: Winner::Auto,
        ..ExperimentRequest::of(a.digest, b.digest)
    };
    let (service, admin) = (fleet.installation.fleet.clone(), fleet.installation.admin.clone());
    let experiment = service.start_experiment(&admin, request.clone()).await.unwrap();
    assert_eq!((experiment.a.devices, experiment.b.devices), (40, 40));
    assert_eq!(experiment.a.rollout, None, "A is what runs: nothing is sent to those that run it");
    assert_eq!(experiment.left_out, BTreeMap::from([("network".to_owned(), 1)]));
    let second = service.start_experiment(&admin, request).await.unwrap_err();
    assert_eq!(second.code(), ErrorCode::AlreadyExists, "{second}");

    let tries_b = fleet.order(&experiment.b.rollout.clone().unwrap()).await;
    fleet.update(&tries_b, b.digest).await;
    fleet.until(&experiment.id, ExperimentState::Comparing).await;
    for round in 0..40 {
        fleet
            .say(|device| {
                if tries_b.contains(&device.id) {
                    (b.digest, 400 + round, 60)
                } else {
                    (a.digest, 2_000 + round, 20)
                }
            })
            .await;
        if service.experiment(&experiment.id).await.unwrap().state == ExperimentState::Promoting {
            break;
        }
    }
    let promoting = fleet.until(&experiment.id, ExperimentState::Promoting).await;
    let decision = promoting.decision.unwrap();
    assert_eq!(decision.winner, Some(Side::A));
    assert!(decision.reason.contains("b does worse: failed predictions +"), "{}", decision.reason);
    let promotion = promoting.promotion.unwrap().rollout;
    let others = fleet.order(&promotion).await;
    fleet.update(&others, a.digest).await;
    fleet.until(&experiment.id, ExperimentState::Succeeded).await;
    // The rollouts name the experiment, and the evidence is in the audit trail.
    let promotion = service.rollout(&promotion).await.unwrap();
    assert_eq!(promotion.created_by.as_str(), experiment.id.as_str());
    let trail =
        audit::list(&*fleet.installation.records, audit::Order::NewestFirst, None, 500).await.unwrap();
    let said = trail.iter().find(|entry| entry.detail["state"] == "promoting").unwrap();
    assert_eq!(said.detail["compared"]["b"]["findings"][0]["verdict"], "worse", "{}", said.detail);
    fleet.installation.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_experiment_outlives_the_control_plane_and_a_stop_takes_both_halves_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut fleet = Fleet::open(folder.path(), 4).await;
    let old = fleet.installation.release("digits", 1.0).await;
    fleet.run(old.digest).await;
    let a = fleet.installation.release("digits", 2.0).await;
    let b = fleet.installation.release("digits", 3.0).await;
    let admin = fleet.installation.admin.clone();
    let request = ExperimentRequest::of(a.digest, b.digest);
    let experiment = fleet.installation.fleet.start_experiment(&admin, request).await.unwrap();
    let Fleet { installation, devices, .. } = fleet;
    drop(devices);
    installation.close().await;

    let installation = Installation::open(folder.path()).await;
    let fleet = Fleet { installation, devices: Vec::new(), seq: 0 };
    assert_eq!(fleet.order(&experiment.b.rollout.clone().unwrap()).await.len(), 2);
    let service = fleet.installation.fleet.clone();
    assert_eq!(service.rollouts(None, 10).await.unwrap().len(), 3, "each half has one, and one only");
    let early = service.promote_experiment(&admin, &experiment.id, Some(Side::A), false).await.unwrap_err();
    assert!(matches!(early, Error::ExperimentState { .. }), "{early}");
    service.stop_experiment(&admin, &experiment.id, true).await.unwrap();
    soon(async {
        while service.experiment(&experiment.id).await.unwrap().is_active() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    for half in [experiment.a.rollout, experiment.b.rollout] {
        assert_eq!(service.rollout(&half.unwrap()).await.unwrap().state, RolloutState::RolledBack);
    }
    for n in 0..4 {
        let twin = service.device(&device(&format!("d{n}"))).await.unwrap();
        let wanted = twin.models.iter().find(|of| of.model == model("digits")).unwrap();
        assert_eq!(wanted.wanted.as_ref().map(|of| of.digest), Some(old.digest), "{wanted:?}");
    }
    fleet.installation.close().await;
}

//! Waves that are watched: a release that does worse than what waiting devices run is stopped before they get it.

use crate::rollouts::both;
use crate::support::{Device, Installation, model, soon};
use flotilla_fleet::{
    Rollout, RolloutControl, RolloutDevice, RolloutRequest, RolloutState, Status, WaveSpec,
};
use flotilla_identity::audit;
use flotilla_protocol::message::{
    Epoch, ModelTelemetry, Record, RecordBody, Stream, TelemetryBatch, TelemetrySample,
};
use flotilla_protocol::topic::Up;
use flotilla_protocol::{Digest, ErrorCode, RolloutId};
use flotilla_registry::Release;
use std::collections::BTreeMap;

/// Devices of each of the two waves.
const WAVE: usize = 40;

/// A fleet whose devices all run the same release.
struct Fleet {
    installation: Installation,
    devices: Vec<Device>,
    /// Samples that were sent.
    seq: u64,
}

impl Fleet {
    async fn running(installation: Installation, release: &Release) -> Self {
        let mut devices = Vec::new();
        for n in 0..2 * WAVE {
            devices.push(installation.device(&format!("d{n}")).await);
        }
        let mut fleet = Self { installation, devices, seq: 0 };
        let request =
            RolloutRequest { waves: Some(vec![WaveSpec::Rest]), ..RolloutRequest::newest(model("digits")) };
        let rollout = fleet.start(request).await;
        for device in &mut fleet.devices {
            let desired = device.desired_release("digits", Some(release.digest)).await;
            device.confirm(&desired, "digits").await;
        }
        fleet.until(&rollout.id, |rollout| rollout.state == RolloutState::Succeeded).await;
        fleet
    }

    async fn start(&self, request: RolloutRequest) -> Rollout {
        self.installation.fleet.start_rollout(&self.installation.admin, request).await.unwrap()
    }

    async fn until(
        &self,
        id: &RolloutId,
        wanted: impl Fn(&Rollout) -> bool,
    ) -> (Rollout, Vec<RolloutDevice>) {
        let mut changes = self.installation.fleet.watch();
        soon(async {
            loop {
                let (rollout, devices) = both(&self.installation, id).await;
                if wanted(&rollout) {
                    return (rollout, devices);
                }
                let _ = changes.recv().await;
            }
        })
        .await
    }

    /// Each device says how often its release has answered and failed, and is heard.
    async fn say(&mut self, figures: impl Fn(&Device) -> (Digest, u64, u64)) {
        self.seq += 1;
        let seq = self.seq;
        let mut expected = BTreeMap::new();
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
            expected.insert(device.id.clone(), predictions);
        }
        for (id, predictions) in expected {
            let heard = |view: &flotilla_fleet::DeviceView| {
                view.models.first().is_some_and(|model| model.predictions == predictions)
            };
            self.installation.until(id.as_str(), heard).await;
        }
    }

    /// All say so again and again, as devices do, until the rollout is where it should be: a window may begin between two
    /// of them on a busy machine.
    async fn say_until(
        &mut self,
        id: &RolloutId,
        wanted: impl Fn(&Rollout) -> bool,
        figures: impl Fn(&Device, u64) -> (Digest, u64, u64),
    ) -> (Rollout, Vec<RolloutDevice>) {
        for round in 0..40 {
            self.say(|device| figures(device, round)).await;
            let (rollout, devices) = both(&self.installation, id).await;
            if wanted(&rollout) {
                return (rollout, devices);
            }
        }
        panic!("{:?}", both(&self.installation, id).await.0);
    }

    /// Rolls the release out to two waves that are watched; the first one confirms it, and is watched from then on.
    async fn first_wave(&mut self, release: &Release, (soak_s, max_soak_s): (u64, u64)) -> RolloutId {
        let request = RolloutRequest {
            waves: Some(vec![WaveSpec::Devices(WAVE as u32)]),
            soak_s: Some(soak_s),
            max_soak_s: Some(max_soak_s),
            ..RolloutRequest::newest(model("digits"))
        };
        let rollout = self.start(request).await;
        let (_, order) = self.until(&rollout.id, |_| true).await;
        for target in order.iter().filter(|target| target.wave == 0) {
            let device = self.devices.iter_mut().find(|device| device.id == target.device).unwrap();
            let desired = device.desired_release("digits", Some(release.digest)).await;
            device.confirm(&desired, "digits").await;
        }
        self.until(&rollout.id, |rollout| rollout.watched.is_some()).await;
        // Updated ones come first from here on.
        let place = |device: &Device| order.iter().position(|target| target.device == device.id);
        self.devices.sort_by_key(place);
        rollout.id
    }

    fn is_updated(&self) -> std::collections::BTreeSet<flotilla_protocol::DeviceId> {
        self.devices[..WAVE].iter().map(|device| device.id.clone()).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_fails_more_often_goes_back_before_the_rest_of_the_fleet_gets_it() {
    let folder = tempfile::tempdir().unwrap();
    let installation = Installation::open(folder.path()).await;
    let old = installation.release("digits", 1.0).await;
    let mut fleet = Fleet::running(installation, &old).await;
    fleet.say(|_| (old.digest, 1_000, 10)).await;

    let bad = fleet.installation.release("digits", 2.0).await;
    let rollout = fleet.first_wave(&bad, (4, 60)).await;
    let updated = fleet.is_updated();
    let figures = |device: &Device, round| {
        if updated.contains(&device.id) {
            (bad.digest, 400 + round, 60)
        } else {
            (old.digest, 2_000 + round, 20)
        }
    };
    let failed =
        |rollout: &Rollout| matches!(rollout.state, RolloutState::Stopping | RolloutState::RolledBack);
    fleet.say_until(&rollout, failed, figures).await;
    let (ended, targets) = fleet.until(&rollout, |rollout| rollout.state == RolloutState::RolledBack).await;
    let reason = ended.reason.unwrap();
    assert_eq!(reason.code, ErrorCode::ProbationFailed);
    assert!(
        reason.detail.contains("failed predictions +") && reason.detail.contains("40 devices"),
        "{reason:?}"
    );
    assert!(targets[..WAVE].iter().all(|target| matches!(target.status, Status::Reverted { .. })));
    assert!(targets[WAVE..].iter().all(|target| target.sent.is_none()), "the rest was never touched");
    for device in &mut fleet.devices[..WAVE] {
        device.desired_release("digits", Some(old.digest)).await;
    }
    // The evidence is in the audit trail.
    let trail =
        audit::list(&*fleet.installation.records, audit::Order::NewestFirst, None, 500).await.unwrap();
    let failed = trail.iter().find(|entry| entry.detail["state"] == "stopping").unwrap();
    assert_eq!(failed.detail["look"]["findings"][0]["verdict"], "worse", "{}", failed.detail);

    fleet.say(|_| (old.digest, 2_500, 25)).await;

    // One that does as well goes on, by evidence.
    let good = fleet.installation.release("digits", 3.0).await;
    let rollout = fleet.first_wave(&good, (4, 60)).await;
    let updated = fleet.is_updated();
    let figures = |device: &Device, round| {
        if updated.contains(&device.id) {
            (good.digest, 400 + round, 4)
        } else {
            (old.digest, 3_000 + round, 30)
        }
    };
    fleet.say_until(&rollout, |rollout| rollout.wave == 1, figures).await;
    fleet.installation.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wave_that_says_nothing_pauses_and_goes_on_when_an_operator_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let installation = Installation::open(folder.path()).await;
    let old = installation.release("digits", 1.0).await;
    let mut fleet = Fleet::running(installation, &old).await;
    let next = fleet.installation.release("digits", 2.0).await;
    let rollout = fleet.first_wave(&next, (1, 1)).await;
    let (paused, _) = fleet.until(&rollout, |rollout| rollout.state == RolloutState::Paused).await;
    assert!(paused.reason.unwrap().detail.contains("resume or roll back"));
    let (admin, control) = (&fleet.installation.admin, RolloutControl::Resume);
    fleet.installation.fleet.control_rollout(admin, &rollout, control).await.unwrap();
    fleet.until(&rollout, |rollout| rollout.wave == 1).await;
    fleet.installation.close().await;
}

//! A rollout that begins as a shadow: no application gets an answer of a release before its shadows have done well.

use crate::rollouts::both;
use crate::shadows::{self, counted, sample, three};
use crate::support::{Device, Installation, model, soon};
use flotilla_fleet::{
    Rollout, RolloutControl, RolloutRequest, RolloutState, ShadowRequest, ShadowView, Status, WaveSpec,
};
use flotilla_protocol::message::{Desired, Failure, Reported, ShadowPhase, ShadowReport};
use flotilla_protocol::topic::Up;
use flotilla_protocol::{Digest, ErrorCode, RolloutId};
use flotilla_registry::Release;

/// Two releases, three devices that run the first, and a rollout of the second that begins as a shadow on two of them.
async fn begun(installation: &Installation) -> (Release, Release, Vec<Device>, RolloutId) {
    let first = installation.release("digits", 1.0).await;
    let mut devices = three(installation).await;
    let second = installation.release("digits", 2.0).await;
    let shadow = ShadowRequest {
        devices: WaveSpec::Devices(2),
        soak_s: 1,
        max_soak_s: Some(3_600),
        share_percent: Some(50),
        differing_percent: None,
    };
    let request = RolloutRequest { shadow: Some(shadow), ..RolloutRequest::newest(model("digits")) };
    let rollout = installation.fleet.start_rollout(&installation.admin, request).await.unwrap();
    let watched = until(installation, &rollout.id, |rollout| {
        rollout.shadow.as_ref().is_some_and(|stage| stage.watched.is_some())
    });
    assert_eq!(watched.await.shadow.unwrap().told, 2);
    let (_, order) = both(installation, &rollout.id).await;
    assert!(order.iter().all(|device| device.status == Status::Pending), "nobody is updated: {order:?}");
    devices.sort_by_key(|device| order.iter().position(|target| target.device == device.id));
    (first, second, devices, rollout.id)
}

async fn until(installation: &Installation, id: &RolloutId, wanted: impl Fn(&Rollout) -> bool) -> Rollout {
    let mut changes = installation.fleet.watch();
    soon(async {
        loop {
            let (rollout, _) = both(installation, id).await;
            if wanted(&rollout) {
                return rollout;
            }
            let _ = changes.recv().await;
        }
    })
    .await
}

/// The next document of a device in which there is a shadow, or none.
async fn told(device: &mut Device, shadow: Option<Digest>) -> Desired {
    loop {
        let desired = device.desired().await;
        if desired.shadows.get(&model("digits")).map(|shadow| shadow.release) == shadow {
            return desired;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_agrees_as_a_shadow_is_rolled_out_and_its_shadows_end() {
    let folder = tempfile::tempdir().unwrap();
    let installation = Installation::open(folder.path()).await;
    let (first, second, mut devices, id) = begun(&installation).await;
    for device in &mut devices[..2] {
        let desired = told(device, Some(second.digest)).await;
        let wanted = &desired.shadows[&model("digits")];
        assert_eq!(wanted.share_per_mille, 500);
        assert_eq!(desired.models[&model("digits")].release, first.digest);
    }
    // Both say so again and again, as devices do: a window may begin between two samples.
    let mut seq = 0;
    while both(&installation, &id).await.0.open_stage().is_some_and(|stage| !stage.is_through()) {
        seq += 1;
        for device in &mut devices[..2] {
            let figures = counted(second.digest, first.digest, 200 + seq, 199 + seq);
            device.send(Up::Telemetry, &sample(seq, figures)).await;
        }
        for device in &devices[..2] {
            let heard = |view: &ShadowView| {
                let compared = view.figures.as_ref().map(|figures| figures.compared);
                view.device == device.id && compared == Some(200 + seq)
            };
            shadows::until(&installation, heard).await;
        }
    }
    let rollout = until(&installation, &id, |rollout| rollout.open_stage().is_none()).await;
    assert!(rollout.shadow.unwrap().watched.unwrap().through);
    for device in &mut devices[..2] {
        told(device, None).await;
    }
    let canary = devices[0].desired_release("digits", Some(second.digest)).await;
    assert!(canary.shadows.is_empty());
    installation.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_whose_probe_fails_as_a_shadow_reaches_no_application() {
    let folder = tempfile::tempdir().unwrap();
    let installation = Installation::open(folder.path()).await;
    let (first, second, mut devices, id) = begun(&installation).await;
    let desired = told(&mut devices[0], Some(second.digest)).await;
    let failure =
        Failure { release: second.digest, code: ErrorCode::ProbeMismatch, detail: "it differs".into() };
    let report = ShadowReport {
        release: second.digest,
        phase: ShadowPhase::Failed,
        attempt: desired.shadows[&model("digits")].attempt,
        bytes_done: 0,
        bytes_total: 0,
        bytes_reused: 0,
        failure: Some(failure),
    };
    let reported = Reported {
        version: 50,
        desired_version: desired.version,
        models: Default::default(),
        commands: vec![],
        agent: None,
        shadows: [(model("digits"), report)].into(),
    };
    devices[0].send(Up::Reported, &reported).await;
    let ended = until(&installation, &id, |rollout| rollout.state == RolloutState::RolledBack).await;
    let reason = ended.reason.unwrap();
    assert_eq!((reason.code, reason.device.as_ref()), (ErrorCode::ProbeMismatch, Some(&devices[0].id)));
    for device in &mut devices[..2] {
        let desired = told(device, None).await;
        assert_eq!(desired.models[&model("digits")].release, first.digest);
    }
    installation.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_that_is_ended_as_a_shadow_takes_its_shadows_along_also_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let installation = Installation::open(folder.path()).await;
    let (_, _, devices, id) = begun(&installation).await;
    drop(devices);
    installation.close().await;
    let installation = Installation::open(folder.path()).await;
    let (fleet, admin) = (&installation.fleet, &installation.admin);
    fleet.control_rollout(admin, &id, RolloutControl::Abort).await.unwrap();
    until(&installation, &id, |rollout| rollout.open_stage().is_none()).await;
    assert!(fleet.all_shadows(10).await.unwrap().is_empty());
    assert_eq!(both(&installation, &id).await.0.state, RolloutState::Aborted);
    installation.close().await;
}

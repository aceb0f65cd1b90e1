//! Rollouts as an operator sees them.

use crate::support::{Device, Installation, device, model, soon};
use flotilla_fleet::{
    Change, Rollout, RolloutControl, RolloutDevice, RolloutRequest, RolloutState, Status, WaveSpec,
};
use flotilla_identity::audit;
use flotilla_protocol::message::{Request, RequestBody};
use flotilla_protocol::topic::Up;
use flotilla_protocol::{ErrorCode, RolloutId};

/// A rollout and its devices, in their order.
pub(crate) async fn both(installation: &Installation, id: &RolloutId) -> (Rollout, Vec<RolloutDevice>) {
    let rollout = installation.fleet.rollout(id).await.unwrap();
    (rollout, installation.fleet.rollout_devices(id).await.unwrap())
}

/// Waits until a rollout is at an end or in a wave.
pub(crate) async fn rollout_until(
    installation: &Installation,
    id: &RolloutId,
    wanted: impl Fn(&Rollout) -> bool,
) -> (Rollout, Vec<RolloutDevice>) {
    let mut changes = installation.fleet.watch();
    soon(async {
        loop {
            let (rollout, devices) = both(installation, id).await;
            if wanted(&rollout) {
                return (rollout, devices);
            }
            let _ = changes.recv().await;
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_goes_to_the_canary_first_and_then_to_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let installation = Installation::open(folder.path()).await;
    let release = installation.release("digits", 1.0).await;
    let mut devices = Vec::new();
    for name in ["a", "b", "c"] {
        devices.push(installation.device(name).await);
    }
    let mut changes = installation.fleet.watch();
    let request = RolloutRequest::newest(model("digits"));
    let rollout = installation.fleet.start_rollout(&installation.admin, request).await.unwrap();

    let (started, order) = rollout_until(&installation, &rollout.id, |_| true).await;
    assert_eq!(started.waves.iter().map(|wave| wave.devices).collect::<Vec<_>>(), [1, 2]);
    devices.sort_by_key(|device| order.iter().position(|target| target.device == device.id));
    let [canary, rest @ ..] = &mut devices[..] else { panic!("three devices") };
    let wanted = Some(release.digest);
    let desired = canary.desired_release("digits", wanted).await;
    for other in rest.iter_mut() {
        // Asking for the document shows that it does not name the release yet.
        assert_eq!(other.desired().await.models.len(), 0);
        other.send(Up::Request, &Request { id: 1, body: RequestBody::Desired }).await;
        assert_eq!(other.desired().await.models.len(), 0);
    }
    canary.confirm(&desired, "digits").await;
    for other in rest.iter_mut() {
        let desired = other.desired_release("digits", wanted).await;
        other.confirm(&desired, "digits").await;
    }
    let (ended, targets) = rollout_until(&installation, &rollout.id, |r| !r.is_active()).await;
    assert_eq!((ended.state, ended.wave), (RolloutState::Succeeded, 1));
    assert!(targets.iter().all(|target| matches!(target.status, Status::Confirmed { .. })));
    let view = installation.fleet.device(&rest[0].id).await.unwrap();
    let shown = &view.models[0];
    assert_eq!(
        shown.release.as_ref().map(|release| (release.version, release.counter)),
        Some((Some(1), Some(1)))
    );
    assert_eq!((shown.accuracy, shown.wanted.as_ref().map(|w| w.digest)), (Some(0.9), wanted));
    let mut told = false;
    while let Ok(change) = changes.try_recv() {
        told |= change == Change::Rollout(rollout.id.clone());
    }
    assert!(told, "a console hears of it");

    let trail = audit::list(&*installation.records, audit::Order::OldestFirst, None, 500).await.unwrap();
    let of_rollout: Vec<_> = trail
        .iter()
        .filter(|entry| entry.subject.starts_with(&format!("rollout/{}", rollout.id)))
        .map(|entry| (entry.action.as_str(), entry.actor.id.as_str()))
        .collect();
    assert_eq!(of_rollout[0], ("rollout:create", "administrator"));
    // Sent and confirmed for each device, one advance and the end.
    assert_eq!(of_rollout.len(), 1 + 2 * 3 + 2);
    assert!(of_rollout[1..].iter().all(|(_, actor)| *actor == "system"));
    installation.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_canary_goes_back_and_the_rest_is_never_touched() {
    let folder = tempfile::tempdir().unwrap();
    let installation = Installation::open(folder.path()).await;
    let good = installation.release("digits", 1.0).await;
    let mut devices = Vec::new();
    for name in ["a", "b", "c"] {
        devices.push(installation.device(name).await);
    }
    let request =
        RolloutRequest { waves: Some(vec![WaveSpec::Rest]), ..RolloutRequest::newest(model("digits")) };
    let first = installation.fleet.start_rollout(&installation.admin, request).await.unwrap();
    for device in &mut devices {
        let desired = device.desired_release("digits", Some(good.digest)).await;
        device.confirm(&desired, "digits").await;
    }
    rollout_until(&installation, &first.id, |r| r.state == RolloutState::Succeeded).await;

    let bad = installation.release("digits", 2.0).await;
    let request = RolloutRequest::newest(model("digits"));
    let second = installation.fleet.start_rollout(&installation.admin, request).await.unwrap();
    let (_, order) = both(&installation, &second.id).await;
    let canary = devices.iter_mut().find(|device| device.id == order[0].device).unwrap();
    let desired = canary.desired_release("digits", Some(bad.digest)).await;
    canary.fail(&desired, "digits", ErrorCode::ProbeMismatch).await;
    let back = canary.desired_release("digits", Some(good.digest)).await;
    assert!(back.version > desired.version, "going back is a newer document");
    let (ended, targets) = rollout_until(&installation, &second.id, |r| !r.is_active()).await;
    assert_eq!(ended.state, RolloutState::RolledBack);
    let reason = ended.reason.unwrap();
    assert_eq!((reason.code, reason.device), (ErrorCode::ProbeMismatch, Some(order[0].device.clone())));
    assert!(targets[1..].iter().all(|target| target.status == Status::Pending && target.sent.is_none()));
    for target in &targets[1..] {
        let view = installation.fleet.device(&target.device).await.unwrap();
        assert_eq!(view.models[0].wanted.as_ref().unwrap().digest, good.digest);
    }

    // The operator tries again: a new attempt of the same release.
    let request = RolloutRequest::newest(model("digits"));
    installation.fleet.start_rollout(&installation.admin, request).await.unwrap();
    for device in &mut devices {
        if installation.fleet.device(&device.id).await.unwrap().models[0].wanted.as_ref().unwrap().digest
            == bad.digest
        {
            let retry = device.desired_release("digits", Some(bad.digest)).await;
            assert!(retry.models[&model("digits")].attempt > desired.models[&model("digits")].attempt);
        }
    }
    installation.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_goes_on_after_the_control_plane_was_away() {
    let folder = tempfile::tempdir().unwrap();
    let installation = Installation::open(folder.path()).await;
    let release = installation.release("digits", 1.0).await;
    let mut credentials = Vec::new();
    for name in ["a", "b", "c"] {
        credentials.push(installation.enrol(name).await);
    }
    let request = RolloutRequest::newest(model("digits"));
    let rollout = installation.fleet.start_rollout(&installation.admin, request).await.unwrap();
    installation.close().await;

    let mut counter = 0;
    let mut end = None;
    // The control plane is stopped after every single report.
    for _ in 0..10 {
        let installation = Installation::open(folder.path()).await;
        counter += 1;
        let (state, targets) = both(&installation, &rollout.id).await;
        if !state.is_active() {
            end = Some((state, targets));
            installation.close().await;
            break;
        }
        let (_, targets) = rollout_until(&installation, &rollout.id, |r| !r.is_active() || r.wave <= 1).await;
        let next = targets.iter().find(|target| !target.status.is_decided());
        if let Some(next) = next {
            let credentials = credentials.iter().find(|c| c.answer.device == next.device).unwrap();
            let mut device: Device = installation.connect(credentials, counter).await;
            let desired = device.desired_release("digits", Some(release.digest)).await;
            device.confirm(&desired, "digits").await;
            installation.until(next.device.as_str(), |view| view.reported_version == desired.version).await;
        } else {
            rollout_until(&installation, &rollout.id, |r| !r.is_active()).await;
        }
        installation.close().await;
    }
    let (end, targets) = end.expect("the rollout comes to its end");
    assert_eq!(end.state, RolloutState::Succeeded);
    assert!(targets.iter().all(|target| matches!(target.status, Status::Confirmed { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_pauses_resumes_aborts_and_rolls_back() {
    let folder = tempfile::tempdir().unwrap();
    let installation = Installation::open(folder.path()).await;
    let release = installation.release("digits", 1.0).await;
    let mut gate = installation.device("gate-7").await;
    let (fleet, admin) = (&installation.fleet, &installation.admin);
    let start = async || fleet.start_rollout(admin, RolloutRequest::newest(model("digits"))).await.unwrap();
    let control = async |id: &RolloutId, control| fleet.control_rollout(admin, id, control).await;

    let first = start().await;
    gate.desired_release("digits", Some(release.digest)).await;
    assert_eq!(control(&first.id, RolloutControl::Pause).await.unwrap().state, RolloutState::Paused);
    assert_eq!(control(&first.id, RolloutControl::Pause).await.unwrap().state, RolloutState::Paused);
    assert_eq!(control(&first.id, RolloutControl::Resume).await.unwrap().state, RolloutState::Running);
    control(&first.id, RolloutControl::Rollback).await.unwrap();
    gate.desired_release("digits", None).await;
    let (ended, _) = rollout_until(&installation, &first.id, |r| !r.is_active()).await;
    assert_eq!((ended.state, ended.reason.unwrap().code), (RolloutState::RolledBack, ErrorCode::Cancelled));
    let late = control(&first.id, RolloutControl::Pause).await.unwrap_err();
    assert_eq!(late.code(), ErrorCode::WrongState);

    let second = start().await;
    gate.desired_release("digits", Some(release.digest)).await;
    assert_eq!(control(&second.id, RolloutControl::Abort).await.unwrap().state, RolloutState::Aborted);
    let view = fleet.device(&device("gate-7")).await.unwrap();
    assert_eq!(
        view.models[0].wanted.as_ref().unwrap().digest,
        release.digest,
        "devices keep what they were told"
    );
    let listed = fleet.rollouts(None, 10).await.unwrap();
    assert_eq!(listed.iter().map(|rollout| &rollout.id).collect::<Vec<_>>(), [&second.id, &first.id]);
    assert_eq!(fleet.rollouts(Some(&second.id), 10).await.unwrap()[0].id, first.id);
    let missing = control(&RolloutId::random(), RolloutControl::Abort).await.unwrap_err();
    assert_eq!(missing.code(), ErrorCode::NotFound);
    installation.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_rolled_out_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let installation = Installation::open(folder.path()).await;
    let (fleet, admin) = (&installation.fleet, &installation.admin);
    let refused = async |request| fleet.start_rollout(admin, request).await.unwrap_err().code();
    let digits = || RolloutRequest::newest(model("digits"));
    assert_eq!(refused(digits()).await, ErrorCode::NotFound);
    let old = installation.release("digits", 1.0).await;
    assert_eq!(refused(digits()).await, ErrorCode::InvalidInput, "there is no device yet");
    installation.enrol("gate-7").await;
    let faces = installation.release("faces", 1.0).await;
    assert_eq!(
        refused(RolloutRequest { release: Some(faces.digest), ..digits() }).await,
        ErrorCode::InvalidInput
    );
    assert_eq!(refused(RolloutRequest { deadline_s: Some(0), ..digits() }).await, ErrorCode::InvalidInput);
    let nobody = Some(vec![device("nobody")]);
    assert_eq!(refused(RolloutRequest { devices: nobody, ..digits() }).await, ErrorCode::NotFound);
    installation.release("digits", 2.0).await;
    fleet.set_floor(admin, &model("digits"), 2).await.unwrap();
    assert_eq!(
        refused(RolloutRequest { release: Some(old.digest), ..digits() }).await,
        ErrorCode::InvalidInput
    );
    fleet.revoke(admin, &device("gate-7"), "lost").await.unwrap();
    let revoked = Some(vec![device("gate-7")]);
    assert_eq!(refused(RolloutRequest { devices: revoked, ..digits() }).await, ErrorCode::Revoked);
    installation.close().await;
}

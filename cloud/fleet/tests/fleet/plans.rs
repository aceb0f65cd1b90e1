//! How a rollout goes about it: drafts, approvals, pace, retries, what it does when it stops, newer rollouts, quarantine.

use crate::rollouts::rollout_until;
use crate::support::{Installation, device, model};
use flotilla_fleet::{
    DeviceControl, GroupSpec, OnStop, Pace, Policy, Retry, RolloutControl, RolloutRequest, RolloutState,
    Selection, Status, WaveSpec,
};
use flotilla_protocol::{ErrorCode, GroupName};

fn to_all() -> RolloutRequest {
    RolloutRequest { waves: Some(vec![WaveSpec::Rest]), ..RolloutRequest::newest(model("digits")) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draft_touches_nobody_until_it_is_started_and_approved_and_its_time_has_come() {
    let folder = tempfile::tempdir().unwrap();
    let installation = Installation::open(folder.path()).await;
    let release = installation.release("digits", 1.0).await;
    let mut gate = installation.device("gate-7").await;
    let (fleet, admin) = (&installation.fleet, &installation.admin);
    let request = RolloutRequest { draft: true, needs_approval: true, starts_at_ms: Some(1), ..to_all() };
    let id = fleet.start_rollout(admin, request).await.unwrap().id;
    let control = async |control| fleet.control_rollout(admin, &id, control).await;
    assert_eq!(control(RolloutControl::Approve).await.unwrap_err().code(), ErrorCode::WrongState);
    assert_eq!(control(RolloutControl::Pause).await.unwrap_err().code(), ErrorCode::WrongState);
    assert_eq!(control(RolloutControl::Start).await.unwrap().state, RolloutState::WaitingForApproval);
    assert_eq!(gate.desired().await.models.len(), 0, "nobody is told before");
    control(RolloutControl::Approve).await.unwrap();
    let desired = gate.desired_release("digits", Some(release.digest)).await;
    gate.confirm(&desired, "digits").await;
    rollout_until(&installation, &id, |r| r.state == RolloutState::Succeeded).await;

    let request = RolloutRequest { needs_approval: true, ..to_all() };
    let refused = fleet.start_rollout(admin, request).await.unwrap();
    let rejected = fleet.control_rollout(admin, &refused.id, RolloutControl::Reject).await.unwrap();
    assert_eq!(rejected.state, RolloutState::Aborted);
    assert!(rejected.reason.unwrap().detail.contains("rejected"));
    installation.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_devices_are_under_way_than_the_plan_allows() {
    let folder = tempfile::tempdir().unwrap();
    let installation = Installation::open(folder.path()).await;
    let release = installation.release("digits", 1.0).await;
    let mut devices = Vec::new();
    for name in ["a", "b", "c"] {
        devices.push(installation.device(name).await);
    }
    let pace = Pace { concurrency: Some(1), ..Pace::default() };
    let request = RolloutRequest { policy: Policy { pace, ..Policy::default() }, ..to_all() };
    let rollout = installation.fleet.start_rollout(&installation.admin, request).await.unwrap();
    let order = installation.fleet.rollout_devices(&rollout.id).await.unwrap();
    devices.sort_by_key(|device| order.iter().position(|target| target.device == device.id));
    for (place, device) in devices.iter_mut().enumerate() {
        let desired = device.desired_release("digits", Some(release.digest)).await;
        let told = installation.fleet.rollout_devices(&rollout.id).await.unwrap();
        assert_eq!(told.iter().filter(|target| target.sent.is_some()).count(), place + 1);
        assert_eq!(told.iter().filter(|target| target.status == Status::Sent).count(), 1);
        device.confirm(&desired, "digits").await;
    }
    let (ended, _) = rollout_until(&installation, &rollout.id, |r| !r.is_active()).await;
    assert_eq!(ended.state, RolloutState::Succeeded);
    assert_eq!(ended.tallies[0].confirmed, 3);
    installation.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_pass_is_tried_again_and_one_that_holds_goes_on_when_it_is_told_to() {
    let folder = tempfile::tempdir().unwrap();
    let installation = Installation::open(folder.path()).await;
    let release = installation.release("digits", 1.0).await;
    let mut gate = installation.device("gate-7").await;
    let (fleet, admin) = (&installation.fleet, &installation.admin);
    let retry = Retry { tries: 2, wait_ms: 0, codes: Vec::new() };
    let policy = Policy { retry, on_stop: OnStop::Hold, ..Policy::default() };
    let rollout = fleet.start_rollout(admin, RolloutRequest { policy, ..to_all() }).await.unwrap();

    let first = gate.desired_release("digits", Some(release.digest)).await;
    gate.fail(&first, "digits", ErrorCode::Network).await;
    let second = loop {
        let desired = gate.desired_release("digits", Some(release.digest)).await;
        if desired.models[&model("digits")].attempt > first.models[&model("digits")].attempt {
            break desired;
        }
    };
    gate.fail(&second, "digits", ErrorCode::Network).await;
    let (held, targets) = rollout_until(&installation, &rollout.id, |r| !r.is_active()).await;
    assert_eq!((held.state, targets[0].tries), (RolloutState::Failed, 2));
    let view = fleet.device(&device("gate-7")).await.unwrap();
    assert_eq!(view.models[0].wanted.as_ref().unwrap().digest, release.digest, "it keeps what it was told");

    let missing = DeviceControl::Retry(Some(device("nobody")));
    assert!(fleet.control_rollout_devices(admin, &rollout.id, &missing).await.is_err());
    fleet.control_rollout_devices(admin, &rollout.id, &DeviceControl::Retry(None)).await.unwrap();
    let third = loop {
        let desired = gate.desired_release("digits", Some(release.digest)).await;
        if desired.models[&model("digits")].attempt > second.models[&model("digits")].attempt {
            break desired;
        }
    };
    gate.confirm(&third, "digits").await;
    rollout_until(&installation, &rollout.id, |r| r.state == RolloutState::Succeeded).await;
    // What has ended well can still be taken back.
    fleet.control_rollout(admin, &rollout.id, RolloutControl::Rollback).await.unwrap();
    gate.desired_release("digits", None).await;
    rollout_until(&installation, &rollout.id, |r| r.state == RolloutState::RolledBack).await;
    installation.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_rollout_takes_its_devices_from_an_older_one() {
    let folder = tempfile::tempdir().unwrap();
    let installation = Installation::open(folder.path()).await;
    let old = installation.release("digits", 1.0).await;
    let mut devices = Vec::new();
    for name in ["a", "b", "c"] {
        devices.push(installation.device(name).await);
    }
    let (fleet, admin) = (&installation.fleet, &installation.admin);
    let pace = Pace { concurrency: Some(1), ..Pace::default() };
    let request = RolloutRequest { policy: Policy { pace, ..Policy::default() }, ..to_all() };
    let older = fleet.start_rollout(admin, request).await.unwrap();
    let order = fleet.rollout_devices(&older.id).await.unwrap();
    devices.sort_by_key(|device| order.iter().position(|target| target.device == device.id));
    let first = devices[0].desired_release("digits", Some(old.digest)).await;

    // All but the first, which is under way with the older one.
    let new = installation.release("digits", 2.0).await;
    let rest: Vec<_> = devices[1..].iter().map(|device| device.id.clone()).collect();
    let request = RolloutRequest { devices: Some(rest), ..to_all() };
    let plan = fleet.preflight(request.clone()).await.unwrap();
    assert_eq!(plan.supersedes, std::slice::from_ref(&older.id));
    let newer = fleet.start_rollout(admin, request).await.unwrap();
    for device in &mut devices[1..] {
        let desired = device.desired_release("digits", Some(new.digest)).await;
        device.confirm(&desired, "digits").await;
    }
    rollout_until(&installation, &newer.id, |r| r.state == RolloutState::Succeeded).await;
    devices[0].confirm(&first, "digits").await;
    let (ended, targets) = rollout_until(&installation, &older.id, |r| !r.is_active()).await;
    assert_eq!((ended.state, ended.superseded_by), (RolloutState::Succeeded, vec![newer.id]));
    let skipped = |status: &Status| matches!(status, Status::Skipped { code: ErrorCode::Superseded, .. });
    assert!(targets[1..].iter().all(|target| skipped(&target.status)), "{targets:?}");
    for device in &devices[1..] {
        let view = fleet.device(&device.id).await.unwrap();
        assert_eq!(view.models[0].wanted.as_ref().unwrap().digest, new.digest);
    }
    installation.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_was_withdrawn_meanwhile_is_nothing_to_go_back_to() {
    let folder = tempfile::tempdir().unwrap();
    let installation = Installation::open(folder.path()).await;
    let mut gate = installation.device("gate-7").await;
    let (fleet, admin) = (&installation.fleet, &installation.admin);
    let (mut releases, mut rollouts) = (Vec::new(), Vec::new());
    for gain in [1.0, 2.0, 3.0] {
        let release = installation.release("digits", gain).await;
        rollouts.push(fleet.start_rollout(admin, to_all()).await.unwrap().id);
        let desired = gate.desired_release("digits", Some(release.digest)).await;
        if gain < 3.0 {
            gate.confirm(&desired, "digits").await;
            rollout_until(&installation, &rollouts[releases.len()], |r| r.state == RolloutState::Succeeded)
                .await;
        }
        releases.push((release, desired));
    }
    // The second one turns out to be bad while the third one is tried.
    fleet.control_rollout(admin, &rollouts[1], RolloutControl::Rollback).await.unwrap();
    let (_, targets) =
        rollout_until(&installation, &rollouts[1], |r| r.state == RolloutState::RolledBack).await;
    assert!(matches!(targets[0].status, Status::Reverted { desired_version: None, .. }), "{targets:?}");
    gate.fail(&releases[2].1, "digits", ErrorCode::ProbeMismatch).await;
    rollout_until(&installation, &rollouts[2], |r| r.state == RolloutState::RolledBack).await;
    gate.desired_release("digits", Some(releases[0].0.digest)).await;
    // Others go on meanwhile, and after it.
    let next = installation.release("digits", 4.0).await;
    let rollout = fleet.start_rollout(admin, to_all()).await.unwrap();
    let desired = gate.desired_release("digits", Some(next.digest)).await;
    gate.confirm(&desired, "digits").await;
    rollout_until(&installation, &rollout.id, |r| r.state == RolloutState::Succeeded).await;
    installation.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_fails_again_and_again_gets_no_updates_until_it_is_released() {
    let folder = tempfile::tempdir().unwrap();
    let installation = Installation::open(folder.path()).await;
    let mut gate = installation.device("gate-7").await;
    let mut other = installation.device("gate-8").await;
    let (fleet, admin) = (&installation.fleet, &installation.admin);
    for gain in [1.0, 2.0, 3.0] {
        let release = installation.release("digits", gain).await;
        let request = RolloutRequest { devices: Some(vec![device("gate-7")]), ..to_all() };
        let rollout = fleet.start_rollout(admin, request).await.unwrap();
        assert_eq!(fleet.device(&device("gate-7")).await.unwrap().quarantine, None);
        let desired = gate.desired_release("digits", Some(release.digest)).await;
        gate.fail(&desired, "digits", ErrorCode::ProbeCrashed).await;
        rollout_until(&installation, &rollout.id, |r| !r.is_active()).await;
    }
    let quarantine = fleet.device(&device("gate-7")).await.unwrap().quarantine.unwrap();
    assert!(quarantine.reason.contains("3 updates in a row failed"), "{quarantine:?}");
    let release = installation.release("digits", 4.0).await;
    let rollout = fleet.start_rollout(admin, to_all()).await.unwrap();
    let desired = other.desired_release("digits", Some(release.digest)).await;
    other.confirm(&desired, "digits").await;
    let (_, targets) =
        rollout_until(&installation, &rollout.id, |r| r.state == RolloutState::Succeeded).await;
    assert!(targets.len() == 1 && targets[0].device == device("gate-8"), "{targets:?}");

    fleet.quarantine(admin, Selection::Devices(vec![device("gate-7")]), None).await.unwrap();
    let release = installation.release("digits", 5.0).await;
    let rollout = fleet.start_rollout(admin, to_all()).await.unwrap();
    for device in [&mut gate, &mut other] {
        let desired = device.desired_release("digits", Some(release.digest)).await;
        device.confirm(&desired, "digits").await;
    }
    rollout_until(&installation, &rollout.id, |r| r.state == RolloutState::Succeeded).await;
    installation.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_into_the_group_later_is_taken_in_until_the_rollout_is_finished() {
    let folder = tempfile::tempdir().unwrap();
    let installation = Installation::open(folder.path()).await;
    let release = installation.release("digits", 1.0).await;
    let (fleet, admin) = (&installation.fleet, &installation.admin);
    let group: GroupName = "gates".parse().unwrap();
    let all = GroupSpec::Dynamic(r#"id.startsWith("gate")"#.into());
    fleet.create_group(admin, &group, all).await.unwrap();
    let mut first = installation.device("gate-1").await;
    let nobody = RolloutRequest { follows: true, ..to_all() };
    assert_eq!(fleet.start_rollout(admin, nobody).await.unwrap_err().code(), ErrorCode::InvalidInput);
    let request = RolloutRequest { group: Some(group.clone()), follows: true, ..to_all() };
    let rollout = fleet.start_rollout(admin, request).await.unwrap();
    let desired = first.desired_release("digits", Some(release.digest)).await;
    first.confirm(&desired, "digits").await;
    assert_eq!(fleet.delete_group(admin, &group).await.unwrap_err().code(), ErrorCode::WrongState);

    let mut late = installation.device("gate-2").await;
    installation.enrol("other-1").await;
    let desired = late.desired_release("digits", Some(release.digest)).await;
    late.confirm(&desired, "digits").await;
    let (running, targets) = rollout_until(&installation, &rollout.id, |r| r.waves[0].devices == 2).await;
    assert_eq!((running.state, targets.len()), (RolloutState::Running, 2));
    fleet.control_rollout(admin, &rollout.id, RolloutControl::Finish).await.unwrap();
    let (ended, targets) = rollout_until(&installation, &rollout.id, |r| !r.is_active()).await;
    assert_eq!(ended.state, RolloutState::Succeeded);
    assert!(targets.iter().all(|target| matches!(target.status, Status::Confirmed { .. })), "{targets:?}");
    fleet.delete_group(admin, &group).await.unwrap();
    installation.close().await;
}

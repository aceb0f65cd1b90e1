//! The end of a rollout, whatever devices do and whatever is killed in between.

use super::world::{Outcome, World, any_outcome};
use crate::devices::Twin;
use crate::rollout::effect::{self, Standing};
use crate::rollout::planner::{ACTIONS, Action, Observation, Observations, Report, plan};
use crate::rollout::policy::{Policy, Retry};
use crate::rollout::state::{Rollout, RolloutState, Status, WaveSpec};
use crate::rollout::testing::{CANARY, DEADLINE_MS, model, release, rollout};
use flotilla_protocol::message::{Failure, ModelReport, Phase, Settings};
use flotilla_protocol::{Digest, ErrorCode, RolloutId};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeSet;

#[test]
fn rollouts_end_well_whatever_devices_do() {
    let (mut succeeded, mut rolled_back, mut held) = (0, 0, 0);
    for seed in 0..4_000 {
        let random = &mut SmallRng::seed_from_u64(seed);
        let mut world = World::new(random, any_outcome);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            world.run(random, seed % 2 == 0);
            world.check_end();
            world.rollout.state
        }));
        match outcome {
            Ok(RolloutState::Succeeded) => succeeded += 1,
            Ok(RolloutState::Failed) => held += 1,
            Ok(_) => rolled_back += 1,
            Err(panic) => {
                eprintln!("seed {seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    let ends = format!("{succeeded}, {rolled_back}, {held}");
    assert!(succeeded > 500 && rolled_back > 500 && held > 100, "all ends are seen: {ends}");
}

#[test]
fn a_fleet_that_is_fine_gets_the_release_everywhere() {
    for seed in 0..500 {
        let random = &mut SmallRng::seed_from_u64(seed);
        let mut world = World::new(random, |_| Outcome::Confirms);
        world.run(random, true);
        world.check_end();
        assert_eq!(world.rollout.state, RolloutState::Succeeded, "seed {seed}");
        assert!(world.devices.iter().all(|d| matches!(d.status, Status::Confirmed { .. })), "seed {seed}");
    }
}

#[test]
fn a_bad_canary_stops_the_rollout_and_nobody_else_is_touched() {
    for seed in 0..1_000 {
        let random = &mut SmallRng::seed_from_u64(seed);
        let mut world = World::new(random, |_| Outcome::Confirms);
        let canary = world.devices[0].device.clone();
        let bad = [Outcome::Fails, Outcome::Silent][seed as usize % 2];
        world.outcomes.insert(canary, bad);
        world.rollout.policy = Policy::default();
        if bad == Outcome::Fails {
            // It says so before its time is over.
            world.rollout.deadline_ms = u64::MAX;
        }
        world.run(random, false);
        world.check_end();
        assert_eq!(world.rollout.state, RolloutState::RolledBack, "seed {seed}");
        assert!(world.touched().all(|d| d.wave == 0), "seed {seed}");
        let reason = world.rollout.reason.unwrap();
        let code = if bad == Outcome::Fails { ErrorCode::ProbeMismatch } else { ErrorCode::Timeout };
        assert_eq!((reason.code, reason.device.is_some()), (code, true), "seed {seed}");
    }
}

#[test]
fn kills_between_commits_change_nothing() {
    for seed in 0..500 {
        let end = |kills: bool| {
            let random = &mut SmallRng::seed_from_u64(seed);
            let outcome = |random: &mut SmallRng| {
                if random.random_bool(0.05) { Outcome::Fails } else { Outcome::Confirms }
            };
            let mut world = World::new(random, outcome);
            // Nobody is late, so the end depends on the outcomes alone.
            world.rollout.deadline_ms = u64::MAX;
            world.run(random, kills);
            world.check_end();
            let touched: BTreeSet<_> = world.touched().map(|d| d.wave).collect();
            (world.rollout.state, world.rollout.wave, touched)
        };
        assert_eq!(end(true), end(false), "seed {seed}");
    }
}

#[test]
fn a_device_is_judged_by_its_answer_to_the_document_it_was_sent() {
    let (rollout, mut devices) = rollout("r1", 1, CANARY);
    let mut twin = Twin::new(devices[0].device.clone(), Settings::default(), 0);
    effect::send(&rollout, &mut devices[0], &mut twin, Standing::Free, 1_000);
    let sent = devices[0].sent.as_deref().cloned().unwrap();
    let status = |version: u64, now_ms: u64, change: &dyn Fn(&mut ModelReport)| {
        let mut report = ModelReport { attempt: sent.attempt, ..ModelReport::default() };
        change(&mut report);
        let observation = Observation {
            revoked: false,
            desired: twin.models.get(&model()).cloned(),
            report: Some(Report { desired_version: version, model: Some(report) }),
            ..Observation::default()
        };
        let observed = Observations::from([(devices[0].device.clone(), observation)]);
        match plan(&rollout, &devices, &observed, now_ms, ACTIONS).as_slice() {
            [] => "sent",
            [Action::Mark { status, .. }] => status.as_str(),
            other => panic!("{other:?}"),
        }
    };
    let confirmed = |r: &mut ModelReport| r.confirmed = Some(release());
    let failed = |r: &mut ModelReport| {
        r.phase = Phase::Failed;
        r.failure = Some(Failure { release: release(), code: ErrorCode::NoRoom, detail: String::new() });
    };
    let version = sent.desired_version;
    assert_eq!(status(version, 1_001, &confirmed), "confirmed");
    assert_eq!(status(version + 3, 1_001, &confirmed), "confirmed");
    assert_eq!(status(version - 1, 1_001, &confirmed), "sent", "an answer to an older document");
    assert_eq!(status(version, 1_001, &failed), "failed");
    assert_eq!(status(version - 1, 1_001, &failed), "sent");
    assert_eq!(status(version, 1_001, &|r| (failed(r), r.attempt -= 1).1), "sent", "an earlier attempt");
    assert_eq!(
        status(version, 1_001, &|r| (failed(r), r.phase = Phase::Downloading).1),
        "sent",
        "it goes on trying"
    );
    assert_eq!(status(version, 1_001, &|r| (confirmed(r), r.candidate = Some(release())).1), "sent");
    assert_eq!(status(version, 1_000 + DEADLINE_MS - 1, &|_| ()), "sent");
    assert_eq!(status(version, 1_000 + DEADLINE_MS, &|_| ()), "failed");
}

#[test]
fn a_draft_and_one_that_waits_for_approval_touch_nobody_and_a_scheduled_one_begins_in_time() {
    let (rollout, devices) = rollout("r1", 3, CANARY);
    for state in [RolloutState::Draft, RolloutState::WaitingForApproval] {
        let waits = Rollout { state, ..rollout.clone() };
        assert!(waits.is_active());
        assert_eq!(plan(&waits, &devices, &Observations::new(), u64::MAX, ACTIONS), []);
    }
    let mut scheduled = Rollout { state: RolloutState::Scheduled, starts_at_ms: Some(5_000), ..rollout };
    assert_eq!(plan(&scheduled, &devices, &Observations::new(), 4_999, ACTIONS), []);
    assert_eq!(plan(&scheduled, &devices, &Observations::new(), 5_000, ACTIONS), [Action::Begin]);
    scheduled.begin(5_000);
    assert_eq!(
        plan(&scheduled, &devices, &Observations::new(), 5_000, ACTIONS),
        [Action::SetDesired { index: 0 }]
    );
}

#[test]
fn a_device_is_told_within_its_own_maintenance_window() {
    let (mut rollout, mut devices) = rollout("r1", 3, &[WaveSpec::Rest]);
    rollout.policy.window = Some("daily 01:00-02:00".parse().unwrap());
    devices[1].zone = Some("Asia/Tokyo".into());
    let told = |hour: u64| -> Vec<usize> {
        let actions = plan(&rollout, &devices, &Observations::new(), hour * 3_600_000 + 60_000, ACTIONS);
        let index = |action: &Action| match action {
            Action::SetDesired { index } => *index,
            other => panic!("{other:?}"),
        };
        actions.iter().map(index).collect()
    };
    assert_eq!(told(1), [0, 2]);
    assert_eq!(told(16), [1], "one in the morning in Tokyo");
    assert_eq!(told(2), [] as [usize; 0]);
}

#[test]
fn devices_that_a_newer_rollout_has_end_the_older_one_without_harm() {
    let (mut rollout, mut devices) = rollout("r1", 3, CANARY);
    rollout.superseded_by.push(RolloutId::new("r2").unwrap());
    let taken = Status::Skipped { code: ErrorCode::Superseded, at_ms: 1 };
    devices[0].status = taken.clone();
    assert_eq!(
        plan(&rollout, &devices, &Observations::new(), 2, ACTIONS),
        [Action::Advance],
        "nothing failed"
    );
    rollout.advance();
    let actions = plan(&rollout, &devices, &Observations::new(), 2, ACTIONS);
    assert_eq!(actions, [Action::SetDesired { index: 1 }], "the next one stands for the canary");
    (devices[1].status, devices[2].status) = (taken.clone(), Status::Confirmed { at_ms: 1 });
    assert_eq!(plan(&rollout, &devices, &Observations::new(), 2, ACTIONS), [Action::Succeed]);
    devices[2].status = taken;
    assert_eq!(plan(&rollout, &devices, &Observations::new(), 2, ACTIONS), [Action::GiveWay]);
    rollout.give_way(2);
    assert_eq!(rollout.state, RolloutState::Aborted);
    let reason = rollout.reason.unwrap();
    assert!(reason.code == ErrorCode::Superseded && reason.detail.contains("r2"), "{reason:?}");
}

#[test]
fn one_that_is_told_again_goes_back_to_what_it_ran_before_the_first_time() {
    let (mut rollout, mut devices) = rollout("r1", 1, CANARY);
    rollout.policy.retry = Retry { tries: 3, wait_ms: 1_000, codes: Vec::new() };
    let mut twin = Twin::new(devices[0].device.clone(), Settings::default(), 0);
    twin.want(&model(), Digest::of(b"old release"), 90, 0).unwrap();
    let before = twin.models.get(&model()).cloned();
    for try_ in 1..=3 {
        effect::send(&rollout, &mut devices[0], &mut twin, Standing::Free, 1_000);
        assert_eq!(
            (devices[0].tries, devices[0].sent.as_ref().unwrap().previous.clone()),
            (try_, before.clone())
        );
    }
    // Somebody else's change is not undone.
    let mut other = (devices[0].clone(), twin.clone());
    other.1.want(&model(), Digest::of(b"something else"), 80, 0).unwrap();
    effect::send(&rollout, &mut other.0, &mut other.1, Standing::Free, 2_000);
    assert_eq!(other.0.status.as_str(), "skipped");
    effect::revert(&rollout, &mut devices[0], Some(&mut twin), None, 2_000);
    assert_eq!(twin.models.get(&model()).cloned(), before);
}

#[test]
fn one_of_an_earlier_wave_is_told_again_before_the_next_wave_begins() {
    let (mut rollout, mut devices) = rollout("r1", 3, &[WaveSpec::Devices(1), WaveSpec::Devices(1)]);
    rollout.wave = 1;
    devices[0].status = Status::Retrying { code: ErrorCode::Network, detail: "gone".into(), from_ms: 5 };
    devices[1].status = Status::Confirmed { at_ms: 1 };
    assert_eq!(plan(&rollout, &devices, &Observations::new(), 4, ACTIONS), []);
    assert_eq!(plan(&rollout, &devices, &Observations::new(), 5, ACTIONS), [Action::SetDesired { index: 0 }]);
}

#[test]
fn one_that_was_left_out_after_it_was_told_goes_back_with_the_others() {
    let (mut rollout, mut devices) = rollout("r1", 2, &[WaveSpec::Rest]);
    let mut twin = Twin::new(devices[0].device.clone(), Settings::default(), 0);
    effect::send(&rollout, &mut devices[0], &mut twin, Standing::Free, 1_000);
    devices[0].status = Status::Skipped { code: ErrorCode::Cancelled, at_ms: 2 };
    rollout.state = RolloutState::Stopping;
    let actions = plan(&rollout, &devices, &Observations::new(), 3, ACTIONS);
    assert_eq!(actions, [Action::Revert { index: 0 }]);
    devices[0].status = Status::Skipped { code: ErrorCode::Revoked, at_ms: 2 };
    assert_eq!(plan(&rollout, &devices, &Observations::new(), 3, ACTIONS), [Action::RolledBack]);
}

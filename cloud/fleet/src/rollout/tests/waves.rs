//! Which devices come when, and how much may go wrong.

use crate::rollout::planner::{ACTIONS, Action, Observation, Observations, plan};
use crate::rollout::policy::{Failures, Tolerance};
use crate::rollout::state::{Rollout, Status, Target, WaveSpec, resolve};
use crate::rollout::testing::{CANARY, device, rollout};
use flotilla_protocol::{ErrorCode, RolloutId};
use std::collections::BTreeSet;

#[test]
fn waves_cover_every_device_once_in_an_order_of_their_own() {
    let (rollout, devices) = rollout("r1", 3, CANARY);
    assert_eq!(rollout.waves.iter().map(|wave| wave.devices).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(devices.iter().map(|d| d.wave).collect::<Vec<_>>(), [0, 1, 1]);
    let all: BTreeSet<_> = devices.iter().map(|d| d.device.clone()).collect();
    assert_eq!(all, (0..3).map(device).collect());
    assert_eq!(rollout.waves.iter().map(|wave| wave.max_failures).collect::<Vec<_>>(), [0, 0]);
    let canaries: BTreeSet<_> =
        (0..50).map(|n| self::rollout(&format!("r{n}"), 3, CANARY).1[0].device.clone()).collect();
    assert_eq!(canaries.len(), 3, "the canary is not the same device every time");
    assert_eq!(self::rollout("r1", 3, CANARY).1, devices, "but the same for the same rollout");
}

#[test]
fn wave_sizes_follow_the_plan() {
    let sizes = |devices, specs: &[WaveSpec]| {
        let (rollout, targets) = rollout("r1", devices, specs);
        assert_eq!(targets.len(), devices);
        assert!(rollout.waves.iter().all(|wave| wave.devices > 0));
        rollout.waves.iter().map(|wave| (wave.devices, wave.max_failures)).collect::<Vec<_>>()
    };
    assert_eq!(sizes(1, CANARY), [(1, 0)]);
    assert_eq!(sizes(200, &[WaveSpec::Percent(1), WaveSpec::Percent(10)]), [(2, 0), (20, 2), (178, 17)]);
    assert_eq!(sizes(3, &[WaveSpec::Percent(1)]), [(1, 0), (2, 0)]);
    assert_eq!(sizes(5, &[WaveSpec::Devices(0), WaveSpec::Devices(10)]), [(5, 0)]);
    assert_eq!(sizes(100, &[WaveSpec::Devices(1); 200]).len(), crate::rollout::state::WAVES);
    assert_eq!(sizes(0, CANARY), []);
}

#[test]
fn a_wave_tolerates_what_the_plan_says_once_enough_are_decided() {
    let id = RolloutId::new("r1").unwrap();
    let tolerance = Tolerance { failures: Failures::Percent(5), after: 20 };
    let targets = (0..101).map(|n| Target::from(device(n)));
    let (waves, devices) = resolve(&id, targets, &[WaveSpec::Devices(1)], Some(&tolerance));
    assert_eq!(
        waves.iter().map(|wave| (wave.max_failures, wave.counted_after)).collect::<Vec<_>>(),
        [(0, 20), (5, 20)]
    );
    let (usual, _) = rollout("r1", 101, CANARY);
    let rollout = Rollout { waves, wave: 1, ..usual };
    let failing = |failed: usize, confirmed: usize| {
        let mut devices = devices.clone();
        devices[0].status = Status::Confirmed { at_ms: 1 };
        let failure = Status::Failed { code: ErrorCode::NoRoom, detail: "full".into(), at_ms: 1 };
        let mut rest = devices[1..].iter_mut();
        rest.by_ref().take(failed).for_each(|device| device.status = failure.clone());
        rest.by_ref().take(confirmed).for_each(|device| device.status = Status::Confirmed { at_ms: 1 });
        rest.for_each(|device| device.status = Status::Sent);
        matches!(plan(&rollout, &devices, &Observations::new(), 2, ACTIONS)[..], [Action::Fail { .. }])
    };
    assert!(!failing(6, 13), "nineteen are decided");
    assert!(failing(6, 14));
    assert!(!failing(5, 90), "as many as it tolerates");
    assert!(failing(6, 94), "all are");
}

#[test]
fn a_rollout_to_a_million_devices_is_planned_in_memory() {
    let (rollout, mut devices) = rollout("big", 1_000_000, &[WaveSpec::Devices(1), WaveSpec::Percent(10)]);
    assert_eq!(rollout.waves[1].devices, 100_000);
    devices[0].status = Status::Confirmed { at_ms: 1 };
    let observed = Observations::from([(devices[0].device.clone(), Observation::default())]);
    assert_eq!(plan(&rollout, &devices, &observed, 5, ACTIONS), [Action::Advance]);
    let mut rollout = rollout;
    rollout.advance();
    let actions = plan(&rollout, &devices, &observed, 5, ACTIONS);
    assert!(actions.len() == 256 && matches!(actions[0], Action::SetDesired { index: 1 }));
}

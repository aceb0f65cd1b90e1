//! Rollouts for tests.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use super::policy::Policy;
use super::state::{Rollout, RolloutDevice, RolloutState, Target, Wanted, WaveSpec, resolve};
use flotilla_protocol::{ActorId, DeviceId, Digest, ModelName, RolloutId};

/// A device's time.
pub(super) const DEADLINE_MS: u64 = 60_000;
/// One device, and then the rest.
pub(super) const CANARY: &[WaveSpec] = &[WaveSpec::Devices(1), WaveSpec::Rest];

pub(super) fn device(n: usize) -> DeviceId {
    DeviceId::new(format!("d{n}")).unwrap()
}

pub(super) fn model() -> ModelName {
    ModelName::new("digits").unwrap()
}

pub(super) fn release() -> Digest {
    Digest::of(b"new release")
}

/// A rollout that runs, to so many devices.
pub(super) fn rollout(id: &str, devices: usize, specs: &[WaveSpec]) -> (Rollout, Vec<RolloutDevice>) {
    let id = RolloutId::new(id).unwrap();
    let targets = (0..devices).map(|n| Target::from(device(n)));
    let (waves, devices) = resolve(&id, targets, specs, None);
    let rollout = Rollout {
        id,
        model: model(),
        wanted: Wanted { release: release(), envelope_bytes: 100, version: 2, counter: 2 },
        waves,
        state: RolloutState::Running,
        wave: 0,
        deadline_ms: DEADLINE_MS,
        counted_from_ms: 0,
        created_by: ActorId::new("administrator").unwrap(),
        created_at_ms: 0,
        finished_at_ms: None,
        reason: None,
        watch: None,
        watched: None,
        shadow: None,
        policy: Policy::default(),
        starts_at_ms: None,
        needs_approval: false,
        approved_waves: 0,
        follows: None,
        superseded_by: Vec::new(),
        tallies: Vec::new(),
    };
    (rollout, devices)
}

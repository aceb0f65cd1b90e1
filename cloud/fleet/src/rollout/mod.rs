//! Rollouts: a release goes to many devices, a wave at a time.
//!
//! - `request`: what is asked for when one is started; `policy`, `window`: how it goes about it.
//! - `state`: what is remembered of a rollout and of each of its devices.
//! - `planner`: what to do next, a pure function of what is remembered and what devices report; `judge`: what has become
//!   of one device.
//! - `figures`: what a device says of a model; `health`: how devices do while a wave is watched, for `flotilla-gates` to judge.
//! - `stage`: the shadow stage before the first wave.
//! - `preflight`: who cannot take a release, and why.
//! - `effect`: what each action changes, also pure; the same code runs in the simulation tests.
//! - `withdrawn`: what devices must not go back to.
//! - `reconcile`: performs the actions, each in one commit with its audit record; `work`: what it keeps in memory.
//! - `late`: who comes into the group later.
//! - `service`, `control`: what an operator does; `fleet`: what the fleet offers of it.
//!
//! A later wave is touched only when the one before it is through. A wave with more failures than it tolerates ends
//! the rollout, and every device that it touched gets a newer desired document with what it ran before, unless its
//! policy says that they keep what they have. A rollout that begins takes its devices from older ones of the same model.
//! What is in memory is only what is stored, so the control plane may be killed at any moment.

mod control;
mod effect;
pub(crate) mod figures;
mod fleet;
mod health;
mod judge;
mod late;
#[cfg(test)]
mod late_drift_tests;
mod planner;
mod policy;
mod preflight;
mod reconcile;
mod request;
mod service;
#[cfg(test)]
mod simulation;
mod stage;
mod state;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod window;
mod withdrawn;
mod work;

pub use control::{DeviceControl, RolloutControl};
pub use figures::Figures;
pub use health::{Baseline, Evidence, Follows, Partner, Watch, Watched};
pub use planner::{Action, Observation, Observations, Report, plan};
pub use policy::{Failures, OnStop, Pace, Policy, Ramp, Retry, Tolerance};
pub use preflight::{Obstacle, Preflight};
pub(crate) use request::watch as watch_for;
pub use request::{RolloutRequest, SOAK_S, ShadowRequest, WATCHED_FLEET};
pub(crate) use service::{ROLLOUT_DEVICES, Rollouts, release};
pub use stage::{SHADOWED_MOST, ShadowPart, ShadowSeen, ShadowStage};
pub use state::{
    Reason, Rollout, RolloutDevice, RolloutState, Sent, Status, Tally, Target, Wanted, Wave, WaveSpec,
    resolve,
};
pub use window::Window;
pub(crate) use withdrawn::Withdrawn;

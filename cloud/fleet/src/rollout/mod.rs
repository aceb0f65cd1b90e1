//! Rollouts: a release goes to many devices, a wave at a time.
//!
//! - `state`: what is remembered of a rollout and of each of its devices.
//! - `planner`: what to do next, a pure function of what is remembered and what devices report.
//! - `health`: what devices say of a release while a wave is watched, for `flotilla-gates` to judge.
//! - `preflight`: who cannot take a release, and why.
//! - `effect`: what each action changes, also pure; the same code runs in the simulation tests.
//! - `reconcile`: performs the actions, each in one commit with its audit record.
//! - `service`: what an operator does.
//!
//! A later wave is touched only when the one before it is through. A wave with more failures than it tolerates ends
//! the rollout, and every device that it touched gets a newer desired document with what it ran before. Nothing is
//! kept in memory between two steps, so the control plane may be killed at any moment.

mod effect;
mod health;
mod planner;
mod preflight;
mod reconcile;
mod service;
mod state;
#[cfg(test)]
mod tests;

pub use health::{Baseline, Figures, Follows, Partner, Watch, Watched};
pub use planner::{Action, Observation, Observations, Report, plan};
pub use preflight::{Obstacle, Preflight};
pub use service::{RolloutControl, RolloutRequest};
pub(crate) use service::{Rollouts, release};
pub use state::{
    Reason, Rollout, RolloutDevice, RolloutState, Sent, Status, Wanted, Wave, WaveSpec, resolve,
};

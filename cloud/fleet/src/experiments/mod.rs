//! Experiments: two releases of a model on two stable halves of some devices, compared, and the better one promoted.
//!
//! - `request`: what is asked for; `state`: what is remembered of an experiment and of each of its devices.
//! - `machine`: `step(experiment, event, now) -> (experiment, effects)`, pure: where it goes, and what is to be done.
//! - `compare`: what the halves say of each other, for `flotilla-gates` to judge.
//! - `service`: performs the steps, each one commit with its audit record; `fleet`: what the fleet offers of it.
//!
//! Who is in which half is decided once, by a hash of device and experiment: no device ever changes its half, and one that
//! comes into the group later takes no part. Each half gets its release by an ordinary rollout whose creator is the
//! experiment, and so does whoever the winner is promoted to: pause, failures, probation, quarantine and newer rollouts mean what
//! they always mean. The ids of those rollouts stand in the experiment before they are started, and every effect may be
//! done twice, so that the control plane may be killed at any moment.

mod compare;
mod fleet;
mod machine;
#[cfg(test)]
mod machine_tests;
mod request;
mod service;
mod state;

pub use request::{ExperimentRequest, Members};
pub(crate) use service::Experiments;
pub(crate) use state::ExperimentDevice;
pub use state::{Contest, Decision, Experiment, ExperimentState, Half, Promotion, Winner};

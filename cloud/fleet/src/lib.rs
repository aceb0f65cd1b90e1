//! Devices, twins, rollouts, telemetry and the embedded MQTT broker.
//!
//! - [`broker`], [`ca`]: the devices' connections and certificates.
//! - `claims`, `enrol`: a claim code turns a box into a device; `renewal`: the certificates after its first.
//! - `devices`: what a device is, what it should run and what it says it runs.
//! - `inbound`, `transfer`, `ingest`: what devices say, the model bytes they pull, the records they send.
//! - `logs`: what devices' logs say, where an operator asked for it.
//! - `roster`, `expression`, `groups`: which devices there are, found by what is known of them.
//! - `summary`: the whole fleet in some numbers, and who needs somebody's eye.
//! - `orders`: what goes to many devices at once, one after the other.
//! - `rollout`: a release goes to many devices, a wave at a time.
//! - `experiments`: two releases on two halves of some devices, compared.
//! - [`Fleet`]: all of it, started and stopped together.
//!
//! The desired document of a device is level-triggered: it is signed and sent after each hello and on every change, and
//! a lost one heals by itself. Every change that an operator or a rollout makes commits together with its audit record.

mod authority;
pub mod broker;
pub mod ca;
mod changes;
mod claims;
mod cloned;
mod connections;
mod devices;
mod enrol;
mod error;
mod experiments;
pub mod expression;
mod find;
mod fleet;
mod groups;
mod inbound;
mod ingest;
mod logs;
mod measure;
mod orders;
mod probed;
mod registrations;
mod renewal;
mod rollout;
mod roster;
mod store;
mod summary;
mod sweep;
mod telemetry;
mod text;
mod transfer;

pub use changes::Change;
pub use claims::{CLAIM_TTL_MS, CLAIM_USES, Claim, ClaimRequest};
pub use devices::{
    Asked, COMMAND_DEADLINE_MAX_MS, COMMAND_DEADLINE_MS, Certificate, Compared, Device, DeviceState,
    DeviceView, Difference, Examined, Health, ModelState, ModelView, Order, Problem, PulledLog, Quarantine,
    Ran, RanOutcome, ReleaseView, ReportHead, ShadowView, Shadows, Stage, TagChange, Tags, Traffic, Twin,
};
pub use error::{Error, Result};
pub use experiments::{
    Contest, Decision, Experiment, ExperimentRequest, ExperimentState, Half, Members, Promotion, Winner,
};
pub use expression::ExpressionError;
pub use find::{DevicePage, IdPage};
pub use fleet::{Fleet, FleetConfig, FleetParts, host_port};
pub use groups::{Group, GroupSpec};
pub use ingest::{DeviceEvent, DeviceEvents, HistoryPoint, LatestSample, Rollup};
pub use orders::{Ordered, Selection};
pub use probed::Probed;
pub use registrations::{LIST_BYTES, REGISTERED, Registered, Registration};
pub use renewal::{PendingRenewal, RenewalState};
pub use rollout::{
    Action, Baseline, DeviceControl, Evidence, Failures, Figures, Follows, Observation, Observations,
    Obstacle, OnStop, Pace, Partner, Policy, Preflight, Ramp, Reason, Report, Retry, Rollout, RolloutControl,
    RolloutDevice, RolloutRequest, RolloutState, SHADOWED_MOST, SOAK_S, Sent, ShadowPart, ShadowRequest,
    ShadowSeen, ShadowStage, Status, Tally, Target, Tolerance, WATCHED_FLEET, Wanted, Watch, Watched, Wave,
    WaveSpec, Window, plan, resolve,
};
pub use roster::{Census, Query};
pub use summary::{Concern, ConcernReason, FleetSummary, ModelSummary, ReleaseCount};
pub use telemetry::ReleaseTelemetry;

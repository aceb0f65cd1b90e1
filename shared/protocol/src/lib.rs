//! What the control plane and the devices must agree on. No I/O.
//!
//! - [`id`]: typed names; [`topic`]: the only place with MQTT topic strings.
//! - [`message`]: what travels on the topics; [`codec`]: CBOR with a size cap before decoding.
//! - [`board`]: what a device's hardware is and what a model may cost there.
//! - [`manifest`], [`pipeline`], [`baseline`]: what a release is; [`trust`]: which keys a device believes.
//! - [`truth`]: what is true of a sample.
//! - [`envelope`], [`signature`], [`digest`]: signatures over exact bytes, content addresses.
//! - [`enrol`]: claim codes and the answer that makes a box a device of the fleet.
//! - [`renew`]: a new certificate over HTTPS for a device whose old one has ended.
//! - [`limits`], [`error_code`]: every bound and every stable error code.
//!
//! Wire formats are versioned. Decoders ignore unknown fields, so a newer control plane talks to an older
//! device; golden files under `golden/` prove that old bytes still read.

pub mod baseline;
pub mod board;
pub mod codec;
pub mod digest;
pub mod enrol;
pub mod envelope;
pub mod error_code;
pub mod id;
pub mod limits;
pub mod manifest;
pub mod message;
pub mod pipeline;
pub mod renew;
pub mod signature;
pub mod topic;
pub mod trust;
pub mod truth;

pub use baseline::Baseline;
pub use digest::Digest;
pub use envelope::{Envelope, EnvelopeKind};
pub use error_code::ErrorCode;
pub use id::{
    ActorId, DatasetName, DeviceId, ExperimentId, GroupName, JobId, ModelName, ProjectId, RolloutId,
};
pub use manifest::ReleaseManifest;
pub use pipeline::Pipeline;
pub use trust::TrustFile;
pub use truth::{TrueBox, Truth};

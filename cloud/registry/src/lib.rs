//! Models, their versions and lineage, and the signed releases made of them.
//!
//! - [`Model`], [`ModelVersion`]: an ONNX file with its pre- and post-processing, what was measured on it, and
//!   where it comes from (dataset version, training job, recipe).
//! - [`Release`]: a version signed for devices: a manifest with content-addressed files and golden vectors,
//!   which the registry computes by running the very bytes that ship.
//! - [`Keys`], [`Trust`]: the project's release key and control key (two private files, neither of them the
//!   CA's), and the signed trust file that tells devices which keys and floors to believe. Further release keys may
//!   live offline: then a new trust file, and a release, is made here, signed elsewhere, and brought back.
//! - [`AgentRequest`]: a release of the device agent itself.
//! - [`Bundle`]: a release as one zip file, to carry it elsewhere or back.
//!
//! [`Registry`] keeps these in records and objects. Objects are written first and a commit of small records
//! makes them visible, together with the audit record of who did it.

mod agent;
mod bundle;
mod error;
mod files;
mod keys;
mod measurement;
mod model;
mod patches;
mod registry;
mod release;
mod transport;
mod trust;

pub use agent::{AGENT_OS, AgentBinary, AgentRequest, architecture};
pub use bundle::Bundle;
pub use error::{Error, Result};
pub use keys::{Keys, read_key};
pub use measurement::ToMeasure;
pub use model::{Model, ModelVersion, NewSamples, NewVersion, SAMPLE_INPUTS, SampleInputs, Source};
pub use registry::Registry;
pub use release::{Release, ReleaseFile, ReleasePatch, ReleaseRequest};
pub use trust::{CurrentTrust, Trust};

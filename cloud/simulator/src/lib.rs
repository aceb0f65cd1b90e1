//! A fleet in one process: light devices over real MQTT/TLS connections against a running control plane, with faults.
//!
//! A simulated device decides with the same machines as the agent (`flotilla_device`: session, desired document, update,
//! download, outbox, commands, drift) and speaks through the agent's own link, enrolment and TLS. It has its own key and
//! certificate, checks every signature and digest, and keeps its heartbeat. What differs from a real one:
//!
//! - Its disk is memory and forgets nothing but what a crash takes. A new run begins with empty slots.
//! - Its model is chance: predictions, their failures, latency and confidence are drawn, and so is what a probe says.
//! - Bytes are shared: what one device has verified against its digest (the signature of a release envelope, the digest of
//!   a whole file) is not verified again by the others, and no chunk is kept twice. Each device still fetches every chunk
//!   over its own connection and compares it with the digest in the signed manifest.
//! - It renews no certificate, runs no shadow, keeps no hard examples and cannot be upgraded; commands for these end as
//!   unsupported.
//!
//! Who is struck by a fault is drawn by the seed and exact: 10 % of 50 devices are five, and with the same seed the same
//! five.
//!
//! - [`options`]: how many devices, which faults, and their bounds; `chance`: who is struck.
//! - `descriptors`: whether the system permits so many connections; `identities`: enrolment, and what is kept of it.
//! - `device`: one device; `library`: bytes that are verified once.
//! - [`figures`]: what happened, live and at the end.

mod chance;
mod descriptors;
mod device;
mod error;
pub mod figures;
mod identities;
mod library;
pub mod options;
mod run;

pub use error::Error;
pub use run::{Step, run};

//! Models on the device: the host, the local endpoint and the probe, with real models, sockets and processes.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod api;
mod drift;
mod endpoint;
mod host;
mod kinds;
mod oip;
mod predict;
mod probe;
mod support;

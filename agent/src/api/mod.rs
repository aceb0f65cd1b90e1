//! The device's own HTTP endpoint, for the applications beside it: `POST /predict/{model}`, the Open Inference Protocol
//! below `/v2`, `GET /streams`, `GET /healthz`, `GET /status`.
//!
//! It listens on loopback or at a Unix socket only, and a browser cannot be made to speak to it for a foreign page: the Host must
//! be this machine (a name that an attacker points at 127.0.0.1 is not) and an Origin must be the endpoint's
//! own. Bodies, connections, headers and time are bounded.

mod answer;
mod body;
mod guard;
mod listen;
mod oip;
mod predict;
mod problem;
mod server;
mod thing;

pub use listen::{Address, ApiError, Listener, Stream, bind};
pub use server::serve;

use std::sync::Arc;
use std::time::Duration;

/// Makes the document of `GET /status`. It is called on every request and must not block.
pub type Status = Arc<dyn Fn() -> serde_json::Value + Send + Sync>;

/// The best labels that an answer names where nobody says how many.
pub const TOP: usize = 5;
/// Connections at once; others wait in the system's backlog.
pub const CONNECTIONS: usize = 64;
/// Bytes of request bodies in memory at once.
pub const BODIES: usize = 32 * flotilla_protocol::limits::MIB;
/// Bytes of a request's headers at most.
pub const HEADERS: usize = 16 * flotilla_protocol::limits::KIB;
/// Time for a request's headers, and that a connection may be silent between requests.
pub const HEADER_TIME: Duration = Duration::from_secs(15);
/// Time for a request's body.
pub const BODY_TIME: Duration = Duration::from_secs(30);
/// Time for requests in progress when the endpoint closes.
pub const GRACE: Duration = Duration::from_secs(5);

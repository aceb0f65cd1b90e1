//! The devices' connections: an embedded MQTT 3.1.1 broker behind our own traits.
//!
//! - [`Authority`] is asked who may connect; [`Inbound`] is what devices do; [`Downlink`] is how the control plane
//!   reaches them. An external broker fits by implementing [`Downlink`] and producing [`Inbound`].
//! - [`Broker`] is the embedded one. The wire, its bounds and the identity of the peer are ours (`gate`); MQTT sessions
//!   are rmqtt's (`engine`), decided by our hooks (`hooks`).
//!
//! ```text
//! device == TLS, client certificate ==> gate == loopback, one-time password ==> rmqtt session -- hooks --> Inbound
//! ```
//!
//! The gate terminates TLS because rmqtt's own listener shows its hooks neither the certificate's URI name nor its
//! issuer, bounds neither unauthenticated connections nor the wait for CONNECT, and reads keys from files. It checks
//! the CONNECT packet and rewrites it before rmqtt sees a byte: a session name of our own (two projects may each have a
//! device of the same name), a clean session, and a random password that one connection can use once. The loopback
//! port between the two is therefore worth nothing to another user of the machine.
//!
//! Default deny: the client id must be the certificate's device; a device publishes to its own up topics, subscribes to
//! its own down topics with QoS 1, and may leave a will on its own `event` topic. A refused publish also ends the
//! connection, because MQTT 3.1.1 has no other way to say no, and rmqtt would acknowledge it.

mod acl;
mod authority;
mod budget;
mod config;
mod connect;
mod embedded;
mod engine;
mod error;
mod event;
mod gate;
mod hooks;
mod link;
mod rate;
mod registry;
mod tls;

pub use crate::ca::PeerIdentity;
pub use authority::{Authority, Decision, Refusal};
pub use config::{Bounds, BrokerConfig};
pub use embedded::{Broker, Downlink};
pub use error::Error;
pub use event::Inbound;

//! The devices' connections: an embedded MQTT 3.1.1 broker behind our own traits.
//!
//! - [`Authority`] is asked who may connect; [`Inbound`] is what devices do; [`Downlink`] is how the control plane
//!   reaches them. An external broker fits by implementing [`Downlink`] and producing [`Inbound`].
//! - [`Broker`] is the embedded one: the part of MQTT that devices need, and nothing that one device could reach another
//!   with. Sessions are clean, nothing is retained, there is no routing: what a device says is handed over as
//!   [`Inbound`], what is for it goes into the mail of its one connection.
//!
//! ```text
//! device == TLS, client certificate ==> gate -- one task a connection: wire <-> session --> Inbound
//!                                                          ^ mail of the link <-- Downlink
//! ```
//!
//! The `gate` accepts, ends TLS, reads CONNECT (`connect`) and asks the authority, all within bounds for those who have
//! not shown yet who they are. `session` decides, without I/O; `wire` carries its packets, whose bytes are the business of
//! `packet`; a `link` is what others see of a connection, the `registry` knows them all, and `budget` is the room that
//! messages to a device take. A connection costs one file descriptor and, at rest, a few KiB beside what TLS needs.
//!
//! Default deny: the client id must be the certificate's device; a device publishes to its own up topics, subscribes to
//! its own down topics with QoS 1, and may leave a will on its own `event` topic, which is handed over when it goes
//! without good-bye, for whatever reason. A refused publish ends the connection, because MQTT 3.1.1 has no other way to
//! say no; so do QoS 2, and whatever breaks the protocol.

mod acl;
mod authority;
mod budget;
mod config;
mod connect;
mod embedded;
mod error;
mod event;
mod gate;
mod link;
mod packet;
mod rate;
mod registry;
mod session;
mod tls;
mod wire;

pub use crate::ca::PeerIdentity;
pub use authority::{Authority, Decision, Refusal};
pub use config::{Bounds, BrokerConfig};
pub use embedded::{Broker, Downlink};
pub use error::Error;
pub use event::Inbound;

//! The agent as its own process against a small control plane over real TLS and MQTT: updates, kills, damage,
//! and life without a network.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod cloud;
mod device;
mod disk;
mod kills;
mod refusals;
mod releases;
mod updates;
mod upgrade;

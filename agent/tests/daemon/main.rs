//! The agent as its own process against a small control plane over real TLS and MQTT: updates, kills, damage,
//! and life without a network.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod clocks;
mod cloud;
mod damage;
mod device;
mod disk;
mod doctor;
mod download;
mod folders;
mod hard_examples;
mod kills;
mod logs;
mod malformed;
mod manners;
mod measure;
mod offline;
mod older_agent;
mod patches;
mod pictures;
mod random_kills;
mod refusals;
mod releases;
mod reports;
mod shadows;
mod side_by_side;
mod streams;
mod switch;
mod trust;
mod updates;
mod upgrade;
mod upgrade_faults;

//! The fleet over real connections: broker, certificates, twins, transfers, telemetry and rollouts.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod certificates;
mod devices;
mod experiments;
mod gates;
mod groups;
mod hard_examples;
mod kills;
mod lifetime;
mod logs;
mod measure;
mod plans;
mod rollouts;
mod shadows;
mod stage;
mod support;

//! End to end through the real binaries: what users do, what goes wrong, and who must not get in.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod agent_upgrade;
mod approval;
mod arm;
mod boards;
mod card;
mod certificates;
mod commands;
mod compress;
mod console;
mod console_api;
mod console_fleet;
mod data;
mod deploy;
mod doctor;
mod drift;
mod experiments;
mod export;
mod fleet_top;
mod groups;
mod hard_examples;
mod import;
mod inspect;
mod kinds;
mod offline;
mod old_folders;
mod quickstart;
mod reach;
mod refusals;
mod seed;
mod shadow;
mod simulate;
mod trust;
mod updates;

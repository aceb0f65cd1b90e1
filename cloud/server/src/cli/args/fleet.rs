//! `flotilla fleet …` and `flotilla device decommission` as types.

use super::Target;
use clap::{Args, Subcommand};

/// `flotilla fleet …`
#[derive(Debug, Subcommand)]
pub enum Fleet {
    /// Watch the whole fleet: devices by state, what they run, rollouts under way, and who needs somebody's eye. Ends with
    /// Ctrl-C.
    Top(FleetTop),
}

/// `flotilla fleet top`
#[derive(Debug, Args)]
pub struct FleetTop {
    /// Print it once, as plain text, and end; so it does by itself where nobody sits at a terminal.
    #[arg(long)]
    pub once: bool,
    /// The control plane.
    #[command(flatten)]
    pub target: Target,
}

/// `flotilla device decommission`
#[derive(Debug, Args)]
pub struct DeviceDecommission {
    /// The devices.
    #[arg(required = true)]
    pub ids: Vec<String>,
    /// Why.
    #[arg(long, default_value = "out of service")]
    pub reason: String,
    /// Do not ask first.
    #[arg(short, long)]
    pub yes: bool,
    /// The control plane.
    #[command(flatten)]
    pub target: Target,
}

//! `flotilla shadow …` as types.

use super::{Output, Target};
use clap::{Args, Subcommand};

/// `flotilla shadow …`
#[derive(Debug, Subcommand)]
pub enum Shadow {
    /// Let a release run beside a model's confirmed one, on the same inputs; applications never get its answers.
    Start {
        /// The model.
        model: String,
        /// Digest of the release; the newest of the model by default.
        #[arg(long)]
        release: Option<String>,
        /// On which devices.
        #[command(flatten)]
        on: OnDevices,
        /// Share of the inputs that it sees, in per mille.
        #[arg(long, default_value_t = flotilla_protocol::message::SHARE_ALL,
            value_parser = clap::value_parser!(u32).range(1..=1000))]
        share: u32,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
    /// End it; the device's files of it go, too.
    Stop {
        /// The model.
        model: String,
        /// On which devices.
        #[command(flatten)]
        on: OnDevices,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
    /// Show how it compares, on each device and in all.
    Show {
        /// The model.
        model: String,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
}

/// Some devices, or all of them.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct OnDevices {
    /// A device; repeat for several.
    #[arg(long = "device")]
    pub devices: Vec<String>,
    /// Every active device that runs the model.
    #[arg(long)]
    pub all: bool,
}

impl Shadow {
    /// The form in which results and errors are printed.
    pub(crate) fn output(&self) -> Output {
        match self {
            Self::Start { target, .. } | Self::Stop { target, .. } | Self::Show { target, .. } => {
                target.output
            }
        }
    }
}

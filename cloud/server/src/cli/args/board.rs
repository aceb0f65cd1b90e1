//! `flotilla board …` as types.

use super::{Output, Target};
use clap::Subcommand;
use std::path::PathBuf;

/// `flotilla board …`
#[derive(Debug, Subcommand)]
pub enum Board {
    /// List boards, and how well times on them are predicted.
    List(Target),
    /// Show a board: its profile, what operators cost there, and what devices say of that.
    Show {
        /// The board.
        name: String,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
    /// Predict how long a model takes on a board.
    Predict {
        /// The model.
        model: String,
        /// The version; the newest by default.
        version: Option<u32>,
        /// The board.
        #[arg(long)]
        board: String,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
    /// Measure this machine, by generated graphs, and let the control plane predict by that for boards of this name.
    Measure {
        /// The board that this machine is.
        name: String,
        /// How long, about. On a machine that does something else, too, longer is better.
        #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=3600))]
        seconds: u64,
        /// Write a file instead of telling a control plane, for `flotilla board keep` elsewhere.
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
    /// Let the control plane predict by a file that `flotilla board measure --file` wrote.
    Keep {
        /// The file.
        file: PathBuf,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
}

impl Board {
    pub(crate) fn output(&self) -> Output {
        match self {
            Self::List(target)
            | Self::Show { target, .. }
            | Self::Predict { target, .. }
            | Self::Measure { target, .. }
            | Self::Keep { target, .. } => target.output,
        }
    }
}

//! `flotilla release …` as types.

use super::{Output, Target};
use clap::Subcommand;
use std::path::PathBuf;

/// `flotilla release …`
#[derive(Debug, Subcommand)]
pub enum Release {
    /// Sign a model version.
    Create {
        /// The model.
        model: String,
        /// The version; the newest by default.
        #[arg(long)]
        version: Option<u32>,
        /// A board that it is for, by the name of its profile, such as raspberry-pi-5; repeat for several. Every board by
        /// default; others refuse it.
        #[arg(long = "board", value_name = "NAME")]
        boards: Vec<String>,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
    /// Sign an agent, to be rolled out like a model's release.
    CreateAgent {
        /// The agent's program; repeat for several architectures.
        #[arg(long = "binary", value_name = "FILE", required = true)]
        binaries: Vec<PathBuf>,
        /// The architecture of a single program that does not say it itself, such as aarch64.
        #[arg(long)]
        arch: Option<String>,
        /// Its version, as `flotilla-agent --version` prints it.
        #[arg(long = "version", value_name = "VERSION")]
        agent_version: String,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
    /// Write a release that offline keys have yet to sign, with its files, as a zip.
    Draft {
        /// The model.
        model: String,
        /// The file to write.
        file: PathBuf,
        /// The version; the newest by default.
        #[arg(long)]
        version: Option<u32>,
        /// A board that it is for, by the name of its profile, such as raspberry-pi-5; repeat for several. Every board by
        /// default; others refuse it.
        #[arg(long = "board", value_name = "NAME")]
        boards: Vec<String>,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
    /// Add the signature of a release key to a draft. Needs no control plane.
    Sign {
        /// The zip.
        file: PathBuf,
        /// File with the private key.
        #[arg(long)]
        key: PathBuf,
        /// Output form, of errors too.
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// List releases.
    List(Target),
    /// Write a release with its files as a zip.
    Export {
        /// Digest of the release.
        digest: String,
        /// The file to write.
        file: PathBuf,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
    /// Import a bundle that the project's keys signed.
    Import {
        /// The zip.
        file: PathBuf,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
}

impl Release {
    /// The form in which results and errors are printed.
    pub(crate) fn output(&self) -> Output {
        match self {
            Self::Sign { output, .. } => *output,
            Self::Create { target, .. }
            | Self::CreateAgent { target, .. }
            | Self::List(target)
            | Self::Draft { target, .. }
            | Self::Export { target, .. }
            | Self::Import { target, .. } => target.output,
        }
    }
}

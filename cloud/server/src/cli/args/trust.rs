//! `flotilla trust …` as types.

use super::{Output, Target};
use clap::Subcommand;
use std::path::PathBuf;

/// `flotilla trust …`
///
/// A new version is proposed to a file, signed there by the release keys, each where it lives, and published.
#[derive(Debug, Subcommand)]
pub enum Trust {
    /// Show the trust file in force, or one in a file.
    Show {
        /// A proposed trust file.
        file: Option<PathBuf>,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
    /// Make a private key in a new file (mode 0600) and print its public half. Needs no control plane.
    Key {
        /// The file to write.
        file: PathBuf,
        /// Output form, of errors too.
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Write the next version, not signed, to a new file.
    Propose {
        /// The file to write.
        file: PathBuf,
        /// A release key's public half in hex; repeat for all that are to be. Unchanged where none is given.
        #[arg(long = "release-key")]
        release_keys: Vec<String>,
        /// How many release keys must sign.
        #[arg(long)]
        threshold: Option<u16>,
        /// A control key's public half in hex; repeat for all that are to be. Unchanged where none is given.
        #[arg(long = "control-key")]
        control_keys: Vec<String>,
        /// MODEL=COUNTER: forbids every release of the model below this counter; repeat for several. Floors only rise.
        #[arg(long = "floor")]
        floors: Vec<String>,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
    /// Add the signature of a release key to a proposed trust file. Needs no control plane.
    Sign {
        /// The proposed trust file.
        file: PathBuf,
        /// File with the private key.
        #[arg(long)]
        key: PathBuf,
        /// Output form, of errors too.
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Put a trust file in force that enough keys have signed: those in force and its own.
    Publish {
        /// The signed trust file.
        file: PathBuf,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
}

impl Trust {
    /// The form in which results and errors are printed.
    pub(crate) fn output(&self) -> Output {
        match self {
            Self::Key { output, .. } | Self::Sign { output, .. } => *output,
            Self::Show { target, .. } | Self::Propose { target, .. } | Self::Publish { target, .. } => {
                target.output
            }
        }
    }
}

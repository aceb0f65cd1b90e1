//! `flotilla hard …` as types.

use super::{Output, Target};
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// `flotilla hard …`
#[derive(Debug, Subcommand)]
pub enum Hard {
    /// Let devices keep and send inputs of a model, within a budget, or take that back. Off by default.
    Consent(HardConsent),
    /// List the devices that may.
    Consents {
        /// Of this model only.
        #[arg(long)]
        model: Option<String>,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
    /// List what came.
    List {
        /// Of this model only.
        #[arg(long)]
        model: Option<String>,
        /// In this state only: quarantined, accepted or rejected.
        #[arg(long)]
        state: Option<String>,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
    /// Show one, and write its picture to a new file.
    Show {
        /// Its digest.
        digest: String,
        /// The file to write.
        file: Option<PathBuf>,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
    /// Make some unlabelled samples of a dataset.
    Accept {
        /// Their digests.
        #[arg(required_unless_present = "all")]
        digests: Vec<String>,
        /// All that wait for a decision.
        #[arg(long, conflicts_with = "digests")]
        all: bool,
        /// With --all: of this model only.
        #[arg(long, requires = "all")]
        model: Option<String>,
        /// The dataset; the one that their policy named by default, with --all each the one that its own named.
        #[arg(long)]
        dataset: Option<String>,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
    /// Delete the pictures of some.
    Reject {
        /// Their digests.
        #[arg(required_unless_present = "all")]
        digests: Vec<String>,
        /// All that wait for a decision.
        #[arg(long, conflicts_with = "digests")]
        all: bool,
        /// With --all: of this model only.
        #[arg(long, requires = "all")]
        model: Option<String>,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
}

/// `flotilla hard consent`
#[derive(Debug, Args)]
pub struct HardConsent {
    /// The model.
    pub model: String,
    /// A device; repeat for several.
    #[arg(long = "device", required_unless_present = "all")]
    pub devices: Vec<String>,
    /// All active devices.
    #[arg(long, conflicts_with = "devices")]
    pub all: bool,
    /// Inputs whose best score is below this, 0.001 to 1.
    #[arg(long, value_parser = share)]
    pub confidence_below: Option<f64>,
    /// Inputs whose best two scores are less than this apart, 0.001 to 1.
    #[arg(long, value_parser = share)]
    pub margin_below: Option<f64>,
    /// Inputs on which a release in the shadow says another label.
    #[arg(long)]
    pub shadow: bool,
    /// Any inputs at random: so many of a million.
    #[arg(long, default_value_t = 0)]
    pub audit_per_million: u32,
    /// Bytes that a device may send on one day (UTC); 0 keeps and sends nothing.
    #[arg(long, required_unless_present = "off")]
    pub daily_bytes: Option<u64>,
    /// The dataset that accepted ones are meant for.
    #[arg(long)]
    pub dataset: Option<String>,
    /// Take the consent back: devices delete what they have kept.
    #[arg(long, conflicts_with_all = ["confidence_below", "margin_below", "shadow", "audit_per_million", "daily_bytes", "dataset"])]
    pub off: bool,
    /// The control plane.
    #[command(flatten)]
    pub target: Target,
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.001..=1.0).contains(share));
    share.ok_or_else(|| "a share is 0.001 to 1".to_owned())
}

impl Hard {
    /// The form in which results and errors are printed.
    pub(crate) fn output(&self) -> Output {
        match self {
            Self::Consent(HardConsent { target, .. })
            | Self::Consents { target, .. }
            | Self::List { target, .. }
            | Self::Show { target, .. }
            | Self::Accept { target, .. }
            | Self::Reject { target, .. } => target.output,
        }
    }
}

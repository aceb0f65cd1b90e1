//! `flotilla experiment …` as types.

use super::Target;
use clap::{Args, Subcommand, ValueEnum};
use std::time::Duration;

/// `flotilla experiment …`
#[derive(Debug, Subcommand)]
pub enum Experiment {
    /// Try two releases of a model on two halves of the fleet, and compare them.
    Create(Box<ExperimentSpec>),
    /// List experiments.
    List(Target),
    /// Show one experiment.
    Show(ExperimentId),
    /// Follow an experiment until it asks something or is over.
    Watch(ExperimentId),
    /// End an experiment; devices keep what they have.
    Stop {
        /// Send both halves back to what they ran before.
        #[arg(long)]
        back: bool,
        /// The experiment.
        #[command(flatten)]
        experiment: ExperimentId,
    },
    /// Roll one of the releases out to the devices of the other half.
    Promote {
        /// The experiment.
        #[command(flatten)]
        experiment: ExperimentId,
        /// Which one; the winner by default.
        #[arg(value_enum)]
        side: Option<Side>,
        /// To the whole group, or every device, in watched waves, instead.
        #[arg(long = "to-group")]
        to_all: bool,
    },
}

impl Experiment {
    /// The control plane.
    pub(crate) fn target(&self) -> &Target {
        match self {
            Self::Create(spec) => &spec.target,
            Self::List(target) => target,
            Self::Show(experiment)
            | Self::Watch(experiment)
            | Self::Stop { experiment, .. }
            | Self::Promote { experiment, .. } => &experiment.target,
        }
    }
}

/// What is compared, and how.
#[derive(Debug, Args)]
pub struct ExperimentSpec {
    /// Digest of the release that stays where there is no difference that matters: what runs already, usually.
    #[arg(long, value_name = "DIGEST")]
    pub a: String,
    /// Digest of the release that is tried.
    #[arg(long, value_name = "DIGEST")]
    pub b: String,
    /// The devices of this group, as they are now; all by default.
    #[arg(long, value_name = "NAME", conflicts_with = "filter")]
    pub group: Option<String>,
    /// The devices that this expression is true of, instead.
    #[arg(long, value_name = "EXPRESSION")]
    pub filter: Option<String>,
    /// The share of devices that run B, 1% to 99%.
    #[arg(long, value_name = "SHARE", default_value = "50%", value_parser = share)]
    pub share: u8,
    /// Compare for this long at least, such as 30m, which is usual.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub soak: Option<Duration>,
    /// Ask if nothing is certain after this long; 24h by default.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub max_soak: Option<Duration>,
    /// Compare this metric: NAME=TOLERATED/HARM, such as errors=0.005/0.02, or latency_p95=1.1/1.5 as factors; repeat for
    /// several. Errors, latency_p95, memory, restarts, drift and confidence with their usual bounds by default.
    #[arg(long = "metric", value_name = "METRIC", value_parser = metric)]
    pub metrics: Vec<(String, f64, f64)>,
    /// Who decides when the comparison is over.
    #[arg(long, value_enum, value_name = "WHO", default_value = "ask")]
    pub winner: Winner,
    /// What people call it.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub name: String,
    /// The control plane.
    #[command(flatten)]
    pub target: Target,
}

/// Who decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Winner {
    /// The evidence, where there is any.
    Auto,
    /// You.
    Ask,
}

/// One of the two releases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Side {
    /// The one that stays where there is no difference that matters.
    A,
    /// The one that is tried.
    B,
}

/// An experiment.
#[derive(Debug, Args)]
pub struct ExperimentId {
    /// The experiment.
    pub id: String,
    /// The control plane.
    #[command(flatten)]
    pub target: Target,
}

/// `50%`
fn share(text: &str) -> Result<u8, String> {
    let number = text.strip_suffix('%').unwrap_or(text).parse().ok().filter(|share| (1..=99).contains(share));
    number.ok_or_else(|| "a share of the devices, 1% to 99%".into())
}

/// `errors=0.005/0.02`
fn metric(text: &str) -> Result<(String, f64, f64), String> {
    let parsed = text.split_once('=').and_then(|(name, bounds)| {
        let (tolerated, harm) = bounds.split_once('/')?;
        Some((name.to_owned(), tolerated.parse().ok()?, harm.parse().ok()?))
    });
    parsed.ok_or_else(|| "NAME=TOLERATED/HARM, such as errors=0.005/0.02".into())
}

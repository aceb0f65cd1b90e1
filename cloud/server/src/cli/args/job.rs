//! `flotilla train` and `flotilla job …` as types.

use super::{Output, Target};
use clap::{Args, Subcommand};

/// `flotilla train`
#[derive(Debug, Args)]
pub struct Train {
    /// Dataset to train on.
    pub dataset: String,
    /// Dataset version; the newest by default.
    #[arg(long)]
    pub version: Option<u32>,
    /// The model that gets a new version; named like the dataset by default.
    #[arg(long)]
    pub model: Option<String>,
    /// A column of a table that the model does not look at, such as a name of the row or what is known only afterwards;
    /// may be given several times.
    #[arg(long, value_name = "COLUMN")]
    pub leave_out: Vec<String>,
    /// Settings of the algorithm, as a JSON object.
    #[arg(long)]
    pub config: Option<String>,
    /// Return at once instead of following the job.
    #[arg(long)]
    pub detach: bool,
    /// The control plane.
    #[command(flatten)]
    pub target: Target,
}

/// `flotilla job …`
#[derive(Debug, Subcommand)]
pub enum Job {
    /// List jobs.
    List(Target),
    /// Show one job.
    Show {
        /// The job.
        id: String,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
    /// Print a job's log.
    Log {
        /// The job.
        id: String,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
    /// Cancel a job.
    Cancel {
        /// The job.
        id: String,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
}

impl Job {
    /// The form in which results and errors are printed.
    pub(crate) fn output(&self) -> Output {
        match self {
            Self::List(target)
            | Self::Show { target, .. }
            | Self::Log { target, .. }
            | Self::Cancel { target, .. } => target.output,
        }
    }
}

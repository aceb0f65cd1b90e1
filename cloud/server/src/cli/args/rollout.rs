//! `flotilla rollout …` as types.

use super::Target;
use clap::{Args, Subcommand};
use std::time::Duration;

/// `flotilla rollout …`
#[derive(Debug, Subcommand)]
pub enum Rollout {
    /// Roll a release out: one canary, then the rest.
    Create {
        /// What to roll out, and how.
        #[command(flatten)]
        spec: RolloutSpec,
        /// Return at once instead of following the rollout.
        #[arg(long)]
        detach: bool,
    },
    /// Print what `create` would do, and which devices cannot take the release and why, without doing it.
    Plan(RolloutSpec),
    /// List rollouts.
    List(Target),
    /// Show one rollout.
    Show {
        /// The rollout.
        id: String,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
    /// Touch no further device until the rollout is resumed.
    Pause(RolloutId),
    /// Go on; a wave of which nothing was certain counts as through.
    Resume(RolloutId),
    /// Stop a rollout and send every device that it touched back.
    Rollback(RolloutId),
    /// Stop a rollout; devices keep what they confirmed.
    Abort(RolloutId),
}

/// What to roll out, and how.
#[derive(Debug, Args)]
pub struct RolloutSpec {
    /// Digest of the release.
    pub release: String,
    /// A device; repeat for several. All active devices by default.
    #[arg(long = "device")]
    pub devices: Vec<String>,
    /// The devices of this group, as they are now, instead.
    #[arg(long, value_name = "NAME", conflicts_with = "devices")]
    pub group: Option<String>,
    /// Devices of a wave: a number, or a share of all such as 10%; repeat for each wave. What is left makes one more.
    /// One device by default.
    #[arg(long = "wave", value_name = "SIZE")]
    pub waves: Vec<String>,
    /// Watch each wave for this long at least before the next one begins, such as 30m: it goes on once the release is
    /// shown to do no harm, and stops the rollout once it is shown to do worse than what waiting devices run.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub soak: Option<Duration>,
    /// Pause if neither is certain after this long; eight times the shortest watch by default.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, requires = "soak")]
    pub max_soak: Option<Duration>,
    /// The control plane.
    #[command(flatten)]
    pub target: Target,
}

/// A rollout that is under way.
#[derive(Debug, Args)]
pub struct RolloutId {
    /// The rollout.
    pub id: String,
    /// The control plane.
    #[command(flatten)]
    pub target: Target,
}

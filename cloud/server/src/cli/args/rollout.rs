//! `flotilla rollout …` as types.

use super::Target;
use clap::{Args, Subcommand, ValueEnum};
use std::time::{Duration, SystemTime};

/// `flotilla rollout …`
#[derive(Debug, Subcommand)]
pub enum Rollout {
    /// Roll a release out: one canary, then the rest.
    Create {
        /// What to roll out, and how.
        #[command(flatten)]
        spec: Box<RolloutSpec>,
        /// Return at once instead of following the rollout.
        #[arg(long)]
        detach: bool,
    },
    /// Print what `create` would do, and which devices cannot take the release and why, without doing it.
    Plan(Box<RolloutSpec>),
    /// List rollouts.
    List(Target),
    /// Show one rollout.
    Show(RolloutId),
    /// Follow a rollout to its end, or until it asks something.
    Watch(RolloutId),
    /// List the devices of a rollout in its order.
    Devices {
        /// Only those that stand like this: pending, sent, retrying, confirmed, failed, skipped or reverted.
        #[arg(long)]
        state: Option<String>,
        /// The rollout.
        #[command(flatten)]
        rollout: RolloutId,
    },
    /// Start a draft.
    Start(RolloutId),
    /// Let a rollout begin that waits for an approval.
    Approve(RolloutId),
    /// Refuse it.
    Reject(RolloutId),
    /// Touch no further device until the rollout is resumed.
    Pause(RolloutId),
    /// Go on; what the rollout asks is answered with yes.
    Resume(RolloutId),
    /// Stop a rollout and send every device that it touched back; one that has ended, too.
    Rollback(RolloutId),
    /// Take no late comers in any more; it ends once all its devices have.
    Finish(RolloutId),
    /// Stop a rollout; devices keep what they confirmed.
    Abort(RolloutId),
    /// Tell devices again that have failed; one that has stopped and held goes on.
    Retry {
        /// Only this one.
        #[arg(long)]
        device: Option<String>,
        /// The rollout.
        #[command(flatten)]
        rollout: RolloutId,
    },
    /// Leave a device out.
    Skip {
        /// The rollout.
        #[command(flatten)]
        rollout: RolloutId,
        /// The device.
        #[arg(long)]
        device: String,
    },
}

impl Rollout {
    /// The control plane.
    pub(crate) fn target(&self) -> &Target {
        match self {
            Self::Create { spec, .. } | Self::Plan(spec) => &spec.target,
            Self::List(target) => target,
            Self::Show(rollout)
            | Self::Watch(rollout)
            | Self::Devices { rollout, .. }
            | Self::Start(rollout)
            | Self::Approve(rollout)
            | Self::Reject(rollout)
            | Self::Pause(rollout)
            | Self::Resume(rollout)
            | Self::Rollback(rollout)
            | Self::Finish(rollout)
            | Self::Abort(rollout)
            | Self::Retry { rollout, .. }
            | Self::Skip { rollout, .. } => &rollout.target,
        }
    }
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
    /// Take in devices that come into the group later, until the rollout is finished or a newer one begins.
    #[arg(long = "follow-group", requires = "group")]
    pub follows: bool,
    /// Devices of a wave: a number, or a share of all such as 10%; repeat for each wave. What is left makes one more.
    /// One device by default.
    #[arg(long = "wave", value_name = "SIZE")]
    pub waves: Vec<String>,
    /// Watch each wave for this long at least before the next one begins, such as 30m, or 0s for not at all; 3h by default
    /// for 100 devices or more, if no waves are named. A wave that is watched goes on once the release is
    /// shown to do no harm, and stops the rollout once it is shown to do worse than what waiting devices run.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub soak: Option<Duration>,
    /// Pause if neither is certain after this long; eight times the shortest watch by default.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, requires = "soak")]
    pub max_soak: Option<Duration>,
    /// Before the first wave, let so many devices (a number, or a share of all such as 5%) run the release in the shadow of
    /// what they have confirmed: it sees the same inputs, and no application gets an answer of it.
    #[arg(long, value_name = "SIZE")]
    pub shadow: Option<String>,
    /// For this long at least.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "1h", requires = "shadow")]
    pub shadow_for: Duration,
    /// Pause if it is not certain after this long whether the shadow does worse; eight times the shortest by default.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, requires = "shadow")]
    pub max_shadow: Option<Duration>,
    /// Let the shadow see so many of a hundred inputs; all by default.
    #[arg(long, value_name = "PERCENT", requires = "shadow")]
    pub shadow_share: Option<u8>,
    /// Tolerate that so many of a hundred answers differ; 5 by default.
    #[arg(long, value_name = "PERCENT", requires = "shadow")]
    pub differing: Option<u8>,
    /// Failures that each wave tolerates: a number, or a share of its devices such as 5%. None in the first wave and 10%
    /// in the others by default.
    #[arg(long, value_name = "NUMBER")]
    pub max_failures: Option<String>,
    /// Count failures once so many devices of a wave are decided.
    #[arg(long, value_name = "DEVICES", requires = "max_failures")]
    pub min_decided: Option<u32>,
    /// How long a device may take, such as 2h; half an hour and its probation by default.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub deadline: Option<Duration>,
    /// Tell at most so many devices within any minute.
    #[arg(long = "rate", value_name = "DEVICES")]
    pub per_minute: Option<u32>,
    /// Let the rate grow: FACTOR:DEVICES:MAX, such as 2:100:2000: twice the rate for every 100 confirmed devices, up to
    /// 2000 a minute.
    #[arg(long, value_name = "RAMP", value_parser = ramp, requires = "per_minute")]
    pub ramp: Option<(u32, u32, u32)>,
    /// Have at most so many devices under way at the same time.
    #[arg(long, value_name = "DEVICES")]
    pub concurrency: Option<u32>,
    /// Tell a device up to so many times, if what it failed of may pass.
    #[arg(long, value_name = "TIMES")]
    pub tries: Option<u32>,
    /// The pause before it is told again, doubled each time; 5m by default.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, requires = "tries")]
    pub retry_wait: Option<Duration>,
    /// Tell it again after this failure only; repeat for several codes.
    #[arg(long = "retry-code", value_name = "CODE", requires = "tries")]
    pub retry_codes: Vec<String>,
    /// Tell devices only at these hours of their own clock: "mon-fri 01:00-05:00", "sat,sun 22:00-04:00" or
    /// "daily 02:00-03:30". A device's clock is that of its attribute timezone, such as timezone=Europe/Berlin.
    #[arg(long, value_name = "HOURS")]
    pub window: Option<String>,
    /// The time zone of devices that have none of their own, such as Europe/Berlin; UTC by default.
    #[arg(long, value_name = "ZONE", requires = "window")]
    pub window_zone: Option<String>,
    /// What devices do that were told, once the rollout has stopped itself.
    #[arg(long, value_enum, value_name = "WHAT", default_value = "go-back")]
    pub on_stop: OnStop,
    /// Wait for a word before each further wave.
    #[arg(long)]
    pub approve_waves: bool,
    /// Come before rollouts with less.
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub priority: u8,
    /// Do not start it yet.
    #[arg(long)]
    pub draft: bool,
    /// Somebody has to approve it before it begins.
    #[arg(long)]
    pub needs_approval: bool,
    /// Begin at this time: 2026-12-01T02:00:00Z, or a time from now such as 8h.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub at: Option<SystemTime>,
    /// The control plane.
    #[command(flatten)]
    pub target: Target,
}

/// What devices do that were told, once a rollout has stopped itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnStop {
    /// They go back to what they ran before.
    GoBack,
    /// They keep what they have, until somebody decides.
    Hold,
}

/// A rollout.
#[derive(Debug, Args)]
pub struct RolloutId {
    /// The rollout.
    pub id: String,
    /// The control plane.
    #[command(flatten)]
    pub target: Target,
}

/// `2:100:2000`
fn ramp(text: &str) -> Result<(u32, u32, u32), String> {
    let numbers: Option<Vec<u32>> = text.split(':').map(|number| number.parse().ok()).collect();
    match numbers.as_deref() {
        Some([factor, every, max]) => Ok((*factor, *every, *max)),
        _ => Err(
            "three numbers, such as 2:100:2000: a factor, for every so many devices, up to so many a minute"
                .into(),
        ),
    }
}

/// A moment, or a time from now.
fn moment(text: &str) -> Result<SystemTime, String> {
    if let Ok(at) = humantime::parse_rfc3339_weak(text) {
        return Ok(at);
    }
    let ahead = humantime::parse_duration(text).map_err(|_| {
        "a moment such as 2026-12-01T02:00:00Z (UTC), or a time from now such as 8h".to_owned()
    })?;
    SystemTime::now().checked_add(ahead).ok_or_else(|| "that is too far ahead".to_owned())
}

//! Rollouts: what is asked for, how far it has come, what its gates have seen.

use super::ReleaseTelemetryView;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Starts a rollout to every active device, or to those named.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RolloutRequest {
    /// Digest of the release.
    pub release: String,
    /// Device ids; all active devices by default.
    #[serde(default)]
    pub devices: Option<Vec<String>>,
    /// A group instead: its devices as they are when the rollout starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Whether devices that come into the group later are taken in, until the rollout is finished or a newer one begins.
    #[serde(default)]
    pub follows: bool,
    /// How many devices each wave has: `5`, or `10%` of all; what is left makes one more. One device, then the rest, by
    /// default.
    #[serde(default)]
    pub waves: Option<Vec<String>>,
    /// How long each wave is watched at least before the next one begins, in seconds; 0 for not at all. By default three
    /// hours, if no waves are named and there are at least 100 devices; else not at all. A wave that
    /// is watched goes on once the release is shown to do no harm, and stops the rollout once it is shown to do worse.
    #[serde(default)]
    pub soak_s: Option<u64>,
    /// After how long a wave of which neither is certain pauses the rollout, in seconds; eight times `soak_s` by default.
    #[serde(default)]
    pub max_soak_s: Option<u64>,
    /// A stage before the first wave, in which the release runs in the shadow of what devices have confirmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<ShadowStageRequest>,
    /// Failures that each wave tolerates: `3`, or `5%` of its devices. None in the first and a tenth in the others, by
    /// default.
    #[serde(default)]
    pub max_failures: Option<String>,
    /// They are counted once so many devices of a wave are decided, or all; from the first on by default.
    #[serde(default)]
    pub min_decided: Option<u32>,
    /// How long a device may take, in seconds; its probation and half an hour by default.
    #[serde(default)]
    pub deadline_s: Option<u64>,
    /// Devices that are told within any minute, at most; no bound by default.
    #[serde(default)]
    pub per_minute: Option<u32>,
    /// How that grows while all goes well.
    #[serde(default)]
    pub ramp: Option<RampView>,
    /// Devices that are under way at the same time, at most; no bound by default.
    #[serde(default)]
    pub concurrency: Option<u32>,
    /// How often a device is told at most, the first time included; once by default.
    #[serde(default)]
    pub tries: Option<u32>,
    /// The pause before it is told again, in seconds, doubled each time; 300 by default.
    #[serde(default)]
    pub retry_wait_s: Option<u64>,
    /// The codes of failures after which it is told again; those that may pass by themselves by default.
    #[serde(default)]
    pub retry_codes: Vec<String>,
    /// When devices may be told, on their own clock: `mon-fri 01:00-05:00`, `sat,sun 22:00-04:00`, `daily 02:00-03:30`.
    #[serde(default)]
    pub window: Option<String>,
    /// The IANA time zone of devices that have none of their own, such as `Europe/Berlin`; `UTC` by default.
    #[serde(default)]
    pub window_zone: Option<String>,
    /// What the devices do that were told, once the rollout has stopped itself: `go_back`, or `hold` what they have.
    #[serde(default)]
    pub on_stop: Option<String>,
    /// Whether each further wave waits until an operator resumes the rollout.
    #[serde(default)]
    pub approve_waves: bool,
    /// Of several rollouts that have something to do, those with more come first; 0 by default.
    #[serde(default)]
    pub priority: u8,
    /// Whether it waits to be started.
    #[serde(default)]
    pub draft: bool,
    /// Whether somebody has to approve it before it begins.
    #[serde(default)]
    pub needs_approval: bool,
    /// When it begins, in milliseconds since 1970; at once by default.
    #[serde(default)]
    pub starts_at_ms: Option<u64>,
}

/// A stage before the first wave: on some devices the release sees the inputs, too, and no application gets an answer of
/// it. It goes on once the release is shown to do no harm, stops the rollout once it is shown to do worse, and asks where
/// neither is certain.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ShadowStageRequest {
    /// How many devices: `5`, or `10%` of all; 1,000 at most.
    pub devices: String,
    /// How long it takes at least, in seconds.
    pub soak_s: u64,
    /// After how long it asks if nothing is certain, in seconds; eight times `soak_s` by default.
    #[serde(default)]
    pub max_soak_s: Option<u64>,
    /// How many of a hundred inputs the shadow sees, 1 to 100; all by default.
    #[serde(default)]
    pub share_percent: Option<u8>,
    /// How many of a hundred answers may differ, 0 to 50; 5 by default.
    #[serde(default)]
    pub differing_percent: Option<u8>,
}

/// How a rate grows: by a factor for every so many devices that have confirmed the release.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RampView {
    /// The factor, 2 to 10.
    pub factor: u32,
    /// For every so many confirmed devices.
    pub every: u32,
    /// Devices a minute at most.
    pub max_per_minute: u32,
}

/// Devices of a rollout that are to be left out, or told again.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RolloutDeviceRequest {
    /// Device id. To tell again: all that have failed, by default.
    #[serde(default)]
    pub device: Option<String>,
}

/// A rollout.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RolloutView {
    /// Id.
    pub id: String,
    /// Model.
    pub model: String,
    /// Digest of the release.
    pub release: String,
    /// draft, waiting_for_approval, scheduled, running, paused, stopping, failed, succeeded, rolled_back or aborted.
    pub state: String,
    /// Why it is in that state.
    pub reason: String,
    /// Waves in order.
    pub waves: Vec<WaveView>,
    /// Milliseconds since 1970.
    pub started_at_ms: u64,
    /// Milliseconds since 1970.
    pub finished_at_ms: Option<u64>,
    /// What its devices say of the release; told of a single rollout only.
    #[serde(default)]
    pub telemetry: Option<ReleaseTelemetryView>,
    /// The watch over its waves, if they are watched.
    #[serde(default)]
    pub watch: Option<WatchView>,
    /// The stage before its first wave, if there is one.
    #[serde(default)]
    pub shadow: Option<ShadowStageView>,
    /// Who started it.
    #[serde(default)]
    pub created_by: String,
    /// When it is to begin, in milliseconds since 1970, if not at once.
    #[serde(default)]
    pub starts_at_ms: Option<u64>,
    /// How it goes about it, in words: pace, retries, hours, what happens when it stops.
    #[serde(default)]
    pub policy: Vec<String>,
    /// The group whose late comers it takes in.
    #[serde(default)]
    pub follows: Option<String>,
    /// Newer rollouts that have taken devices from it.
    #[serde(default)]
    pub superseded_by: Vec<String>,
}

impl RolloutView {
    /// Whether nothing will happen any more.
    pub fn is_over(&self) -> bool {
        matches!(self.state.as_str(), "failed" | "succeeded" | "rolled_back" | "aborted")
    }

    /// Whether nothing happens before somebody does something.
    pub fn waits_for_somebody(&self) -> bool {
        match self.state.as_str() {
            "draft" | "waiting_for_approval" => true,
            // One that takes late comers in goes on without an end.
            "running" if self.follows.is_some() => self.waves.iter().all(|wave| wave.counts.is_decided()),
            // One that was paused by hand goes on with a word of the same person.
            "paused" => !self.reason.is_empty(),
            _ => false,
        }
    }

    /// Devices that have confirmed the release, and all.
    pub fn progress(&self) -> (u32, u32) {
        let confirmed = self.waves.iter().map(|wave| wave.counts.confirmed).sum();
        (confirmed, self.waves.iter().map(|wave| wave.size).sum())
    }
}

/// One wave.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct WaveView {
    /// waiting, running, done or failed.
    pub state: String,
    /// How many devices it has.
    #[serde(default)]
    pub size: u32,
    /// How many stand where.
    #[serde(default)]
    pub counts: WaveCounts,
    /// Its first devices, after those that failed; `devices` of the rollout has all.
    pub devices: Vec<WaveDeviceView>,
}

/// How many devices of a wave stand where.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct WaveCounts {
    /// Not their turn yet.
    pub pending: u32,
    /// Told, and not decided.
    pub sent: u32,
    /// Failed, and told again.
    pub retrying: u32,
    /// Confirmed.
    pub confirmed: u32,
    /// Failed.
    pub failed: u32,
    /// Left out.
    pub skipped: u32,
    /// Told to go back.
    pub reverted: u32,
}

impl WaveCounts {
    fn is_decided(&self) -> bool {
        self.pending + self.sent + self.retrying == 0
    }
}

/// A page of the devices of a rollout, in its order.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RolloutDevicePage {
    /// The devices.
    pub devices: Vec<WaveDeviceView>,
    /// What to ask for as `from` for the next page; none after the last.
    pub next: Option<u32>,
}

/// A device within a rollout.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct WaveDeviceView {
    /// Device id.
    pub id: String,
    /// pending, sent, retrying, confirmed, failed, skipped or reverted.
    pub state: String,
    /// Why, for failures and those left out.
    pub detail: Option<String>,
    /// Its wave, from 1.
    #[serde(default)]
    pub wave: u32,
    /// How often it was told.
    #[serde(default)]
    pub tries: u32,
}

/// The stage before the first wave.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ShadowStageView {
    /// waiting, running, done, stopped, or skipped: no device had anything that the release could be compared with.
    pub state: String,
    /// Devices that are to run the shadow; once it is watched, those that do.
    pub devices: u32,
    /// The watch over it.
    pub watch: WatchView,
}

/// The watch over the waves of a rollout.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct WatchView {
    /// How long a wave is watched at least, in seconds.
    pub soak_s: u64,
    /// After how long a wave of which nothing is certain pauses the rollout, in seconds.
    pub max_soak_s: u64,
    /// Since when the present wave is watched, in milliseconds since 1970.
    pub since_ms: Option<u64>,
    /// Windows of time that are over; each is twice as long as the one before.
    pub windows: u32,
    /// What was found at the end of the last one.
    pub findings: Vec<GateFindingView>,
    /// What was found at the end of each, a point a metric.
    #[serde(default)]
    pub curve: Vec<EvidenceView>,
}

/// What one metric said at the end of one window.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct EvidenceView {
    /// Milliseconds since 1970.
    pub at_ms: u64,
    /// Which metric.
    pub metric: String,
    /// Evidence that the release does worse, in shares of what stops the rollout.
    pub against: f64,
    /// Evidence that it does no harm, in shares of what lets the wave through.
    pub in_favour: f64,
}

/// What one metric says of the release: the change of updated devices beside that of devices that wait.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct GateFindingView {
    /// errors, latency_p95, memory, restarts, drift or confidence; of a shadow errors, confidence or disagreement.
    pub metric: String,
    /// Devices that were compared, each beside another one.
    pub devices: u32,
    /// By how much the release is worse on average, in words.
    pub change: String,
    /// Natural logarithm of the evidence that it is worse than tolerated.
    pub against: f64,
    /// What that must reach to stop the rollout.
    pub against_needed: f64,
    /// Natural logarithm of the evidence that it does no harm.
    pub in_favour: f64,
    /// What that must reach for the wave to be through.
    pub in_favour_needed: f64,
    /// worse, harmless or open.
    pub verdict: String,
}

/// What a rollout would do.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RolloutPlanView {
    /// Model.
    pub model: String,
    /// Digest of the release.
    pub release: String,
    /// Its devices.
    pub devices: u32,
    /// Devices of each wave. Which device is in which is decided when the rollout starts.
    pub waves: Vec<u32>,
    /// Rollouts under way that it would take devices from.
    #[serde(default)]
    pub supersedes: Vec<String>,
    /// How it would go about it, in words.
    #[serde(default)]
    pub policy: Vec<String>,
    /// What stands in its way.
    pub obstacles: Vec<ObstacleView>,
}

/// Why a device may not take a release.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ObstacleView {
    /// Device id.
    pub device: String,
    /// The stable code.
    pub code: String,
    /// For people.
    pub detail: String,
}

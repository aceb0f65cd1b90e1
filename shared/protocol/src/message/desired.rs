//! The wanted state of one device: signed, level-triggered, versioned.

use super::HardExamples;
use super::measure::Measurement;
use super::shadow::ShadowRelease;
use crate::baseline::Shift;
use crate::{DeviceId, Digest, ErrorCode, ModelName, ProjectId, limits};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The whole wanted state. The device converges to it; a lost copy heals with the next.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Desired {
    /// The device's project.
    pub project: ProjectId,
    /// The device it is for; another device ignores it.
    pub device: DeviceId,
    /// Counts up; a device ignores versions older than the last it accepted.
    pub version: u64,
    /// When it was signed, in milliseconds since 1970: a proof of time for the device.
    pub issued_at_ms: u64,
    /// The release a model. A model that is not named is removed.
    pub models: BTreeMap<ModelName, DesiredModel>,
    /// How the device behaves.
    #[serde(default)]
    pub settings: Settings,
    /// Commands that are not yet reported done.
    #[serde(default)]
    pub commands: Vec<Command>,
    /// The release of the agent itself; without one the device keeps the agent it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<DesiredModel>,
    /// Models of which the device may keep and send inputs. One that is not named here gives no consent.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub hard_examples: BTreeMap<ModelName, HardExamples>,
    /// The releases that run beside confirmed ones, a model. One of a model that is not named above is removed with it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub shadows: BTreeMap<ModelName, ShadowRelease>,
}

impl Desired {
    /// Checks the bounds.
    pub fn check(&self) -> Result<(), ErrorCode> {
        let fits = self.models.len() <= limits::DESIRED_MODELS
            && self.commands.len() <= limits::DESIRED_COMMANDS
            && self.settings.quiet_hours.len() <= limits::QUIET_HOURS
            && self.hard_examples.len() <= limits::HARD_MODELS
            && self.shadows.len() <= limits::DESIRED_SHADOWS;
        if fits { Ok(()) } else { Err(ErrorCode::TooLarge) }
    }
}

/// The release that one model should run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredModel {
    /// Digest of the encoded release envelope.
    pub release: Digest,
    /// Size of the encoded release envelope.
    pub envelope_bytes: u32,
    /// Counts up when the operator wants the same release tried again after a failure.
    #[serde(default)]
    pub attempt: u32,
}

/// How a device behaves, as far as the cloud decides it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Seconds between telemetry samples.
    pub telemetry_interval_s: u32,
    /// Seconds between telemetry samples while a release is on probation.
    pub probation_telemetry_interval_s: u32,
    /// Seconds that a new release must stay healthy before it is confirmed.
    pub probation_s: u32,
    /// Share of failed predictions during probation, in per mille, above which the release is reverted.
    pub probation_error_per_mille: u32,
    /// Bytes a second that all downloads together may take; without it as many as the link carries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub download_bytes_per_s: Option<u64>,
    /// When nothing is downloaded.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub quiet_hours: Vec<QuietHours>,
    /// Drift score, in thousandths, above which an event says so; without it the score of a major shift.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drift_threshold_milli: Option<u32>,
}

/// A span of every day, in minutes since midnight UTC. One that ends before it begins goes on past midnight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuietHours {
    /// Its first minute.
    pub from_min: u16,
    /// The first minute after it.
    pub to_min: u16,
}

/// Minutes of a day.
pub const DAY_MIN: u16 = 24 * 60;

impl QuietHours {
    /// Whether this minute of the day is within the span. An empty span holds none.
    pub fn holds(&self, minute: u16) -> bool {
        if self.from_min <= self.to_min {
            (self.from_min..self.to_min).contains(&minute)
        } else {
            minute >= self.from_min || minute < self.to_min
        }
    }
}

/// Why settings are not acceptable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSettings {
    /// Telemetry at every moment.
    #[error("telemetry intervals are at least one second")]
    Interval,
    /// A download limit that would never let a model through.
    #[error("download_bytes_per_s is {0}; the slowest is {min}, and without it there is no limit", min = limits::DOWNLOAD_RATE_MIN)]
    Rate(u64),
    /// More spans than fit.
    #[error("{0} spans of quiet hours are more than {max}", max = limits::QUIET_HOURS)]
    Spans(usize),
    /// A span that is none.
    #[error("quiet hours from minute {from_min} to {to_min} are no span of a day: minutes are 0 to 1439, and not twice the same", from_min = .0.from_min, to_min = .0.to_min)]
    Span(QuietHours),
    /// Nothing would ever be downloaded.
    #[error("the quiet hours leave no minute of the day for downloads")]
    AlwaysQuiet,
    /// A threshold that chance alone would cross, or none ever.
    #[error(
        "drift_threshold_milli is {0}; {min} to {max} thousandths are possible, below is chance",
        min = Shift::STABLE_BELOW_MILLI,
        max = limits::DRIFT_THRESHOLD_MILLI
    )]
    Drift(u32),
}

impl Settings {
    /// Whether this minute of the day is quiet.
    pub fn is_quiet(&self, minute: u16) -> bool {
        self.quiet_hours.iter().any(|span| span.holds(minute))
    }

    /// Checks what an operator asks for. A device takes what is signed, and makes the best of it.
    pub fn check(&self) -> Result<(), InvalidSettings> {
        if self.telemetry_interval_s == 0 || self.probation_telemetry_interval_s == 0 {
            return Err(InvalidSettings::Interval);
        }
        if let Some(rate) = self.download_bytes_per_s.filter(|rate| *rate < limits::DOWNLOAD_RATE_MIN) {
            return Err(InvalidSettings::Rate(rate));
        }
        let drift = Shift::STABLE_BELOW_MILLI..=limits::DRIFT_THRESHOLD_MILLI;
        if let Some(threshold) = self.drift_threshold_milli.filter(|threshold| !drift.contains(threshold)) {
            return Err(InvalidSettings::Drift(threshold));
        }
        if self.quiet_hours.len() > limits::QUIET_HOURS {
            return Err(InvalidSettings::Spans(self.quiet_hours.len()));
        }
        let empty = |span: &&QuietHours| {
            span.from_min == span.to_min || span.from_min >= DAY_MIN || span.to_min >= DAY_MIN
        };
        if let Some(span) = self.quiet_hours.iter().find(empty) {
            return Err(InvalidSettings::Span(*span));
        }
        if (0..DAY_MIN).all(|minute| self.is_quiet(minute)) {
            return Err(InvalidSettings::AlwaysQuiet);
        }
        Ok(())
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            telemetry_interval_s: 900,
            probation_telemetry_interval_s: 60,
            probation_s: 60,
            probation_error_per_mille: 50,
            download_bytes_per_s: None,
            quiet_hours: Vec::new(),
            drift_threshold_milli: None,
        }
    }
}

/// One open command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Unique a device; a device does each id once.
    pub id: u64,
    /// What to do.
    #[serde(deserialize_with = "super::lenient::enumeration")]
    pub kind: CommandKind,
    /// From when on it is not begun any more, in milliseconds since 1970; without one it stays good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
}

/// What a command asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CommandKind {
    /// Report that the command was seen.
    Ping,
    /// Load the confirmed release of a model anew.
    RestartModel {
        /// The model.
        model: ModelName,
    },
    /// Examine yourself and report what you find.
    Diagnostics,
    /// Replace the certificate with this serial. Done when another one is in use, so that nothing has to be remembered
    /// on the way.
    RotateCertificate {
        /// The serial of the certificate that is to go.
        serial: String,
    },
    /// Log at this level until the next start.
    LogLevel {
        /// The level.
        level: LogLevel,
    },
    /// Send what the log says. The lines travel as [`super::Upload`]s; it is done when the cloud has all of them.
    LogPull(LogQuery),
    /// Run a model once as candidates are probed, and report what that took.
    Measure(Measurement),
    /// A command of a newer control plane, reported back as unsupported.
    #[serde(other)]
    Unknown,
}

/// Which lines of a device's log, by the time that the device's own clock gave them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogQuery {
    /// The first moment, in milliseconds since 1970.
    pub from_ms: u64,
    /// The first moment after it.
    pub to_ms: u64,
    /// Most bytes: of whole lines, the newest.
    pub max_bytes: u32,
    /// The least serious level.
    pub level: LogLevel,
}

/// Why a question for a log is not acceptable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLogQuery {
    /// A span of time without a moment in it.
    #[error("the log is asked for from {0} to {1} (milliseconds since 1970), which is no span of time")]
    Span(u64, u64),
    /// Too few bytes for a line, or more than a device sends.
    #[error("max_bytes is {0}; {min} to {max} are possible", min = limits::LOG_PULL_MIN, max = limits::LOG_PULL)]
    Bytes(u32),
}

impl LogQuery {
    /// Checks what an operator asks for. A device takes what is signed, and makes the best of it.
    pub fn check(&self) -> Result<(), InvalidLogQuery> {
        if self.from_ms >= self.to_ms {
            return Err(InvalidLogQuery::Span(self.from_ms, self.to_ms));
        }
        if !(limits::LOG_PULL_MIN..=limits::LOG_PULL).contains(&(self.max_bytes as usize)) {
            return Err(InvalidLogQuery::Bytes(self.max_bytes));
        }
        Ok(())
    }
}

/// How much the agent logs; the most serious first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// Errors only.
    Error,
    /// And warnings.
    Warn,
    /// And what happens.
    Info,
    /// And how.
    Debug,
    /// Everything.
    Trace,
    /// A level of a newer control plane.
    #[serde(other)]
    Unknown,
}

impl LogLevel {
    /// The stable text.
    pub fn as_str(self) -> &'static str {
        match self {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
            LogLevel::Unknown => "unknown",
        }
    }
}

//! Records that a device keeps until the cloud has them durably.
//!
//! A record is `(device, epoch, stream, seq)`: the epoch is random an outbox, each stream is ordered and its
//! numbers have no holes except declared ones. `ack` is sent after the cloud's own fsync.

use super::shadow::ShadowTelemetry;
use crate::baseline::{Feature, Shift};
use crate::{Digest, ErrorCode, ModelName, limits};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Names one life of an outbox: 64 random bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The three streams of an outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// State changes; never dropped before telemetry.
    Event,
    /// Telemetry of this connection.
    Live,
    /// Telemetry from before this connection.
    Backlog,
}

impl Stream {
    /// Every stream.
    pub const ALL: [Stream; 3] = [Stream::Event, Stream::Live, Stream::Backlog];

    /// The stable text.
    pub fn as_str(self) -> &'static str {
        match self {
            Stream::Event => "event",
            Stream::Live => "live",
            Stream::Backlog => "backlog",
        }
    }
}

/// Consecutive records of one stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TelemetryBatch {
    /// The outbox's epoch.
    pub epoch: Epoch,
    /// The stream.
    pub stream: Stream,
    /// Records in rising order of `seq`.
    pub records: Vec<Record>,
    /// Numbers that will never come, because the outbox was full.
    #[serde(default)]
    pub dropped: Vec<SeqRange>,
}

impl TelemetryBatch {
    /// Checks the bounds and the order.
    pub fn check(&self) -> Result<(), ErrorCode> {
        if self.records.len() > limits::TELEMETRY_BATCH || self.dropped.len() > limits::TELEMETRY_BATCH {
            return Err(ErrorCode::TooLarge);
        }
        let ordered = self.records.windows(2).all(|w| w[0].seq < w[1].seq)
            && self.dropped.iter().all(|range| range.first <= range.last);
        if ordered { Ok(()) } else { Err(ErrorCode::Malformed) }
    }
}

/// An inclusive range of sequence numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeqRange {
    /// First number.
    pub first: u64,
    /// Last number.
    pub last: u64,
}

/// One record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Position in the stream, from 1.
    pub seq: u64,
    /// The device's clock, in milliseconds since 1970.
    pub at_ms: u64,
    /// What happened.
    pub body: RecordBody,
}

/// What a record holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordBody {
    /// A telemetry sample.
    Sample(TelemetrySample),
    /// An event.
    Event(EventRecord),
}

/// The state of a device at one moment. Counters are cumulative since the agent's start, a model's since its
/// release took over.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TelemetrySample {
    /// Seconds since the agent's start.
    pub uptime_s: u64,
    /// CPU use of the whole device, 0 to 100.
    pub cpu_percent: f32,
    /// Used memory of the device.
    pub memory_used_bytes: u64,
    /// Memory of the agent process.
    pub rss_bytes: u64,
    /// Free bytes on the disk of the agent's folder.
    pub disk_free_bytes: u64,
    /// The highest temperature of the device, in degrees Celsius.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature_c: Option<f32>,
    /// Predictions are slowed down because of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub throttled: bool,
    /// Bytes that came in over the network since the device started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub received_bytes: Option<u64>,
    /// Bytes that went out since then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_bytes: Option<u64>,
    /// Its neural processing units.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub npus: Vec<NpuSample>,
    /// A model.
    #[serde(default)]
    pub models: BTreeMap<ModelName, ModelTelemetry>,
    /// How shadows compare, a model.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub shadows: BTreeMap<ModelName, ShadowTelemetry>,
}

/// How a neural processing unit does; none for what it does not tell.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NpuSample {
    /// The chip, as `npu-smi` names it.
    pub chip: String,
    /// Use of its cores, 0 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub utilisation_percent: Option<u32>,
    /// Its memory, in MB; on some boards that is the board's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_total_mb: Option<u64>,
    /// What of it is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_used_mb: Option<u64>,
    /// Its temperature, in degrees Celsius.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature_c: Option<i32>,
    /// The power that it takes, in watts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_w: Option<f32>,
    /// How it says that it is. Some boards say `alarm` all their lives while they work: that is no reason to refuse work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<NpuHealth>,
}

/// How an NPU says that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NpuHealth {
    /// All is well.
    Ok,
    /// Something minor.
    Warning,
    /// Something major.
    Alarm,
    /// It does not work.
    Critical,
    /// Something else.
    #[serde(other)]
    Unknown,
}

/// Counters of one model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelTelemetry {
    /// The release that serves.
    pub release: Option<Digest>,
    /// Predictions answered.
    pub predictions: u64,
    /// Predictions that failed.
    pub failures: u64,
    /// Latency of answered predictions.
    pub latency: Histogram,
    /// Answers a label index.
    #[serde(default)]
    pub classes: BTreeMap<u32, u64>,
    /// Answers by the score of the answered label: bin `i` of [`crate::baseline::CONFIDENCE_BINS`] counts scores from
    /// `i / 10`; trailing zeros are left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub confidence: Vec<u64>,
    /// How far inputs and answers of late are from the release's baseline. None without a baseline, and before enough
    /// predictions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drift: Option<Drift>,
}

/// Population stability indices of the latest predictions against a release's [`crate::Baseline`], in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drift {
    /// Predictions that were counted.
    pub predictions: u32,
    /// Of the feature of the inputs that is farthest off.
    pub inputs: u32,
    /// Which feature that is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feature: Option<Feature>,
    /// Of the answered labels.
    pub classes: u32,
    /// Of the confidence.
    pub confidence: u32,
    /// What of each is left out of account, because chance alone may well bring it about.
    #[serde(default, skip_serializing_if = "Chance::is_nothing")]
    pub chance: Chance,
}

/// What of each index does not count when drift is judged, in thousandths: by how much chance alone may take it over
/// [`Shift::STABLE_BELOW_MILLI`]. Nothing for a baseline of many samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chance {
    /// Of the inputs' index.
    #[serde(default)]
    pub inputs: u32,
    /// Of the labels'.
    #[serde(default)]
    pub classes: u32,
    /// Of the confidence's.
    #[serde(default)]
    pub confidence: u32,
}

impl Chance {
    fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

impl Drift {
    /// The largest of the indices, as they are defined: what is shown.
    pub fn score(&self) -> u32 {
        self.inputs.max(self.classes).max(self.confidence)
    }

    /// The largest of the indices without what chance may explain: by this drift has its word and becomes an event.
    pub fn judged(&self) -> u32 {
        self.indices().into_iter().map(|(_, index, chance)| index.saturating_sub(chance)).max().unwrap_or(0)
    }

    /// The word for it.
    pub fn shift(&self) -> Shift {
        Shift::of_milli(self.judged())
    }

    /// What is farthest off, chance aside: a feature of the inputs, `classes` or `confidence`.
    pub fn cause(&self) -> &'static str {
        self.worst().0
    }

    /// The same, with its index.
    pub fn worst(&self) -> (&'static str, u32) {
        let [first, second, third] = self.indices();
        let weight = |(_, index, chance): (_, u32, u32)| (index.saturating_sub(chance), index);
        // Of equals the first.
        let worse = |a, b| if weight(b) > weight(a) { b } else { a };
        let (cause, index, _) = worse(worse(first, second), third);
        (cause, index)
    }

    fn indices(&self) -> [(&'static str, u32, u32); 3] {
        let Chance { inputs, classes, confidence } = self.chance;
        [
            (self.feature.map_or("inputs", Feature::as_str), self.inputs, inputs),
            ("classes", self.classes, classes),
            ("confidence", self.confidence, confidence),
        ]
    }
}

/// Counts in buckets with doubling bounds: bucket `i` counts values up to `2^i` microseconds. A quantile read from it is
/// therefore a bound that is at most twice too high.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histogram {
    /// Counts; trailing zero buckets are left out.
    pub buckets: Vec<u64>,
    /// Sum of the values in microseconds.
    pub sum_us: u64,
}

impl Histogram {
    /// Buckets at most: the last is open-ended (over half an hour).
    pub const BUCKETS: usize = 32;

    /// Counts one value.
    pub fn record(&mut self, us: u64) {
        let bucket = (64 - us.saturating_sub(1).leading_zeros() as usize).min(Self::BUCKETS - 1);
        if self.buckets.len() <= bucket {
            self.buckets.resize(bucket + 1, 0);
        }
        self.buckets[bucket] += 1;
        self.sum_us = self.sum_us.saturating_add(us);
    }

    /// Counts what another one has counted.
    pub fn merge(&mut self, other: &Histogram) {
        let buckets = other.buckets.len().min(Self::BUCKETS);
        if self.buckets.len() < buckets {
            self.buckets.resize(buckets, 0);
        }
        for (total, n) in self.buckets.iter_mut().zip(&other.buckets) {
            *total = total.saturating_add(*n);
        }
        self.sum_us = self.sum_us.saturating_add(other.sum_us);
    }

    /// All values counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().fold(0, |sum, n| sum.saturating_add(*n))
    }

    /// Upper bound in microseconds of the bucket that holds the `q` quantile; `None` when empty.
    pub fn quantile_us(&self, q: f64) -> Option<u64> {
        self.quantile_bucket(q).map(|index| 1 << index)
    }

    /// What the `q` quantile certainly exceeds, in microseconds; `None` when empty.
    pub fn quantile_at_least_us(&self, q: f64) -> Option<u64> {
        self.quantile_bucket(q).map(|index| if index == 0 { 0 } else { 1 << (index - 1) })
    }

    fn quantile_bucket(&self, q: f64) -> Option<usize> {
        let count = self.count();
        let rank = ((count as f64 * q).ceil() as u64).clamp(1, count.max(1));
        let mut seen = 0u64;
        for (index, n) in self.buckets.iter().enumerate().take(Self::BUCKETS) {
            seen = seen.saturating_add(*n);
            if *n > 0 && seen >= rank {
                return Some(index);
            }
        }
        None
    }
}

/// Something that happened once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EventRecord {
    /// What.
    pub kind: EventKind,
    /// The model it is about.
    #[serde(default)]
    pub model: Option<ModelName>,
    /// The release it is about.
    #[serde(default)]
    pub release: Option<Digest>,
    /// Why, for failures.
    #[serde(default)]
    pub code: Option<ErrorCode>,
    /// For people.
    #[serde(default)]
    pub detail: String,
}

/// Kinds of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// The agent started.
    Started,
    /// A release passed its probe.
    Probed,
    /// A release serves, on probation.
    Switched,
    /// A release is confirmed.
    Confirmed,
    /// The device went back to its confirmed release.
    Reverted,
    /// A release was refused or failed.
    Failed,
    /// Stored state was damaged and has been repaired or dropped.
    Repaired,
    /// The hello counter did not rise: the device's folder may have been copied. Raised by the control plane.
    Cloned,
    /// What a model sees or answers has drifted away from what it was trained with.
    Drift,
    /// The device is too hot: predictions are slowed down.
    Throttled,
    /// It has cooled down: predictions run at full speed again.
    Cooled,
    /// A file could not be made from its patch: what is missing of it is fetched.
    Unpatched,
    /// A kind of a newer agent.
    #[serde(other)]
    Unknown,
}

/// Says that all records of a stream up to a number are durable in the cloud, and which report is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    /// The outbox's epoch.
    pub epoch: Epoch,
    /// The stream.
    pub stream: Stream,
    /// Last durable number.
    pub up_to: u64,
    /// The newest report of this connection that is durable, too: it need not be repeated. None before there is one; an
    /// older control plane does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported: Option<ReportStored>,
}

/// Names one report of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportStored {
    /// The counter of the hello before it.
    pub counter: u64,
    /// Its version within that.
    pub version: u64,
}

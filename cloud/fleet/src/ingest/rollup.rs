//! What is kept of a device's records for people: the latest sample, a short history, the last events, and counters.

use super::frame::Frame;
use super::marks::Marks;
use crate::devices::{Seen, ShadowFigures};
use crate::text::bounded;
use flotilla_protocol::baseline::CONFIDENCE_BINS;
use flotilla_protocol::message::{EventKind, EventRecord, Histogram, RecordBody, Stream, TelemetrySample};
use flotilla_protocol::{DeviceId, Digest, ErrorCode, ModelName};
use flotilla_storage::{Entity, Table};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Points of a device's history that are kept.
pub(super) const HISTORY: usize = 100;
/// Events of a device that are kept.
pub(super) const EVENTS: usize = 24;
/// Longest detail of an event that is kept.
const DETAIL: usize = 120;
/// Longest name of a chip that is kept.
const CHIP: usize = 64;

/// Counters and history of one device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rollup {
    /// The device.
    pub device: DeviceId,
    /// What is folded into this rollup.
    pub(crate) marks: Marks,
    /// Records that came.
    pub records: u64,
    /// Records that the device declared dropped.
    pub dropped: u64,
    /// Records that are missing without a word.
    pub missing: u64,
    /// Records over their bound.
    pub refused: u64,
    /// When the last record came, in milliseconds since 1970.
    pub last_record_ms: u64,
    /// Starts of its agent that it has told of.
    #[serde(default)]
    pub starts: u64,
    /// The latest samples, oldest first, in short.
    #[serde(with = "rows")]
    pub history: VecDeque<HistoryPoint>,
}

/// One sample, in short.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct HistoryPoint {
    /// The device's clock, in milliseconds since 1970.
    pub at_ms: u64,
    /// CPU use of the whole device, 0 to 100.
    pub cpu_percent: f32,
    /// Memory of the agent process.
    pub rss_bytes: u64,
    /// Predictions of all models since the agent's start.
    pub predictions: u64,
    /// Of these failed.
    pub failures: u64,
    /// Median latency of all models since the agent's start, in microseconds.
    pub p50_us: Option<u64>,
    /// 95th percentile.
    pub p95_us: Option<u64>,
    /// 99th percentile.
    pub p99_us: Option<u64>,
    /// Drift score of the model that has drifted most, in thousandths.
    pub drift: Option<u32>,
}

/// Points are stored without the names of their fields: a full history must fit into a record.
mod rows {
    use super::HistoryPoint;
    use serde::{Deserialize, Deserializer, Serializer};
    use std::collections::VecDeque;

    type Row = (u64, f32, u64, u64, u64, Option<u64>, Option<u64>, Option<u64>, Option<u32>);

    /// A row as it is now, or one from before the last two columns.
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Stored {
        Now(Row),
        Before((u64, f32, u64, u64, u64, Option<u64>, Option<u64>)),
    }

    pub(super) fn serialize<S: Serializer>(points: &VecDeque<HistoryPoint>, s: S) -> Result<S::Ok, S::Error> {
        let row = |p: &HistoryPoint| -> Row {
            let (p50, p95, p99) = (p.p50_us, p.p95_us, p.p99_us);
            (p.at_ms, p.cpu_percent, p.rss_bytes, p.predictions, p.failures, p50, p95, p99, p.drift)
        };
        s.collect_seq(points.iter().map(row))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<VecDeque<HistoryPoint>, D::Error> {
        let point = |stored: Stored| {
            let (at_ms, cpu_percent, rss_bytes, predictions, failures, p50_us, p95_us, p99_us, drift) =
                match stored {
                    Stored::Now(row) => row,
                    Stored::Before((at, cpu, rss, predictions, failures, p50, p95)) => {
                        (at, cpu, rss, predictions, failures, p50, p95, None, None)
                    }
                };
            HistoryPoint {
                at_ms,
                cpu_percent,
                rss_bytes,
                predictions,
                failures,
                p50_us,
                p95_us,
                p99_us,
                drift,
            }
        };
        Ok(Vec::<Stored>::deserialize(d)?.into_iter().map(point).collect())
    }
}

impl HistoryPoint {
    fn of(at_ms: u64, sample: &TelemetrySample) -> Self {
        let models = sample.models.values();
        let sum = |count: fn(&flotilla_protocol::message::ModelTelemetry) -> u64| {
            models.clone().map(count).fold(0, u64::saturating_add)
        };
        let (predictions, failures) = (sum(|m| m.predictions), sum(|m| m.failures));
        let mut latency = Histogram::default();
        for model in models {
            latency.merge(&model.latency);
        }
        Self {
            at_ms,
            cpu_percent: sample.cpu_percent,
            rss_bytes: sample.rss_bytes,
            predictions,
            failures,
            p50_us: latency.quantile_us(0.5),
            p95_us: latency.quantile_us(0.95),
            p99_us: latency.quantile_us(0.99),
            drift: sample.models.values().filter_map(|model| model.drift).map(|drift| drift.score()).max(),
        }
    }
}

/// Adds the counts of one histogram to another.
pub(crate) fn merge(sum: &mut Histogram, other: &Histogram) {
    let buckets = other.buckets.len().min(Histogram::BUCKETS);
    if sum.buckets.len() < buckets {
        sum.buckets.resize(buckets, 0);
    }
    for (total, n) in sum.buckets.iter_mut().zip(&other.buckets) {
        *total = total.saturating_add(*n);
    }
    sum.sum_us = sum.sum_us.saturating_add(other.sum_us);
}

/// The latest telemetry sample of a device, whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LatestSample {
    /// The device.
    pub device: DeviceId,
    /// The device's clock, in milliseconds since 1970.
    pub at_ms: u64,
    /// When it came, by the cloud's clock.
    pub received_ms: u64,
    /// Starts of its agent that were known then.
    #[serde(default)]
    pub starts: u64,
    /// The sample.
    pub sample: TelemetrySample,
}

/// The last events of a device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceEvents {
    /// The device.
    pub device: DeviceId,
    /// The events, oldest first.
    pub events: VecDeque<DeviceEvent>,
}

/// An event of a device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceEvent {
    /// The device's clock, in milliseconds since 1970.
    pub at_ms: u64,
    /// When it came, by the cloud's clock.
    pub received_ms: u64,
    /// What happened.
    pub kind: EventKind,
    /// The model it is about.
    pub model: Option<ModelName>,
    /// The release it is about.
    pub release: Option<Digest>,
    /// Why, for failures.
    pub code: Option<ErrorCode>,
    /// For people.
    pub detail: String,
}

impl Entity for Rollup {
    const TABLE: Table = Table::new("rollups");

    fn id(&self) -> Vec<u8> {
        self.device.as_str().into()
    }
}

impl Entity for LatestSample {
    const TABLE: Table = Table::new("latest-samples");

    fn id(&self) -> Vec<u8> {
        self.device.as_str().into()
    }
}

impl Entity for DeviceEvents {
    const TABLE: Table = Table::new("device-events");

    fn id(&self) -> Vec<u8> {
        self.device.as_str().into()
    }
}

/// Everything that is kept of one device's records.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Kept {
    pub(super) rollup: Rollup,
    pub(super) sample: Option<LatestSample>,
    pub(super) events: DeviceEvents,
    pub(super) figures: ShadowFigures,
}

impl Kept {
    pub(super) fn new(device: &DeviceId) -> Self {
        Self {
            rollup: Rollup {
                device: device.clone(),
                marks: Marks::default(),
                records: 0,
                dropped: 0,
                missing: 0,
                refused: 0,
                last_record_ms: 0,
                starts: 0,
                history: VecDeque::new(),
            },
            sample: None,
            events: DeviceEvents::of(device),
            figures: ShadowFigures::of(device),
        }
    }

    /// Folds one frame in.
    pub(super) fn fold(&mut self, frame: Frame) {
        let rollup = &mut self.rollup;
        rollup.marks.set(frame.epoch, frame.stream, frame.up_to);
        rollup.records = rollup.records.saturating_add(frame.records.len() as u64);
        rollup.dropped = rollup.dropped.saturating_add(frame.dropped);
        rollup.missing = rollup.missing.saturating_add(frame.missing);
        rollup.refused = rollup.refused.saturating_add(frame.refused);
        rollup.last_record_ms = rollup.last_record_ms.max(frame.at_ms);
        for record in frame.records {
            match record.body {
                RecordBody::Sample(sample) => self.sample(record.at_ms, frame.at_ms, frame.stream, sample),
                RecordBody::Event(event) => self.event(record.at_ms, frame.at_ms, event),
            }
        }
    }

    fn sample(&mut self, at_ms: u64, received_ms: u64, stream: Stream, mut sample: TelemetrySample) {
        // They are kept in a record of their own.
        let shadows = std::mem::take(&mut sample.shadows);
        if !shadows.is_empty() {
            let seen = Seen { stream, at_ms, received_ms, uptime_s: sample.uptime_s };
            self.figures.fold(&seen, shadows);
        }
        for npu in &mut sample.npus {
            npu.chip = bounded(&npu.chip, CHIP);
        }
        for model in sample.models.values_mut() {
            model.latency.buckets.truncate(Histogram::BUCKETS);
            model.confidence.truncate(CONFIDENCE_BINS);
        }
        let history = &mut self.rollup.history;
        let at = history.partition_point(|point| point.at_ms <= at_ms);
        history.insert(at, HistoryPoint::of(at_ms, &sample));
        while history.len() > HISTORY {
            history.pop_front();
        }
        // What was measured before the connection began is the latest only if nothing newer is known.
        let newer = self.sample.as_ref().is_none_or(|known| stream == Stream::Live || at_ms >= known.at_ms);
        if newer {
            let device = self.rollup.device.clone();
            let starts = self.rollup.starts;
            self.sample = Some(LatestSample { device, at_ms, received_ms, starts, sample });
        }
    }

    fn event(&mut self, at_ms: u64, received_ms: u64, event: EventRecord) {
        self.rollup.starts += u64::from(event.kind == EventKind::Started);
        self.events.push(at_ms, received_ms, event);
    }
}

impl DeviceEvents {
    /// A device without events.
    pub(crate) fn of(device: &DeviceId) -> Self {
        Self { device: device.clone(), events: VecDeque::new() }
    }

    /// Adds an event within the bounds of what is kept.
    pub(crate) fn push(&mut self, at_ms: u64, received_ms: u64, event: EventRecord) {
        let EventRecord { kind, model, release, code, detail } = event;
        let detail = bounded(&detail, DETAIL);
        self.events.push_back(DeviceEvent { at_ms, received_ms, kind, model, release, code, detail });
        if self.events.len() > EVENTS {
            self.events.pop_front();
        }
    }
}

//! The health of a release while a wave is watched: what is remembered of a device when it is updated, and how that
//! compares with what it says afterwards and with a device that still waits.

use super::state::{Rollout, RolloutDevice, Status};
use flotilla_gates::change::{Change, Pair};
use flotilla_gates::gate::{Health, Look, Verdict};
use flotilla_gates::metric::Metric;
use flotilla_protocol::baseline::CONFIDENCE_BINS;
use flotilla_protocol::message::{Histogram, TelemetrySample};
use flotilla_protocol::{DeviceId, Digest, ErrorCode, ModelName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Predictions from which on shares and means of a device say something.
const LEAST: u64 = 20;
/// Windows of one wave at most: each is twice as long as the one before.
const WINDOWS: u32 = 16;

/// How a wave is watched before the next one begins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Watch {
    /// Length of the first window, in milliseconds: so long a wave is watched at least.
    pub soak_ms: u64,
    /// A wave of which nothing is certain after so long pauses the rollout, in milliseconds.
    pub max_soak_ms: u64,
    /// What is asked.
    pub health: Health,
}

/// How far the watch over a wave has come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Watched {
    /// When all of its devices were decided, in milliseconds since 1970.
    pub since_ms: u64,
    /// Windows that are over.
    pub windows: u32,
    /// What was seen at the end of the last one.
    #[serde(default)]
    pub look: Option<Look>,
    /// Whether the wave is through: by evidence, or because an operator went on without any.
    #[serde(default)]
    pub through: bool,
}

impl Watched {
    /// A watch that begins now.
    pub(super) fn from(since_ms: u64) -> Self {
        Self { since_ms, windows: 0, look: None, through: false }
    }

    /// When the present window ends.
    fn end_ms(&self, watch: &Watch) -> u64 {
        self.since_ms.saturating_add(watch.soak_ms.saturating_mul(1 << self.windows.min(WINDOWS)))
    }
}

/// What a device says of one model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// The release that serves; the counts are its own.
    pub release: Option<Digest>,
    /// Predictions that it answered.
    pub answered: u64,
    /// Predictions that failed.
    pub failed: u64,
    /// What 95 of 100 do not exceed, in microseconds, estimated within its bucket.
    pub p95_us: Option<f64>,
    /// Mean score of the answers.
    pub confidence: Option<f64>,
    /// How far inputs and answers are from the training's.
    pub drift: Option<f64>,
    /// Memory of the agent, in bytes.
    pub memory_bytes: u64,
}

impl Figures {
    /// What a sample says of a model.
    pub(crate) fn of(sample: &TelemetrySample, model: &ModelName) -> Option<Self> {
        let of = sample.models.get(model)?;
        let answers: u64 = of.confidence.iter().fold(0, |sum, count| sum.saturating_add(*count));
        let middle = |bin: usize| (bin as f64 + 0.5) / CONFIDENCE_BINS as f64;
        let scores: f64 =
            of.confidence.iter().enumerate().map(|(bin, count)| middle(bin) * *count as f64).sum();
        Some(Self {
            release: of.release,
            answered: of.predictions,
            failed: of.failures,
            p95_us: (of.predictions >= LEAST).then(|| quantile_us(&of.latency, 0.95)).flatten(),
            confidence: (answers >= LEAST).then(|| scores / answers as f64),
            drift: of.drift.map(|drift| f64::from(drift.judged()) / 1_000.0),
            memory_bytes: sample.rss_bytes,
        })
    }

    /// The figures of each metric over the life of the release.
    fn metrics(&self) -> BTreeMap<Metric, f64> {
        let asked = self.answered.saturating_add(self.failed);
        let errors = (asked >= LEAST).then(|| self.failed as f64 / asked as f64);
        let memory = (self.memory_bytes > 0).then_some(self.memory_bytes as f64);
        [
            (Metric::Errors, errors),
            (Metric::LatencyP95, self.p95_us),
            (Metric::Memory, memory),
            (Metric::Drift, self.drift),
            (Metric::Confidence, self.confidence),
        ]
        .into_iter()
        .filter_map(|(metric, figure)| Some((metric, figure?)))
        .collect()
    }

    /// The same over the time since an earlier moment, as far as that can be told apart; none if another release has
    /// taken over, or the agent was started anew.
    fn metrics_since(&self, earlier: &Figures) -> BTreeMap<Metric, f64> {
        let answered = self.answered.checked_sub(earlier.answered);
        let (Some(answered), Some(failed)) = (answered, self.failed.checked_sub(earlier.failed)) else {
            return BTreeMap::new();
        };
        if self.release != earlier.release {
            return BTreeMap::new();
        }
        let mut metrics = self.metrics();
        let since = Figures { answered, failed, ..Figures::default() }.metrics();
        match since.get(&Metric::Errors) {
            Some(errors) => metrics.insert(Metric::Errors, *errors),
            None => metrics.remove(&Metric::Errors),
        };
        metrics
    }
}

/// The quantile within its bucket, as if the values in it were spread evenly on a logarithmic scale.
fn quantile_us(latency: &Histogram, q: f64) -> Option<f64> {
    let rank = latency.count() as f64 * q;
    let mut below = 0.0;
    for (bucket, count) in latency.buckets.iter().enumerate().take(Histogram::BUCKETS) {
        let count = *count as f64;
        if count > 0.0 && below + count >= rank {
            let within = ((rank - below) / count).clamp(0.0, 1.0);
            return Some((bucket as f64 - 1.0 + within).exp2());
        }
        below += count;
    }
    None
}

/// What was known when a device was told to update.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    /// Of the device itself.
    pub own: Figures,
    /// Of a device that waits; none if nobody does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partner: Option<Partner>,
}

/// A device that waits, to compare with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Partner {
    /// The device.
    pub device: DeviceId,
    /// What it said then; nothing if it had said nothing.
    pub figures: Option<Figures>,
}

/// Where in the order of a rollout the device stands that a device is compared with: each has one of a later wave for
/// itself, or none.
pub(super) fn partner(rollout: &Rollout, device: &RolloutDevice) -> Option<usize> {
    let waves = rollout.waves.get(..=device.wave as usize)?;
    let size = waves.last()?.devices;
    let end: u32 = waves.iter().map(|wave| wave.devices).sum();
    let place = device.position.checked_sub(end - size)?;
    usize::try_from(end.checked_add(place)?).ok()
}

/// What follows from a look.
#[derive(Clone, Debug, PartialEq)]
pub enum Follows {
    /// The next window.
    Window,
    /// The next wave.
    Wave,
    /// The release is worse: the rollout fails.
    Stop(String),
    /// Nothing is certain, and the time is up.
    Pause(String),
}

/// What is known of devices now, by device.
pub(super) type Now = BTreeMap<DeviceId, Figures>;

/// What the watch over the present wave asks for at this moment.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// To begin.
    Begin,
    /// To wait for the end of a window.
    Wait,
    /// To look at the devices of the wave.
    Look(Look, Follows),
    /// Nothing more: the wave is through.
    Through,
}

impl Rollout {
    /// Whether the devices of the present wave are to be looked at now.
    pub(super) fn is_look_due(&self, now_ms: u64) -> bool {
        let due = |(watch, watched): (&Watch, &Watched)| !watched.through && now_ms >= watched.end_ms(watch);
        self.watch.as_ref().zip(self.watched.as_ref()).is_some_and(due)
    }
}

/// The next step of the watch over the present wave, all of whose devices are decided.
pub(super) fn step(
    rollout: &Rollout,
    watch: &Watch,
    devices: &[RolloutDevice],
    now: &Now,
    now_ms: u64,
) -> Step {
    let Some(watched) = &rollout.watched else { return Step::Begin };
    if watched.through {
        return Step::Through;
    }
    if now_ms < watched.end_ms(watch) {
        return Step::Wait;
    }
    let wave: Vec<&RolloutDevice> = devices.iter().filter(|device| device.wave == rollout.wave).collect();
    let look = Look::new(&watch.health, rollout.waves.len(), watched.windows, &pairs(rollout, &wave, now));
    let confirmed = wave.iter().filter(|device| matches!(device.status, Status::Confirmed { .. })).count();
    let follows = match look.verdict(&watch.health, u32::try_from(confirmed).unwrap_or(u32::MAX)) {
        Verdict::Worse => Follows::Stop(look.worse().map(reason).unwrap_or_default()),
        Verdict::Harmless => Follows::Wave,
        Verdict::Open => {
            let next = Watched { windows: watched.windows + 1, ..watched.clone() };
            let last = watched.since_ms.saturating_add(watch.max_soak_ms);
            if next.windows < WINDOWS && next.end_ms(watch) <= last {
                Follows::Window
            } else {
                Follows::Pause(open(&look))
            }
        }
    };
    Step::Look(look, follows)
}

fn reason(finding: &flotilla_gates::gate::Finding) -> String {
    format!(
        "the release does worse: {} on {} devices, beside others that were not updated; evidence {:.1}, needed {:.1}",
        finding.metric.describe(finding.worsening),
        finding.pairs,
        finding.against,
        finding.against_needed
    )
}

fn open(look: &Look) -> String {
    let open = look.findings.iter().filter(|finding| finding.verdict == Verdict::Open);
    let names: Vec<&str> = open.map(|finding| finding.metric.as_str()).collect();
    format!(
        "the time is up, and whether the release does harm is not certain ({}): look at it, then resume or roll back",
        names.join(", ")
    )
}

/// The code of a rollout that its gate has stopped.
pub(super) const WORSE: ErrorCode = ErrorCode::ProbationFailed;

/// Each confirmed device of the wave beside its partner, for each metric that both have figures of.
fn pairs(rollout: &Rollout, wave: &[&RolloutDevice], now: &Now) -> BTreeMap<Metric, Vec<Pair>> {
    let mut pairs: BTreeMap<Metric, Vec<Pair>> = BTreeMap::new();
    let changes = |before: &Figures, after: BTreeMap<Metric, f64>| -> BTreeMap<Metric, Change> {
        let before = before.metrics();
        let both = after.into_iter().filter_map(|(metric, after)| {
            Some((metric, Change { before: before.get(&metric).copied()?, after }))
        });
        both.collect()
    };
    for device in wave {
        let (Status::Confirmed { .. }, Some(baseline)) = (&device.status, &device.baseline) else { continue };
        let runs = |figures: &&Figures| figures.release == Some(rollout.wanted.release);
        let Some(after) = now.get(&device.device).filter(runs) else { continue };
        let updated = changes(&baseline.own, after.metrics());
        let waiting = baseline.partner.as_ref().map(|partner| {
            let figures = partner.figures.as_ref().zip(now.get(&partner.device));
            figures.map(|(before, after)| changes(before, after.metrics_since(before))).unwrap_or_default()
        });
        for (metric, updated) in updated {
            let waiting = match &waiting {
                None => None,
                Some(of) => match of.get(&metric) {
                    Some(change) => Some(*change),
                    None => continue,
                },
            };
            pairs.entry(metric).or_default().push(Pair { updated, waiting });
        }
    }
    pairs
}

#[cfg(test)]
#[path = "health_tests.rs"]
mod tests;

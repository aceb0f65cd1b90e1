//! How shadows compare, as devices tell it: one sum over the lives of an agent.
//!
//! A device counts from nothing whenever its agent starts or the shadow begins to run: that is a run. Samples of a run come
//! on two streams. What is live says how things are now, so it always wins, whatever the device's clock says. What comes
//! with the backlog may be of any run before: it completes that one, and never takes the place of a newer run or of another
//! shadow.

use flotilla_protocol::message::{Disagreement, Histogram, ShadowTelemetry, Stream};
use flotilla_protocol::{DeviceId, Digest, ModelName, limits};
use flotilla_storage::{Entity, Table};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Ended runs of one shadow that are told apart, because their last samples may still come.
const ENDED: usize = 4;
/// Pairs of labels that are kept of the runs before these.
const PAIRS: usize = 64;
/// Two beginnings so close are of one life: uptimes are whole seconds, and messages take their time.
const NEAR_MS: u64 = 10_000;
/// A clock before this moment, the first of 2020, is not set.
const CLOCK_SET_MS: u64 = 1_577_836_800_000;

/// How the shadows of a device compare, over the lives of its agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ShadowFigures {
    /// The device.
    pub(crate) device: DeviceId,
    /// The last comparison of each model.
    pub(crate) models: BTreeMap<ModelName, Figures>,
}

impl ShadowFigures {
    /// The index of the models that are compared on a device.
    pub(crate) const COMPARED: &str = "compared";
}

impl Entity for ShadowFigures {
    const TABLE: Table = Table::new("shadow-figures");

    fn id(&self) -> Vec<u8> {
        self.device.as_str().into()
    }

    fn indexes(&self) -> Vec<(&'static str, Vec<u8>)> {
        self.models.keys().map(|model| (Self::COMPARED, model.as_str().into())).collect()
    }
}

/// When and how a sample came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub(crate) stream: Stream,
    /// When it was taken, by the device's clock, in milliseconds since 1970.
    pub(crate) at_ms: u64,
    /// When it came, by ours.
    pub(crate) received_ms: u64,
    /// Seconds since the agent's start.
    pub(crate) uptime_s: u64,
}

/// A life of an agent, as one of its samples tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Life {
    /// When it began by the device's clock, if that can be right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    device_ms: Option<u64>,
    /// When it began by ours, if the sample came when it was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cloud_ms: Option<u64>,
    /// How long it had lasted, in seconds.
    uptime_s: u64,
}

impl Life {
    fn of(seen: &Seen) -> Self {
        let lasted_ms = seen.uptime_s.saturating_mul(1_000);
        let can_be_right = (CLOCK_SET_MS..=seen.received_ms.saturating_add(NEAR_MS)).contains(&seen.at_ms);
        let live = seen.stream == Stream::Live;
        Self {
            device_ms: can_be_right.then(|| seen.at_ms.saturating_sub(lasted_ms)),
            cloud_ms: live.then(|| seen.received_ms.saturating_sub(lasted_ms)),
            uptime_s: seen.uptime_s,
        }
    }

    /// Either clock is enough: the device's may be set in between, and a live sample may come late.
    fn is(&self, other: &Self) -> bool {
        let near = |one: Option<u64>, two: Option<u64>| {
            one.zip(two).is_some_and(|(one, two)| one.abs_diff(two) <= NEAR_MS)
        };
        near(self.device_ms, other.device_ms) || near(self.cloud_ms, other.cloud_ms)
    }

    /// Whether this was certainly after the other.
    fn is_after(&self, other: &Self) -> bool {
        if self.is(other) {
            return self.uptime_s > other.uptime_s;
        }
        self.device_ms.zip(other.device_ms).is_some_and(|(this, other)| this > other)
    }
}

/// A run that has ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Ended {
    life: Life,
    counted: ShadowTelemetry,
}

/// The last comparison of one model on one device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figures {
    /// When the newest of it came, in milliseconds since 1970.
    pub(crate) at_ms: u64,
    /// What runs counted that are not told apart any more.
    earlier: ShadowTelemetry,
    /// What the newest run has counted.
    present: ShadowTelemetry,
    /// The newest run's life.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    life: Option<Life>,
    /// Runs before it, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ended: Vec<Ended>,
    /// When the newest of the lives began that are not told apart any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    closed_ms: Option<u64>,
}

/// What a sample is to a run.
#[derive(PartialEq)]
enum Of {
    /// Its newest.
    Newer,
    /// It says what is known.
    Older,
    /// Of another run.
    Other,
}

fn belongs(life: &Life, new: &ShadowTelemetry, known: &Life, counted: &ShadowTelemetry) -> Of {
    let (now, before) = (count(new), count(counted));
    match known.is(life) {
        true if life.uptime_s >= known.uptime_s && now >= before => Of::Newer,
        true if life.uptime_s <= known.uptime_s && now <= before => Of::Older,
        _ => Of::Other,
    }
}

fn count(of: &ShadowTelemetry) -> u64 {
    of.compared.saturating_add(of.failures).saturating_add(of.skipped)
}

fn pair(of: &ShadowTelemetry) -> (Option<Digest>, Option<Digest>) {
    (of.release, of.against)
}

impl Figures {
    /// All of it.
    pub(crate) fn total(&self) -> ShadowTelemetry {
        let mut sum = Sum::default();
        sum.add(&self.earlier);
        self.ended.iter().for_each(|run| sum.add(&run.counted));
        sum.add(&self.present);
        sum.total()
    }

    fn take(&mut self, seen: &Seen, new: ShadowTelemetry) {
        let (life, live) = (Life::of(seen), seen.stream == Stream::Live);
        let nothing = *self == Self::default();
        let is_after = live || nothing || self.life.is_some_and(|known| life.is_after(&known));
        if pair(&self.present) != pair(&new) {
            if is_after {
                *self = Self { at_ms: seen.received_ms, present: new, life: Some(life), ..Self::default() };
            }
            return;
        }
        let to = match &self.life {
            // What is live and younger is of a life that began a moment after the other.
            Some(known) if live && life.uptime_s < known.uptime_s => Of::Other,
            Some(known) => belongs(&life, &new, known, &self.present),
            // Kept before lives were told apart.
            None if count(&new) >= count(&self.present) => Of::Newer,
            None if live => Of::Other,
            None => Of::Older,
        };
        match to {
            Of::Newer => (self.present, self.life) = (new, Some(life)),
            Of::Older => return,
            Of::Other if is_after => self.begin(life, new),
            Of::Other => self.complete(life, new),
        }
        self.at_ms = self.at_ms.max(seen.received_ms);
    }

    /// A new run.
    fn begin(&mut self, life: Life, new: ShadowTelemetry) {
        let counted = std::mem::replace(&mut self.present, new);
        match self.life.replace(life) {
            Some(life) => self.ended.push(Ended { life, counted }),
            None => self.earlier = of_two(&self.earlier, &counted),
        }
        self.close(ENDED, PAIRS);
    }

    /// The backlog's word on a run before this one.
    fn complete(&mut self, life: Life, counted: ShadowTelemetry) {
        for run in self.ended.iter_mut().rev() {
            match belongs(&life, &counted, &run.life, &run.counted) {
                Of::Newer => return *run = Ended { life, counted },
                Of::Older => return,
                Of::Other => {}
            }
        }
        // Counted already with the others of its time, or of no time that could be told.
        let Some(began_ms) =
            life.device_ms.filter(|began| self.closed_ms.is_none_or(|closed| *began > closed))
        else {
            return;
        };
        let at = self.ended.partition_point(|run| run.life.device_ms.is_none_or(|known| known <= began_ms));
        self.ended.insert(at, Ended { life, counted });
        self.close(ENDED, PAIRS);
    }

    /// Tells only the newest ended runs apart, and keeps so many pairs of labels of the others.
    fn close(&mut self, ended: usize, pairs: usize) {
        while self.ended.len() > ended {
            let run = self.ended.remove(0);
            self.earlier = of_two(&self.earlier, &run.counted);
            let until = run.life.device_ms.map(|began| began.saturating_add(NEAR_MS));
            self.closed_ms = self.closed_ms.max(until);
        }
        self.earlier.disagreements.truncate(pairs);
        // Whose figures they are is said once.
        (self.earlier.release, self.earlier.against) = (None, None);
    }
}

impl ShadowFigures {
    pub(crate) fn of(device: &DeviceId) -> Self {
        Self { device: device.clone(), models: BTreeMap::new() }
    }

    /// Takes a sample in.
    pub(crate) fn fold(&mut self, seen: &Seen, shadows: BTreeMap<ModelName, ShadowTelemetry>) {
        for (model, mut new) in shadows.into_iter().take(limits::DESIRED_SHADOWS) {
            bound(&mut new);
            self.models.entry(model).or_default().take(seen, new);
        }
        self.fit();
    }

    /// As many as a device may have, within what a record holds: runs are told apart only if there is room for it, and
    /// the shadows of which nothing was heard for longest go first.
    fn fit(&mut self) {
        let is_over = |all: &Self| serde_json::to_vec(all).map_or(0, |text| text.len()) > limits::RECORD;
        while self.models.len() > limits::DESIRED_SHADOWS {
            self.forget();
        }
        if is_over(self) {
            self.models.values_mut().for_each(|figures| figures.close(0, limits::DISAGREEMENTS));
        }
        while !self.models.is_empty() && is_over(self) {
            self.forget();
        }
    }

    fn forget(&mut self) {
        let oldest =
            self.models.iter().min_by_key(|(_, figures)| figures.at_ms).map(|(model, _)| model.clone());
        oldest.map(|oldest| self.models.remove(&oldest));
    }
}

fn bound(telemetry: &mut ShadowTelemetry) {
    for side in [&mut telemetry.confirmed, &mut telemetry.shadow] {
        side.latency.buckets.truncate(Histogram::BUCKETS);
    }
    telemetry.disagreements.truncate(limits::DISAGREEMENTS);
    telemetry.agreed = telemetry.agreed.min(telemetry.compared);
}

/// Comparisons of one pair of releases counted together. Every pair of labels is, so that the order does not matter;
/// whoever shows it takes the first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sum {
    counted: ShadowTelemetry,
    pairs: BTreeMap<(u32, u32), u64>,
}

impl Sum {
    pub(crate) fn add(&mut self, one: &ShadowTelemetry) {
        let sum = &mut self.counted;
        (sum.release, sum.against) = (sum.release.or(one.release), sum.against.or(one.against));
        sum.compared = sum.compared.saturating_add(one.compared);
        sum.agreed = sum.agreed.saturating_add(one.agreed);
        sum.failures = sum.failures.saturating_add(one.failures);
        sum.skipped = sum.skipped.saturating_add(one.skipped);
        for (sum, one) in [(&mut sum.confirmed, &one.confirmed), (&mut sum.shadow, &one.shadow)] {
            sum.latency.merge(&one.latency);
            sum.confidence_sum = sum.confidence_sum.saturating_add(one.confidence_sum);
        }
        for pair in &one.disagreements {
            let count = self.pairs.entry((pair.confirmed, pair.shadow)).or_default();
            *count = count.saturating_add(pair.count);
        }
    }

    /// All of it, the most frequent pairs of labels first.
    pub(crate) fn total(self) -> ShadowTelemetry {
        let of = |((confirmed, shadow), count)| Disagreement { confirmed, shadow, count };
        let mut disagreements: Vec<Disagreement> = self.pairs.into_iter().map(of).collect();
        disagreements.sort_by_key(|pair| std::cmp::Reverse(pair.count));
        ShadowTelemetry { disagreements, ..self.counted }
    }
}

fn of_two(one: &ShadowTelemetry, two: &ShadowTelemetry) -> ShadowTelemetry {
    let mut sum = Sum::default();
    sum.add(one);
    sum.add(two);
    sum.total()
}

#[cfg(test)]
#[path = "figures_tests.rs"]
mod tests;

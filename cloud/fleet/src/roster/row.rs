//! One device as search sees it, in a few hundred bytes: what many devices have in common is kept once.

use crate::connections::Connection;
use crate::devices::{Device, ModelState, Twin, state_of};
use crate::ingest::LatestSample;
use flotilla_protocol::manifest::agent_name;
use flotilla_protocol::message::Phase;
use flotilla_protocol::{DeviceId, Digest, ErrorCode, ModelName, limits};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::Hash;
use std::sync::Arc;

/// Models of one device, at most: those wanted and those reported.
pub(crate) const MODELS: usize = 3 * limits::DESIRED_MODELS;

/// A device.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) id: DeviceId,
    /// Whether it may connect.
    pub(crate) active: bool,
    /// Whether a rollout may take it.
    pub(crate) takes_rollouts: bool,
    /// Where it stands, in a word.
    pub(crate) state: &'static str,
    pub(crate) name: Option<Box<str>>,
    /// In their order.
    pub(crate) labels: Box<[Arc<str>]>,
    /// By key.
    pub(crate) attributes: Box<[(Arc<str>, Arc<str>)]>,
    pub(crate) facts: Arc<Facts>,
    /// By name.
    pub(crate) models: Box<[RowModel]>,
    pub(crate) sample: Option<RowSample>,
    pub(crate) enrolled_at_ms: u64,
    /// When it was last heard of, as far as that is written down.
    last_seen_ms: Option<u64>,
    /// Its connection; only its number tells it from another one.
    connection: Option<Arc<Connection>>,
}

/// What a device is made of. Many are made of the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Facts {
    pub(crate) board: String,
    pub(crate) arch: String,
    pub(crate) os: String,
    pub(crate) agent: String,
    pub(crate) engines: Vec<String>,
    pub(crate) cpus: u32,
    pub(crate) memory_bytes: u64,
    pub(crate) trust_version: u64,
}

/// A release, as many devices name it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RowRelease {
    /// The digest's text.
    pub(crate) digest: String,
    /// The model version, if this registry knows the release.
    pub(crate) version: Option<u32>,
}

/// A model on a device.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RowModel {
    pub(crate) name: Arc<str>,
    pub(crate) wanted: Option<Arc<RowRelease>>,
    pub(crate) confirmed: Option<Arc<RowRelease>>,
    pub(crate) phase: Phase,
    pub(crate) failure: Option<ErrorCode>,
    /// In thousandths.
    pub(crate) drift: Option<u32>,
    pub(crate) predictions: Option<u64>,
    pub(crate) failures: Option<u64>,
    pub(crate) p95_us: Option<u64>,
}

/// The last telemetry of a device, as far as it has one.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RowSample {
    /// When it came, by the cloud's clock.
    pub(crate) received_ms: u64,
    pub(crate) cpu_percent: f32,
    pub(crate) memory_used_bytes: u64,
    pub(crate) disk_free_bytes: u64,
    pub(crate) temperature_c: Option<f32>,
    pub(crate) throttled: bool,
    pub(crate) uptime_s: u64,
    pub(crate) agent_memory_bytes: u64,
}

impl PartialEq for Row {
    fn eq(&self, other: &Self) -> bool {
        let number = |row: &Self| row.connection.as_ref().map(|connection| connection.number);
        let of = |row: &Self| {
            let may = (row.active, row.takes_rollouts);
            (may, row.state, row.enrolled_at_ms, row.last_seen_ms, number(row))
        };
        self.id == other.id
            && of(self) == of(other)
            && (&self.name, &self.labels, &self.attributes) == (&other.name, &other.labels, &other.attributes)
            && (&self.facts, &self.models, &self.sample) == (&other.facts, &other.models, &other.sample)
    }
}

impl Row {
    /// Whether it is connected now.
    pub(crate) fn online(&self) -> bool {
        self.connection.is_some()
    }

    /// When it was last heard of.
    pub(crate) fn last_seen_ms(&self) -> Option<u64> {
        self.connection.as_ref().map(|connection| connection.last_seen_ms()).max(self.last_seen_ms)
    }

    /// Its model of this name.
    pub(crate) fn model(&self, name: &str) -> Option<&RowModel> {
        let at = self.models.binary_search_by(|model| (*model.name).cmp(name)).ok()?;
        self.models.get(at)
    }

    /// Its attribute of this key.
    pub(crate) fn attribute(&self, key: &str) -> Option<&str> {
        let at = self.attributes.binary_search_by(|(known, _)| (**known).cmp(key)).ok()?;
        self.attributes.get(at).map(|(_, value)| &**value)
    }

    /// Memory of the device that nothing uses.
    pub(crate) fn memory_free_bytes(&self) -> Option<u64> {
        let used = self.sample.as_ref()?.memory_used_bytes;
        (self.facts.memory_bytes > 0).then(|| self.facts.memory_bytes.saturating_sub(used))
    }
}

/// What the records say of one device.
#[derive(Clone, Debug)]
pub(super) struct Read {
    pub(super) device: Device,
    pub(super) twin: Option<Twin>,
    pub(super) models: Vec<ModelState>,
    pub(super) sample: Option<LatestSample>,
}

impl Read {
    /// The releases that its row names.
    pub(super) fn releases(&self) -> BTreeSet<Digest> {
        let wanted = self.twin.iter().flat_map(|twin| twin.models.values().map(|wanted| wanted.release));
        wanted.chain(self.models.iter().filter_map(|model| model.report.confirmed)).collect()
    }

    /// The device's row. `release` names a release.
    pub(super) fn row(
        self,
        connection: Option<Arc<Connection>>,
        pool: &mut Pool,
        release: impl Fn(&Digest) -> RowRelease,
    ) -> Row {
        let Self { device, twin, models, sample } = self;
        let sample = sample.map(|latest| (latest.received_ms, latest.sample));
        let release = |digest: &Digest, pool: &mut Pool| pool.releases.keep(release(digest));
        let mut wanted = twin.map(|twin| twin.models).unwrap_or_default();
        let mut reported: BTreeMap<ModelName, _> =
            models.into_iter().map(|state| (state.model, state.report)).collect();
        // The agent's own release is no model.
        wanted.remove(&agent_name());
        reported.remove(&agent_name());
        let names: BTreeSet<ModelName> = wanted.keys().chain(reported.keys()).cloned().collect();
        let models: Box<[RowModel]> = names
            .iter()
            .take(MODELS)
            .map(|name| {
                let report = reported.remove(name).unwrap_or_default();
                let told = sample.as_ref().and_then(|(_, sample)| sample.models.get(name));
                // What was said of another release says nothing of this one.
                let drift = told.filter(|told| told.release == report.confirmed).and_then(|told| told.drift);
                RowModel {
                    name: pool.text(name.as_str()),
                    wanted: wanted.get(name).map(|wanted| release(&wanted.release, pool)),
                    confirmed: report.confirmed.as_ref().map(|confirmed| release(confirmed, pool)),
                    phase: report.phase,
                    failure: report.failure.map(|failure| failure.code),
                    drift: drift.map(|drift| drift.score()),
                    predictions: told.map(|told| told.predictions),
                    failures: told.map(|told| told.failures),
                    p95_us: told.and_then(|told| told.latency.quantile_us(0.95)),
                }
            })
            .collect();
        let state = state_of(&device, models.iter().map(|model| model.phase));
        let (active, takes_rollouts) = (device.is_active(), device.takes_rollouts());
        let board = device.board;
        let facts = Facts {
            board: board.board,
            arch: board.arch,
            os: board.os,
            agent: device.agent,
            engines: board.engines,
            cpus: board.cpus,
            memory_bytes: board.memory_bytes,
            trust_version: device.trust_version,
        };
        Row {
            active,
            takes_rollouts,
            state,
            name: device.tags.name.map(Into::into),
            labels: device.tags.labels.iter().map(|label| pool.text(label)).collect(),
            attributes: device
                .tags
                .attributes
                .iter()
                .map(|(key, value)| (pool.text(key), pool.text(value)))
                .collect(),
            facts: pool.facts.keep(facts),
            models,
            sample: sample.map(|(received_ms, sample)| RowSample {
                received_ms,
                cpu_percent: sample.cpu_percent,
                memory_used_bytes: sample.memory_used_bytes,
                disk_free_bytes: sample.disk_free_bytes,
                temperature_c: sample.temperature_c,
                throttled: sample.throttled,
                uptime_s: sample.uptime_s,
                agent_memory_bytes: sample.rss_bytes,
            }),
            enrolled_at_ms: device.enrolled_at_ms,
            last_seen_ms: device.last_seen_ms,
            connection,
            id: device.id,
        }
    }
}

/// What rows share.
#[derive(Debug, Default)]
pub(super) struct Pool {
    texts: HashSet<Arc<str>>,
    texts_kept: usize,
    facts: Shared<Facts>,
    releases: Shared<RowRelease>,
}

impl Pool {
    fn text(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return known.clone();
        }
        if self.texts.len() >= 2 * self.texts_kept + PURGE {
            self.texts.retain(|text| Arc::strong_count(text) > 1);
            self.texts_kept = self.texts.len();
        }
        let text: Arc<str> = text.into();
        self.texts.insert(text.clone());
        text
    }
}

/// So many new values at least come between two searches for values that no row has any more.
const PURGE: usize = 1024;

/// Values of which equal ones are kept once, for as long as a row has them: never more than twice as many as rows have,
/// and [`PURGE`].
#[derive(Debug)]
struct Shared<T> {
    values: HashSet<Arc<T>>,
    kept: usize,
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self { values: HashSet::new(), kept: 0 }
    }
}

impl<T: Eq + Hash> Shared<T> {
    fn keep(&mut self, value: T) -> Arc<T> {
        if let Some(known) = self.values.get(&value) {
            return known.clone();
        }
        if self.values.len() >= 2 * self.kept + PURGE {
            self.values.retain(|value| Arc::strong_count(value) > 1);
            self.kept = self.values.len();
        }
        let value = Arc::new(value);
        self.values.insert(value.clone());
        value
    }
}

//! What people see of a device: records, connection and telemetry in one.

use super::device::{Certificate, Device, DeviceState, Health, Quarantine, Traffic};
use super::tags::Tags;
use super::twin::ModelState;
use crate::connections::{Connection, Connections};
use crate::error::{Error, Result};
use crate::ingest::{HistoryPoint, LatestSample};
use crate::renewal::PendingRenewal;
use crate::store::{self, Store};
use flotilla_protocol::enrol::BoardSerial;
use flotilla_protocol::manifest::AGENT_NAME;
use flotilla_protocol::message::{
    BoardFacts, Drift, Failure, ModelTelemetry, NpuSample, Phase, ProbeReport, Settings, SlotName,
    TelemetrySample,
};
use flotilla_protocol::{DeviceId, Digest, ModelName};
use flotilla_registry::{Registry, Release};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// A device as people see it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DeviceView {
    /// Its id.
    pub id: DeviceId,
    /// Whether it may connect.
    #[serde(flatten)]
    pub state: DeviceState,
    /// Where it stands, in a word: see [`state_of`].
    pub standing: &'static str,
    /// What operators have written on it.
    pub tags: Tags,
    /// Why no rollout takes it, if it is in quarantine.
    pub quarantine: Option<Quarantine>,
    /// Whether it is connected now.
    pub connected: bool,
    /// Since when, in milliseconds since 1970.
    pub connected_since_ms: Option<u64>,
    /// When it was last heard of.
    pub last_seen_ms: Option<u64>,
    /// When it enrolled.
    pub enrolled_at_ms: u64,
    /// The serial number that it said its board has.
    pub serial: Option<BoardSerial>,
    /// Version of its agent.
    pub agent: String,
    /// What it is made of.
    pub board: BoardFacts,
    /// Version of its desired document.
    pub desired_version: u64,
    /// The desired version that its last report answers.
    pub reported_version: u64,
    /// When that report came.
    pub reported_at_ms: Option<u64>,
    /// How it is to behave.
    pub settings: Settings,
    /// Its models, wanted or running.
    pub models: Vec<ModelView>,
    /// The release of the agent itself, wanted or running.
    pub agent_upgrade: Option<ModelView>,
    /// When its latest telemetry was taken, by its own clock.
    pub sampled_at_ms: Option<u64>,
    /// CPU use of the whole device, 0 to 100.
    pub cpu_percent: Option<f32>,
    /// Memory of the agent process.
    pub rss_bytes: Option<u64>,
    /// Free bytes on its disk.
    pub disk_free_bytes: Option<u64>,
    /// Seconds since the agent's start.
    pub uptime_s: Option<u64>,
    /// Its highest temperature, in degrees Celsius.
    pub temperature_c: Option<f32>,
    /// Bytes that came in over its network since it started.
    pub received_bytes: Option<u64>,
    /// Bytes that went out since then.
    pub sent_bytes: Option<u64>,
    /// Its neural processing units.
    pub npus: Vec<NpuSample>,
    /// The certificates it may show.
    pub certificates: Vec<Certificate>,
    /// What it waits for, or was told, since it asked for a new certificate after the end of its old one.
    pub renewal: Option<PendingRenewal>,
    /// Records that came from it.
    pub records: u64,
    /// Records that it declared dropped, because its outbox was full.
    pub records_dropped: u64,
    /// Records that are missing without a word.
    pub records_missing: u64,
    /// What it got wrong.
    pub health: Health,
    /// Payload to and from it.
    pub traffic: Traffic,
}

/// A model on a device as people see it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelView {
    /// The model.
    pub model: ModelName,
    /// The release it should run.
    pub wanted: Option<ReleaseView>,
    /// The release that serves and is confirmed.
    pub release: Option<ReleaseView>,
    /// The release on its way in.
    pub candidate: Option<ReleaseView>,
    /// What the update machine does.
    pub phase: Phase,
    /// The attempt that `candidate` or `failure` belongs to.
    pub attempt: u32,
    /// The slot that serves.
    pub slot: Option<SlotName>,
    /// Verified bytes of the candidate.
    pub bytes_done: u64,
    /// All bytes of the candidate.
    pub bytes_total: u64,
    /// Bytes of the candidate that were on the device already.
    pub bytes_reused: u64,
    /// Bytes of the candidate that were made from patches instead of being fetched.
    pub bytes_rebuilt: u64,
    /// Bytes of these patches.
    pub bytes_patches: u64,
    /// The last probe.
    pub probe: Option<ProbeReport>,
    /// Why a release did not make it.
    pub failure: Option<Failure>,
    /// Accuracy of the confirmed release on the test split, as measured when it was made.
    pub accuracy: Option<f64>,
    /// Predictions answered since the agent's start.
    pub predictions: u64,
    /// Predictions failed since the agent's start.
    pub failures: u64,
    /// Median latency in microseconds.
    pub p50_us: Option<u64>,
    /// 95th percentile in microseconds.
    pub p95_us: Option<u64>,
    /// 99th percentile in microseconds.
    pub p99_us: Option<u64>,
    /// Answers a label, the most frequent first.
    pub classes: Vec<(String, u64)>,
    /// Answers by the score of the answered label.
    pub confidence: Vec<u64>,
    /// How far the confirmed release's inputs and answers of late are from its training data; `None` if it cannot tell.
    pub drift: Option<Drift>,
}

/// A release as people name it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ReleaseView {
    /// Digest of the encoded envelope.
    pub digest: Digest,
    /// The model version; `None` for a release that this registry does not know.
    pub version: Option<u32>,
    /// The release counter.
    pub counter: Option<u64>,
}

/// Reads what people see. Releases that were looked up once are remembered for as long as this lives.
pub(crate) struct Views<'a> {
    store: &'a Store,
    registry: &'a Registry,
    connections: &'a Connections,
    releases: HashMap<Digest, Option<Release>>,
    labels: HashMap<Digest, Vec<String>>,
}

impl<'a> Views<'a> {
    pub(crate) fn new(store: &'a Store, registry: &'a Registry, connections: &'a Connections) -> Self {
        Self { store, registry, connections, releases: HashMap::new(), labels: HashMap::new() }
    }

    /// One device. Its connection is looked up before its records: a connection is forgotten only after what it leaves
    /// behind is written, so a device that shows as gone shows all of it.
    pub(crate) async fn device(&mut self, id: &DeviceId) -> Result<DeviceView> {
        let connection = self.connections.get(id);
        match self.store.devices.get(id.as_str()).await? {
            Some(device) => self.view(device.value, connection).await,
            None => Err(Error::DeviceMissing(id.clone())),
        }
    }

    async fn view(&mut self, device: Device, connection: Option<Arc<Connection>>) -> Result<DeviceView> {
        let id = device.id.as_str();
        let twin = self.store.twins.get(id).await?.map(|found| found.value);
        let head = self.store.reports.get(id).await?.map(|found| found.value);
        let latest = self.store.samples.get(id).await?.map(|found| found.value);
        let rollup = self.store.rollups.get(id).await?.map(|found| found.value);
        let reported = store::all(&self.store.models, &ModelState::prefix(&device.id)).await?;
        let mut reported: BTreeMap<ModelName, ModelState> =
            reported.into_iter().map(|state| (state.value.model.clone(), state.value)).collect();
        let sample = latest.as_ref().map(|latest: &LatestSample| &latest.sample);
        let wanted = twin.as_ref().map(|twin| twin.models.clone()).unwrap_or_default();
        let names: BTreeSet<ModelName> = wanted.keys().chain(reported.keys()).cloned().collect();
        let mut models = Vec::new();
        for name in names {
            let wanted = wanted.get(&name).map(|wanted| wanted.release);
            let state = reported.remove(&name);
            models.push(self.model(name, wanted, state, sample).await?);
        }
        let agent = models.iter().position(|model| model.model.as_str() == AGENT_NAME);
        let agent_upgrade = agent.map(|at| models.remove(at));
        let renewal = self.store.renewals.get(id).await?.map(|found| found.value);
        let live = connection.as_ref().map(|connection| connection.last_seen_ms());
        let traffic = connection.as_ref().map(|connection| connection.uncounted().0).unwrap_or_default();
        Ok(DeviceView {
            standing: state_of(&device, models.iter().map(|model| model.phase)),
            quarantine: device.quarantine,
            tags: device.tags,
            connected: connection.is_some(),
            connected_since_ms: connection.map(|connection| connection.since_ms()),
            last_seen_ms: live.max(device.last_seen_ms),
            desired_version: twin.as_ref().map_or(0, |twin| twin.version),
            reported_version: head.as_ref().map_or(0, |head| head.desired_version),
            reported_at_ms: head.map(|head| head.at_ms),
            settings: twin.map(|twin| twin.settings).unwrap_or_default(),
            models,
            agent_upgrade,
            sampled_at_ms: latest.as_ref().map(|latest| latest.at_ms),
            cpu_percent: sample.map(|sample| sample.cpu_percent),
            rss_bytes: sample.map(|sample| sample.rss_bytes),
            disk_free_bytes: sample.map(|sample| sample.disk_free_bytes),
            uptime_s: sample.map(|sample| sample.uptime_s),
            temperature_c: sample.and_then(|sample| sample.temperature_c),
            received_bytes: sample.and_then(|sample| sample.received_bytes),
            sent_bytes: sample.and_then(|sample| sample.sent_bytes),
            npus: sample.map(|sample| sample.npus.clone()).unwrap_or_default(),
            records: rollup.as_ref().map_or(0, |rollup| rollup.records),
            records_dropped: rollup.as_ref().map_or(0, |rollup| rollup.dropped),
            records_missing: rollup.as_ref().map_or(0, |rollup| rollup.missing),
            traffic: device.traffic.plus(traffic),
            id: device.id,
            state: device.state,
            serial: device.serial,
            enrolled_at_ms: device.enrolled_at_ms,
            agent: device.agent,
            board: device.board,
            certificates: device.certificates,
            renewal,
            health: device.health,
        })
    }

    async fn model(
        &mut self,
        model: ModelName,
        wanted: Option<Digest>,
        state: Option<ModelState>,
        sample: Option<&TelemetrySample>,
    ) -> Result<ModelView> {
        let report = state.map(|state| state.report).unwrap_or_default();
        let telemetry = sample.and_then(|sample| sample.models.get(&model));
        let count = |count: fn(&ModelTelemetry) -> u64| telemetry.map_or(0, count);
        let quantile = |q| telemetry.and_then(|telemetry| telemetry.latency.quantile_us(q));
        // What was said of another release says nothing of this one.
        let drift = telemetry.filter(|telemetry| telemetry.release == report.confirmed);
        let drift = drift.and_then(|telemetry| telemetry.drift);
        let classes = match telemetry {
            Some(telemetry) => self.classes(telemetry).await?,
            None => Vec::new(),
        };
        let accuracy = match &report.confirmed {
            Some(release) => self.release(release).await?.map(|release| release.metrics.accuracy),
            None => None,
        };
        Ok(ModelView {
            wanted: self.name(wanted).await?,
            release: self.name(report.confirmed).await?,
            candidate: self.name(report.candidate).await?,
            phase: report.phase,
            attempt: report.attempt,
            slot: report.slot,
            bytes_done: report.bytes_done,
            bytes_total: report.bytes_total,
            bytes_reused: report.bytes_reused,
            bytes_rebuilt: report.bytes_rebuilt,
            bytes_patches: report.bytes_patches,
            probe: report.probe,
            failure: report.failure,
            accuracy,
            predictions: count(|telemetry| telemetry.predictions),
            failures: count(|telemetry| telemetry.failures),
            p50_us: quantile(0.5),
            p95_us: quantile(0.95),
            p99_us: quantile(0.99),
            classes,
            confidence: telemetry.map(|telemetry| telemetry.confidence.clone()).unwrap_or_default(),
            drift,
            model,
        })
    }

    /// The answers by the names that the serving release gives its labels.
    async fn classes(&mut self, telemetry: &ModelTelemetry) -> Result<Vec<(String, u64)>> {
        let labels = match telemetry.release {
            Some(release) => self.labels(release).await?,
            None => &[],
        };
        let name = |label: u32| labels.get(label as usize).cloned().unwrap_or_else(|| format!("#{label}"));
        let mut classes: Vec<(String, u64)> =
            telemetry.classes.iter().map(|(label, count)| (name(*label), *count)).collect();
        classes.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        Ok(classes)
    }

    /// The labels of a release; none of one that this registry does not know.
    async fn labels(&mut self, release: Digest) -> Result<&[String]> {
        if !self.labels.contains_key(&release) {
            let labels = match self.release(&release).await? {
                // One that the release keys of today did not sign is shown by numbers.
                Some(_) => self.registry.manifest(&release).await.map(|m| m.pipeline.labels().to_vec()).ok(),
                None => None,
            };
            let labels = labels.unwrap_or_default();
            self.labels.insert(release, labels);
        }
        Ok(self.labels.get(&release).map(Vec::as_slice).unwrap_or_default())
    }

    async fn name(&mut self, digest: Option<Digest>) -> Result<Option<ReleaseView>> {
        let Some(digest) = digest else { return Ok(None) };
        let release = self.release(&digest).await?;
        let (version, counter) =
            (release.as_ref().map(|release| release.version), release.map(|release| release.counter));
        Ok(Some(ReleaseView { digest, version, counter }))
    }

    /// A release that a device names; it may be of another registry or a lie.
    async fn release(&mut self, digest: &Digest) -> Result<Option<Release>> {
        if let Some(known) = self.releases.get(digest) {
            return Ok(known.clone());
        }
        let found = match self.registry.find_release(digest).await {
            Ok(release) => Some(release),
            Err(flotilla_registry::Error::ReleaseMissing(_)) => None,
            Err(error) => return Err(error.into()),
        };
        self.releases.insert(*digest, found.clone());
        Ok(found)
    }
}

/// Where a device stands, in a word: that it may not connect, or that no rollout takes it, or else the phase of that of its
/// models which needs somebody's eye most.
pub(crate) fn state_of(device: &Device, phases: impl Iterator<Item = Phase>) -> &'static str {
    match device.state {
        DeviceState::Revoked { .. } => "revoked",
        DeviceState::Decommissioned { .. } => DECOMMISSIONED,
        DeviceState::Waiting { .. } => WAITING,
        DeviceState::Active if device.quarantine.is_some() => "quarantined",
        DeviceState::Active => {
            let urgency = |phase: &Phase| URGENCY.iter().position(|known| known == phase);
            phases.min_by_key(urgency).unwrap_or_default().as_str()
        }
    }
}

/// Where a device stands that has served its time: nobody is shown it who does not ask for it.
pub(crate) const DECOMMISSIONED: &str = "decommissioned";

/// Where a device stands that waits for somebody's approval.
pub(crate) const WAITING: &str = "waiting";

/// The phases by how much they need somebody's eye, the most urgent first.
pub(crate) const URGENCY: [Phase; 10] = [
    Phase::Failed,
    Phase::Reverting,
    Phase::Probation,
    Phase::Switching,
    Phase::Probing,
    Phase::Staged,
    Phase::Verifying,
    Phase::Downloading,
    Phase::Idle,
    Phase::Confirmed,
];

/// The history of a device, oldest first.
pub(crate) async fn history(store: &Store, id: &DeviceId) -> Result<Vec<HistoryPoint>> {
    if store.devices.get(id.as_str()).await?.is_none() {
        return Err(Error::DeviceMissing(id.clone()));
    }
    let rollup = store.rollups.get(id.as_str()).await?;
    Ok(rollup.map(|rollup| rollup.value.history.into()).unwrap_or_default())
}

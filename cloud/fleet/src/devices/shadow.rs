//! Shadows as the cloud knows them: what devices say of theirs, the figures that came of them, and both in one for people.

use super::twin::DETAIL;
use crate::error::{Error, Result};
use crate::store::{self, Store};
use crate::text::bounded;
use flotilla_identity::{Actor, audit};
use flotilla_protocol::message::{
    Disagreement, Failure, Histogram, ShadowRelease, ShadowReport, ShadowSide, ShadowTelemetry,
};
use flotilla_protocol::{DeviceId, Digest, ErrorCode, ModelName, limits};
use flotilla_registry::Release;
use flotilla_storage::{Batch, Entity, Table, compound};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

/// Devices that one order is for, at most.
const DEVICES: usize = 10_000;

/// What a device reports of one shadow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ShadowState {
    /// The device.
    pub(crate) device: DeviceId,
    /// The model.
    pub(crate) model: ModelName,
    /// What it says.
    pub(crate) report: ShadowReport,
}

impl Entity for ShadowState {
    const TABLE: Table = Table::new("report-shadows");

    fn id(&self) -> Vec<u8> {
        compound([self.device.as_str(), self.model.as_str()])
    }
}

/// How the shadows of a device compare, over the lives of its agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ShadowFigures {
    /// The device.
    pub(crate) device: DeviceId,
    /// The last comparison of each model.
    pub(crate) models: BTreeMap<ModelName, Figures>,
}

impl Entity for ShadowFigures {
    const TABLE: Table = Table::new("shadow-figures");

    fn id(&self) -> Vec<u8> {
        self.device.as_str().into()
    }
}

/// The last comparison of one model on one device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figures {
    /// When the newest of it was taken, by the device's clock, in milliseconds since 1970.
    pub(crate) at_ms: u64,
    /// What earlier lives of the agent counted.
    earlier: ShadowTelemetry,
    /// What the present one has counted.
    present: ShadowTelemetry,
}

impl Figures {
    /// All of it.
    pub(crate) fn total(&self) -> ShadowTelemetry {
        sum(&self.earlier, &self.present)
    }
}

impl ShadowFigures {
    pub(crate) fn of(device: &DeviceId) -> Self {
        Self { device: device.clone(), models: BTreeMap::new() }
    }

    /// Takes a sample in. One that is older than what is known says nothing new: counters are cumulative.
    pub(crate) fn fold(&mut self, at_ms: u64, shadows: BTreeMap<ModelName, ShadowTelemetry>) {
        for (model, mut new) in shadows.into_iter().take(limits::DESIRED_SHADOWS) {
            bound(&mut new);
            let figures = self.models.entry(model).or_default();
            let pair = |telemetry: &ShadowTelemetry| (telemetry.release, telemetry.against);
            if pair(&figures.present) != pair(&new) {
                *figures = Figures { at_ms, earlier: ShadowTelemetry::default(), present: new };
            } else if at_ms >= figures.at_ms {
                let count =
                    |t: &ShadowTelemetry| t.compared.saturating_add(t.failures).saturating_add(t.skipped);
                if count(&new) < count(&figures.present) {
                    // The agent started anew, and counts from nothing.
                    figures.earlier = sum(&figures.earlier, &figures.present);
                }
                (figures.at_ms, figures.present) = (at_ms, new);
            }
        }
        // As many as a device may have; those of which nothing was heard for longest go.
        while self.models.len() > limits::DESIRED_SHADOWS {
            let oldest =
                self.models.iter().min_by_key(|(_, figures)| figures.at_ms).map(|(model, _)| model.clone());
            oldest.map(|oldest| self.models.remove(&oldest));
        }
    }
}

fn bound(telemetry: &mut ShadowTelemetry) {
    for side in [&mut telemetry.confirmed, &mut telemetry.shadow] {
        side.latency.buckets.truncate(Histogram::BUCKETS);
    }
    telemetry.disagreements.truncate(limits::DISAGREEMENTS);
    telemetry.agreed = telemetry.agreed.min(telemetry.compared);
}

/// Both counted together. Of disagreements the most frequent are kept.
pub fn sum(one: &ShadowTelemetry, two: &ShadowTelemetry) -> ShadowTelemetry {
    let side = |one: &ShadowSide, two: &ShadowSide| {
        let mut latency = one.latency.clone();
        latency.merge(&two.latency);
        ShadowSide { latency, confidence_sum: one.confidence_sum.saturating_add(two.confidence_sum) }
    };
    let mut pairs: BTreeMap<(u32, u32), u64> = BTreeMap::new();
    for pair in one.disagreements.iter().chain(&two.disagreements) {
        let count = pairs.entry((pair.confirmed, pair.shadow)).or_default();
        *count = count.saturating_add(pair.count);
    }
    let of = |((confirmed, shadow), count)| Disagreement { confirmed, shadow, count };
    let mut disagreements: Vec<Disagreement> = pairs.into_iter().map(of).collect();
    disagreements.sort_by_key(|pair| std::cmp::Reverse(pair.count));
    disagreements.truncate(limits::DISAGREEMENTS);
    ShadowTelemetry {
        release: two.release.or(one.release),
        against: two.against.or(one.against),
        compared: one.compared.saturating_add(two.compared),
        agreed: one.agreed.saturating_add(two.agreed),
        failures: one.failures.saturating_add(two.failures),
        skipped: one.skipped.saturating_add(two.skipped),
        confirmed: side(&one.confirmed, &two.confirmed),
        shadow: side(&one.shadow, &two.shadow),
        disagreements,
    }
}

/// The reports within bounds and storable.
pub(crate) fn sanitise(shadows: &mut BTreeMap<ModelName, ShadowReport>) -> Result<(), ErrorCode> {
    if shadows.len() > limits::DESIRED_SHADOWS * 2 {
        return Err(ErrorCode::TooLarge);
    }
    for report in shadows.values_mut() {
        if let Some(Failure { detail, .. }) = &mut report.failure {
            *detail = bounded(detail, DETAIL);
        }
    }
    Ok(())
}

/// Puts what a device says of its shadows in place of what it said before.
pub(crate) async fn store_reports(
    store: &Store,
    batch: &mut Batch,
    device: &DeviceId,
    shadows: &BTreeMap<ModelName, ShadowReport>,
) -> Result<()> {
    let mut known = store::all(&store.shadows, &compound([device.as_str()])).await?;
    for (model, report) in shadows {
        let state = ShadowState { device: device.clone(), model: model.clone(), report: report.clone() };
        let at = known.iter().position(|known| known.value.model == *model);
        let found = at.map(|at| known.swap_remove(at));
        if found.as_ref().is_none_or(|found| found.value != state) {
            store::put(&store.shadows, batch, found.as_ref(), &state)?;
        }
    }
    known.iter().try_for_each(|gone| Ok(store.shadows.delete(batch, gone)?))
}

/// Lets a release run beside the confirmed one on these devices; on every active one that runs the model where none are
/// named. Each device's document and its audit record are one commit. Says which devices it is for.
pub(crate) async fn start(
    store: &Store,
    actor: &Actor,
    release: &Release,
    devices: Option<Vec<DeviceId>>,
    share_per_mille: u32,
    now_ms: u64,
) -> Result<Vec<DeviceId>> {
    let model = &release.model;
    let targets = targets(store, model, devices).await?;
    for id in &targets {
        let changed = store.modify(&store.twins, id.as_str().as_bytes(), |twin, batch| {
            let full = |_: ErrorCode| Error::Busy { what: "the shadows of one device", bound: limits::DESIRED_SHADOWS };
            let attempt = twin
                .shadow(model, release.digest, release.envelope_bytes, share_per_mille, now_ms)
                .map_err(full)?;
            let detail = json!({
                "model": model, "release": release.digest, "attempt": attempt, "share_per_mille": share_per_mille,
                "desired_version": twin.version,
            });
            audit::record(batch, actor, "shadow:start", &subject(id), detail, now_ms)?;
            Ok(true)
        });
        changed.await?.ok_or_else(|| Error::DeviceMissing(id.clone()))?;
    }
    Ok(targets)
}

/// Ends the shadow of a model on these devices; on all where none are named. Says which devices had one.
pub(crate) async fn stop(
    store: &Store,
    actor: &Actor,
    model: &ModelName,
    devices: Option<Vec<DeviceId>>,
    now_ms: u64,
) -> Result<Vec<DeviceId>> {
    let named = match devices {
        Some(devices) => devices,
        None => {
            let twins = store::all(&store.twins, &[]).await?;
            let shadowed = twins.into_iter().filter(|twin| twin.value.shadows.contains_key(model));
            shadowed.map(|twin| twin.value.device).collect()
        }
    };
    let mut stopped = Vec::new();
    for id in named {
        let mut had = false;
        let twin = store.modify(&store.twins, id.as_str().as_bytes(), |twin, batch| {
            had = twin.unshadow(model, now_ms);
            if had {
                let detail = json!({ "model": model, "desired_version": twin.version });
                audit::record(batch, actor, "shadow:stop", &subject(&id), detail, now_ms)?;
            }
            Ok(had)
        });
        twin.await?.ok_or_else(|| Error::DeviceMissing(id.clone()))?;
        if had {
            stopped.push(id);
        }
    }
    Ok(stopped)
}

async fn targets(store: &Store, model: &ModelName, named: Option<Vec<DeviceId>>) -> Result<Vec<DeviceId>> {
    let runs = async |id: &DeviceId| {
        let twin = store.twins.get(id.as_str()).await?;
        Ok::<_, Error>(twin.is_some_and(|twin| twin.value.models.contains_key(model)))
    };
    let mut targets = Vec::new();
    match named {
        Some(named) => {
            for id in named.into_iter().collect::<BTreeSet<_>>() {
                let device = store.devices.get(id.as_str()).await?;
                let device = device.ok_or_else(|| Error::DeviceMissing(id.clone()))?;
                if !device.value.is_active() {
                    return Err(Error::DeviceRevoked(id));
                }
                if !runs(&id).await? {
                    return Err(Error::Invalid(format!(
                        "device {id} runs no model {model} for a shadow to stand beside: roll a release out to it first"
                    )));
                }
                targets.push(id);
            }
        }
        None => {
            for device in store::all(&store.devices, &[]).await? {
                if device.value.is_active() && runs(&device.value.id).await? {
                    targets.push(device.value.id);
                }
            }
        }
    }
    if targets.is_empty() {
        return Err(Error::Invalid(format!("no active device runs model {model}: roll a release out first")));
    }
    if targets.len() > DEVICES {
        return Err(Error::Busy { what: "the devices of one order", bound: DEVICES });
    }
    Ok(targets)
}

fn subject(id: &DeviceId) -> String {
    format!("device/{id}")
}

/// The shadow of a model on one device, as people see it.
#[derive(Clone, Debug, PartialEq)]
pub struct ShadowView {
    /// The device.
    pub device: DeviceId,
    /// The release that is wanted; none when it was stopped.
    pub wanted: Option<Digest>,
    /// Share of the inputs, in per mille.
    pub share_per_mille: u32,
    /// What the device says of the wanted release.
    pub report: Option<ShadowReport>,
    /// How it compares; of one that was stopped, how it did.
    pub figures: Option<ShadowTelemetry>,
}

/// The shadows of a model, or of all, on every device that has one, or had.
pub(crate) async fn views(
    store: &Store,
    only: Option<&ModelName>,
) -> Result<BTreeMap<ModelName, Vec<ShadowView>>> {
    let mut views: BTreeMap<ModelName, Vec<ShadowView>> = BTreeMap::new();
    for twin in store::all(&store.twins, &[]).await? {
        let (device, wanted) = (twin.value.device, twin.value.shadows);
        let kept = store.figures.get(device.as_str()).await?;
        let mut figures = kept.map(|kept| kept.value.models).unwrap_or_default();
        let names: BTreeSet<ModelName> = wanted.keys().chain(figures.keys()).cloned().collect();
        for model in names.into_iter().filter(|model| only.is_none_or(|only| only == model)) {
            let figures = figures.remove(&model).map(|figures| figures.total());
            let view = view(store, &device, &model, wanted.get(&model), figures).await?;
            views.entry(model).or_default().push(view);
        }
    }
    Ok(views)
}

async fn view(
    store: &Store,
    device: &DeviceId,
    model: &ModelName,
    wanted: Option<&ShadowRelease>,
    figures: Option<ShadowTelemetry>,
) -> Result<ShadowView> {
    let state = store.shadows.get(compound([device.as_str(), model.as_str()])).await?;
    let release = wanted.map(|wanted| wanted.release);
    // A device says of an older one until it has heard of this; and figures are of the one that ran last.
    let of_wanted = |of: Option<Digest>| release.is_none() || of == release;
    let report = state.map(|state| state.value.report).filter(|report| of_wanted(Some(report.release)));
    Ok(ShadowView {
        device: device.clone(),
        wanted: release,
        share_per_mille: wanted.map_or(0, |wanted| wanted.share_per_mille),
        report,
        figures: figures.filter(|figures| of_wanted(figures.release)),
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;

    fn counted(release: &[u8], compared: u64, agreed: u64) -> ShadowTelemetry {
        let mut telemetry = ShadowTelemetry {
            release: Some(Digest::of(release)),
            against: Some(Digest::of(b"confirmed")),
            compared,
            agreed,
            ..ShadowTelemetry::default()
        };
        (0..compared).for_each(|_| telemetry.shadow.record(100, 0.5));
        if compared > agreed {
            telemetry.disagreements =
                vec![Disagreement { confirmed: 1, shadow: 2, count: compared - agreed }];
        }
        telemetry
    }

    #[test]
    fn counters_go_on_when_the_agent_starts_anew_and_begin_with_another_shadow() {
        let model: ModelName = "digits".parse().unwrap();
        let mut kept = ShadowFigures::of(&DeviceId::new("gate-7").unwrap());
        let mut fold = |at_ms, telemetry| {
            kept.fold(at_ms, BTreeMap::from([(model.clone(), telemetry)]));
            let total = kept.models[&model].total();
            assert_eq!(total.shadow.latency.count(), total.compared);
            let pairs = total.disagreements.iter().map(|pair| pair.count).sum::<u64>();
            assert_eq!(pairs, total.compared - total.agreed);
            (total.compared, total.agreed)
        };
        assert_eq!(fold(10, counted(b"one", 10, 9)), (10, 9));
        assert_eq!(fold(20, counted(b"one", 14, 12)), (14, 12));
        assert_eq!(fold(15, counted(b"one", 12, 11)), (14, 12), "an older sample");
        assert_eq!(fold(30, counted(b"one", 3, 0)), (17, 12), "a restart");
        assert_eq!(fold(40, counted(b"one", 5, 2)), (19, 14));
        assert_eq!(fold(50, counted(b"two", 1, 1)), (1, 1));
    }

    #[test]
    fn figures_of_the_worst_device_fit_into_a_record() {
        let mut worst = ShadowTelemetry {
            release: Some(Digest::of(b"r")),
            against: Some(Digest::of(b"a")),
            compared: u64::MAX,
            agreed: u64::MAX,
            failures: u64::MAX,
            skipped: u64::MAX,
            ..ShadowTelemetry::default()
        };
        for side in [&mut worst.confirmed, &mut worst.shadow] {
            // As much as a record of a device can say.
            side.latency.buckets = vec![1 << 20; 14];
        }
        worst.disagreements =
            vec![Disagreement { confirmed: u32::MAX, shadow: u32::MAX, count: 1 << 40 }; 99];
        let mut kept = ShadowFigures::of(&DeviceId::new("d".repeat(limits::ID)).unwrap());
        for round in 0..3 {
            let all = (0..limits::DESIRED_SHADOWS)
                .map(|n| (format!("{n:0>60}{round}").parse().unwrap(), worst.clone()));
            kept.fold(round, all.collect());
        }
        assert_eq!(kept.models.len(), limits::DESIRED_SHADOWS);
        let size = serde_json::to_string(&kept).unwrap().len();
        assert!(size <= limits::RECORD, "{size}");
    }
}

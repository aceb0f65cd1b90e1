//! Shadows as the cloud knows them: what is wanted, what devices say of theirs, and both with their figures for people.

use super::figures::{Figures, ShadowFigures, Sum};
use super::service::{active, subject};
use super::twin::{DETAIL, Twin};
use crate::error::{Error, Result};
use crate::store::{self, Store};
use crate::text::bounded;
use flotilla_identity::{Actor, audit};
use flotilla_protocol::message::{Failure, ShadowRelease, ShadowReport, ShadowTelemetry};
use flotilla_protocol::{DeviceId, Digest, ErrorCode, ModelName, limits};
use flotilla_registry::Release;
use flotilla_storage::{Batch, Entity, PAGE_ENTITIES, Page, Table, compound};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

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

/// Lets a release run beside the confirmed one on a device.
pub(crate) async fn start(
    store: &Store,
    actor: &Actor,
    release: &Release,
    id: &DeviceId,
    share_per_mille: u32,
    now_ms: u64,
) -> Result<()> {
    active(store, id).await?;
    let model = &release.model;
    let twin = store.modify(&store.twins, id.as_str().as_bytes(), |twin, batch| {
        if !twin.models.contains_key(model) {
            return Err(Error::Invalid(format!(
                "device {id} runs no model {model} for a shadow to stand beside: roll a release out to it first"
            )));
        }
        let full = |_: ErrorCode| Error::Busy { what: "the shadows of one device", bound: limits::DESIRED_SHADOWS };
        let attempt =
            twin.shadow(model, release.digest, release.envelope_bytes, share_per_mille, now_ms).map_err(full)?;
        let detail = json!({
            "model": model, "release": release.digest, "attempt": attempt, "share_per_mille": share_per_mille,
            "desired_version": twin.version,
        });
        audit::record(batch, actor, "shadow:start", &subject(id), detail, now_ms)?;
        Ok(true)
    });
    twin.await?.map(drop).ok_or_else(|| Error::DeviceMissing(id.clone()))
}

/// Ends the shadow of a model on a device. Says whether it had one.
pub(crate) async fn stop(
    store: &Store,
    actor: &Actor,
    model: &ModelName,
    id: &DeviceId,
    now_ms: u64,
) -> Result<bool> {
    let mut had = false;
    let twin = store.modify(&store.twins, id.as_str().as_bytes(), |twin, batch| {
        had = twin.unshadow(model, now_ms);
        if had {
            let detail = json!({ "model": model, "desired_version": twin.version });
            audit::record(batch, actor, "shadow:stop", &subject(id), detail, now_ms)?;
        }
        Ok(had)
    });
    twin.await?.map(|_| had).ok_or_else(|| Error::DeviceMissing(id.clone()))
}

/// The active devices that should run a model.
pub(crate) async fn running(store: &Store, model: &ModelName) -> Result<Vec<DeviceId>> {
    let mut running = Vec::new();
    store::each(&store.twins, |twin| {
        if twin.models.contains_key(model) {
            running.push(twin.device);
        }
    })
    .await?;
    let mut targets = Vec::new();
    for id in running {
        if store.devices.get(id.as_str()).await?.is_some_and(|device| device.value.is_active()) {
            targets.push(id);
        }
    }
    if targets.is_empty() {
        return Err(Error::Invalid(format!("no active device runs model {model}: roll a release out first")));
    }
    Ok(targets)
}

/// The devices that should run a shadow of a model.
pub(crate) async fn shadowed(store: &Store, model: &ModelName) -> Result<Vec<DeviceId>> {
    let (mut devices, mut after) = (Vec::new(), None);
    loop {
        let page = with_shadow(store, Some(model), after.as_deref()).await?;
        devices.extend(page.items.into_iter().map(|twin| twin.value.device));
        after = page.next;
        if after.is_none() {
            return Ok(devices);
        }
    }
}

async fn with_shadow(store: &Store, of: Option<&ModelName>, after: Option<&[u8]>) -> Result<Page<Twin>> {
    let of = of.map_or(Twin::ANY, |model| model.as_str().as_bytes());
    Ok(store.twins.lookup(Twin::SHADOWED, of, after, PAGE_ENTITIES).await?)
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

/// The shadow of a model over all devices.
#[derive(Clone, Debug, Default)]
pub struct Shadows {
    /// The first devices, by id.
    pub devices: Vec<ShadowView>,
    /// Devices after them.
    pub left_out: u64,
    /// All devices together, a shadow and a confirmed release, with every pair of labels.
    pub totals: Vec<ShadowTelemetry>,
}

/// What [`Shadows`] are made of, one device after the other.
struct Gathered {
    most: usize,
    devices: BTreeMap<DeviceId, ShadowView>,
    left_out: u64,
    totals: BTreeMap<(Option<Digest>, Option<Digest>), Sum>,
}

impl Gathered {
    fn new(most: usize) -> Self {
        Self { most, devices: BTreeMap::new(), left_out: 0, totals: BTreeMap::new() }
    }

    fn add(&mut self, view: ShadowView) {
        if let Some(figures) = &view.figures {
            self.totals.entry((figures.release, figures.against)).or_default().add(figures);
        }
        self.devices.insert(view.device.clone(), view);
        if self.devices.len() > self.most {
            self.devices.pop_last();
            self.left_out += 1;
        }
    }

    fn all(self) -> Shadows {
        Shadows {
            devices: self.devices.into_values().collect(),
            left_out: self.left_out,
            totals: self.totals.into_values().map(Sum::total).collect(),
        }
    }
}

/// The shadow of a model on every device that has one, or had; so many devices are listed.
pub(crate) async fn of_model(store: &Store, model: &ModelName, most: usize) -> Result<Shadows> {
    let (mut gathered, mut have, mut after) = (Gathered::new(most), BTreeSet::new(), None);
    loop {
        let page = with_shadow(store, Some(model), after.as_deref()).await?;
        for twin in page.items {
            let Twin { device, shadows, .. } = twin.value;
            let kept = store.figures.get(device.as_str()).await?;
            let figures = kept.and_then(|mut kept| kept.value.models.remove(model));
            gathered.add(view(store, &device, model, shadows.get(model), figures).await?);
            have.insert(device);
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    loop {
        let compared = (ShadowFigures::COMPARED, model.as_str());
        let page = store.figures.lookup(compared.0, compared.1, after.as_deref(), PAGE_ENTITIES).await?;
        for mut kept in page.items.into_iter().map(|kept| kept.value) {
            if !have.contains(&kept.device) {
                let figures = kept.models.remove(model);
                gathered.add(view(store, &kept.device, model, None, figures).await?);
            }
        }
        after = page.next;
        if after.is_none() {
            return Ok(gathered.all());
        }
    }
}

/// The shadows of all models on the devices that have one now; so many devices of each are listed. Where there is none,
/// nothing is read.
pub(crate) async fn of_all(store: &Store, most: usize) -> Result<BTreeMap<ModelName, Shadows>> {
    let mut models: BTreeMap<ModelName, Gathered> = BTreeMap::new();
    let mut after = None;
    loop {
        let page = with_shadow(store, None, after.as_deref()).await?;
        for twin in page.items {
            let Twin { device, shadows, .. } = twin.value;
            let kept = store.figures.get(device.as_str()).await?;
            let mut figures = kept.map(|kept| kept.value.models).unwrap_or_default();
            for (model, wanted) in shadows {
                let view = view(store, &device, &model, Some(&wanted), figures.remove(&model)).await?;
                models.entry(model).or_insert_with(|| Gathered::new(most)).add(view);
            }
        }
        after = page.next;
        if after.is_none() {
            return Ok(models.into_iter().map(|(model, gathered)| (model, gathered.all())).collect());
        }
    }
}

async fn view(
    store: &Store,
    device: &DeviceId,
    model: &ModelName,
    wanted: Option<&ShadowRelease>,
    figures: Option<Figures>,
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
        figures: figures.map(|figures| figures.total()).filter(|figures| of_wanted(figures.release)),
    })
}

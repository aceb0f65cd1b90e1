//! The fleet's records, in one place.

use crate::claims::Claim;
use crate::devices::{
    CommandHistory, Consents, Device, Examined, ModelState, ReportHead, Runs, ShadowFigures, ShadowState,
    Twin,
};
use crate::error::{Error, Result};
use crate::experiments::{Experiment, ExperimentDevice};
use crate::groups::{Group, Member};
use crate::ingest::{DeviceEvents, FoldPosition, LatestSample, Rollup};
use crate::registrations::Registration;
use crate::renewal::PendingRenewal;
use crate::rollout::{Rollout, RolloutDevice, Withdrawn};
use flotilla_storage::{Batch, Collection, Entity, PAGE_ENTITIES, Page, Records, Versioned};
use std::sync::Arc;

/// How often a change starts again because another changed the same record in between.
pub(crate) const ATTEMPTS: usize = 16;

/// The collections of the fleet.
pub(crate) struct Store {
    records: Arc<dyn Records>,
    pub(crate) claims: Collection<Claim>,
    pub(crate) registrations: Collection<Registration>,
    pub(crate) renewals: Collection<PendingRenewal>,
    pub(crate) devices: Collection<Device>,
    pub(crate) twins: Collection<Twin>,
    pub(crate) consents: Collection<Consents>,
    pub(crate) reports: Collection<ReportHead>,
    pub(crate) models: Collection<ModelState>,
    pub(crate) runs: Collection<Runs>,
    pub(crate) shadows: Collection<ShadowState>,
    pub(crate) figures: Collection<ShadowFigures>,
    pub(crate) examined: Collection<Examined>,
    pub(crate) commands: Collection<CommandHistory>,
    pub(crate) groups: Collection<Group>,
    pub(crate) members: Collection<Member>,
    pub(crate) rollouts: Collection<Rollout>,
    pub(crate) rollout_devices: Collection<RolloutDevice>,
    pub(crate) withdrawn: Collection<Withdrawn>,
    pub(crate) experiments: Collection<Experiment>,
    pub(crate) experiment_devices: Collection<ExperimentDevice>,
    pub(crate) rollups: Collection<Rollup>,
    pub(crate) samples: Collection<LatestSample>,
    pub(crate) events: Collection<DeviceEvents>,
    pub(crate) fold: Collection<FoldPosition>,
}

impl Store {
    pub(crate) fn new(records: Arc<dyn Records>) -> Self {
        Self {
            claims: Collection::new(records.clone()),
            registrations: Collection::new(records.clone()),
            renewals: Collection::new(records.clone()),
            devices: Collection::new(records.clone()),
            twins: Collection::new(records.clone()),
            consents: Collection::new(records.clone()),
            reports: Collection::new(records.clone()),
            models: Collection::new(records.clone()),
            runs: Collection::new(records.clone()),
            shadows: Collection::new(records.clone()),
            figures: Collection::new(records.clone()),
            examined: Collection::new(records.clone()),
            commands: Collection::new(records.clone()),
            groups: Collection::new(records.clone()),
            members: Collection::new(records.clone()),
            rollouts: Collection::new(records.clone()),
            rollout_devices: Collection::new(records.clone()),
            withdrawn: Collection::new(records.clone()),
            experiments: Collection::new(records.clone()),
            experiment_devices: Collection::new(records.clone()),
            rollups: Collection::new(records.clone()),
            samples: Collection::new(records.clone()),
            events: Collection::new(records.clone()),
            fold: Collection::new(records.clone()),
            records,
        }
    }

    pub(crate) async fn commit(&self, batch: Batch) -> Result<()> {
        self.records.commit(batch).await?;
        Ok(())
    }

    /// Commits, and says which version all that was written has now; `None` if another changed one of the records first.
    pub(crate) async fn committed(&self, batch: Batch) -> Result<Option<u64>> {
        match self.records.commit(batch).await.map_err(Error::from) {
            Ok(commit) => Ok(Some(commit.version)),
            Err(error) if error.is_conflict() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Commits; `false` if another changed one of the records first.
    pub(crate) async fn try_commit(&self, batch: Batch) -> Result<bool> {
        Ok(self.committed(batch).await?.is_some())
    }

    /// Changes one entity, again from what is there if another changed it first. `change` may also add to the batch
    /// and says whether anything is to be written. Returns the entity as it is then; `None` if there is none.
    pub(crate) async fn modify<T: Entity>(
        &self,
        collection: &Collection<T>,
        id: &[u8],
        mut change: impl FnMut(&mut T, &mut Batch) -> Result<bool>,
    ) -> Result<Option<T>> {
        for _ in 0..ATTEMPTS {
            let Some(found) = collection.get(id).await? else { return Ok(None) };
            let mut batch = Batch::new();
            let mut value = found.value.clone();
            if !change(&mut value, &mut batch)? {
                return Ok(Some(found.value));
            }
            collection.update(&mut batch, &found, &value)?;
            if self.try_commit(batch).await? {
                return Ok(Some(value));
            }
        }
        Err(Error::Contended(format!("{}/{}", T::TABLE.as_str(), id.escape_ascii())))
    }
}

/// Every entity whose id starts with `prefix`, page by page.
pub(crate) async fn all<T: Entity>(collection: &Collection<T>, prefix: &[u8]) -> Result<Vec<Versioned<T>>> {
    let mut all = Vec::new();
    let mut after: Option<Vec<u8>> = None;
    loop {
        let Page { items, next } = collection.list_prefix(prefix, after.as_deref(), PAGE_ENTITIES).await?;
        all.extend(items);
        match next {
            Some(next) => after = Some(next),
            None => return Ok(all),
        }
    }
}

/// Shows every entity of a collection, page by page: what is not needed of it is not kept.
pub(crate) async fn each<T: Entity>(collection: &Collection<T>, mut show: impl FnMut(T)) -> Result<()> {
    let mut after: Option<Vec<u8>> = None;
    loop {
        let Page { items, next } = collection.list(after.as_deref(), PAGE_ENTITIES).await?;
        items.into_iter().for_each(|item| show(item.value));
        match next {
            Some(next) => after = Some(next),
            None => return Ok(()),
        }
    }
}

/// Writes an entity whatever was there: `found` is what this writer, the only one, read before.
pub(crate) fn put<T: Entity>(
    collection: &Collection<T>,
    batch: &mut Batch,
    found: Option<&Versioned<T>>,
    value: &T,
) -> Result<()> {
    match found {
        Some(found) => collection.update(batch, found, value)?,
        None => collection.insert(batch, value)?,
    }
    Ok(())
}

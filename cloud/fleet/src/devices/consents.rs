//! The models of which a device may keep and send inputs. Beside the twin, whose record is full of other things, and part
//! of the same document: a change of either is a newer version.

use super::service::{active, subject};
use super::twin::Twin;
use crate::error::{Error, Result};
use crate::store::{self, ATTEMPTS, Store};
use flotilla_identity::{Actor, audit};
use flotilla_protocol::message::HardExamples;
use flotilla_protocol::{DeviceId, ModelName, limits};
use flotilla_storage::{Batch, Entity, Table};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;

/// The consents of one device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Consents {
    /// The device.
    pub(crate) device: DeviceId,
    /// What it may do, by model. They stay when a model gets another release.
    pub(crate) models: BTreeMap<ModelName, HardExamples>,
}

impl Entity for Consents {
    const TABLE: Table = Table::new("hard-consents");

    fn id(&self) -> Vec<u8> {
        self.device.as_str().into()
    }
}

/// The consents of a device, by model. For a document they are read after the twin: newer consents in an older version
/// come again with the next, older ones in a newer version would stay.
pub(crate) async fn consents(store: &Store, id: &DeviceId) -> Result<BTreeMap<ModelName, HardExamples>> {
    Ok(store.consents.get(id.as_str()).await?.map(|found| found.value.models).unwrap_or_default())
}

/// The consents by which a device may send something now: none of a device whose right has ended.
pub(crate) async fn senders_consents(
    store: &Store,
    id: &DeviceId,
) -> Result<BTreeMap<ModelName, HardExamples>> {
    let device = store.devices.get(id.as_str()).await?;
    if !device.is_some_and(|device| device.value.is_active()) {
        return Ok(BTreeMap::new());
    }
    let mut all = consents(store, id).await?;
    all.retain(|_, policy| policy.daily_bytes > 0);
    Ok(all)
}

/// The devices that have a consent for a model, whether they may connect or not.
pub(crate) async fn consented(store: &Store, model: &ModelName) -> Result<Vec<DeviceId>> {
    let mut devices = Vec::new();
    store::each(&store.consents, |kept| {
        if kept.models.contains_key(model) {
            devices.push(kept.device);
        }
    })
    .await?;
    Ok(devices)
}

/// The consents of all devices that may connect.
pub(crate) async fn all_consents(
    store: &Store,
) -> Result<Vec<(DeviceId, BTreeMap<ModelName, HardExamples>)>> {
    let mut kept = Vec::new();
    store::each(&store.consents, |consents| kept.push((consents.device, consents.models))).await?;
    kept.retain(|(_, models)| !models.is_empty());
    let mut all = Vec::with_capacity(kept.len());
    for (device, models) in kept {
        if store.devices.get(device.as_str()).await?.is_some_and(|device| device.value.is_active()) {
            all.push((device, models));
        }
    }
    Ok(all)
}

/// Lets a device keep and send inputs of a model, or takes that back. Says whether that is a change. Only a device that
/// may connect is given a consent; it is taken back from every one.
pub(crate) async fn consent(
    store: &Store,
    actor: &Actor,
    id: &DeviceId,
    model: &ModelName,
    policy: Option<&HardExamples>,
    now_ms: u64,
) -> Result<bool> {
    if let Some(problem) = policy.and_then(|policy| policy.check().err()) {
        return Err(Error::Invalid(problem.to_string()));
    }
    if policy.is_some() {
        active(store, id).await?;
    }
    for _ in 0..ATTEMPTS {
        let twin = store.twins.get(id.as_str()).await?.ok_or_else(|| Error::DeviceMissing(id.clone()))?;
        let found = store.consents.get(id.as_str()).await?;
        let mut models = found.as_ref().map(|found| found.value.models.clone()).unwrap_or_default();
        if models.get(model) == policy {
            return Ok(false);
        }
        match policy {
            Some(policy) => drop(models.insert(model.clone(), policy.clone())),
            None => drop(models.remove(model)),
        }
        if models.len() > limits::HARD_MODELS {
            return Err(Error::Busy { what: "models with hard examples", bound: limits::HARD_MODELS });
        }
        let mut newer: Twin = twin.value.clone();
        newer.changed(now_ms);
        let mut batch = Batch::new();
        store.twins.update(&mut batch, &twin, &newer)?;
        store::put(&store.consents, &mut batch, found.as_ref(), &Consents { device: id.clone(), models })?;
        let detail = json!({ "model": model, "hard_examples": policy, "desired_version": newer.version });
        audit::record(&mut batch, actor, "device:control", &subject(id), detail, now_ms)?;
        if store.try_commit(batch).await? {
            return Ok(true);
        }
    }
    Err(Error::Contended(format!("the consents of device {id}")))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;

    #[test]
    fn as_many_consents_as_are_possible_fit_into_a_record() {
        let policy = HardExamples {
            confidence_below_per_mille: Some(1000),
            margin_below_per_mille: Some(1000),
            shadow_disagreement: false,
            audit_per_million: 1_000_000,
            daily_bytes: limits::HARD_DAILY_BYTES,
            dataset: Some("d".repeat(limits::ID).parse().unwrap()),
        };
        let model = |n: usize| format!("{n:0>64}").parse().unwrap();
        let models = (0..limits::HARD_MODELS).map(|n| (model(n), policy.clone())).collect();
        let device = DeviceId::new("d".repeat(limits::ID)).unwrap();
        let size = serde_json::to_string(&Consents { device, models }).unwrap().len();
        assert!(size <= limits::RECORD, "{size}");
    }
}

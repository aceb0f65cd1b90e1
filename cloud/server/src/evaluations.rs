//! Accuracy counted on the devices' own endpoints, as operators record it.

use flotilla_identity::{Actor, Permission, audit};
use flotilla_protocol::{DeviceId, Digest, ModelName};
use flotilla_storage::{Batch, Collection, Entity, Records, Result, Table};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// How one device did with one release. The newest evaluation of a model on a device is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evaluation {
    /// The device.
    pub device: DeviceId,
    /// The model.
    pub model: ModelName,
    /// The release that answered.
    pub release: Digest,
    /// Samples.
    pub total: u64,
    /// Of these right.
    pub correct: u64,
    /// Milliseconds since 1970.
    pub at_ms: u64,
}

impl Entity for Evaluation {
    const TABLE: Table = Table::new("device-evaluations");

    fn id(&self) -> Vec<u8> {
        id_of(&self.device, &self.model)
    }
}

fn id_of(device: &DeviceId, model: &ModelName) -> Vec<u8> {
    // No id holds a zero byte.
    [device.as_str().as_bytes(), &[0], model.as_str().as_bytes()].concat()
}

/// The evaluations of all devices.
pub struct Evaluations {
    records: Arc<dyn Records>,
    collection: Collection<Evaluation>,
}

impl Evaluations {
    /// The evaluations in these records.
    pub fn new(records: Arc<dyn Records>) -> Self {
        Self { collection: Collection::new(records.clone()), records }
    }

    /// The evaluation of a model on a device, if it is of this release.
    pub async fn of(
        &self,
        device: &DeviceId,
        model: &ModelName,
        release: &Digest,
    ) -> Result<Option<Evaluation>> {
        let found = self.collection.get(id_of(device, model)).await?.map(|found| found.value);
        Ok(found.filter(|evaluation| evaluation.release == *release))
    }

    /// Records an evaluation in place of an older one.
    pub async fn record(&self, actor: &Actor, evaluation: Evaluation) -> Result<(), crate::http::Problem> {
        let mut batch = Batch::new();
        match self.collection.get(id_of(&evaluation.device, &evaluation.model)).await? {
            Some(held) => self.collection.update(&mut batch, &held, &evaluation)?,
            None => self.collection.insert(&mut batch, &evaluation)?,
        }
        let subject = format!("device/{}", evaluation.device);
        let detail = serde_json::json!({ "release": evaluation.release, "total": evaluation.total, "correct": evaluation.correct });
        let action = Permission::DeviceControl.as_str();
        audit::record(&mut batch, actor, action, &subject, detail, evaluation.at_ms)?;
        self.records.commit(batch).await?;
        Ok(())
    }
}

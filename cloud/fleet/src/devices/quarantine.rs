//! Quarantine: a device that fails one update after the other, or that an operator puts there, gets none until it is
//! released. It goes on serving what it has.

use super::device::Device;
use super::service::subject;
use crate::error::{Error, Result};
use crate::store::Store;
use crate::text::bounded;
use flotilla_identity::{Actor, audit};
use flotilla_protocol::{DeviceId, ErrorCode, ModelName, limits};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// Updates in a row that a device may fail.
const FAILURES: u32 = 3;

/// Why a device gets no updates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantine {
    /// Since when, in milliseconds since 1970.
    pub at_ms: u64,
    /// For people.
    pub reason: String,
}

impl Device {
    /// Takes note of the end of an update: why it failed, or that it did not. Says whether that brings the device into
    /// quarantine.
    pub(crate) fn updated(
        &mut self,
        failure: Option<(ErrorCode, &str)>,
        model: &ModelName,
        now_ms: u64,
    ) -> bool {
        let Some((code, detail)) = failure else {
            self.failed_updates = 0;
            return false;
        };
        self.failed_updates = self.failed_updates.saturating_add(1);
        let is_new = self.failed_updates >= FAILURES && self.quarantine.is_none();
        if is_new {
            let reason = format!(
                "{} updates in a row failed, the last one of model {model}: {detail} [{code}]",
                self.failed_updates
            );
            self.quarantine = Some(Quarantine { at_ms: now_ms, reason: bounded(&reason, limits::TEXT) });
        }
        is_new
    }
}

/// Gives a device no updates until it is released. Repeating it changes nothing.
pub(crate) async fn quarantine(
    store: &Store,
    actor: &Actor,
    id: &DeviceId,
    reason: &str,
    now_ms: u64,
) -> Result<()> {
    let reason = bounded(reason, limits::TEXT);
    let set = Quarantine { at_ms: now_ms, reason };
    change(store, actor, id, "device:quarantine", now_ms, |device| {
        if device.quarantine.is_none() {
            device.quarantine = Some(set.clone());
        }
    })
    .await
}

/// Lets a device have updates again. Repeating it changes nothing.
pub(crate) async fn release(store: &Store, actor: &Actor, id: &DeviceId, now_ms: u64) -> Result<()> {
    change(store, actor, id, "device:release", now_ms, |device| {
        device.quarantine = None;
        device.failed_updates = 0;
    })
    .await
}

async fn change(
    store: &Store,
    actor: &Actor,
    id: &DeviceId,
    action: &str,
    now_ms: u64,
    change: impl Fn(&mut Device),
) -> Result<()> {
    let changed = store
        .modify(&store.devices, id.as_str().as_bytes(), |device, batch| {
            let before = device.clone();
            change(device);
            if *device == before {
                return Ok(false);
            }
            let detail = json!({ "quarantine": device.quarantine, "before": before.quarantine });
            audit::record(batch, actor, action, &subject(id), detail, now_ms)?;
            Ok(true)
        })
        .await?;
    changed.map(drop).ok_or_else(|| Error::DeviceMissing(id.clone()))
}

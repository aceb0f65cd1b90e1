//! The end of a device's service. It is shut out as a revoked one is, and nothing is left that is wanted of it: no models, no
//! commands, no consents, no place in a static group. What it was and did stays on record under its id, which nobody gets
//! again.

use super::device::DeviceState;
use super::service::subject;
use crate::error::{Error, Result};
use crate::groups;
use crate::store::{ATTEMPTS, Store};
use crate::text::bounded;
use flotilla_identity::{Actor, audit};
use flotilla_protocol::message::CommandState;
use flotilla_protocol::{DeviceId, ErrorCode, limits};
use flotilla_storage::Batch;
use serde_json::json;

/// Things of one kind that the audit record names: it has its bound.
const NAMED: usize = 32;

/// Takes a device out of service, for good, all in one commit. Says whether that is a change. The caller ends its
/// connection.
pub(crate) async fn decommission(
    store: &Store,
    actor: &Actor,
    id: &DeviceId,
    reason: &str,
    now_ms: u64,
) -> Result<bool> {
    let (key, reason) = (id.as_str(), bounded(reason, limits::TEXT));
    for _ in 0..ATTEMPTS {
        let found = store.devices.get(key).await?.ok_or_else(|| Error::DeviceMissing(id.clone()))?;
        if matches!(found.value.state, DeviceState::Decommissioned { .. }) {
            return Ok(false);
        }
        let mut batch = Batch::new();
        let mut device = found.value.clone();
        device.quarantine = None;
        device.state =
            DeviceState::Decommissioned { at_ms: now_ms, by: actor.id.clone(), reason: reason.clone() };
        store.devices.update(&mut batch, &found, &device)?;
        let mut dropped = json!({});
        if let Some(twin) = store.twins.get(key).await? {
            let mut newer = twin.value.clone();
            dropped = json!({
                "models": newer.models.keys().take(NAMED).collect::<Vec<_>>(),
                "shadows": newer.shadows.keys().collect::<Vec<_>>(),
                "commands": newer.open_commands(now_ms).map(|command| command.id).collect::<Vec<_>>(),
            });
            newer.clear(now_ms);
            store.twins.update(&mut batch, &twin, &newer)?;
        }
        if let Some(history) = store.commands.get(key).await? {
            let detail = "the device was decommissioned".to_owned();
            let mut ended = history.value.clone();
            ended.give_up(&CommandState::Failed { code: ErrorCode::Revoked, detail }, now_ms);
            store.commands.update(&mut batch, &history, &ended)?;
        }
        if let Some(consents) = store.consents.get(key).await? {
            dropped["consents"] = json!(consents.value.models.keys().collect::<Vec<_>>());
            store.consents.delete(&mut batch, &consents)?;
        }
        if let Some(renewal) = store.renewals.get(key).await? {
            store.renewals.delete(&mut batch, &renewal)?;
        }
        let left = groups::leave_all(store, &mut batch, id).await?;
        dropped["groups"] = json!(left.iter().take(NAMED).collect::<Vec<_>>());
        let serials: Vec<_> = device.certificates.iter().map(|known| &known.serial).collect();
        let detail = json!({ "reason": reason, "serials": serials, "dropped": dropped });
        audit::record(&mut batch, actor, "device:decommission", &subject(id), detail, now_ms)?;
        if store.try_commit(batch).await? {
            return Ok(true);
        }
    }
    Err(Error::Contended(format!("device {id}")))
}

//! What an operator does to devices: each change in one commit with its audit record.

use super::device::{Device, DeviceState, Quarantine};
use crate::error::{Error, Result};
use crate::store::{self, Store};
use crate::text::bounded;
use flotilla_identity::{Actor, audit};
use flotilla_protocol::message::Settings;
use flotilla_protocol::{DeviceId, limits};
use serde_json::json;

/// The device, if it may connect: what is asked of another never reaches it.
pub(super) async fn active(store: &Store, id: &DeviceId) -> Result<Device> {
    let device = store.devices.get(id.as_str()).await?.ok_or_else(|| Error::DeviceMissing(id.clone()))?.value;
    if device.is_active() { Ok(device) } else { Err(device.refusal()) }
}

/// Every device that may connect.
pub(crate) async fn active_devices(store: &Store) -> Result<Vec<DeviceId>> {
    let mut active = Vec::new();
    store::each(&store.devices, |device| {
        if device.is_active() {
            active.push(device.id);
        }
    })
    .await?;
    Ok(active)
}

/// Takes a device's right to connect away, for good. The caller ends its connection.
pub(crate) async fn revoke(
    store: &Store,
    actor: &Actor,
    id: &DeviceId,
    reason: &str,
    now_ms: u64,
) -> Result<()> {
    let reason = bounded(reason, limits::TEXT);
    let revoked = store
        .modify(&store.devices, id.as_str().as_bytes(), |device, batch| {
            if !device.may_connect() {
                return Ok(false);
            }
            device.state =
                DeviceState::Revoked { at_ms: now_ms, by: actor.id.clone(), reason: reason.clone() };
            let serials: Vec<_> = device.certificates.iter().map(|known| &known.serial).collect();
            let detail = json!({ "reason": reason, "serials": serials });
            audit::record(batch, actor, "device:revoke", &subject(id), detail, now_ms)?;
            Ok(true)
        })
        .await?;
    revoked.map(drop).ok_or_else(|| Error::DeviceMissing(id.clone()))
}

/// Takes a device that waits into the fleet, or, for a reason, shuts it out for good. Says whether that is a change. The
/// caller ends the connection of one that is shut out.
pub(crate) async fn admit(
    store: &Store,
    actor: &Actor,
    id: &DeviceId,
    rejected: Option<&str>,
    now_ms: u64,
) -> Result<bool> {
    let reason = rejected.map(|reason| bounded(reason, limits::TEXT));
    let mut changed = false;
    let device = store
        .modify(&store.devices, id.as_str().as_bytes(), |device, batch| {
            let DeviceState::Waiting { since_ms } = device.state else {
                return match (&reason, &device.state) {
                    (None, DeviceState::Active) => Ok(false),
                    (None, _) => Err(device.refusal()),
                    (Some(_), _) => Err(Error::DeviceNotWaiting(id.clone())),
                };
            };
            changed = true;
            let (by, at_ms) = (actor.id.clone(), now_ms);
            let (action, state) = match reason.clone() {
                None => ("device:admit", DeviceState::Active),
                Some(reason) => ("device:refuse", DeviceState::Revoked { at_ms, by, reason }),
            };
            device.state = state;
            let detail = json!({ "reason": reason, "waited_ms": now_ms.saturating_sub(since_ms) });
            audit::record(batch, actor, action, &subject(id), detail, now_ms)?;
            Ok(true)
        })
        .await?;
    device.map(|_| changed).ok_or_else(|| Error::DeviceMissing(id.clone()))
}

/// Puts a device into quarantine for a reason, or without one releases it. Says whether that is a change. A rollout that has
/// told the device something is not touched.
pub(crate) async fn quarantine(
    store: &Store,
    actor: &Actor,
    id: &DeviceId,
    reason: Option<&str>,
    now_ms: u64,
) -> Result<bool> {
    let reason = reason.map(|reason| bounded(reason, limits::TEXT));
    let mut changed = false;
    let device = store
        .modify(&store.devices, id.as_str().as_bytes(), |device, batch| {
            if reason.is_some() && !device.is_active() {
                return Err(device.refusal());
            }
            changed = reason.is_some() != device.quarantine.is_some();
            if changed {
                let put = |reason| Quarantine { at_ms: now_ms, by: actor.id.clone(), reason };
                device.quarantine = reason.clone().map(put);
                device.failed_updates = 0;
                let action = if reason.is_some() { "device:quarantine" } else { "device:release" };
                audit::record(batch, actor, action, &subject(id), json!({ "reason": reason }), now_ms)?;
            }
            Ok(changed)
        })
        .await?;
    device.map(|_| changed).ok_or_else(|| Error::DeviceMissing(id.clone()))
}

/// Changes how a device behaves, from what it is now. Says whether that is a change.
pub(crate) async fn configure(
    store: &Store,
    actor: &Actor,
    id: &DeviceId,
    change: impl Fn(&Settings) -> Result<Settings>,
    now_ms: u64,
) -> Result<bool> {
    // What is set on a device before it is taken into the fleet would reach it at once.
    active(store, id).await?;
    let mut changed = false;
    let twin = store
        .modify(&store.twins, id.as_str().as_bytes(), |twin, batch| {
            let settings = change(&twin.settings)?;
            settings.check().map_err(|problem| Error::Invalid(problem.to_string()))?;
            changed = twin.configure(settings.clone(), now_ms);
            if changed {
                let detail = json!({ "settings": settings, "desired_version": twin.version });
                audit::record(batch, actor, "device:control", &subject(id), detail, now_ms)?;
            }
            Ok(changed)
        })
        .await?;
    twin.map(|_| changed).ok_or_else(|| Error::DeviceMissing(id.clone()))
}

pub(super) fn subject(id: &DeviceId) -> String {
    format!("device/{id}")
}

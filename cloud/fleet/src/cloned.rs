//! The copied folder that shows itself: a hello counter that does not rise, or a certificate that another holder of the
//! same folder has retired by rotating first.
//!
//! Both are signs, not proofs (a folder may have been restored from a backup), so nobody is locked out for them: the
//! device gets an event and a problem, the audit trail a record, once in a while however often it happens.

use crate::ca::Serial;
use crate::devices::Device;
use crate::error::{Error, Result};
use crate::ingest::DeviceEvents;
use crate::store::{self, ATTEMPTS, Store};
use flotilla_identity::{Actor, audit};
use flotilla_protocol::message::{EventKind, EventRecord};
use flotilla_protocol::{DeviceId, ErrorCode};
use flotilla_storage::Batch;
use serde_json::Value;

/// Adds event and audit record to the batch that writes the device, unless that was done lately. Says whether it did.
///
/// Events that cannot be read stand in the way of nothing else: the sign is raised when it shows next.
pub(crate) async fn raise(
    store: &Store,
    batch: &mut Batch,
    device: &mut Device,
    detail: &str,
    evidence: Value,
    now_ms: u64,
) -> Result<bool> {
    let id = device.id.clone();
    device.suspect(detail, now_ms);
    if !device.is_suspicion_due(now_ms) {
        return Ok(false);
    }
    let found = match store.events.get(id.as_str()).await {
        Ok(found) => found,
        Err(error) => {
            tracing::error!(device = %id, %error, detail, "the events of a device cannot be read, so none is raised");
            return Ok(false);
        }
    };
    let mut events = found.as_ref().map_or_else(|| DeviceEvents::of(&id), |found| found.value.clone());
    events.push(
        now_ms,
        now_ms,
        EventRecord {
            kind: EventKind::Cloned,
            model: None,
            release: None,
            code: Some(ErrorCode::Replayed),
            detail: detail.to_owned(),
        },
    );
    store::put(&store.events, batch, found.as_ref(), &events)?;
    let subject = format!("device/{id}");
    audit::record(batch, &Actor::system(), "device:cloned", &subject, evidence, now_ms)?;
    device.health.raised_ms = Some(now_ms);
    tracing::warn!(device = %id, detail, "a device may exist twice");
    Ok(true)
}

/// Takes note that somebody showed a certificate which does not count any more, if that says something.
pub(crate) async fn shown(store: &Store, id: &DeviceId, serial: &Serial, now_ms: u64) -> Result<()> {
    for _ in 0..ATTEMPTS {
        let Some(found) = store.devices.get(id.as_str()).await? else { return Ok(()) };
        let mut device = found.value.clone();
        if !device.shows_copy(serial) {
            return Ok(());
        }
        let detail = format!(
            "certificate {serial} was shown after it was retired: the device's folder may have been copied or restored"
        );
        let mut batch = Batch::new();
        let evidence = serde_json::json!({ "retired": serial.to_string() });
        // Whoever has the old certificate may try every second: only what is raised is written.
        if !raise(store, &mut batch, &mut device, &detail, evidence, now_ms).await? {
            return Ok(());
        }
        store.devices.update(&mut batch, &found, &device)?;
        if store.try_commit(batch).await? {
            return Ok(());
        }
    }
    Err(Error::Contended(format!("device {id}")))
}

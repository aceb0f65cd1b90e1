//! Slow work that only models need: loading a release, and clearing a slot.

use super::News;
use super::jobs::LatestLoad;
use crate::host::ModelHost;
use crate::intake::{Desk, blocking};
use flotilla_device::Fault;
use flotilla_device::update::Event;
use flotilla_protocol::message::SlotName;
use flotilla_protocol::{Digest, ModelName};
use std::sync::Arc;

pub(super) async fn load(
    desk: Desk,
    model: ModelName,
    host: Arc<ModelHost>,
    latest: LatestLoad,
    ticket: u64,
    slot: SlotName,
    release: Digest,
) {
    let (place, board) = (desk.slot(slot), desk.config.board.clone());
    let note = host.notes().of(&model);
    let installed = blocking(move || {
        let _noted = note.at_work();
        place.load(release, &board)
    })
    .await
    .and_then(|loaded| {
        let install = || host.install(model.clone(), release, slot, loaded);
        // A load that was overtaken ends without a word: its ticket is not awaited any more.
        latest.install(ticket, install).unwrap_or(Ok(())).map_err(|e| Fault::lasting(e.code(), e.to_string()))
    });
    let event = match installed {
        Ok(()) => Event::SwitchDone { ticket },
        Err(fault) => {
            tracing::error!(model = %model, slot = slot.as_str(), release = %release.short(), %fault, "not loaded");
            Event::LoadFailed { ticket, fault }
        }
    };
    desk.tell(event).await;
}

pub(super) async fn clear(desk: Desk, model: ModelName, slot: SlotName) {
    let place = desk.slot(slot);
    if let Err(fault) = blocking(move || place.clear()).await {
        tracing::warn!(model = %model, slot = slot.as_str(), %fault, "a slot is not cleared");
    }
    let _ = desk.news.send(News::Cleared(model)).await;
}

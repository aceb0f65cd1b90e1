//! Ingestion: what a device sends is acknowledged when it is durable, and folded after that.

use super::fold::{FoldPosition, Folder};
use super::frame::Frame;
use super::marks::{Head, Marks};
use crate::changes::Changes;
use crate::error::Result;
use crate::store::Store;
use flotilla_protocol::message::{Ack, TelemetryBatch};
use flotilla_protocol::{DeviceId, limits};
use flotilla_storage::Segments;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// How long folding waits after a failure before it begins again.
const RETRY: Duration = Duration::from_secs(5);
/// Frames of one page while marks are brought forward at the start.
const REPLAY_FRAMES: usize = 1024;

/// Takes in the records of all devices.
pub(crate) struct Ingest {
    store: Arc<Store>,
    segments: Segments,
    /// The marks of devices with frames that are not folded yet, and the last of these frames.
    ahead: Mutex<HashMap<DeviceId, (u64, Marks)>>,
    appended: Notify,
    changes: Changes,
}

/// The outcome of one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    /// What the device may forget.
    pub(crate) ack: Ack,
    /// Records that are missing without a word.
    pub(crate) missing: u64,
    /// Records over their bound.
    pub(crate) refused: u64,
}

impl Ingest {
    /// Brings the marks forward by what was appended but not folded.
    pub(crate) async fn open(store: Arc<Store>, segments: Segments, changes: Changes) -> Result<Self> {
        let ingest = Self { store, segments, ahead: Mutex::default(), appended: Notify::new(), changes };
        let position = ingest.position().await?.map_or(0, |found| found.value.next);
        let mut reader = ingest.segments.reader(position);
        loop {
            let page = reader.page(REPLAY_FRAMES, 8 * limits::MIB).await?;
            if page.is_empty() {
                break;
            }
            for (number, bytes) in page {
                match Frame::decode(&bytes) {
                    Ok(frame) => {
                        let mut marks = ingest.marks(&frame.device).await?;
                        marks.set(frame.epoch, frame.stream, frame.up_to);
                        ingest.ahead().insert(frame.device, (number, marks));
                    }
                    Err(error) => tracing::error!(number, %error, "a telemetry frame cannot be read"),
                }
            }
        }
        Ok(ingest)
    }

    fn ahead(&self) -> MutexGuard<'_, HashMap<DeviceId, (u64, Marks)>> {
        // Entries are replaced whole: the table is valid even after a panic.
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn position(&self) -> Result<Option<flotilla_storage::Versioned<FoldPosition>>> {
        Ok(self.store.fold.get(FoldPosition::ID).await?)
    }

    /// The marks of a device as of its last durable frame.
    ///
    /// Folding commits rollups before it forgets what is ahead of them, so looking at both in the opposite order
    /// never misses a frame.
    async fn marks(&self, device: &DeviceId) -> Result<Marks> {
        if let Some((_, marks)) = self.ahead().get(device) {
            return Ok(marks.clone());
        }
        Ok(self
            .store
            .rollups
            .get(device.as_str())
            .await?
            .map_or_else(Marks::default, |found| found.value.marks))
    }

    /// Makes the new records of a batch durable, and says what the device may forget then. The caller sees to it that
    /// batches of one device come one after the other.
    pub(crate) async fn store(
        &self,
        device: &DeviceId,
        batch: TelemetryBatch,
        head: Head,
        now_ms: u64,
    ) -> Result<Stored> {
        let (epoch, stream) = (batch.epoch, batch.stream);
        let mut marks = self.marks(device).await?;
        let applied = marks.apply(batch, head);
        let up_to = applied.up_to;
        let ack = Ack { epoch, stream, up_to, reported: None };
        let mut stored = Stored { ack, missing: applied.missing, refused: 0 };
        if applied.is_progress() {
            let frame = Frame::of(device.clone(), epoch, stream, applied, now_ms);
            stored.refused = frame.refused;
            let numbers = self.segments.append(vec![frame.encode()]).await?;
            marks.set(epoch, stream, up_to);
            self.ahead().insert(device.clone(), (numbers.start, marks));
            self.appended.notify_one();
        }
        Ok(stored)
    }

    /// Folds until stopped. What is left then is folded after the next start.
    pub(crate) async fn fold(&self, stop: CancellationToken) {
        loop {
            if let Err(error) = self.fold_until_idle(&stop).await {
                tracing::error!(%error, "telemetry is durable but cannot be folded now");
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(RETRY) => continue,
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.appended.notified() => {}
            }
        }
    }

    /// Folds everything that is durable.
    pub(super) async fn fold_until_idle(&self, stop: &CancellationToken) -> Result<()> {
        let position = self.position().await?;
        let next = position.as_ref().map_or(0, |found| found.value.next);
        let mut folder = Folder::new(self.segments.reader(next), position);
        while !stop.is_cancelled() {
            let Some(folded) = folder.step(&self.store).await? else { break };
            self.ahead().retain(|_, (number, _)| *number >= folded.next);
            self.segments.release(folded.next);
            folded.devices.iter().for_each(|device| self.changes.device(device));
        }
        Ok(())
    }

    /// Waits for running appends and gives the segments back.
    #[cfg(test)]
    pub(super) async fn close(self) {
        self.segments.close().await;
    }
}

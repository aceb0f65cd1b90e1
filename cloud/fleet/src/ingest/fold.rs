//! Folding: frames behind the position become rollups, exactly once.

use super::frame::Frame;
use super::rollup::Kept;
use crate::error::Result;
use crate::store::{self, Store};
use bytes::Bytes;
use flotilla_protocol::{DeviceId, ErrorCode, limits};
use flotilla_storage::{Batch, Entity, SegmentReader, Table, Versioned};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Frames that are folded into one commit.
const PAGE_FRAMES: usize = 256;
/// Bytes of these frames, about.
const PAGE_BYTES: usize = 4 * limits::MIB;
/// Devices in one commit: each has up to four records of at most 16 KiB.
const PAGE_DEVICES: usize = 64;

/// How far the frames are folded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FoldPosition {
    /// The first frame that is not folded.
    pub(crate) next: u64,
}

impl FoldPosition {
    pub(crate) const ID: &'static str = "telemetry";
}

impl Entity for FoldPosition {
    const TABLE: Table = Table::new("fold-positions");

    fn id(&self) -> Vec<u8> {
        Self::ID.into()
    }
}

/// One step of folding.
pub(super) struct Folded {
    /// Devices whose rollups have changed.
    pub(super) devices: Vec<DeviceId>,
    /// The first frame that is not folded now.
    pub(super) next: u64,
}

/// What has been read but not folded, because a commit was full.
pub(super) struct Folder {
    reader: SegmentReader,
    pending: std::collections::VecDeque<(u64, Bytes)>,
    position: Option<Versioned<FoldPosition>>,
}

impl Folder {
    pub(super) fn new(reader: SegmentReader, position: Option<Versioned<FoldPosition>>) -> Self {
        Self { reader, pending: Default::default(), position }
    }

    /// Folds the next frames; `None` where there are none. After an error the folder must be made anew.
    pub(super) async fn step(&mut self, store: &Store) -> Result<Option<Folded>> {
        if self.pending.is_empty() {
            self.pending.extend(self.reader.page(PAGE_FRAMES, PAGE_BYTES).await?);
        }
        let mut next = None;
        let mut frames: BTreeMap<DeviceId, Vec<Frame>> = BTreeMap::new();
        while let Some((number, bytes)) = self.pending.front() {
            match Frame::decode(bytes) {
                Ok(frame) => {
                    if frames.len() == PAGE_DEVICES && !frames.contains_key(&frame.device) {
                        break;
                    }
                    frames.entry(frame.device.clone()).or_default().push(frame);
                }
                // Written by us and checked by the segments: only a change of format gets here.
                Err(error) => {
                    tracing::error!(number, %error, "a telemetry frame cannot be read and is left out")
                }
            }
            next = Some(number + 1);
            self.pending.pop_front();
        }
        let Some(next) = next else { return Ok(None) };
        let devices: Vec<DeviceId> = frames.keys().cloned().collect();
        self.commit(store, frames, next).await?;
        Ok(Some(Folded { devices, next }))
    }

    /// Rollups and position in one commit. The position's precondition keeps a second folder from counting twice.
    async fn commit(
        &mut self,
        store: &Store,
        frames: BTreeMap<DeviceId, Vec<Frame>>,
        next: u64,
    ) -> Result<()> {
        let mut batch = Batch::new();
        for (device, frames) in frames {
            let id = device.as_str();
            let rollup = store.rollups.get(id).await?;
            let sample = store.samples.get(id).await?;
            let events = store.events.get(id).await?;
            let figures = store.figures.get(id).await?;
            let fresh = Kept::new(&device);
            let mut kept = Kept {
                rollup: rollup.as_ref().map_or(fresh.rollup, |found| found.value.clone()),
                sample: sample.as_ref().map(|found| found.value.clone()),
                events: events.as_ref().map_or(fresh.events, |found| found.value.clone()),
                figures: figures.as_ref().map_or(fresh.figures, |found| found.value.clone()),
            };
            let before = kept.clone();
            frames.into_iter().for_each(|frame| kept.fold(frame));
            store::put(&store.rollups, &mut batch, rollup.as_ref(), &kept.rollup)?;
            if kept.events != before.events {
                fits(&device, store::put(&store.events, &mut batch, events.as_ref(), &kept.events))?;
            }
            if kept.figures != before.figures {
                fits(&device, store::put(&store.figures, &mut batch, figures.as_ref(), &kept.figures))?;
            }
            if let Some(latest) = &kept.sample
                && kept.sample != before.sample
            {
                fits(&device, store::put(&store.samples, &mut batch, sample.as_ref(), latest))?;
            }
        }
        store::put(&store.fold, &mut batch, self.position.as_ref(), &FoldPosition { next })?;
        store.commit(batch).await?;
        self.position = store.fold.get(FoldPosition::ID).await?;
        Ok(())
    }
}

/// What one device says may be too large for a record in a way that nobody thought of: it is left out then, and all
/// other devices go on.
fn fits(device: &DeviceId, put: Result<()>) -> Result<()> {
    match put {
        Err(error) if error.code() == ErrorCode::TooLarge => {
            tracing::error!(%device, %error, "what a device sent is too large to be kept");
            Ok(())
        }
        put => put,
    }
}

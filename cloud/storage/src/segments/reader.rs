//! Reads durable frames in pages, from one segment into the next.

use super::Shared;
use crate::error::{Error, Result};
use crate::log::{Scan, segment_name};
use bytes::Bytes;
use std::sync::Arc;

/// A place in the segments. It keeps its segment's file open, so each frame is read from the disk once.
pub struct SegmentReader {
    shared: Arc<Shared>,
    next: u64,
    scan: Option<Scan>,
}

impl SegmentReader {
    pub(super) fn new(shared: Arc<Shared>, from: u64) -> Self {
        Self { shared, next: from, scan: None }
    }

    /// The number of the next frame this reader looks for.
    pub fn position(&self) -> u64 {
        self.next
    }

    /// The next durable frames with their numbers: up to `frames`, and no further frame once `bytes` are
    /// reached. Empty where nothing new is durable. Numbers that are skipped have been removed.
    pub async fn page(&mut self, frames: usize, bytes: usize) -> Result<Vec<(u64, Bytes)>> {
        let mut at = Self { shared: Arc::clone(&self.shared), next: self.next, scan: self.scan.take() };
        let path = self.shared.folder.path.clone();
        let (at, page) = tokio::task::spawn_blocking(move || {
            let page = at.read_page(frames, bytes);
            (at, page)
        })
        .await
        .map_err(|_| Error::Closed { path })?;
        *self = at;
        page
    }

    fn read_page(&mut self, frames: usize, bytes: usize) -> Result<Vec<(u64, Bytes)>> {
        let durable = self.shared.layout().next;
        let (mut page, mut size) = (Vec::new(), 0);
        while self.next < durable && page.len() < frames && size < bytes {
            let (number, payload) = self.read_frame()?;
            self.next = number + 1;
            size += payload.len();
            page.push((number, Bytes::from(payload)));
        }
        Ok(page)
    }

    /// The frame at the position, which is durable.
    fn read_frame(&mut self) -> Result<(u64, Vec<u8>)> {
        loop {
            let mut scan = match self.scan.take() {
                Some(scan) => scan,
                None => self.open_segment()?,
            };
            // The second try reads afresh what the first had read ahead before it was written.
            let frame = match scan.read()? {
                None => scan.read()?,
                found => found,
            };
            match frame {
                Some((number, payload)) => {
                    self.scan = Some(scan);
                    if number >= self.next {
                        return Ok((number, payload));
                    }
                }
                None if self.continues_elsewhere(&scan) => self.next = self.next.max(scan.next()),
                None => {
                    return Err(Error::corrupt(scan.path(), format!("frame {} cannot be read", scan.next())));
                }
            }
        }
    }

    /// Whether the segment is at its end: the next one starts there, or what follows has been removed.
    fn continues_elsewhere(&self, scan: &Scan) -> bool {
        let layout = self.shared.layout();
        let starts_another = scan.next() != scan.first() && layout.segments.contains(&scan.next());
        starts_another || layout.segments.first() > Some(&scan.next())
    }

    fn open_segment(&mut self) -> Result<Scan> {
        let fs = &self.shared.folder.fs;
        loop {
            let layout = self.shared.layout().clone();
            // A position before the oldest segment goes on there: what was before has been removed.
            let at = layout.segments.partition_point(|&first| first <= self.next).saturating_sub(1);
            let Some(&first) = layout.segments.get(at) else {
                return Err(Error::Closed { path: self.shared.folder.path.clone() });
            };
            let path = self.shared.frames_folder().join(segment_name(first));
            match Scan::open(&**fs, &path, first, self.shared.config.frame_bytes) {
                // The segment may have been removed since the layout was read.
                Err(_) if self.shared.layout().segments.first() > Some(&first) => {}
                Ok(scan) => {
                    self.next = self.next.max(first);
                    return Ok(scan);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

//! Append-only segments: what arrives faster than it is folded (telemetry) is kept here first, durably.
//!
//! [`Segments::append`] returns once the frames are durable; many callers share one sync. Frames are numbered
//! without gaps from 0. A consumer reads on from the number it has folded, commits its results, and then
//! says so with [`Segments::release`]; released segments are removed, oldest first, when room is needed.
//! At the bound with nothing released an append is refused, so devices keep their records: nothing that was
//! acknowledged is ever dropped to make room.

mod reader;
mod writer;

pub use reader::SegmentReader;

use crate::error::{Error, Result};
use crate::folder::Folder;
use crate::fs::{Fs, RealFs};
use crate::log::{Log, LogConfig};
use bytes::Bytes;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Semaphore, mpsc, oneshot};

const KIND: &str = "flotilla-segments";
const FORMAT: u32 = 1;
/// Appends that may wait for the writer.
const QUEUE: usize = 256;
/// Bytes that may wait for the writer.
const QUEUED_BYTES: usize = 32 * 1024 * 1024;

/// The bounds of a set of segments.
#[derive(Debug, Clone, Copy)]
pub struct SegmentsConfig {
    /// A segment is closed once it holds this much.
    pub segment_bytes: u64,
    /// All segments together.
    pub total_bytes: u64,
    /// One frame; also the bound of one append divided by 16.
    pub frame_bytes: usize,
    /// Segments grow by this many bytes ahead of the frames.
    pub grow_bytes: u64,
    /// Free bytes on the disk below which appends are refused.
    pub reserve_bytes: u64,
}

impl Default for SegmentsConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 16 << 20,
            total_bytes: 1 << 30,
            frame_bytes: 1 << 20,
            grow_bytes: 256 << 10,
            reserve_bytes: 16 << 20,
        }
    }
}

/// An append-only, bounded, durable sequence of frames.
#[derive(Debug)]
pub struct Segments {
    shared: Arc<Shared>,
    /// Gone once closed.
    requests: Mutex<Option<mpsc::Sender<writer::Request>>>,
    queued: Arc<Semaphore>,
    writer: Mutex<Option<std::thread::JoinHandle<()>>>,
}

/// What the writer has made durable, for readers.
#[derive(Debug)]
struct Shared {
    folder: Folder,
    config: SegmentsConfig,
    layout: Mutex<Layout>,
}

/// Where the frames are.
#[derive(Debug, Clone, Default)]
struct Layout {
    /// The first frame of each segment, oldest first.
    segments: Vec<u64>,
    /// The number the next frame gets; all before it are durable.
    next: u64,
    /// Frames before this one may be removed.
    released: u64,
}

impl Shared {
    fn layout(&self) -> MutexGuard<'_, Layout> {
        lock(&self.layout)
    }

    fn frames_folder(&self) -> PathBuf {
        self.folder.join("frames")
    }
}

impl Segments {
    /// Opens the segments in a folder, making it where it is missing. Blocks while it checks what is there.
    pub fn open(folder: &Path) -> Result<Self> {
        Self::open_with(Arc::new(RealFs), folder, SegmentsConfig::default())
    }

    /// [`Segments::open`] with its own file system and bounds.
    pub fn open_with(fs: Arc<dyn Fs>, folder: &Path, config: SegmentsConfig) -> Result<Self> {
        let folder = Folder::open(Arc::clone(&fs), folder, KIND, FORMAT)?;
        let frames = folder.join("frames");
        crate::folder::create_dir_durably(&*fs, &frames, &folder.path)?;
        let log_config = LogConfig {
            segment_bytes: config.segment_bytes,
            grow_bytes: config.grow_bytes,
            frame_bytes: config.frame_bytes,
        };
        let log = Log::open(fs, &frames, log_config, 0)?;
        let layout = Layout { segments: log.segments(), next: log.next(), released: 0 };
        let shared = Arc::new(Shared { folder, config, layout: Mutex::new(layout) });
        let (requests, received) = mpsc::channel(QUEUE);
        let writer = writer::start(Arc::clone(&shared), log, received)?;
        Ok(Self {
            shared,
            requests: Mutex::new(Some(requests)),
            queued: Arc::new(Semaphore::new(QUEUED_BYTES)),
            writer: Mutex::new(Some(writer)),
        })
    }

    /// Appends frames and returns their numbers once they are durable.
    ///
    /// After an error none of them is acknowledged; after a crash in the middle some of the first ones may
    /// still be found, so frames carry what a reader needs to see a repetition.
    pub async fn append(&self, frames: Vec<Bytes>) -> Result<Range<u64>> {
        let bytes = self.check(&frames)?;
        if frames.is_empty() {
            let next = self.next();
            return Ok(next..next);
        }
        let permit =
            Arc::clone(&self.queued).acquire_many_owned(bytes as u32).await.map_err(|_| self.closed())?;
        let (reply, answer) = oneshot::channel();
        let request = writer::Request { frames, reply, _permit: permit };
        let requests = lock(&self.requests).clone().ok_or_else(|| self.closed())?;
        requests.send(request).await.map_err(|_| self.closed())?;
        answer.await.map_err(|_| self.closed())?
    }

    /// Says that all frames before `up_to` are folded and may be removed when room is needed.
    ///
    /// This is not remembered over a restart: the consumer says it again from its own committed position.
    pub fn release(&self, up_to: u64) {
        let mut layout = self.shared.layout();
        layout.released = layout.released.max(up_to.min(layout.next));
    }

    /// The oldest frame that is kept.
    pub fn first(&self) -> u64 {
        let layout = self.shared.layout();
        layout.segments.first().copied().unwrap_or(layout.next)
    }

    /// The number the next frame gets; all before it are durable.
    pub fn next(&self) -> u64 {
        self.shared.layout().next
    }

    /// A reader of the durable frames from `from` on.
    pub fn reader(&self, from: u64) -> SegmentReader {
        SegmentReader::new(Arc::clone(&self.shared), from)
    }

    /// Ends writing once all running appends are answered and frees the folder; later appends are refused.
    /// Dropping does the same, blocking.
    pub async fn close(&self) {
        if let Some(writer) = self.take_writer() {
            // A writer that panicked has said so in the log already.
            let _ = tokio::task::spawn_blocking(move || writer.join()).await;
            self.shared.folder.release();
        }
    }

    /// Tells the writer to end once its queue is empty.
    fn take_writer(&self) -> Option<std::thread::JoinHandle<()>> {
        lock(&self.requests).take();
        lock(&self.writer).take()
    }

    fn check(&self, frames: &[Bytes]) -> Result<usize> {
        /// Frames of the largest size that fit into one append.
        const APPEND_FRAMES: usize = 16;
        let config = &self.shared.config;
        for frame in frames {
            if frame.is_empty() {
                return Err(Error::Invalid("an empty frame cannot be appended".into()));
            }
            check_size("a frame", frame.len(), config.frame_bytes)?;
        }
        let bytes = frames.iter().map(Bytes::len).sum::<usize>();
        check_size("an append", bytes, (config.frame_bytes * APPEND_FRAMES).min(QUEUED_BYTES))?;
        Ok(bytes)
    }

    fn closed(&self) -> Error {
        Error::Closed { path: self.shared.folder.path.clone() }
    }
}

impl Drop for Segments {
    fn drop(&mut self) {
        if let Some(writer) = self.take_writer()
            && writer.join().is_err()
        {
            tracing::error!(folder = %self.shared.folder.path.display(), "the segment writer panicked");
        }
    }
}

/// Every value kept under these locks is replaced whole, so it is valid even after a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn check_size(what: &str, size: usize, bound: usize) -> Result<()> {
    if size <= bound {
        return Ok(());
    }
    Err(Error::TooLarge { what: what.into(), size: size as u64, bound: bound as u64 })
}

#[cfg(test)]
mod tests;

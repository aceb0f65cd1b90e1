//! Bytes by digest over the link: performs what the download planner decides.
//!
//! One download has the link at a time, which bounds memory and keeps to the window that the cloud grants a device.
//! A download that has had its turn, or meets nothing but trouble, lets the next one have it. Limit and quiet hours
//! hold for all of them together.

use crate::clock::Clock;
use crate::link::Sender;
use crate::room::Rooms;
use flotilla_device::Fault;
use flotilla_device::download::{Download, Moment, Next, Pace, Verdict};
use flotilla_protocol::message::{Chunk, Reply, ReplyBody, Settings};
use flotilla_protocol::topic::Up;
use flotilla_protocol::{Digest, ErrorCode, codec, limits};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;

/// Troubles in a row after which a download lets others have a try.
pub const PATIENCE: u32 = 6;
/// How long a download keeps the link while others wait for it.
const TURN_MS: u64 = 10_000;
/// Chunks and refusals that may wait to be looked at.
const QUEUE: usize = 2 * limits::FETCH_WINDOW;

enum News {
    Chunk(Chunk),
    Refused(Reply),
    Link,
    Settings,
}

/// The way of fetches to the link and of chunks to the download that wants them.
#[derive(Clone)]
pub struct Fetcher {
    shared: Arc<Shared>,
    clock: Clock,
}

struct Shared {
    link: Mutex<Option<Sender>>,
    running: Mutex<Option<mpsc::Sender<News>>>,
    pace: Mutex<Pace>,
    rooms: Rooms,
    turn: Semaphore,
    /// Downloads that wait for their turn.
    waiting: AtomicUsize,
    ids: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why a download did not end well.
#[derive(Debug)]
pub enum Stopped {
    /// It is not wanted any more.
    Cancelled,
    /// It failed.
    Fault(Fault),
}

impl From<Fault> for Stopped {
    fn from(fault: Fault) -> Self {
        Stopped::Fault(fault)
    }
}

/// How a turn ended without a fault.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    Complete,
    Over,
}

/// What becomes of a download's chunks.
struct Sink<'a> {
    put: &'a mut (dyn FnMut(&Chunk) -> Result<(), Fault> + Send),
    progress: &'a mut (dyn FnMut(u64) + Send),
}

impl Fetcher {
    /// A fetcher without a link yet.
    pub fn new(clock: Clock) -> Self {
        let shared = Shared {
            link: Mutex::new(None),
            running: Mutex::new(None),
            pace: Mutex::default(),
            rooms: Rooms::default(),
            turn: Semaphore::new(1),
            waiting: AtomicUsize::new(0),
            ids: AtomicU64::new(0),
        };
        Self { shared: Arc::new(shared), clock }
    }

    /// Room on the disk that is promised to downloads.
    pub(crate) fn rooms(&self) -> &Rooms {
        &self.shared.rooms
    }

    /// A number for a question, never given twice.
    pub fn next_id(&self) -> u64 {
        self.shared.ids.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The link is up with this sender, or down.
    pub fn link(&self, sender: Option<Sender>) {
        lock(&self.shared.pace).window.reconnected();
        *lock(&self.shared.link) = sender;
        self.tell(News::Link);
    }

    /// What the operator wants of downloads from now on.
    pub fn configure(&self, settings: &Settings) {
        lock(&self.shared.pace).budget.configure(settings);
        self.tell(News::Settings);
    }

    /// A chunk came.
    pub fn chunk(&self, chunk: Chunk) {
        self.tell(News::Chunk(chunk));
    }

    /// A refusal came.
    pub fn refused(&self, reply: Reply) {
        self.tell(News::Refused(reply));
    }

    /// What finds no room was not asked for, or is asked for again: nothing waits here.
    fn tell(&self, news: News) {
        if let Some(running) = &*lock(&self.shared.running) {
            let _ = running.try_send(news);
        }
    }

    fn moment(&self) -> Moment {
        Moment { now_ms: self.clock.now_ms(), wall_ms: self.clock.believed_wall_ms(), random: rand::random() }
    }

    /// Fetches a document of which only digest and size are known.
    pub async fn document(
        &self,
        digest: Digest,
        bytes: usize,
        cancel: &CancellationToken,
    ) -> Result<Vec<u8>, Stopped> {
        let mut download = Download::document(digest, bytes as u64);
        loop {
            let mut content = vec![0; bytes];
            let mut put = |chunk: &Chunk| {
                let start = chunk.offset as usize;
                content[start..start + chunk.data.len()].copy_from_slice(&chunk.data);
                Ok(())
            };
            self.run(&mut download, &mut put, cancel, &mut |_| ()).await?;
            if Digest::of(&content) == digest {
                return Ok(content);
            }
            download.restart(&self.moment());
            give_up_if_hopeless(&download, "other bytes came than were asked for")?;
        }
    }

    /// Fetches what is missing of `download`; `put` stores verified chunks, `progress` hears of the bytes done.
    pub async fn run(
        &self,
        download: &mut Download,
        put: &mut (dyn FnMut(&Chunk) -> Result<(), Fault> + Send),
        cancel: &CancellationToken,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<(), Stopped> {
        let mut sink = Sink { put, progress };
        loop {
            if download.is_complete() {
                return Ok(());
            }
            let _turn = self.turn(cancel).await?;
            let (tell, mut news) = mpsc::channel(QUEUE);
            *lock(&self.shared.running) = Some(tell);
            let result = self.pump(download, &mut sink, cancel, &mut news).await;
            *lock(&self.shared.running) = None;
            download.disconnected();
            if result? == Turn::Complete {
                return Ok(());
            }
        }
    }

    /// Waits for the link; those that wait have it one after the other.
    async fn turn(&self, cancel: &CancellationToken) -> Result<SemaphorePermit<'_>, Stopped> {
        struct Waiting<'a>(&'a AtomicUsize);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        self.shared.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.shared.waiting);
        let turn = cancel.run_until_cancelled(self.shared.turn.acquire()).await;
        turn.ok_or(Stopped::Cancelled)?.map_err(|_| Stopped::Cancelled)
    }

    async fn pump(
        &self,
        download: &mut Download,
        sink: &mut Sink<'_>,
        cancel: &CancellationToken,
        news: &mut mpsc::Receiver<News>,
    ) -> Result<Turn, Stopped> {
        let mut last_refusal = String::from("no answer from the cloud");
        let turn_ends_ms = self.clock.now_ms().saturating_add(TURN_MS);
        loop {
            let shared = self.shared.waiting.load(Ordering::Relaxed) > 0;
            let over = shared && self.clock.now_ms() >= turn_ends_ms;
            if over && download.is_idle() && !download.is_complete() {
                return Ok(Turn::Over);
            }
            download.hold(over);
            let until = match self.ask(download) {
                Asked::Complete => return Ok(Turn::Complete),
                Asked::NoLink => None,
                Asked::Until(until_ms) if shared && !over => Some(until_ms.min(turn_ends_ms)),
                Asked::Until(until_ms) => Some(until_ms),
            };
            let timer = async {
                match until {
                    Some(until_ms) => tokio::time::sleep_until(self.clock.instant(until_ms)).await,
                    None => std::future::pending().await,
                }
            };
            let heard = tokio::select! {
                biased;
                () = cancel.cancelled() => return Err(Stopped::Cancelled),
                heard = news.recv() => heard,
                () = timer => None,
            };
            match heard {
                Some(News::Chunk(chunk)) => self.on_chunk(&chunk, download, sink, &mut last_refusal)?,
                Some(News::Refused(reply)) => self.on_refused(reply, download, &mut last_refusal)?,
                Some(News::Link) => download.disconnected(),
                Some(News::Settings) | None => {}
            }
            give_up_if_hopeless(download, &last_refusal)?;
        }
    }

    fn on_chunk(
        &self,
        chunk: &Chunk,
        download: &mut Download,
        sink: &mut Sink<'_>,
        last_refusal: &mut String,
    ) -> Result<(), Fault> {
        let verdict = download.accept(chunk, &mut lock(&self.shared.pace), &self.moment());
        match verdict {
            Verdict::Write => {
                (sink.put)(chunk)?;
                (sink.progress)(download.bytes_done());
            }
            Verdict::Wrong => {
                *last_refusal = format!("{} wrong chunks came", download.wrong());
                tracing::warn!(file = %chunk.digest.short(), offset = chunk.offset, "a wrong chunk was thrown away");
            }
            Verdict::Duplicate | Verdict::Foreign => {}
        }
        Ok(())
    }

    fn on_refused(
        &self,
        reply: Reply,
        download: &mut Download,
        last_refusal: &mut String,
    ) -> Result<(), Fault> {
        let ReplyBody::Error { code, detail } = reply.body else { return Ok(()) };
        if !download.refused(reply.id, &mut lock(&self.shared.pace), &self.moment()) {
            return Ok(());
        }
        *last_refusal = format!("the cloud refused: {detail} ({code})");
        // Asking again at once would be answered in the same way; the update machine tries again, ever later.
        let detail = format!("the cloud does not give out a file that the desired state names: {detail}");
        match code {
            ErrorCode::NotFound | ErrorCode::FetchDenied => Err(Fault::transient(code, detail)),
            _ => Ok(()),
        }
    }

    fn ask(&self, download: &mut Download) -> Asked {
        let link = lock(&self.shared.link).clone();
        let Some(link) = link else {
            download.disconnected();
            return if download.is_complete() { Asked::Complete } else { Asked::NoLink };
        };
        loop {
            let next = download.next(self.next_id(), &mut lock(&self.shared.pace), &self.moment());
            match next {
                Next::Complete => return Asked::Complete,
                Next::Wait { until_ms } => return Asked::Until(until_ms),
                // A fetch that does not get out is like one that is lost: its time runs out.
                Next::Fetch(fetch) => {
                    link.publish(Up::Fetch, codec::encode(&fetch));
                }
            }
        }
    }
}

enum Asked {
    Complete,
    NoLink,
    Until(u64),
}

fn give_up_if_hopeless(download: &Download, why: &str) -> Result<(), Stopped> {
    if download.troubles() < PATIENCE {
        return Ok(());
    }
    Err(Stopped::Fault(Fault::transient(ErrorCode::Network, why)))
}

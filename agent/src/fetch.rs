//! Bytes by digest over the link: performs what the download planner decides.
//!
//! One download runs at a time, which bounds memory and keeps to the window that the cloud grants a device. A
//! download that meets nothing but trouble gives its turn to the next one.

use crate::clock::Clock;
use crate::link::Sender;
use flotilla_device::Fault;
use flotilla_device::download::{Download, Next, Verdict, WINDOW};
use flotilla_protocol::message::{Chunk, Reply, ReplyBody};
use flotilla_protocol::topic::Up;
use flotilla_protocol::{Digest, ErrorCode, codec};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

/// Troubles in a row after which a download lets others have a try.
const PATIENCE: u32 = 6;
/// Chunks and refusals that may wait to be looked at.
const QUEUE: usize = 2 * WINDOW as usize;

enum News {
    Chunk(Chunk),
    Refused(Reply),
    Link,
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
    turn: Semaphore,
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

impl Fetcher {
    /// A fetcher without a link yet.
    pub fn new(clock: Clock) -> Self {
        let shared = Shared {
            link: Mutex::new(None),
            running: Mutex::new(None),
            turn: Semaphore::new(1),
            ids: AtomicU64::new(0),
        };
        Self { shared: Arc::new(shared), clock }
    }

    /// A number for a question, never given twice.
    pub fn next_id(&self) -> u64 {
        self.shared.ids.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The link is up with this sender, or down.
    pub fn link(&self, sender: Option<Sender>) {
        *lock(&self.shared.link) = sender;
        self.tell(News::Link);
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
            download.restart(self.clock.now_ms(), rand::random());
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
        if download.is_complete() {
            return Ok(());
        }
        let turn = cancel.run_until_cancelled(self.shared.turn.acquire()).await;
        let _turn = turn.ok_or(Stopped::Cancelled)?.map_err(|_| Stopped::Cancelled)?;
        let (tell, mut news) = mpsc::channel(QUEUE);
        *lock(&self.shared.running) = Some(tell);
        let result = self.pump(download, put, cancel, progress, &mut news).await;
        *lock(&self.shared.running) = None;
        download.disconnected();
        result
    }

    async fn pump(
        &self,
        download: &mut Download,
        put: &mut (dyn FnMut(&Chunk) -> Result<(), Fault> + Send),
        cancel: &CancellationToken,
        progress: &mut (dyn FnMut(u64) + Send),
        news: &mut mpsc::Receiver<News>,
    ) -> Result<(), Stopped> {
        let mut last_refusal = String::from("no answer from the cloud");
        loop {
            let until = match self.ask(download) {
                Asked::Complete => return Ok(()),
                Asked::NoLink => None,
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
            let now_ms = self.clock.now_ms();
            match heard {
                Some(News::Chunk(chunk)) => match download.accept(&chunk, now_ms, rand::random()) {
                    Verdict::Write => {
                        put(&chunk)?;
                        progress(download.bytes_done());
                    }
                    Verdict::Wrong => {
                        last_refusal = format!("{} wrong chunks came", download.wrong());
                        tracing::warn!(file = %chunk.digest.short(), offset = chunk.offset, "a wrong chunk was thrown away");
                    }
                    Verdict::Duplicate | Verdict::Foreign => {}
                },
                Some(News::Refused(reply)) => {
                    if let ReplyBody::Error { code, detail } = reply.body
                        && download.refused(reply.id, now_ms, rand::random())
                    {
                        last_refusal = format!("the cloud refused: {detail} ({code})");
                    }
                }
                Some(News::Link) => download.disconnected(),
                None => {}
            }
            give_up_if_hopeless(download, &last_refusal)?;
        }
    }

    fn ask(&self, download: &mut Download) -> Asked {
        let link = lock(&self.shared.link).clone();
        let Some(link) = link else {
            download.disconnected();
            return if download.is_complete() { Asked::Complete } else { Asked::NoLink };
        };
        loop {
            match download.next(self.next_id(), self.clock.now_ms(), rand::random()) {
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

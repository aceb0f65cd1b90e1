//! The one thread that commits: conditions, journal, sync, index, answer - a group at a time.

use super::encoding::{self, Operation};
use super::{Shared, recovery, snapshot};
use crate::batch::{Batch, Effect, Expect};
use crate::error::{Error, IoContext, Result};
use crate::key::Key;
use crate::lease;
use crate::log::Log;
use crate::records::{Commit, Record};
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

/// Batches that share one sync.
const GROUP: usize = 512;
/// Bytes of batches that share one sync.
const GROUP_BYTES: usize = 4 * 1024 * 1024;
/// Time between two attempts to make a broken index anew.
const MEND_PAUSE: Duration = Duration::from_secs(1);
/// While a snapshot is written the journal may grow to this many times the size at which one is begun;
/// then commits wait.
const JOURNAL_FACTOR: u64 = 4;

/// A batch that waits.
pub(super) struct Request {
    pub(super) batch: Batch,
    pub(super) bytes: usize,
    pub(super) reply: oneshot::Sender<Result<Commit>>,
    /// Its share of the bytes that may wait.
    pub(super) _permit: OwnedSemaphorePermit,
}

/// A snapshot that is being written.
struct Checkpoint {
    number: u64,
    thread: JoinHandle<Result<u64>>,
}

struct Committer {
    shared: Arc<Shared>,
    log: Log,
    snapshot_bytes: u64,
    checkpoint: Option<Checkpoint>,
    /// The size of the journal at which the next snapshot is begun.
    checkpoint_at: u64,
    /// Set while the index is broken: a durable commit may be missing from it.
    refusing: Option<Error>,
    /// When the index may be made anew, after an attempt that failed.
    mend_at: Instant,
}

/// Starts the thread. It ends when the sending side is gone and the queue is empty, and then closes the
/// store.
pub(super) fn start(
    shared: Arc<Shared>,
    log: Log,
    snapshot_bytes: u64,
    mut requests: mpsc::Receiver<Request>,
) -> Result<JoinHandle<Result<()>>> {
    let folder = shared.folder.path.clone();
    let checkpoint_at = shared.config.checkpoint_bytes.max(snapshot_bytes);
    let mend_at = Instant::now();
    let mut committer =
        Committer { shared, log, snapshot_bytes, checkpoint: None, checkpoint_at, refusing: None, mend_at };
    std::thread::Builder::new()
        .name("committer".into())
        .spawn(move || {
            while let Some(request) = requests.blocking_recv() {
                let mut bytes = request.bytes;
                let mut group = vec![request];
                while group.len() < GROUP
                    && bytes < GROUP_BYTES
                    && let Ok(request) = requests.try_recv()
                {
                    bytes += request.bytes;
                    group.push(request);
                }
                committer.commit(group);
                committer.keep_journal_short();
            }
            committer.close()
        })
        .at("start the committer of", &folder)
}

/// The accepted batches of a group.
#[derive(Default)]
struct Accepted {
    operations: Vec<Operation>,
    frames: Vec<Bytes>,
    /// Per batch that changes something: its version and its records.
    changed: Vec<(u64, Vec<(Key, bool)>)>,
}

/// The state that the next batch of a group sees: the index under the batches accepted before it.
struct Pending<'a> {
    shared: &'a Shared,
    changed: HashMap<Key, Option<Record>>,
}

impl Committer {
    fn commit(&mut self, group: Vec<Request>) {
        if self.shared.index.is_broken() {
            self.mend();
        }
        let mut accepted = Accepted::default();
        let mut pending = Pending { shared: &self.shared, changed: HashMap::new() };
        let next = self.log.next();
        let outcomes: Vec<Result<Commit>> =
            group.iter().map(|request| pending.accept(&request.batch, next, &mut accepted)).collect();
        let written = self.write(&accepted);
        if written.is_ok() {
            self.tell(accepted.changed);
        }
        for (request, outcome) in group.into_iter().zip(outcomes) {
            // A refusal may rest on a batch before it in the group, so it holds only if that was written.
            let answer = written.clone().and(outcome);
            // A caller that no longer waits has no use for the answer.
            let _ = request.reply.send(answer);
        }
    }

    /// Makes the accepted batches durable, then visible.
    fn write(&mut self, accepted: &Accepted) -> Result<()> {
        if let Some(refusing) = &self.refusing {
            return Err(refusing.clone());
        }
        if accepted.frames.is_empty() {
            return Ok(());
        }
        let folder = &self.shared.folder;
        let free = folder.fs.free_bytes(&folder.path).at("measure", &folder.path)?;
        if free < self.shared.config.reserve_bytes + self.log.cost(accepted.frames.iter().map(Bytes::len)) {
            return Err(Error::DiskFull { action: "commit to", path: folder.path.clone(), source: None });
        }
        self.log.append(&accepted.frames)?;
        let Err(error) = self.shared.index.apply(&accepted.operations, self.log.next() - 1) else {
            return Ok(());
        };
        let refusing = error.into_refusing(&folder.path);
        tracing::error!(error = %refusing, cause = ?refusing, "a durable commit could not be applied");
        self.refusing = Some(refusing);
        // What is in the journal is in the index that is made from it.
        self.mend();
        self.refusing.clone().map_or(Ok(()), Err)
    }

    /// Makes a broken index anew as soon as there is room: everything durable is in snapshot and journal.
    fn mend(&mut self) {
        let now = Instant::now();
        if now < self.mend_at {
            return;
        }
        self.mend_at = now + MEND_PAUSE;
        self.finish_checkpoint();
        let folder = &self.shared.folder;
        let needed = self.shared.config.reserve_bytes + self.snapshot_bytes + self.log.bytes();
        let mended = folder.fs.free_bytes(&folder.path).at("measure", &folder.path).and_then(|free| {
            if free < needed {
                return Err(Error::DiskFull { action: "repair", path: folder.path.clone(), source: None });
            }
            recovery::renew(folder, &self.shared.config, &self.log, &self.shared.index)
        });
        match mended {
            Ok(snapshot_bytes) => {
                tracing::warn!("the index failed and was made anew");
                self.snapshot_bytes = snapshot_bytes;
                self.refusing = None;
            }
            Err(error) => {
                tracing::error!(%error, cause = ?error, "the index has failed and cannot be made anew yet");
                self.refusing = Some(error);
            }
        }
    }

    fn tell(&self, changed: Vec<(u64, Vec<(Key, bool)>)>) {
        let watchers = self.shared.watchers.read().unwrap_or_else(PoisonError::into_inner);
        for (version, keys) in changed {
            watchers.tell(version, keys.into_iter());
        }
    }

    /// Begins a snapshot when the journal has grown long, and drops the journal before a finished one.
    fn keep_journal_short(&mut self) {
        let too_long = self.log.bytes() > self.checkpoint_at.saturating_mul(JOURNAL_FACTOR);
        if self.checkpoint.as_ref().is_some_and(|c| too_long || c.thread.is_finished()) {
            self.finish_checkpoint();
        }
        if self.checkpoint.is_none() && self.refusing.is_none() && self.log.bytes() > self.checkpoint_at {
            self.begin_checkpoint();
        }
    }

    fn begin_checkpoint(&mut self) {
        // The journal after the snapshot starts with a segment of its own.
        let begun = self.log.roll().and_then(|()| {
            let number = self.log.next() - 1;
            let shared = Arc::clone(&self.shared);
            let thread = std::thread::Builder::new().name("snapshot".into()).spawn(move || {
                let folder = &shared.folder;
                snapshot::write(&*folder.fs, &folder.path, &shared.config, &shared.index, number)
            });
            Ok(Checkpoint { number, thread: thread.at("start a snapshot of", &self.shared.folder.path)? })
        });
        match begun {
            Ok(checkpoint) => self.checkpoint = Some(checkpoint),
            Err(error) => self.postpone_checkpoint(&error),
        }
    }

    fn finish_checkpoint(&mut self) {
        let Some(Checkpoint { number, thread }) = self.checkpoint.take() else { return };
        let path = &self.shared.folder.path;
        let finished = thread.join().unwrap_or_else(|_| Err(Error::Closed { path: path.clone() }));
        let finished = finished.and_then(|bytes| {
            self.log.remove_before(number + 1)?;
            recovery::remove_snapshots_before(&self.shared.folder, number)?;
            Ok(bytes)
        });
        match finished {
            Ok(bytes) => {
                self.snapshot_bytes = bytes;
                self.checkpoint_at = self.shared.config.checkpoint_bytes.max(bytes);
            }
            Err(error) => self.postpone_checkpoint(&error),
        }
    }

    /// The journal still holds everything: try again once it has grown by as much again.
    fn postpone_checkpoint(&mut self, error: &Error) {
        tracing::warn!(%error, cause = ?error, "no snapshot could be written; the journal keeps growing");
        let step = self.shared.config.checkpoint_bytes.max(self.snapshot_bytes);
        self.checkpoint_at = self.log.bytes().saturating_add(step);
    }

    fn close(mut self) -> Result<()> {
        self.finish_checkpoint();
        self.shared.watchers.write().unwrap_or_else(PoisonError::into_inner).close();
        let closed = match self.refusing {
            // The index lacks a commit, or the disk fails: the next start makes it anew.
            Some(_) => {
                self.shared.index.discard();
                Ok(())
            }
            None => recovery::close(&self.shared.folder, &self.shared.index, self.log.next() - 1),
        };
        self.shared.folder.release();
        closed
    }
}

impl Pending<'_> {
    /// Checks a batch's conditions and takes its changes in.
    fn accept(&mut self, batch: &Batch, next: u64, accepted: &mut Accepted) -> Result<Commit> {
        for (name, token) in &batch.fences {
            let record = self.find(&lease::key(name))?;
            lease::check_fence(name, *token, record.as_ref())?;
        }
        for (key, change) in &batch.changes {
            if change.expect != Expect::Any {
                change.expect.check(key, self.find(key)?.map(|record| record.version))?;
            }
        }
        let version = next + accepted.frames.len() as u64;
        let mut frame = Vec::new();
        let mut keys = Vec::new();
        for (key, change) in &batch.changes {
            let value = match &change.effect {
                Effect::Keep => continue,
                Effect::Put(value) => Some(value.clone()),
                Effect::Delete => None,
            };
            keys.push((key.clone(), value.is_some()));
            self.changed.insert(key.clone(), value.clone().map(|value| Record { value, version }));
            let operation = Operation { key: key.encode(), version, value };
            encoding::encode(&mut frame, &operation);
            accepted.operations.push(operation);
        }
        if frame.is_empty() {
            // Nothing changes: all that was demanded is true as of the commit before.
            return Ok(Commit { version: version - 1 });
        }
        accepted.frames.push(frame.into());
        accepted.changed.push((version, keys));
        Ok(Commit { version })
    }

    fn find(&self, key: &Key) -> Result<Option<Record>> {
        match self.changed.get(key) {
            Some(pending) => Ok(pending.clone()),
            None => self.shared.index.get(&key.encode()),
        }
    }
}

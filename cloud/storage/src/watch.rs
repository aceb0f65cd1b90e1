//! News of committed changes, bounded: who is too slow is told to read again.

use crate::key::{Key, Range};
use std::sync::Arc;
use tokio::sync::broadcast::{self, error::RecvError};

/// Commits a watcher may be behind.
const BACKLOG: usize = 1024;
/// Commits that change more records than this are told as "read again": the backlog stays small.
const KEYS: usize = 64;

/// What a watcher learns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// A record was written.
    Put {
        /// Which.
        key: Key,
        /// Its version now.
        version: u64,
    },
    /// A record was removed.
    Deleted {
        /// Which.
        key: Key,
        /// The commit that removed it.
        version: u64,
    },
    /// Changes were missed: read the range again.
    Lagged,
}

/// The changes of one commit.
#[derive(Debug)]
struct Changes {
    version: u64,
    /// Each changed record, and whether it is there now. None: more than are worth telling one by one.
    keys: Option<Vec<(Key, bool)>>,
}

/// Tells watchers about commits. Sending never waits.
#[derive(Debug)]
pub(crate) struct Watchers {
    sender: Option<broadcast::Sender<Arc<Changes>>>,
}

impl Watchers {
    pub(crate) fn new() -> Self {
        Self { sender: Some(broadcast::channel(BACKLOG).0) }
    }

    /// Tells about one commit: its records, and whether each is there now.
    pub(crate) fn tell(&self, version: u64, keys: impl ExactSizeIterator<Item = (Key, bool)>) {
        let Some(sender) = &self.sender else { return };
        if sender.receiver_count() == 0 {
            return;
        }
        let keys = (keys.len() <= KEYS).then(|| keys.collect());
        // That the last watcher has gone meanwhile is fine.
        let _ = sender.send(Arc::new(Changes { version, keys }));
    }

    /// A new watcher; its watch ends at once if the store is closed.
    pub(crate) fn watch(&self, range: Range) -> Watch {
        let receiver = match &self.sender {
            Some(sender) => sender.subscribe(),
            None => broadcast::channel(1).1,
        };
        Watch { receiver, range, pending: None }
    }

    /// Ends all watches.
    pub(crate) fn close(&mut self) {
        self.sender = None;
    }
}

/// Changes within a range since the watch was made. Watch first, then read: nothing is missed in between.
#[derive(Debug)]
pub struct Watch {
    receiver: broadcast::Receiver<Arc<Changes>>,
    range: Range,
    /// A commit of which this many records have been looked at.
    pending: Option<(Arc<Changes>, usize)>,
}

impl Watch {
    /// The next change, in the order of commits. None once the store is closed. Safe to cancel.
    pub async fn next(&mut self) -> Option<News> {
        loop {
            if let Some(news) = self.next_of_pending() {
                return Some(news);
            }
            match self.receiver.recv().await {
                Ok(changes) => self.pending = Some((changes, 0)),
                Err(RecvError::Lagged(_)) => return Some(News::Lagged),
                Err(RecvError::Closed) => return None,
            }
        }
    }

    fn next_of_pending(&mut self) -> Option<News> {
        let (changes, seen) = self.pending.as_mut()?;
        let Some(keys) = &changes.keys else {
            self.pending = None;
            return Some(News::Lagged);
        };
        while let Some((key, there)) = keys.get(*seen) {
            *seen += 1;
            if self.range.contains(key) {
                let (key, version) = (key.clone(), changes.version);
                return Some(if *there {
                    News::Put { key, version }
                } else {
                    News::Deleted { key, version }
                });
            }
        }
        self.pending = None;
        None
    }
}

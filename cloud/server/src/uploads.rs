//! Files that somebody has sent and that wait to be looked at and imported. They are gone after an hour and when the control
//! plane ends: an import that was asked for has its own copy.

use crate::http::spool::Spool;
use flotilla_protocol::limits;
use rand::Rng;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Semaphore;

/// Files that wait at a time.
pub(crate) const HELD: usize = 16;
/// How long one waits, in milliseconds.
pub(crate) const HELD_MS: u64 = 60 * 60 * 1000;
/// Models that are looked at at a time, jobs aside.
pub(crate) const LOOKS: usize = 2;
/// Largest file.
pub(crate) const BYTES: u64 = flotilla_import::MAX_BYTES as u64;

/// The files that wait.
pub struct Uploads {
    folder: PathBuf,
    held: Mutex<BTreeMap<String, Held>>,
    /// A permit a model that is looked at.
    pub(crate) looks: Arc<Semaphore>,
}

/// A file that waits. It goes with its last holder.
#[derive(Clone)]
pub(crate) struct Held {
    pub(crate) spool: Arc<Spool>,
    /// What it was called where it comes from.
    pub(crate) name: String,
    pub(crate) bytes: u64,
    pub(crate) expires_at_ms: u64,
}

impl Uploads {
    /// Nothing yet, in this folder.
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self { folder, held: Mutex::default(), looks: Arc::new(Semaphore::new(LOOKS)) }
    }

    /// Where files are received.
    pub(crate) fn folder(&self) -> &PathBuf {
        &self.folder
    }

    /// Whether one more can wait. Those whose time is over go.
    pub(crate) fn has_room(&self, now_ms: u64) -> bool {
        let mut held = self.held();
        held.retain(|_, file| file.expires_at_ms > now_ms);
        held.len() < HELD
    }

    /// Keeps a file; gives its id. None where there is no room any more.
    pub(crate) fn hold(&self, spool: Spool, name: String, bytes: u64, now_ms: u64) -> Option<(String, Held)> {
        let id = format!("upload-{}", hex::encode(rand::rng().random::<[u8; 16]>()));
        let file = Held { spool: Arc::new(spool), name, bytes, expires_at_ms: now_ms + HELD_MS };
        let mut held = self.held();
        if held.len() >= HELD {
            return None;
        }
        held.insert(id.clone(), file.clone());
        Some((id, file))
    }

    /// The file of this id.
    pub(crate) fn find(&self, id: &str, now_ms: u64) -> Option<Held> {
        if id.len() > limits::ID {
            return None;
        }
        self.held().get(id).filter(|file| file.expires_at_ms > now_ms).cloned()
    }

    /// Forgets a file; says whether there was one.
    pub(crate) fn forget(&self, id: &str) -> bool {
        self.held().remove(id).is_some()
    }

    fn held(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! Inputs that the agent fetches itself: files that are dropped into a folder, and frames of cameras. They are predicted
//! by the models that serve, through the same places in their queues as requests of the local endpoint, and the results
//! are written as JSON lines.
//!
//! - [`config`]: `[[folder]]` and `[[stream]]` of `agent.toml`.
//! - `folder`: exactly one line for each file; `stream`: the newest frame at a set rate.
//! - `log`: files of lines within a bound; `line`: what a line says.
//!
//! All of them together predict [`TURNS`] inputs at once, so whoever asks the local endpoint finds a place.

pub mod config;
mod folder;
mod line;
mod log;
mod ready;
mod stream;

use crate::clock::Clock;
use crate::folder::{FEEDS, Folder, RESULTS};
use crate::host::ModelHost;
use config::{FolderFeed, StreamFeed};
use flotilla_device::Fault;
use flotilla_protocol::ErrorCode;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Inputs of all feeds that are read and predicted at once.
pub const TURNS: usize = 2;
/// What feeds have to say and nobody has heard yet; beyond it only the log says it.
const SAID: usize = 64;
/// A feed that does not work is said once in so long.
const SAY_MS: u64 = 10 * 60 * 1_000;
/// Time for what is being predicted when the agent stops.
const GRACE: Duration = Duration::from_secs(5);

/// What a feed has to say: which one, and why it does not work.
pub(crate) struct Said {
    pub(crate) feed: String,
    pub(crate) fault: Fault,
}

/// Why a feed does not work.
#[derive(Clone, Debug, Serialize)]
struct Problem {
    code: ErrorCode,
    detail: String,
}

impl From<&Fault> for Problem {
    fn from(fault: &Fault) -> Self {
        Self { code: fault.code, detail: fault.detail.clone() }
    }
}

/// What all feeds work with.
struct Shared {
    host: Arc<ModelHost>,
    clock: Clock,
    turns: Arc<Semaphore>,
    said: mpsc::Sender<Said>,
    shutdown: CancellationToken,
}

impl Shared {
    fn say(&self, feed: String, fault: Fault) {
        tracing::warn!(feed, %fault, "a feed does not work");
        let _ = self.said.try_send(Said { feed, fault });
    }

    /// Waits; false if the agent stops meanwhile.
    async fn pause(&self, ms: u64) -> bool {
        self.shutdown.run_until_cancelled(tokio::time::sleep(Duration::from_millis(ms))).await.is_some()
    }
}

/// What `/status` says of one feed, kept by the feed.
type Shown<T> = Arc<Mutex<T>>;

fn update<T>(shown: &Shown<T>, change: impl FnOnce(&mut T)) {
    change(&mut shown.lock().unwrap_or_else(PoisonError::into_inner));
}

/// The feeds of a running agent.
pub(crate) struct Feeds {
    tasks: JoinSet<()>,
    shown: Arc<AllShown>,
    said: mpsc::Receiver<Said>,
}

/// What `/status` says of all feeds.
pub(crate) struct AllShown {
    folders: BTreeMap<String, Shown<folder::Status>>,
    streams: BTreeMap<String, Shown<stream::Status>>,
}

impl AllShown {
    /// Completes the document of `/status`.
    pub(crate) fn complete(&self, status: &mut Value) {
        fn all<T: Serialize>(of: &BTreeMap<String, Shown<T>>) -> Value {
            let one = |shown: &Shown<T>| json!(*shown.lock().unwrap_or_else(PoisonError::into_inner));
            Value::Object(of.iter().map(|(name, shown)| (name.clone(), one(shown))).collect())
        }
        if let Some(status) = status.as_object_mut() {
            status.insert("folders".to_owned(), all(&self.folders));
            status.insert("streams".to_owned(), all(&self.streams));
        }
    }
}

impl Feeds {
    /// Starts the feeds; they run until `shutdown`.
    pub(crate) fn start(
        folders: &[FolderFeed],
        streams: &[StreamFeed],
        home: &Folder,
        host: &Arc<ModelHost>,
        clock: &Clock,
        shutdown: CancellationToken,
    ) -> Self {
        let (sender, said) = mpsc::channel(SAID);
        let turns = Arc::new(Semaphore::new(TURNS));
        let (host, clock) = (Arc::clone(host), clock.clone());
        let shared = Arc::new(Shared { host, clock, turns, said: sender, shutdown });
        let mut tasks = JoinSet::new();
        let mut shown = AllShown { folders: BTreeMap::new(), streams: BTreeMap::new() };
        for feed in folders {
            let status = Shown::default();
            shown.folders.insert(feed.name.clone(), Arc::clone(&status));
            let places = folder::Places {
                output: feed.output(&home.path(RESULTS)),
                kept: home.path(FEEDS).join(format!("{}.kept", feed.name)),
                trial: home.path(FEEDS).join(format!("{}.trial", feed.name)),
            };
            tasks.spawn(folder::run(feed.clone(), places, Arc::clone(&shared), status));
        }
        for feed in streams {
            let status = Shown::default();
            shown.streams.insert(feed.name.clone(), Arc::clone(&status));
            tasks.spawn(stream::run(feed.clone(), Arc::clone(&shared), status));
        }
        Self { tasks, shown: Arc::new(shown), said }
    }

    /// What `/status` says of them.
    pub(crate) fn shown(&self) -> Arc<AllShown> {
        Arc::clone(&self.shown)
    }

    /// The next thing that a feed has to say; none where there are no feeds.
    pub(crate) async fn said(&mut self) -> Option<Said> {
        self.said.recv().await
    }

    /// Waits, within a bound, until what is being predicted has its line.
    pub(crate) async fn close(mut self) {
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(GRACE, all).await.is_err() {
            tracing::warn!("feeds were cut off at shutdown");
        }
    }
}

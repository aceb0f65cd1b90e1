//! Slow work of one model. Pieces of work follow one another and never overlap, so that two never write to one slot;
//! a load that was overtaken by a later one never gets to serve.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The running work of a model.
#[derive(Default)]
pub(super) struct Jobs {
    cancel: CancellationToken,
    work: Option<JoinHandle<()>>,
    load: Option<JoinHandle<()>>,
    latest: LatestLoad,
}

/// Which load may install what it loaded.
#[derive(Clone, Default)]
pub(super) struct LatestLoad(Arc<Mutex<u64>>);

impl LatestLoad {
    fn lock(&self) -> MutexGuard<'_, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does `install` if no later load, nor a stop, was asked for; none of these comes in between.
    pub(super) fn install<T>(&self, ticket: u64, install: impl FnOnce() -> T) -> Option<T> {
        let latest = self.lock();
        (*latest == ticket).then(install)
    }
}

impl Jobs {
    /// Ends fetches and probes as soon as they notice.
    pub(super) fn cancel(&mut self) {
        self.cancel.cancel();
        self.cancel = CancellationToken::new();
    }

    /// Starts work after all earlier work has ended.
    pub(super) fn work<F>(&mut self, work: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let work = work(self.cancel.clone());
        self.work = Some(tokio::spawn(after(self.work.take(), work)));
    }

    /// Starts a load after the one before has ended.
    pub(super) fn load<F>(&mut self, ticket: u64, load: impl FnOnce(LatestLoad) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        *self.latest.lock() = ticket;
        let load = load(self.latest.clone());
        self.load = Some(tokio::spawn(after(self.load.take(), load)));
    }

    /// Does `stop`; no load asked for before installs anything after it.
    pub(super) fn stop(&mut self, stop: impl FnOnce()) {
        let mut latest = self.latest.lock();
        *latest = u64::MAX;
        stop();
    }
}

async fn after(earlier: Option<JoinHandle<()>>, work: impl Future<Output = ()>) {
    if let Some(Err(error)) = async { Some(earlier?.await) }.await {
        tracing::error!(%error, "a piece of work ended badly");
    }
    work.await;
}

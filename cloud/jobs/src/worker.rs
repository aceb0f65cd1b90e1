//! The worker: takes queued jobs under a lease and runs each in a child process.

use crate::attempt::{Attempt, record_end};
use crate::error::{Error, Result};
use crate::folder;
use crate::handler::Handler;
use crate::job::{ACTIVE, Job, JobState, PHASE};
use crate::keeper::Keeper;
use crate::process::Spawner;
use crate::queue::{Queue, blocking};
use crate::state::{self, Event};
use flotilla_identity::now_ms;
use flotilla_protocol::JobId;
use flotilla_storage::{Batch, Lease, Versioned};
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;

/// Waiting jobs of one kind that are looked at.
const LOOK_AT: usize = 16;
/// How often jobs are looked for although nothing has changed: for leases that have expired.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How long running attempts may take to give their jobs back when the worker stops.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// How a worker works.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// The program of child processes.
    pub program: PathBuf,
    /// Its arguments; the job's folder is added as the last.
    pub args: Vec<OsString>,
    /// Who holds the leases: the same after a restart of this worker, another than every other worker. So a
    /// restarted worker continues at once, and others when the lease has expired.
    pub holder: String,
    /// Jobs at a time.
    pub slots: usize,
    /// How long a lease lasts without being renewed.
    pub lease: Duration,
    /// After a request to cancel: how long until the child gets a signal, and then until it is killed.
    pub cancel_grace: Duration,
}

impl WorkerConfig {
    /// One job at a time in children of this program.
    pub fn new(program: impl Into<PathBuf>, args: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        Self {
            program: program.into(),
            args: args.into_iter().map(Into::into).collect(),
            holder: "server".to_owned(),
            slots: 1,
            lease: Duration::from_secs(30),
            cancel_grace: Duration::from_millis(400),
        }
    }
}

/// A worker. Nothing happens until [`Worker::run`].
pub struct Worker {
    queue: Queue,
    handlers: BTreeMap<String, Arc<dyn Handler>>,
    config: Arc<WorkerConfig>,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("kinds", &self.handlers.keys()).field("config", &self.config).finish()
    }
}

/// The running attempts.
struct Running {
    tasks: JoinSet<()>,
    jobs: HashMap<Id, JobId>,
}

impl Worker {
    /// A worker of this queue.
    pub fn new(queue: Queue, config: WorkerConfig) -> Self {
        Self { queue, handlers: BTreeMap::new(), config: Arc::new(config) }
    }

    /// Also takes jobs of this kind. Jobs of other kinds stay in the queue.
    #[must_use]
    pub fn with(mut self, kind: &str, handler: impl Handler + 'static) -> Self {
        self.handlers.insert(kind.to_owned(), Arc::new(handler));
        self
    }

    /// Works until `stop`; then gives running jobs back to the queue. Dropping the future kills the children and
    /// leaves their jobs to be found by the next worker.
    pub async fn run(self, stop: CancellationToken) -> Result<()> {
        let root: &Path = self.queue.folder();
        let folder = root.to_path_buf();
        let made = blocking(move || std::fs::create_dir_all(folder)).await;
        made.map_err(Error::io("create", root))?;
        let spawner = Arc::new(Spawner::start().map_err(Error::io("start children for", root))?);
        let mut running = Running { tasks: JoinSet::new(), jobs: HashMap::new() };
        let mut news = self.queue.watch_all();
        let mut looks = tokio::time::interval(LOOK_EVERY.min(self.config.lease));
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = looks.tick() => self.logged("recover jobs", self.recover(&running).await),
                ended = running.tasks.join_next_with_id(), if !running.tasks.is_empty() => {
                    let (id, panicked) = match ended {
                        Some(Ok((id, ()))) => (id, false),
                        Some(Err(error)) => (error.id(), error.is_panic()),
                        None => continue,
                    };
                    let job = running.jobs.remove(&id);
                    if panicked {
                        tracing::error!(?job, "a fault in a job's handler: the job is taken up again");
                        self.logged("recover jobs", self.recover(&running).await);
                    }
                }
                changed = news.next() => if changed.is_none() { break },
            }
            let filled = self.fill(&mut running, &spawner, &stop).await;
            self.logged("take jobs", filled);
        }
        stop.cancel();
        let all = async { while running.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_WITHIN, all).await.is_err() {
            tracing::warn!("some jobs could not be given back: the next start takes them up");
        }
        Ok(())
    }

    fn logged(&self, what: &str, result: Result<()>) {
        if let Err(error) = result {
            tracing::warn!(%error, "could not {what}: trying again");
        }
    }

    /// Takes jobs as long as there is room for them.
    async fn fill(
        &self,
        running: &mut Running,
        spawner: &Arc<Spawner>,
        stop: &CancellationToken,
    ) -> Result<()> {
        if running.tasks.len() >= self.config.slots {
            return Ok(());
        }
        let mut waiting = Vec::new();
        for kind in self.handlers.keys() {
            waiting.extend(self.queue.jobs.lookup(PHASE, kind, None, LOOK_AT).await?.items);
        }
        waiting.sort_by(|a, b| a.value.id.cmp(&b.value.id));
        for found in waiting {
            if running.tasks.len() >= self.config.slots {
                break;
            }
            let id = found.value.id.clone();
            if running.jobs.values().any(|job| *job == id) {
                continue;
            }
            if let Some((lease, job)) = self.take(&id).await?
                && let Some(handler) = self.handlers.get(&job.value.kind)
            {
                let (ttl, stop) = (self.config.lease, stop.clone());
                let attempt = Attempt {
                    keeper: Keeper::start(self.queue.clone(), id.clone(), lease.clone(), ttl, stop),
                    queue: self.queue.clone(),
                    handler: Arc::clone(handler),
                    config: Arc::clone(&self.config),
                    spawner: Arc::clone(spawner),
                    lease,
                    job,
                };
                let task = running.tasks.spawn(attempt.run());
                running.jobs.insert(task.id(), id);
            }
        }
        Ok(())
    }

    /// Begins an attempt in the records, if the job still waits and nobody else takes it.
    async fn take(&self, id: &JobId) -> Result<Option<(Lease, Versioned<Job>)>> {
        let Some(lease) = self.lease(id).await? else { return Ok(None) };
        let found = self.queue.find(id).await?;
        if found.value.state == JobState::Queued {
            match self.change(&found, Event::Start, &lease, false).await? {
                Some(job) => return Ok(Some((lease, job))),
                None => tracing::debug!(job = %id, "somebody else changed the job"),
            }
        }
        self.queue.records.release_lease(&lease).await?;
        Ok(None)
    }

    /// Finds jobs whose worker has died, and puts them back into the queue or to their end.
    async fn recover(&self, running: &Running) -> Result<()> {
        let active = self.queue.jobs.lookup(PHASE, ACTIVE, None, flotilla_storage::PAGE_ENTITIES).await?;
        for found in active.items {
            let id = &found.value.id;
            if running.jobs.values().any(|job| job == id) {
                continue;
            }
            let Some(lease) = self.lease(id).await? else { continue };
            let found = self.queue.find(id).await?;
            if found.value.state.is_active() {
                tracing::warn!(job = %id, attempt = found.value.attempt, "the job's worker has died");
                self.change(&found, Event::Lose, &lease, true).await?;
                let path = folder::of_job(self.queue.folder(), id);
                blocking(move || folder::remove(&path)).await?;
            }
            self.queue.records.release_lease(&lease).await?;
        }
        Ok(())
    }

    async fn lease(&self, id: &JobId) -> Result<Option<Lease>> {
        let (name, config) = (format!("job/{id}"), &self.config);
        Ok(self.queue.records.acquire_lease(&name, &config.holder, config.lease, now_ms()).await?)
    }

    /// Commits what happened to a job. None if somebody else was faster.
    async fn change(
        &self,
        found: &Versioned<Job>,
        event: Event,
        lease: &Lease,
        ends: bool,
    ) -> Result<Option<Versioned<Job>>> {
        let next = state::step(&found.value, event, now_ms())
            .map_err(|source| Error::WrongState { id: found.value.id.clone(), source })?;
        let mut batch = Batch::new();
        batch.fence(&lease.name, lease.token);
        self.queue.jobs.update(&mut batch, found, &next)?;
        if ends {
            record_end(&mut batch, &next)?;
        }
        match self.queue.records.commit(batch).await {
            Ok(commit) => Ok(Some(Versioned { value: next, version: commit.version })),
            Err(flotilla_storage::Error::PreconditionFailed { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

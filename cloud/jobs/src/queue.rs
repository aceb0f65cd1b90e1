//! The durable queue: submit, look at, follow and cancel jobs.

use crate::bounds::{JOB_SPEC, QUEUED_JOBS};
use crate::error::{Error, Result};
use crate::folder::JobFolder;
use crate::job::{Job, JobState, MetricPoint, Progress, WAITING, new_id};
use crate::state::{self, Event};
use crate::{log, series};
use bytes::Bytes;
use flotilla_identity::{Actor, Permission, audit};
use flotilla_protocol::{JobId, limits};
use flotilla_storage::{Batch, Collection, Entity, Objects, Range, Records, Versioned, Watch};
use serde_json::{Value, json};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How often a change is tried again because somebody else changed the job in between.
const ATTEMPTS: usize = 8;

/// The queue. Clones share it.
#[derive(Clone)]
pub struct Queue {
    pub(crate) records: Arc<dyn Records>,
    pub(crate) objects: Objects,
    pub(crate) jobs: Collection<Job>,
    folder: Arc<PathBuf>,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl Queue {
    /// The queue kept in these records; folders of running jobs are made below `folder`.
    pub fn new(records: Arc<dyn Records>, objects: Objects, folder: impl Into<PathBuf>) -> Self {
        let jobs = Collection::new(Arc::clone(&records));
        Self { records, objects, jobs, folder: Arc::new(folder.into()) }
    }

    /// Where folders of running jobs are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Adds a job. It is durable when this returns.
    pub async fn submit(&self, actor: &Actor, kind: &str, spec: Value, now_ms: u64) -> Result<Job> {
        let mut batch = Batch::new();
        let job = self.submit_in(&mut batch, actor, kind, spec, now_ms).await?;
        self.records.commit(batch).await?;
        Ok(job)
    }

    /// Adds a job to a batch: it exists exactly if the batch happens.
    pub async fn submit_in(
        &self,
        batch: &mut Batch,
        actor: &Actor,
        kind: &str,
        spec: Value,
        now_ms: u64,
    ) -> Result<Job> {
        check_kind(kind)?;
        let size = spec.to_string().len();
        if size > JOB_SPEC {
            return Err(Error::TooLarge { what: "the job's specification", size, bound: JOB_SPEC });
        }
        let waiting = self.jobs.lookup(WAITING, "", None, QUEUED_JOBS).await?;
        if waiting.items.len() >= QUEUED_JOBS {
            return Err(Error::QueueFull { bound: QUEUED_JOBS });
        }
        let job = Job {
            id: new_id(now_ms),
            kind: kind.to_owned(),
            spec,
            state: JobState::Queued,
            attempt: 0,
            crashes: 0,
            interruptions: 0,
            progress: Progress::default(),
            submitted_by: actor.id.clone(),
            created_at_ms: now_ms,
            started_at_ms: None,
            finished_at_ms: None,
            metrics: Vec::new(),
            result: None,
            outputs: Default::default(),
            series: None,
            log: None,
        };
        self.jobs.insert(batch, &job)?;
        let detail = json!({ "kind": kind });
        audit::record(batch, actor, "job:submit", &format!("job/{}", job.id), detail, now_ms)?;
        Ok(job)
    }

    /// One job.
    pub async fn get(&self, id: &JobId) -> Result<Job> {
        Ok(self.find(id).await?.value)
    }

    pub(crate) async fn find(&self, id: &JobId) -> Result<Versioned<Job>> {
        self.jobs.get(id.as_str()).await?.ok_or_else(|| Error::NotFound { id: id.clone() })
    }

    /// Jobs, the newest first, behind `after`; at most 500.
    pub async fn list(&self, after: Option<&JobId>, limit: usize) -> Result<Vec<Job>> {
        let page = self.jobs.list_backwards(after.map(|id| id.as_str().as_bytes()), limit).await?;
        Ok(page.items.into_iter().map(|item| item.value).collect())
    }

    /// Wants a job stopped. A waiting one is cancelled at once, a running one within about a second; wanting it
    /// again changes nothing.
    pub async fn cancel(&self, actor: &Actor, id: &JobId, now_ms: u64) -> Result<Job> {
        for _ in 0..ATTEMPTS {
            let found = self.find(id).await?;
            let next = state::step(&found.value, Event::RequestCancel, now_ms)
                .map_err(|source| Error::WrongState { id: id.clone(), source })?;
            if next == found.value {
                return Ok(next);
            }
            let mut batch = Batch::new();
            self.jobs.update(&mut batch, &found, &next)?;
            let action = Permission::JobCancel.as_str();
            audit::record(&mut batch, actor, action, &format!("job/{id}"), Value::Null, now_ms)?;
            match self.records.commit(batch).await {
                Err(flotilla_storage::Error::PreconditionFailed { .. }) => {}
                committed => return committed.map(|_| next).map_err(Error::from),
            }
        }
        Err(Error::Contended { id: id.clone() })
    }

    /// Follows one job.
    pub fn watch(&self, id: &JobId) -> JobWatch {
        let next = [id.as_str().as_bytes(), &[0]].concat();
        let news = self.records.watch(Range::between(Job::TABLE, id.as_str(), next));
        JobWatch { queue: self.clone(), id: id.clone(), news, first: true, ended: false }
    }

    /// News of all jobs.
    pub fn watch_all(&self) -> Watch {
        self.records.watch(Range::table(Job::TABLE))
    }

    /// All metrics of a job's last attempt, as far as they are bounded.
    pub async fn metrics(&self, job: &Job) -> Result<Vec<MetricPoint>> {
        if let Some(digest) = &job.series {
            return Ok(series::parse(&self.objects.get(digest).await?));
        }
        let path = JobFolder::of(&self.folder, &job.id, job.attempt).series();
        let read = path.clone();
        let bytes = blocking(move || read_if_there(&read)).await.map_err(Error::io("read", &path))?;
        let points = series::parse(&bytes);
        Ok(if points.is_empty() { job.metrics.clone() } else { points })
    }

    /// The log of a job's last attempt; empty where there is none.
    pub async fn log(&self, job: &Job) -> Result<Bytes> {
        if let Some(digest) = &job.log {
            return Ok(self.objects.get(digest).await?);
        }
        let path = JobFolder::of(&self.folder, &job.id, job.attempt).log();
        let read = path.clone();
        let bytes = blocking(move || log::read(&read)).await;
        Ok(bytes.map_err(Error::io("read", &path))?.into())
    }
}

fn check_kind(kind: &str) -> Result<()> {
    let known = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b);
    if !kind.is_empty() && kind.len() <= limits::ID && kind.bytes().all(known) {
        return Ok(());
    }
    let problem = format!("1 to {} characters of a-z, 0-9, '-', '_' and '.'", limits::ID);
    Err(Error::Invalid { field: "kind", problem })
}

/// Runs what blocks. A panic in it goes on in the caller.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(failed) if failed.is_panic() => std::panic::resume_unwind(failed.into_panic()),
        // The runtime is shutting down: so is whoever waits here.
        Err(_) => std::future::pending().await,
    }
}

/// Bytes of a file that may not be there. Blocking.
pub(crate) fn read_if_there(path: &Path) -> io::Result<Vec<u8>> {
    match std::fs::read(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read,
    }
}

/// The states of one job, as they come.
#[derive(Debug)]
pub struct JobWatch {
    queue: Queue,
    id: JobId,
    news: Watch,
    first: bool,
    ended: bool,
}

impl JobWatch {
    /// The job as it is now, then each time it has changed; states in between may be left out. None after its
    /// end.
    pub async fn next(&mut self) -> Result<Option<Job>> {
        if self.ended {
            return Ok(None);
        }
        if !std::mem::replace(&mut self.first, false) && self.news.next().await.is_none() {
            self.ended = true;
            return Ok(None);
        }
        let job = self.queue.get(&self.id).await?;
        self.ended = job.state.is_final();
        Ok(Some(job))
    }

    /// Waits for the job's end; returns earlier only when the records are closed.
    pub async fn end(mut self) -> Result<Job> {
        loop {
            match self.next().await? {
                Some(job) if job.state.is_final() => return Ok(job),
                Some(_) => {}
                None => return self.queue.get(&self.id).await,
            }
        }
    }
}

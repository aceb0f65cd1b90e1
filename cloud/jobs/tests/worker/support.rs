//! A fresh queue, a handler that adds numbers, and a pipe that shows when a job's processes have gone.

use async_trait::async_trait;
use flotilla_identity::{Actor, now_ms};
use flotilla_jobs::{Handler, Job, JobFailure, JobFolder, Outputs, Queue, Worker, WorkerConfig};
use flotilla_protocol::{ErrorCode, JobId};
use flotilla_storage::{Batch, Expect, Key, Objects, Range, Records, SledRecords, Table};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) const FIXTURE: &str = env!("CARGO_BIN_EXE_flotilla-jobs-fixture");
pub(crate) const PUBLISHED: Table = Table::new("published");
pub(crate) const KINDS: [&str; 12] = [
    "sum",
    "fail",
    "crash",
    "crash-once",
    "panic",
    "polite",
    "deaf",
    "stubborn",
    "hold-once",
    "noisy",
    "boast",
    "garbage",
];

/// Storage and queue in a folder that goes with the test.
pub(crate) struct House {
    pub(crate) dir: TempDir,
    pub(crate) records: Arc<dyn Records>,
    pub(crate) queue: Queue,
}

impl House {
    pub(crate) fn new() -> Self {
        Self::at(TempDir::new().unwrap())
    }

    pub(crate) fn at(dir: TempDir) -> Self {
        let records: Arc<dyn Records> = Arc::new(SledRecords::open(&dir.path().join("records")).unwrap());
        let objects = Objects::open(&dir.path().join("objects")).unwrap();
        let queue = Queue::new(records.clone(), objects, dir.path().join("jobs"));
        Self { dir, records, queue }
    }

    pub(crate) fn config(&self) -> WorkerConfig {
        WorkerConfig { lease: Duration::from_secs(2), ..WorkerConfig::new(FIXTURE, ["job-child"]) }
    }

    /// Starts a worker with this handler for every kind.
    pub(crate) fn work(&self, handler: impl Handler + Clone + 'static) -> Working {
        let mut worker = Worker::new(self.queue.clone(), self.config());
        for kind in KINDS {
            worker = worker.with(kind, handler.clone());
        }
        let stop = CancellationToken::new();
        let task = tokio::spawn(worker.run(stop.clone()));
        Working { stop, task }
    }

    pub(crate) async fn submit(&self, kind: &str, spec: Value) -> Job {
        self.queue.submit(&Actor::administrator(), kind, spec, now_ms()).await.unwrap()
    }

    pub(crate) async fn end_of(&self, id: &JobId) -> Job {
        let end = self.queue.watch(id).end();
        tokio::time::timeout(Duration::from_secs(60), end).await.expect("the job ends").unwrap()
    }

    /// Runs one job of this kind to its end.
    pub(crate) async fn run(&self, kind: &str) -> Job {
        let working = self.work(Adder::new(&self.records, &self.queue));
        let job = self.submit(kind, json!({})).await;
        let ended = self.end_of(&job.id).await;
        working.stop().await;
        ended
    }

    pub(crate) async fn published(&self) -> Vec<(Key, String)> {
        let page = self.records.range(&Range::table(PUBLISHED)).await.unwrap();
        page.into_iter().map(|(k, r)| (k, String::from_utf8(r.value.to_vec()).unwrap())).collect()
    }

    pub(crate) async fn log_of(&self, job: &Job) -> String {
        String::from_utf8(self.queue.log(job).await.unwrap().to_vec()).unwrap()
    }

    pub(crate) fn job_folders(&self) -> usize {
        fs::read_dir(self.dir.path().join("jobs")).map_or(0, Iterator::count)
    }
}

pub(crate) struct Working {
    pub(crate) stop: CancellationToken,
    pub(crate) task: JoinHandle<flotilla_jobs::Result<()>>,
}

impl Working {
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

/// Gives numbers to add and publishes the sum.
#[derive(Clone)]
pub(crate) struct Adder {
    records: Arc<dyn Records>,
    objects: Objects,
    /// How many publishings lose their lease to somebody else in the last moment.
    pub(crate) stale: Arc<AtomicU32>,
    /// How many publishings find that somebody else has changed a record they rely on.
    pub(crate) overtaken: Arc<AtomicU32>,
    pub(crate) panics: Arc<AtomicU32>,
}

impl Adder {
    pub(crate) fn new(records: &Arc<dyn Records>, queue: &Queue) -> Self {
        let objects = Objects::open(&queue.folder().join("../more-objects"));
        let objects = objects.unwrap_or_else(|_| panic!("one adder a house"));
        let none = || Arc::new(AtomicU32::new(0));
        Self { records: records.clone(), objects, stale: none(), overtaken: none(), panics: none() }
    }
}

pub(crate) fn use_up(counter: &AtomicU32) -> bool {
    counter.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

#[async_trait]
impl Handler for Adder {
    async fn prepare(&self, job: &Job, folder: &JobFolder) -> Result<(), JobFailure> {
        if job.spec.get("unpreparable").is_some() {
            return Err(JobFailure::new(ErrorCode::DatasetTooSmall, "nothing to add"));
        }
        fs::write(folder.input("numbers"), "1\n2\n3\n").unwrap();
        Ok(())
    }

    async fn publish(&self, job: &Job, folder: &JobFolder, batch: &mut Batch) -> Result<Outputs, JobFailure> {
        assert!(!use_up(&self.panics), "a fault in the handler");
        let key = Key::new(PUBLISHED, job.id.as_str());
        batch.put_if(
            key,
            format!("attempt {}: {}", job.attempt, job.result.clone().unwrap()),
            Expect::Absent,
        );
        if use_up(&self.stale) {
            let lease = format!("job/{}", job.id);
            let taken = self.records.acquire_lease(&lease, "server", Duration::from_millis(10), now_ms());
            taken.await?.unwrap();
        }
        if use_up(&self.overtaken) {
            batch.require(Key::new(PUBLISHED, "no such record"), Expect::Present);
        }
        let Ok(sum) = fs::read(folder.output("sum")) else { return Ok(Outputs::new()) };
        Ok([("sum".to_owned(), self.objects.put(sum).await?)].into())
    }
}

/// A pipe that a job holds open: reading ends when the job's processes have gone.
pub(crate) struct Pipe {
    pub(crate) path: PathBuf,
}

impl Pipe {
    pub(crate) fn new(dir: &Path) -> Self {
        let path = dir.join("pipe");
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        Self { path }
    }

    /// Waits until a job holds it.
    pub(crate) async fn held(&self) -> BufReader<fs::File> {
        let path = self.path.clone();
        tokio::task::spawn_blocking(move || {
            let mut pipe = BufReader::new(fs::File::open(path).unwrap());
            let mut line = String::new();
            pipe.read_line(&mut line).unwrap();
            assert_eq!(line, "holding\n");
            pipe
        })
        .await
        .unwrap()
    }
}

/// Waits until no process holds the pipe any more.
pub(crate) async fn let_go(mut pipe: BufReader<fs::File>) {
    let read = tokio::task::spawn_blocking(move || pipe.read_to_end(&mut Vec::new()).unwrap());
    tokio::time::timeout(Duration::from_secs(30), read).await.expect("all processes of the job end").unwrap();
}

//! One attempt at a job: prepare, run the child, publish. Everything it writes is fenced by the job's lease.

use crate::bounds::JOB_OUTPUTS;
use crate::error::{Error, JobFailure, Result, presentable};
use crate::folder::{self, JobFolder};
use crate::frame::Frame;
use crate::handler::{Handler, Outputs};
use crate::job::{Job, JobState, Progress};
use crate::keeper::{Keeper, Order};
use crate::log::{self, Log};
use crate::process::{ChildProcess, Said, Spawner};
use crate::queue::{Queue, blocking, read_if_there};
use crate::series::{self, Series};
use crate::state::{self, Event};
use crate::worker::WorkerConfig;
use flotilla_identity::{Actor, audit, now_ms};
use flotilla_protocol::{ErrorCode, limits};
use flotilla_storage::{Batch, Lease, Versioned};
use serde_json::{Value, json};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;
use tokio::process::Command;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

/// How often news of a running job reach its record.
const FLUSH: Duration = Duration::from_millis(250);
/// How often the last commit is tried again because somebody else changed a record in between.
const ATTEMPTS: usize = 8;

/// One attempt.
pub(crate) struct Attempt {
    pub(crate) queue: Queue,
    pub(crate) handler: Arc<dyn Handler>,
    pub(crate) config: Arc<WorkerConfig>,
    pub(crate) spawner: Arc<Spawner>,
    pub(crate) lease: Lease,
    pub(crate) keeper: Keeper,
    /// The running job as it was committed last.
    pub(crate) job: Versioned<Job>,
}

/// What a child has said so far.
struct Heard {
    log: Log,
    series: Series,
    /// Progress or metrics are not in the record yet.
    fresh: bool,
    last: Option<Result<Value, JobFailure>>,
    garbage: Option<String>,
}

impl Attempt {
    /// Runs the attempt to its end, whatever that is.
    pub(crate) async fn run(mut self) {
        let id = self.job.value.id.clone();
        let event = self.work().await;
        let ended = match event {
            Ok(event) => self.finish(event).await,
            Err(error) => Err(error),
        };
        if let Err(error) = ended {
            // The job stays as it is; whoever takes its lease next finds it and goes on.
            tracing::warn!(%error, job = %id, "an attempt was abandoned");
        } else {
            let path = folder::of_job(self.queue.folder(), &id);
            if let Err(error) = blocking(move || folder::remove(&path)).await {
                tracing::warn!(%error, job = %id, "the job's folder could not be removed");
            }
        }
        if let Err(error) = self.queue.records.release_lease(&self.lease).await {
            tracing::warn!(%error, job = %id, "the job's lease could not be given back");
        }
    }

    /// Prepares and runs the child. Says how that ended.
    async fn work(&mut self) -> Result<Event> {
        let (root, job) = (self.queue.folder().to_path_buf(), self.job.value.clone());
        let folder = blocking(move || JobFolder::create(&root, &job)).await?;
        let prepared = tokio::select! {
            prepared = self.handler.prepare(&self.job.value, &folder) => prepared,
            order = self.keeper.beyond(Order::Go) => return self.obey(order),
        };
        if let Err(failure) = prepared {
            return Ok(Event::Fail(failure));
        }
        let mut command = Command::new(&self.config.program);
        command.args(&self.config.args).arg(folder.path());
        let child = match self.spawner.spawn(command).await {
            Ok(child) => child,
            Err(error) => {
                let detail = format!("{} cannot be started: {error}", self.config.program.display());
                return Ok(Event::Fail(JobFailure::new(ErrorCode::Internal, detail)));
            }
        };
        let path = folder.path().to_path_buf();
        let io = |e| Error::io("write in", &path)(e);
        let mut heard = Heard {
            log: Log::create(&folder.log()).map_err(io)?,
            series: Series::create(&folder.series()).map_err(io)?,
            fresh: false,
            last: None,
            garbage: None,
        };
        let status = self.listen(child, &mut heard).await?;
        self.judge(status, heard)
    }

    /// How an attempt ends that was told to.
    fn obey(&self, order: Order) -> Result<Event> {
        match order {
            Order::Cancel => Ok(Event::Stop),
            Order::Go | Order::Release => Ok(Event::Release),
            Order::Abandon => Err(self.lost()),
        }
    }

    fn lost(&self) -> Error {
        let (name, token) = (self.lease.name.clone(), self.lease.token);
        flotilla_storage::Error::LeaseLost { name, token }.into()
    }

    /// Listens to the child until it has gone; passes orders on to it.
    async fn listen(&mut self, mut child: ChildProcess, heard: &mut Heard) -> Result<ExitStatus> {
        let mut flush = interval(FLUSH);
        flush.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut order = Order::Go;
        let mut escalation: Option<(Instant, bool)> = None;
        loop {
            let escalate_at = escalation.map(|(at, _)| at);
            tokio::select! {
                said = child.next() => match said.map_err(Error::io("read from", &self.config.program))? {
                    Said::Exited(status) => return Ok(status),
                    Said::Stderr(bytes) => self.note(heard.log.append(&bytes)),
                    Said::Garbage(reason) => {
                        heard.garbage = Some(reason);
                        child.kill();
                    }
                    Said::Frame(frame) => self.hear(frame, heard),
                },
                told = self.keeper.beyond(order) => {
                    order = told;
                    match told {
                        Order::Cancel => {
                            child.close_stdin();
                            escalation = Some((Instant::now() + self.config.cancel_grace, false));
                        }
                        _ => child.kill(),
                    }
                }
                () = sleep_until(escalate_at.unwrap_or_else(Instant::now)), if escalate_at.is_some() => {
                    escalation = match escalation {
                        Some((_, false)) => {
                            child.terminate();
                            Some((Instant::now() + self.config.cancel_grace, true))
                        }
                        _ => {
                            child.kill();
                            None
                        }
                    };
                }
                _ = flush.tick(), if heard.fresh && order == Order::Go => {
                    heard.fresh = !self.flush().await?;
                }
            }
        }
    }

    /// A log or series that cannot be written (a full disk) does not end the job.
    fn note(&self, written: std::io::Result<()>) {
        if let Err(error) = written {
            tracing::debug!(%error, job = %self.job.value.id, "a line of the job's log is lost");
        }
    }

    fn hear(&mut self, frame: Frame, heard: &mut Heard) {
        let job = &mut self.job.value;
        match frame {
            Frame::Progress { done, total, stage } => {
                job.progress = Progress { done, total, stage: presentable(&stage, limits::LABEL) };
                heard.fresh = true;
            }
            Frame::Metric { step, values } => {
                let point = series::point(step, values, now_ms());
                let written = heard.series.append(&point);
                series::push_newest(&mut job.metrics, point);
                heard.fresh = true;
                self.note(written);
            }
            Frame::Log { line } => {
                let written = heard.log.append(format!("{line}\n").as_bytes());
                self.note(written);
            }
            Frame::Done { result } => heard.last = Some(Ok(result)),
            Frame::Failed(failure) => {
                heard.last =
                    Some(Err(JobFailure::new(failure.code, failure.detail).with_facts(failure.facts)));
            }
        }
    }

    /// Writes progress and metrics to the record. Says whether they are there now.
    async fn flush(&mut self) -> Result<bool> {
        let found = self.queue.find(&self.job.value.id).await?;
        if found.value.state != JobState::Running {
            return Ok(false);
        }
        let next = self.with_news(&found.value);
        let mut batch = Batch::new();
        self.queue.jobs.update(&mut batch, &found, &next)?;
        batch.fence(&self.lease.name, self.lease.token);
        match self.queue.records.commit(batch).await {
            Ok(_) => Ok(true),
            Err(flotilla_storage::Error::PreconditionFailed { .. }) => Ok(false),
            Err(error @ flotilla_storage::Error::LeaseLost { .. }) => Err(error.into()),
            Err(error) => {
                // What counts is the last commit; the job goes on.
                tracing::warn!(%error, job = %found.value.id, "the job's progress could not be stored");
                Ok(false)
            }
        }
    }

    fn with_news(&self, job: &Job) -> Job {
        Job {
            progress: self.job.value.progress.clone(),
            metrics: self.job.value.metrics.clone(),
            ..job.clone()
        }
    }

    /// How the attempt ended.
    fn judge(&self, status: ExitStatus, heard: Heard) -> Result<Event> {
        if heard.garbage.is_none() && status.success() {
            match heard.last {
                Some(Ok(result)) => return Ok(Event::Succeed { result, outputs: Outputs::new() }),
                // A child that stops because it is told to fails as it thinks best.
                Some(Err(failure)) if self.keeper.order() == Order::Go => return Ok(Event::Fail(failure)),
                _ => {}
            }
        }
        if self.keeper.order() != Order::Go {
            return self.obey(self.keeper.order());
        }
        let how = match heard.garbage {
            Some(reason) => reason,
            None => format!("the child process ended without a result ({status})"),
        };
        let tail = heard.log.tail();
        let detail = if tail.is_empty() { how } else { format!("{how}; its log ends: {tail}") };
        Ok(Event::Crash { detail })
    }

    /// Ends the attempt in the records: publishes where there is something to publish, all in one commit.
    async fn finish(&mut self, mut event: Event) -> Result<()> {
        let id = self.job.value.id.clone();
        let folder = JobFolder::of(self.queue.folder(), &id, self.job.value.attempt);
        let (series, log) = self.keep_files(&folder).await?;
        for _ in 0..ATTEMPTS {
            let found = self.queue.find(&id).await?;
            let base = Job { series, log, ..self.with_news(&found.value) };
            let mut batch = Batch::new();
            batch.fence(&self.lease.name, self.lease.token);
            if let Event::Succeed { result, outputs } = &mut event
                && found.value.state == JobState::Running
            {
                let done = Job { result: Some(result.clone()), ..base.clone() };
                match self.handler.publish(&done, &folder, &mut batch).await.and_then(check_outputs) {
                    Ok(published) => *outputs = published,
                    Err(failure) => {
                        event = Event::Fail(failure);
                        continue;
                    }
                }
            }
            let next = state::step(&base, event.clone(), now_ms())
                .map_err(|source| Error::WrongState { id: id.clone(), source })?;
            self.queue.jobs.update(&mut batch, &found, &next)?;
            record_end(&mut batch, &next)?;
            match self.queue.records.commit(batch).await {
                Err(flotilla_storage::Error::PreconditionFailed { .. }) => {}
                committed => return committed.map(|_| ()).map_err(Error::from),
            }
        }
        Err(Error::Contended { id })
    }

    /// Series and log of the attempt as objects: its folder goes.
    async fn keep_files(
        &self,
        folder: &JobFolder,
    ) -> Result<(Option<flotilla_protocol::Digest>, Option<flotilla_protocol::Digest>)> {
        let (series, log) = (folder.series(), folder.log());
        let read = blocking(move || Ok((read_if_there(&series)?, log::read(&log)?))).await;
        let (series, log) = read.map_err(Error::io("read", folder.path()))?;
        let mut kept = [None, None];
        for (digest, bytes) in kept.iter_mut().zip([series, log]) {
            if !bytes.is_empty() {
                *digest = Some(self.queue.objects.put(bytes).await?);
            }
        }
        let [series, log] = kept;
        Ok((series, log))
    }
}

fn check_outputs(outputs: Outputs) -> Result<Outputs, JobFailure> {
    if outputs.len() <= JOB_OUTPUTS && outputs.keys().all(|name| name.len() <= limits::ID) {
        return Ok(outputs);
    }
    let detail = format!("{} outputs; up to {JOB_OUTPUTS} with short names are possible", outputs.len());
    Err(JobFailure::new(ErrorCode::TooLarge, detail))
}

/// Adds what became of an attempt to the audit trail.
pub(crate) fn record_end(batch: &mut Batch, job: &Job) -> Result<()> {
    let detail = json!({ "kind": job.kind, "attempt": job.attempt, "state": job.state });
    let subject = format!("job/{}", job.id);
    audit::record(batch, &Actor::system(), "job:attempt-end", &subject, detail, now_ms())?;
    Ok(())
}

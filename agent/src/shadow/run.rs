//! A shadow from its start to its end.

use super::parent::{Bounds, Process};
use crate::daemon::News;
use crate::host::{Compared, ModelHost, Offer, Side};
use crate::intake::Desk;
use flotilla_device::Fault;
use flotilla_device::shadow::{End, Event};
use flotilla_protocol::{Digest, ErrorCode, ModelName};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Time for one answer, however quick the probe was: the shadow stands behind everything else on the device.
const ANSWER: Duration = Duration::from_secs(10);
/// Time for one answer, as a multiple of the probe's 95th percentile.
const ANSWER_TIMES: u64 = 20;
/// Longest time for one answer.
const ANSWER_MAX: Duration = Duration::from_secs(600);

/// A shadow that is to run.
pub(crate) struct Job {
    pub(crate) model: ModelName,
    pub(crate) ticket: u64,
    pub(crate) release: Digest,
    pub(crate) against: Digest,
    pub(crate) share_per_mille: u32,
    /// The 95th percentile of a prediction in its probe, in microseconds; 0 for unknown.
    pub(crate) p95_us: u64,
    pub(crate) exe: PathBuf,
    pub(crate) prefix: Vec<String>,
}

/// Lets a shadow run until it is stopped or ends. It sees nothing any more when this is over.
pub(crate) async fn run(desk: Desk, host: Arc<ModelHost>, job: Job, stop: CancellationToken) {
    let attached = Attached { host: &host, model: &job.model };
    let ended = stop.run_until_cancelled(serve(&desk, &host, &job)).await;
    drop(attached);
    if let Some(end) = ended {
        let ended = Event::Ended { ticket: job.ticket, end };
        stop.run_until_cancelled(tell(&desk, &job.model, ended)).await;
    }
}

/// Takes the shadow from the way of inputs, also when the task is given up.
struct Attached<'a> {
    host: &'a ModelHost,
    model: &'a ModelName,
}

impl Drop for Attached<'_> {
    fn drop(&mut self) {
        self.host.detach_shadow(self.model);
    }
}

async fn tell(desk: &Desk, model: &ModelName, event: Event) {
    // Nobody listens any more only when the agent stops.
    let _ = desk.news.send(News::Shadow(model.clone(), event)).await;
}

async fn serve(desk: &Desk, host: &ModelHost, job: &Job) -> End {
    let place = desk.folder.shadow(&job.model);
    let memory_bytes = match place.manifest(job.release) {
        Ok(manifest) => desk.child_memory(&manifest),
        Err(fault) => return End::Refused(fault),
    };
    let bounds = Bounds {
        memory_bytes,
        load: Duration::from_secs(desk.config.probe_timeout_s),
        answer: Duration::from_micros(job.p95_us.saturating_mul(ANSWER_TIMES)).clamp(ANSWER, ANSWER_MAX),
    };
    let started = Process::start(&job.exe, &job.prefix, place.path(), &desk.config.board, bounds).await;
    let (mut process, inputs) = match started {
        Ok(started) => started,
        Err(end) => return end,
    };
    let Job { release, against, share_per_mille, .. } = *job;
    let Some(mut offers) = host.attach_shadow(&job.model, Side { release, against, inputs, share_per_mille })
    else {
        process.stop().await;
        return End::Refused(Fault::transient(ErrorCode::NotFound, "the model does not serve any more"));
    };
    tell(desk, &job.model, Event::Runs { ticket: job.ticket }).await;
    loop {
        let offer = tokio::select! {
            offer = offers.recv() => offer,
            end = process.watch() => return end,
        };
        let Some(offer) = offer else {
            // The model was removed from under it; it is stopped at any moment.
            process.stop().await;
            return End::Refused(Fault::transient(ErrorCode::NotFound, "the model does not serve any more"));
        };
        if let Err(end) = compare(host, job, &mut process, &offer, &mut offers).await {
            return end;
        }
    }
}

async fn compare(
    host: &ModelHost,
    job: &Job,
    process: &mut Process,
    offer: &Offer,
    offers: &mut mpsc::Receiver<Offer>,
) -> Result<(), End> {
    match process.ask(&offer.input).await {
        Ok(Ok((shadow, shadow_us))) => {
            let agreed = shadow.agrees(&offer.confirmed);
            let (model, shadow) = (&job.model, &shadow);
            host.on_compared(job.release, &Compared { model, offer, shadow, shadow_us, agreed });
            Ok(())
        }
        Ok(Err(detail)) => {
            tracing::debug!(model = %job.model, detail, "the shadow has no answer");
            host.shadow_failed(&job.model, job.release);
            Ok(())
        }
        Err(end) => {
            host.shadow_failed(&job.model, job.release);
            offers.close();
            Err(end)
        }
    }
}

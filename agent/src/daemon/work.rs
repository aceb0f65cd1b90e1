//! Slow work for one model: the effects of its update machine that take time. Each ends with news for the machine,
//! unless it was cancelled.

use super::News;
use super::jobs::LatestLoad;
use crate::clock::Clock;
use crate::config::Config;
use crate::fetch::{Fetcher, Stopped};
use crate::folder::Folder;
use crate::host::ModelHost;
use crate::probe::{self, ProbeError, ProbeLimits};
use crate::slot::{Slot, disk_fault};
use flotilla_device::Fault;
use flotilla_device::download::Download;
use flotilla_device::release::{Board, examine};
use flotilla_device::update::{Event, Promise, ReleaseFacts};
use flotilla_protocol::message::{ProbeReport, SlotName};
use flotilla_protocol::{Digest, ErrorCode, ModelName, TrustFile, limits};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

/// Memory of the probe process itself, beside what the release says that it needs.
const PROBE_BASE: u64 = 64 * limits::MIB as u64;

/// What the work needs.
pub(super) struct Desk {
    pub(super) model: ModelName,
    pub(super) folder: Folder,
    pub(super) config: Config,
    pub(super) exe: PathBuf,
    pub(super) prefix: Vec<String>,
    pub(super) trust: TrustFile,
    pub(super) clock: Clock,
    pub(super) memory_bytes: u64,
    pub(super) fetcher: Fetcher,
    pub(super) host: Arc<ModelHost>,
    pub(super) probes: Arc<Semaphore>,
    pub(super) news: mpsc::Sender<News>,
}

impl Desk {
    pub(super) fn slot(&self, slot: SlotName) -> Slot {
        self.folder.slot(&self.model, slot)
    }

    pub(super) fn board(&self) -> Result<Board, Fault> {
        self.board_beside(self.fetcher.rooms().promised_bytes())
    }

    /// The board, with so many bytes of its disk promised to other downloads.
    fn board_beside(&self, promised_bytes: u64) -> Result<Board, Fault> {
        let free_bytes = self.folder.free_bytes().map_err(disk_fault)?;
        Ok(Board {
            name: self.config.board.clone(),
            model_bytes: self.config.model_bytes,
            disk_free_bytes: free_bytes.saturating_sub(promised_bytes),
            disk_reserve_bytes: self.config.disk_reserve_bytes,
            memory_bytes: self.memory_bytes,
        })
    }

    async fn tell(&self, event: Event) {
        // Nobody listens any more only when the agent stops.
        let _ = self.news.send(News::Update(self.model.clone(), event)).await;
    }
}

/// Runs disk or CPU work where it holds nobody up.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|e| {
        Err(Fault::lasting(ErrorCode::Internal, format!("a piece of work ended badly: {e}")))
    })
}

pub(super) async fn fetch_release(
    desk: Desk,
    cancel: CancellationToken,
    ticket: u64,
    slot: SlotName,
    release: Digest,
    bytes: u32,
) {
    let result = match release_facts(&desk, &cancel, &desk.slot(slot), release, bytes).await {
        Ok(facts) => Ok(facts),
        Err(Stopped::Fault(fault)) => Err(fault),
        Err(Stopped::Cancelled) => return,
    };
    desk.tell(Event::EnvelopeFetched { ticket, result }).await;
}

async fn release_facts(
    desk: &Desk,
    cancel: &CancellationToken,
    slot: &Slot,
    release: Digest,
    bytes: u32,
) -> Result<ReleaseFacts, Stopped> {
    if cancel.is_cancelled() {
        return Err(Stopped::Cancelled);
    }
    if bytes as usize > limits::ENVELOPE {
        let detail = format!("its document has {bytes} bytes; {} are possible", limits::ENVELOPE);
        return Err(Fault::lasting(ErrorCode::TooLarge, detail).into());
    }
    let place = slot.clone();
    let here = blocking(move || place.prepare(release)).await?;
    let (envelope, stored) = match here {
        Some(envelope) => (envelope, true),
        None => (desk.fetcher.document(release, bytes as usize, cancel).await?, false),
    };
    let board = desk.board()?;
    let manifest = desk.clock.examine(|now_ms| {
        let present = |manifest: &_| slot.present_bytes(manifest);
        examine(&envelope, release, &desk.model, &desk.trust, now_ms, &board, present)
    })?;
    if !stored {
        slot.put_envelope(&envelope)?;
    }
    Ok(ReleaseFacts {
        counter: manifest.counter,
        expires_at_ms: manifest.expires_at_ms,
        total_bytes: Download::files(&manifest.files).bytes_total(),
        promise: Promise {
            latency_us: manifest.constraints.latency_us,
            memory_bytes: manifest.constraints.memory_bytes,
        },
    })
}

pub(super) async fn fetch_files(
    desk: Desk,
    cancel: CancellationToken,
    ticket: u64,
    slot: SlotName,
    release: Digest,
) {
    let (place, other) = (desk.slot(slot), desk.slot(slot.other()));
    let result = match files(&desk, &cancel, ticket, &place, other, release).await {
        Ok(()) => Ok(()),
        Err(Stopped::Fault(fault)) => Err(fault),
        Err(Stopped::Cancelled) => return,
    };
    desk.tell(Event::FilesComplete { ticket, result }).await;
}

async fn files(
    desk: &Desk,
    cancel: &CancellationToken,
    ticket: u64,
    slot: &Slot,
    other: Slot,
    release: Digest,
) -> Result<(), Stopped> {
    let place = slot.clone();
    let (manifest, mut download) = blocking(move || {
        let manifest = place.manifest(release)?;
        let mut download = Download::files(&manifest.files);
        place.resume(&manifest, &mut download)?;
        Ok((manifest, download))
    })
    .await?;
    let _room = desk.fetcher.rooms().promise(slot, &manifest, |promised| desk.board_beside(promised))?;
    let place = slot.clone();
    let (manifest, mut download, reused) = blocking(move || {
        let reused = place.reuse(&manifest, &[&other, &place], &mut download)?;
        Ok((manifest, download, reused))
    })
    .await?;
    if reused > 0 {
        tracing::info!(model = %desk.model, bytes = reused, "copied from what was on the device already");
        desk.tell(Event::FilesReused { ticket, bytes: reused }).await;
    }
    let mut progress = |bytes_done| {
        // A figure that finds no room is followed by a later one.
        let event = Event::FileProgress { ticket, bytes_done };
        let _ = desk.news.try_send(News::Update(desk.model.clone(), event));
    };
    progress(download.bytes_done());
    let mut put = |chunk: &_| slot.write(&manifest, chunk);
    desk.fetcher.run(&mut download, &mut put, cancel, &mut progress).await
}

pub(super) async fn verify_files(desk: Desk, ticket: u64, slot: SlotName, release: Digest) {
    let place = desk.slot(slot);
    let result = blocking(move || place.finish(&place.manifest(release)?)).await;
    desk.tell(Event::FilesVerified { ticket, result }).await;
}

pub(super) async fn probe(
    desk: Desk,
    cancel: CancellationToken,
    ticket: u64,
    slot: SlotName,
    release: Digest,
) {
    let place = desk.slot(slot);
    // The child does not outlive the future that is dropped here.
    if let Some(result) = cancel.run_until_cancelled(run_probe(&desk, &place, release)).await {
        desk.tell(Event::ProbeDone { ticket, result }).await;
    }
}

async fn run_probe(desk: &Desk, slot: &Slot, release: Digest) -> Result<ProbeReport, Fault> {
    // One at a time: two at once would falsify each other's latency and take twice the memory.
    let _turn =
        desk.probes.acquire().await.map_err(|e| Fault::transient(ErrorCode::Cancelled, e.to_string()))?;
    let constraints = slot.manifest(release)?.constraints;
    let memory_bytes = match constraints.memory_bytes {
        0 => desk.config.probe_memory_bytes,
        stated => stated.saturating_add(PROBE_BASE),
    };
    let bounds = ProbeLimits {
        memory_bytes,
        timeout: Duration::from_secs(desk.config.probe_timeout_s),
        latency_us: constraints.latency_us,
    };
    let probed = probe::run(&desk.exe, &desk.prefix, slot.path(), &desk.config.board, bounds).await;
    probed.map_err(|error| match &error {
        // That the child could not even be started says nothing about the candidate.
        ProbeError::Spawn(source) => Fault::transient(ErrorCode::Internal, format!("{error}: {source}")),
        // Nor does a disk that cannot be read just now.
        ProbeError::Refused { code: ErrorCode::StorageIo, .. } => {
            Fault::transient(ErrorCode::StorageIo, error.to_string())
        }
        _ => Fault::lasting(error.code(), error.to_string()),
    })
}

pub(super) async fn load(desk: Desk, latest: LatestLoad, ticket: u64, slot: SlotName, release: Digest) {
    let (place, board) = (desk.slot(slot), desk.config.board.clone());
    let note = desk.host.notes().of(&desk.model);
    let installed = blocking(move || {
        let _noted = note.at_work();
        place.load(release, &board)
    })
    .await
    .and_then(|model| {
        let install = || desk.host.install(desk.model.clone(), release, slot, model);
        // A load that was overtaken ends without a word: its ticket is not awaited any more.
        latest.install(ticket, install).unwrap_or(Ok(())).map_err(|e| Fault::lasting(e.code(), e.to_string()))
    });
    let event = match installed {
        Ok(()) => Event::SwitchDone { ticket },
        Err(fault) => {
            tracing::error!(model = %desk.model, slot = slot.as_str(), release = %release.short(), %fault, "not loaded");
            Event::LoadFailed { ticket, fault }
        }
    };
    desk.tell(event).await;
}

pub(super) async fn clear(desk: Desk, slot: SlotName) {
    let place = desk.slot(slot);
    if let Err(fault) = blocking(move || place.clear()).await {
        tracing::warn!(model = %desk.model, slot = slot.as_str(), %fault, "a slot is not cleared");
    }
    let _ = desk.news.send(News::Cleared(desk.model.clone())).await;
}

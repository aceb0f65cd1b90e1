//! Slow work for the agent's own release: the effects of its update machine that take time.

use super::{PLATFORM, selftest, slot};
use crate::clock::Clock;
use crate::config::Config;
use crate::fetch::{Fetcher, Stopped};
use crate::folder::Folder;
use crate::launcher::checksum;
use crate::probe::{self, FILES_FOLDER, ProbeError, ProbeLimits};
use crate::slot::{Slot, disk_fault};
use flotilla_device::Fault;
use flotilla_device::download::Download;
use flotilla_device::launch::Binary;
use flotilla_device::release::{Board, examine_agent};
use flotilla_device::update::{Event, Promise, ReleaseFacts};
use flotilla_protocol::manifest::agent_engine;
use flotilla_protocol::message::{ProbeReport, SlotName};
use flotilla_protocol::{Digest, ErrorCode, ReleaseManifest, TrustFile, limits};
use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

/// Largest agent binary that is taken.
const BINARY: u64 = 256 * limits::MIB as u64;

/// News of this work.
pub(crate) enum News {
    /// A step for the update machine.
    Update(Event),
    /// What the launcher has to know of the binary that is to run.
    Binary {
        /// The activation that asked.
        ticket: u64,
        /// The binary, or why it cannot be told.
        result: Result<Binary, Fault>,
    },
}

/// What the work needs.
#[derive(Clone)]
pub(crate) struct Desk {
    pub(crate) folder: Folder,
    pub(crate) config: Config,
    pub(crate) trust: TrustFile,
    pub(crate) clock: Clock,
    pub(crate) memory_bytes: u64,
    pub(crate) fetcher: Fetcher,
    pub(crate) probes: Arc<Semaphore>,
    pub(crate) news: mpsc::Sender<News>,
}

impl Desk {
    async fn tell(&self, event: Event) {
        // Nobody listens any more only when the agent stops.
        let _ = self.news.send(News::Update(event)).await;
    }

    fn board(&self) -> Result<Board, Fault> {
        self.board_beside(self.fetcher.rooms().promised_bytes())
    }

    /// The board, with so many bytes of its disk promised to other downloads.
    fn board_beside(&self, promised_bytes: u64) -> Result<Board, Fault> {
        let free_bytes = self.folder.free_bytes().map_err(disk_fault)?;
        Ok(Board {
            name: self.config.board.clone(),
            model_bytes: BINARY,
            disk_free_bytes: free_bytes.saturating_sub(promised_bytes),
            disk_reserve_bytes: self.config.disk_reserve_bytes,
            memory_bytes: self.memory_bytes,
        })
    }

    /// The part of the release in the slot that this device needs, and the path of its binary.
    fn part(&self, place: &Slot, release: Digest) -> Result<(ReleaseManifest, PathBuf), Fault> {
        let manifest = place.manifest(release)?;
        let engine = agent_engine(PLATFORM.0, PLATFORM.1);
        let part = manifest.part_for(&self.config.board, &engine);
        let part = part.map_err(|e| Fault::lasting(e.code(), e.to_string()))?;
        let name = part.files.first().map(|file| file.name.clone()).unwrap_or_default();
        Ok((part, place.path().join(FILES_FOLDER).join(name)))
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|e| {
        Err(Fault::lasting(ErrorCode::Internal, format!("a piece of work ended badly: {e}")))
    })
}

pub(crate) async fn fetch_release(
    desk: Desk,
    cancel: CancellationToken,
    ticket: u64,
    place: SlotName,
    release: Digest,
    bytes: u32,
) {
    let result = match release_facts(&desk, &cancel, slot(&desk.folder, place), release, bytes).await {
        Ok(facts) => Ok(facts),
        Err(Stopped::Fault(fault)) => Err(fault),
        Err(Stopped::Cancelled) => return,
    };
    desk.tell(Event::EnvelopeFetched { ticket, result }).await;
}

async fn release_facts(
    desk: &Desk,
    cancel: &CancellationToken,
    place: Slot,
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
    let prepared = place.clone();
    let here = blocking(move || prepared.prepare(release)).await?;
    let (envelope, stored) = match here {
        Some(envelope) => (envelope, true),
        None => (desk.fetcher.document(release, bytes as usize, cancel).await?, false),
    };
    let board = desk.board()?;
    let manifest = desk.clock.examine(|now_ms| {
        let present = |manifest: &_| place.present_bytes(manifest);
        examine_agent(&envelope, release, &desk.trust, now_ms, &board, PLATFORM, present)
    })?;
    if !stored {
        place.put_envelope(&envelope)?;
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

pub(crate) async fn fetch_files(
    desk: Desk,
    cancel: CancellationToken,
    ticket: u64,
    place: SlotName,
    release: Digest,
) {
    let (place, other) = (slot(&desk.folder, place), slot(&desk.folder, place.other()));
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
    place: &Slot,
    other: Slot,
    release: Digest,
) -> Result<(), Stopped> {
    let (part, _) = desk.part(place, release)?;
    let (resumed, wanted) = (place.clone(), part.clone());
    let download = blocking(move || {
        let mut download = Download::files(&wanted.files);
        resumed.resume(&wanted, &mut download)?;
        Ok(download)
    })
    .await?;
    let _room = desk.fetcher.rooms().promise(place, &part, |promised| desk.board_beside(promised))?;
    let target = place.clone();
    let (part, mut download, reused) = blocking(move || {
        let mut download = download;
        let reused = target.reuse(&part, &[&other, &target], &mut download)?;
        Ok((part, download, reused))
    })
    .await?;
    if reused > 0 {
        tracing::info!(bytes = reused, "copied from what was on the device already");
        desk.tell(Event::FilesReused { ticket, bytes: reused }).await;
    }
    let mut progress = |bytes_done| {
        // A figure that finds no room is followed by a later one.
        let _ = desk.news.try_send(News::Update(Event::FileProgress { ticket, bytes_done }));
    };
    progress(download.bytes_done());
    let mut put = |chunk: &_| place.write(&part, chunk);
    desk.fetcher.run(&mut download, &mut put, cancel, &mut progress).await
}

pub(crate) async fn verify_files(desk: Desk, ticket: u64, place: SlotName, release: Digest) {
    let (place, own) = (slot(&desk.folder, place), desk.clone());
    let result = blocking(move || {
        let (part, path) = own.part(&place, release)?;
        place.finish(&part)?;
        make_program(&path).map_err(|e| transient(&path, &e))
    })
    .await;
    desk.tell(Event::FilesVerified { ticket, result }).await;
}

/// Lets the agent's user, and nobody else, run the file.
fn make_program(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    file.set_permissions(Permissions::from_mode(0o700))?;
    file.sync_all()
}

fn transient(path: &Path, error: &io::Error) -> Fault {
    Fault::transient(ErrorCode::StorageIo, format!("{}: {error}", path.display()))
}

pub(crate) async fn probe(
    desk: Desk,
    cancel: CancellationToken,
    ticket: u64,
    place: SlotName,
    release: Digest,
) {
    let place = slot(&desk.folder, place);
    // The child does not outlive the future that is dropped here.
    if let Some(result) = cancel.run_until_cancelled(run_self_test(&desk, &place, release)).await {
        desk.tell(Event::ProbeDone { ticket, result }).await;
    }
}

/// Asks the candidate for its version and lets it try everything it needs of this folder, without writing to it.
async fn run_self_test(desk: &Desk, place: &Slot, release: Digest) -> Result<ProbeReport, Fault> {
    let _turn =
        desk.probes.acquire().await.map_err(|e| Fault::transient(ErrorCode::Cancelled, e.to_string()))?;
    let (own, own_place) = (desk.clone(), place.clone());
    // What was staged may have changed since: nothing unsigned is started.
    let (part, path, damaged) = blocking(move || {
        let (part, path) = own.part(&own_place, release)?;
        own_place.verify(&part)?;
        Ok((part, path, selftest::damaged(&own.folder)?))
    })
    .await?;
    let bounds = ProbeLimits {
        memory_bytes: desk.config.probe_memory_bytes,
        timeout: Duration::from_secs(desk.config.probe_timeout_s),
        latency_us: 0,
    };
    let refused = |error: ProbeError| match &error {
        // A file that is no program here never will be; that a child cannot be started now says nothing about it.
        ProbeError::Spawn(source) if !crate::launcher::is_unusable(source) => {
            Fault::transient(ErrorCode::Internal, format!("{error}: {source}"))
        }
        ProbeError::Spawn(source) => {
            Fault::lasting(ErrorCode::ProbeCrashed, format!("the new agent cannot be started: {source}"))
        }
        _ => Fault::lasting(error.code(), error.to_string()),
    };
    let version = probe::version(&path, bounds).await.map_err(refused)?;
    let stated = part.agent.map(|agent| agent.version).unwrap_or_default();
    if version != stated {
        let detail = format!("the new agent says that it is {version:?}; its release says {stated:?}");
        return Err(Fault::lasting(ErrorCode::ProbeMismatch, detail));
    }
    probe::self_test(&path, desk.folder.root(), &damaged, bounds).await.map_err(refused)
}

/// Finds out what the launcher has to know of the release in a slot. Whatever is wrong there came over a file that was
/// verified before, so none of it is the release's fault.
pub(crate) async fn tell_binary(desk: Desk, ticket: u64, name: SlotName, release: Digest) {
    let own = desk.clone();
    let result = blocking(move || {
        let place = slot(&own.folder, name);
        let (part, path) = own.part(&place, release)?;
        place.verify(&part)?;
        let (bytes, crc) = checksum(&path).map_err(|e| transient(&path, &e))?;
        let file = part.files.into_iter().next().map(|file| file.name).unwrap_or_default();
        let version = part.agent.map(|agent| agent.version).unwrap_or_default();
        Ok(Binary { slot: name, release, counter: part.counter, version, file, bytes, crc })
    })
    .await
    .map_err(|fault| Fault { transient: true, ..fault });
    let _ = desk.news.send(News::Binary { ticket, result }).await;
}

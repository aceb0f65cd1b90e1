//! Brings a release into a slot: fetched, verified and probed, in the same way for a model and for the agent itself. Each
//! piece of work ends with news for the update machine, unless it was cancelled.

use crate::clock::Clock;
use crate::config::Config;
use crate::daemon::News;
use crate::fetch::{Fetcher, Stopped};
use crate::folder::Folder;
use crate::memory::{Holder, Shares};
use crate::patches::Patching;
use crate::probe::{self, ProbeError, ProbeLimits};
use crate::slot::{Slot, disk_fault};
use crate::upgrade::{self, PLATFORM};
use flotilla_device::Fault;
use flotilla_device::download::Download;
use flotilla_device::release::{Board, examine, examine_agent, examine_measurement};
use flotilla_device::shadow;
use flotilla_device::update::{Event, Promise, ReleaseFacts};
use flotilla_protocol::manifest::agent_engine;
use flotilla_protocol::message::{ProbeReport, SlotName};
use flotilla_protocol::{Digest, ErrorCode, ModelName, ReleaseManifest, TrustFile, limits};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

/// Largest agent binary that is taken.
const BINARY: u64 = 256 * limits::MIB as u64;
/// Memory of a model's probe process itself, beside what the release says that it needs.
const PROBE_BASE: u64 = 64 * limits::MIB as u64;

/// Of what a release is brought in.
#[derive(Clone)]
pub(crate) enum Subject {
    /// Of a model.
    Model {
        name: ModelName,
        /// The program that probes candidates.
        exe: PathBuf,
        /// Its arguments before `probe`.
        prefix: Vec<String>,
    },
    /// Of the release that runs beside a model's.
    Shadow {
        name: ModelName,
        /// The program that probes it.
        exe: PathBuf,
        /// Its arguments before `probe`.
        prefix: Vec<String>,
    },
    /// Of a model that is measured, and of which the update machines hear nothing.
    Measurement {
        /// The program that runs it.
        exe: PathBuf,
        /// Its arguments before `probe`.
        prefix: Vec<String>,
    },
    /// Of the agent itself.
    Agent,
}

/// What the work needs.
#[derive(Clone)]
pub(crate) struct Desk {
    pub(crate) subject: Subject,
    pub(crate) folder: Folder,
    pub(crate) config: Config,
    pub(crate) trust: TrustFile,
    pub(crate) clock: Clock,
    pub(crate) memory_bytes: u64,
    pub(crate) shares: Shares,
    pub(crate) fetcher: Fetcher,
    pub(crate) probes: Arc<Semaphore>,
    pub(crate) news: mpsc::Sender<News>,
}

/// Runs disk or CPU work where it holds nobody up.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|e| {
        Err(Fault::lasting(ErrorCode::Internal, format!("a piece of work ended badly: {e}")))
    })
}

impl Desk {
    /// The model, if it is one.
    pub(crate) fn model(&self) -> Option<&ModelName> {
        match &self.subject {
            Subject::Model { name, .. } | Subject::Shadow { name, .. } => Some(name),
            Subject::Measurement { .. } | Subject::Agent => None,
        }
    }

    /// Who takes the memory of what is brought in, if it is a model.
    fn holder(&self) -> Option<Holder> {
        match &self.subject {
            Subject::Model { name, .. } => Some(Holder::Model(name.clone())),
            Subject::Shadow { name, .. } => Some(Holder::Shadow(name.clone())),
            Subject::Measurement { .. } => Some(Holder::Measurement),
            Subject::Agent => None,
        }
    }

    /// Where the release goes; a shadow has but one place, whatever the slot.
    pub(crate) fn slot(&self, slot: SlotName) -> Slot {
        match &self.subject {
            Subject::Model { name, .. } => self.folder.slot(name, slot),
            Subject::Shadow { name, .. } => self.folder.shadow(name),
            Subject::Measurement { .. } => self.folder.measurement(),
            Subject::Agent => self.folder.agent_slot(slot),
        }
    }

    /// Where else chunks of it may lie.
    fn other_slots(&self, slot: SlotName) -> Vec<Slot> {
        match &self.subject {
            Subject::Model { name, .. } => {
                vec![self.folder.slot(name, slot.other()), self.folder.shadow(name)]
            }
            Subject::Shadow { name, .. } => {
                [SlotName::A, SlotName::B].map(|s| self.folder.slot(name, s)).into()
            }
            Subject::Measurement { .. } => Vec::new(),
            Subject::Agent => vec![self.folder.agent_slot(slot.other())],
        }
    }

    /// Memory that a child process may take which runs the release; what the board has for a model where it does not say.
    pub(crate) fn child_memory(&self, manifest: &ReleaseManifest) -> u64 {
        match manifest.constraints.memory_bytes {
            0 => self.config.probe_memory_bytes,
            stated => stated.saturating_add(PROBE_BASE),
        }
    }

    fn news_of(&self, event: Event) -> News {
        match &self.subject {
            Subject::Shadow { name, .. } => News::Shadow(name.clone(), shadow::Event::Intake(event)),
            Subject::Model { .. } | Subject::Measurement { .. } | Subject::Agent => {
                News::Update(self.model().cloned(), event)
            }
        }
    }

    pub(crate) fn board(&self) -> Result<Board, Fault> {
        self.board_beside(self.fetcher.rooms().promised_bytes())
    }

    /// The board, with so many bytes of its disk promised to other downloads.
    pub(crate) fn board_beside(&self, promised_bytes: u64) -> Result<Board, Fault> {
        let free_bytes = self.folder.free_bytes().map_err(disk_fault)?;
        Ok(Board {
            name: self.config.board.clone(),
            model_bytes: match self.subject {
                Subject::Agent => BINARY,
                _ => self.config.model_bytes,
            },
            disk_free_bytes: free_bytes.saturating_sub(promised_bytes),
            disk_reserve_bytes: self.config.disk_reserve_bytes,
            storage_left_bytes: self
                .config
                .storage_beside_log()
                .saturating_sub(self.folder.used_bytes())
                .saturating_sub(promised_bytes),
            memory_bytes: self.memory_bytes,
        })
    }

    /// The part of the release in the slot that this device needs: all of a model, its own binary of an agent.
    pub(crate) fn part(&self, place: &Slot, release: Digest) -> Result<ReleaseManifest, Fault> {
        let manifest = place.manifest(release)?;
        if !matches!(self.subject, Subject::Agent) {
            return Ok(manifest);
        }
        let part = manifest.part_for(&self.config.board, &agent_engine(PLATFORM.0, PLATFORM.1));
        part.map_err(|e| Fault::lasting(e.code(), e.to_string()))
    }

    /// Tells the update machine.
    pub(crate) async fn tell(&self, event: Event) {
        // Nobody listens any more only when the agent stops.
        let _ = self.news.send(self.news_of(event)).await;
    }

    pub(crate) async fn fetch_release(
        self,
        cancel: CancellationToken,
        ticket: u64,
        slot: SlotName,
        release: Digest,
        bytes: u32,
    ) {
        let result = match self.facts(&cancel, &self.slot(slot), release, bytes).await {
            Ok(facts) => Ok(facts),
            Err(Stopped::Fault(fault)) => Err(fault),
            Err(Stopped::Cancelled) => return,
        };
        self.tell(Event::EnvelopeFetched { ticket, result }).await;
    }

    pub(crate) async fn facts(
        &self,
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
            None => (self.fetcher.document(release, bytes as usize, cancel).await?, false),
        };
        let board = self.board()?;
        let manifest = self.clock.examine(|now_ms| {
            let present = |manifest: &_| slot.present_bytes(manifest);
            match &self.subject {
                Subject::Model { name, .. } | Subject::Shadow { name, .. } => {
                    examine(&envelope, release, name, &self.trust, now_ms, &board, present)
                }
                Subject::Measurement { .. } => {
                    examine_measurement(&envelope, release, &self.trust, now_ms, &board, present)
                }
                Subject::Agent => {
                    examine_agent(&envelope, release, &self.trust, now_ms, &board, PLATFORM, present)
                }
            }
        })?;
        let needed = manifest.constraints.memory_bytes;
        if let Some(holder) = self.holder().filter(|holder| needed > self.shares.left(holder)) {
            return Err(self.shares.refusal(&holder, needed).into());
        }
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

    pub(crate) async fn fetch_files(
        self,
        cancel: CancellationToken,
        ticket: u64,
        slot: SlotName,
        release: Digest,
    ) {
        let result = match self.files(&cancel, ticket, slot, release).await {
            Ok(()) => Ok(()),
            Err(Stopped::Fault(fault)) => Err(fault),
            Err(Stopped::Cancelled) => return,
        };
        self.tell(Event::FilesComplete { ticket, result }).await;
    }

    async fn files(
        &self,
        cancel: &CancellationToken,
        ticket: u64,
        slot: SlotName,
        release: Digest,
    ) -> Result<(), Stopped> {
        let (place, others, own) = (self.slot(slot), self.other_slots(slot), self.clone());
        let target = place.clone();
        let (part, mut download) = blocking(move || {
            let part = own.part(&target, release)?;
            let mut download = Download::files(&part.files);
            target.resume(&part, &mut download)?;
            Ok((part, download))
        })
        .await?;
        let _room = self.fetcher.rooms().promise(&place, &part, |promised| self.board_beside(promised))?;
        let target = place.clone();
        let (part, mut download, reused) = blocking(move || {
            let reused = target.reuse(&part, &others, &mut download)?;
            Ok((part, download, reused))
        })
        .await?;
        if reused > 0 {
            let model = self.model().map(ModelName::as_str);
            tracing::info!(model, bytes = reused, "copied from what was on the device already");
            self.tell(Event::FilesReused { ticket, bytes: reused }).await;
        }
        let patching = Patching { desk: self, cancel, ticket, place: &place, part: &part };
        download = patching.run(self.other_slots(slot), download).await?;
        let mut progress = self.progress(ticket, 0);
        progress(download.bytes_done());
        let mut put = |chunk: &_| place.write(&part, chunk);
        self.fetcher.run(&mut download, &mut put, cancel, &mut progress).await
    }

    /// Says how far it is, with so many bytes done elsewhere.
    pub(crate) fn progress(&self, ticket: u64, elsewhere: u64) -> impl FnMut(u64) + Send {
        move |bytes_done| {
            // A figure that finds no room is followed by a later one.
            let event = Event::FileProgress { ticket, bytes_done: bytes_done + elsewhere };
            let _ = self.news.try_send(self.news_of(event));
        }
    }

    pub(crate) async fn verify_files(self, ticket: u64, slot: SlotName, release: Digest) {
        let own = self.clone();
        let result = blocking(move || {
            let place = own.slot(slot);
            let part = own.part(&place, release)?;
            place.finish(&part)?;
            match own.subject {
                Subject::Model { .. } | Subject::Shadow { .. } | Subject::Measurement { .. } => Ok(()),
                Subject::Agent => upgrade::make_program(&place, &part),
            }
        });
        let result = result.await;
        self.tell(Event::FilesVerified { ticket, result }).await;
    }

    pub(crate) async fn probe(self, cancel: CancellationToken, ticket: u64, slot: SlotName, release: Digest) {
        let place = self.slot(slot);
        // The child does not outlive the future that is dropped here.
        if let Some(result) = cancel.run_until_cancelled(self.try_out(&place, release)).await {
            self.tell(Event::ProbeDone { ticket, result }).await;
        }
    }

    /// Memory that a child of this holder may take now.
    pub(crate) fn memory_for(&self, holder: &Holder, manifest: &ReleaseManifest) -> Result<u64, Fault> {
        let memory_bytes = self.child_memory(manifest).min(self.shares.left(holder));
        if memory_bytes < PROBE_BASE {
            return Err(self.shares.refusal(holder, PROBE_BASE));
        }
        Ok(memory_bytes)
    }

    async fn try_out(&self, place: &Slot, release: Digest) -> Result<ProbeReport, Fault> {
        // One at a time: two at once would falsify each other's latency and take twice the memory.
        let _turn =
            self.probes.acquire().await.map_err(|e| Fault::transient(ErrorCode::Cancelled, e.to_string()))?;
        let bounds = ProbeLimits {
            memory_bytes: self.config.probe_memory_bytes,
            timeout: Duration::from_secs(self.config.probe_timeout_s),
            latency_us: 0,
        };
        let (Subject::Model { exe, prefix, .. } | Subject::Shadow { exe, prefix, .. }, Some(holder)) =
            (&self.subject, self.holder())
        else {
            return upgrade::try_out(self, place, release, bounds).await;
        };
        let manifest = place.manifest(release)?;
        let (own, left) = (self.child_memory(&manifest), self.shares.left(&holder));
        let memory_bytes = self.memory_for(&holder, &manifest)?;
        let bounds = ProbeLimits { memory_bytes, latency_us: manifest.constraints.latency_us, ..bounds };
        let probed = probe::run(exe, prefix, place.path(), &self.config.board, bounds).await;
        // Before the turn is over, so that the next one counts it.
        if let Ok(report) = &probed {
            self.shares.raise(holder.clone(), report.peak_rss_bytes);
        }
        probed.map_err(|error| match &error {
            ProbeError::Memory { .. } if left < own => self.shares.refusal(&holder, left),
            // That the child could not even be started says nothing about the candidate.
            ProbeError::Spawn(source) => Fault::transient(ErrorCode::Internal, format!("{error}: {source}")),
            // Nor does a disk that cannot be read just now.
            ProbeError::Refused { code: ErrorCode::StorageIo, .. } => {
                Fault::transient(ErrorCode::StorageIo, error.to_string())
            }
            _ => Fault::lasting(error.code(), error.to_string()),
        })
    }
}

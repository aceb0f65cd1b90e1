//! Work for the update machines, one piece after the other: fetching, verifying, probing. One download has the link at a
//! time, as on a real device.

use super::{Device, Filled};
use flotilla_agent::fetch::PATIENCE;
use flotilla_device::Fault;
use flotilla_device::download::{Download, Moment, Next, Verdict};
use flotilla_device::update::{Event, Promise, ReleaseFacts};
use flotilla_protocol::message::{Chunk, ProbeReport, Reply, ReplyBody, SlotName};
use flotilla_protocol::topic::Up;
use flotilla_protocol::{Digest, ErrorCode, ModelName, ReleaseManifest, codec, limits};
use rand::Rng;
use std::collections::HashSet;
use std::sync::Arc;

/// One piece of work.
pub(super) struct Job {
    model: ModelName,
    ticket: u64,
    slot: SlotName,
    release: Digest,
    cancelled: bool,
    kind: Kind,
}

enum Kind {
    Release { bytes: u32 },
    Document { download: Box<Download>, content: Vec<u8>, due_ms: u64 },
    Files,
    Filling { download: Box<Download>, manifest: Arc<ReleaseManifest>, due_ms: u64 },
    Verify,
    Probe { due_ms: u64 },
    Clear,
}

impl Job {
    fn new(model: ModelName, ticket: u64, slot: SlotName, release: Digest, kind: Kind) -> Self {
        Self { model, ticket, slot, release, cancelled: false, kind }
    }

    pub(super) fn release(
        model: ModelName,
        ticket: u64,
        slot: SlotName,
        release: Digest,
        bytes: u32,
    ) -> Self {
        Self::new(model, ticket, slot, release, Kind::Release { bytes })
    }

    pub(super) fn files(model: ModelName, ticket: u64, slot: SlotName, release: Digest) -> Self {
        Self::new(model, ticket, slot, release, Kind::Files)
    }

    pub(super) fn verify(model: ModelName, ticket: u64, slot: SlotName, release: Digest) -> Self {
        Self::new(model, ticket, slot, release, Kind::Verify)
    }

    pub(super) fn probe(model: ModelName, ticket: u64, slot: SlotName, release: Digest, due_ms: u64) -> Self {
        Self::new(model, ticket, slot, release, Kind::Probe { due_ms })
    }

    pub(super) fn clear(model: ModelName, slot: SlotName) -> Self {
        Self::new(model, 0, slot, Digest::from_bytes([0; 32]), Kind::Clear)
    }

    fn download(&mut self) -> Option<(&mut Download, &mut u64)> {
        match &mut self.kind {
            Kind::Document { download, due_ms, .. } | Kind::Filling { download, due_ms, .. } => {
                Some((download, due_ms))
            }
            _ => None,
        }
    }
}

/// What became of a piece of work.
enum Outcome {
    /// It goes on as this, at once.
    Goes(Kind),
    /// It waits for time or a message.
    Waits(Kind),
    /// It has ended with news.
    News(Event),
    /// It has ended without.
    Over,
}

impl Device {
    pub(super) fn jobs_due_ms(&self) -> Option<u64> {
        match self.run.jobs.front()?.kind {
            Kind::Document { due_ms, .. } | Kind::Filling { due_ms, .. } if self.run.session.is_up() => {
                Some(due_ms)
            }
            Kind::Document { .. } | Kind::Filling { .. } => None,
            Kind::Probe { due_ms } => Some(due_ms),
            _ => Some(0),
        }
    }

    pub(super) fn cancel_jobs(&mut self, model: &ModelName) {
        let of_model = |job: &&mut Job| job.model == *model;
        self.run.jobs.iter_mut().filter(of_model).for_each(|job| job.cancelled = true);
    }

    /// Does what can be done now.
    pub(super) fn work(&mut self, now_ms: u64) {
        while let Some(Job { model, ticket, slot, release, cancelled, kind }) = self.run.jobs.pop_front() {
            let place = (&model, slot, release);
            let outcome = match kind {
                Kind::Clear => {
                    self.kept(&model).slots[at(slot)] = None;
                    self.on_cleared(&model);
                    Outcome::Over
                }
                _ if cancelled => Outcome::Over,
                Kind::Release { bytes } => self.begin_release(place, ticket, bytes),
                Kind::Document { download, content, due_ms } => {
                    self.fetch_document(place, ticket, download, content, due_ms)
                }
                Kind::Files => self.begin_files(place, ticket),
                Kind::Filling { mut download, manifest, due_ms } => match self.fetch(&mut download, due_ms) {
                    Ok(None) => Outcome::News(Event::FilesComplete { ticket, result: Ok(()) }),
                    Ok(Some(due_ms)) => Outcome::Waits(Kind::Filling { download, manifest, due_ms }),
                    Err(fault) => Outcome::News(Event::FilesComplete { ticket, result: Err(fault) }),
                },
                Kind::Verify => Outcome::News(Event::FilesVerified { ticket, result: self.verify(place) }),
                Kind::Probe { due_ms } if now_ms < due_ms => Outcome::Waits(Kind::Probe { due_ms }),
                Kind::Probe { .. } => Outcome::News(Event::ProbeDone { ticket, result: self.probe(place) }),
            };
            let again = |kind| Job { model: model.clone(), ticket, slot, release, cancelled: false, kind };
            match outcome {
                Outcome::Goes(kind) => self.run.jobs.push_front(again(kind)),
                Outcome::Waits(kind) => return self.run.jobs.push_front(again(kind)),
                Outcome::News(event) => {
                    self.give(&model, event);
                    self.hear();
                }
                Outcome::Over => {}
            }
        }
    }

    pub(super) fn filled(&self, model: &ModelName, slot: SlotName) -> Option<&Filled> {
        self.disk.models.get(model)?.slots[at(slot)].as_ref()
    }

    // === the envelope ===

    fn begin_release(
        &mut self,
        (model, slot, release): (&ModelName, SlotName, Digest),
        ticket: u64,
        bytes: u32,
    ) -> Outcome {
        if bytes as usize > limits::ENVELOPE {
            let detail = format!("its document has {bytes} bytes; {} are possible", limits::ENVELOPE);
            let result = Err(Fault::lasting(ErrorCode::TooLarge, detail));
            return Outcome::News(Event::EnvelopeFetched { ticket, result });
        }
        let known = self.library_knows(release);
        let place = &mut self.kept(model).slots[at(slot)];
        if place.as_ref().is_none_or(|filled| filled.release != release) {
            *place = Some(Filled { release, manifest: None, chunks: HashSet::new() });
        }
        let here = place.as_ref().is_some_and(|filled| filled.manifest.is_some());
        match known.filter(|_| here) {
            Some(manifest) => Outcome::News(Event::EnvelopeFetched { ticket, result: Ok(facts(&manifest)) }),
            None => Outcome::Goes(Kind::Document {
                download: Box::new(Download::document(release, bytes.into())),
                content: vec![0; bytes as usize],
                due_ms: 0,
            }),
        }
    }

    fn library_knows(&self, release: Digest) -> Option<Arc<ReleaseManifest>> {
        self.world.library.known(release, &self.disk.trust)
    }

    fn fetch_document(
        &mut self,
        (model, slot, release): (&ModelName, SlotName, Digest),
        ticket: u64,
        mut download: Box<Download>,
        content: Vec<u8>,
        due_ms: u64,
    ) -> Outcome {
        let result = match self.fetch(&mut download, due_ms) {
            Ok(Some(due_ms)) => return Outcome::Waits(Kind::Document { download, content, due_ms }),
            Ok(None) if Digest::of(&content) != release => {
                let moment = self.moment();
                download.restart(&moment);
                return Outcome::Goes(Kind::Document { download, content, due_ms: 0 });
            }
            Ok(None) => {
                let (world, now_ms) = (Arc::clone(&self.world), self.clock.trusted_ms());
                world.library.examine(
                    &content,
                    release,
                    model,
                    &self.disk.trust,
                    now_ms,
                    &world.options.board,
                )
            }
            Err(fault) => Err(fault),
        };
        let result = result.map(|manifest| {
            let facts = facts(&manifest);
            if let Some(filled) = &mut self.kept(model).slots[at(slot)] {
                filled.manifest = Some(manifest);
            }
            facts
        });
        Outcome::News(Event::EnvelopeFetched { ticket, result })
    }

    // === the files ===

    fn begin_files(
        &mut self,
        (model, slot, release): (&ModelName, SlotName, Digest),
        ticket: u64,
    ) -> Outcome {
        let manifest = self.filled(model, slot).filter(|filled| filled.release == release);
        let Some(manifest) = manifest.and_then(|filled| filled.manifest.clone()) else {
            let result = Err(Fault::transient(ErrorCode::NotFound, "the slot holds no document"));
            return Outcome::News(Event::FilesComplete { ticket, result });
        };
        let mut download = Box::new(Download::files(&manifest.files));
        let chunks = |slot| self.filled(model, slot).map(|filled| filled.chunks.clone()).unwrap_or_default();
        let (own, other) = (chunks(slot), chunks(slot.other()));
        let mut mark = |have: &HashSet<Digest>| {
            let before = download.bytes_done();
            for file in &manifest.files {
                for (index, _) in file.chunks.iter().enumerate().filter(|(_, chunk)| have.contains(chunk)) {
                    download.have(file.digest, index);
                }
            }
            download.bytes_done() - before
        };
        mark(&own);
        let reused = mark(&other);
        let bytes_done = download.bytes_done();
        if let Some(filled) = &mut self.kept(model).slots[at(slot)] {
            let of_release = |chunk: &&Digest| manifest.files.iter().any(|file| file.chunks.contains(chunk));
            filled.chunks.extend(other.iter().filter(of_release));
        }
        if reused > 0 {
            self.give(model, Event::FilesReused { ticket, bytes: reused });
        }
        self.give(model, Event::FileProgress { ticket, bytes_done });
        Outcome::Goes(Kind::Filling { download, manifest, due_ms: 0 })
    }

    fn verify(&self, (model, slot, release): (&ModelName, SlotName, Digest)) -> Result<(), Fault> {
        let filled = self.filled(model, slot).filter(|filled| filled.release == release);
        let manifest = filled.and_then(|filled| filled.manifest.as_ref());
        let manifest = manifest.ok_or_else(|| Fault::transient(ErrorCode::NotFound, "the slot is empty"))?;
        manifest.files.iter().try_for_each(|file| self.world.library.verify(file))
    }

    fn probe(&mut self, (_, _, release): (&ModelName, SlotName, Digest)) -> Result<ProbeReport, Fault> {
        if self.world.probe_fails(self.index, release) {
            let detail = "the simulated probe gives other golden outputs";
            return Err(Fault::lasting(ErrorCode::ProbeMismatch, detail));
        }
        let p50_ms = self.nature.latency_us / 1_000.0;
        Ok(ProbeReport {
            vectors: 16,
            max_abs_error: 1e-6,
            p50_ms,
            p95_ms: 2.0 * p50_ms,
            peak_rss_bytes: self.rng.random_range(20..30) * limits::MIB as u64,
        })
    }

    // === downloads ===

    fn moment(&mut self) -> Moment {
        Moment {
            now_ms: self.clock.now_ms(),
            wall_ms: self.clock.believed_wall_ms(),
            random: self.rng.random(),
        }
    }

    /// Lets a download ask for what is missing. Gives the moment to look again; none if everything is here.
    fn fetch(&mut self, download: &mut Download, due_ms: u64) -> Result<Option<u64>, Fault> {
        if !self.run.session.is_up() {
            download.disconnected();
            return Ok((!download.is_complete()).then_some(due_ms));
        }
        loop {
            give_up_if_hopeless(download)?;
            let (id, moment) = (self.next_question(), self.moment());
            match download.next(id, &mut self.run.pace, &moment) {
                Next::Complete => return Ok(None),
                Next::Wait { until_ms } => {
                    give_up_if_hopeless(download)?;
                    return Ok(Some(until_ms));
                }
                // A fetch that does not get out is like one that is lost: its time runs out.
                Next::Fetch(fetch) => self.publish(Up::Fetch, codec::encode(&fetch)),
            }
        }
    }

    /// A chunk came.
    pub(super) fn on_chunk(&mut self, chunk: &Chunk) {
        let moment = self.moment();
        let Some(mut job) = self.run.jobs.pop_front() else { return };
        let mut progress = None;
        let mut failed = None;
        if !job.cancelled
            && let Some((download, due_ms)) = job.download()
        {
            *due_ms = 0;
            let written = download.accept(chunk, &mut self.run.pace, &moment) == Verdict::Write;
            let bytes_done = download.bytes_done();
            match &mut job.kind {
                Kind::Document { content, .. } if written => {
                    let start = chunk.offset as usize;
                    content[start..start + chunk.data.len()].copy_from_slice(&chunk.data);
                }
                Kind::Filling { manifest, .. } if written => {
                    failed = self.put(&job.model, job.slot, &manifest.clone(), chunk).err();
                    progress = Some(bytes_done);
                }
                _ => {}
            }
        }
        let (model, ticket) = (job.model.clone(), job.ticket);
        match failed {
            Some(fault) => self.give(&model, Event::FilesComplete { ticket, result: Err(fault) }),
            None => {
                self.run.jobs.push_front(job);
                if let Some(bytes_done) = progress {
                    self.give(&model, Event::FileProgress { ticket, bytes_done });
                }
            }
        }
    }

    /// Stores a chunk that is what the manifest says stands there.
    fn put(
        &mut self,
        model: &ModelName,
        slot: SlotName,
        manifest: &ReleaseManifest,
        chunk: &Chunk,
    ) -> Result<(), Fault> {
        let file = manifest.files.iter().find(|file| file.digest == chunk.digest);
        let index = (chunk.offset / limits::CHUNK as u64) as usize;
        let Some(digest) = file.and_then(|file| file.chunks.get(index)) else { return Ok(()) };
        self.world.library.put(*digest, &chunk.data)?;
        if let Some(filled) = &mut self.kept(model).slots[at(slot)] {
            filled.chunks.insert(*digest);
        }
        Ok(())
    }

    /// A refusal came.
    pub(super) fn on_refused(&mut self, reply: &Reply) {
        let ReplyBody::Error { code, detail } = &reply.body else { return };
        let moment = self.moment();
        let Some(mut job) = self.run.jobs.pop_front() else { return };
        let mut over = None;
        if let Some((download, due_ms)) = job.download()
            && download.refused(reply.id, &mut self.run.pace, &moment)
        {
            *due_ms = 0;
            // Asking again at once would be answered in the same way; the update machine tries again, ever later.
            let lasting = matches!(code, ErrorCode::NotFound | ErrorCode::FetchDenied);
            over =
                lasting.then(|| Fault::transient(*code, format!("the cloud does not give it out: {detail}")));
        }
        let (model, ticket) = (job.model.clone(), job.ticket);
        match (over, &job.kind) {
            (Some(fault), Kind::Document { .. }) => {
                self.give(&model, Event::EnvelopeFetched { ticket, result: Err(fault) });
            }
            (Some(fault), _) => self.give(&model, Event::FilesComplete { ticket, result: Err(fault) }),
            (None, _) => self.run.jobs.push_front(job),
        }
    }

    /// The connection of the download that is under way is lost.
    pub(super) fn download_lost_link(&mut self) {
        if let Some((download, due_ms)) = self.run.jobs.front_mut().and_then(Job::download) {
            download.disconnected();
            *due_ms = 0;
        }
    }
}

fn at(slot: SlotName) -> usize {
    match slot {
        SlotName::A => 0,
        SlotName::B => 1,
    }
}

fn facts(manifest: &ReleaseManifest) -> ReleaseFacts {
    ReleaseFacts {
        counter: manifest.counter,
        expires_at_ms: manifest.expires_at_ms,
        total_bytes: Download::files(&manifest.files).bytes_total(),
        promise: Promise {
            latency_us: manifest.constraints.latency_us,
            memory_bytes: manifest.constraints.memory_bytes,
        },
    }
}

fn give_up_if_hopeless(download: &Download) -> Result<(), Fault> {
    if download.troubles() < PATIENCE {
        return Ok(());
    }
    Err(Fault::transient(ErrorCode::Network, "nothing but trouble on the link"))
}

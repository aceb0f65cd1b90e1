//! The slow work of the device, in pieces between which anything may happen: what `daemon/work.rs` and `fetch.rs` do
//! for the effects of the machines.

use super::device::{Device, Managed};
use super::link::Up;
use super::releases::{self, Nature};
use crate::fetch::PATIENCE;
use crate::room::Room;
use crate::slot::{Base, Slot};
use flotilla_device::Fault;
use flotilla_device::download::{Download, Next, Verdict};
use flotilla_device::patch::{Choice, Patches, is_given_up};
use flotilla_device::release::examine;
use flotilla_device::update::{Event, Promise, ReleaseFacts};
use flotilla_protocol::message::{Chunk, ProbeReport, Reply, ReplyBody, SlotName};
use flotilla_protocol::{Digest, ErrorCode, ModelName, ReleaseManifest};

/// A piece of slow work. Those of a model follow one another.
pub(super) struct Job {
    kind: Kind,
    ticket: u64,
    slot: SlotName,
    release: Digest,
    cancelled: bool,
}

enum Kind {
    Release { bytes: u32 },
    Document(Fetching),
    Files,
    Filling { fetching: Fetching, manifest: Box<ReleaseManifest>, _room: Room },
    Patching(Box<Patching>),
    Verify,
    Probe,
    Clear,
}

/// A patch that is being fetched, and what is to be filled with it.
struct Patching {
    fetching: Fetching,
    choice: Choice,
    base: Option<Base>,
    /// The patch alone.
    only: ReleaseManifest,
    left: Filling,
    _room: Room,
}

/// A slot that is being filled.
struct Filling {
    manifest: ReleaseManifest,
    download: Download,
    patches: Patches,
    room: Room,
}

/// A download that is under way.
struct Fetching {
    download: Download,
    /// When to ask again; `None` for when something comes.
    due_ms: Option<u64>,
    /// Of a document.
    content: Vec<u8>,
    /// Why it is not wanted to go on.
    hopeless: Option<Fault>,
}

impl Fetching {
    fn new(download: Download, content: Vec<u8>) -> Self {
        Self { download, due_ms: Some(0), content, hopeless: None }
    }
}

/// What becomes of a job after a piece of it.
enum Progress {
    /// It goes on.
    More(Kind),
    /// It has ended with this news.
    News(Event),
    /// A slot was cleared.
    Cleared,
    /// It has ended without a word.
    Silence,
}

/// A release that is being loaded.
#[derive(Clone, Copy)]
pub(super) struct Load {
    pub(super) ticket: u64,
    pub(super) slot: SlotName,
    pub(super) release: Digest,
}

impl Job {
    fn new(kind: Kind, ticket: u64, slot: SlotName, release: Digest) -> Self {
        Self { kind, ticket, slot, release, cancelled: false }
    }

    pub(super) fn release(ticket: u64, slot: SlotName, release: Digest, bytes: u32) -> Self {
        Self::new(Kind::Release { bytes }, ticket, slot, release)
    }

    pub(super) fn files(ticket: u64, slot: SlotName, release: Digest) -> Self {
        Self::new(Kind::Files, ticket, slot, release)
    }

    pub(super) fn verify(ticket: u64, slot: SlotName, release: Digest) -> Self {
        Self::new(Kind::Verify, ticket, slot, release)
    }

    pub(super) fn probe(ticket: u64, slot: SlotName, release: Digest) -> Self {
        Self::new(Kind::Probe, ticket, slot, release)
    }

    pub(super) fn clear(slot: SlotName) -> Self {
        Self::new(Kind::Clear, 0, slot, Digest::of(&[]))
    }

    /// It ends as soon as it notices, if it can.
    pub(super) fn cancel(&mut self) {
        self.cancelled = true;
    }

    fn fetching(&self) -> Option<&Fetching> {
        match &self.kind {
            Kind::Document(fetching) | Kind::Filling { fetching, .. } => Some(fetching),
            Kind::Patching(patching) => Some(&patching.fetching),
            _ => None,
        }
    }

    fn fetching_mut(&mut self) -> Option<&mut Fetching> {
        match &mut self.kind {
            Kind::Document(fetching) | Kind::Filling { fetching, .. } => Some(fetching),
            Kind::Patching(patching) => Some(&mut patching.fetching),
            _ => None,
        }
    }
}

impl Device {
    /// Whether the first job of a model can go on now.
    pub(super) fn can_work(&self, name: &ModelName, managed: &Managed) -> bool {
        let Some(job) = managed.jobs.front() else { return false };
        let Some(fetching) = job.fetching() else { return true };
        if job.cancelled || fetching.hopeless.is_some() || fetching.download.is_complete() {
            return true;
        }
        let has_link = self.run.on_link.as_ref().is_none_or(|on_link| on_link == name);
        has_link && self.link.is_up() && fetching.due_ms.is_some_and(|at_ms| at_ms <= self.now_ms)
    }

    /// When the download that has the link asks again.
    pub(super) fn download_due_ms(&self) -> Option<u64> {
        let managed = self.run.models.get(self.run.on_link.as_ref()?)?;
        managed.jobs.front()?.fetching()?.due_ms.filter(|_| self.link.is_up())
    }

    /// Does a piece of the first job of a model.
    pub(super) fn work(&mut self, name: &ModelName) {
        let Some(job) = self.run.models.get_mut(name).and_then(|managed| managed.jobs.pop_front()) else {
            return;
        };
        let Job { kind, ticket, slot, release, cancelled } = job;
        let place = self.folder.slot(name, slot);
        let progress = match kind {
            Kind::Verify => {
                let result = place.manifest(release).and_then(|manifest| place.finish(&manifest));
                Progress::News(Event::FilesVerified { ticket, result })
            }
            Kind::Clear => {
                // A slot that is not cleared now is cleared when something comes into it.
                let _ = place.clear();
                Progress::Cleared
            }
            _ if cancelled => Progress::Silence,
            Kind::Probe => Progress::News(Event::ProbeDone { ticket, result: self.probe(&place, release) }),
            Kind::Release { bytes } => match place.prepare(release) {
                Ok(Some(envelope)) => {
                    let result = self.admit(name, &place, release, &envelope, true);
                    Progress::News(Event::EnvelopeFetched { ticket, result })
                }
                Ok(None) => {
                    let download = Download::document(release, bytes.into());
                    Progress::More(Kind::Document(Fetching::new(download, vec![0; bytes as usize])))
                }
                Err(fault) => Progress::News(Event::EnvelopeFetched { ticket, result: Err(fault) }),
            },
            Kind::Document(fetching) => match self.fetch(name, fetching) {
                Fetched::Goes(fetching) => Progress::More(Kind::Document(fetching)),
                Fetched::Failed { fault, .. } => {
                    Progress::News(Event::EnvelopeFetched { ticket, result: Err(fault) })
                }
                Fetched::Complete(mut fetching) if Digest::of(&fetching.content) != release => {
                    fetching.download.restart(&self.moment());
                    fetching.due_ms = Some(0);
                    give_up_if_hopeless(&mut fetching);
                    Progress::More(Kind::Document(fetching))
                }
                Fetched::Complete(fetching) => {
                    let result = self.admit(name, &place, release, &fetching.content, false);
                    Progress::News(Event::EnvelopeFetched { ticket, result })
                }
            },
            Kind::Files => match self.fill(name, slot, release, ticket) {
                Ok(kind) => Progress::More(kind),
                Err(fault) => Progress::News(Event::FilesComplete { ticket, result: Err(fault) }),
            },
            Kind::Patching(patching) => match self.patch(name, slot, ticket, *patching) {
                Ok(kind) => Progress::More(kind),
                Err(fault) => Progress::News(Event::FilesComplete { ticket, result: Err(fault) }),
            },
            Kind::Filling { fetching, manifest, _room } => match self.fetch(name, fetching) {
                Fetched::Goes(fetching) => Progress::More(Kind::Filling { fetching, manifest, _room }),
                Fetched::Failed { fault, .. } => {
                    Progress::News(Event::FilesComplete { ticket, result: Err(fault) })
                }
                Fetched::Complete(_) => Progress::News(Event::FilesComplete { ticket, result: Ok(()) }),
            },
        };
        if self.disk.is_dead() {
            return;
        }
        match progress {
            Progress::More(kind) => {
                let Some(managed) = self.run.models.get_mut(name) else { return };
                managed.jobs.push_front(Job { kind, ticket, slot, release, cancelled });
            }
            ended => {
                self.leave_link(name);
                match ended {
                    Progress::News(event) => self.give(name, event),
                    Progress::Cleared => self.on_cleared(name),
                    Progress::More(_) | Progress::Silence => {}
                }
            }
        }
    }

    fn admit(
        &mut self,
        name: &ModelName,
        place: &Slot,
        release: Digest,
        envelope: &[u8],
        stored: bool,
    ) -> Result<ReleaseFacts, Fault> {
        let board = self.board(self.run.rooms.promised_bytes());
        let trust = &releases::all().trust;
        let present = |manifest: &_| place.present_bytes(manifest);
        let manifest = examine(envelope, release, name, trust, 1, &board, present)?;
        if !stored {
            place.put_envelope(envelope)?;
        }
        Ok(ReleaseFacts {
            counter: manifest.counter,
            expires_at_ms: manifest.expires_at_ms,
            total_bytes: Download::files(&manifest.files).bytes_total(),
            promise: Promise::default(),
        })
    }

    /// Begins to fill a slot: with what is there, and what the other slot has.
    fn fill(
        &mut self,
        name: &ModelName,
        slot: SlotName,
        release: Digest,
        ticket: u64,
    ) -> Result<Kind, Fault> {
        let place = self.folder.slot(name, slot);
        let manifest = place.manifest(release)?;
        let mut download = Download::files(&manifest.files);
        place.resume(&manifest, &mut download)?;
        let board = |promised| Ok(self.board(promised));
        let room = self.run.rooms.promise(&place, &manifest, board)?;
        let others = [self.folder.slot(name, slot.other()), self.folder.shadow(name)];
        let reused = place.reuse(&manifest, &others, &mut download)?;
        if reused > 0 {
            self.give(name, Event::FilesReused { ticket, bytes: reused });
        }
        let patches = Patches::of(&manifest.files);
        Ok(self.fill_on(name, slot, ticket, Filling { manifest, download, patches, room }))
    }

    /// Goes on filling a slot: with the next patch that helps, or with what is fetched.
    fn fill_on(&mut self, name: &ModelName, slot: SlotName, ticket: u64, mut left: Filling) -> Kind {
        let place = self.folder.slot(name, slot);
        let others = [self.folder.slot(name, slot.other()), self.folder.shadow(name)];
        let base_of = |digest: &Digest| others.iter().find_map(|slot| slot.base(digest));
        let held = |digest: &Digest| base_of(digest).is_some();
        while let Some(choice) = left.patches.next(&left.download, held, |patch| place.patch_bytes(patch)) {
            let base = choice.patch.base.as_ref().and_then(base_of);
            match self.begin_patch(&place, &choice, base.as_ref(), &left.manifest) {
                Ok((fetching, only, room)) => {
                    let patching = Patching { fetching, choice, base, only, left, _room: room };
                    return Kind::Patching(Box::new(patching));
                }
                Err(fault) => self.give(name, Event::PatchFailed { ticket, fault }),
            }
        }
        let Filling { manifest, download, room, .. } = left;
        let fetching = Fetching::new(download, Vec::new());
        Kind::Filling { fetching, manifest: Box::new(manifest), _room: room }
    }

    fn begin_patch(
        &self,
        place: &Slot,
        choice: &Choice,
        base: Option<&Base>,
        manifest: &ReleaseManifest,
    ) -> Result<(Fetching, ReleaseManifest, Room), Fault> {
        base.map_or(Ok(()), Base::check)?;
        let only = ReleaseManifest { files: vec![choice.patch.entry()], ..manifest.clone() };
        let mut download = Download::files(&only.files);
        place.resume(&only, &mut download)?;
        let room = self.run.rooms.promise(place, &only, |promised| Ok(self.board(promised)))?;
        Ok((Fetching::new(download, Vec::new()), only, room))
    }

    /// Goes on with a patch: fetches it, and applies it once it is here.
    fn patch(
        &mut self,
        name: &ModelName,
        slot: SlotName,
        ticket: u64,
        mut patching: Patching,
    ) -> Result<Kind, Fault> {
        let failed = match self.fetch(name, patching.fetching) {
            Fetched::Goes(fetching) => {
                patching.fetching = fetching;
                return Ok(Kind::Patching(Box::new(patching)));
            }
            Fetched::Failed { fault, given_up: false } => return Err(fault),
            Fetched::Failed { fault, given_up: true } => Some(fault),
            Fetched::Complete(_) => None,
        };
        self.leave_link(name);
        let Patching { choice, base, mut left, .. } = patching;
        let place = self.folder.slot(name, slot);
        let made = match failed {
            None => place.rebuild(&left.manifest, &choice, base.as_ref(), &mut left.download, &|| false),
            Some(fault) => place.remove_patch(&choice.patch).and(Err(fault)),
        };
        let event = match made {
            Ok(bytes) => {
                self.seen.patched += 1;
                Event::FilesRebuilt { ticket, bytes, patch_bytes: choice.patch.bytes }
            }
            Err(fault) => {
                self.seen.unpatched += 1;
                Event::PatchFailed { ticket, fault }
            }
        };
        self.give(name, event);
        Ok(self.fill_on(name, slot, ticket, left))
    }

    /// The probe reads the whole release as its child would, and then does what the release's nature says.
    fn probe(&mut self, place: &Slot, release: Digest) -> Result<ProbeReport, Fault> {
        self.read_whole(place, release)?;
        match releases::all().find(release).nature {
            Nature::FailsProbe => {
                Err(Fault::lasting(ErrorCode::ProbeMismatch, "its golden outputs are others"))
            }
            Nature::KillsProbed => {
                self.disk.kill();
                Err(Fault::transient(ErrorCode::Internal, "nobody hears this"))
            }
            _ => Ok(ProbeReport {
                vectors: 1,
                max_abs_error: 0.0,
                p50_ms: 1.0,
                p95_ms: 1.0,
                peak_rss_bytes: 1,
            }),
        }
    }

    fn read_whole(&self, place: &Slot, release: Digest) -> Result<(), Fault> {
        place.check(&place.manifest(release)?)
    }

    /// Loads what is to serve.
    pub(super) fn load(&mut self, name: &ModelName) {
        let Some(load) = self.run.models.get_mut(name).and_then(|managed| managed.load.take()) else {
            return;
        };
        let Load { ticket, slot, release } = load;
        let read = self.read_whole(&self.folder.slot(name, slot), release);
        if self.disk.is_dead() {
            return;
        }
        let event = match (read, releases::all().find(release).nature) {
            (Err(fault), _) => Event::LoadFailed { ticket, fault },
            (Ok(()), Nature::FailsLoad) => {
                let fault = Fault::lasting(ErrorCode::ModelUnsupported, "an operator is not known here");
                Event::LoadFailed { ticket, fault }
            }
            (Ok(()), Nature::KillsLoaded) => return self.disk.kill(),
            (Ok(()), _) => {
                self.check_installed(name, slot, release);
                if let Some(managed) = self.run.models.get_mut(name) {
                    managed.serving = Some((slot, release));
                }
                Event::SwitchDone { ticket }
            }
        };
        self.give(name, event);
    }

    // === downloads ===

    /// Lets a download ask for what is missing, as far as it is its turn.
    fn fetch(&mut self, name: &ModelName, mut fetching: Fetching) -> Fetched {
        if let Some(fault) = fetching.hopeless.take() {
            let given_up = is_given_up(&fault, &fetching.download);
            return Fetched::Failed { fault, given_up };
        }
        if fetching.download.is_complete() {
            return Fetched::Complete(fetching);
        }
        if !self.link.is_up() || self.run.on_link.as_ref().is_some_and(|on_link| on_link != name) {
            return Fetched::Goes(fetching);
        }
        self.run.on_link = Some(name.clone());
        loop {
            self.run.fetches += 1;
            let (id, moment) = (self.run.fetches, self.moment());
            match fetching.download.next(id, &mut self.run.pace, &moment) {
                Next::Complete => return Fetched::Complete(fetching),
                Next::Wait { until_ms } => {
                    fetching.due_ms = (until_ms < u64::MAX).then_some(until_ms);
                    give_up_if_hopeless(&mut fetching);
                    return Fetched::Goes(fetching);
                }
                Next::Fetch(fetch) => self.link.send_up(Up::Fetch(fetch), self.now_ms, &mut self.rng),
            }
        }
    }

    fn leave_link(&mut self, name: &ModelName) {
        if self.run.on_link.as_ref() == Some(name) {
            self.run.on_link = None;
        }
    }

    /// The job whose download has the link.
    fn on_link(&mut self) -> Option<(ModelName, Job)> {
        let name = self.run.on_link.clone()?;
        let job = self.run.models.get_mut(&name)?.jobs.pop_front()?;
        Some((name, job))
    }

    fn put_back(&mut self, name: &ModelName, job: Job) {
        if let Some(managed) = self.run.models.get_mut(name) {
            managed.jobs.push_front(job);
        }
    }

    /// A chunk came.
    pub(super) fn on_chunk(&mut self, chunk: &Chunk) {
        let Some((name, mut job)) = self.on_link() else { return };
        let (ticket, place, moment) = (job.ticket, self.folder.slot(&name, job.slot), self.moment());
        let mut bytes_done = None;
        let manifest = match &job.kind {
            Kind::Filling { manifest, .. } => Some(manifest.clone()),
            Kind::Patching(patching) => Some(Box::new(patching.only.clone())),
            _ => None,
        };
        let of_patch = matches!(job.kind, Kind::Patching(_));
        if !job.cancelled
            && let Some(fetching) = job.fetching_mut()
        {
            if fetching.download.accept(chunk, &mut self.run.pace, &moment) == Verdict::Write {
                bytes_done = Some(fetching.download.bytes_done());
                match manifest {
                    Some(manifest) => fetching.hopeless = place.write(&manifest, chunk).err(),
                    None => {
                        let start = chunk.offset as usize;
                        fetching.content[start..start + chunk.data.len()].copy_from_slice(&chunk.data);
                        bytes_done = None;
                    }
                }
            }
            fetching.due_ms = Some(0);
            give_up_if_hopeless(fetching);
        }
        self.put_back(&name, job);
        if let Some(bytes_done) = bytes_done.filter(|_| !of_patch)
            && !self.disk.is_dead()
        {
            self.give(&name, Event::FileProgress { ticket, bytes_done });
        }
    }

    /// A refusal came.
    pub(super) fn on_refused(&mut self, reply: &Reply) {
        let ReplyBody::Error { code, .. } = &reply.body else { return };
        let Some((name, mut job)) = self.on_link() else { return };
        let moment = self.moment();
        if let Some(fetching) = job.fetching_mut()
            && fetching.download.refused(reply.id, &mut self.run.pace, &moment)
        {
            fetching.due_ms = Some(0);
            if matches!(code, ErrorCode::NotFound | ErrorCode::FetchDenied) {
                fetching.hopeless = Some(Fault::transient(*code, "the cloud does not give it out"));
            }
            give_up_if_hopeless(fetching);
        }
        self.put_back(&name, job);
    }

    /// The connection of the download that is under way is lost.
    pub(super) fn download_lost_link(&mut self) {
        let Some((name, mut job)) = self.on_link() else { return };
        if let Some(fetching) = job.fetching_mut() {
            fetching.download.disconnected();
            fetching.due_ms = Some(0);
        }
        self.put_back(&name, job);
    }
}

enum Fetched {
    Goes(Fetching),
    Complete(Fetching),
    Failed {
        fault: Fault,
        /// As of a patch: whether the file itself may be had.
        given_up: bool,
    },
}

fn give_up_if_hopeless(fetching: &mut Fetching) {
    if fetching.download.troubles() >= PATIENCE && fetching.hopeless.is_none() {
        fetching.hopeless = Some(Fault::transient(ErrorCode::Network, "nothing but trouble"));
    }
}

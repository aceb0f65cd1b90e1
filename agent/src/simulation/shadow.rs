//! A shadow on a disk that tears, loses, reorders and fails: its machine, journal and place are the real ones, and so is the
//! slot of the confirmed release beside it, which must come through untouched.

use super::disk::{Down, VirtualDisk};
use super::releases::{self, Nature, Release};
use crate::daemon::journals;
use crate::disk::Disk;
use crate::folder::Folder;
use crate::slot::Slot;
use flotilla_device::Fault;
use flotilla_device::download::Download;
use flotilla_device::release::{Board, examine};
use flotilla_device::shadow::{Beside, Context, Effect, End, Event, Shadow, ShadowJournal, ShadowStep};
use flotilla_device::update::{self, Promise, ReleaseFacts};
use flotilla_protocol::message::{Chunk, ProbeReport, ShadowPhase, ShadowRelease, SlotName};
use flotilla_protocol::{Digest, ErrorCode, ModelName, ReleaseManifest, limits};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

const SEEDS: u64 = 500;
const ROOM: u64 = 8 << 20;

struct Bench {
    disk: Arc<VirtualDisk>,
    folder: Folder,
    rng: SmallRng,
    now_ms: u64,
    kills: u64,
    attempt: u32,
    wanted: Option<ShadowRelease>,
    machine: Shadow,
    work: VecDeque<Effect>,
    runs: Option<(u64, Digest)>,
    tick_ms: Option<u64>,
    /// Steps whose journal could not be written.
    again: Vec<Event>,
    label: String,
}

fn name() -> ModelName {
    releases::large()
}

fn confirmed() -> &'static Release {
    &releases::all().of(&name())[0]
}

impl Bench {
    /// A device with a confirmed release in slot A.
    fn new(seed: u64) -> Self {
        let disk = Arc::new(VirtualDisk::new(seed, ROOM));
        let folder = Folder::with_disk(Path::new("/nowhere"), Arc::clone(&disk) as Arc<dyn Disk>);
        let mut bench = Self {
            disk,
            folder,
            rng: SmallRng::seed_from_u64(seed),
            now_ms: 0,
            kills: 0,
            attempt: 0,
            wanted: None,
            machine: Shadow::new(name(), ShadowJournal::default()),
            work: VecDeque::new(),
            runs: None,
            tick_ms: None,
            again: Vec::new(),
            label: format!("seed {seed}"),
        };
        let slot = bench.folder.slot(&name(), SlotName::A);
        bench
            .disk
            .calmly(|| {
                slot.prepare(confirmed().digest)?;
                slot.put_envelope(&confirmed().envelope)?;
                let manifest = slot.manifest(confirmed().digest)?;
                fill(&slot, &manifest, &[])?;
                slot.finish(&manifest)
            })
            .unwrap();
        bench.disk.touched();
        bench.boot();
        bench
    }

    fn place(&self) -> Slot {
        self.folder.shadow(&name())
    }

    fn ctx(&mut self) -> Context {
        let release = confirmed().digest;
        Context {
            now_ms: self.now_ms,
            trusted_now_ms: 1,
            floor: releases::all().trust.floor(&name()),
            confirmed: Some(release),
            beside: Some(Beside { release, memory_bytes: 1 }),
            coming: None,
            memory_bytes: 0,
            random: self.rng.random(),
        }
    }

    fn boot(&mut self) {
        let journal = journals::read_shadow(&self.folder, &name());
        // A disk that fails is no torn journal; the daemon begins anew then, too.
        self.machine = Shadow::new(name(), journal.unwrap_or_default());
        (self.runs, self.tick_ms) = (None, None);
        self.work.clear();
        self.again.clear();
        self.give(Event::Desired(None));
    }

    fn give(&mut self, event: Event) {
        if self.disk.is_dead() {
            return;
        }
        let event = match event {
            Event::Desired(_) => Event::Desired(self.wanted.clone()),
            other => other,
        };
        let ctx = self.ctx();
        let (next, effects) = self.machine.step(event.clone(), &ctx);
        if let Some(Effect::PersistJournal(journal)) = effects.first()
            && journals::store_shadow(&self.folder, &name(), journal).is_err()
        {
            return self.again.push(event);
        }
        self.machine = next;
        for effect in effects {
            self.disk.pass();
            match effect {
                _ if self.disk.is_dead() => return,
                Effect::Stop => self.runs = None,
                Effect::Cancel => self.work.retain(|work| *work == Effect::Clear),
                Effect::ScheduleTick { at_ms } => self.tick_ms = Some(at_ms),
                Effect::Start { ticket, release, against, .. } => {
                    assert_eq!(against, confirmed().digest);
                    self.runs = Some((ticket, release));
                    self.work.push_back(effect);
                }
                Effect::PersistJournal(_) | Effect::Report | Effect::EmitEvent(_) | Effect::Share { .. } => {}
                work => self.work.push_back(work),
            }
        }
    }

    /// Does the next piece of work.
    fn work(&mut self) {
        let Some(work) = self.work.pop_front() else { return };
        let place = self.place();
        let intake = Event::Intake;
        let event = match work {
            Effect::FetchRelease { ticket, release, .. } => {
                intake(update::Event::EnvelopeFetched { ticket, result: self.admit(&place, release) })
            }
            Effect::FetchFiles { ticket, release } => {
                let others = [SlotName::A, SlotName::B].map(|slot| self.folder.slot(&name(), slot));
                let result = place.manifest(release).and_then(|manifest| fill(&place, &manifest, &others));
                intake(update::Event::FilesComplete { ticket, result })
            }
            Effect::VerifyFiles { ticket, release } => {
                let result = place.manifest(release).and_then(|manifest| place.finish(&manifest));
                intake(update::Event::FilesVerified { ticket, result })
            }
            Effect::Probe { ticket, release } => {
                let result = self.probe(&place, release);
                intake(update::Event::ProbeDone { ticket, result })
            }
            Effect::Start { ticket, release, .. } if self.runs == Some((ticket, release)) => {
                self.start(&place, ticket, release)
            }
            Effect::Clear => {
                // What is not cleared now is cleared after the next start, or when something comes.
                let _ = place.clear();
                return;
            }
            _ => return,
        };
        self.give(event);
    }

    fn admit(&self, place: &Slot, release: Digest) -> Result<ReleaseFacts, Fault> {
        let here = place.prepare(release)?;
        let envelope = here.clone().unwrap_or_else(|| releases::all().find(release).envelope.clone());
        let board = Board {
            name: "generic".to_owned(),
            model_bytes: limits::MIB as u64,
            disk_free_bytes: self.disk.free_bytes(),
            disk_reserve_bytes: 0,
            storage_left_bytes: u64::MAX,
            memory_bytes: 0,
        };
        let present = |manifest: &_| place.present_bytes(manifest);
        let trust = &releases::all().trust;
        let manifest = examine(&envelope, release, &name(), trust, 1, &board, present)?;
        if here.is_none() {
            place.put_envelope(&envelope)?;
        }
        Ok(ReleaseFacts {
            counter: manifest.counter,
            expires_at_ms: manifest.expires_at_ms,
            total_bytes: Download::files(&manifest.files).bytes_total(),
            promise: Promise::default(),
        })
    }

    fn probe(&self, place: &Slot, release: Digest) -> Result<ProbeReport, Fault> {
        place.check(&place.manifest(release)?)?;
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

    /// What the child says, which loads what its parent has checked and counted.
    fn start(&mut self, place: &Slot, ticket: u64, release: Digest) -> Event {
        let stored = self.disk.calmly(|| journals::read_shadow(&self.folder, &name())).unwrap();
        let held = stored.held.unwrap();
        assert_eq!((held.release, held.step), (release, ShadowStep::Passed), "{}", self.label);
        assert!(held.starts > 0, "{}: started without being counted", self.label);
        let ended = |end| Event::Ended { ticket, end };
        if let Err(fault) = place.manifest(release).and_then(|manifest| place.check(&manifest)) {
            return ended(End::Refused(fault));
        }
        match releases::all().find(release).nature {
            Nature::FailsLoad => ended(End::Refused(Fault::lasting(ErrorCode::ModelUnsupported, "unknown"))),
            Nature::FailsUnderLoad => {
                ended(End::Crashed(Fault::lasting(ErrorCode::ModelCrashed, "signal 11")))
            }
            Nature::KillsLoaded => {
                self.disk.kill();
                Event::Tick
            }
            _ => Event::Runs { ticket },
        }
    }

    fn chance(&mut self) {
        self.now_ms += self.rng.random_range(0..2_000);
        match self.rng.random_range(0..20) {
            0 => {
                self.attempt += 1;
                let all = releases::all().of(&name());
                let release = &all[self.rng.random_range(0..all.len())];
                let wanted = ShadowRelease {
                    release: release.digest,
                    envelope_bytes: release.envelope.len() as u32,
                    attempt: self.attempt,
                    share_per_mille: 1_000,
                };
                self.wanted = self.rng.random_bool(0.85).then_some(wanted);
                self.give(Event::Desired(None));
            }
            1 => self.disk.fail(if self.rng.random() { 0 } else { 30 }),
            2..=4 => self.disk.kill_after(self.rng.random_range(1..40)),
            5..=6 => self.due(),
            _ => self.work(),
        }
        self.look();
    }

    fn due(&mut self) {
        for event in std::mem::take(&mut self.again) {
            self.give(event);
        }
        if let Some(at_ms) = self.tick_ms.take() {
            self.now_ms = self.now_ms.max(at_ms);
            self.give(Event::Tick);
        }
    }

    /// Whatever happened: the confirmed release is as it was, and a device that went down comes up.
    fn look(&mut self) {
        while self.disk.is_dead() {
            self.kills += 1;
            let down = if self.rng.random() { Down::Power } else { Down::Process };
            self.disk.restart(down);
            let journal = self.disk.calmly(|| journals::read_shadow(&self.folder, &name()));
            assert!(journal.is_ok(), "{}: {journal:?}", self.label);
            self.check_confirmed();
            self.boot();
        }
        for path in self.disk.touched() {
            let beside = path.starts_with(Folder::model(&name()).join("slot-a"));
            assert!(!beside, "{}: {} was written to", self.label, path.display());
        }
    }

    fn check_confirmed(&self) {
        let slot = self.folder.slot(&name(), SlotName::A);
        let whole = self.disk.calmly(|| slot.manifest(confirmed().digest).and_then(|m| slot.check(&m)));
        assert_eq!(whole, Ok(()), "{}: the confirmed release", self.label);
    }

    /// Everything is well from now on: the shadow gets where it should be.
    fn settle(&mut self) -> (ShadowPhase, Option<ErrorCode>) {
        self.disk.fail(0);
        self.disk.kill_after(u64::MAX / 2);
        self.boot();
        for _ in 0..300 {
            self.work();
            if self.work.is_empty() {
                self.due();
            }
            self.look();
            self.disk.kill_after(u64::MAX / 2);
        }
        self.check_confirmed();
        let report = self.machine.report();
        let left = self.disk.names(&Folder::model(&name()).join("shadow"));
        let Some((report, wanted)) = report.zip(self.wanted.as_ref()) else {
            assert!(self.machine.is_gone() && left.is_empty(), "{}: {left:?} is left", self.label);
            return (ShadowPhase::Unknown, None);
        };
        let code = report.failure.as_ref().map(|failure| failure.code);
        let release = releases::all().find(wanted.release);
        match report.phase {
            ShadowPhase::Running => {
                let place = self.place();
                let whole = self.disk.calmly(|| place.manifest(release.digest).and_then(|m| place.check(&m)));
                assert_eq!((whole, release.nature), (Ok(()), Nature::Good), "{}", self.label);
            }
            ShadowPhase::Promoted => assert_eq!((release.digest, left.len()), (confirmed().digest, 0)),
            ShadowPhase::Failed => assert!(left.is_empty(), "{}: {left:?} is left of {code:?}", self.label),
            phase => panic!(
                "{}: a shadow of nature {:?} rests in {phase:?}: {report:?}",
                self.label, release.nature
            ),
        }
        let expected = match release.nature {
            Nature::Good => None,
            Nature::Unsigned => Some(ErrorCode::SignatureInvalid),
            Nature::BelowFloor => Some(ErrorCode::BelowFloor),
            Nature::FailsProbe => Some(ErrorCode::ProbeMismatch),
            Nature::FailsLoad => Some(ErrorCode::ModelUnsupported),
            Nature::KillsProbed => Some(ErrorCode::ProbeCrashed),
            Nature::FailsUnderLoad | Nature::KillsLoaded => Some(ErrorCode::ModelCrashed),
        };
        // A device that goes down again and again blames what it tried, and a disk that fails again and again is believed.
        let worn = [ErrorCode::ProbeCrashed, ErrorCode::ModelCrashed, ErrorCode::StorageCorrupt];
        let damaged = [ErrorCode::DigestMismatch, ErrorCode::NotFound];
        let excused = code.is_some_and(|code| worn.contains(&code) || damaged.contains(&code));
        assert!(code == expected || excused, "{}: {:?} ends with {code:?}", self.label, release.nature);
        (report.phase, code)
    }
}

/// Fills a place with what is missing.
fn fill(place: &Slot, manifest: &ReleaseManifest, others: &[Slot]) -> Result<(), Fault> {
    let mut download = Download::files(&manifest.files);
    place.resume(manifest, &mut download)?;
    place.reuse(manifest, others, &mut download)?;
    for file in &manifest.files {
        let content = releases::all().content(file.digest).unwrap();
        for (index, data) in content.chunks(limits::CHUNK).enumerate() {
            if !download.missing().any(|missing| missing == Digest::of(data)) {
                continue;
            }
            let (digest, total) = (file.digest, file.bytes);
            let offset = (index * limits::CHUNK) as u64;
            place.write(manifest, &Chunk { digest, offset, total, data: data.to_vec() })?;
            download.found(data);
        }
    }
    Ok(())
}

#[test]
fn a_shadow_on_a_failing_disk_comes_to_a_right_end_and_the_confirmed_release_is_never_touched() {
    let (mut kills, mut ends) = (0, BTreeMap::<String, u64>::new());
    for seed in 0..SEEDS {
        let mut bench = Bench::new(seed);
        for _ in 0..bench.rng.random_range(30..200) {
            bench.chance();
        }
        let (phase, code) = bench.settle();
        kills += bench.kills;
        let code = code.map_or(String::new(), |code| format!(" {code}"));
        *ends.entry(format!("{}{code}", phase.as_str())).or_default() += 1;
    }
    println!("shadows: {kills} kills, 0 confirmed releases touched; {ends:?}");
    assert!(kills > SEEDS, "only {kills} kills");
    for end in ["running", "promoted", "unknown", "failed below_floor", "failed probe_mismatch"] {
        assert!(ends.contains_key(end), "no shadow ended as {end}: {ends:?}");
    }
}

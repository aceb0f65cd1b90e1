//! The shell around the machines: it does what the daemon does, one thing after the other, in an order that chance
//! decides.

use super::check::Seen;
use super::cloud::Cloud;
use super::disk::{Down, VirtualDisk};
use super::link::{self, Link, Up};
use super::records::Records;
use super::releases::{self, Nature};
use super::work::{Job, Load};
use crate::daemon::journals;
use crate::daemon::state::{Accepted, Damage};
use crate::disk::Disk;
use crate::folder::{DESIRED, Folder};
use crate::room::Rooms;
use flotilla_device::desired::accept;
use flotilla_device::download::{Moment, Pace};
use flotilla_device::release::Board;
use flotilla_device::update::{Context, Effect, Event, Health, Update, UpdateJournal};
use flotilla_protocol::message::{
    Desired, DesiredModel, EventKind, EventRecord, RecordBody, Settings, SlotName, TelemetrySample,
};
use flotilla_protocol::{Digest, Envelope, ErrorCode, ModelName, limits};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::sync::Arc;

const RECONNECT_MS: u64 = 1_000;
/// A step whose journal could not be written is tried again after so long, as in the daemon.
const JOURNAL_RETRY_MS: u64 = 5_000;
/// Bytes of the disk that stay free.
const RESERVE: u64 = 32 * limits::KIB as u64;

/// How the device is killed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kills {
    /// Operations between two kills, at most.
    pub(super) within: u64,
    /// Kills that are left.
    pub(super) left: u32,
}

/// The device and the world around it.
pub(super) struct Device {
    pub(super) disk: Arc<VirtualDisk>,
    pub(super) folder: Folder,
    pub(super) link: Link,
    pub(super) cloud: Cloud,
    pub(super) rng: SmallRng,
    pub(super) now_ms: u64,
    /// Whether a connection can be made.
    pub(super) online: bool,
    pub(super) kills: Kills,
    /// How it goes down, where chance does not decide.
    pub(super) down: Option<Down>,
    pub(super) run: Run,
    pub(super) seen: Seen,
    pub(super) label: String,
    /// Models that were at work when the process was killed.
    crashed: BTreeSet<ModelName>,
}

/// What a kill takes.
#[derive(Default)]
pub(super) struct Run {
    pub(super) accepted_version: u64,
    pub(super) desired: Option<Desired>,
    pub(super) models: BTreeMap<ModelName, Managed>,
    pub(super) records: Option<Records>,
    pub(super) pace: Pace,
    pub(super) rooms: Rooms,
    /// Whose download has the link.
    pub(super) on_link: Option<ModelName>,
    pub(super) fetches: u64,
    pub(super) reconnect_ms: u64,
}

/// One model.
pub(super) struct Managed {
    pub(super) update: Update,
    pub(super) tick_ms: Option<u64>,
    pub(super) jobs: VecDeque<Job>,
    pub(super) load: Option<Load>,
    pub(super) serving: Option<(SlotName, Digest)>,
    clears: u32,
    pub(super) retries: Vec<(u64, Event)>,
}

impl Device {
    /// A device that was never switched on.
    pub(super) fn new(seed: u64, capacity: u64, trouble: u32, label: String) -> Self {
        let disk = Arc::new(VirtualDisk::new(seed, capacity));
        let shared: Arc<dyn Disk> = Arc::clone(&disk) as Arc<dyn Disk>;
        Self {
            folder: Folder::with_disk(Path::new("/nowhere"), shared),
            disk,
            link: Link::new(trouble),
            cloud: Cloud::new(label.clone()),
            rng: SmallRng::seed_from_u64(seed),
            now_ms: 0,
            online: true,
            kills: Kills { within: 1, left: 0 },
            down: None,
            crashed: BTreeSet::new(),
            run: Run::default(),
            seen: Seen::default(),
            label,
        }
    }

    // === going down and coming up ===

    /// Starts the agent, again and again until it lives.
    pub(super) fn start(&mut self) {
        loop {
            self.arm();
            self.boot();
            if !self.disk.is_dead() {
                return self.check_accepted();
            }
            self.go_down();
        }
    }

    /// Does something that the device may die of, and then checks everything.
    pub(super) fn guarded(&mut self, action: impl FnOnce(&mut Self)) {
        action(self);
        self.send_records();
        if self.disk.is_dead() {
            self.go_down();
            self.start();
        }
        self.check();
    }

    /// Chooses the operation at which the process dies next.
    pub(super) fn arm(&mut self) {
        if self.kills.left > 0 {
            self.kills.left -= 1;
            self.disk.kill_after(self.rng.random_range(1..=self.kills.within));
        }
    }

    fn go_down(&mut self) {
        let chance = if self.rng.random() { Down::Power } else { Down::Process };
        let down = self.down.unwrap_or(chance);
        self.disk.restart(down);
        let serving =
            self.run.models.iter().filter(|(_, managed)| managed.load.is_some() || managed.serving.is_some());
        let names: Vec<ModelName> = serving.map(|(name, _)| name.clone()).collect();
        // What is at work when the process is killed counts; a power cut is nobody's fault.
        self.crashed = names.into_iter().filter(|_| down == Down::Process && self.rng.random()).collect();
        self.link.disconnect(&mut self.rng);
        self.run = Run::default();
        self.seen.kills += 1;
        self.check_after_kill();
    }

    fn boot(&mut self) {
        let mut damage = Damage::new();
        self.run.accepted_version = Accepted::read(&self.folder, &mut damage).desired_version;
        self.run.reconnect_ms = self.now_ms + RECONNECT_MS;
        self.run.records = Records::open(self.shared_disk(), self.rng.random()).ok();
        self.event(EventKind::Started, String::new());
        // Where they cannot be listed those that are wanted are found by their names.
        for name in journals::models(&self.folder).unwrap_or_default() {
            let journal = self.journal(&name);
            self.add(&name, journal);
        }
        if let Ok(Some(bytes)) = self.folder.disk().read(DESIRED.as_ref(), limits::ENVELOPE) {
            let accepted = self.believe(&bytes);
            let accepted = accepted.unwrap_or_else(|code| panic!("{}: stored, and then {code}", self.label));
            self.take(accepted.desired);
        }
    }

    fn shared_disk(&self) -> Arc<dyn Disk> {
        Arc::clone(&self.disk) as Arc<dyn Disk>
    }

    // === the wanted state ===

    fn believe(&self, bytes: &[u8]) -> Result<flotilla_device::desired::Accepted, ErrorCode> {
        let envelope = Envelope::from_bytes(bytes).map_err(|e| e.code())?;
        let trust = &releases::all().trust;
        accept(&envelope, trust, &"gate-7".parse().unwrap(), self.run.accepted_version).map_err(|e| e.code())
    }

    fn on_desired(&mut self, bytes: &[u8]) {
        let Ok(accepted) = self.believe(bytes) else { return };
        if !accepted.newer && self.run.desired.is_some() {
            return;
        }
        let version = accepted.desired.version;
        let noted = Accepted { desired_version: version, proof_ms: accepted.desired.issued_at_ms };
        if noted.store_with(bytes, &self.folder).is_err() {
            return self.disconnect();
        }
        self.seen.accepted(version);
        self.take(accepted.desired);
    }

    fn take(&mut self, desired: Desired) {
        self.run.accepted_version = desired.version;
        let wanted: Vec<ModelName> = desired.models.keys().cloned().collect();
        self.run.desired = Some(desired);
        self.run.pace.budget.configure(&self.settings());
        for name in wanted {
            if !self.run.models.contains_key(&name) {
                let journal = self.journal(&name);
                self.add(&name, journal);
            }
        }
        for name in self.run.models.keys().cloned().collect::<Vec<_>>() {
            self.give(&name, Event::Desired(self.wanted(&name)));
        }
    }

    fn settings(&self) -> Settings {
        self.run.desired.as_ref().map(|desired| desired.settings.clone()).unwrap_or_default()
    }

    pub(super) fn wanted(&self, name: &ModelName) -> Option<DesiredModel> {
        self.run.desired.as_ref()?.models.get(name).cloned()
    }

    // === the machines ===

    fn journal(&mut self, name: &ModelName) -> UpdateJournal {
        let wanted = self.wanted(name).map(|wanted| wanted.release);
        let board = self.board(self.run.rooms.promised_bytes());
        let (journal, problem) = journals::take_up(&self.folder, name, || {
            Some(journals::recovered(&self.folder, name, wanted, &releases::all().trust, 1, &board))
        });
        if problem.is_none() {
            self.seen.journal(name, &journal, !self.disk.is_dead());
        }
        journal
    }

    fn add(&mut self, name: &ModelName, journal: UpdateJournal) {
        let managed = Managed {
            update: Update::new(name.clone(), journal),
            tick_ms: None,
            jobs: VecDeque::new(),
            load: None,
            serving: None,
            clears: 0,
            retries: Vec::new(),
        };
        self.run.models.insert(name.clone(), managed);
        let crashed = self.crashed.remove(name);
        self.give(name, Event::Started { crashed });
    }

    /// What the disk has to offer beside what was promised.
    pub(super) fn board(&self, promised_bytes: u64) -> Board {
        Board {
            name: "generic".to_owned(),
            model_bytes: limits::MIB as u64,
            disk_free_bytes: self.disk.free_bytes().saturating_sub(promised_bytes),
            disk_reserve_bytes: RESERVE,
            storage_left_bytes: u64::MAX,
            memory_bytes: 0,
        }
    }

    fn context(&mut self) -> Context {
        let settings = self.settings();
        Context {
            now_ms: self.now_ms,
            trusted_now_ms: 1,
            floor: *releases::all().trust.min_release.values().next().unwrap(),
            probation_ms: u64::from(settings.probation_s) * 1_000,
            probation_error_per_mille: settings.probation_error_per_mille,
            memory_bytes: 0,
            temperature_c: 0,
            random: self.rng.random(),
        }
    }

    pub(super) fn health(&self, name: &ModelName) -> Health {
        let serving = self.run.models.get(name).and_then(|managed| managed.serving);
        let bad = serving
            .is_some_and(|(_, release)| releases::all().find(release).nature == Nature::FailsUnderLoad);
        Health { predictions: 30, failures: if bad { 30 } else { 0 }, ..Health::default() }
    }

    /// One step, as in the daemon: if its journal cannot be written it did not happen, and is tried again later.
    pub(super) fn give(&mut self, name: &ModelName, event: Event) {
        if self.disk.is_dead() {
            return;
        }
        let event = match event {
            Event::Desired(_) => Event::Desired(self.wanted(name)),
            other => other,
        };
        let context = self.context();
        let Some(managed) = self.run.models.get(name) else { return };
        let (next, effects) = managed.update.step(event.clone(), &context);
        self.check_effects(&effects);
        if let Some(Effect::PersistJournal(journal)) = effects.first() {
            self.check_journal(name, journal);
            let stored = journals::store(&self.folder, name, journal);
            self.seen.journal(name, journal, stored.is_ok());
            self.disk.touched();
            if stored.is_err() {
                let due_ms = self.now_ms + JOURNAL_RETRY_MS;
                let managed = self.run.models.get_mut(name).unwrap();
                return managed.retries.push((due_ms, event));
            }
        }
        self.run.models.get_mut(name).unwrap().update = next;
        for effect in effects {
            self.disk.pass();
            if self.disk.is_dead() {
                return;
            }
            self.check_effect(name, &effect);
            self.perform(name, effect);
        }
    }

    fn perform(&mut self, name: &ModelName, effect: Effect) {
        let managed = self.run.models.get_mut(name).unwrap();
        match effect {
            Effect::PersistJournal(_) | Effect::Report => {}
            Effect::Cancel => managed.jobs.iter_mut().for_each(Job::cancel),
            Effect::FetchRelease { ticket, slot, release, bytes } => {
                managed.jobs.push_back(Job::release(ticket, slot, release, bytes));
            }
            Effect::FetchFiles { ticket, slot, release } => {
                managed.jobs.push_back(Job::files(ticket, slot, release));
            }
            Effect::VerifyFiles { ticket, slot, release } => {
                managed.jobs.push_back(Job::verify(ticket, slot, release));
            }
            Effect::Probe { ticket, slot, release } => {
                managed.jobs.push_back(Job::probe(ticket, slot, release));
            }
            // A later load takes the place of one that is under way.
            Effect::Activate { ticket, slot, release } => managed.load = Some(Load { ticket, slot, release }),
            Effect::Deactivate => (managed.load, managed.serving) = (None, None),
            Effect::ClearSlot { slot } => {
                managed.clears += 1;
                managed.jobs.push_back(Job::clear(slot));
            }
            Effect::EmitEvent(event) => self.keep(RecordBody::Event(event)),
            Effect::ScheduleTick { at_ms } => managed.tick_ms = Some(at_ms),
        }
    }

    /// A slot of a model was cleared; a model of which nothing is left loses its folder.
    pub(super) fn on_cleared(&mut self, name: &ModelName) {
        let Some(managed) = self.run.models.get_mut(name) else { return };
        managed.clears -= 1;
        if managed.clears == 0 && managed.update.is_gone() && self.run.desired.is_some() {
            let gone = self.run.models.remove(name);
            let left = gone.map_or(0, |gone| gone.jobs.len());
            assert_eq!(left, 0, "{}: work for {name} outlives it", self.label);
            self.seen.journal(name, &UpdateJournal::default(), false);
            // What stays behind is empty.
            let _ = self.folder.disk().remove(&Folder::model(name));
        }
    }

    // === records ===

    fn event(&mut self, kind: EventKind, detail: String) {
        self.keep(RecordBody::Event(EventRecord { kind, model: None, release: None, code: None, detail }));
    }

    /// The device takes a sample.
    pub(super) fn sample(&mut self) {
        let uptime_s = self.now_ms / 1_000;
        self.keep(RecordBody::Sample(TelemetrySample { uptime_s, ..TelemetrySample::default() }));
    }

    fn keep(&mut self, body: RecordBody) {
        self.seen.records += 1;
        if let Some(records) = &mut self.run.records {
            // What finds no place on the disk is lost, and nobody was told otherwise.
            let _ = records.keep(self.seen.records, body);
        }
    }

    fn send_records(&mut self) {
        while let Some(records) = &mut self.run.records {
            match records.next(self.now_ms, self.rng.random()) {
                Ok(Some(batch)) => self.link.send_up(Up::Records(batch), self.now_ms, &mut self.rng),
                Ok(None) => return,
                // As in the daemon: until the next start no records are kept.
                Err(_) => self.run.records = None,
            }
        }
    }

    // === the link ===

    pub(super) fn connect(&mut self) {
        self.link.connect();
        self.run.pace.window.reconnected();
        if let Some(records) = &mut self.run.records {
            records.link(true);
        }
        self.link.send_up(Up::Hello, self.now_ms, &mut self.rng);
    }

    /// The connection is lost.
    pub(super) fn disconnect(&mut self) {
        self.link.disconnect(&mut self.rng);
        self.run.reconnect_ms = self.now_ms + RECONNECT_MS;
        self.run.pace.window.reconnected();
        if let Some(records) = &mut self.run.records {
            records.link(false);
        }
        self.download_lost_link();
    }

    /// The cloud says something of its own accord.
    pub(super) fn send_down(&mut self, message: Option<link::Down>) {
        if let Some(message) = message {
            self.link.send_down(message, self.now_ms, &mut self.rng);
        }
    }

    pub(super) fn hear(&mut self, message: link::Down) {
        match message {
            link::Down::Desired(bytes) => self.on_desired(&bytes),
            link::Down::Chunk(chunk) => self.on_chunk(&chunk),
            link::Down::Refused(reply) => self.on_refused(&reply),
            link::Down::Ack(ack) => {
                let Some(records) = &mut self.run.records else { return };
                let epoch = records.epoch();
                for record in records.ack(&ack).unwrap_or_default() {
                    let there = self.cloud.has(epoch, ack.stream, &record);
                    assert!(there, "{}: {record:?} was acknowledged and is lost", self.label);
                    self.seen.acknowledged += 1;
                }
            }
        }
    }

    pub(super) fn moment(&mut self) -> Moment {
        Moment { now_ms: self.now_ms, wall_ms: None, random: self.rng.random() }
    }
}

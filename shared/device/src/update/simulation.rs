//! The update machine on a virtual device that is killed at every point.
//!
//! A device is driven through random sequences of desired documents, with good and bad releases, a bad link, and a
//! crash after any effect, in which the journal write under way either is on the disk or is not. After every
//! effect the invariants of an update are checked; at the end, once the crashes stop, the device must have come
//! to the wanted release or to a typed failure.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use super::*;
use crate::fault::Fault;
use flotilla_protocol::message::{DesiredModel, Phase, ProbeReport, SlotName};
use flotilla_protocol::{Digest, ErrorCode};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

const SEEDS: u64 = 2_000;
const RELEASES: u8 = 8;

/// What is wrong with a release, if anything; fixed a release.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Nature {
    Good,
    Unsigned,
    BelowFloor,
    FailsProbe,
    FailsLoad,
    FailsUnderLoad,
    KillsDevice,
}

fn nature(index: u8) -> Nature {
    use Nature::*;
    [Good, Good, Unsigned, BelowFloor, FailsProbe, FailsLoad, FailsUnderLoad, KillsDevice][usize::from(index)]
}

fn digest(index: u8) -> Digest {
    Digest::of(&[index])
}

fn index_of(release: Digest) -> u8 {
    (0..RELEASES).find(|index| digest(*index) == release).unwrap()
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Slot {
    release: Option<u8>,
    verified: bool,
}

/// When to crash: the number of effects until then.
#[derive(Clone, Copy)]
enum Crashes {
    Random { one_in: u32, left: u32 },
    Once { after: u32, journal_kept: bool },
    Never,
}

struct Device {
    rng: SmallRng,
    crashes: Crashes,
    bad_link: bool,
    // On the disk.
    journal: Vec<u8>,
    slots: [Slot; 2],
    desired: Option<Option<DesiredModel>>,
    // In memory.
    update: Update,
    open: Vec<Effect>,
    serving: Option<u8>,
    tick_ms: Option<u64>,
    now_ms: u64,
    // What the test remembers.
    effects_done: u32,
    ever_confirmed: bool,
    restarts: u32,
    label: String,
}

/// The process died.
struct Died;

impl Device {
    fn new(seed: u64, crashes: Crashes, label: String) -> Self {
        let journal = UpdateJournal::default();
        Self {
            rng: SmallRng::seed_from_u64(seed),
            crashes,
            bad_link: true,
            journal: journal.to_bytes(),
            slots: [Slot::default(); 2],
            desired: None,
            update: Update::new("m".parse().unwrap(), journal),
            open: Vec::new(),
            serving: None,
            tick_ms: None,
            now_ms: 0,
            effects_done: 0,
            ever_confirmed: false,
            restarts: 0,
            label,
        }
    }

    fn slot(&mut self, slot: SlotName) -> &mut Slot {
        &mut self.slots[usize::from(slot == SlotName::B)]
    }

    fn stored(&self) -> UpdateJournal {
        UpdateJournal::from_bytes(&self.journal).unwrap_or_else(|e| panic!("{}: {e}", self.label))
    }

    fn start(&mut self) {
        loop {
            self.update = Update::new("m".parse().unwrap(), self.stored());
            (self.serving, self.tick_ms) = (None, None);
            self.open.clear();
            let started = self.try_give(Event::Started { crashed: false });
            let died = match (started, self.desired.clone()) {
                (Ok(()), Some(desired)) => self.try_give(Event::Desired(desired)).is_err(),
                (Ok(()), None) => false,
                (Err(Died), _) => true,
            };
            if !died {
                return;
            }
            self.restarts += 1;
        }
    }

    fn give(&mut self, event: Event) {
        if self.try_give(event).is_err() {
            self.restarts += 1;
            self.start();
        }
    }

    fn try_give(&mut self, event: Event) -> Result<(), Died> {
        let ctx = Context {
            now_ms: self.now_ms,
            trusted_now_ms: 1,
            floor: 0,
            probation_ms: 5_000,
            probation_error_per_mille: 50,
            memory_bytes: 1_000,
            temperature_c: 90,
            random: self.rng.random(),
        };
        let (next, effects) = self.update.step(event, &ctx);
        let writes = effects.iter().filter(|e| matches!(e, Effect::PersistJournal(_))).count();
        assert!(writes <= 1, "{}: {effects:?}", self.label);
        let first = effects.iter().position(|e| matches!(e, Effect::PersistJournal(_)));
        assert!(first.is_none_or(|at| at == 0), "{}: {effects:?}", self.label);
        self.update = next;
        for effect in effects {
            self.perform(effect)?;
            self.check();
        }
        Ok(())
    }

    /// Whether to crash now, and whether a journal write under way is kept.
    fn crash(&mut self) -> Option<bool> {
        self.effects_done += 1;
        match &mut self.crashes {
            Crashes::Random { one_in, left } if *left > 0 && self.rng.random_ratio(1, *one_in) => {
                *left -= 1;
                Some(self.rng.random())
            }
            Crashes::Once { after, journal_kept } if *after == self.effects_done => Some(*journal_kept),
            _ => None,
        }
    }

    fn perform(&mut self, effect: Effect) -> Result<(), Died> {
        let crash = self.crash();
        match effect {
            Effect::PersistJournal(journal) => {
                if crash != Some(false) {
                    self.ever_confirmed = journal.confirmed.is_some()
                        || (self.ever_confirmed && self.desired.as_ref().is_none_or(|d| d.is_some()));
                    self.journal = journal.to_bytes();
                }
            }
            Effect::Cancel => self.open.retain(|e| matches!(e, Effect::Activate { .. })),
            Effect::FetchRelease { slot, release, .. } => {
                let wanted = Slot { release: Some(index_of(release)), verified: false };
                let confirmed = self.stored().confirmed;
                assert!(
                    confirmed.is_none_or(|c| c.slot != slot),
                    "{}: the confirmed slot is written to",
                    self.label
                );
                if self.slot(slot).release != wanted.release {
                    *self.slot(slot) = wanted;
                }
                self.open.push(effect);
            }
            Effect::FetchFiles { .. } | Effect::VerifyFiles { .. } => self.open.push(effect),
            Effect::Probe { slot, release, .. } => {
                self.check_complete(slot, release);
                let stored = self.stored().candidate;
                assert!(stored.is_some_and(|c| c.step == Step::Staged && c.starts > 0), "{}", self.label);
                self.open.push(effect);
            }
            Effect::Activate { slot, release, .. } => {
                self.check_complete(slot, release);
                let stored = self.stored();
                let confirmed = stored.confirmed.is_some_and(|c| (c.slot, c.release) == (slot, release));
                let trial = stored
                    .candidate
                    .is_some_and(|c| (c.slot, c.release, c.step) == (slot, release, Step::Trial));
                assert!(confirmed || trial, "{}: activated without a journal", self.label);
                // A later load takes the place of one that is under way.
                self.open.retain(|e| !matches!(e, Effect::Activate { .. }));
                self.open.push(effect);
            }
            Effect::Deactivate => {
                self.open.retain(|e| !matches!(e, Effect::Activate { .. }));
                self.serving = None;
            }
            Effect::ClearSlot { slot } => {
                let stored = self.stored();
                assert!(stored.is_empty(), "{}: slot {slot:?} cleared under {stored:?}", self.label);
                *self.slot(slot) = Slot::default();
            }
            Effect::ScheduleTick { at_ms } => self.tick_ms = Some(at_ms),
            Effect::Report | Effect::EmitEvent(_) => {}
        }
        if crash.is_some() { Err(Died) } else { Ok(()) }
    }

    fn check_complete(&mut self, slot: SlotName, release: Digest) {
        let index = index_of(release);
        let content = *self.slot(slot);
        assert_eq!(content, Slot { release: Some(index), verified: true }, "{}: slot {slot:?}", self.label);
        assert!(
            !matches!(nature(index), Nature::Unsigned | Nature::BelowFloor),
            "{}: {index} let in",
            self.label
        );
    }

    /// Once there was a confirmed release and the model is still wanted, there always is one, whole, in its slot.
    fn check(&mut self) {
        let stored = self.stored();
        if let Some(confirmed) = stored.confirmed {
            self.check_complete(confirmed.slot, confirmed.release);
            assert_eq!(nature(index_of(confirmed.release)), Nature::Good, "{}", self.label);
        } else {
            assert!(!self.ever_confirmed, "{}: the confirmed release was lost", self.label);
        }
    }

    /// Lets one open piece of work end, or time pass. False if there is nothing to do.
    fn turn(&mut self) -> bool {
        if self.open.is_empty() {
            let Some(at_ms) = self.tick_ms.take() else { return false };
            self.now_ms = self.now_ms.max(at_ms);
            let bad = self.serving.is_some_and(|index| nature(index) == Nature::FailsUnderLoad);
            let failures = if bad { 30 } else { 0 };
            self.give(Event::Tick { health: Health { predictions: 30, failures, ..Health::default() } });
            return true;
        }
        let at = self.rng.random_range(0..self.open.len());
        let effect = self.open.remove(at);
        if let Some(event) = self.answer(effect) {
            self.give(event);
        }
        true
    }

    fn fault(&mut self, code: ErrorCode) -> Option<Fault> {
        (self.bad_link && self.rng.random_ratio(1, 5)).then(|| Fault::transient(code, "the link"))
    }

    fn answer(&mut self, effect: Effect) -> Option<Event> {
        Some(match effect {
            Effect::FetchRelease { ticket, release, .. } => {
                let lasting = match nature(index_of(release)) {
                    Nature::Unsigned => Some(Fault::lasting(ErrorCode::SignatureInvalid, "")),
                    Nature::BelowFloor => Some(Fault::lasting(ErrorCode::BelowFloor, "")),
                    _ => None,
                };
                let fault = self.fault(ErrorCode::Network).or(lasting);
                let facts = ReleaseFacts {
                    counter: 1,
                    expires_at_ms: None,
                    total_bytes: 10,
                    promise: Promise::default(),
                };
                Event::EnvelopeFetched { ticket, result: fault.map_or(Ok(facts), Err) }
            }
            Effect::FetchFiles { ticket, .. } => {
                let fault = self.fault(ErrorCode::DigestMismatch);
                Event::FilesComplete { ticket, result: fault.map_or(Ok(()), Err) }
            }
            Effect::VerifyFiles { ticket, slot, .. } => {
                self.slot(slot).verified = true;
                Event::FilesVerified { ticket, result: Ok(()) }
            }
            Effect::Probe { ticket, release, .. } => {
                let fails = nature(index_of(release)) == Nature::FailsProbe;
                let lasting = fails.then(|| Fault::lasting(ErrorCode::ProbeMismatch, ""));
                let fault = self.fault(ErrorCode::Internal).or(lasting);
                let report = ProbeReport {
                    vectors: 1,
                    max_abs_error: 0.0,
                    p50_ms: 1.0,
                    p95_ms: 1.0,
                    peak_rss_bytes: 1,
                };
                Event::ProbeDone { ticket, result: fault.map_or(Ok(report), Err) }
            }
            Effect::Activate { ticket, release, .. } => match nature(index_of(release)) {
                Nature::FailsLoad => {
                    Event::LoadFailed { ticket, fault: Fault::lasting(ErrorCode::ModelUnsupported, "") }
                }
                Nature::KillsDevice => {
                    self.restarts += 1;
                    self.start();
                    return None;
                }
                _ => {
                    self.serving = Some(index_of(release));
                    Event::SwitchDone { ticket }
                }
            },
            other => panic!("{}: {other:?} has no answer", self.label),
        })
    }

    fn want(&mut self, desired: Option<DesiredModel>) {
        self.desired = Some(desired.clone());
        if desired.is_none() {
            self.ever_confirmed = false;
        }
        self.give(Event::Desired(desired));
    }

    fn settle(&mut self) {
        for _ in 0..5_000 {
            if !self.turn() {
                return;
            }
        }
        panic!("{}: does not come to rest: {:?} {:?}", self.label, self.update.phase(), self.open);
    }

    /// The device is where it was told to be, or says why not.
    fn check_converged(&mut self) {
        let Some(desired) = self.desired.clone() else { return };
        let report = self.update.report();
        let Some(wanted) = desired else {
            assert!(self.update.is_gone() && self.serving.is_none(), "{}: not removed", self.label);
            assert_eq!(self.slots, [Slot::default(); 2], "{}", self.label);
            return;
        };
        let serving = self.serving.map(digest);
        assert_eq!(serving, report.confirmed, "{}: {:?}", self.label, report.phase);
        let reason = report.failure.as_ref().map(|failure| failure.code);
        match report.phase {
            Phase::Confirmed => assert_eq!(serving, Some(wanted.release), "{}", self.label),
            Phase::Failed => {
                assert_eq!(report.failure.map(|f| f.release), Some(wanted.release), "{}", self.label);
            }
            phase => panic!("{}: rests in {phase:?}", self.label),
        }
        let expected = match nature(index_of(wanted.release)) {
            Nature::Good if self.restarts == 0 => None,
            Nature::Good if reason.is_none() => None,
            // A device that is switched off again and again during a probe or probation gives the release up.
            Nature::Good if reason == Some(ErrorCode::ProbeCrashed) => reason,
            Nature::Good | Nature::FailsUnderLoad | Nature::KillsDevice => Some(ErrorCode::ProbationFailed),
            Nature::Unsigned => Some(ErrorCode::SignatureInvalid),
            Nature::BelowFloor => Some(ErrorCode::BelowFloor),
            Nature::FailsProbe => Some(ErrorCode::ProbeMismatch),
            Nature::FailsLoad => Some(ErrorCode::ModelUnsupported),
        };
        let given_up =
            self.restarts > 0 && matches!(reason, Some(ErrorCode::ProbeCrashed | ErrorCode::ProbationFailed));
        assert!(reason == expected || given_up, "{}: {reason:?}, expected {expected:?}", self.label);
    }
}

fn wanted(index: u8, attempt: u32) -> DesiredModel {
    DesiredModel { release: digest(index), envelope_bytes: 1, attempt }
}

#[test]
fn a_device_that_is_killed_anywhere_keeps_a_working_release_and_converges() {
    let mut killed = 0;
    for seed in 0..SEEDS {
        let one_in = [4, 10, 30][seed as usize % 3];
        let crashes = Crashes::Random { one_in, left: 40 };
        let mut device = Device::new(seed, crashes, format!("seed {seed}"));
        device.start();
        let documents = device.rng.random_range(1..6);
        for attempt in 0..documents {
            let desired = (!device.rng.random_ratio(1, 10)).then(|| {
                let index = device.rng.random_range(0..RELEASES);
                wanted(index, attempt)
            });
            device.want(desired);
            let turns = device.rng.random_range(0..80);
            for _ in 0..turns {
                device.turn();
            }
        }
        killed += device.restarts;
        (device.crashes, device.bad_link) = (Crashes::Never, false);
        device.settle();
        device.check_converged();
        // An operator can always bring a good release out.
        device.restarts = 0;
        let last = wanted(1, 1_000);
        device.want(Some(last.clone()));
        device.settle();
        device.check_converged();
        assert_eq!(device.serving.map(digest), Some(last.release), "seed {seed}");
    }
    assert!(killed > 10_000, "only {killed} kills: the simulation does not test what it says");
}

/// One crash, after each single effect of a whole update, with the journal write under way kept and lost.
#[test]
fn one_kill_at_any_single_point_of_an_update_is_healed_by_the_restart() {
    for target in 1..RELEASES {
        let mut points = 0;
        for after in 1.. {
            for journal_kept in [true, false] {
                let label = format!("to {target}, killed after effect {after}, journal kept: {journal_kept}");
                let mut device = Device::new(9, Crashes::Never, label);
                device.bad_link = false;
                device.start();
                device.want(Some(wanted(0, 0)));
                device.settle();
                assert_eq!(device.serving, Some(0));
                device.effects_done = 0;
                device.crashes = Crashes::Once { after, journal_kept };
                device.want(Some(wanted(target, 1)));
                device.settle();
                device.check_converged();
                let expected = if nature(target) == Nature::Good { target } else { 0 };
                assert_eq!(device.serving, Some(expected), "{}", device.label);
                points = device.effects_done;
            }
            if after >= points {
                break;
            }
        }
        assert!(points >= 5, "an update to {target} has {points} effects only");
    }
}

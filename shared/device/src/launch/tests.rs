//! The launcher, one event at a time.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use super::handover::{self, Handover};
use super::*;
use crate::update::{Candidate, Step, UpdateJournal};
use flotilla_protocol::message::SlotName;
use flotilla_protocol::{Digest, ErrorCode};

const PATIENCE: u64 = 60_000;
const TERMS: Terms = Terms { patience_ms: PATIENCE, probation_ms: 5_000, online: true, silent: 0 };

fn binary(slot: SlotName, name: &str) -> Binary {
    Binary {
        slot,
        release: Digest::of(name.as_bytes()),
        counter: 1,
        version: name.into(),
        file: "agent".into(),
        bytes: 1,
        crc: 1,
    }
}

fn old() -> Binary {
    binary(SlotName::A, "old")
}

fn new() -> Binary {
    binary(SlotName::B, "new")
}

fn trial(starts: u32) -> LaunchJournal {
    let candidate = Some(Trial { starts, ..Trial::new(new(), TERMS) });
    LaunchJournal { confirmed: Some(old()), candidate, ..LaunchJournal::default() }
}

fn settled() -> LaunchJournal {
    LaunchJournal { confirmed: Some(new()), spare: Some(old()), ..LaunchJournal::default() }
}

/// A launcher whose effects are looked at, and a disk that takes what it writes.
struct Bench {
    launcher: Launcher,
    disk: LaunchJournal,
    effects: Vec<Effect>,
    now_ms: u64,
}

impl Bench {
    fn new(disk: LaunchJournal) -> Self {
        let mut bench = Self { launcher: Launcher::default(), disk, effects: Vec::new(), now_ms: 0 };
        bench.give(Event::Started(bench.disk.clone()));
        bench
    }

    fn give(&mut self, event: Event) {
        let (next, effects) = self.launcher.step(event, self.now_ms, 0);
        for effect in &effects {
            if let Effect::Persist(journal) = effect {
                self.disk = journal.clone();
            }
        }
        (self.launcher, self.effects) = (next, effects);
    }

    fn runs(&self) -> Option<Place> {
        self.effects.iter().rev().find_map(|effect| match effect {
            Effect::Run(place, _) => Some(*place),
            _ => None,
        })
    }

    fn exits(&mut self, exit: Exit) {
        self.give(Event::Exited(exit, self.disk.clone()));
    }

    fn passes(&mut self, ms: u64) {
        self.now_ms += ms;
        self.give(Event::Tick(self.disk.clone()));
    }
}

const A: Option<Place> = Some(Place::Slot(SlotName::A));
const B: Option<Place> = Some(Place::Slot(SlotName::B));
const INSTALLED: Option<Place> = Some(Place::Installed);

#[test]
fn without_a_journal_the_installed_binary_runs() {
    assert_eq!(Bench::new(LaunchJournal::default()).runs(), INSTALLED);
}

#[test]
fn a_candidate_is_counted_before_it_is_started_and_given_up_after_its_starts() {
    let mut bench = Bench::new(trial(0));
    for start in 1..=TRIAL_STARTS {
        assert_eq!(bench.runs(), B);
        let counted = bench.effects.iter().position(|e| matches!(e, Effect::Persist(_)));
        let run = bench.effects.iter().position(|e| matches!(e, Effect::Run(..)));
        assert!(counted < run);
        assert_eq!(bench.disk.candidate.as_ref().unwrap().starts, start);
        bench.exits(Exit::Code(101));
        if start < TRIAL_STARTS {
            bench.passes(60_000);
        }
    }
    assert_eq!(bench.runs(), A);
    let given_up = bench.disk.given_up.clone().unwrap();
    assert_eq!((given_up.release, given_up.why.code()), (new().release, ErrorCode::AgentCrashed));
    assert!(given_up.detail.contains("code 101"), "{}", given_up.detail);
    assert_eq!(bench.disk.candidate, None);
}

#[test]
fn a_candidate_that_says_nothing_is_stopped_and_given_up_when_its_time_is_over() {
    let mut bench = Bench::new(trial(0));
    bench.passes(PATIENCE - 1);
    assert!(!bench.effects.contains(&Effect::Ask));
    bench.passes(1);
    assert!(bench.effects.contains(&Effect::Ask));
    bench.passes(KILL_MS);
    assert!(bench.effects.contains(&Effect::Kill));
    bench.exits(Exit::Signal(9));
    assert_eq!(bench.runs(), A);
    assert_eq!(bench.disk.given_up.as_ref().unwrap().why, Why::Late);
}

#[test]
fn a_confirmed_candidate_stays_and_its_crashes_count_as_any_others() {
    let mut bench = Bench::new(trial(0));
    bench.disk = handover::confirm(&bench.disk, Place::Slot(SlotName::B), new().release).unwrap();
    assert_eq!(bench.disk, settled());
    bench.passes(PATIENCE);
    assert_eq!(bench.effects, []);
    bench.exits(Exit::Signal(11));
    bench.passes(60_000);
    assert_eq!((bench.runs(), bench.disk.given_up.as_ref()), (B, None));
}

#[test]
fn a_candidate_whose_start_cannot_be_counted_is_not_started() {
    let mut bench = Bench::new(trial(1));
    bench.disk = trial(1);
    bench.give(Event::NotPersisted);
    assert_eq!(bench.runs(), A);
    // The disk has room again.
    bench.exits(Exit::Signal(9));
    bench.passes(60_000);
    assert_eq!(bench.runs(), B);
    assert_eq!(bench.disk.candidate.as_ref().unwrap().starts, 2);
}

#[test]
fn a_damaged_binary_is_passed_over_for_the_spare_and_then_the_installed_one() {
    let mut bench = Bench::new(settled());
    let damaged = || Event::NotRunning { unusable: true, detail: "damaged".into() };
    assert_eq!(bench.runs(), B);
    bench.give(damaged());
    assert_eq!(bench.runs(), A);
    bench.give(damaged());
    assert_eq!(bench.runs(), INSTALLED);
    assert_eq!(
        bench.disk,
        settled(),
        "what is confirmed stays so: its file may come back, and it did not crash"
    );
}

#[test]
fn a_confirmed_binary_that_does_not_stay_up_gives_way_to_the_spare_for_good() {
    let mut bench = Bench::new(settled());
    for start in 1..=CRASHES {
        assert_eq!((bench.runs(), bench.disk.starts), (B, start), "each start is counted before it happens");
        bench.exits(Exit::Signal(6));
        bench.passes(60_000);
    }
    assert_eq!(bench.runs(), A);
    let given_up = bench.disk.given_up.clone().unwrap();
    assert_eq!((given_up.release, given_up.why, given_up.starts), (new().release, Why::Crashed, CRASHES));
    assert_eq!((&bench.disk.confirmed, &bench.disk.spare, bench.disk.starts), (&Some(old()), &None, 1));
    // Nor does that one: the installed binary is the last.
    for _ in 0..2 * CRASHES {
        bench.exits(Exit::Signal(6));
        bench.passes(60_000);
    }
    assert_eq!((bench.runs(), bench.disk.confirmed.clone()), (INSTALLED, None));
}

#[test]
fn a_binary_that_takes_the_whole_device_down_is_given_up_all_the_same() {
    let mut disk = settled();
    for _ in 0..CRASHES {
        let bench = Bench::new(disk);
        assert_eq!(bench.runs(), B);
        disk = bench.disk;
    }
    assert_eq!(Bench::new(disk).runs(), A);
}

#[test]
fn starts_that_are_no_fault_of_the_binary_are_not_held_against_it() {
    let mut disk = settled();
    for _ in 0..3 * CRASHES {
        // It stayed up, and took its count back.
        let mut bench = Bench::new(disk);
        bench.disk = handover::settle(&bench.disk, Place::Slot(SlotName::B)).unwrap();
        // It stayed up, and could not write.
        bench.exits(Exit::Signal(9));
        bench.passes(60_000);
        bench.now_ms += SETTLED_MS;
        bench.exits(Exit::Signal(9));
        bench.passes(60_000);
        // The folder was in use.
        bench.give(Event::InUse);
        assert_eq!(bench.runs(), None);
        bench.passes(60_000);
        // It was told to stop.
        bench.give(Event::Stop);
        bench.exits(Exit::Code(0));
        disk = bench.disk;
    }
    assert_eq!(disk, settled());
    assert_eq!(handover::settle(&settled(), Place::Slot(SlotName::B)), None);
    assert_eq!(handover::settle(&LaunchJournal { starts: 2, ..settled() }, Place::Installed), None);
}

#[test]
fn a_candidate_is_not_charged_for_a_folder_that_is_in_use() {
    let mut bench = Bench::new(trial(0));
    for _ in 0..3 * TRIAL_STARTS {
        assert_eq!(bench.runs(), B);
        bench.give(Event::InUse);
        assert_eq!(bench.disk.candidate.as_ref().unwrap().starts, 0);
        bench.passes(60_000);
    }
    assert_eq!(bench.disk.candidate.unwrap().starts, 1);
}

#[test]
fn the_launcher_passes_a_stop_on_and_ends_with_the_agent() {
    let mut bench = Bench::new(settled());
    bench.give(Event::Stop);
    assert!(bench.effects.contains(&Effect::Ask));
    bench.exits(Exit::Code(0));
    assert_eq!(bench.effects, [Effect::Persist(settled()), Effect::Finish], "no start to be held against it");
    let mut waiting = Bench::new(settled());
    waiting.exits(Exit::Code(1));
    waiting.give(Event::Stop);
    assert_eq!(waiting.effects, [Effect::Finish]);
}

#[test]
fn an_agent_that_asks_for_a_switch_without_one_is_not_obeyed_at_once() {
    let mut bench = Bench::new(settled());
    bench.exits(Exit::Code(EXIT_SWITCH.into()));
    assert_eq!(bench.runs(), None);
    bench.passes(60_000);
    assert_eq!(bench.runs(), B);
}

#[test]
fn the_agent_hands_over_once_and_takes_no_for_an_answer() {
    let place = Place::Slot(SlotName::A);
    let before = LaunchJournal { confirmed: Some(old()), ..LaunchJournal::default() };
    let Handover::Switch(after) = handover::activate(&before, place, new(), Some(TERMS), 0) else { panic!() };
    assert_eq!(after, trial(0));
    assert_eq!(
        handover::activate(&trial(1), Place::Slot(SlotName::B), new(), Some(TERMS), 0),
        Handover::Here
    );
    // The launcher could not count its start, so this agent was started again: no fault of the candidate.
    let again =
        |journal: &LaunchJournal, up_ms| handover::activate(journal, place, new(), Some(TERMS), up_ms);
    let Handover::Refused(fault) = again(&after, 0) else { panic!() };
    assert_eq!((fault.code, fault.transient), (ErrorCode::StorageIo, true));
    let Handover::Switch(next) = again(&after, 60_000) else { panic!() };
    let before_that = after.candidate.clone().unwrap();
    assert_eq!(next.candidate, Some(Trial { again: 1, ..before_that }));
    let Handover::Refused(_) = again(&next, 45_000) else { panic!("ever more rarely") };
    // Not from the slot that runs.
    let own = Binary { slot: SlotName::A, ..new() };
    let Handover::Refused(fault) = handover::activate(&before, place, own, Some(TERMS), 0) else { panic!() };
    assert_eq!(fault.code, ErrorCode::StorageCorrupt);

    let why = GivenUp { release: new().release, why: Why::Late, starts: 1, detail: "late".into() };
    let given_up = LaunchJournal { given_up: Some(why), ..before.clone() };
    let Handover::Refused(fault) = handover::activate(&given_up, place, new(), Some(TERMS), 0) else {
        panic!()
    };
    assert_eq!((fault.code, fault.transient), (ErrorCode::AgentUnhealthy, false));
    // Once that is noted, a later attempt of the same release is handed over again.
    let noted = handover::forget(&given_up, place, &handover::recover(&before)).unwrap();
    assert!(matches!(handover::activate(&noted, place, new(), Some(TERMS), 0), Handover::Switch(_)));
}

#[test]
fn a_candidate_that_gives_itself_up_goes_back_to_the_one_before() {
    let place = Place::Slot(SlotName::B);
    let Handover::Switch(back) = handover::activate(&trial(1), place, old(), None, 0) else { panic!() };
    assert_eq!(back, LaunchJournal { confirmed: Some(old()), ..LaunchJournal::default() });
    let first = LaunchJournal { confirmed: None, ..trial(1) };
    assert_eq!(handover::deactivate(&first, place), (LaunchJournal::default(), true));
    assert_eq!(handover::deactivate(&first, Place::Installed), (LaunchJournal::default(), false));
}

#[test]
fn an_agent_that_was_started_in_place_of_a_damaged_one_says_so() {
    let Handover::Refused(fault) = handover::activate(&settled(), Place::Installed, new(), None, 0) else {
        panic!()
    };
    assert_eq!(fault.code, ErrorCode::StorageCorrupt);
    // A launcher that has lost its journal is told again.
    let told = handover::activate(&LaunchJournal::default(), Place::Installed, new(), None, 0);
    assert_eq!(told, Handover::Switch(LaunchJournal { confirmed: Some(new()), ..LaunchJournal::default() }));
}

#[test]
fn a_spare_below_the_floor_or_about_to_be_overwritten_is_dropped() {
    assert_eq!(handover::raise_floor(&settled(), 1), None);
    assert_eq!(handover::raise_floor(&settled(), 2).unwrap().spare, None);
    let refill = |journal: LaunchJournal, place, slot| handover::refill(&journal, place, slot).unwrap();
    assert_eq!(refill(settled(), Place::Slot(SlotName::B), SlotName::A).unwrap().spare, None);
    assert_eq!(refill(trial(0), Place::Slot(SlotName::A), SlotName::B).unwrap().candidate, None);
    assert_eq!(refill(settled(), Place::Installed, SlotName::B).unwrap().confirmed, None);
    handover::refill(&settled(), Place::Slot(SlotName::B), SlotName::B).unwrap_err();
}

#[test]
fn the_agent_notes_that_a_confirmed_one_did_not_stay_up_and_runs_on_as_the_confirmed_one() {
    let before = UpdateJournal {
        candidate: Some(Candidate::new(SlotName::A, Digest::of(b"next"), 3, Step::Filling)),
        ..handover::recover(&settled())
    };
    let why = GivenUp { release: new().release, why: Why::Crashed, starts: 5, detail: "crashed".into() };
    let journal = LaunchJournal { confirmed: Some(old()), given_up: Some(why), ..LaunchJournal::default() };
    assert_eq!(handover::forget(&journal, Place::Slot(SlotName::A), &before), None, "it is not noted yet");
    let adopted = handover::adopt(&journal, Place::Slot(SlotName::A), before);
    assert_eq!(adopted.launch, journal);
    let update = adopted.update;
    assert_eq!(update.confirmed.as_ref().map(|c| (c.slot, c.release)), Some((SlotName::A, old().release)));
    assert_eq!(update.candidate, None, "its slot is the one that runs");
    let failed = update.failed.clone().unwrap();
    assert_eq!((failed.release, failed.code), (new().release, ErrorCode::AgentCrashed));
    let (release, fault) = adopted.gave_way.unwrap();
    assert_eq!((release, fault.code), (new().release, ErrorCode::AgentCrashed));
    assert_eq!(update.idle_slot(), SlotName::B);
    assert_eq!(handover::forget(&journal, Place::Slot(SlotName::A), &update).unwrap().given_up, None);
    // Nothing was left but the installed agent.
    let journal = LaunchJournal { confirmed: None, ..journal };
    let adopted = handover::adopt(&journal, Place::Installed, handover::recover(&settled()));
    assert_eq!((adopted.update.confirmed, adopted.update.failed), (None, Some(failed)));
}

#[test]
fn a_spare_that_was_started_for_a_damaged_agent_is_the_confirmed_one_and_never_overwritten() {
    let journal = LaunchJournal { starts: 2, ..settled() };
    let adopted = handover::adopt(&journal, Place::Slot(SlotName::A), handover::recover(&journal));
    assert_eq!(adopted.launch, LaunchJournal { confirmed: Some(old()), ..LaunchJournal::default() });
    assert_eq!(adopted.update, handover::recover(&adopted.launch));
    assert_eq!(adopted.update.idle_slot(), SlotName::B);
    assert_eq!(
        adopted.gave_way.map(|(release, fault)| (release, fault.code)),
        Some((new().release, ErrorCode::StorageCorrupt))
    );
    // As it should be: nothing to do.
    let adopted = handover::adopt(&journal, Place::Slot(SlotName::B), handover::recover(&journal));
    assert_eq!((adopted.launch, adopted.gave_way), (journal.clone(), None));
    assert_eq!(adopted.update, handover::recover(&journal));
}

//! Shadows of every nature on a virtual device that is killed at every effect, beside a model that goes its own way.
//!
//! What must hold is in [`World::perform`] and [`World::check_rest`]: nothing runs that was not verified, probed and counted
//! first, or beside anything but the confirmed release at rest; and once all kills end, each shadow runs, is promoted, or
//! has failed with the reason of its nature, and one that is not wanted has left nothing behind.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use super::*;
use crate::fault::Fault;
use crate::update::{self, Promise, ReleaseFacts};
use flotilla_protocol::message::{ProbeReport, ShadowPhase, ShadowRelease};
use flotilla_protocol::{Digest, ErrorCode};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, VecDeque};

const BUDGET: u64 = 100;
const FLOOR: u64 = 5;

/// `FLOTILLA_SHADOW_SEEDS` takes more.
fn seeds() -> u64 {
    std::env::var("FLOTILLA_SHADOW_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(2_000)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Nature {
    Good,
    Unsigned,
    BelowFloor,
    TooBig,
    Greedy,
    FailsProbe,
    KillsProbed,
    FailsLoad,
    Crashes,
    KillsRunning,
}

const NATURES: [Nature; 11] = [
    Nature::Good,
    Nature::Good,
    Nature::Unsigned,
    Nature::BelowFloor,
    Nature::TooBig,
    Nature::Greedy,
    Nature::FailsProbe,
    Nature::KillsProbed,
    Nature::FailsLoad,
    Nature::Crashes,
    Nature::KillsRunning,
];

fn digest(index: usize) -> Digest {
    Digest::of(&[index as u8])
}

fn nature(release: Digest) -> Nature {
    NATURES[(0..NATURES.len()).find(|index| digest(*index) == release).unwrap()]
}

/// Slow work that answers later, or never.
#[derive(Clone, Debug)]
enum Job {
    Intake(Effect),
    Clear,
}

/// What lies in the shadow's place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Place {
    release: Option<Digest>,
    /// Every file is there and was verified.
    whole: bool,
    /// Something changed on the disk since.
    damaged: bool,
}

struct World {
    rng: SmallRng,
    now_ms: u64,
    kills: u32,
    killed: u64,
    disk_full: bool,
    // What survives a kill.
    journal: Vec<u8>,
    place: Place,
    wanted: Option<ShadowRelease>,
    confirmed: Option<Digest>,
    // What does not.
    shadow: Shadow,
    jobs: VecDeque<Job>,
    running: Option<(u64, Digest, Digest)>,
    announced: bool,
    at_rest: bool,
    coming: Option<Digest>,
    tick_ms: Option<u64>,
    again: Vec<Event>,
    calm: bool,
    failures: BTreeMap<ErrorCode, u64>,
}

/// The device went down.
struct Down;

impl World {
    fn new(seed: u64) -> Self {
        Self {
            rng: SmallRng::seed_from_u64(seed),
            now_ms: 0,
            kills: 12,
            killed: 0,
            disk_full: false,
            journal: ShadowJournal::default().to_bytes(),
            place: Place::default(),
            wanted: None,
            confirmed: None,
            shadow: Shadow::new("digits".parse().unwrap(), ShadowJournal::default()),
            jobs: VecDeque::new(),
            running: None,
            announced: false,
            at_rest: false,
            coming: None,
            tick_ms: None,
            again: Vec::new(),
            calm: false,
            failures: BTreeMap::new(),
        }
    }

    fn ctx(&mut self) -> Context {
        Context {
            now_ms: self.now_ms,
            trusted_now_ms: 1,
            floor: FLOOR,
            confirmed: self.confirmed,
            beside: self.beside(),
            coming: self.coming,
            memory_bytes: BUDGET,
            random: self.rng.random(),
        }
    }

    fn beside(&self) -> Option<Beside> {
        self.confirmed.filter(|_| self.at_rest).map(|release| Beside { release, memory_bytes: 40 })
    }

    fn stored(&self) -> ShadowJournal {
        ShadowJournal::from_bytes(&self.journal).unwrap()
    }

    fn may_die(&mut self) -> Result<(), Down> {
        if !self.calm && self.kills > 0 && self.rng.random_bool(0.03) {
            self.kills -= 1;
            return Err(Down);
        }
        Ok(())
    }

    fn boot(&mut self) {
        self.killed += 1;
        self.shadow = Shadow::new("digits".parse().unwrap(), self.stored());
        (self.jobs, self.running, self.announced) = (VecDeque::new(), None, false);
        (self.at_rest, self.coming, self.tick_ms) = (false, None, None);
        self.again.clear();
    }

    fn give(&mut self, event: Event) -> Result<(), Down> {
        let event = match event {
            Event::Desired(_) => Event::Desired(self.wanted.clone()),
            other => other,
        };
        let ctx = self.ctx();
        let (next, effects) = self.shadow.step(event.clone(), &ctx);
        assert!(
            effects.iter().skip(1).all(|effect| !matches!(effect, Effect::PersistJournal(_))),
            "{effects:?}"
        );
        if let Some(Effect::PersistJournal(journal)) = effects.first() {
            if self.disk_full {
                self.again.push(event);
                return Ok(());
            }
            // Killed while it is written: it is there, or it is not.
            let die = self.may_die();
            if die.is_ok() || self.rng.random() {
                self.journal = journal.to_bytes();
            }
            die?;
        }
        self.shadow = next;
        for effect in effects {
            self.may_die()?;
            self.perform(effect, &ctx)?;
        }
        Ok(())
    }

    fn perform(&mut self, effect: Effect, ctx: &Context) -> Result<(), Down> {
        let stored = self.stored();
        match effect {
            Effect::PersistJournal(_) | Effect::Report => {}
            Effect::Share { share_per_mille } => {
                // The end of one that has ended waits for the disk; then nobody is there to see another share.
                let owed = self.again.iter().any(|event| matches!(event, Event::Ended { .. }));
                assert!((self.running.is_some() || owed) && share_per_mille <= 1_000);
            }
            Effect::Cancel => self.jobs.retain(|job| matches!(job, Job::Clear)),
            Effect::Clear => {
                let kept = stored.held.as_ref().map(|held| held.release);
                assert_eq!(kept, None, "cleared under {stored:?}");
                self.jobs.push_back(Job::Clear);
            }
            Effect::Stop => self.running = None,
            Effect::Start { ticket, release, against, share_per_mille } => {
                let held = stored.held.unwrap();
                assert_eq!((held.release, held.step), (release, ShadowStep::Passed));
                assert!(held.starts > 0 && held.starts <= STARTS && held.crashes < CRASHES, "{held:?}");
                assert!(held.counter >= FLOOR && share_per_mille <= 1_000);
                assert_eq!(Some(against), ctx.beside.map(|beside| beside.release));
                assert_ne!(release, against, "compared with itself");
                assert!(held.memory_bytes() + 40 <= BUDGET, "{held:?} does not fit");
                let bad = matches!(
                    nature(release),
                    Nature::Unsigned | Nature::BelowFloor | Nature::FailsProbe | Nature::KillsProbed
                );
                assert!(!bad && self.running.is_none() && self.place.whole);
                self.running = Some((ticket, release, against));
                self.announced = false;
            }
            Effect::Probe { release, .. } => {
                let held = stored.held.unwrap();
                assert_eq!((held.release, held.step), (release, ShadowStep::Staged));
                assert!(held.starts > 0 && held.starts <= update::PROBE_STARTS);
                self.jobs.push_back(Job::Intake(effect));
            }
            Effect::FetchRelease { release, .. } => {
                assert_eq!(stored.held.unwrap().release, release);
                self.jobs.push_back(Job::Intake(effect));
            }
            Effect::FetchFiles { .. } | Effect::VerifyFiles { .. } => {
                self.jobs.push_back(Job::Intake(effect))
            }
            Effect::EmitEvent(event) => {
                if let Some(code) = event.code {
                    *self.failures.entry(code).or_default() += 1;
                }
            }
            Effect::ScheduleTick { at_ms } => self.tick_ms = Some(at_ms),
        }
        Ok(())
    }

    fn work(&mut self) -> Result<(), Down> {
        let Some(job) = self.jobs.pop_front() else { return Ok(()) };
        let Job::Intake(effect) = job else {
            self.place = Place::default();
            return Ok(());
        };
        let luck = self.calm || self.rng.random_bool(0.8);
        let away = || Fault::transient(ErrorCode::Network, "away");
        let changed = || Fault::transient(ErrorCode::StorageCorrupt, "changed");
        let event = match effect {
            Effect::FetchRelease { ticket, release, .. } => {
                if self.place.release != Some(release) {
                    self.place = Place::default();
                }
                let result = match nature(release) {
                    _ if !luck => Err(away()),
                    Nature::Unsigned => Err(Fault::lasting(ErrorCode::SignatureInvalid, "unsigned")),
                    nature => {
                        self.place.release = Some(release);
                        let memory_bytes = if nature == Nature::TooBig { 90 } else { 0 };
                        Ok(ReleaseFacts {
                            counter: if nature == Nature::BelowFloor { FLOOR - 1 } else { FLOOR },
                            expires_at_ms: None,
                            total_bytes: 10,
                            promise: Promise { latency_us: 0, memory_bytes },
                        })
                    }
                };
                update::Event::EnvelopeFetched { ticket, result }
            }
            Effect::FetchFiles { ticket, release } => {
                assert_eq!(self.place.release, Some(release));
                self.give(Event::Intake(update::Event::FileProgress { ticket, bytes_done: 5 }))?;
                update::Event::FilesComplete { ticket, result: if luck { Ok(()) } else { Err(away()) } }
            }
            Effect::VerifyFiles { ticket, .. } => {
                (self.place.whole, self.place.damaged) = (luck, !luck);
                update::Event::FilesVerified { ticket, result: if luck { Ok(()) } else { Err(changed()) } }
            }
            Effect::Probe { ticket, release } => {
                let report = |peak_rss_bytes| {
                    Ok(ProbeReport {
                        vectors: 1,
                        max_abs_error: 0.0,
                        p50_ms: 1.0,
                        p95_ms: 1.0,
                        peak_rss_bytes,
                    })
                };
                let result = match nature(release) {
                    _ if self.place.damaged => Err(changed()),
                    Nature::FailsProbe => Err(Fault::lasting(ErrorCode::ProbeMismatch, "differs")),
                    Nature::KillsProbed => return Err(Down),
                    Nature::Greedy => report(80),
                    _ => report(20),
                };
                update::Event::ProbeDone { ticket, result }
            }
            other => panic!("{other:?} is no work"),
        };
        self.give(Event::Intake(event))
    }

    /// The running child does something.
    fn child(&mut self) -> Result<(), Down> {
        let Some((ticket, release, _)) = self.running else { return Ok(()) };
        let ended = |end| Event::Ended { ticket, end };
        if !self.announced {
            self.announced = true;
            return match nature(release) {
                _ if self.place.damaged => {
                    self.running = None;
                    self.give(ended(End::Refused(Fault::lasting(ErrorCode::DigestMismatch, "changed"))))
                }
                Nature::FailsLoad => {
                    self.running = None;
                    self.give(ended(End::Refused(Fault::lasting(ErrorCode::ModelUnsupported, "no operator"))))
                }
                Nature::KillsRunning => Err(Down),
                _ => self.give(Event::Runs { ticket }),
            };
        }
        if nature(release) == Nature::Crashes {
            self.running = None;
            return self.give(ended(End::Crashed(Fault::lasting(ErrorCode::ModelCrashed, "signal 11"))));
        }
        Ok(())
    }

    fn chance(&mut self) -> Result<(), Down> {
        self.now_ms += self.rng.random_range(0..3_000);
        match self.rng.random_range(0..14) {
            0 => {
                let attempt = self.wanted.as_ref().map_or(0, |wanted| wanted.attempt) + 1;
                let release = digest(self.rng.random_range(0..NATURES.len()));
                let share_per_mille = self.rng.random_range(0..1_200);
                let next = ShadowRelease { release, envelope_bytes: 9, attempt, share_per_mille };
                self.wanted = self.rng.random_bool(0.8).then_some(next);
                self.give(Event::Desired(None))
            }
            1 => {
                // The model: another release is on its way, is tried, is confirmed.
                match (self.coming, self.at_rest) {
                    (Some(coming), false) => {
                        (self.confirmed, self.coming, self.at_rest) = (Some(coming), None, true);
                    }
                    (Some(_), true) => self.at_rest = false,
                    (None, true) => {
                        let wanted = self.wanted.as_ref().map(|wanted| wanted.release);
                        let promoted = wanted.filter(|_| self.rng.random_bool(0.4));
                        self.coming = Some(promoted.unwrap_or(digest(self.rng.random_range(0..2))));
                    }
                    (None, false) => {
                        (self.confirmed, self.at_rest) = (Some(self.confirmed.unwrap_or(digest(0))), true)
                    }
                }
                self.give(Event::Model)
            }
            2 if self.place.whole => {
                self.place.damaged = true;
                Ok(())
            }
            3 => {
                self.disk_full = self.rng.random_bool(0.3);
                Ok(())
            }
            4..=5 => self.child(),
            6 => self.due(),
            _ => self.work(),
        }
    }

    /// What waits for its time.
    fn due(&mut self) -> Result<(), Down> {
        while !self.disk_full && !self.again.is_empty() {
            let event = self.again.remove(0);
            self.give(event)?;
        }
        if let Some(at_ms) = self.tick_ms.take() {
            self.now_ms = self.now_ms.max(at_ms);
            self.give(Event::Tick)?;
        }
        Ok(())
    }

    /// Does something, and starts the device anew if it went down of it.
    fn guarded(&mut self, action: impl FnOnce(&mut Self) -> Result<(), Down>) {
        let mut went = action(self);
        while went.is_err() {
            self.boot();
            went = self.give(Event::Desired(None));
        }
        if let Some((_, _, against)) = self.running
            && self.again.is_empty()
        {
            let beside = self.beside().map(|beside| beside.release);
            assert_eq!(Some(against), beside, "it runs beside something else");
        }
    }

    /// No more kills and faults: everything comes to rest.
    fn settle(&mut self) {
        (self.calm, self.disk_full) = (true, false);
        self.guarded(Self::due);
        if self.confirmed.is_none() {
            self.confirmed = Some(digest(0));
        }
        (self.at_rest, self.coming) = (true, None);
        self.guarded(|world| world.give(Event::Model));
        for _ in 0..200 {
            if !self.at_rest {
                self.at_rest = true;
                self.guarded(|world| world.give(Event::Model));
            }
            self.guarded(Self::work);
            self.guarded(Self::child);
            if self.jobs.is_empty() {
                self.guarded(Self::due);
            }
        }
        self.check_rest();
    }

    fn check_rest(&self) {
        let Some(wanted) = &self.wanted else {
            assert!(self.shadow.is_gone() && self.running.is_none(), "{:?}", self.shadow);
            assert_eq!((self.place, self.stored()), (Place::default(), ShadowJournal::default()));
            return;
        };
        let report = self.shadow.report().unwrap();
        let code = report.failure.as_ref().map(|failure| failure.code);
        if self.confirmed == Some(wanted.release) {
            assert_eq!(
                (report.phase, self.running, self.place),
                (ShadowPhase::Promoted, None, Place::default())
            );
            return;
        }
        if report.phase == ShadowPhase::Running {
            assert_eq!(nature(wanted.release), Nature::Good);
            assert!(self.running.is_some_and(|(_, release, _)| release == wanted.release));
            return;
        }
        assert_eq!((report.phase, self.running, self.place), (ShadowPhase::Failed, None, Place::default()));
        let expected: &[ErrorCode] = match nature(wanted.release) {
            // Only a device that went down again and again blames a good one; and a disk that goes on damaging it.
            Nature::Good => &[],
            Nature::Unsigned => &[ErrorCode::SignatureInvalid],
            Nature::BelowFloor => &[ErrorCode::BelowFloor],
            Nature::TooBig | Nature::Greedy => &[ErrorCode::NoRoom],
            Nature::FailsProbe => &[ErrorCode::ProbeMismatch],
            Nature::KillsProbed => &[ErrorCode::ProbeCrashed],
            Nature::FailsLoad => &[ErrorCode::ModelUnsupported],
            Nature::Crashes | Nature::KillsRunning => &[ErrorCode::ModelCrashed],
        };
        let unlucky = [
            ErrorCode::ProbeCrashed,
            ErrorCode::ModelCrashed,
            ErrorCode::StorageCorrupt,
            ErrorCode::DigestMismatch,
        ];
        let code = code.unwrap();
        assert!(
            expected.contains(&code) || unlucky.contains(&code),
            "{:?}: {report:?}",
            nature(wanted.release)
        );
    }
}

#[test]
fn shadows_of_every_nature_come_to_a_right_end_whatever_is_killed_whenever() {
    let (mut killed, mut ends) = (0, BTreeMap::<String, u64>::new());
    for seed in 0..seeds() {
        let run = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            world.guarded(|world| world.give(Event::Desired(None)));
            for _ in 0..world.rng.random_range(20..250) {
                world.guarded(World::chance);
            }
            world.settle();
            let report = world.shadow.report();
            let end = report.map_or("none".to_owned(), |report| {
                let code = report.failure.map_or(String::new(), |failure| format!(" {}", failure.code));
                format!("{}{code}", report.phase.as_str())
            });
            (world.killed, end)
        });
        let (kills, end) = run.unwrap_or_else(|_| panic!("seed {seed}"));
        killed += kills;
        *ends.entry(end).or_default() += 1;
    }
    println!("shadows: {} seeds, {killed} kills; {ends:?}", seeds());
    assert!(killed > seeds(), "only {killed} kills");
    for end in
        ["none", "running", "promoted", "failed no_room", "failed model_crashed", "failed probe_mismatch"]
    {
        assert!(ends.contains_key(end), "no shadow ended as {end}: {ends:?}");
    }
}

//! The launcher machine: `step(state, event, now) -> (state, effects)`.

use super::EXIT_SWITCH;
use super::journal::{Binary, GivenUp, LaunchJournal, Place, Trial, Why};
use crate::backoff::Backoff;
use crate::fault::cut;
use std::fmt;

/// Times that a candidate may be started before it is given up.
pub const TRIAL_STARTS: u32 = 3;
/// Times in a row that a binary may be started without staying up before something older is started instead.
pub const CRASHES: u32 = 5;
/// A binary that ran for so long has stayed up.
pub const SETTLED_MS: u64 = 60_000;
/// An agent that was asked to stop and still runs after so long is killed.
pub const KILL_MS: u64 = 20_000;

/// While another process holds the folder, a start is tried again after so long.
const IN_USE_MS: u64 = 5_000;
const RETRY: Backoff = Backoff { base_ms: 500, cap_ms: 60_000 };

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// With this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "with code {code}"),
            Exit::Signal(signal) => write!(f, "by signal {signal}"),
        }
    }
}

/// What happened. The journal is what the disk holds at that moment: the agent may have changed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The launcher started; the first event.
    Started(LaunchJournal),
    /// Answer to [`Effect::Persist`]: it failed. The effects after it were not performed.
    NotPersisted,
    /// Answer to [`Effect::Run`]: the process runs.
    Running,
    /// Answer to [`Effect::Run`]: it does not.
    NotRunning {
        /// It never will: the file is missing, damaged or no program for this machine.
        unusable: bool,
        /// For people.
        detail: String,
    },
    /// Answer to [`Effect::Run`]: another process holds the folder, so nothing was started.
    InUse,
    /// The process ended.
    Exited(Exit, LaunchJournal),
    /// The time asked for has come.
    Tick(LaunchJournal),
    /// The launcher is to stop.
    Stop,
}

/// What is to be done, in this order.
#[expect(clippy::large_enum_variant, reason = "one at a time is made and used up")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Store the journal durably. If it fails, nothing of the rest is done.
    Persist(LaunchJournal),
    /// Start the binary in this place; that of a slot only if it is whole, and none while another process holds the
    /// folder.
    Run(Place, Option<Binary>),
    /// Ask the process to stop.
    Ask,
    /// Kill the process.
    Kill,
    /// Send [`Event::Tick`] at this moment; replaces an earlier one.
    ScheduleTick(u64),
    /// Say this.
    Log(String),
    /// The launcher ends.
    Finish,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing runs until then.
    Waiting {
        due_ms: u64,
    },
    /// Started from this place; its trial, if it is one, ends then.
    Up {
        place: Place,
        since_ms: u64,
        due_ms: Option<u64>,
    },
    /// Asked to stop; killed then. Why: its trial is over, or the launcher stops.
    Stopping {
        due_ms: u64,
        killed: bool,
    },
    Done,
}

/// The launcher machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launcher {
    journal: LaunchJournal,
    state: State,
    stop: bool,
    /// How many of the choices confirmed, spare, installed are passed over because they do not stay up.
    passed: usize,
    /// Starts in a row that ended soon.
    crashes: u32,
    /// Starts cannot be counted, so the candidate is not started this time.
    uncountable: bool,
    /// The journal has changed and is to be stored before the next start.
    unsaved: bool,
    last: Option<Place>,
}

impl Default for Launcher {
    fn default() -> Self {
        Self {
            journal: LaunchJournal::default(),
            state: State::Waiting { due_ms: 0 },
            stop: false,
            passed: 0,
            crashes: 0,
            uncountable: false,
            unsaved: false,
            last: None,
        }
    }
}

impl Launcher {
    /// The place whose binary runs.
    pub fn place(&self) -> Option<Place> {
        match self.state {
            State::Up { place, .. } => Some(place),
            State::Stopping { .. } => self.last,
            State::Waiting { .. } | State::Done => None,
        }
    }

    /// One step. A journal write, if any, comes before the start that it announces.
    pub fn step(&self, event: Event, now_ms: u64, random: u64) -> (Self, Vec<Effect>) {
        let mut next = self.clone();
        let mut out = Vec::new();
        next.handle(event, now_ms, random, &mut out);
        (next, out)
    }

    fn handle(&mut self, event: Event, now_ms: u64, random: u64, out: &mut Vec<Effect>) {
        match event {
            Event::Started(journal) => {
                self.journal = journal;
                self.choose(now_ms, out);
            }
            Event::NotPersisted => {
                // What is on the disk still stands. A candidate whose start cannot be counted could take the device
                // down for ever; what is confirmed needs no counting.
                self.uncountable = true;
                self.choose(now_ms, out);
            }
            Event::InUse => self.in_use(now_ms, out),
            Event::Running => {}
            Event::NotRunning { unusable, detail } => self.not_running(unusable, detail, now_ms, random, out),
            Event::Exited(exit, journal) => self.exited(exit, journal, now_ms, random, out),
            Event::Tick(journal) => self.tick(journal, now_ms, out),
            Event::Stop => self.stop(now_ms, out),
        }
    }

    /// Nothing was started, so nothing is counted.
    fn in_use(&mut self, now_ms: u64, out: &mut Vec<Effect>) {
        let State::Up { place, .. } = self.state else { return };
        out.push(Effect::Log("another agent holds the folder; nothing is started beside it".to_owned()));
        let uncounted = std::mem::take(&mut self.uncountable);
        if let Some(trial) = self.journal.candidate.as_mut().filter(|_| !uncounted) {
            trial.starts = trial.starts.saturating_sub(1);
            self.unsaved = true;
        } else if !uncounted {
            self.uncount(place);
        }
        self.save(out);
        let due_ms = now_ms.saturating_add(IN_USE_MS);
        self.state = State::Waiting { due_ms };
        out.push(Effect::ScheduleTick(due_ms));
    }

    /// The confirmed binary was not started after all.
    fn uncount(&mut self, place: Place) {
        if self.is_confirmed(place) && self.journal.starts > 0 {
            self.journal.starts -= 1;
            self.unsaved = true;
        }
    }

    /// Takes in what the disk holds; returns what was known before. After a change every binary gets a new chance.
    fn read(&mut self, journal: LaunchJournal) -> LaunchJournal {
        if (&journal.confirmed, &journal.spare) != (&self.journal.confirmed, &self.journal.spare) {
            self.passed = 0;
        }
        self.unsaved = false;
        std::mem::replace(&mut self.journal, journal)
    }

    /// Starts what the journal says, or what is to be started instead.
    fn choose(&mut self, now_ms: u64, out: &mut Vec<Effect>) {
        if self.stop {
            return self.finish(out);
        }
        if let Some(trial) = self.journal.candidate.clone().filter(|_| !self.uncountable) {
            if trial.starts >= TRIAL_STARTS {
                let detail = format!("it was started {} times and did not confirm itself", trial.starts);
                self.give_up(Why::Crashed, detail, out);
            } else {
                return self.try_candidate(trial, now_ms, out);
            }
        }
        if !self.uncountable {
            self.retire(out);
        }
        let binaries = [self.journal.confirmed.clone(), self.journal.spare.clone()];
        let choices: Vec<Option<Binary>> = binaries.into_iter().flatten().map(Some).chain([None]).collect();
        let binary = choices[self.passed % choices.len()].clone();
        if self.is_counted(binary.as_ref()) {
            self.journal.starts += 1;
            self.unsaved = true;
        }
        self.run(binary, None, now_ms, out);
    }

    /// Whether starts of this binary are counted on the disk, beside those of a candidate.
    fn is_counted(&self, binary: Option<&Binary>) -> bool {
        !self.uncountable && binary.is_some() && binary == self.journal.confirmed.as_ref()
    }

    fn try_candidate(&mut self, trial: Trial, now_ms: u64, out: &mut Vec<Effect>) {
        let counted = Trial { starts: trial.starts + 1, ..trial };
        self.journal.candidate = Some(counted.clone());
        self.unsaved = true;
        let due_ms = now_ms.saturating_add(counted.patience_ms);
        self.run(Some(counted.binary), Some(due_ms), now_ms, out);
    }

    fn run(&mut self, binary: Option<Binary>, due_ms: Option<u64>, now_ms: u64, out: &mut Vec<Effect>) {
        let place = binary.as_ref().map_or(Place::Installed, |binary| Place::Slot(binary.slot));
        self.state = State::Up { place, since_ms: now_ms, due_ms };
        self.last = Some(place);
        self.save(out);
        out.push(Effect::Run(place, binary));
        out.extend(due_ms.map(Effect::ScheduleTick));
    }

    fn save(&mut self, out: &mut Vec<Effect>) {
        if std::mem::take(&mut self.unsaved) {
            out.push(Effect::Persist(self.journal.clone()));
        }
    }

    /// Ends the candidate's trial.
    fn give_up(&mut self, why: Why, detail: String, out: &mut Vec<Effect>) {
        let Some(Trial { binary, starts, .. }) = self.journal.candidate.take() else { return };
        out.push(Effect::Log(format!("agent {} is given up: {detail}", binary.version)));
        let given_up = GivenUp { release: binary.release, why, starts, detail: cut(detail) };
        self.journal.given_up = Some(given_up);
        self.unsaved = true;
        self.crashes = 0;
    }

    /// Gives the confirmed binary up for the spare, or for the installed one.
    fn retire(&mut self, out: &mut Vec<Effect>) {
        let Some(next) = self.journal.retire() else { return };
        (self.passed, self.crashes) = (0, 0);
        let version = self.journal.confirmed.as_ref().map_or("", |binary| &binary.version);
        out.push(Effect::Log(format!("agent {version} does not stay up and is given up")));
        self.journal = next;
        self.unsaved = true;
    }

    fn is_trial(&self, place: Place) -> bool {
        let slot = self.journal.candidate.as_ref().map(|trial| trial.binary.slot);
        slot.is_some() && slot == place.slot() && !self.uncountable
    }

    fn is_confirmed(&self, place: Place) -> bool {
        let slot = self.journal.confirmed.as_ref().map(|binary| binary.slot);
        slot.is_some() && slot == place.slot()
    }

    fn not_running(
        &mut self,
        unusable: bool,
        detail: String,
        now_ms: u64,
        random: u64,
        out: &mut Vec<Effect>,
    ) {
        let State::Up { place, .. } = self.state else { return };
        out.push(Effect::Log(format!("{place} is not started: {detail}")));
        if !self.uncountable {
            self.uncount(place);
        }
        match (self.is_trial(place), unusable) {
            (true, true) => {
                self.give_up(Why::Unusable, detail, out);
                self.choose(now_ms, out);
            }
            // Its start was counted; a fault of the moment gets the other starts.
            (true, false) => self.wait(now_ms, random, out),
            (false, true) if place != Place::Installed => {
                self.passed += 1;
                self.choose(now_ms, out);
            }
            (false, _) => {
                self.crashes += 1;
                self.passed += usize::from(unusable);
                self.save(out);
                self.wait(now_ms, random, out);
            }
        }
    }

    fn exited(
        &mut self,
        exit: Exit,
        journal: LaunchJournal,
        now_ms: u64,
        random: u64,
        out: &mut Vec<Effect>,
    ) {
        let before = self.read(journal);
        let state = std::mem::replace(&mut self.state, State::Waiting { due_ms: now_ms });
        let uncounted = std::mem::take(&mut self.uncountable);
        if self.stop {
            // It ended because it was told to.
            self.unsaved = exit == Exit::Code(0) && std::mem::take(&mut self.journal.starts) > 0;
            self.save(out);
            return self.finish(out);
        }
        match state {
            State::Stopping { .. } => {
                // Its time was over; it may have confirmed itself while it was being stopped.
                self.give_up(Why::Late, "it did not confirm itself in time".to_owned(), out);
                self.choose(now_ms, out);
            }
            State::Up { place, since_ms, .. } => {
                out.push(Effect::Log(format!("the agent of {place} ended {exit}")));
                let settled = now_ms.saturating_sub(since_ms) >= SETTLED_MS;
                if exit == Exit::Code(EXIT_SWITCH.into()) && (self.journal != before || uncounted) {
                    self.crashes = 0;
                    // One that was started because nothing could be written may ask for the same again.
                    return if uncounted { self.wait(now_ms, random, out) } else { self.choose(now_ms, out) };
                }
                if self.is_trial(place) {
                    let starts = self.journal.candidate.as_ref().map_or(0, |trial| trial.starts);
                    if starts >= TRIAL_STARTS {
                        let detail = format!("it ended {exit}, after {starts} starts");
                        self.give_up(Why::Crashed, detail, out);
                        return self.choose(now_ms, out);
                    }
                } else if settled {
                    self.crashes = 0;
                    self.unsaved = self.is_confirmed(place) && std::mem::take(&mut self.journal.starts) > 0;
                    self.save(out);
                } else if self.is_confirmed(place) && self.journal.starts > 0 && !uncounted {
                    // What is counted on the disk decides.
                } else if self.crashes + 1 >= CRASHES {
                    out.push(Effect::Log(format!("{place} does not stay up; something older is started")));
                    self.passed += 1;
                    self.crashes = 0;
                }
                self.crashes += 1;
                self.wait(now_ms, random, out);
            }
            State::Waiting { .. } | State::Done => self.choose(now_ms, out),
        }
    }

    fn wait(&mut self, now_ms: u64, random: u64, out: &mut Vec<Effect>) {
        let due_ms = now_ms.saturating_add(RETRY.delay_ms(self.crashes.saturating_sub(1), random));
        self.state = State::Waiting { due_ms };
        out.push(Effect::ScheduleTick(due_ms));
    }

    fn tick(&mut self, journal: LaunchJournal, now_ms: u64, out: &mut Vec<Effect>) {
        match self.state {
            State::Waiting { due_ms } if now_ms >= due_ms => {
                self.read(journal);
                self.choose(now_ms, out);
            }
            State::Up { place, due_ms: Some(due_ms), since_ms } if now_ms >= due_ms => {
                self.read(journal);
                if self.is_trial(place) {
                    out.push(Effect::Log("the candidate did not confirm itself in time".to_owned()));
                    self.ask(now_ms, out);
                } else {
                    self.state = State::Up { place, since_ms, due_ms: None };
                }
            }
            State::Stopping { due_ms, killed: false } if now_ms >= due_ms => {
                self.state = State::Stopping { due_ms, killed: true };
                out.push(Effect::Kill);
            }
            State::Waiting { due_ms }
            | State::Up { due_ms: Some(due_ms), .. }
            | State::Stopping { due_ms, killed: false } => out.push(Effect::ScheduleTick(due_ms)),
            State::Up { due_ms: None, .. } | State::Stopping { killed: true, .. } | State::Done => {}
        }
    }

    fn stop(&mut self, now_ms: u64, out: &mut Vec<Effect>) {
        self.stop = true;
        match self.state {
            State::Up { .. } => self.ask(now_ms, out),
            State::Waiting { .. } => self.finish(out),
            State::Stopping { .. } | State::Done => {}
        }
    }

    fn ask(&mut self, now_ms: u64, out: &mut Vec<Effect>) {
        let due_ms = now_ms.saturating_add(KILL_MS);
        self.state = State::Stopping { due_ms, killed: false };
        out.extend([Effect::Ask, Effect::ScheduleTick(due_ms)]);
    }

    fn finish(&mut self, out: &mut Vec<Effect>) {
        self.state = State::Done;
        out.push(Effect::Finish);
    }
}

//! The connection: connect, subscribe, hello, wait for desired; reported on every change; and when to try again.

use crate::backoff::Backoff;
use flotilla_protocol::message::{ReportStored, RequestBody};

/// A connection that is not through with subscribing after so long is given up.
pub const SETUP_MS: u64 = 30_000;
/// Without the desired document so long after a hello, the device asks.
pub const DESIRED_MS: u64 = 20_000;
/// Questions for the desired document before the device says hello anew.
pub const QUESTIONS: u32 = 2;
/// At most one report in so long.
pub const REPORT_INTERVAL_MS: u64 = 500;
/// The full report is repeated this often until the cloud says that it has it: it may be lost behind the broker.
pub const REPORT_REPEAT_MS: u64 = 600_000;

const RETRY: Backoff = Backoff { base_ms: 1_000, cap_ms: 300_000 };

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The process started, or the time asked for has come.
    Tick,
    /// The broker accepted the connection.
    Connected,
    /// The broker accepted all subscriptions.
    Subscribed,
    /// The connection failed or was lost.
    Lost,
    /// A valid desired document came, new or the accepted one again.
    DesiredSeen,
    /// There is something new to report.
    ReportChanged,
    /// The cloud has a report durably.
    ReportStored(ReportStored),
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Open a connection.
    Connect,
    /// Close it; [`Event::Lost`] need not follow.
    Close,
    /// Subscribe to the device's own topics.
    Subscribe,
    /// Store the hello counter durably. If that fails, nothing of the rest is done and the connection is closed:
    /// [`Event::Lost`].
    SaveCounter(u64),
    /// Send a hello.
    SendHello {
        /// Its counter.
        counter: u64,
    },
    /// Send the full report.
    SendReported {
        /// Its version within the hello counter.
        version: u64,
    },
    /// Ask the cloud.
    Ask(RequestBody),
    /// Send [`Event::Tick`] at this moment; replaces an earlier one.
    ScheduleTick {
        /// The moment.
        at_ms: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Waiting { due_ms: u64 },
    Connecting { deadline_ms: u64 },
    Subscribing { deadline_ms: u64 },
    Up,
}

/// The session machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    link: Link,
    level: u32,
    counter: u64,
    /// When to ask for the desired document; `None` once it came.
    desired_due_ms: Option<u64>,
    questions: u32,
    report_version: u64,
    reported_ms: Option<u64>,
    report_waits: bool,
    /// Whether the cloud has the last report.
    report_stored: bool,
}

impl Session {
    /// A session that connects at its first tick; `counter` is the stored hello counter, 0 for none.
    pub fn new(counter: u64) -> Self {
        Self {
            link: Link::Waiting { due_ms: 0 },
            level: 0,
            counter,
            desired_due_ms: None,
            questions: 0,
            report_version: 0,
            reported_ms: None,
            report_waits: false,
            report_stored: false,
        }
    }

    /// Whether messages can be sent.
    pub fn is_up(&self) -> bool {
        self.link == Link::Up
    }

    /// Whether the cloud has the last report durably, as far as it has said so.
    pub fn report_is_stored(&self) -> bool {
        self.report_stored
    }

    /// One step.
    pub fn step(&self, event: Event, now_ms: u64, random: u64) -> (Self, Vec<Effect>) {
        let mut next = self.clone();
        let mut out = Vec::new();
        match event {
            Event::Tick => next.tick(now_ms, random, &mut out),
            Event::Connected => {
                if let Link::Connecting { deadline_ms } = next.link {
                    next.link = Link::Subscribing { deadline_ms };
                    out.push(Effect::Subscribe);
                }
            }
            Event::Subscribed => {
                if matches!(next.link, Link::Subscribing { .. }) {
                    next.link = Link::Up;
                    next.hello(now_ms, &mut out);
                }
            }
            Event::Lost => next.lost(now_ms, random),
            Event::DesiredSeen => {
                if next.is_up() {
                    next.desired_due_ms = None;
                    next.questions = 0;
                    next.level = 0;
                }
            }
            Event::ReportChanged => {
                if next.is_up() {
                    next.report_waits = true;
                    next.report_if_due(now_ms, &mut out);
                }
            }
            Event::ReportStored(stored) => {
                let last = ReportStored { counter: next.counter, version: next.report_version };
                // What an earlier connection has said, or of an earlier report, tells nothing of this one.
                next.report_stored |= next.is_up() && stored == last;
            }
        }
        if let Some(at_ms) = next.due_ms() {
            out.push(Effect::ScheduleTick { at_ms });
        }
        (next, out)
    }

    fn tick(&mut self, now_ms: u64, random: u64, out: &mut Vec<Effect>) {
        match self.link {
            Link::Waiting { due_ms } if now_ms >= due_ms => {
                self.link = Link::Connecting { deadline_ms: now_ms + SETUP_MS };
                out.push(Effect::Connect);
            }
            Link::Connecting { deadline_ms } | Link::Subscribing { deadline_ms } if now_ms >= deadline_ms => {
                out.push(Effect::Close);
                self.lost(now_ms, random);
            }
            Link::Up => {
                if self.desired_due_ms.is_some_and(|due| now_ms >= due) {
                    self.miss_desired(now_ms, out);
                }
                if !self.report_stored
                    && self.reported_ms.is_some_and(|sent| now_ms >= sent + REPORT_REPEAT_MS)
                {
                    self.report_waits = true;
                }
                self.report_if_due(now_ms, out);
            }
            _ => {}
        }
    }

    fn hello(&mut self, now_ms: u64, out: &mut Vec<Effect>) {
        self.counter += 1;
        self.questions = 0;
        self.desired_due_ms = Some(now_ms + DESIRED_MS);
        self.report_version = 0;
        self.reported_ms = None;
        self.report_waits = true;
        self.report_stored = false;
        out.push(Effect::SaveCounter(self.counter));
        out.push(Effect::SendHello { counter: self.counter });
        self.report_if_due(now_ms, out);
    }

    fn miss_desired(&mut self, now_ms: u64, out: &mut Vec<Effect>) {
        if self.questions >= QUESTIONS {
            return self.hello(now_ms, out);
        }
        self.questions += 1;
        self.desired_due_ms = Some(now_ms + DESIRED_MS);
        out.push(Effect::Ask(RequestBody::Desired));
    }

    fn report_if_due(&mut self, now_ms: u64, out: &mut Vec<Effect>) {
        let due = self.reported_ms.is_none_or(|sent| now_ms >= sent + REPORT_INTERVAL_MS);
        if self.report_waits && due {
            self.report_waits = false;
            self.report_stored = false;
            self.report_version += 1;
            self.reported_ms = Some(now_ms);
            out.push(Effect::SendReported { version: self.report_version });
        }
    }

    fn lost(&mut self, now_ms: u64, random: u64) {
        if matches!(self.link, Link::Waiting { .. }) {
            return;
        }
        // The level falls back only with a desired document: a broker that accepts and drops at once is no
        // reason to hurry.
        self.link = Link::Waiting { due_ms: now_ms + RETRY.delay_ms(self.level, random) };
        self.level += 1;
        self.desired_due_ms = None;
        self.report_waits = false;
        self.report_stored = false;
    }

    fn due_ms(&self) -> Option<u64> {
        match self.link {
            Link::Waiting { due_ms } => Some(due_ms),
            Link::Connecting { deadline_ms } | Link::Subscribing { deadline_ms } => Some(deadline_ms),
            Link::Up => {
                let sent = self.reported_ms;
                let next_report = match (self.report_waits, self.report_stored) {
                    (true, _) => Some(REPORT_INTERVAL_MS),
                    (false, false) => Some(REPORT_REPEAT_MS),
                    (false, true) => None,
                };
                let report = sent.zip(next_report).map(|(sent, wait)| sent + wait);
                [self.desired_due_ms, report].into_iter().flatten().min()
            }
        }
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;

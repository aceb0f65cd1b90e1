//! The device's certificate: when a new one is due, and how it takes over without a moment in which the device has none.
//!
//! ```text
//! settled -- due --> asked -- stored beside the present pair --> trying -- the cloud answered a hello --> adopting --> settled
//!                      |                                            |
//!                   waiting <-- refused, lost, not approved yet   the present pair again, by turns
//! ```
//!
//! The present pair is given up only after the cloud has answered a hello that was said with the next one; until then
//! every failed connection is followed by one with the other pair. A present certificate that has ended is of no use
//! for a connection: the new one is asked for over HTTPS then, where a person has to approve it.
//!
//! A network that fails says nothing about a pair. Only the word of the server counts against the next one, and even
//! then it is tried by turns until another has come: an approval is work of a person, and not to be thrown away.

use crate::backoff::Backoff;

/// The least wait between two looks at the calendar: it may be changed while the agent runs.
const CHECK_MS: u64 = 3_600_000;
/// A question over the link without an answer after so long is asked again.
const ANSWER_MS: u64 = 60_000;
/// A question over HTTPS without an outcome after so long is given up; the exchange has its own, shorter bounds.
const HTTPS_MS: u64 = 900_000;
/// After the server refused the next pair so often, and accepts the present one, the next pair is thrown away. Where the
/// present certificate has ended, another one is asked for.
pub const STRIKES: u32 = 3;
/// The next pair is tried again after so long with the present one, then after twice as long …
const TRY_AGAIN_MS: u64 = 30_000;
/// … and at least this often.
const TRY_AGAIN_MAX_MS: u64 = 3_600_000;
/// A step on the disk that failed is tried again after so long.
const DISK_MS: u64 = 30_000;

const ASK: Backoff = Backoff { base_ms: 10_000, cap_ms: 3_600_000 };
/// A person decides: soon, if the approval is part of somebody's work right now.
const APPROVAL: Backoff = Backoff { base_ms: 5_000, cap_ms: 900_000 };

/// From when until when a certificate is valid, in milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// The begin.
    pub begins_ms: u64,
    /// The end.
    pub ends_ms: u64,
}

impl Life {
    /// When a new certificate is due: at two thirds of the life, and up to a twelfth of it later, so that devices that
    /// enrolled together do not renew together.
    pub fn due_ms(&self, random: u64) -> u64 {
        let life = self.ends_ms.saturating_sub(self.begins_ms);
        self.begins_ms.saturating_add(life / 3 * 2).saturating_add(random % (life / 12 + 1))
    }
}

/// The clocks: one that only runs forward while the process lives, and the trusted calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds since the start.
    pub ms: u64,
    /// Milliseconds since 1970.
    pub calendar_ms: u64,
}

/// A key with its certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pair {
    /// The one that is known to work.
    Present,
    /// The one that is to take over.
    Next,
}

impl Pair {
    fn other(self) -> Self {
        match self {
            Pair::Present => Pair::Next,
            Pair::Next => Pair::Present,
        }
    }
}

/// Why a connection failed or ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The network, the server's load, our own wish: nothing that is said of the certificate.
    Network,
    /// The server does not accept the certificate.
    Refused,
    /// The server said that the certificate has ended.
    Ended,
}

/// How a new certificate is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Road {
    /// Over the connection.
    Link,
    /// Over HTTPS, with an approval.
    Https,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The process started, or the time asked for has come.
    Tick,
    /// An operator wants a new certificate now.
    Wanted,
    /// The cloud answered a hello on a connection that was opened with this pair.
    Heard(Pair),
    /// A connection with this pair failed or ended.
    Lost {
        /// The pair.
        pair: Pair,
        /// Why.
        loss: Loss,
    },
    /// The certificate that was asked for came, was checked, and lies durably beside the present pair.
    Stored(Life),
    /// What was asked for did not come, or could not be used or stored.
    NotYet,
    /// The next pair is the present one now, durably.
    Adopted,
    /// That could not be written.
    NotAdopted,
}

/// What is to be done, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Ask for a certificate: [`Event::Stored`] or [`Event::NotYet`].
    Ask(Road),
    /// Close the connection, if there is one, and open one with [`Renewal::pair`]; no [`Event::Lost`].
    Reconnect,
    /// Make the next pair the present one: [`Event::Adopted`] or [`Event::NotAdopted`].
    Adopt,
    /// Throw the next pair away, and the key that a new one was asked for with.
    Discard,
    /// Send [`Event::Tick`] at this moment; replaces an earlier one.
    ScheduleTick {
        /// The moment.
        at_ms: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Settled,
    Asked { road: Road, deadline_ms: u64 },
    Waiting { due_ms: u64 },
    Trying { strikes: u32, failures: u32, retry_ms: Option<u64> },
    Adopting { retry_ms: u64 },
}

/// The machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renewal {
    present: Life,
    next: Option<Life>,
    stage: Stage,
    /// The pair whose turn it is, where there are two.
    turn: Pair,
    /// Spreads the devices of a fleet over the calendar; the same after every start.
    spread: u64,
    level: u32,
    /// Whether the cloud has answered on the connection that is open.
    heard: bool,
    /// Whether the server said that the present certificate has ended, whatever the calendar says here.
    called_expired: bool,
}

impl Renewal {
    /// The machine of a device with this pair, and perhaps a next one that was stored before the last stop.
    pub fn new(present: Life, next: Option<Life>, spread: u64) -> Self {
        let stage = if next.is_some() { Self::TRY } else { Stage::Settled };
        let turn = Pair::Next;
        Self { present, next, stage, turn, spread, level: 0, heard: false, called_expired: false }
    }

    const TRY: Stage = Stage::Trying { strikes: 0, failures: 0, retry_ms: None };

    /// The pair for the next connection.
    pub fn pair(&self) -> Pair {
        match self.stage {
            Stage::Adopting { .. } => Pair::Next,
            _ if self.next.is_some() => self.turn,
            _ => Pair::Present,
        }
    }

    /// The stable name of what the machine does, for people.
    pub fn state(&self) -> &'static str {
        match self.stage {
            Stage::Settled => "settled",
            Stage::Asked { road: Road::Link, .. } => "asked",
            Stage::Asked { road: Road::Https, .. } => "asked_over_https",
            Stage::Waiting { .. } => "waiting",
            Stage::Trying { .. } => "trying",
            Stage::Adopting { .. } => "adopting",
        }
    }

    /// Whether a certificate is awaited.
    pub fn has_asked(&self) -> bool {
        matches!(self.stage, Stage::Asked { .. })
    }

    /// The life of the present certificate.
    pub fn present(&self) -> Life {
        self.present
    }

    /// Whether the present certificate has ended, as far as anybody says.
    pub fn is_expired(&self, now: Now) -> bool {
        self.called_expired || now.calendar_ms >= self.present.ends_ms
    }

    /// One step.
    pub fn step(&self, event: Event, now: Now, random: u64) -> (Self, Vec<Effect>) {
        let mut next = self.clone();
        let mut out = Vec::new();
        match event {
            Event::Tick => next.tick(now, random, &mut out),
            // Whatever is on its way already serves as well.
            Event::Wanted => {
                if let Stage::Settled = next.stage {
                    next.stage = Stage::Waiting { due_ms: now.ms };
                }
            }
            Event::Heard(pair) => next.heard(pair, now, random, &mut out),
            Event::Lost { pair, loss } => next.lost(pair, loss, now),
            Event::Stored(life) => {
                if let Stage::Asked { .. } = next.stage {
                    (next.next, next.turn) = (Some(life), Pair::Next);
                    next.stage = Self::TRY;
                    next.heard = false;
                    out.push(Effect::Reconnect);
                }
            }
            Event::NotYet => {
                if let Stage::Asked { road, .. } = next.stage {
                    next.wait(road, now, random);
                }
            }
            Event::Adopted => {
                if let (Stage::Adopting { .. }, Some(life)) = (next.stage, next.next) {
                    (next.present, next.next) = (life, None);
                    next.stage = Stage::Settled;
                    next.level = 0;
                    next.called_expired = false;
                }
            }
            Event::NotAdopted => {
                if let Stage::Adopting { .. } = next.stage {
                    next.stage = Stage::Adopting { retry_ms: now.ms + DISK_MS };
                }
            }
        }
        next.ask_if_due(now, &mut out);
        out.push(Effect::ScheduleTick { at_ms: next.due_ms(now) });
        (next, out)
    }

    fn tick(&mut self, now: Now, random: u64, out: &mut Vec<Effect>) {
        if !matches!(self.stage, Stage::Adopting { .. })
            && self.next.is_some_and(|life| now.calendar_ms >= life.ends_ms)
        {
            // It lay here too long, with the device switched off.
            self.outlive(now);
        }
        match &mut self.stage {
            Stage::Asked { road, deadline_ms } if now.ms >= *deadline_ms => {
                let road = *road;
                self.wait(road, now, random);
            }
            Stage::Trying { retry_ms, .. } if retry_ms.is_some_and(|at| now.ms >= at) => {
                *retry_ms = None;
                self.turn = Pair::Next;
                self.heard = false;
                out.push(Effect::Reconnect);
            }
            Stage::Adopting { retry_ms } if now.ms >= *retry_ms => {
                *retry_ms = now.ms + DISK_MS;
                out.push(Effect::Adopt);
            }
            _ => {}
        }
    }

    fn heard(&mut self, pair: Pair, now: Now, random: u64, out: &mut Vec<Effect>) {
        let first = !std::mem::replace(&mut self.heard, true);
        match (self.stage, pair) {
            (Stage::Adopting { .. }, _) => {}
            (_, Pair::Next) if self.next.is_some() => {
                self.stage = Stage::Adopting { retry_ms: now.ms + DISK_MS };
                out.push(Effect::Adopt);
            }
            (Stage::Trying { strikes, failures, .. }, Pair::Present) if first => {
                self.called_expired = false;
                if strikes >= STRIKES {
                    self.next = None;
                    out.push(Effect::Discard);
                    self.wait(Road::Link, now, random);
                } else {
                    let pause = TRY_AGAIN_MS << failures.saturating_sub(1).min(7);
                    let retry_ms = Some(now.ms + pause.min(TRY_AGAIN_MAX_MS));
                    self.stage = Stage::Trying { strikes, failures, retry_ms };
                }
            }
            (_, Pair::Present) => self.called_expired = false,
            _ => {}
        }
    }

    fn lost(&mut self, pair: Pair, loss: Loss, now: Now) {
        self.heard = false;
        // The present certificate is the older one: it has ended if the next one has.
        self.called_expired |= loss == Loss::Ended;
        if loss == Loss::Ended && pair == Pair::Next && !matches!(self.stage, Stage::Adopting { .. }) {
            return self.outlive(now);
        }
        self.turn = pair.other();
        let alone = self.is_expired(now);
        match &mut self.stage {
            Stage::Trying { strikes, failures, retry_ms } => {
                match (pair, loss) {
                    (Pair::Next, Loss::Refused) => *strikes = strikes.saturating_add(1),
                    // Whoever is refused with either has another problem than the pair.
                    (Pair::Present, Loss::Refused) if !alone => *strikes = strikes.saturating_sub(1),
                    _ => {}
                }
                *failures = failures.saturating_add(u32::from(pair == Pair::Next));
                *retry_ms = None;
                if alone && *strikes >= STRIKES {
                    self.stage = Stage::Waiting { due_ms: now.ms };
                }
            }
            Stage::Asked { road: Road::Link, .. } => self.stage = Stage::Waiting { due_ms: now.ms },
            _ => {}
        }
    }

    /// The next certificate has ended before it could take over. Its key stays on the disk: the cloud may know the device
    /// by it alone, and takes it as proof over HTTPS.
    fn outlive(&mut self, now: Now) {
        self.next = None;
        if let Stage::Trying { .. } = self.stage {
            self.stage = Stage::Waiting { due_ms: now.ms };
        }
    }

    fn wait(&mut self, road: Road, now: Now, random: u64) {
        let rule = if road == Road::Https { APPROVAL } else { ASK };
        self.stage = Stage::Waiting { due_ms: now.ms + rule.delay_ms(self.level, random) };
        self.level = self.level.saturating_add(1);
    }

    /// The way on which a question can go out now.
    fn road(&self, now: Now) -> Option<Road> {
        match (self.heard, self.is_expired(now)) {
            (true, _) => Some(Road::Link),
            (false, true) => Some(Road::Https),
            (false, false) => None,
        }
    }

    fn is_due(&self, now: Now) -> bool {
        match self.stage {
            Stage::Settled => self.is_expired(now) || now.calendar_ms >= self.present.due_ms(self.spread),
            Stage::Waiting { due_ms } => now.ms >= due_ms,
            _ => false,
        }
    }

    fn ask_if_due(&mut self, now: Now, out: &mut Vec<Effect>) {
        if !self.is_due(now) {
            return;
        }
        if let Some(road) = self.road(now) {
            let patience = if road == Road::Https { HTTPS_MS } else { ANSWER_MS };
            self.stage = Stage::Asked { road, deadline_ms: now.ms + patience };
            out.push(Effect::Ask(road));
        }
    }

    fn due_ms(&self, now: Now) -> u64 {
        let look = now.ms + CHECK_MS;
        let on_calendar = |at_ms: u64| match at_ms.saturating_sub(now.calendar_ms) {
            0 => look,
            left => look.min(now.ms.saturating_add(left)),
        };
        let due = on_calendar(self.present.due_ms(self.spread));
        let ends = on_calendar(self.present.ends_ms);
        match self.stage {
            Stage::Settled => due.min(ends),
            Stage::Asked { deadline_ms, .. } => deadline_ms,
            // What is due and has no road waits for a connection, or for the end of the certificate.
            Stage::Waiting { due_ms } if now.ms >= due_ms => ends,
            Stage::Waiting { due_ms } => due_ms,
            Stage::Trying { retry_ms, .. } => retry_ms.unwrap_or(look),
            Stage::Adopting { retry_ms } => retry_ms,
        }
    }
}

#[cfg(test)]
#[path = "renewal_tests.rs"]
mod tests;

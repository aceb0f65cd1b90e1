//! Which bytes to ask for next, and whether those that come are believed.
//!
//! A file is cut into chunks of [`limits::CHUNK`]. The digests of a release's chunks stand in its signed manifest,
//! so a wrong chunk is thrown away at once; a release envelope is small and checked as a whole. What the disk
//! already holds is marked and never asked for again, and a chunk that stands in several places is asked for once.
//!
//! How much may be in flight is the link's [`Window`]; whether anything may be asked for at all is the device's
//! [`Budget`]. Both are shared by all downloads, one after the other.

use crate::backoff::Backoff;
use crate::budget::Budget;
use crate::window::Window;
use flotilla_protocol::manifest::FileEntry;
use flotilla_protocol::message::{Chunk, Fetch};
use flotilla_protocol::{Digest, limits};

const RETRY: Backoff = Backoff { base_ms: 250, cap_ms: 60_000 };

/// What all downloads of a device share.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    /// What the link carries.
    pub window: Window,
    /// What the operator allows.
    pub budget: Budget,
}

/// What the clocks say, and a fresh random value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// A clock that only runs forward; its zero means nothing.
    pub now_ms: u64,
    /// Milliseconds since 1970, if that is known.
    pub wall_ms: Option<u64>,
    /// A fresh random value.
    pub random: u64,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Send this.
    Fetch(Fetch),
    /// Nothing until a chunk comes or this moment.
    Wait {
        /// The moment.
        until_ms: u64,
    },
    /// Every chunk is there.
    Complete,
}

/// What a received chunk is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It has its digest, or belongs to a file that is checked as a whole: write it wherever it stands.
    Write,
    /// It is there already.
    Duplicate,
    /// It belongs to no file of this download.
    Foreign,
    /// It is not what was asked for. It was counted, and is asked for again after a while.
    Wrong,
}

/// One download: the files of a release, or one envelope.
#[derive(Clone, Debug)]
pub struct Download {
    parts: Vec<Part>,
    in_flight: u32,
    /// When silence counts as loss, while something is in flight.
    deadline_ms: u64,
    not_before_ms: u64,
    /// Whether nothing more is asked for.
    held: bool,
    troubles: u32,
    wrong: u64,
    refusals: u64,
}

#[derive(Clone, Debug)]
struct Part {
    digest: Digest,
    bytes: u64,
    digests: Option<Vec<Digest>>,
    chunks: Vec<State>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Missing {
        /// Whether it was asked for before.
        again: bool,
    },
    Asked {
        fetch: u64,
        /// Its number in the window.
        number: u64,
        at_ms: u64,
        again: bool,
    },
    Have,
}

const MISSING: State = State::Missing { again: false };

impl State {
    fn is_missing(self) -> bool {
        matches!(self, State::Missing { .. })
    }
}

impl Part {
    fn new(digest: Digest, bytes: u64, digests: Option<Vec<Digest>>) -> Self {
        let count = bytes.div_ceil(limits::CHUNK as u64) as usize;
        Self { digest, bytes, digests, chunks: vec![MISSING; count] }
    }

    fn len_of(&self, index: usize) -> u64 {
        let start = index as u64 * limits::CHUNK as u64;
        (self.bytes - start).min(limits::CHUNK as u64)
    }

    fn bytes_done(&self) -> u64 {
        let have = self.chunks.iter().enumerate().filter(|(_, state)| **state == State::Have);
        have.map(|(index, _)| self.len_of(index)).sum()
    }

    /// Whether a chunk with this digest and size is the one that stands here.
    fn stands_at(&self, index: usize, chunk: &Digest, bytes: u64) -> bool {
        bytes == self.len_of(index) && self.digests.as_ref().is_some_and(|all| all.get(index) == Some(chunk))
    }
}

impl Download {
    /// The files of a verified manifest. Files with the same content are fetched once.
    pub fn files(files: &[FileEntry]) -> Self {
        let mut parts: Vec<Part> = Vec::with_capacity(files.len());
        for file in files {
            if !parts.iter().any(|part| part.digest == file.digest) {
                parts.push(Part::new(file.digest, file.bytes, Some(file.chunks.clone())));
            }
        }
        Self::of(parts)
    }

    /// One document of which only digest and size are known. The caller checks its digest when it is complete,
    /// and calls [`Self::restart`] if it is another.
    pub fn document(digest: Digest, bytes: u64) -> Self {
        Self::of(vec![Part::new(digest, bytes, None)])
    }

    fn of(parts: Vec<Part>) -> Self {
        Self {
            parts,
            in_flight: 0,
            deadline_ms: 0,
            not_before_ms: 0,
            held: false,
            troubles: 0,
            wrong: 0,
            refusals: 0,
        }
    }

    // === what is there already ===

    /// Marks a chunk of a file as there: the caller has checked it against its digest.
    pub fn have(&mut self, file: Digest, index: usize) {
        let part = self.parts.iter_mut().find(|part| part.digest == file);
        if let Some(state) = part.and_then(|part| part.chunks.get_mut(index)) {
            landed(state, &mut self.in_flight);
        }
    }

    /// Digests of the chunks that are missing.
    pub fn missing(&self) -> impl Iterator<Item = Digest> {
        self.parts.iter().flat_map(|part| {
            let digests = part.digests.iter().flatten().zip(&part.chunks);
            digests.filter(|(_, state)| **state != State::Have).map(|(digest, _)| *digest)
        })
    }

    /// Bytes of a file that are missing.
    pub fn missing_bytes(&self, file: &Digest) -> u64 {
        let part = self.parts.iter().find(|part| part.digest == *file);
        part.map_or(0, |part| part.bytes - part.bytes_done())
    }

    /// Takes content that was found somewhere else: every place at which it stands is there once the caller has
    /// written it. Returns the bytes that need not be fetched now; 0 if it stands nowhere.
    pub fn found(&mut self, data: &[u8]) -> u64 {
        self.settle(&Digest::of(data), data.len() as u64)
    }

    /// Marks every place of a chunk; returns the bytes of those that were not there.
    fn settle(&mut self, chunk: &Digest, bytes: u64) -> u64 {
        let mut settled = 0;
        for part in &mut self.parts {
            for index in 0..part.chunks.len() {
                if part.chunks[index] != State::Have && part.stands_at(index, chunk, bytes) {
                    landed(&mut part.chunks[index], &mut self.in_flight);
                    settled += bytes;
                }
            }
        }
        settled
    }

    // === what to ask for ===

    /// What to do next; `id` names the fetch if there is one.
    pub fn next(&mut self, id: u64, pace: &mut Pace, moment: &Moment) -> Next {
        let now_ms = moment.now_ms;
        // A clock that was set back leaves no wait longer than it ever is.
        self.deadline_ms = self.deadline_ms.min(now_ms.saturating_add(pace.window.timeout_ms()));
        self.not_before_ms = self.not_before_ms.min(now_ms.saturating_add(RETRY.cap_ms));
        if self.in_flight > 0 && now_ms >= self.deadline_ms {
            self.forget_flight(|_, _| true);
            pace.window.silent();
            self.trouble(moment);
        }
        if self.in_flight == 0 && self.is_complete() {
            return Next::Complete;
        }
        let wait_ms = |until_ms: u64, in_flight: u32, deadline_ms: u64| Next::Wait {
            until_ms: if in_flight > 0 { until_ms.min(deadline_ms) } else { until_ms },
        };
        if now_ms < self.not_before_ms {
            return wait_ms(self.not_before_ms, self.in_flight, self.deadline_ms);
        }
        // Asking again at half of the window keeps the link busy without asking chunk by chunk.
        let window = pace.window.chunks();
        let room = window.saturating_sub(self.in_flight);
        let due = !self.held && self.in_flight <= window / 2 && self.first_missing().is_some();
        if !due {
            return Next::Wait { until_ms: if self.in_flight > 0 { self.deadline_ms } else { u64::MAX } };
        }
        match pace.budget.allows(room, now_ms, moment.wall_ms) {
            Ok(chunks) => self.ask(id, chunks, pace, now_ms),
            Err(until_ms) => wait_ms(until_ms, self.in_flight, self.deadline_ms),
        }
    }

    /// Asks for the first run of missing chunks, `most` at most.
    fn ask(&mut self, id: u64, most: u32, pace: &mut Pace, now_ms: u64) -> Next {
        let Some((part, first)) = self.first_missing() else { return Next::Complete };
        let part = &mut self.parts[part];
        let mut chunks = 0;
        let mut bytes = 0;
        for index in (first..part.chunks.len()).take(most as usize) {
            let State::Missing { again } = part.chunks[index] else { break };
            let number = pace.window.asked();
            part.chunks[index] = State::Asked { fetch: id, number, at_ms: now_ms, again };
            chunks += 1;
            bytes += part.len_of(index);
        }
        let fetch = Fetch { id, digest: part.digest, offset: (first * limits::CHUNK) as u64, chunks };
        pace.budget.spend(bytes);
        if self.in_flight == 0 {
            self.deadline_ms = now_ms.saturating_add(pace.window.timeout_ms());
        }
        self.in_flight += chunks;
        Next::Fetch(fetch)
    }

    fn first_missing(&self) -> Option<(usize, usize)> {
        self.parts.iter().enumerate().find_map(|(at, part)| {
            let first = part.chunks.iter().position(|state| state.is_missing())?;
            Some((at, first))
        })
    }

    /// Asks for nothing more, or goes on: what is in flight lands, and then others may have the link.
    pub fn hold(&mut self, held: bool) {
        self.held = held;
    }

    /// Whether nothing is in flight.
    pub fn is_idle(&self) -> bool {
        self.in_flight == 0
    }

    // === what comes ===

    /// Judges a chunk.
    pub fn accept(&mut self, chunk: &Chunk, pace: &mut Pace, moment: &Moment) -> Verdict {
        let Some(part) = self.parts.iter_mut().find(|part| part.digest == chunk.digest) else {
            return Verdict::Foreign;
        };
        let index = (chunk.offset / limits::CHUNK as u64) as usize;
        let bytes = chunk.data.len() as u64;
        let placed = chunk.offset.is_multiple_of(limits::CHUNK as u64)
            && index < part.chunks.len()
            && chunk.total == part.bytes;
        if placed && part.chunks[index] == State::Have {
            return Verdict::Duplicate;
        }
        let digest = Digest::of(&chunk.data);
        let whole = part.digests.is_none();
        let right = placed && (part.stands_at(index, &digest, bytes) || whole && bytes == part.len_of(index));
        if !right {
            if placed && let State::Asked { number, .. } = part.chunks[index] {
                self.in_flight -= 1;
                pace.window.lost(number);
                part.chunks[index] = State::Missing { again: true };
            }
            self.wrong += 1;
            self.trouble(moment);
            return Verdict::Wrong;
        }
        let number = match part.chunks[index] {
            State::Asked { number, at_ms, again, .. } => {
                let waited_ms = (!again).then(|| moment.now_ms.saturating_sub(at_ms));
                pace.window.arrived(number, waited_ms);
                Some(number)
            }
            // It was given up and came all the same.
            _ => None,
        };
        landed(&mut part.chunks[index], &mut self.in_flight);
        self.settle(&digest, bytes);
        if number.is_some() {
            let lost = pace.window.lost_up_to();
            self.forget_flight(|_, number| {
                let is_lost = number <= lost;
                if is_lost {
                    pace.window.lost(number);
                }
                is_lost
            });
        }
        self.troubles = 0;
        self.deadline_ms = moment.now_ms.saturating_add(pace.window.timeout_ms());
        Verdict::Write
    }

    /// The cloud refused the fetch with this id. True if it was one of this download.
    pub fn refused(&mut self, id: u64, pace: &mut Pace, moment: &Moment) -> bool {
        let was_ours = self.forget_flight(|fetch, number| {
            if fetch == id {
                pace.window.lost(number);
            }
            fetch == id
        });
        if was_ours {
            self.refusals += 1;
            self.trouble(moment);
        }
        was_ours
    }

    /// The link was lost: what was in flight will not come. Trying again is up to the link.
    pub fn disconnected(&mut self) {
        self.forget_flight(|_, _| true);
        self.not_before_ms = 0;
    }

    /// Everything that was received is wrong as a whole: starts over after a while.
    pub fn restart(&mut self, moment: &Moment) {
        for part in &mut self.parts {
            part.chunks.fill(State::Missing { again: true });
        }
        self.in_flight = 0;
        self.wrong += 1;
        self.trouble(moment);
    }

    fn trouble(&mut self, moment: &Moment) {
        self.not_before_ms = moment.now_ms.saturating_add(RETRY.delay_ms(self.troubles, moment.random));
        self.troubles += 1;
    }

    /// Gives up what is in flight and `which` says, by fetch and number.
    fn forget_flight(&mut self, mut which: impl FnMut(u64, u64) -> bool) -> bool {
        let mut forgotten = 0;
        for state in self.parts.iter_mut().flat_map(|part| &mut part.chunks) {
            if matches!(*state, State::Asked { fetch, number, .. } if which(fetch, number)) {
                *state = State::Missing { again: true };
                forgotten += 1;
            }
        }
        self.in_flight -= forgotten;
        forgotten > 0
    }

    // === how far it is ===

    /// Whether every chunk is there.
    pub fn is_complete(&self) -> bool {
        self.parts.iter().flat_map(|part| &part.chunks).all(|state| *state == State::Have)
    }

    /// Bytes that are there.
    pub fn bytes_done(&self) -> u64 {
        self.parts.iter().map(Part::bytes_done).sum()
    }

    /// Bytes of distinct files.
    pub fn bytes_total(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes).sum()
    }

    /// Timeouts, refusals and wrong chunks since the last right one.
    pub fn troubles(&self) -> u32 {
        self.troubles
    }

    /// Wrong chunks received.
    pub fn wrong(&self) -> u64 {
        self.wrong
    }

    /// Whether the cloud was heard to refuse something of it, or to send something else.
    pub fn is_refused(&self) -> bool {
        self.wrong > 0 || self.refusals > 0
    }
}

/// The chunk is there, and not in flight any more.
fn landed(state: &mut State, in_flight: &mut u32) {
    if matches!(state, State::Asked { .. }) {
        *in_flight -= 1;
    }
    *state = State::Have;
}

#[cfg(test)]
#[path = "download_tests.rs"]
mod tests;

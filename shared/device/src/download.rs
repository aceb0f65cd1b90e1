//! Which bytes to ask for next, and whether those that come are believed.
//!
//! A file is cut into chunks of [`limits::CHUNK`]. The digests of a release's chunks stand in its signed manifest,
//! so a wrong chunk is thrown away at once; a release envelope is small and checked as a whole. What the disk
//! already holds is marked and never asked for again.

use crate::backoff::Backoff;
use flotilla_protocol::manifest::FileEntry;
use flotilla_protocol::message::{Chunk, Fetch};
use flotilla_protocol::{Digest, limits};

/// Chunks in flight to this device: bounds its memory, and is well within [`limits::FETCH_WINDOW`].
pub const WINDOW: u32 = 8;
/// Without any chunk for so long, what is in flight counts as lost.
pub const TIMEOUT_MS: u64 = 15_000;

const RETRY: Backoff = Backoff { base_ms: 250, cap_ms: 60_000 };

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
    /// It has its digest, or belongs to a file that is checked as a whole: write it at its offset.
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
    deadline_ms: u64,
    not_before_ms: u64,
    troubles: u32,
    wrong: u64,
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
    Missing,
    Asked { fetch: u64 },
    Have,
}

impl Part {
    fn new(digest: Digest, bytes: u64, digests: Option<Vec<Digest>>) -> Self {
        let count = bytes.div_ceil(limits::CHUNK as u64) as usize;
        Self { digest, bytes, digests, chunks: vec![State::Missing; count] }
    }

    fn len_of(&self, index: usize) -> u64 {
        let start = index as u64 * limits::CHUNK as u64;
        (self.bytes - start).min(limits::CHUNK as u64)
    }

    fn is_right(&self, index: usize, data: &[u8]) -> bool {
        data.len() as u64 == self.len_of(index)
            && self.digests.as_ref().is_none_or(|digests| digests.get(index) == Some(&Digest::of(data)))
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
        Self { parts, in_flight: 0, deadline_ms: 0, not_before_ms: 0, troubles: 0, wrong: 0 }
    }

    /// Marks a chunk that is there already, if `data` is right. True if it is.
    pub fn mark(&mut self, digest: Digest, index: usize, data: &[u8]) -> bool {
        let Some(part) = self.parts.iter_mut().find(|part| part.digest == digest) else { return false };
        let right = index < part.chunks.len() && part.is_right(index, data);
        if right {
            part.chunks[index] = State::Have;
        }
        right
    }

    /// What to do next; `id` names the fetch if there is one.
    pub fn next(&mut self, id: u64, now_ms: u64, random: u64) -> Next {
        if self.in_flight > 0 && now_ms >= self.deadline_ms {
            self.forget_flight(|_| true);
            self.trouble(now_ms, random);
        }
        if self.in_flight == 0 && self.is_complete() {
            return Next::Complete;
        }
        if now_ms < self.not_before_ms {
            return Next::Wait { until_ms: self.not_before_ms };
        }
        // Asking again at half of the window keeps the link busy without asking chunk by chunk.
        let room = WINDOW.saturating_sub(self.in_flight) as usize;
        if self.in_flight <= WINDOW / 2
            && let Some((part, first)) = self.first_missing()
        {
            let run =
                part.chunks[first..].iter_mut().take(room).take_while(|state| **state == State::Missing);
            let chunks = run.map(|state| *state = State::Asked { fetch: id }).count() as u32;
            let fetch = Fetch { id, digest: part.digest, offset: (first * limits::CHUNK) as u64, chunks };
            self.in_flight += chunks;
            self.deadline_ms = now_ms + TIMEOUT_MS;
            return Next::Fetch(fetch);
        }
        Next::Wait { until_ms: self.deadline_ms }
    }

    fn first_missing(&mut self) -> Option<(&mut Part, usize)> {
        self.parts.iter_mut().find_map(|part| {
            let first = part.chunks.iter().position(|state| *state == State::Missing)?;
            Some((part, first))
        })
    }

    /// Judges a chunk.
    pub fn accept(&mut self, chunk: &Chunk, now_ms: u64, random: u64) -> Verdict {
        let Some(part) = self.parts.iter_mut().find(|part| part.digest == chunk.digest) else {
            return Verdict::Foreign;
        };
        let index = (chunk.offset / limits::CHUNK as u64) as usize;
        let placed = chunk.offset.is_multiple_of(limits::CHUNK as u64)
            && index < part.chunks.len()
            && chunk.total == part.bytes;
        if placed && part.chunks[index] == State::Have {
            return Verdict::Duplicate;
        }
        let right = placed && part.is_right(index, &chunk.data);
        if placed && matches!(part.chunks[index], State::Asked { .. }) {
            self.in_flight -= 1;
        }
        if right {
            part.chunks[index] = State::Have;
            self.troubles = 0;
            self.deadline_ms = now_ms + TIMEOUT_MS;
            return Verdict::Write;
        }
        if placed {
            part.chunks[index] = State::Missing;
        }
        self.wrong += 1;
        self.trouble(now_ms, random);
        Verdict::Wrong
    }

    /// The cloud refused the fetch with this id. True if it was one of this download.
    pub fn refused(&mut self, id: u64, now_ms: u64, random: u64) -> bool {
        let was_ours = self.forget_flight(|fetch| fetch == id);
        if was_ours {
            self.trouble(now_ms, random);
        }
        was_ours
    }

    /// The link was lost: what was in flight will not come. Trying again is up to the link.
    pub fn disconnected(&mut self) {
        self.forget_flight(|_| true);
        self.not_before_ms = 0;
    }

    /// Everything that was received is wrong as a whole: starts over after a while.
    pub fn restart(&mut self, now_ms: u64, random: u64) {
        for part in &mut self.parts {
            part.chunks.fill(State::Missing);
        }
        self.in_flight = 0;
        self.wrong += 1;
        self.trouble(now_ms, random);
    }

    fn trouble(&mut self, now_ms: u64, random: u64) {
        self.not_before_ms = now_ms + RETRY.delay_ms(self.troubles, random);
        self.troubles += 1;
    }

    fn forget_flight(&mut self, which: impl Fn(u64) -> bool) -> bool {
        let mut forgotten = 0;
        for state in self.parts.iter_mut().flat_map(|part| &mut part.chunks) {
            if matches!(*state, State::Asked { fetch } if which(fetch)) {
                *state = State::Missing;
                forgotten += 1;
            }
        }
        self.in_flight -= forgotten;
        forgotten > 0
    }

    /// Whether every chunk is there.
    pub fn is_complete(&self) -> bool {
        self.parts.iter().flat_map(|part| &part.chunks).all(|state| *state == State::Have)
    }

    /// Bytes that are there.
    pub fn bytes_done(&self) -> u64 {
        let of = |part: &Part| -> u64 {
            let have = part.chunks.iter().enumerate().filter(|(_, state)| **state == State::Have);
            have.map(|(index, _)| part.len_of(index)).sum()
        };
        self.parts.iter().map(of).sum()
    }

    /// Bytes of distinct content.
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
}

#[cfg(test)]
#[path = "download_tests.rs"]
mod tests;

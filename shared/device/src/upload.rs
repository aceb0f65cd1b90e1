//! One thing at a time on its way to the cloud (a hard example, or what the log says), one piece at a time: it must never
//! be in the way of anything else.
//!
//! The device offers what it has; the cloud says how many bytes it holds durably, and each piece goes on from there.
//! A connection that breaks, or a restart on either side, begins with an offer again, which costs no bytes that the
//! cloud has already.

use crate::backoff::Backoff;
use flotilla_protocol::message::{HardExample, LogOffer, Upload};
use flotilla_protocol::{Digest, ErrorCode, codec, limits};

/// How long an answer may take.
pub const ANSWER_MS: u64 = 60_000;
/// Bytes of data in one message: little, so that on a slow link nothing else waits behind it for long.
pub const PIECE: usize = 32 * limits::KIB;
/// Bytes that must be left of a day's budget for an upload to go on: an offer, or the head of a piece, fits.
pub const LEAST: u64 = 2 * limits::KIB as u64;
/// After trouble, and while the cloud takes nothing.
const RETRY: Backoff = Backoff { base_ms: 5_000, cap_ms: 3_600_000 };
/// What a piece's data may add to the encoded length of a message without data, beside itself.
const LENGTH: u64 = 8;

/// What an offer says of the bytes that it is about.
pub trait Offer: Clone {
    /// Says it.
    fn put_into(self, upload: &mut Upload);
}

impl Offer for HardExample {
    fn put_into(self, upload: &mut Upload) {
        upload.example = Some(self);
    }
}

impl Offer for LogOffer {
    fn put_into(self, upload: &mut Upload) {
        upload.log = Some(self);
    }
}

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// Enter `cost` as sent, then send this, with so many bytes from its offset as its data.
    Send {
        /// The message, still without data.
        upload: Box<Upload>,
        /// Bytes of data to put in.
        len: usize,
        /// The most bytes that the message then has.
        cost: u64,
    },
    /// Nothing until an answer comes or this moment.
    Wait {
        /// The moment.
        until_ms: u64,
    },
    /// Today's budget is too small for more.
    Spent,
    /// Nothing is on its way.
    Idle,
}

/// What an answer means for what is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is of another question.
    Foreign,
    /// Go on with [`Uploader::next`].
    Onward,
    /// The cloud has all of it: the device's copy may go.
    Complete(Digest),
    /// The cloud will never take it.
    Hopeless(Digest),
}

/// The upload that is under way, if there is one.
#[derive(Clone, Debug)]
pub struct Uploader<W> {
    current: Option<Current<W>>,
    level: u32,
    not_before_ms: u64,
}

impl<W> Default for Uploader<W> {
    fn default() -> Self {
        Self { current: None, level: 0, not_before_ms: 0 }
    }
}

#[derive(Clone, Debug)]
struct Current<W> {
    what: W,
    digest: Digest,
    total: u64,
    /// How much the cloud has; not known before it has answered an offer.
    stored: Option<u64>,
    asked: Option<Asked>,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    id: u64,
    until_ms: u64,
}

impl<W: Offer> Uploader<W> {
    /// What is on its way, by its digest.
    pub fn current(&self) -> Option<(&Digest, &W)> {
        self.current.as_ref().map(|current| (&current.digest, &current.what))
    }

    /// Begins with something of so many bytes, in place of whatever was under way.
    pub fn begin(&mut self, what: W, digest: Digest, total: u64) {
        self.current = Some(Current { what, digest, total, stored: None, asked: None });
    }

    /// Gives up what is under way: it is not wanted any more.
    pub fn cancel(&mut self) {
        self.current = None;
    }

    /// Another connection: what was said on the one before may not have come.
    pub fn reconnected(&mut self) {
        if let Some(current) = &mut self.current {
            (current.stored, current.asked) = (None, None);
        }
    }

    /// What to do at this moment, if `left` bytes may still be sent today. `id` is a new number for a question.
    pub fn next(&mut self, id: u64, left: u64, now_ms: u64, random: u64) -> Next {
        if now_ms < self.not_before_ms {
            return Next::Wait { until_ms: self.not_before_ms };
        }
        let Some(current) = &mut self.current else { return Next::Idle };
        match current.asked {
            Some(asked) if now_ms < asked.until_ms => return Next::Wait { until_ms: asked.until_ms },
            // The answer, or the question, is lost.
            Some(_) => return self.trouble(now_ms, random),
            None => {}
        }
        let offset = current.stored.unwrap_or(0);
        let mut upload = Upload {
            id,
            digest: current.digest,
            offset,
            total: current.total,
            data: Vec::new(),
            example: None,
            log: None,
        };
        if current.stored.is_none() {
            current.what.clone().put_into(&mut upload);
        }
        let head = codec::encode(&upload).len() as u64 + LENGTH;
        let most = match current.stored {
            Some(stored) => (current.total - stored).min(PIECE as u64),
            None => 0,
        };
        let len = left.saturating_sub(head).min(most);
        if left < head || (len == 0 && current.stored.is_some()) {
            return Next::Spent;
        }
        current.asked = Some(Asked { id, until_ms: now_ms.saturating_add(ANSWER_MS) });
        Next::Send { upload: Box::new(upload), len: len as usize, cost: head + len }
    }

    /// Begins with an offer again, after a while.
    fn trouble(&mut self, now_ms: u64, random: u64) -> Next {
        self.reconnected();
        self.not_before_ms = now_ms.saturating_add(RETRY.delay_ms(self.level, random));
        self.level = self.level.saturating_add(1);
        Next::Wait { until_ms: self.not_before_ms }
    }

    /// What was to be sent was not.
    pub fn unsent(&mut self, now_ms: u64, random: u64) {
        self.trouble(now_ms, random);
    }

    fn answered(&mut self, id: u64) -> Option<&mut Current<W>> {
        let current = self.current.as_mut()?;
        current.asked.take_if(|asked| asked.id == id).map(|_| current)
    }

    /// The cloud holds so many bytes durably.
    pub fn stored(&mut self, id: u64, bytes: u64, now_ms: u64, random: u64) -> Outcome {
        let Some(current) = self.answered(id) else { return Outcome::Foreign };
        if bytes == current.total {
            let digest = current.digest;
            (self.current, self.level) = (None, 0);
            return Outcome::Complete(digest);
        }
        // A cloud that has less after a piece than before, or more than there is, has lost its way.
        let (known, onward) = match current.stored {
            None => (false, bytes < current.total),
            Some(before) => (true, bytes > before && bytes < current.total),
        };
        if onward {
            current.stored = Some(bytes);
            // An answer to an offer moves nothing: where each piece is refused it must not set back how long to wait.
            if known {
                self.level = 0;
            }
        } else {
            self.trouble(now_ms, random);
        }
        Outcome::Onward
    }

    /// The cloud refuses.
    pub fn refused(&mut self, id: u64, code: ErrorCode, now_ms: u64, random: u64) -> Outcome {
        let Some(current) = self.answered(id) else { return Outcome::Foreign };
        let digest = current.digest;
        let hopeless = matches!(
            code,
            ErrorCode::PermissionDenied
                | ErrorCode::NotFound
                | ErrorCode::InvalidInput
                | ErrorCode::Malformed
                | ErrorCode::TooLarge
                | ErrorCode::SampleInvalid
                | ErrorCode::DigestMismatch
        );
        if hopeless {
            self.current = None;
            return Outcome::Hopeless(digest);
        }
        self.trouble(now_ms, random);
        Outcome::Onward
    }
}

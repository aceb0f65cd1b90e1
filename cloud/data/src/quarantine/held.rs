//! How much the quarantine holds, and how much it has promised to hold: what is on its way counts from its offer on.

use crate::bounds::{QUARANTINE_BYTES, QUARANTINE_DECISIONS, QUARANTINE_RESERVE, QUARANTINE_WAITING};
use crate::error::{Error, Result};
use flotilla_protocol::{DeviceId, Digest};
use std::collections::BTreeMap;

/// Examples of one device that are on their way. A further one takes the place of the one that rested longest.
const PARTS: usize = 4;
/// What has not gone on for so long is given up. Longer than a day, after which a spent budget is whole again.
const STALE_MS: u64 = 2 * 24 * 3_600 * 1_000;

/// What the quarantine may hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Examples that wait for a decision, those on their way included.
    pub(super) waiting: usize,
    /// Bytes of their pictures.
    pub(super) bytes: u64,
    /// Decisions that are remembered.
    pub(super) decisions: usize,
    /// Bytes that stay free on the disk.
    pub(super) reserve_bytes: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            waiting: QUARANTINE_WAITING,
            bytes: QUARANTINE_BYTES,
            decisions: QUARANTINE_DECISIONS,
            reserve_bytes: QUARANTINE_RESERVE,
        }
    }
}

/// An upload that is on its way.
pub(super) type Part = (DeviceId, Digest);

#[derive(Clone, Debug)]
struct Expected {
    digest: Digest,
    total: u64,
    /// When it went on last.
    at_ms: u64,
}

impl Expected {
    fn is_stale(&self, now_ms: u64) -> bool {
        self.at_ms.saturating_add(STALE_MS) < now_ms
    }
}

/// How much there is. The caller removes the files of parts that a method gives away.
#[derive(Debug)]
pub(super) struct Held {
    bounds: Bounds,
    waiting: usize,
    bytes: u64,
    decisions: usize,
    expected: BTreeMap<DeviceId, Vec<Expected>>,
}

impl Held {
    /// So many examples wait, with so many bytes of pictures, and so many are decided on.
    pub(super) fn new(bounds: Bounds, waiting: usize, bytes: u64, decisions: usize) -> Self {
        Self { bounds, waiting, bytes, decisions, expected: BTreeMap::new() }
    }

    fn all(&self) -> impl Iterator<Item = &Expected> {
        self.expected.values().flatten()
    }

    fn fits(&self, total: u64) -> bool {
        let promised: u64 = self.all().map(|expected| expected.total).sum();
        let bytes = self.bytes.saturating_add(promised).saturating_add(total);
        bytes <= self.bounds.bytes && self.waiting + self.all().count() < self.bounds.waiting
    }

    /// A part that was found on the disk. Its offer comes again.
    pub(super) fn found(&mut self, (device, digest): Part, total: u64, at_ms: u64) {
        self.expected.entry(device).or_default().push(Expected { digest, total, at_ms });
    }

    /// Reserves room for an upload, in place of what was reserved for it before; and gives away the parts that make way
    /// for it, even if there is no room.
    pub(super) fn reserve(&mut self, part: &Part, total: u64, now_ms: u64) -> (Result<()>, Vec<Part>) {
        let (device, digest) = part;
        let before = self.position(part).map(|(device, at)| device.remove(at));
        let mut gone = Vec::new();
        let of_device = self.expected.entry(device.clone()).or_default();
        while of_device.len() >= PARTS {
            let oldest = of_device.iter().enumerate().min_by_key(|(_, expected)| expected.at_ms);
            let Some((at, _)) = oldest else { break };
            gone.push((device.clone(), of_device.remove(at).digest));
        }
        if !self.fits(total) {
            gone.extend(self.take_stale(now_ms));
        }
        let fits = self.fits(total);
        let reserved = if fits { Some(Expected { digest: *digest, total, at_ms: now_ms }) } else { before };
        self.expected.entry(device.clone()).or_default().extend(reserved);
        self.expected.retain(|_, parts| !parts.is_empty());
        (if fits { Ok(()) } else { Err(Error::QuarantineFull) }, gone)
    }

    /// A piece of an upload came; refuses one that nobody expects in this size.
    pub(super) fn go_on(&mut self, part: &Part, total: u64, now_ms: u64) -> Result<()> {
        let not_offered = || Error::NotOffered { digest: part.1 };
        let (of_device, at) = self.position(part).ok_or_else(not_offered)?;
        let expected = of_device.get_mut(at).filter(|expected| expected.total == total);
        expected.ok_or_else(not_offered)?.at_ms = now_ms;
        Ok(())
    }

    pub(super) fn expects(&self, (device, digest): &Part) -> bool {
        self.expected.get(device).is_some_and(|parts| parts.iter().any(|part| part.digest == *digest))
    }

    /// Whether anything of this device is on its way.
    pub(super) fn expects_of(&self, device: &DeviceId) -> bool {
        self.expected.contains_key(device)
    }

    /// The devices of which something is on its way.
    pub(super) fn senders(&self) -> Vec<DeviceId> {
        self.expected.keys().cloned().collect()
    }

    /// An upload is over, one way or the other.
    pub(super) fn release(&mut self, part: &Part) {
        if let Some((of_device, at)) = self.position(part) {
            of_device.remove(at);
            self.expected.retain(|_, parts| !parts.is_empty());
        }
    }

    /// Gives away all that is on its way of a device.
    pub(super) fn forget(&mut self, device: &DeviceId) {
        self.expected.remove(device);
    }

    /// Gives away what has not gone on for long.
    pub(super) fn take_stale(&mut self, now_ms: u64) -> Vec<Part> {
        let mut gone = Vec::new();
        for (device, parts) in &mut self.expected {
            let stale = parts.extract_if(.., |part| part.is_stale(now_ms));
            gone.extend(stale.map(|part| (device.clone(), part.digest)));
        }
        self.expected.retain(|_, parts| !parts.is_empty());
        gone
    }

    /// An upload became an example that waits.
    pub(super) fn take_in(&mut self, part: &Part, bytes: u64) {
        self.release(part);
        self.waiting += 1;
        self.bytes += bytes;
    }

    /// Examples with these bytes of pictures were decided on.
    pub(super) fn decided(&mut self, examples: usize, bytes: u64) {
        self.waiting = self.waiting.saturating_sub(examples);
        self.bytes = self.bytes.saturating_sub(bytes);
        self.decisions += examples;
    }

    /// So many decisions were forgotten.
    pub(super) fn forgot(&mut self, decisions: usize) {
        self.decisions = self.decisions.saturating_sub(decisions);
    }

    /// Whether more decisions are remembered than there may be.
    pub(super) fn is_over_decisions(&self) -> bool {
        self.decisions > self.bounds.decisions
    }

    fn position(&mut self, (device, digest): &Part) -> Option<(&mut Vec<Expected>, usize)> {
        let of_device = self.expected.get_mut(device)?;
        let at = of_device.iter().position(|part| part.digest == *digest)?;
        Some((of_device, at))
    }
}

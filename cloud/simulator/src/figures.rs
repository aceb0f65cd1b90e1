//! What happened: counted while it happens, shown live, and summed up at the end.

use flotilla_protocol::message::Phase;
use flotilla_protocol::{Digest, ErrorCode, ModelName};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Releases of which times are kept.
const RELEASES: usize = 64;

/// A moment of the simulation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Snapshot {
    /// Seconds since the first connection was opened.
    pub seconds: f64,
    /// Devices of the simulation.
    pub devices: u32,
    /// Devices that have a session now.
    pub connected: u32,
    /// Devices on their way to a release, by phase.
    pub under_way: BTreeMap<&'static str, u32>,
    /// Releases that were wanted, the newest last.
    pub releases: Vec<ReleaseFigures>,
    /// Failures that devices have reported, by code.
    pub failures: BTreeMap<&'static str, u64>,
    /// Connections that failed or were lost without the device wanting it, by code.
    pub lost: BTreeMap<&'static str, u64>,
}

/// How a release spread. Times count from the moment at which the control plane signed the first document that names it,
/// by its own clock: the start of the rollout.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ReleaseFigures {
    /// The model.
    pub model: String,
    /// The release.
    pub release: String,
    /// Devices that run it, confirmed, now.
    pub running: u32,
    /// Devices that have confirmed it, at some time.
    pub confirmed: u32,
    /// Devices of which it was wanted.
    pub wanted: u32,
    /// Seconds until the last of them confirmed it; none as long as nobody has.
    pub seconds: Option<f64>,
    /// Seconds until half of them had confirmed it.
    pub p50_s: Option<f64>,
    /// Seconds until nine of ten had.
    pub p90_s: Option<f64>,
    /// Seconds until 99 of 100 had.
    pub p99_s: Option<f64>,
}

/// What came of a simulation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// How it stood at the end.
    #[serde(flatten)]
    pub end: Snapshot,
    /// Why it ended: `stopped`, `time` or `released`.
    pub ended: &'static str,
    /// Devices that enrolled for it.
    pub enrolled: u32,
    /// Seconds that this took.
    pub enrol_s: f64,
    /// How devices came to their first session.
    pub connect: ConnectFigures,
    /// What went over the connections: payloads of messages, in bytes.
    pub traffic: Traffic,
}

/// How devices came to their first session.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ConnectFigures {
    /// Devices that had one.
    pub devices: u32,
    /// Seconds until the last of them had it.
    pub seconds: f64,
    /// Sessions a second until then.
    pub per_s: f64,
    /// Seconds until half of them had it.
    pub p50_s: f64,
    /// Seconds until 99 of 100 had.
    pub p99_s: f64,
}

/// Messages and their bytes, from the devices' side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Traffic {
    /// Bytes that came.
    pub received: u64,
    /// Bytes that went.
    pub sent: u64,
    /// Messages that came.
    pub messages_received: u64,
    /// Messages that went.
    pub messages_sent: u64,
}

/// Counts.
pub(crate) struct Figures {
    devices: u32,
    began: Mutex<Instant>,
    received: AtomicU64,
    sent: AtomicU64,
    messages_received: AtomicU64,
    messages_sent: AtomicU64,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    connected: u32,
    /// Milliseconds to the first session, a device that has had one.
    first_ms: Vec<u32>,
    phases: BTreeMap<Phase, u32>,
    releases: Vec<Spread>,
    failures: BTreeMap<&'static str, u64>,
    lost: BTreeMap<&'static str, u64>,
}

struct Spread {
    model: ModelName,
    release: Digest,
    /// When the first document that names it was signed, by the control plane's clock.
    since_ms: u64,
    wanted: BTreeSet<u32>,
    running: u32,
    /// When each device confirmed it first, by the control plane's clock.
    confirmed_ms: BTreeMap<u32, u64>,
}

impl Figures {
    pub(crate) fn new(devices: u32) -> Self {
        Self {
            devices,
            began: Mutex::new(Instant::now()),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            messages_received: AtomicU64::new(0),
            messages_sent: AtomicU64::new(0),
            counts: Mutex::default(),
        }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first connection is opened now.
    pub(crate) fn begin(&self) {
        *self.began.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn seconds(&self) -> f64 {
        self.began.lock().unwrap_or_else(PoisonError::into_inner).elapsed().as_secs_f64()
    }

    pub(crate) fn received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
        self.messages_received.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
        self.messages_sent.fetch_add(1, Ordering::Relaxed);
    }

    /// A device has a session; `first` if it is its first one.
    pub(crate) fn connected(&self, first: bool) {
        let ms = (self.seconds() * 1_000.0) as u32;
        let mut counts = self.counts();
        counts.connected += 1;
        if first {
            counts.first_ms.push(ms);
        }
    }

    pub(crate) fn disconnected(&self) {
        self.counts().connected -= 1;
    }

    /// A connection failed, or was lost.
    pub(crate) fn lost(&self, code: ErrorCode) {
        *self.counts().lost.entry(code.as_str()).or_default() += 1;
    }

    /// A device reports a failure.
    pub(crate) fn failed(&self, code: ErrorCode) {
        *self.counts().failures.entry(code.as_str()).or_default() += 1;
    }

    /// A model of a device goes from phase to phase.
    pub(crate) fn phase(&self, before: Option<Phase>, now: Option<Phase>) {
        if before == now {
            return;
        }
        let mut counts = self.counts();
        if let Some(count) = before.and_then(|before| counts.phases.get_mut(&before)) {
            *count -= 1;
        }
        if let Some(now) = now {
            *counts.phases.entry(now).or_default() += 1;
        }
    }

    /// A document names a release for a device.
    pub(crate) fn wanted(&self, device: u32, model: &ModelName, release: Digest, signed_ms: u64) {
        if let Some(spread) = self.counts().spread(model, release, signed_ms) {
            spread.since_ms = spread.since_ms.min(signed_ms);
            spread.wanted.insert(device);
        }
    }

    /// A device runs another confirmed release of a model, at this moment of the control plane's clock.
    pub(crate) fn confirmed(
        &self,
        device: u32,
        model: &ModelName,
        before: Option<Digest>,
        now: Option<Digest>,
        at_ms: u64,
    ) {
        if before == now {
            return;
        }
        let mut counts = self.counts();
        if let Some(left) = before.and_then(|before| counts.spread(model, before, at_ms)) {
            left.running = left.running.saturating_sub(1);
        }
        if let Some(taken) = now.and_then(|now| counts.spread(model, now, at_ms)) {
            taken.running += 1;
            taken.confirmed_ms.entry(device).or_insert(at_ms);
        }
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let seconds = self.seconds();
        let counts = self.counts();
        let at_rest = |phase: &Phase| matches!(phase, Phase::Idle | Phase::Confirmed);
        let phases = counts.phases.iter().filter(|(phase, count)| **count > 0 && !at_rest(phase));
        Snapshot {
            seconds,
            devices: self.devices,
            connected: counts.connected,
            under_way: phases.map(|(phase, count)| (phase.as_str(), *count)).collect(),
            releases: counts.releases.iter().map(Spread::figures).collect(),
            failures: counts.failures.clone(),
            lost: counts.lost.clone(),
        }
    }

    pub(crate) fn connect(&self) -> ConnectFigures {
        let mut ms: Vec<u64> = self.counts().first_ms.iter().map(|ms| u64::from(*ms)).collect();
        ms.sort_unstable();
        let Some(last) = ms.last() else { return ConnectFigures::default() };
        let seconds = *last as f64 / 1_000.0;
        ConnectFigures {
            devices: ms.len() as u32,
            seconds,
            per_s: ms.len() as f64 / seconds.max(0.001),
            p50_s: quantile(&ms, 0.5).unwrap_or(0.0),
            p99_s: quantile(&ms, 0.99).unwrap_or(0.0),
        }
    }

    pub(crate) fn traffic(&self) -> Traffic {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Traffic {
            received: of(&self.received),
            sent: of(&self.sent),
            messages_received: of(&self.messages_received),
            messages_sent: of(&self.messages_sent),
        }
    }
}

impl Counts {
    /// The figures of a release; none for one beyond those that are kept.
    fn spread(&mut self, model: &ModelName, release: Digest, at_ms: u64) -> Option<&mut Spread> {
        let found = self.releases.iter().position(|spread| spread.release == release);
        let at = match found {
            Some(at) => at,
            None if self.releases.len() >= RELEASES => return None,
            None => {
                self.releases.push(Spread {
                    model: model.clone(),
                    release,
                    since_ms: at_ms,
                    wanted: BTreeSet::new(),
                    running: 0,
                    confirmed_ms: BTreeMap::new(),
                });
                self.releases.len() - 1
            }
        };
        self.releases.get_mut(at)
    }
}

impl Spread {
    fn figures(&self) -> ReleaseFigures {
        let since = |at_ms: &u64| at_ms.saturating_sub(self.since_ms);
        let mut ms: Vec<u64> = self.confirmed_ms.values().map(since).collect();
        ms.sort_unstable();
        ReleaseFigures {
            model: self.model.to_string(),
            release: self.release.to_string(),
            running: self.running,
            confirmed: self.confirmed_ms.len() as u32,
            wanted: self.wanted.len() as u32,
            seconds: quantile(&ms, 1.0),
            p50_s: quantile(&ms, 0.5),
            p90_s: quantile(&ms, 0.9),
            p99_s: quantile(&ms, 0.99),
        }
    }
}

/// A quantile of sorted milliseconds, in seconds.
fn quantile(sorted_ms: &[u64], q: f64) -> Option<f64> {
    let rank = (sorted_ms.len() as f64 * q).ceil() as usize;
    sorted_ms.get(rank.max(1) - 1).map(|ms| *ms as f64 / 1_000.0)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_release_spreads_from_the_first_document_that_names_it() {
        let figures = Figures::new(3);
        let (model, first, second) = ("digits".parse().unwrap(), Digest::of(b"1"), Digest::of(b"2"));
        for device in 0..3 {
            figures.wanted(device, &model, first, 10_000 + u64::from(device));
            figures.confirmed(device, &model, None, Some(first), 11_000 + 1_000 * u64::from(device));
        }
        figures.confirmed(1, &model, Some(first), Some(second), 20_000);
        let releases = figures.snapshot().releases;
        assert_eq!((releases[0].wanted, releases[0].confirmed, releases[0].running), (3, 3, 2));
        assert_eq!((releases[0].p50_s, releases[0].seconds), (Some(2.0), Some(3.0)));
        assert_eq!(releases[1].running, 1);
    }
}

//! What the two halves say of each other in one window.

use super::state::ExperimentDevice;
use crate::rollout::Figures;
use crate::rollout::figures::changes;
use flotilla_gates::change::{Change, Pair};
use flotilla_gates::metric::Metric;
use flotilla_protocol::Digest;
use std::collections::BTreeMap;

/// A device as it was before the experiment, and what it says now.
pub(super) struct Said {
    pub(super) device: ExperimentDevice,
    pub(super) now: Option<Figures>,
}

impl Said {
    /// What it says of the release of its half, within the window.
    fn fresh(&self, release: &Digest, window_ms: u64) -> Option<&Figures> {
        let fresh = |now: &&Figures| now.received_ms >= window_ms && now.release.as_ref() == Some(release);
        self.now.as_ref().filter(fresh)
    }

    /// Starts of its agent since the experiment began.
    fn restarts(&self, release: &Digest, window_ms: u64) -> Option<Change> {
        self.fresh(release, window_ms)?.restarts(self.device.before.as_deref()?)
    }

    /// The same figures; of a device that ran the release before, what was counted since.
    fn after(&self, release: &Digest, window_ms: u64) -> Option<Figures> {
        let now = self.fresh(release, window_ms)?;
        match &self.device.before {
            Some(before) if before.release == now.release => now.since(before),
            _ => Some(now.clone()),
        }
    }
}

/// Each device of A beside the one at its place in B: how B changed, and how A did. Where neither had any figures of a metric
/// before, what they say now is compared alone; where only one had, nothing.
pub(super) fn pairs(
    a: &[Said],
    b: &[Said],
    releases: (&Digest, &Digest),
    window_ms: u64,
) -> BTreeMap<Metric, Vec<Pair>> {
    let mut pairs: BTreeMap<Metric, Vec<Pair>> = BTreeMap::new();
    for (ours, theirs) in a.iter().zip(b) {
        let starts = ours.restarts(releases.0, window_ms).zip(theirs.restarts(releases.1, window_ms));
        if let Some((of_a, of_b)) = starts {
            pairs.entry(Metric::Restarts).or_default().push(Pair { updated: of_b, waiting: Some(of_a) });
        }
        let both = ours.after(releases.0, window_ms).zip(theirs.after(releases.1, window_ms));
        let Some((after_a, after_b)) = both else { continue };
        let before = |said: &Said| said.device.before.as_deref().cloned().unwrap_or_default();
        let (before_a, before_b) = (before(ours), before(theirs));
        let (known_a, known_b) = (before_a.metrics(), before_b.metrics());
        let (changed_a, changed_b) =
            (changes(&before_a, Some(&after_a), None), changes(&before_b, Some(&after_b), None));
        let (said_a, said_b) = (after_a.metrics(), after_b.metrics());
        for (metric, after) in &said_b {
            let Some(beside) = said_a.get(metric) else { continue };
            let pair = match (changed_a.get(metric), changed_b.get(metric)) {
                (Some(of_a), Some(of_b)) => Pair { updated: *of_b, waiting: Some(*of_a) },
                _ if !known_a.contains_key(metric) && !known_b.contains_key(metric) => {
                    Pair { updated: Change { before: *beside, after: *after }, waiting: None }
                }
                _ => continue,
            };
            pairs.entry(*metric).or_default().push(pair);
        }
    }
    pairs
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;
    use flotilla_gates::versus::Side;
    use flotilla_protocol::{DeviceId, ExperimentId};

    fn figures(release: &[u8], answered: u64, failed: u64) -> Figures {
        Figures {
            release: Some(Digest::of(release)),
            answered,
            failed,
            received_ms: 10,
            ..Figures::default()
        }
    }

    fn said(side: Side, before: Option<Figures>, now: Option<Figures>) -> Said {
        let device = ExperimentDevice {
            experiment: ExperimentId::new("experiment-1").unwrap(),
            side,
            place: 0,
            device: DeviceId::new("d1").unwrap(),
            before: before.map(Box::new),
            has_it: false,
        };
        Said { device, now }
    }

    fn compared(a: Said, b: Said) -> Option<Pair> {
        let releases = (Digest::of(b"a"), Digest::of(b"b"));
        pairs(&[a], &[b], (&releases.0, &releases.1), 10).remove(&Metric::Errors).map(|pairs| pairs[0])
    }

    #[test]
    fn devices_are_compared_by_how_they_changed_if_both_have_a_past_and_by_the_present_if_neither_has() {
        let old = || Some(figures(b"a", 900, 100));
        // A runs on: what it said before the experiment does not count.
        let stayed = said(Side::A, old(), Some(figures(b"a", 1_880, 120)));
        let changed = said(Side::B, old(), Some(figures(b"b", 950, 50)));
        let pair = compared(stayed, changed).unwrap();
        assert_eq!(pair.updated, Change { before: 0.1, after: 0.05 });
        assert_eq!(pair.waiting, Some(Change { before: 0.1, after: 0.02 }));

        let new =
            |side, release: &[u8], failed| said(side, None, Some(figures(release, 1_000 - failed, failed)));
        let pair = compared(new(Side::A, b"a", 20), new(Side::B, b"b", 50)).unwrap();
        assert_eq!((pair.updated, pair.waiting), (Change { before: 0.02, after: 0.05 }, None));

        let half = compared(said(Side::A, old(), Some(figures(b"a", 1_900, 120))), new(Side::B, b"b", 50));
        assert_eq!(half, None, "only one of them has a past");
    }

    #[test]
    fn who_is_silent_late_or_runs_something_else_is_in_no_pair() {
        let fine = || said(Side::A, None, Some(figures(b"a", 1_000, 10)));
        let late = Figures { received_ms: 9, ..figures(b"b", 1_000, 10) };
        for now in [None, Some(late), Some(figures(b"a", 1_000, 10)), Some(figures(b"b", 10, 1))] {
            assert_eq!(compared(fine(), said(Side::B, None, now.clone())), None, "{now:?}");
        }
        assert!(compared(fine(), said(Side::B, None, Some(figures(b"b", 1_000, 10)))).is_some());
        // The agent was started anew: what it counts is not what it counted.
        let again = said(Side::B, Some(figures(b"b", 5_000, 10)), Some(figures(b"b", 1_000, 10)));
        assert_eq!(compared(fine(), again), None);
    }
}

//! How a device changed, against how another one changed that was not updated: difference-in-differences, a pair at a
//! time.

use crate::metric::{Bounds, Metric};
use serde::{Deserialize, Serialize};

/// What counts in favour of a release reaches this many times its harm to both sides.
const WIDTH: f64 = 4.0;

/// A figure of one device before and after a moment, over times that are as long for the device that it is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Before.
    pub before: f64,
    /// After.
    pub after: f64,
}

/// A device that was updated between its two figures, and one that was not, measured at the same times.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pair {
    /// The one that was updated.
    pub updated: Change,
    /// The one that still waits; none where nobody waits any more. Then the update is held responsible for whatever
    /// else has changed.
    pub waiting: Option<Change>,
}

impl Pair {
    /// By how much the update made it worse, in the units of [`Metric::worsening`].
    pub fn worsening(&self, metric: Metric) -> Option<f64> {
        let of = |change: Change| metric.worsening(change.before, change.after);
        let waiting = self.waiting.map_or(Some(0.0), of)?;
        Some(of(self.updated)? - waiting)
    }

    /// The same two devices, the other way round: what the one did better, the other did worse.
    pub fn reversed(self) -> Self {
        match self.waiting {
            Some(waiting) => Self { updated: waiting, waiting: Some(self.updated) },
            None => {
                let Change { before, after } = self.updated;
                Self { updated: Change { before: after, after: before }, waiting: None }
            }
        }
    }

    /// The number to bet on that the release is worse than tolerated; its mean is 0 at most if it is not.
    pub fn against(&self, metric: Metric, bounds: Bounds) -> Option<f64> {
        Some(
            ((self.worsening(metric)? - bounds.tolerated) / (bounds.harm - bounds.tolerated))
                .clamp(-1.0, 1.0),
        )
    }

    /// The number to bet on that the release does no harm; its mean is 0 at most if it does. Wide on both sides: harm that
    /// shows in a few devices only must not be cut off.
    pub fn in_favour(&self, metric: Metric, bounds: Bounds) -> Option<f64> {
        Some(((bounds.harm - self.worsening(metric)?) / (WIDTH * bounds.harm)).clamp(-1.0, 1.0))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { tolerated: 0.1, harm: 0.5 };

    fn change(before: f64, after: f64) -> Change {
        Change { before, after }
    }

    #[test]
    fn what_happens_to_all_is_not_held_against_the_release() {
        // Night falls on both.
        let pair = Pair { updated: change(0.1, 0.4), waiting: Some(change(0.2, 0.5)) };
        assert!(pair.worsening(Metric::Drift).unwrap().abs() < 1e-12);
        assert!(pair.against(Metric::Drift, BOUNDS).unwrap() < 0.0);
        assert!((pair.in_favour(Metric::Drift, BOUNDS).unwrap() - 0.25).abs() < 1e-9);
        let alone = Pair { waiting: None, ..pair };
        assert!(alone.against(Metric::Drift, BOUNDS).unwrap() > 0.0, "nobody says otherwise");
    }

    #[test]
    fn what_one_device_says_is_bounded() {
        let liar = Pair { updated: change(0.0, 1e12), waiting: Some(change(0.0, 0.0)) };
        assert_eq!(liar.against(Metric::Drift, BOUNDS), Some(1.0));
        assert_eq!(liar.in_favour(Metric::Drift, BOUNDS), Some(-1.0));
        let silent = Pair { updated: change(0.0, f64::NAN), waiting: None };
        assert_eq!(silent.against(Metric::Drift, BOUNDS), None);
    }
}

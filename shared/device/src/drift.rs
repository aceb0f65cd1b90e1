//! When drift is worth an event. Pure: scores in, one event out.
//!
//! A score is judged each time that a half window is complete; it covers that half and the one before. It has to stay
//! above the threshold for a full window, so for two judgements, before somebody is told; and nobody is told again until
//! it was stable in between. What hovers about the threshold is said once.

use flotilla_protocol::baseline::Shift;

/// Judgements above the threshold, one after the other, that raise the event.
const JUDGEMENTS: u8 = 2;

/// What is known of one release's drift.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watch {
    above: u8,
    raised: bool,
}

impl Watch {
    /// Takes one judgement, in thousandths like the threshold. Returns whether the event is to be raised now.
    #[must_use]
    pub fn step(self, score: u32, threshold: Option<u32>) -> (Self, bool) {
        let threshold = threshold.unwrap_or(Shift::MAJOR_ABOVE_MILLI);
        if score < Shift::STABLE_BELOW_MILLI {
            return (Self::default(), false);
        }
        let above = if score > threshold { (self.above + 1).min(JUDGEMENTS) } else { 0 };
        let raise = above == JUDGEMENTS && !self.raised;
        (Self { above, raised: self.raised || raise }, raise)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn raised(scores: &[u32], threshold: Option<u32>) -> Vec<usize> {
        let mut watch = Watch::default();
        let judge = |(at, score): (usize, &u32)| {
            let (next, raise) = watch.step(*score, threshold);
            watch = next;
            raise.then_some(at)
        };
        scores.iter().enumerate().filter_map(judge).collect()
    }

    #[test]
    fn a_shift_that_stays_is_said_once_until_all_is_stable_again() {
        assert_eq!(raised(&[20, 300, 400, 500, 900], None), [2]);
        assert!(
            raised(&[300, 20, 300, 200, 300, 250, 251], None).is_empty(),
            "one judgement is no full window"
        );
        assert_eq!(raised(&[300, 300, 150, 300, 300, 300], None), [1], "moderate is not stable");
        assert_eq!(raised(&[300, 300, 99, 300, 300, 300], None), [1, 4]);
        assert_eq!(raised(&[300, 300, 700, 700], Some(600)), [3]);
        assert!(raised(&[50; 9], Some(1)).is_empty(), "what is stable is never said, whatever the threshold");
    }

    proptest! {
        #[test]
        fn between_two_events_there_is_a_stable_score(scores in prop::collection::vec(0u32..600, 0..200), threshold in prop::option::of(0u32..600)) {
            let limit = threshold.unwrap_or(250);
            let all = raised(&scores, threshold);
            for pair in all.windows(2) {
                prop_assert!(scores[pair[0]..pair[1]].iter().any(|score| *score < 100));
            }
            for at in &all {
                prop_assert!(*at >= 1 && scores[at - 1..=*at].iter().all(|score| *score > limit));
            }
            // And what stays is not missed.
            let stays = scores.windows(2).any(|pair| pair.iter().all(|score| *score > limit && *score >= 100));
            prop_assert_eq!(stays, !all.is_empty());
        }
    }
}

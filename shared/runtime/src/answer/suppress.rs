//! Greedy non-maximum suppression, a label at a time.

use crate::metrics::detection::iou;

/// A box with its score, while it is decided whether it stays.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Candidate {
    /// Index of the label.
    pub(super) label: usize,
    /// Its score.
    pub(super) score: f32,
    /// Left, top, right, bottom.
    pub(super) place: [f32; 4],
}

/// The best boxes, the surest first, at most `limit`: a box goes where a better one of its label has an overlap with it of
/// more than `most`. Of equal scores the first one counts as better.
pub(super) fn suppress(mut candidates: Vec<Candidate>, most: f64, limit: usize) -> Vec<Candidate> {
    candidates.sort_by(|a, b| b.score.total_cmp(&a.score));
    let mut kept: Vec<Candidate> = Vec::new();
    for candidate in candidates {
        if kept.len() >= limit {
            break;
        }
        let covered =
            |better: &Candidate| better.label == candidate.label && iou(better.place, candidate.place) > most;
        if !kept.iter().any(covered) {
            kept.push(candidate);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn candidate(label: usize, score: f32, left: f32) -> Candidate {
        Candidate { label, score, place: [left, 0.0, left + 10.0, 10.0] }
    }

    #[test]
    fn of_boxes_on_each_other_the_best_of_each_label_stays() {
        let all = vec![
            candidate(0, 0.7, 0.0),
            candidate(0, 0.9, 1.0),
            candidate(1, 0.5, 0.0),
            candidate(0, 0.6, 20.0),
        ];
        let kept = suppress(all.clone(), 0.5, 10);
        let scores: Vec<f32> = kept.iter().map(|c| c.score).collect();
        assert_eq!(scores, [0.9, 0.6, 0.5]);
        assert_eq!(suppress(all.clone(), 1.0, 10).len(), 4, "an overlap of 1 keeps all");
        assert_eq!(suppress(all, 0.5, 1).len(), 1);
    }

    proptest! {
        #[test]
        fn what_stays_does_not_overlap_and_what_goes_does(
            all in prop::collection::vec((0usize..3, 0.0f32..1.0, 0.0f32..50.0), 0..40),
            most in 0.0f64..1.0,
        ) {
            let all: Vec<Candidate> = all.into_iter().map(|(l, s, x)| candidate(l, s, x)).collect();
            let kept = suppress(all.clone(), most, usize::MAX);
            for (place, a) in kept.iter().enumerate() {
                for b in &kept[place + 1..] {
                    prop_assert!(a.label != b.label || iou(a.place, b.place) <= most);
                    prop_assert!(a.score >= b.score);
                }
            }
            for gone in all.iter().filter(|c| !kept.contains(c)) {
                let covered = kept.iter().any(|k| k.label == gone.label && k.score >= gone.score && iou(k.place, gone.place) > most);
                prop_assert!(covered);
            }
        }
    }
}

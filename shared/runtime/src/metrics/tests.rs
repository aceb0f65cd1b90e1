//! Figures against numbers worked out by hand or published.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use super::detection::{
    Averaging, Detection, Scene, Truth, average_precision, coco_map, iou, mean_average_precision,
};
use super::interval::{bootstrap, paired_share, wilson};
use super::scores::{auc, ece, mae, r2, relative_l2, share, top1};
use super::*;

fn close(a: f64, b: f64) {
    assert!((a - b).abs() < 1e-6, "{a} is not {b}");
}

#[test]
fn auc_counts_pairs_and_half_of_ties() {
    // Of 2 x 2 pairs three are in order.
    close(auc(&[(0.1, false), (0.4, false), (0.35, true), (0.8, true)]).unwrap(), 0.75);
    close(auc(&[(0.5, false), (0.5, true)]).unwrap(), 0.5);
    close(auc(&[(0.0, false), (-0.0, true)]).unwrap(), 0.5);
    close(auc(&[(1.0, false), (2.0, true), (2.0, false), (3.0, true)]).unwrap(), 0.875);
    assert_eq!(auc(&[(1.0, true), (2.0, true)]), None, "one class");
    assert_eq!(auc(&[(f64::NAN, true), (2.0, false)]), None);
    assert_eq!(auc(&[]), None);
}

#[test]
fn auc_is_the_share_of_ordered_pairs_on_any_sample() {
    let samples: Vec<(f64, bool)> = (0..60_u32).map(|i| (f64::from(i * 37 % 17), i * 11 % 7 < 3)).collect();
    let (mut wins, mut pairs) = (0.0, 0.0);
    for (a, _) in samples.iter().filter(|s| s.1) {
        for (b, _) in samples.iter().filter(|s| !s.1) {
            pairs += 1.0;
            wins += if a > b {
                1.0
            } else if a == b {
                0.5
            } else {
                0.0
            };
        }
    }
    close(auc(&samples).unwrap(), wins / pairs);
}

#[test]
fn regression_figures_are_those_of_their_definitions() {
    // The example of scikit-learn's documentation.
    let pairs = [(3.0, 2.5), (-0.5, 0.0), (2.0, 2.0), (7.0, 8.0)];
    close(r2(&pairs).unwrap(), 0.948_608_137);
    close(mae(&pairs).unwrap(), 0.5);
    assert_eq!(r2(&[(1.0, 1.0), (1.0, 2.0)]), None, "nothing to explain");
    assert_eq!(r2(&[(1.0, f64::NAN), (2.0, 2.0)]), None);
    assert_eq!((mae(&[]), mae(&[(1.0, f64::INFINITY)])), (None, None));
    assert!(Metric::R2.drop(0.9, 0.8) > 0.0 && Metric::Mae.drop(0.9, 0.8) < 0.0, "less error is better");
}

#[test]
fn calibration_error_weighs_bins_by_their_samples() {
    close(ece(&[(0.9, true), (0.9, true), (0.9, true), (0.9, false)]).unwrap(), 0.15);
    close(ece(&[(1.0, true), (0.0, false)]).unwrap(), 0.0);
    // Two bins: three samples that claim 0.5 and are always right, one that claims 1 and is wrong.
    close(ece(&[(0.5, true), (0.5, true), (0.5, true), (1.0, false)]).unwrap(), (1.5 + 1.0) / 4.0);
    assert_eq!((ece(&[]), ece(&[(1.1, true)]), ece(&[(f64::NAN, true)])), (None, None, None));
}

#[test]
fn outputs_are_compared_by_label_and_by_distance() {
    assert_eq!((top1(&[0.1, 0.7, 0.7]), top1(&[]), top1(&[0.0, f32::NAN])), (Some(1), None, None));
    assert_eq!((share([true, false, true, true]), share([])), (Some(0.75), None));
    close(relative_l2(&[3.0, 4.0], &[3.0, 3.0]).unwrap(), 0.2);
    close(relative_l2(&[0.0], &[0.5]).unwrap(), 0.5);
    assert_eq!((relative_l2(&[1.0], &[]), relative_l2(&[1.0], &[f32::NAN])), (None, None));
}

#[test]
fn wilson_is_the_published_interval() {
    // Newcombe 1998, table I: 81 of 263, and 0 of 20.
    let interval = wilson(81, 263).unwrap();
    assert_eq!([interval.start(), interval.end()].map(|v| (v * 1e4).round()), [2553.0, 3662.0]);
    let none = wilson(0, 20).unwrap();
    assert_eq!([none.start(), none.end()].map(|v| (v * 1e4).round()), [0.0, 1611.0]);
    assert_eq!((wilson(0, 0), wilson(2, 1)), (None, None));
}

#[test]
fn a_paired_interval_is_narrow_where_runs_differ_little() {
    let mut before = vec![true; 900];
    before.resize(1000, false);
    let same = paired_share(&before, &before).unwrap();
    assert!(*same.start() < 0.0 && *same.end() > 0.0 && *same.end() < 0.003, "{same:?}");
    let mut after = before.clone();
    after[..20].fill(false);
    let lost = paired_share(&before, &after).unwrap();
    assert!(*lost.start() > 0.01 && *lost.end() < 0.03 && lost.contains(&0.02), "{lost:?}");
    assert_eq!((paired_share(&[], &[]), paired_share(&[true], &[])), (None, None));
}

#[test]
fn a_bootstrap_is_the_same_each_time_and_about_as_wide_as_theory_says() {
    let values: Vec<f64> = (0..400).map(|i| f64::from(i % 2)).collect();
    let mean = |indices: &[usize]| Some(indices.iter().map(|&i| values[i]).sum::<f64>() / 400.0);
    let interval = bootstrap(400, mean).unwrap();
    assert_eq!(Some(&interval), bootstrap(400, mean).as_ref());
    let half = (interval.end() - interval.start()) / 2.0;
    assert!((half - 1.96 * 0.5 / 20.0).abs() < 0.006, "{half}");
    assert_eq!((bootstrap(0, |_| Some(1.0)), bootstrap(3, |_| None)), (None, None));
}

fn found(label: usize, score: f32, area: [f32; 4]) -> Detection {
    Detection { label, score, area }
}

fn there(label: usize, area: [f32; 4]) -> Truth {
    Truth { label, area, ignored: false }
}

const A: [f32; 4] = [0.0, 0.0, 10.0, 10.0];
const B: [f32; 4] = [20.0, 0.0, 30.0, 10.0];
const FAR: [f32; 4] = [50.0, 50.0, 60.0, 60.0];

#[test]
fn overlap_is_that_of_plain_boxes() {
    close(iou(A, A), 1.0);
    close(iou(A, [5.0, 0.0, 15.0, 10.0]), 1.0 / 3.0);
    assert_eq!([iou(A, B), iou(A, [5.0, 5.0, 5.0, 9.0]), iou(A, [f32::NAN; 4])], [0.0; 3]);
    assert_eq!(iou([9.0, 9.0, 1.0, 1.0], A), 0.0, "a box that is turned inside out");
}

#[test]
fn average_precision_follows_the_curve() {
    // Right, wrong, right: recall 1/2 at precision 1, recall 1 at precision 2/3.
    let scene = Scene {
        found: vec![found(0, 0.9, A), found(0, 0.8, FAR), found(0, 0.7, B)],
        there: vec![there(0, A), there(0, B)],
    };
    let scenes = [scene];
    close(average_precision(&scenes, 0, 0.5, Averaging::Area).unwrap(), 0.5 + 0.5 * 2.0 / 3.0);
    let coco = (51.0 + 50.0 * 2.0 / 3.0) / 101.0;
    close(average_precision(&scenes, 0, 0.5, Averaging::Coco101).unwrap(), coco);
    close(coco_map(&scenes).unwrap(), coco);
    assert_eq!(average_precision(&scenes, 1, 0.5, Averaging::Area), None, "nothing of it is there");
}

#[test]
fn a_box_is_found_once_and_by_its_own_label_only() {
    let twice = Scene { found: vec![found(0, 0.9, A), found(0, 0.8, A)], there: vec![there(0, A)] };
    close(average_precision(&[twice], 0, 0.5, Averaging::Area).unwrap(), 1.0);
    let better_later = Scene { found: vec![found(0, 0.9, FAR), found(0, 0.8, A)], there: vec![there(0, A)] };
    close(average_precision(&[better_later], 0, 0.5, Averaging::Area).unwrap(), 0.5);
    let wrong = Scene { found: vec![found(1, 0.9, A)], there: vec![there(0, A), there(1, B)] };
    close(mean_average_precision(&[wrong], 0.5, Averaging::Coco101).unwrap(), 0.0);
    let elsewhere = [
        Scene { found: vec![found(0, 0.9, A)], there: vec![] },
        Scene { found: vec![], there: vec![there(0, A)] },
    ];
    close(mean_average_precision(&elsewhere, 0.5, Averaging::Area).unwrap(), 0.0);
}

#[test]
fn ignored_boxes_count_neither_way() {
    let crowd = Truth { ignored: true, ..there(0, B) };
    let scene = Scene {
        found: vec![found(0, 0.9, B), found(0, 0.8, B), found(0, 0.7, A)],
        there: vec![there(0, A), crowd],
    };
    close(average_precision(&[scene], 0, 0.5, Averaging::Area).unwrap(), 1.0);
    let only_crowd = Scene { found: vec![], there: vec![crowd] };
    assert_eq!(mean_average_precision(&[only_crowd], 0.5, Averaging::Area), None);
    assert_eq!(coco_map::<Scene>(&[]), None);
}

#[test]
fn a_tighter_threshold_wants_tighter_boxes() {
    // Overlap 0.82: found at 0.50 to 0.80, seven of ten thresholds.
    let scene = Scene { found: vec![found(0, 0.9, [0.0, 0.0, 8.2, 10.0])], there: vec![there(0, A)] };
    close(coco_map(&[scene]).unwrap(), 0.7);
}

//! Average precision of detected boxes.

use serde::{Deserialize, Serialize};
use std::borrow::Borrow;

/// Detections of one label in one picture that count at most, the best first, as in COCO.
pub const MAX_DETECTIONS: usize = 100;

/// A box that a model found.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Detection {
    /// Index of its label.
    pub label: usize,
    /// How sure the model is.
    pub score: f32,
    /// Left, top, right and bottom edge, in any one unit.
    pub area: [f32; 4],
}

/// A box that is there.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Truth {
    /// Index of its label.
    pub label: usize,
    /// Left, top, right and bottom edge, in the unit of the detections.
    pub area: [f32; 4],
    /// Whether finding it counts neither for nor against the model: "difficult" in VOC, "crowd" in COCO.
    #[serde(default)]
    pub ignored: bool,
}

/// What was found in one picture and what is there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Scene {
    /// What the model found, in any order.
    pub found: Vec<Detection>,
    /// What is there.
    pub there: Vec<Truth>,
}

/// How precision is averaged over recall.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Averaging {
    /// At 101 values of recall, 0 to 1 by hundredths: COCO.
    Coco101,
    /// The area under the curve, precision made monotone: Pascal VOC since 2010.
    Area,
}

/// Intersection over union of two boxes; 0 where either is empty, or has an edge that is no finite number.
#[must_use]
pub fn iou(a: [f32; 4], b: [f32; 4]) -> f64 {
    if a.iter().chain(&b).any(|edge| !edge.is_finite()) {
        return 0.0;
    }
    let [a, b] = [a, b].map(|edges| edges.map(f64::from));
    let size = |b: [f64; 4]| (b[2] - b[0]).max(0.0) * (b[3] - b[1]).max(0.0);
    let (width, height) = (a[2].min(b[2]) - a[0].max(b[0]), a[3].min(b[3]) - a[1].max(b[1]));
    let common = width.max(0.0) * height.max(0.0);
    let all = size(a) + size(b) - common;
    if common > 0.0 { common / all } else { 0.0 }
}

/// Average precision of one label at one threshold of overlap; `None` where nothing of that label is there.
#[must_use]
pub fn average_precision<S: Borrow<Scene>>(
    scenes: &[S],
    label: usize,
    threshold: f64,
    by: Averaging,
) -> Option<f64> {
    Matches::of(scenes, label, threshold).average_precision(by, |_| 1.0)
}

/// The detections of one label, matched with what is there: average precision can be counted of them with other weights of
/// the pictures without matching again.
///
/// Detections are matched by falling score, each with the box of its label that it overlaps most of those that are
/// still free. One that has only ignored boxes to match is left out.
#[derive(Clone, Debug)]
pub struct Matches {
    /// Pictures with boxes that count, and how many.
    there: Vec<(usize, usize)>,
    /// Score, whether right, picture; the best score first.
    verdicts: Vec<(f32, bool, usize)>,
}

impl Matches {
    /// Of one label at one threshold of overlap.
    #[must_use]
    pub fn of<S: Borrow<Scene>>(scenes: &[S], label: usize, threshold: f64) -> Self {
        let (mut there, mut verdicts) = (Vec::new(), Vec::new());
        for (place, scene) in scenes.iter().enumerate() {
            let scene = scene.borrow();
            let counts = scene.there.iter().filter(|truth| truth.label == label && !truth.ignored).count();
            if counts > 0 {
                there.push((place, counts));
            }
            let matched = matched(scene, label, threshold);
            verdicts.extend(matched.into_iter().map(|(score, hit)| (score, hit, place)));
        }
        // A stable sort: of equal scores the earlier picture comes first, as in COCO's own evaluation.
        verdicts.sort_by(|a, b| b.0.total_cmp(&a.0));
        Self { there, verdicts }
    }

    /// Detections that count.
    #[must_use]
    pub fn len(&self) -> usize {
        self.verdicts.len()
    }

    /// Whether no detection counts.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.verdicts.is_empty()
    }

    /// Average precision, each picture counted as often as its weight says; `None` where nothing is there.
    #[must_use]
    pub fn average_precision(&self, by: Averaging, weight: impl Fn(usize) -> f64) -> Option<f64> {
        let there: f64 = self.there.iter().map(|(place, boxes)| weight(*place) * *boxes as f64).sum();
        if there <= 0.0 {
            return None;
        }
        let (mut hits, mut seen, mut curve) = (0.0, 0.0, Vec::with_capacity(self.verdicts.len()));
        for (_, hit, place) in &self.verdicts {
            let weight = weight(*place);
            if weight > 0.0 {
                seen += weight;
                hits += if *hit { weight } else { 0.0 };
                curve.push((hits / there, hits / seen));
            }
        }
        // Precision at a recall is the best at that or any higher recall.
        let mut best = 0.0_f64;
        for (_, precision) in curve.iter_mut().rev() {
            best = best.max(*precision);
            *precision = best;
        }
        Some(match by {
            Averaging::Coco101 => {
                let at = |hundredths: u8| {
                    let recall = f64::from(hundredths) / 100.0;
                    let place = curve.partition_point(|(reached, _)| *reached < recall);
                    curve.get(place).map_or(0.0, |(_, precision)| *precision)
                };
                (0..=100).map(at).sum::<f64>() / 101.0
            }
            Averaging::Area => {
                let mut before = 0.0;
                curve.iter().fold(0.0, |area, (recall, precision)| {
                    let step = recall - before;
                    before = *recall;
                    area + step * precision
                })
            }
        })
    }
}

/// Score and verdict of each detection of a label that counts.
fn matched(scene: &Scene, label: usize, threshold: f64) -> Vec<(f32, bool)> {
    let mut found: Vec<&Detection> =
        scene.found.iter().filter(|found| found.label == label && !found.score.is_nan()).collect();
    found.sort_by(|a, b| b.score.total_cmp(&a.score));
    found.truncate(MAX_DETECTIONS);
    let there: Vec<&Truth> = scene.there.iter().filter(|truth| truth.label == label).collect();
    let mut taken = vec![false; there.len()];
    let mut verdicts = Vec::with_capacity(found.len());
    for detection in found {
        let overlap = |truth: &Truth| iou(detection.area, truth.area);
        let free = |ignored: bool| {
            let of_kind = there.iter().enumerate().filter(|(i, t)| t.ignored == ignored && !taken[*i]);
            let near = of_kind.map(|(i, t)| (i, overlap(t))).filter(|(_, overlap)| *overlap >= threshold);
            near.max_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(&a.0))).map(|(i, _)| i)
        };
        match free(false) {
            Some(place) => {
                taken[place] = true;
                verdicts.push((detection.score, true));
            }
            // An ignored box may be matched any number of times.
            None if free(true).is_some() => {}
            None => verdicts.push((detection.score, false)),
        }
    }
    verdicts
}

/// Mean average precision over the labels that are there; `None` where nothing is.
#[must_use]
pub fn mean_average_precision<S: Borrow<Scene>>(scenes: &[S], threshold: f64, by: Averaging) -> Option<f64> {
    let labels = scenes.iter().flat_map(|scene| &scene.borrow().there).map(|truth| truth.label);
    let mut labels: Vec<usize> = labels.collect();
    labels.sort_unstable();
    labels.dedup();
    let each = labels.iter().filter_map(|&label| average_precision(scenes, label, threshold, by));
    let each: Vec<f64> = each.collect();
    (!each.is_empty()).then(|| each.iter().sum::<f64>() / each.len() as f64)
}

/// COCO's figure: the mean over the thresholds 0.50, 0.55 … 0.95, at 101 values of recall.
#[must_use]
pub fn coco_map<S: Borrow<Scene>>(scenes: &[S]) -> Option<f64> {
    let each: Option<Vec<f64>> =
        coco_thresholds().map(|t| mean_average_precision(scenes, t, Averaging::Coco101)).collect();
    each.map(|each| each.iter().sum::<f64>() / each.len() as f64)
}

/// The thresholds of overlap of [`coco_map`].
pub fn coco_thresholds() -> impl Iterator<Item = f64> {
    (10..20).map(|step| f64::from(step) * 0.05)
}

//! Counting what a trial gave.

use super::{
    Anomaly, AnomalyOutcome, CONFUSION_CLASSES, CONFUSIONS, Calibration, Class, ClassOutcome, Classification,
    Confused, Detection, FORMAT, Figure, Figures, Found, LabelsOutcome, MultiLabel, Outcomes, Quality,
    Regression, TARGET_INTERVALS, Target, Trial, ValuesOutcome,
};
use crate::metrics::Metric;
use crate::metrics::detection::{Averaging, Matches, Scene, coco_thresholds};
use crate::metrics::interval::{f1_interval, weighted_bootstrap, wilson};
use crate::metrics::scores::{Ranking, ece, mae, mean, r2, reliability, rmse, weighted_r2};
use flotilla_protocol::pipeline::{self, Output};
use std::collections::BTreeMap;

/// Steps that reading a curve at its 101 values of recall takes.
const CURVE_STEPS: usize = 1_000;
/// Scores of all samples and labels that are kept in order for resampling at most; with more there is no interval.
const RESAMPLED_SCORES: usize = 1 << 22;

pub(super) fn of(trial: &Trial) -> Quality {
    let labels = trial.gives.labels();
    let (metric, headline, figures) = match (&trial.outcomes, &trial.gives) {
        (Outcomes::Classes(outcomes), _) => classes(&labels, outcomes),
        (Outcomes::Labels(outcomes), _) => multi_label(&labels, outcomes),
        (Outcomes::Scenes(scenes), Output::Detection(spec)) => detection(spec, scenes),
        (Outcomes::Values(outcomes), Output::Regression(spec)) => regression(&spec.targets, outcomes),
        (Outcomes::Anomalies(outcomes), Output::Anomaly(spec)) => anomaly(spec.threshold, outcomes),
        (outcomes, gives) => unreachable!("{outcomes:?} come of {gives:?}"),
    };
    let samples = trial.outcomes.len() as u64;
    Quality { format: FORMAT, samples, metric, headline, latency: trial.latency, figures }
}

/// The share of `hits`, with Wilson's interval.
fn share(hits: u64, total: u64) -> Figure {
    Figure::new((total > 0).then(|| hits as f64 / total as f64), wilson(hits, total))
}

fn class(label: &str, [support, predicted, correct]: [u64; 3]) -> Class {
    let all = support + predicted;
    Class {
        label: label.to_owned(),
        support,
        predicted,
        correct,
        precision: share(correct, predicted),
        recall: share(correct, support),
        f1: Figure::new(
            (all > 0).then(|| 2.0 * correct as f64 / all as f64),
            f1_interval(correct, all - correct),
        ),
        average_precision: None,
    }
}

fn macro_f1(classes: &[Class]) -> Option<f64> {
    mean(classes.iter().filter_map(|class| class.f1.value))
}

fn classes(labels: &[String], outcomes: &[ClassOutcome]) -> (Metric, Figure, Figures) {
    let mut counts = vec![[0_u64; 3]; labels.len()];
    let mut pairs: BTreeMap<(usize, usize), u64> = BTreeMap::new();
    for outcome in outcomes {
        counts[outcome.truth][0] += 1;
        counts[outcome.predicted][1] += 1;
        counts[outcome.truth][2] += u64::from(outcome.is_right());
        *pairs.entry((outcome.truth, outcome.predicted)).or_default() += 1;
    }
    let confusion = (labels.len() <= CONFUSION_CLASSES).then(|| {
        let mut rows = vec![vec![0; labels.len()]; labels.len()];
        pairs.iter().for_each(|((truth, predicted), samples)| rows[*truth][*predicted] = *samples);
        rows
    });
    let wrong = pairs.into_iter().filter(|((truth, predicted), _)| truth != predicted);
    let mut confused: Vec<Confused> =
        wrong.map(|((truth, predicted), samples)| Confused { truth, predicted, samples }).collect();
    confused.sort_by_key(|confused| std::cmp::Reverse(confused.samples));
    confused.truncate(CONFUSIONS);
    let claims: Vec<(f64, bool)> =
        outcomes.iter().map(|outcome| (f64::from(outcome.score), outcome.is_right())).collect();
    let calibration = ece(&claims).zip(reliability(&claims));
    let classes: Vec<Class> = labels.iter().zip(counts).map(|(label, counts)| class(label, counts)).collect();
    let correct = outcomes.iter().filter(|outcome| outcome.is_right()).count() as u64;
    let figures = Classification {
        correct,
        macro_f1: macro_f1(&classes),
        classes,
        confusion,
        confused,
        calibration: calibration.map(|(ece, bins)| Calibration { ece, bins: bins.to_vec() }),
    };
    (Metric::Accuracy, share(correct, outcomes.len() as u64), Figures::Classification(figures))
}

fn multi_label(labels: &[String], outcomes: &[LabelsOutcome]) -> (Metric, Figure, Figures) {
    let scores = outcomes.len() * labels.len();
    let kept = scores <= RESAMPLED_SCORES;
    let row = |(place, label): (usize, &String)| {
        let mut counts = [0_u64; 3];
        for LabelsOutcome { truth, predicted, .. } in outcomes {
            counts[0] += u64::from(truth[place]);
            counts[1] += u64::from(predicted[place]);
            counts[2] += u64::from(truth[place] && predicted[place]);
        }
        let scored = outcomes.iter().map(|outcome| (f64::from(outcome.scores[place]), outcome.truth[place]));
        let ranking = Ranking::of(&scored.collect::<Vec<_>>());
        let average_precision = ranking.as_ref().and_then(|ranking| ranking.average_precision(|_| 1.0));
        (Class { average_precision, ..class(label, counts) }, ranking.filter(|_| kept))
    };
    let (labels, rankings): (Vec<Class>, Vec<_>) = labels.iter().enumerate().map(row).unzip();
    let value = mean(labels.iter().filter_map(|label| label.average_precision));
    // Labels that are never there do not become so by resampling.
    let there = labels.iter().zip(&rankings).filter(|(label, _)| label.average_precision.is_some());
    let rankings: Vec<&Ranking> = there.filter_map(|(_, ranking)| ranking.as_ref()).collect();
    let interval = kept.then(|| {
        weighted_bootstrap(outcomes.len(), scores, |weights| {
            let weight = |place: usize| f64::from(weights[place]);
            mean(rankings.iter().filter_map(|ranking| ranking.average_precision(weight)))
        })
    });
    let exact = outcomes.iter().filter(|outcome| outcome.truth == outcome.predicted).count() as u64;
    let exact = share(exact, outcomes.len() as u64);
    let figures = MultiLabel { exact, macro_f1: macro_f1(&labels), labels };
    (Metric::Map, Figure::new(value, interval.flatten()), Figures::MultiLabel(figures))
}

fn detection(spec: &pipeline::Detection, scenes: &[Scene]) -> (Metric, Figure, Figures) {
    let by = Averaging::Coco101;
    let mut halves = Vec::new();
    let mut rows = Vec::with_capacity(spec.labels.len());
    for (place, (label, scenes)) in spec.labels.iter().zip(by_label(spec.labels.len(), scenes)).enumerate() {
        // Pictures without the label are empty here; their places count for the resampling.
        let at = |threshold: f64| Matches::of(&scenes, place, threshold);
        let half = at(0.5);
        let value = half.average_precision(by, |_| 1.0);
        let coco = coco_thresholds().filter_map(|threshold| at(threshold).average_precision(by, |_| 1.0));
        rows.push(Found {
            label: label.clone(),
            there: scenes.iter().flat_map(|scene| &scene.there).filter(|one| !one.ignored).count() as u64,
            found: scenes.iter().map(|scene| scene.found.len() as u64).sum(),
            half: value,
            coco: value.and_then(|_| mean(coco)),
        });
        halves.extend(value.map(|_| half));
    }
    let value = mean(rows.iter().filter_map(|row| row.half));
    let steps = halves.iter().map(|half| half.len() + CURVE_STEPS).sum();
    let interval = weighted_bootstrap(scenes.len(), steps, |weights| {
        mean(halves.iter().filter_map(|half| half.average_precision(by, |place| f64::from(weights[place]))))
    });
    let coco = mean(rows.iter().filter_map(|row| row.coco));
    let figures = Detection { coco, score: spec.score, labels: rows };
    (Metric::Map, Figure::new(value, interval), Figures::Detection(figures))
}

fn regression(targets: &[pipeline::Target], outcomes: &[ValuesOutcome]) -> (Metric, Figure, Figures) {
    let samples = outcomes.len();
    let pairs = |place: usize| -> Vec<(f64, f64)> {
        outcomes.iter().map(|outcome| (outcome.truth[place], outcome.predicted[place])).collect()
    };
    let pairs: Vec<Vec<(f64, f64)>> = (0..targets.len()).map(pairs).collect();
    let with_intervals = targets.len() <= TARGET_INTERVALS;
    let row = |(target, pairs): (&pipeline::Target, &Vec<(f64, f64)>)| {
        let interval = |figure: &dyn Fn(&[u32]) -> Option<f64>| {
            with_intervals.then(|| weighted_bootstrap(samples, samples, figure)).flatten()
        };
        let explained = interval(&|weights| weighted_r2(pairs, |place| f64::from(weights[place])));
        let off = interval(&|weights| {
            let errors = pairs.iter().zip(weights);
            let sum: f64 =
                errors.map(|((truth, said), weight)| f64::from(*weight) * (truth - said).abs()).sum();
            Some(sum / samples as f64)
        });
        Target {
            name: target.name.clone(),
            unit: target.unit.clone(),
            r2: Figure::new(r2(pairs), explained),
            mae: Figure::new(mae(pairs), off),
            rmse: rmse(pairs),
        }
    };
    let rows: Vec<Target> = targets.iter().zip(&pairs).map(row).collect();
    // A mean over some of the targets would pass for one over all.
    let all: Option<Vec<f64>> = rows.iter().map(|row| row.r2.value).collect();
    let headline = match &rows[..] {
        [only] => only.r2,
        _ => Figure::new(
            all.and_then(mean),
            weighted_bootstrap(samples, samples * targets.len(), |weights| {
                let each = pairs.iter().map(|pairs| weighted_r2(pairs, |place| f64::from(weights[place])));
                each.collect::<Option<Vec<f64>>>().and_then(mean)
            }),
        ),
    };
    (Metric::R2, headline, Figures::Regression(Regression { targets: rows }))
}

fn anomaly(threshold: f32, outcomes: &[AnomalyOutcome]) -> (Metric, Figure, Figures) {
    let count = |of: &dyn Fn(&AnomalyOutcome) -> bool| outcomes.iter().filter(|one| of(one)).count() as u64;
    let (anomalies, found) = (count(&|one| one.truth), count(&|one| one.truth && one.predicted));
    let (normal, false_alarms) = (count(&|one| !one.truth), count(&|one| !one.truth && one.predicted));
    let scored: Vec<(f64, bool)> =
        outcomes.iter().map(|outcome| (f64::from(outcome.score), outcome.truth)).collect();
    let ranking = Ranking::of(&scored);
    let headline = Figure::new(
        ranking.as_ref().and_then(|ranking| ranking.auc(|_| 1.0)),
        ranking.as_ref().and_then(|ranking| {
            let auc = |weights: &[u32]| ranking.auc(|place| f64::from(weights[place]));
            weighted_bootstrap(outcomes.len(), outcomes.len(), auc)
        }),
    );
    let figures = Anomaly {
        threshold,
        anomalies,
        found,
        normal,
        false_alarms,
        precision: share(found, found + false_alarms),
        recall: share(found, anomalies),
        false_alarm_rate: share(false_alarms, normal),
    };
    (Metric::Auc, headline, Figures::Anomaly(figures))
}

/// The pictures once a label, each with what is there and was found of that label alone; none for a label that is
/// nowhere.
fn by_label(labels: usize, scenes: &[Scene]) -> impl Iterator<Item = Vec<Scene>> {
    let mut appears = vec![false; labels];
    for scene in scenes {
        let (found, there) =
            (scene.found.iter().map(|one| one.label), scene.there.iter().map(|one| one.label));
        found.chain(there).for_each(|label| appears[label] = true);
    }
    appears.into_iter().enumerate().map(move |(label, appears)| {
        let of_label = |scene: &Scene| Scene {
            found: scene.found.iter().filter(|one| one.label == label).copied().collect(),
            there: scene.there.iter().filter(|one| one.label == label).copied().collect(),
        };
        if appears { scenes.iter().map(of_label).collect() } else { Vec::new() }
    })
}

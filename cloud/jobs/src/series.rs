//! All metrics of an attempt, as JSON lines in its folder; the newest stand in the job's record too.

use crate::bounds::{JOB_METRICS, METRIC_VALUES, SERIES_POINTS};
use crate::job::MetricPoint;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// Length of a value's name.
const NAME: usize = 64;

/// The series of a running attempt.
#[derive(Debug)]
pub(crate) struct Series {
    file: File,
    points: usize,
}

impl Series {
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        Ok(Self { file: File::create(path)?, points: 0 })
    }

    /// Adds a point, as far as there is room for it.
    pub(crate) fn append(&mut self, point: &MetricPoint) -> io::Result<()> {
        if self.points == SERIES_POINTS {
            return Ok(());
        }
        self.points += 1;
        let mut line = serde_json::to_vec(point)?;
        line.push(b'\n');
        self.file.write_all(&line)
    }
}

/// A point as a child sent it, brought within bounds.
pub(crate) fn point(step: u64, values: BTreeMap<String, f64>, at_ms: u64) -> MetricPoint {
    let usable = |(name, value): &(String, f64)| value.is_finite() && name.len() <= NAME;
    MetricPoint { step, at_ms, values: values.into_iter().filter(usable).take(METRIC_VALUES).collect() }
}

/// Adds a point to those in a record, and drops the oldest that have no room.
pub(crate) fn push_newest(metrics: &mut Vec<MetricPoint>, point: MetricPoint) {
    metrics.push(point);
    let mut room = JOB_METRICS;
    let fits = |point: &&MetricPoint| {
        let len = serde_json::to_string(point).map_or(usize::MAX, |text| text.len() + 1);
        room.checked_sub(len).map(|left| room = left).is_some()
    };
    let kept = metrics.iter().rev().take_while(fits).count();
    metrics.drain(..metrics.len() - kept);
}

/// The points of a series. What is cut off by a crash is left out.
pub(crate) fn parse(bytes: &[u8]) -> Vec<MetricPoint> {
    bytes.split(|&b| b == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_keeps_the_newest_points_within_its_bound() {
        let mut metrics = Vec::new();
        for step in 0..500 {
            let values = (0..30).map(|i| (format!("value-{i}"), f64::from(i) / 3.0)).collect();
            push_newest(&mut metrics, point(step, values, 1));
            assert!(serde_json::to_string(&metrics).is_ok_and(|text| text.len() <= JOB_METRICS + 2));
        }
        assert_eq!(metrics.last().map(|p| (p.step, p.values.len())), Some((499, METRIC_VALUES)));
    }

    #[test]
    fn values_that_are_no_numbers_are_left_out() {
        let values = [("nan".to_owned(), f64::NAN), ("x".repeat(100), 1.0), ("loss".to_owned(), 0.5)];
        let point = point(1, values.into(), 1);
        assert_eq!(point.values, [("loss".to_owned(), 0.5)].into());
    }
}

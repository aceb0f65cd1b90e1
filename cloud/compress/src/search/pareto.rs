//! Candidates that no other beats.

use crate::Point;

/// Times that differ by less than this share are the same: they are measured on a machine that does other things, too.
const NOISE: f64 = 0.05;

/// Marks the candidates that no other is as good as in everything and better than in something.
pub(crate) fn mark(points: &mut [Point]) {
    let beaten: Vec<bool> =
        points.iter().map(|point| points.iter().any(|other| beats(other, point))).collect();
    points.iter_mut().zip(beaten).for_each(|(point, beaten)| point.pareto = !beaten);
}

fn beats(a: &Point, b: &Point) -> bool {
    let known = |a: Option<u64>, b: Option<u64>| a.zip(b).map_or((true, false), |(a, b)| (a <= b, a < b));
    let slower = a.latency.p50_ms > b.latency.p50_ms * (1.0 + NOISE);
    let faster = a.latency.p50_ms * (1.0 + NOISE) < b.latency.p50_ms;
    let each = [
        (a.drop <= b.drop, a.drop < b.drop),
        (a.bytes <= b.bytes, a.bytes < b.bytes),
        (!slower, faster),
        known(a.macs, b.macs),
        known(a.peak_bytes, b.peak_bytes),
    ];
    each.iter().all(|(as_good, _)| *as_good) && each.iter().any(|(_, better)| *better)
}

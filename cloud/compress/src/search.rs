//! Which candidate to measure next, and which one ships: decisions only, no measuring.
//!
//! It goes from what costs least to what costs most: the floats folded and tidied, 16-bit floats, 8-bit weights rounded to
//! the nearest, and the same with what calibration or equalisation gives. From the best of the 8-bit ones it goes on: if
//! that loses too much, the layer that disturbs the output most for what it saves goes back to floats, one a step, as in
//! NNCF's quantisation with accuracy control; if not, as many of the layers that take it best go to 4 bits as the budget
//! allows, found by halving. The smallest candidate within the budget ships, or one that is hardly larger and answers more alike.

use std::cmp::Ordering;

use crate::{Breach, Budget, OverBudget, Point};

mod pareto;

pub(crate) use pareto::mark;

/// Candidates listed when none fits.
const NEAREST: usize = 5;
/// Files that differ by less than this share are of one size when it comes to choosing.
const HARDLY: f64 = 0.02;
/// Steps of the search for the number of 4-bit layers.
const HALVINGS: usize = 6;

/// A candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rung {
    /// What the caller's own recipe makes.
    Given,
    /// Floats, folded and tidied.
    Exact,
    /// 16-bit floats.
    Half,
    /// 8-bit weights.
    Int8(Tuning),
    /// The best of the 8-bit ones with so many of the worst layers in floats.
    Float(usize),
    /// The best of the 8-bit ones with so many of the best layers in 4 bits.
    Four(usize),
}

/// How 8-bit weights are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tuning {
    /// Rounded to the nearest.
    Plain,
    /// Rounded by what layers make of samples, and biases corrected.
    Corrected,
    /// The same, after equalisation.
    Equalised,
}

/// What there is to search in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    /// Whether only the caller's recipe is measured.
    pub(crate) given: bool,
    /// Layers that can be 8-bit.
    pub(crate) layers: usize,
    /// Layers that can be 4-bit.
    pub(crate) four_bit: usize,
    /// Whether there is anything to correct by.
    pub(crate) corrected: bool,
    /// Whether there are layers to equalise.
    pub(crate) equalised: bool,
    /// Layers that may go back to floats.
    pub(crate) max_fallbacks: usize,
}

/// The search for a candidate within the budget.
#[derive(Debug)]
pub(crate) struct Search {
    budget: Budget,
    room: Room,
    /// What was measured; none where a candidate did not run.
    seen: Vec<(Rung, Option<Point>)>,
}

impl Search {
    pub(crate) fn new(budget: Budget, room: Room) -> Self {
        Self { budget, room, seen: Vec::new() }
    }

    /// Candidates that are measured at most.
    pub(crate) fn at_most(&self) -> usize {
        let Room { given, layers, four_bit, max_fallbacks, .. } = self.room;
        if given {
            return 1;
        }
        self.fixed().count() + max_fallbacks.min(layers.saturating_sub(1)).max(HALVINGS.min(four_bit))
    }

    fn fixed(&self) -> impl Iterator<Item = Rung> + use<> {
        let Room { layers, corrected, equalised, .. } = self.room;
        let int8 = |there: bool, tuning| there.then_some(Rung::Int8(tuning));
        [
            Some(Rung::Exact),
            Some(Rung::Half),
            int8(layers > 0, Tuning::Plain),
            int8(layers > 0 && corrected, Tuning::Corrected),
            int8(layers > 0 && equalised, Tuning::Equalised),
        ]
        .into_iter()
        .flatten()
    }

    /// The next candidate; none where enough is known.
    pub(crate) fn next(&self) -> Option<Rung> {
        let unseen = |rung: &Rung| self.seen.iter().all(|(seen, _)| seen != rung);
        if self.room.given {
            return Some(Rung::Given).filter(unseen);
        }
        if let Some(rung) = self.fixed().find(unseen) {
            return Some(rung);
        }
        let (_, base) = self.base()?;
        if self.loses_too_much(base) {
            let fallbacks = self.room.max_fallbacks.min(self.room.layers - 1);
            let enough = |rung: &Rung| self.point(*rung).is_some_and(|point| !self.loses_too_much(point));
            let done = (1..=fallbacks).map(Rung::Float).any(|rung| enough(&rung));
            return (1..=fallbacks).map(Rung::Float).find(unseen).filter(|_| !done);
        }
        self.halve()
    }

    /// The next number of 4-bit layers between the largest that is known to do and the smallest that does not.
    fn halve(&self) -> Option<Rung> {
        let (mut good, mut bad, mut steps) = (0, self.room.four_bit + 1, 0);
        for (rung, point) in &self.seen {
            if let Rung::Four(layers) = rung {
                steps += 1;
                match point {
                    Some(point) if !self.loses_too_much(point) => good = good.max(*layers),
                    _ => bad = bad.min(*layers),
                }
            }
        }
        let next = if steps == 0 { self.room.four_bit } else { good.midpoint(bad) };
        (steps < HALVINGS && next > good && next < bad).then_some(Rung::Four(next))
    }

    /// Takes what was measured; none where the candidate did not run.
    pub(crate) fn record(&mut self, rung: Rung, point: Option<Point>) {
        self.seen.push((rung, point));
    }

    fn point(&self, rung: Rung) -> Option<&Point> {
        self.seen.iter().find(|(seen, _)| *seen == rung).and_then(|(_, point)| point.as_ref())
    }

    fn loses_too_much(&self, point: &Point) -> bool {
        self.budget.breaches(point).iter().any(|breach| matches!(breach, Breach::Drop { .. }))
    }

    /// The 8-bit candidate to go on from: of those that do not lose too much the one whose outputs are nearest, else the
    /// one that loses least.
    pub(crate) fn base(&self) -> Option<(Tuning, &Point)> {
        let int8 = self.seen.iter().filter_map(|(rung, point)| match (rung, point) {
            (Rung::Int8(tuning), Some(point)) => Some((*tuning, point)),
            _ => None,
        });
        int8.min_by(|(_, a), (_, b)| {
            let bad = |point: &Point| if self.loses_too_much(point) { point.drop } else { f64::NEG_INFINITY };
            bad(a).total_cmp(&bad(b)).then(nearest(a, b))
        })
    }

    /// The candidate that ships: of those within the budget that are hardly larger than the smallest, the one whose outputs
    /// are nearest to those of the model before. Which of them the metric favours is mostly chance, and to go by it would
    /// make the figure look better than it is.
    pub(crate) fn best(&self) -> Result<(Rung, &Point), Box<OverBudget>> {
        let points = self.seen.iter().filter_map(|(rung, point)| Some((*rung, point.as_ref()?)));
        let within: Vec<(Rung, &Point)> =
            points.filter(|(_, point)| self.budget.breaches(point).is_empty()).collect();
        let smallest = within.iter().map(|(_, point)| point.bytes).min().unwrap_or_default();
        let hardly_larger = |point: &Point| point.bytes as f64 <= smallest as f64 * (1.0 + HARDLY);
        let best =
            within.into_iter().filter(|(_, point)| hardly_larger(point)).min_by(|a, b| nearest(a.1, b.1));
        best.ok_or_else(|| {
            let points = self.seen.iter().filter_map(|(_, point)| point.clone());
            Box::new(refusal(&self.budget, points.collect()))
        })
    }

    /// Everything measured, in order, with those marked that no other beats.
    pub(crate) fn into_points(self) -> Vec<Point> {
        let mut points: Vec<Point> = self.seen.into_iter().filter_map(|(_, point)| point).collect();
        mark(&mut points);
        points
    }
}

/// What is said where none of the candidates is within the budget.
pub(crate) fn refusal(budget: &Budget, mut nearest: Vec<Point>) -> OverBudget {
    mark(&mut nearest);
    let measured = nearest.len();
    nearest.sort_by(|a, b| {
        let breaches = |point| budget.breaches(point).len();
        breaches(a)
            .cmp(&breaches(b))
            .then(excess(budget, a).total_cmp(&excess(budget, b)))
            .then(a.drop.total_cmp(&b.drop))
            .then(a.bytes.cmp(&b.bytes))
    });
    nearest.truncate(NEAREST);
    let breaches = nearest.first().map(|point| budget.breaches(point)).unwrap_or_default();
    OverBudget { breaches, nearest, measured }
}

/// How far over the budget a candidate is, in parts of what is allowed, summed up over all bounds.
fn excess(budget: &Budget, point: &Point) -> f64 {
    let part = |measured: f64, allowed: f64| measured / allowed.max(1e-9) - 1.0;
    let parts = budget.breaches(point).into_iter().map(|breach| match breach {
        Breach::Drop { measured, allowed, .. } => part(measured, allowed.max(1e-3)),
        Breach::Latency { measured, allowed } => part(measured, allowed),
        Breach::Bytes { measured, allowed } | Breach::Memory { measured, allowed } => {
            part(measured as f64, allowed as f64)
        }
    });
    parts.sum()
}

/// That whose outputs are nearest comes first, then that which loses least, then the smallest.
fn nearest(a: &Point, b: &Point) -> Ordering {
    let error = |point: &Point| point.output_error.unwrap_or(f64::INFINITY);
    error(a).total_cmp(&error(b)).then(a.drop.total_cmp(&b.drop)).then(a.bytes.cmp(&b.bytes))
}

#[cfg(test)]
mod tests;

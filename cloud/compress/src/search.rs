//! Which candidate to measure next: decisions only, no measuring.
//!
//! The first candidate has every layer in int8. While it loses too much accuracy, the layer that disturbs the model's
//! output most goes back to f32, one a step, as in NNCF's quantisation with accuracy control. Size and latency do not
//! get better on that way, so a candidate that is over either of them ends the search.

use crate::{Breach, Budget, OverBudget, Point};

/// Candidates listed when none fits.
const NEAREST: usize = 5;

/// The search for a candidate within the budget.
#[derive(Debug)]
pub(crate) struct Search {
    budget: Budget,
    /// Candidates after the first that may be measured.
    max_fallbacks: usize,
    points: Vec<Point>,
}

/// What to do next.
#[derive(Debug, PartialEq)]
pub(crate) enum Decision {
    /// Measure the candidate with so many of the worst layers in f32.
    Measure(usize),
    /// Ship the last candidate.
    Accept,
    /// Ship nothing.
    Refuse(Box<OverBudget>),
}

impl Search {
    /// A search over a model with so many layers, at least one of which has to stay int8.
    pub(crate) fn new(budget: Budget, layers: usize, max_fallbacks: usize) -> Self {
        Self { budget, max_fallbacks: max_fallbacks.min(layers.saturating_sub(1)), points: Vec::new() }
    }

    /// What to do after a candidate was measured.
    pub(crate) fn step(&mut self, point: Point) -> Decision {
        let breaches = self.budget.breaches(&point);
        self.points.push(point);
        let fallbacks = self.points.len() - 1;
        if breaches.is_empty() {
            Decision::Accept
        } else if breaches.iter().all(|b| matches!(b, Breach::Drop { .. })) && fallbacks < self.max_fallbacks
        {
            Decision::Measure(fallbacks + 1)
        } else {
            Decision::Refuse(Box::new(self.refusal()))
        }
    }

    /// Everything measured, in order.
    pub(crate) fn into_points(self) -> Vec<Point> {
        self.points
    }

    fn refusal(&self) -> OverBudget {
        let mut nearest = self.points.clone();
        nearest.sort_by(|a, b| {
            let breaches = |point| self.budget.breaches(point).len();
            breaches(a).cmp(&breaches(b)).then(a.drop.total_cmp(&b.drop)).then(a.bytes.cmp(&b.bytes))
        });
        nearest.truncate(NEAREST);
        let breaches = nearest.first().map(|point| self.budget.breaches(point)).unwrap_or_default();
        OverBudget { breaches, nearest, measured: self.points.len() }
    }
}

#[cfg(test)]
mod tests;

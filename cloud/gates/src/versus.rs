//! Two releases on two halves of a fleet: the bets of a gate, placed in both directions.
//!
//! Each pair is a device of A and a device of B, each device once, drawn by a hash that knows nothing of them. How the
//! one changed, less how the other did, is what one half has that the other has not. "B does worse than A" and "A does worse
//! than B" are two hypotheses on the same pairs, so each is bet on with half of `alpha`, which is divided further over
//! metrics and windows as a gate divides it ([`crate::gate::Spending`]). If A and B are the same, one of the two is ever
//! said with a probability of at most `alpha` (Ville's inequality, and the union bound over directions, metrics and windows).
//!
//! That neither does harm to the other beyond the bound is what is called *no difference that matters*: equivalence by two
//! one-sided tests (D. J. Schuirmann, *A comparison of the two one-sided tests procedure and the power approach*, Journal
//! of Pharmacokinetics and Biopharmaceutics 15, 1987). Both have to be rejected, so that neither needs a part of `beta`
//! for itself (R. L. Berger, *Multiparameter hypothesis testing and acceptance sampling*, Technometrics 24, 1982).

use crate::change::Pair;
use crate::gate::{Health, Look};
use crate::metric::Metric;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Hypotheses of one metric in one window: that the one does worse, and that the other does.
const DIRECTIONS: usize = 2;

/// One of the two releases, and the devices that run it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The incumbent: it stays where there is no difference that matters.
    A,
    /// The challenger.
    B,
}

impl Side {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::A, Self::B];

    /// The stable text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }

    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

/// What the two halves say of each other in one window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// What speaks against A, beside B.
    pub a: Look,
    /// What speaks against B, beside A.
    pub b: Look,
}

/// What follows from a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The other one is worse in something, and this one in nothing.
    Better(Side),
    /// There is no difference that matters in anything.
    Same,
    /// Each is worse than the other in something.
    Torn,
    /// There is no evidence of any of that yet.
    Open,
}

impl Comparison {
    /// Compares the devices of both halves in one window, counted from 0. Each pair is one of how B changed beside A.
    pub fn new(health: &Health, window: u32, pairs: &BTreeMap<Metric, Vec<Pair>>) -> Self {
        let reversed = pairs.iter().map(|(metric, pairs)| {
            (*metric, pairs.iter().map(|pair| pair.reversed()).collect::<Vec<Pair>>())
        });
        let of = |pairs: &BTreeMap<Metric, Vec<Pair>>| Look::new(health, DIRECTIONS, window, pairs);
        Self { a: of(&reversed.collect()), b: of(pairs) }
    }

    /// What speaks against one of the two.
    pub fn against(&self, side: Side) -> &Look {
        match side {
            Side::A => &self.a,
            Side::B => &self.b,
        }
    }

    /// The rule: who is worse in any metric loses to one that is worse in none; if both are, it is for people to weigh
    /// the one against the other; no difference is said only of evidence from most of `devices`, the pairs that there
    /// might be. However few devices there are, nothing is taken for granted.
    pub fn outcome(&self, health: &Health, devices: u32) -> Outcome {
        match (self.a.worse().is_some(), self.b.worse().is_some()) {
            (true, true) => Outcome::Torn,
            (false, true) => Outcome::Better(Side::A),
            (true, false) => Outcome::Better(Side::B),
            (false, false) => {
                let same = Side::BOTH.iter().all(|side| self.against(*side).is_harmless(health, devices));
                if same { Outcome::Same } else { Outcome::Open }
            }
        }
    }
}

#[cfg(test)]
#[path = "versus_tests.rs"]
mod tests;

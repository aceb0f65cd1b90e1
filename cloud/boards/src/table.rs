//! What each kind of operator costs on a board.

use std::collections::BTreeMap;

use flotilla_runtime::engine::Operator;
use serde::{Deserialize, Serialize};

/// Kinds of operators in one table at most.
pub(crate) const KINDS: usize = 512;
/// The longest name of a kind.
const KIND: usize = 128;
/// The largest cost of a unit, in nanoseconds: a second.
const COST: f64 = 1e9;
/// The largest table that is read, in bytes.
pub(crate) const TABLE: usize = 256 << 10;
/// The name of what holds for kinds that a table does not know.
pub(crate) const ANY: &str = "any";

/// Units of work of an operator, in the order of [`Cost::weights`].
pub(crate) const UNITS: usize = 7;

pub(crate) fn units(operator: &Operator) -> [f64; UNITS] {
    let Operator { macs, loops, scattered, read, written, constant_bytes, .. } = operator;
    let count = |number: &u64| *number as f64;
    [1.0, count(macs), count(loops), count(scattered), count(read), count(written), count(constant_bytes)]
}

/// What one kind of operator costs, in nanoseconds. Nothing is below zero: more work never takes less time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cost {
    /// Each time.
    #[serde(skip_serializing_if = "is_zero")]
    pub once: f64,
    /// A multiplication with an addition.
    #[serde(skip_serializing_if = "is_zero")]
    pub mac: f64,
    /// A tile or a row.
    #[serde(rename = "loop", skip_serializing_if = "is_zero")]
    pub each_loop: f64,
    /// A value that is fetched by itself.
    #[serde(skip_serializing_if = "is_zero")]
    pub scattered: f64,
    /// A value that is read.
    #[serde(skip_serializing_if = "is_zero")]
    pub read: f64,
    /// A value that is written.
    #[serde(skip_serializing_if = "is_zero")]
    pub written: f64,
    /// A byte of a constant.
    #[serde(skip_serializing_if = "is_zero")]
    pub constant_byte: f64,
}

fn is_zero(cost: &f64) -> bool {
    *cost == 0.0
}

impl Cost {
    pub(crate) fn of(weights: [f64; UNITS]) -> Self {
        let [once, mac, each_loop, scattered, read, written, constant_byte] = weights;
        Self { once, mac, each_loop, scattered, read, written, constant_byte }
    }

    /// In the order of the units of work.
    pub(crate) fn weights(&self) -> [f64; UNITS] {
        [self.once, self.mac, self.each_loop, self.scattered, self.read, self.written, self.constant_byte]
    }

    pub(crate) fn nanoseconds(&self, units: [f64; UNITS]) -> f64 {
        self.weights().iter().zip(units).map(|(cost, units)| cost * units).sum()
    }
}

/// What operators cost on a board.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CostTable {
    /// The board that it is of.
    pub board: String,
    /// Whether it was measured there; others follow from documents.
    pub measured: bool,
    /// By which factor a prediction may be off in either direction, nine times out of ten.
    pub spread: f64,
    /// What a run costs besides its operators: `once` a run, `loop` an operator, `read` a value that goes in.
    pub run: Cost,
    /// The kinds. One that is missing costs what its name without the kernel does, or `any`.
    pub kinds: BTreeMap<String, Cost>,
}

/// Why a table is not usable.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("the cost table cannot be used: {0}")]
pub struct InvalidTable(pub String);

/// How long a model takes, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// One run, on one thread, of a board with nothing else to do.
    pub ms: f64,
    /// It is longer than this nine times out of ten …
    pub low_ms: f64,
    /// … and shorter than this.
    pub high_ms: f64,
    /// The part of the time, 0 to 1, that is taken by kinds of operators of which the table knows nothing of their own.
    pub unknown: f64,
}

impl CostTable {
    /// Reads a table of at most [`TABLE`] bytes.
    pub fn parse(text: &str) -> Result<Self, InvalidTable> {
        if text.len() > TABLE {
            return Err(InvalidTable(format!("it has {} bytes; {TABLE} are possible", text.len())));
        }
        let table: Self =
            toml::from_str(text).map_err(|e| InvalidTable(e.to_string().trim().replace('\n', " ")))?;
        table.check()?;
        Ok(table)
    }

    /// The table as a file.
    pub fn to_text(&self) -> Result<String, InvalidTable> {
        toml::to_string(self).map_err(|e| InvalidTable(e.to_string()))
    }

    /// Checks it against its bounds.
    pub fn check(&self) -> Result<(), InvalidTable> {
        let invalid = |text: String| Err(InvalidTable(text));
        if !(1.0..=100.0).contains(&self.spread) {
            return invalid(format!("spread is {}; 1 to 100 are possible", self.spread));
        }
        if self.kinds.is_empty() || self.kinds.len() > KINDS {
            return invalid(format!("it has {} kinds; 1 to {KINDS} are possible", self.kinds.len()));
        }
        for (kind, cost) in
            self.kinds.iter().map(|(kind, cost)| (kind.as_str(), cost)).chain([("run", &self.run)])
        {
            if kind.is_empty() || kind.len() > KIND {
                return invalid(format!("a kind's name has {} bytes; 1 to {KIND} are possible", kind.len()));
            }
            if let Some(weight) = cost.weights().iter().find(|weight| !(0.0..=COST).contains(*weight)) {
                return invalid(format!("{kind} costs {weight} ns; 0 to {COST} are possible"));
            }
        }
        Ok(())
    }

    /// How long a model of these operators takes.
    pub fn predict(&self, operators: &[Operator]) -> Prediction {
        let (mut known, mut unknown) = (0.0, 0.0);
        for operator in operators {
            let (cost, own) = self.cost(&operator.kind);
            let time = cost.nanoseconds(units(operator));
            *(if own { &mut known } else { &mut unknown }) += time;
        }
        known += self.run_ms(operators) * 1e6;
        let (ms, unknown) = ((known + unknown) / 1e6, unknown / (known + unknown).max(f64::MIN_POSITIVE));
        // What is unknown may be off by several times as much.
        let spread = self.spread * (1.0 + 2.0 * unknown);
        Prediction { ms, low_ms: ms / spread, high_ms: ms * spread, unknown }
    }

    /// What a run costs besides its operators, in milliseconds.
    pub fn run_ms(&self, operators: &[Operator]) -> f64 {
        self.run.nanoseconds(run_units(operators)) / 1e6
    }

    /// What a kind costs, and whether the table knows it or its kind of kernel.
    fn cost(&self, kind: &str) -> (Cost, bool) {
        let base = kind.split([' ', '(']).next().unwrap_or(kind);
        let known = self.kinds.get(kind).or_else(|| self.kinds.get(base));
        known.map_or_else(|| (self.kinds.get(ANY).copied().unwrap_or_default(), false), |cost| (*cost, true))
    }
}

/// Units of work of a run besides its operators.
pub(crate) fn run_units(operators: &[Operator]) -> [f64; UNITS] {
    let input = operators.first().map_or(0, |first| first.read);
    [1.0, 0.0, operators.len() as f64, 0.0, input as f64, 0.0, 0.0]
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;

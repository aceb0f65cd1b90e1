//! Measuring this machine: generated graphs are run, each operator is timed, and a table is fitted to the times.

use std::collections::BTreeMap;
use std::time::Duration;

use flotilla_runtime::Result;
use flotilla_runtime::engine::{self, Given, Operator, Profile};

use crate::fit::{Sample, fit};
use crate::graphs::{Graph, graphs};
use crate::table::{ANY, Cost, CostTable, run_units, units};

/// Fewer samples say too little of a kernel; what its kind costs holds for it then.
const SAMPLES: usize = 4;
/// Every so many-th graph is not fitted to but predicted: its errors are the interval.
const HELD_OUT: usize = 4;
/// The part of held-out graphs that lies within the interval, in percent.
const WITHIN: usize = 90;
/// Passes over all graphs. What else the machine does rarely meets one graph each time.
const PASSES: u64 = 3;

/// A table and how good it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibrated {
    /// The table, fitted to all graphs.
    pub table: CostTable,
    /// Graphs that were run.
    pub graphs: usize,
    /// The median error, 0.1 for a tenth, on graphs that were left out of the fit.
    pub median_error: f64,
    /// The largest.
    pub worst_error: f64,
}

struct Measured {
    operators: Vec<(Operator, f64)>,
    whole: f64,
}

/// Measures for about `time` and fits a table for a board of this name; `progress` hears of graphs done and all.
pub fn calibrate(board: &str, time: Duration, mut progress: impl FnMut(usize, usize)) -> Result<Calibrated> {
    let graphs = graphs();
    let steps = graphs.len() * PASSES as usize;
    let share = time / u32::try_from(steps).unwrap_or(u32::MAX);
    let mut best: Vec<Option<Measured>> = graphs.iter().map(|_| None).collect();
    for pass in 0..PASSES as usize {
        for (place, graph) in graphs.iter().enumerate() {
            let measured = measure(graph, share)?;
            best[place] = Some(match best[place].take() {
                Some(before) => before.least(measured),
                None => measured,
            });
            progress(pass * graphs.len() + place + 1, steps);
        }
    }
    let measured: Vec<Measured> = best.into_iter().flatten().collect();
    let (held, fitted): (Vec<_>, Vec<_>) =
        measured.iter().enumerate().partition(|(place, _)| place % HELD_OUT == HELD_OUT - 1);
    let trial = table(board, fitted.into_iter().map(|(_, measured)| measured), 1.0);
    let mut ratios: Vec<f64> = held.iter().map(|(_, measured)| measured.ratio(&trial)).collect();
    ratios.sort_by(f64::total_cmp);
    let at = |percent: usize| ratios.get((ratios.len() * percent / 100).min(ratios.len().saturating_sub(1)));
    let spread = at(WITHIN).copied().unwrap_or(1.0).clamp(1.05, 100.0);
    Ok(Calibrated {
        table: table(board, measured.iter(), spread),
        graphs: measured.len(),
        median_error: at(50).map_or(0.0, |ratio| ratio - 1.0),
        worst_error: ratios.last().map_or(0.0, |ratio| ratio - 1.0),
    })
}

fn measure(graph: &Graph, time: Duration) -> Result<Measured> {
    let Profile { operators, whole } = engine::profile(&graph.onnx, &[Given::of(&graph.input)], time)?;
    let nanoseconds = |time: Duration| time.as_secs_f64() * 1e9;
    let operators = operators.into_iter().map(|(operator, time)| (operator, nanoseconds(time))).collect();
    Ok(Measured { operators, whole: nanoseconds(whole) })
}

impl Measured {
    fn least(mut self, other: Self) -> Self {
        for ((_, time), (_, again)) in self.operators.iter_mut().zip(other.operators) {
            *time = time.min(again);
        }
        Self { whole: self.whole.min(other.whole), ..self }
    }

    /// What a run takes that nothing disturbs. One of many milliseconds is rarely left alone on a busy machine; its
    /// operators are.
    fn took(&self, run: &Cost) -> f64 {
        let operators: Vec<Operator> = self.operators.iter().map(|(operator, _)| operator.clone()).collect();
        let inside: f64 = self.operators.iter().map(|(_, time)| time).sum();
        self.whole.min(inside + run.nanoseconds(run_units(&operators)))
    }

    /// By which factor a table is off, in either direction.
    fn ratio(&self, table: &CostTable) -> f64 {
        let operators: Vec<Operator> = self.operators.iter().map(|(operator, _)| operator.clone()).collect();
        let ratio = table.predict(&operators).ms * 1e6 / self.took(&table.run);
        ratio.max(1.0 / ratio.max(f64::MIN_POSITIVE))
    }
}

fn table<'a>(board: &str, measured: impl Iterator<Item = &'a Measured> + Clone, spread: f64) -> CostTable {
    let mut samples: BTreeMap<String, Vec<Sample>> = BTreeMap::new();
    for (operator, time) in measured.clone().flat_map(|measured| &measured.operators) {
        let sample = (units(operator), *time, time.max(1.0));
        let base = operator.kind.split([' ', '(']).next().unwrap_or_default();
        let names = [ANY, base, operator.kind.as_str()];
        let own = if base == operator.kind { &names[..2] } else { &names[..] };
        for name in own {
            samples.entry((*name).to_owned()).or_default().push(sample);
        }
    }
    let enough =
        |(kind, samples): &(String, Vec<Sample>)| samples.len() >= SAMPLES || !kind.contains([' ', '(']);
    let kinds = samples.into_iter().filter(enough);
    let kinds = kinds.map(|(kind, samples)| (kind, Cost::of(fit(&samples)))).collect();
    let runs: Vec<Sample> = measured
        .map(|measured| {
            let operators: Vec<Operator> =
                measured.operators.iter().map(|(operator, _)| operator.clone()).collect();
            let inside: f64 = measured.operators.iter().map(|(_, time)| time).sum();
            (run_units(&operators), (measured.whole - inside).max(0.0), measured.whole.max(1.0))
        })
        .collect();
    CostTable { board: board.to_owned(), measured: true, spread, run: Cost::of(fit(&runs)), kinds }
}

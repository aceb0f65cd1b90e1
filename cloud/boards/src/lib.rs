//! How long a model takes on a board, without running it there.
//!
//! A [`CostTable`] says what each kind of operator costs on a board, in nanoseconds a unit of its work; the operators and
//! their work are the engine's own account of the graph that it runs ([`flotilla_runtime::engine::operators`]). The sum
//! is the prediction, and how far off such sums were on graphs that the table was not made from is its interval.
//!
//! - [`calibrate`]: measures generated graphs on this machine and fits a table. Nobody's models take part.
//! - [`reference`] and [`derived`]: a table that comes with the platform, and what follows from it for a board whose
//!   clock and arithmetic units are known from documents. Such a table is a guess, and its interval says so.
//! - [`correct`]: what real devices of a board report, as a factor on its predictions; [`Predictor`]: a table with it.
//!
//! Predictions are for one thread and a machine with nothing else to do. The graph is the one that the engine makes for
//! *this* machine's kernels: for another architecture the kinds of work are the same and their cost is scaled.

mod calibrate;
mod correct;
mod derive;
mod fit;
mod graphs;
mod predictor;
mod table;

pub use calibrate::{Calibrated, calibrate};
pub use correct::{Correction, Pair, correct};
pub use derive::{derived, reference};
pub use graphs::{Graph, graphs};
pub use predictor::Predictor;
pub use table::{Cost, CostTable, InvalidTable, Prediction};

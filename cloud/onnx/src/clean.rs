//! Clean-up of models that other tools wrote, so that the engine reads them and what they are is plain.
//!
//! Each pass is a function of the model alone and says what it changed; [`clean`] runs them in the order in which they
//! need each other. None changes what the model answers, but for [`Options::float_activations`], for labels that a
//! classifier gives besides its probabilities, and for dimensions that the caller fixes.

mod batch;
mod bounds;
mod branches;
mod classifier;
mod constants;
mod fold;
mod graph;
mod inference;
mod linear;
mod operators;
mod quantised;
mod shapes;
mod unused;
mod upgrade;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{Error, Model, Result};

pub use bounds::MAX_ELEMENTS;
pub use classifier::LABELS;
pub use operators::{Missing, missing_operators};
pub use shapes::{Inferred, Known, infer};

/// The oldest standard operator set that is read: before it, operators broadcast by attributes.
pub const OLDEST_OPSET: i64 = 7;

/// Rounds in which folding and taking out make room for each other; graphs settle in two or three.
const MAX_ROUNDS: usize = 8;

/// What the caller decides.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// What an open batch becomes.
    pub batch: usize,
    /// What other open dimensions become: by the symbol that the file gives them, or as `input[axis]` where it gives none.
    pub dimensions: BTreeMap<String, usize>,
    /// Inputs that always have the same value, as a sample rate: they become constants, and branches on them are decided.
    pub fixed: BTreeMap<String, f64>,
    /// Whether activations of a quantised model are only clamped to their range and not rounded: as fast as the float
    /// model, and closer to it than to the quantised one.
    pub float_activations: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { batch: 1, dimensions: BTreeMap::new(), fixed: BTreeMap::new(), float_activations: false }
    }
}

/// What one pass did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    /// Nodes, constants or values changed.
    pub(crate) count: u64,
    /// What the user should know about it.
    pub(crate) notes: Vec<String>,
}

impl Changes {
    fn counted(count: u64) -> Self {
        Self { count, notes: Vec::new() }
    }
}

/// What the clean-up did with a model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Cleaned {
    /// The passes that changed something.
    pub steps: Vec<Step>,
    /// What the user should know.
    pub notes: Vec<String>,
}

/// What one pass changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// What it does.
    pub pass: String,
    /// Nodes, constants or values changed.
    pub changes: u64,
}

impl Cleaned {
    fn add(&mut self, pass: &str, changes: Changes) {
        if changes.count > 0 {
            match self.steps.iter_mut().find(|step| step.pass == pass) {
                Some(step) => step.changes += changes.count,
                None => self.steps.push(Step { pass: pass.into(), changes: changes.count }),
            }
        }
        for note in changes.notes {
            if !self.notes.contains(&note) {
                self.notes.push(note);
            }
        }
    }

    /// Changes of all passes.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.steps.iter().map(|step| step.changes).sum()
    }
}

/// Cleans a model up. A model that is refused is left half done: it is of no use then.
pub fn clean(model: &mut Model, options: &Options) -> Result<Cleaned> {
    model.check_order()?;
    let opset = model.opset();
    if opset != 0 && opset < OLDEST_OPSET {
        return Err(Error::OldOpset { opset });
    }
    let mut cleaned = Cleaned::default();
    cleaned.add("constants listed as inputs", constants::unlist(model)?);
    cleaned.add("inputs of one value", constants::fix(model, &options.fixed)?);
    cleaned.add("labels and maps of classifiers", classifier::probabilities(model)?);
    cleaned.add("nodes for training", inference::for_inference(model)?);
    cleaned.add("constant nodes", constants::from_nodes(model)?);
    cleaned.add("computed constants", fold::constants_only(model)?);
    bounds::check(model)?;
    cleaned.add("forms of older operator sets", upgrade::upgrade(model)?);
    cleaned.add("open dimensions", batch::fix(model, options)?);
    settle(model, &mut cleaned)?;
    let quantised = quantised::rewrite(model, options.float_activations)?;
    if quantised.count > 0 {
        cleaned.add("quantised operators", quantised);
        settle(model, &mut cleaned)?;
    }
    cleaned.add("matrix products with a bias", linear::to_gemm(model)?);
    cleaned.add("unused nodes and constants", unused::remove(model)?);
    shapes::of_outputs(model);
    model.check_order()?;
    Ok(cleaned)
}

/// Folds and takes out until there is nothing left to do.
fn settle(model: &mut Model, cleaned: &mut Cleaned) -> Result<()> {
    for _ in 0..MAX_ROUNDS {
        // What was computed may be what a node is asked to make.
        bounds::check(model)?;
        let mut changes = 0;
        let mut round = |pass: &str, done: Changes| {
            changes += done.count;
            cleaned.add(pass, done);
        };
        round("computed constants", fold::fold(model)?);
        round("branches that are never taken", branches::take(model)?);
        round("constant nodes", constants::from_nodes(model)?);
        round("nodes that do nothing", inference::identities(model)?);
        round("unused nodes and constants", unused::remove(model)?);
        if changes == 0 {
            break;
        }
    }
    Ok(())
}

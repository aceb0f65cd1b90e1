//! What can be done to the floats of a model before they are rounded, each on its own.

pub(crate) mod bias;
pub(crate) mod equalise;
pub(crate) mod fold;

use std::collections::HashMap;

/// What training knew of the values that batch normalisation made: mean and standard deviation of each channel, by the
/// name of the value. Folding takes the numbers out of the graph, so they are kept here for those who come later.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Norms(pub(crate) HashMap<String, Vec<(f32, f32)>>);

//! What a model engineer gets from the registry: versions with lineage, signed releases, bundles that can be
//! carried and are refused when anything about them is wrong.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod agents;
mod bundles;
mod patches;
mod releases;
mod support;
mod trust;

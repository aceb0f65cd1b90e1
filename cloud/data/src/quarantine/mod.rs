//! Hard examples of devices before somebody has looked at them.
//!
//! What a device sends is not trusted: it lies in a folder of its own, apart from the objects that everything else is
//! made of, until an operator accepts it. Then the picture, recording or row becomes an unlabelled sample of a dataset; a rejected one is
//! deleted. Either way its digest is remembered, so that no device has to send it again.
//!
//! - `example`: the record.
//! - `files`: `incoming/DEVICE/DIGEST`, as far as it has come, and `pictures/DIGEST`, whatever it is.
//! - `medium`: what it is.
//! - `held`: how much there is and how much may come, counted from the offer on.
//! - `service`: taking in, and forgetting what is over.
//! - `review`: listing, deciding.

mod example;
mod files;
mod held;
mod medium;
mod review;
mod service;
#[cfg(test)]
mod tests;

pub use example::{ExampleState, Quarantined};
pub use medium::Medium;
pub use review::Decided;
pub use service::Quarantine;

//! Why a layer cannot be made or run.

/// Why a layer cannot be made or run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A number is out of its bounds.
    #[error("{what} is {value}, and must be {bounds}")]
    Bounds {
        /// Which.
        what: &'static str,
        /// What it is.
        value: String,
        /// What it may be.
        bounds: &'static str,
    },
    /// Two numbers do not go together.
    #[error("{what}: {got} where {need} are needed")]
    Mismatch {
        /// What does not fit.
        what: &'static str,
        /// What there is.
        got: usize,
        /// What there should be.
        need: usize,
    },
    /// This processor lacks the instructions.
    #[error("this processor has no {0}")]
    NoSuchIsa(&'static str),
}

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Refuses what is out of bounds.
pub(crate) fn within(
    what: &'static str,
    value: usize,
    low: usize,
    high: usize,
    bounds: &'static str,
) -> Result<()> {
    if (low..=high).contains(&value) {
        Ok(())
    } else {
        Err(Error::Bounds { what, value: value.to_string(), bounds })
    }
}

/// Refuses two counts that differ.
pub(crate) fn equal(what: &'static str, got: usize, need: usize) -> Result<()> {
    if got == need { Ok(()) } else { Err(Error::Mismatch { what, got, need }) }
}

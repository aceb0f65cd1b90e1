//! Training on rows of numbers: a network of dense layers that says classes, values, or its own input again.
//!
//! [`Rows`] come as the runtime encodes them. Values are learnt as multiples of their deviation from their mean, and the last
//! layer of the file gives them in their own unit. What says its own input again is far off where a row is unlike all that it
//! has learnt from: an anomaly.

mod export;
mod fit;
mod network;

pub use fit::train_rows;

use crate::{Error, Result};

/// Most values of a row.
pub const ROW_WIDTH: usize = 16 * 1024;
/// Most numbers in one set of rows (1 GiB).
pub const ROWS_VALUES: usize = 1 << 28;

/// Rows of numbers, and what is true of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Rows {
    /// Values of a row.
    pub width: usize,
    /// All values, row by row.
    pub values: Vec<f32>,
    /// What is to be learnt of them.
    pub aims: Aims,
}

/// What is to be learnt of rows.
#[derive(Clone, Debug, PartialEq)]
pub enum Aims {
    /// The class of each.
    Classes {
        /// Names of the classes; a label is a place in this list.
        names: Vec<String>,
        /// The label of each row.
        labels: Vec<u32>,
    },
    /// Numbers.
    Values {
        /// Their names.
        names: Vec<String>,
        /// The numbers of all rows, row by row.
        values: Vec<f64>,
    },
    /// The rows themselves.
    Themselves,
}

impl Rows {
    /// How many rows there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len() / self.width.max(1)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Numbers that a network gives for a row.
    pub(crate) fn outputs(&self) -> usize {
        match &self.aims {
            Aims::Classes { names, .. } | Aims::Values { names, .. } => names.len(),
            Aims::Themselves => self.width,
        }
    }

    /// Refuses rows that cannot be trained on or measured with.
    fn check(&self, part: &'static str) -> Result<()> {
        let mismatch = |what, found: usize, expected: String| {
            Err(Error::Mismatch { part, what, found: found.to_string(), expected })
        };
        if self.is_empty() {
            return Err(Error::NoSamples { part });
        }
        if !(1..=ROW_WIDTH).contains(&self.width) {
            return mismatch("the number of values of a row", self.width, format!("1 to {ROW_WIDTH}"));
        }
        if self.values.len() > ROWS_VALUES {
            return Err(Error::TooLarge {
                what: "the number of values",
                found: self.values.len() as u64,
                limit: ROWS_VALUES as u64,
                advice: "take fewer rows or leave out columns",
            });
        }
        let count = self.len();
        if self.values.len() != count * self.width {
            return mismatch("the number of values", self.values.len(), (count * self.width).to_string());
        }
        if let Some(place) = self.values.iter().position(|value| !value.is_finite()) {
            return Err(Error::NotFinite { part, image: place / self.width });
        }
        match &self.aims {
            Aims::Classes { names, labels } => {
                if names.len() < 2 {
                    return mismatch("the number of classes", names.len(), "2 or more".into());
                }
                if labels.len() != count {
                    return mismatch("the number of labels", labels.len(), count.to_string());
                }
                match labels.iter().find(|label| **label as usize >= names.len()) {
                    Some(label) => {
                        mismatch("a label", *label as usize, format!("a class from 0 to {}", names.len() - 1))
                    }
                    None => Ok(()),
                }
            }
            Aims::Values { names, values } => {
                if names.is_empty() {
                    return mismatch("the number of targets", 0, "1 or more".into());
                }
                if values.len() != count * names.len() {
                    return mismatch(
                        "the number of targets",
                        values.len(),
                        (count * names.len()).to_string(),
                    );
                }
                match values.iter().position(|value| !value.is_finite()) {
                    Some(place) => Err(Error::NotFinite { part, image: place / names.len() }),
                    None => Ok(()),
                }
            }
            Aims::Themselves => Ok(()),
        }
    }

    /// Refuses a training set with one class only.
    fn check_classes(&self) -> Result<()> {
        let Aims::Classes { names, labels } = &self.aims else { return Ok(()) };
        match labels.split_first() {
            Some((first, rest)) if rest.iter().all(|label| label == first) => {
                Err(Error::OneClass { class: format!("class `{}`", names[*first as usize]) })
            }
            _ => Ok(()),
        }
    }

    /// Refuses rows of another width or with other aims.
    fn check_like(&self, other: &Self, part: &'static str) -> Result<()> {
        let shape = |rows: &Self| match &rows.aims {
            Aims::Classes { names, .. } => {
                format!("{} values of the classes {}", rows.width, names.join(", "))
            }
            Aims::Values { names, .. } => {
                format!("{} values with the targets {}", rows.width, names.join(", "))
            }
            Aims::Themselves => format!("{} values", rows.width),
        };
        let (found, expected) = (shape(self), shape(other));
        if found == expected {
            return Ok(());
        }
        Err(Error::Mismatch { part, what: "what rows hold", found, expected })
    }
}

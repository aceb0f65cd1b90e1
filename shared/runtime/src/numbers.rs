//! Numbers of a tensor in JSON: lists within lists, as deep as its shape says, row by row.

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, SeqAccess, Visitor};
use std::fmt;

/// Nesting at most: what a shape may have, and one more for the list itself.
const DEPTH: usize = 9;

/// The numbers of a tensor, in row-major order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Numbers {
    /// The numbers; whole ones are exact.
    pub values: Vec<f64>,
    /// Whether they stood in a list, and were not a single number.
    pub list: bool,
}

impl<'de> Deserialize<'de> for Numbers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut numbers = Self::default();
        Level { numbers: &mut numbers, left: DEPTH }.deserialize(deserializer)?;
        Ok(numbers)
    }
}

/// One level of nesting. Its elements are numbers or lists of them.
struct Level<'a> {
    numbers: &'a mut Numbers,
    left: usize,
}

impl<'de> DeserializeSeed<'de> for Level<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Level<'_> {
    /// A whole number, which must not be rounded in silence.
    fn whole<E: Error>(self, number: i128) -> Result<(), E> {
        let value = number as f64;
        if value as i128 != number {
            return Err(E::custom(format!("{number} is no exact number in JSON; send it as binary data")));
        }
        self.visit_f64(value)
    }
}

impl<'de> Visitor<'de> for Level<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number, or a list of them")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let Some(left) = self.left.checked_sub(1) else {
            return Err(A::Error::custom("data is nested deeper than any shape"));
        };
        self.numbers.list = true;
        while list.next_element_seed(Level { numbers: &mut *self.numbers, left })?.is_some() {}
        Ok(())
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<(), E> {
        self.numbers.values.push(number);
        Ok(())
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<(), E> {
        self.whole(number.into())
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<(), E> {
        self.whole(number.into())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.visit_f64(f64::from(u8::from(value)))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<Vec<f64>, String> {
        serde_json::from_str::<Numbers>(text).map(|numbers| numbers.values).map_err(|e| e.to_string())
    }

    #[test]
    fn flat_and_nested_data_are_the_same() {
        assert_eq!(read("[1, 2.5, -3, 4e0]").unwrap(), [1.0, 2.5, -3.0, 4.0]);
        assert_eq!(read("[[[1, 2.5]], [[-3, 4]]]").unwrap(), [1.0, 2.5, -3.0, 4.0]);
        assert_eq!(read("[true, false]").unwrap(), [1.0, 0.0]);
        assert!(read("[]").unwrap().is_empty());
        assert!(!serde_json::from_str::<Numbers>("1").unwrap().list);
    }

    #[test]
    fn what_is_no_list_of_numbers_is_refused() {
        for (text, word) in [
            ("\"1\"", "a number, or a list"),
            ("[\"a\"]", "a number, or a list"),
            ("[null]", "a number, or a list"),
            ("[{}]", "a number, or a list"),
            ("[1e400]", "out of range"),
            ("[[[[[[[[[[1]]]]]]]]]]", "nested deeper"),
            ("[9007199254740993]", "no exact number"),
            ("[-9007199254740993]", "no exact number"),
        ] {
            let problem = read(text).unwrap_err();
            assert!(problem.contains(word), "{text}: {problem}");
        }
        assert_eq!(read("[9007199254740992]").unwrap(), [9_007_199_254_740_992.0]);
    }

    proptest! {
        #[test]
        fn every_value_is_carried_exactly(numbers in prop::collection::vec(-1e30f32..1e30, 0..50)) {
            let text = serde_json::to_string(&numbers).unwrap();
            let read: Vec<f32> = read(&text).unwrap().into_iter().map(|number| number as f32).collect();
            prop_assert_eq!(read, numbers);
        }
    }
}

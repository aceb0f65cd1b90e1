//! The `data` of a tensor in JSON: numbers, flat or nested as deep as the shape says, row by row.

use serde::de::{DeserializeSeed, Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;

/// Nesting at most: what a shape may have, and one more for the list itself.
const DEPTH: usize = 9;

/// The numbers of a tensor.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Numbers(pub(super) Vec<f64>);

impl<'de> Deserialize<'de> for Numbers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut numbers = Vec::new();
        Level { numbers: &mut numbers, left: DEPTH }.deserialize(deserializer)?;
        Ok(Self(numbers))
    }
}

/// One level of nesting. Its elements are numbers or lists of them.
struct Level<'a> {
    numbers: &'a mut Vec<f64>,
    left: usize,
}

impl<'de> DeserializeSeed<'de> for Level<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
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
        while list.next_element_seed(Level { numbers: &mut *self.numbers, left })?.is_some() {}
        Ok(())
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<(), E> {
        if self.left == DEPTH {
            return Err(E::custom("data must be a list"));
        }
        self.numbers.push(number);
        Ok(())
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<(), E> {
        self.visit_f64(number as f64)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<(), E> {
        self.visit_f64(number as f64)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.visit_f64(f64::from(u8::from(value)))
    }
}

/// Texts of a BYTES tensor: each with its length before it, four bytes little-endian.
pub(super) fn texts_to_binary(texts: &[String]) -> Vec<u8> {
    let mut out = Vec::new();
    for text in texts {
        out.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
        out.extend_from_slice(text.as_bytes());
    }
    out
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<Vec<f64>, String> {
        serde_json::from_str::<Numbers>(text).map(|numbers| numbers.0).map_err(|e| e.to_string())
    }

    #[test]
    fn flat_and_nested_data_are_the_same() {
        assert_eq!(read("[1, 2.5, -3, 4e0]").unwrap(), [1.0, 2.5, -3.0, 4.0]);
        assert_eq!(read("[[[1, 2.5]], [[-3, 4]]]").unwrap(), [1.0, 2.5, -3.0, 4.0]);
        assert!(read("[]").unwrap().is_empty());
    }

    #[test]
    fn what_is_no_list_of_numbers_is_refused() {
        for (text, word) in [
            ("1", "must be a list"),
            ("\"1\"", "a number, or a list"),
            ("[\"a\"]", "a number, or a list"),
            ("[null]", "a number, or a list"),
            ("[{}]", "a number, or a list"),
            ("[1e400]", "out of range"),
            ("[[[[[[[[[[1]]]]]]]]]]", "nested deeper"),
        ] {
            let problem = read(text).unwrap_err();
            assert!(problem.contains(word), "{text}: {problem}");
        }
    }

    proptest! {
        #[test]
        fn json_carries_every_value_exactly(numbers in prop::collection::vec(-1e30f32..1e30, 0..50)) {
            let text = serde_json::to_string(&numbers).unwrap();
            let read: Vec<f32> = read(&text).unwrap().into_iter().map(|number| number as f32).collect();
            prop_assert_eq!(read, numbers);
        }
    }

    #[test]
    fn texts_carry_their_lengths() {
        assert_eq!(texts_to_binary(&["ab".into(), String::new()]), [2, 0, 0, 0, b'a', b'b', 0, 0, 0, 0]);
    }
}

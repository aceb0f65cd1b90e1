//! Names of records: a table and the bytes of an id, in one order.

use crate::error::{Error, Result};
use bytes::Bytes;
use std::borrow::Cow;
use std::fmt;

/// Length of an id.
pub const KEY_ID: usize = 512;
/// Records in one page of a range.
pub const RANGE_PAGE: usize = 1000;
/// Length of a table's own name; derived tables append an index name to it.
const TABLE_NAME: usize = 48;

/// A table. Every crate names its tables in constants: `const JOBS: Table = Table::new("jobs");`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Table(Cow<'static, str>);

impl Table {
    /// A table with this name: 1 to 48 of `a-z`, `0-9`, `-`, `_`, `.`. Anything else fails to compile in a
    /// constant.
    pub const fn new(name: &'static str) -> Self {
        let bytes = name.as_bytes();
        assert!(!bytes.is_empty() && bytes.len() <= TABLE_NAME, "a table name has 1 to 48 characters");
        let mut i = 0;
        while i < bytes.len() {
            assert!(
                matches!(bytes[i], b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.'),
                "a table name is made of a-z, 0-9, '-', '_' and '.'"
            );
            i += 1;
        }
        Self(Cow::Borrowed(name))
    }

    /// The table that holds the entries of a secondary index. Its name can be no other table's.
    pub(crate) fn index(&self, name: &str) -> Self {
        Self(Cow::Owned(format!("{}:{name}", self.0)))
    }

    /// The table that holds the claims of a unique field.
    pub(crate) fn unique(&self, name: &str) -> Self {
        Self(Cow::Owned(format!("{}!{name}", self.0)))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn decode(name: &[u8]) -> Option<Self> {
        Some(Self(Cow::Owned(std::str::from_utf8(name).ok()?.to_owned())))
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Table({})", self.0)
    }
}

/// The name of one record. Ordered by table, then by the bytes of the id.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    table: Table,
    id: Bytes,
}

impl Key {
    /// The key of `id` in `table`.
    pub fn new(table: Table, id: impl AsRef<[u8]>) -> Self {
        Self { table, id: Bytes::copy_from_slice(id.as_ref()) }
    }

    /// The table.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// The id.
    pub fn id(&self) -> &Bytes {
        &self.id
    }

    /// Refuses ids that are empty or over the bound.
    pub(crate) fn check(&self) -> Result<()> {
        if self.id.is_empty() {
            return Err(Error::Invalid(format!("an id in table {} is empty", self.table.as_str())));
        }
        if self.id.len() > KEY_ID {
            return Err(Error::TooLarge {
                what: format!("an id in table {}", self.table.as_str()),
                size: self.id.len() as u64,
                bound: KEY_ID as u64,
            });
        }
        Ok(())
    }

    /// Bytes in the order of keys: no table name holds a zero byte.
    pub(crate) fn encode(&self) -> Vec<u8> {
        encode(&self.table, &self.id)
    }

    /// The key with this encoding.
    pub(crate) fn decode(encoded: &[u8]) -> Option<Self> {
        let zero = encoded.iter().position(|&b| b == 0)?;
        let table = Table::decode(&encoded[..zero])?;
        Some(Self { table, id: Bytes::copy_from_slice(&encoded[zero + 1..]) })
    }
}

fn encode(table: &Table, id: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(table.0.len() + 1 + id.len());
    out.extend_from_slice(table.0.as_bytes());
    out.push(0);
    out.extend_from_slice(id);
    out
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.table.0, self.id.escape_ascii())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}

/// Joins the parts of a compound id so that ids order as their parts do, and so that the encoding of the
/// first parts is a prefix of exactly those ids that start with these parts.
pub fn compound<P: AsRef<[u8]>>(parts: impl IntoIterator<Item = P>) -> Vec<u8> {
    let mut out = Vec::new();
    for part in parts {
        for &byte in part.as_ref() {
            out.push(byte);
            if byte == 0 {
                out.push(0xff);
            }
        }
        out.extend_from_slice(&[0, 1]);
    }
    out
}

/// Records of one table, in order, page by page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    table: Table,
    start: Vec<u8>,
    end: Option<Vec<u8>>,
    after: Option<Vec<u8>>,
    limit: usize,
    backwards: bool,
}

impl Range {
    /// All of a table.
    pub fn table(table: Table) -> Self {
        Self { table, start: Vec::new(), end: None, after: None, limit: RANGE_PAGE, backwards: false }
    }

    /// The ids that start with `prefix`.
    pub fn prefix(table: Table, prefix: impl AsRef<[u8]>) -> Self {
        let start = prefix.as_ref().to_vec();
        let end = successor(&start);
        Self { start, end, ..Self::table(table) }
    }

    /// The ids from `start` (included) to `end` (excluded).
    pub fn between(table: Table, start: impl AsRef<[u8]>, end: impl AsRef<[u8]>) -> Self {
        Self { start: start.as_ref().to_vec(), end: Some(end.as_ref().to_vec()), ..Self::table(table) }
    }

    /// Goes on behind this id, in the direction of the range.
    pub fn after(self, id: impl AsRef<[u8]>) -> Self {
        Self { after: Some(id.as_ref().to_vec()), ..self }
    }

    /// At most this many records (never more than [`RANGE_PAGE`]).
    pub fn limit(self, limit: usize) -> Self {
        Self { limit: limit.min(RANGE_PAGE), ..self }
    }

    /// From the last record to the first.
    pub fn backwards(self) -> Self {
        Self { backwards: true, ..self }
    }

    /// The table.
    pub fn table_of(&self) -> &Table {
        &self.table
    }

    /// How many records a page holds at most.
    pub fn page_limit(&self) -> usize {
        self.limit
    }

    /// Whether the range runs from the last record to the first.
    pub fn is_backwards(&self) -> bool {
        self.backwards
    }

    /// Whether `key` lies within the bounds, wherever the page starts.
    pub fn contains(&self, key: &Key) -> bool {
        key.table == self.table
            && key.id[..] >= self.start[..]
            && self.end.as_ref().is_none_or(|end| key.id[..] < end[..])
    }

    /// The encoded keys of this page: from (included) and to (excluded).
    pub(crate) fn encoded_bounds(&self) -> (Vec<u8>, Vec<u8>) {
        let mut low = encode(&self.table, &self.start);
        let mut high = match &self.end {
            Some(end) => encode(&self.table, end),
            // The byte after the separator ends the table.
            None => [self.table.0.as_bytes(), &[1]].concat(),
        };
        if let Some(after) = &self.after {
            let after = encode(&self.table, after);
            if self.backwards {
                high = high.min(after);
            } else {
                // The smallest key above `after`.
                low = low.max([&after[..], &[0]].concat());
            }
        }
        (low, high)
    }
}

/// The smallest byte string above all that start with `prefix`; none where there is no such string.
fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|&b| b != 0xff)?;
    let mut next = prefix[..=last].to_vec();
    next[last] += 1;
    Some(next)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn encoded_keys_order_as_keys_and_read_back(
            a in proptest::collection::vec(any::<u8>(), 1..8),
            b in proptest::collection::vec(any::<u8>(), 1..8),
            same_table: bool,
        ) {
            let left = Key::new(Table::new("a"), &a);
            let right = Key::new(if same_table { Table::new("a") } else { Table::new("ab") }, &b);
            prop_assert_eq!(left.encode().cmp(&right.encode()), left.cmp(&right));
            prop_assert_eq!(Key::decode(&left.encode()).unwrap(), left);
        }

        #[test]
        fn compound_ids_order_as_their_parts(
            a in proptest::collection::vec(proptest::collection::vec(0_u8..3, 0..4), 2),
            b in proptest::collection::vec(proptest::collection::vec(0_u8..3, 0..4), 2),
        ) {
            prop_assert_eq!(compound(&a).cmp(&compound(&b)), a.cmp(&b));
            prop_assert_eq!(compound(&a).starts_with(&compound(&b[..1])), a[0] == b[0]);
        }

        #[test]
        fn a_prefix_range_holds_exactly_the_ids_with_that_prefix(
            prefix in proptest::collection::vec(prop_oneof![Just(0_u8), Just(0xff), any::<u8>()], 0..4),
            id in proptest::collection::vec(prop_oneof![Just(0_u8), Just(0xff), any::<u8>()], 1..6),
        ) {
            let range = Range::prefix(Table::new("t"), &prefix);
            let key = Key::new(Table::new("t"), &id);
            prop_assert_eq!(range.contains(&key), id.starts_with(&prefix));
            let (low, high) = range.encoded_bounds();
            let encoded = key.encode();
            prop_assert_eq!(low <= encoded && encoded < high, id.starts_with(&prefix));
        }
    }
}

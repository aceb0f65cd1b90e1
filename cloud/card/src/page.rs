//! What a card says, as parts that every form shows in its own way.

use serde::{Deserialize, Serialize};

/// A card in words, tables and pictures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Page {
    /// What it is about.
    pub title: String,
    /// What it says, by subject.
    pub sections: Vec<Section>,
}

/// One subject.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Section {
    /// A short name, for addresses.
    pub id: String,
    /// What it is about.
    pub title: String,
    /// What it says.
    pub blocks: Vec<Block>,
}

/// Something that is said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Block {
    /// A paragraph.
    Text(String),
    /// Names and values.
    Facts(Vec<Fact>),
    /// A table.
    Table(Table),
    /// A picture.
    Picture {
        /// SVG that stands on its own.
        svg: String,
        /// What it shows.
        caption: String,
        /// The same as a table, for whom a picture does not reach.
        table: Option<Table>,
    },
}

/// A name and its value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fact {
    /// Name.
    pub name: String,
    /// Value.
    pub value: Cell,
}

/// A table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// What it shows; may be empty.
    pub caption: String,
    /// Its columns.
    pub columns: Vec<Column>,
    /// Rows of as many cells.
    pub rows: Vec<Vec<Cell>>,
    /// Rows that are left out here.
    pub more: u64,
}

/// A column of a table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Whether it holds numbers.
    pub number: bool,
}

/// What stands in one place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cell {
    /// Words or a number.
    Text(String),
    /// A digest or another name for machines.
    Code(String),
}

/// Rows of a table at most; the JSON form has them all.
pub(crate) const ROWS: usize = 200;

impl Section {
    pub(crate) fn new(id: &str, title: &str, blocks: Vec<Block>) -> Self {
        Self { id: id.into(), title: title.into(), blocks }
    }
}

impl Fact {
    pub(crate) fn new(name: impl Into<String>, value: impl Into<Cell>) -> Self {
        Self { name: name.into(), value: value.into() }
    }
}

impl Table {
    /// A table of these rows, cut to [`ROWS`]. Columns whose names begin with `#` hold numbers.
    pub(crate) fn new(caption: &str, columns: &[&str], mut rows: Vec<Vec<Cell>>) -> Self {
        let more = rows.len().saturating_sub(ROWS) as u64;
        rows.truncate(ROWS);
        let column = |name: &&str| match name.strip_prefix('#') {
            Some(name) => Column { name: name.to_owned(), number: true },
            None => Column { name: (*name).to_owned(), number: false },
        };
        Self { caption: caption.into(), columns: columns.iter().map(column).collect(), rows, more }
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<u64> for Cell {
    fn from(number: u64) -> Self {
        Self::Text(crate::text::count(number))
    }
}

//! Rows out of bytes, one after the other: JSON or CSV, every bound kept on the way.

use super::cell::{Cell, shown};
use super::{csv, json};
use crate::{Error, Result};
use flotilla_protocol::limits;
use std::collections::HashMap;

/// The columns that rows are read for.
#[derive(Clone, Debug)]
pub(super) struct Columns {
    pub(super) names: Vec<String>,
    places: HashMap<String, usize>,
    /// Whether rows may have other columns too.
    others: bool,
}

impl Columns {
    /// For names without repetition.
    pub(super) fn new(names: Vec<String>, others: bool) -> Self {
        let places = names.iter().enumerate().map(|(place, name)| (name.clone(), place)).collect();
        Self { names, places, others }
    }

    pub(super) fn place(&self, name: &str) -> Option<usize> {
        self.places.get(name.trim()).copied()
    }
}

/// Where rows go: their number, from 1, and their cells in the order of the columns.
type Each<'a> = &'a mut dyn FnMut(usize, &[Cell]) -> Result<()>;

/// The row at hand.
pub(super) struct Rows<'a> {
    pub(super) columns: &'a Columns,
    each: Each<'a>,
    number: usize,
    cells: Vec<Cell>,
    filled: Vec<bool>,
}

impl Rows<'_> {
    /// Starts a row.
    pub(super) fn start(&mut self) -> Result<()> {
        if self.number >= limits::TABLE_ROWS {
            return Err(Error::TableTooLarge { bound: limits::TABLE_ROWS, what: "rows" });
        }
        self.number += 1;
        self.filled.fill(false);
        Ok(())
    }

    /// Whether a column of this name has a place; an error if none may have another name.
    pub(super) fn place(&self, name: &str) -> Result<Option<usize>> {
        match self.columns.place(name) {
            None if !self.columns.others => {
                Err(self.wrong(format!("has a column {} that the first row lacks", shown(name))))
            }
            place => Ok(place),
        }
    }

    /// Fills a cell of the row.
    pub(super) fn fill(&mut self, place: usize, cell: Cell) -> Result<()> {
        if std::mem::replace(&mut self.filled[place], true) {
            return Err(self.wrong(format!("has column {} twice", shown(&self.columns.names[place]))));
        }
        if let Cell::Text(text) = &cell
            && text.len() > limits::TABLE_CELL
        {
            return Err(
                self.wrong_cell(place, format!("{} bytes; {} are possible", text.len(), limits::TABLE_CELL))
            );
        }
        self.cells[place] = cell;
        Ok(())
    }

    /// Fills the next cell of a row without names.
    pub(super) fn fill_next(&mut self, place: usize, cell: Cell) -> Result<()> {
        if place >= self.cells.len() { Err(self.wrong_count("more")) } else { self.fill(place, cell) }
    }

    /// Hands the row on. Rows without names say how many cells they have.
    pub(super) fn finish(&mut self, unnamed: Option<usize>) -> Result<()> {
        if unnamed.is_some_and(|count| count < self.cells.len()) {
            return Err(self.wrong_count("fewer"));
        }
        if let Some(place) = self.filled.iter().position(|filled| !filled) {
            let name = shown(&self.columns.names[place]);
            return Err(
                self.wrong(format!("has no column {name}; a value that is not known is null or empty"))
            );
        }
        (self.each)(self.number, &self.cells)
    }

    pub(super) fn wrong(&self, problem: String) -> Error {
        Error::TableRow { row: self.number, problem }
    }

    pub(super) fn wrong_cell(&self, place: usize, problem: String) -> Error {
        Error::TableCell { row: self.number, column: self.columns.names[place].clone(), problem }
    }

    pub(super) fn wrong_count(&self, than: &str) -> Error {
        let columns = &self.columns.names;
        let first: Vec<&str> = columns.iter().take(8).map(String::as_str).collect();
        let more = if columns.len() > first.len() { ", ..." } else { "" };
        self.wrong(format!(
            "has {than} values than the {} columns that are needed: {}{more}",
            columns.len(),
            first.join(", ")
        ))
    }
}

/// Reads all rows; the number of them.
pub(super) fn read(bytes: &[u8], columns: &Columns, each: Each<'_>) -> Result<usize> {
    let count = columns.names.len();
    let (cells, filled) = (vec![Cell::Missing; count], vec![false; count]);
    let mut rows = Rows { columns, each, number: 0, cells, filled };
    match form(bytes)? {
        Form::Json(bytes) => json::read(bytes, &mut rows)?,
        Form::Csv(bytes) => csv::read(bytes, &mut rows)?,
    }
    Ok(rows.number)
}

/// The names that the first row's cells have.
pub(super) fn names(bytes: &[u8]) -> Result<Vec<String>> {
    let names: Vec<String> = match form(bytes)? {
        Form::Json(bytes) => json::names(bytes)?,
        Form::Csv(bytes) => csv::names(bytes)?,
    };
    check_names(&names)?;
    Ok(names)
}

/// Names that a table may have.
pub(super) fn check_names(names: &[String]) -> Result<()> {
    if names.len() > limits::TABLE_COLUMNS {
        return Err(Error::TableTooLarge { bound: limits::TABLE_COLUMNS, what: "columns" });
    }
    let mut seen = std::collections::HashSet::new();
    for name in names {
        let problem = match name.len() {
            0 => "a column has no name".to_owned(),
            bytes if bytes > limits::LABEL => {
                format!("a column's name has {bytes} bytes; {} are possible", limits::LABEL)
            }
            _ if !seen.insert(name) => format!("two columns have the name {name:?}"),
            _ => continue,
        };
        return Err(Error::TableFormat(problem));
    }
    Ok(())
}

enum Form<'a> {
    Json(&'a [u8]),
    Csv(&'a [u8]),
}

fn form(bytes: &[u8]) -> Result<Form<'_>> {
    if bytes.len() > limits::TABLE {
        return Err(Error::TableTooLarge { bound: limits::TABLE, what: "bytes" });
    }
    // Windows programs put this mark before UTF-8.
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    match bytes.iter().find(|byte| !byte.is_ascii_whitespace()) {
        None => Err(Error::TableFormat("it is empty".to_owned())),
        Some(b'{' | b'[') => Ok(Form::Json(bytes)),
        Some(_) => Ok(Form::Csv(bytes)),
    }
}

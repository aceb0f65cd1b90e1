//! Rows of tables to tensors: JSON or CSV, numbers scaled, categories coded, dates taken apart.
//!
//! - [`TableEncoder`]: executes a [`TableInput`].
//! - [`Table`]: rows with names, as they were sent; [`fit()`] learns a [`TableInput`] from them.

mod cell;
mod csv;
mod date;
mod fit;
mod json;
mod read;

pub use cell::Cell;
pub use fit::{fit, fit_usable};

use crate::{Error, Result};
use cell::plain;
use date::Moment;
use flotilla_protocol::limits;
use flotilla_protocol::pipeline::table::{
    Category, Column, ColumnKind, Date, Encoding, MissingDate, PartForm, TableInput, Unknown,
};
use read::Columns;
use serde_json::json;
use std::collections::HashMap;
use std::f64::consts::TAU;

/// Turns rows into tensors. Made from a description whose bounds are checked once.
#[derive(Clone, Debug)]
pub struct TableEncoder {
    input: TableInput,
    width: usize,
    columns: Columns,
    /// Places of a category's texts, a column; nothing for other kinds.
    places: Vec<HashMap<Box<str>, usize>>,
}

/// Rows with the same named columns.
#[derive(Clone, Debug)]
pub struct Table {
    columns: Columns,
    rows: Vec<Box<[Cell]>>,
}

impl TableEncoder {
    /// The encoder that `input` describes.
    pub fn new(input: &TableInput) -> Result<Self> {
        input.check()?;
        let names = input.columns.iter().map(|column| column.name.clone()).collect();
        let places = input.columns.iter().map(|column| places(&column.kind)).collect();
        let columns = Columns::new(names, true);
        Ok(Self { input: input.clone(), width: input.width(), columns, places })
    }

    /// Shape of the tensor of one row.
    pub fn shape(&self) -> Vec<usize> {
        vec![1, self.width]
    }

    /// What it takes: rows for this input.
    pub fn input(&self) -> &TableInput {
        &self.input
    }

    /// The tensor of exactly one row: a JSON object or array, or CSV with or without a header.
    pub fn tensor(&self, bytes: &[u8]) -> Result<Vec<f32>> {
        let mut tensor = Vec::with_capacity(self.width);
        let got = read::read(bytes, &self.columns, &mut |row, cells| match row {
            1 => self.encode(row, cells.iter(), &mut tensor),
            got => Err(Error::TableRows { got }),
        })?;
        if got == 1 { Ok(tensor) } else { Err(Error::TableRows { got }) }
    }

    /// The tensors of rows: a JSON array of objects or arrays, one a line, or CSV with or without a header.
    pub fn rows(&self, bytes: &[u8]) -> Result<Vec<Vec<f32>>> {
        let mut tensors = Vec::new();
        read::read(bytes, &self.columns, &mut |row, cells| self.push(row, cells.iter(), &mut tensors))?;
        Ok(tensors)
    }

    /// The tensors of a table's rows. It must have every column; others are not looked at.
    pub fn table(&self, table: &Table) -> Result<Vec<Vec<f32>>> {
        let place = |name: &String| {
            let lacking = || Error::TableFormat(format!("it has no column {name:?}"));
            table.columns.place(name).ok_or_else(lacking)
        };
        let places = self.columns.names.iter().map(place).collect::<Result<Vec<_>>>()?;
        let mut tensors = Vec::with_capacity(table.rows.len());
        for (index, cells) in table.rows.iter().enumerate() {
            self.push(index + 1, places.iter().map(|place| &cells[*place]), &mut tensors)?;
        }
        Ok(tensors)
    }

    /// Exactly one row as a JSON object of the columns that are looked at, whatever form it came in.
    pub fn named(&self, bytes: &[u8]) -> Result<Vec<u8>> {
        let mut fields: Vec<String> = Vec::with_capacity(self.columns.names.len());
        let got = read::read(bytes, &self.columns, &mut |row, cells| match row {
            1 => {
                let named = self.columns.names.iter().zip(cells);
                fields.extend(named.map(|(name, cell)| format!("{}:{}", json!(name), cell.json())));
                Ok(())
            }
            got => Err(Error::TableRows { got }),
        })?;
        match got {
            1 => Ok(format!("{{{}}}", fields.join(",")).into_bytes()),
            got => Err(Error::TableRows { got }),
        }
    }

    fn push<'a>(
        &self,
        row: usize,
        cells: impl Iterator<Item = &'a Cell>,
        tensors: &mut Vec<Vec<f32>>,
    ) -> Result<()> {
        if (tensors.len() + 1) * self.width > limits::TABLE_VALUES {
            return Err(Error::TableTooLarge { bound: limits::TABLE_VALUES, what: "values of its tensors" });
        }
        let mut tensor = Vec::with_capacity(self.width);
        self.encode(row, cells, &mut tensor)?;
        tensors.push(tensor);
        Ok(())
    }

    /// Appends what becomes of one row.
    fn encode<'a>(
        &self,
        row: usize,
        cells: impl Iterator<Item = &'a Cell>,
        tensor: &mut Vec<f32>,
    ) -> Result<()> {
        for ((column, places), cell) in self.input.columns.iter().zip(&self.places).zip(cells) {
            let start = tensor.len();
            let encoded = encode(column, places, cell, tensor);
            let checked =
                encoded.and_then(|()| match tensor[start..].iter().all(|value| value.is_finite()) {
                    true => Ok(()),
                    false => Err(format!("{} is too large once it is scaled", cell.shown())),
                });
            checked.map_err(|problem| Error::TableCell { row, column: column.name.clone(), problem })?;
        }
        Ok(())
    }
}

impl Table {
    /// Rows with names: objects of JSON, or CSV with a header. All have the columns of the first.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        Self::read_named(bytes, read::names(bytes)?)
    }

    /// Rows with these columns, in any of the forms that [`TableEncoder::rows`] takes.
    pub fn read_named(bytes: &[u8], names: Vec<String>) -> Result<Self> {
        read::check_names(&names)?;
        let columns = Columns::new(names, false);
        let most = limits::TABLE_CELLS;
        let mut rows = Vec::new();
        read::read(bytes, &columns, &mut |_, cells| {
            if (rows.len() + 1) * cells.len() > most {
                return Err(Error::TableTooLarge { bound: most, what: "cells" });
            }
            rows.push(cells.into());
            Ok(())
        })?;
        Ok(Self { columns, rows })
    }

    /// Names of the columns.
    pub fn names(&self) -> &[String] {
        &self.columns.names
    }

    /// The rows, with cells in the order of the columns.
    pub fn rows(&self) -> &[Box<[Cell]>] {
        &self.rows
    }

    /// The cells of one column.
    pub fn column(&self, name: &str) -> Option<impl Iterator<Item = &Cell>> {
        let place = self.columns.place(name)?;
        Some(self.rows.iter().map(move |cells| &cells[place]))
    }
}

/// Places of a category's texts, and of the same numbers written otherwise.
fn places(kind: &ColumnKind) -> HashMap<Box<str>, usize> {
    let ColumnKind::Category(category) = kind else { return HashMap::new() };
    let values = || category.values.iter().enumerate();
    let mut places: HashMap<Box<str>, usize> =
        values().map(|(place, value)| (value.as_str().into(), place)).collect();
    for (place, value) in values() {
        if let Some(plain) = plain(value) {
            places.entry(plain.into()).or_insert(place);
        }
    }
    places
}

/// Appends what becomes of one cell; otherwise what is wrong with it.
fn encode(
    column: &Column,
    places: &HashMap<Box<str>, usize>,
    cell: &Cell,
    tensor: &mut Vec<f32>,
) -> Result<(), String> {
    let missing = || "it is missing, and the model has nothing to put in its place".to_owned();
    match &column.kind {
        ColumnKind::Number(number) => {
            let mut value = match cell.number() {
                Some(value) => value,
                None if cell.is_missing() => number.missing.ok_or_else(missing)?,
                None => return Err(format!("{} is no number", cell.shown())),
            };
            if let Some(clip) = number.clip {
                value = value.clamp(clip.low, clip.high);
            }
            tensor.push(number.scaling().apply(value) as f32);
            Ok(())
        }
        ColumnKind::Boolean(boolean) => {
            let truth = match cell.boolean() {
                Some(truth) => truth,
                None if cell.is_missing() => boolean.missing.ok_or_else(missing)?,
                None => return Err(format!("{} is neither true nor false", cell.shown())),
            };
            tensor.push(f32::from(u8::from(truth)));
            Ok(())
        }
        ColumnKind::Category(category) => encode_category(category, places, cell, tensor),
        ColumnKind::Date(date) if cell.is_missing() => match date.missing {
            MissingDate::Error => Err(missing()),
            MissingDate::Zeros => {
                tensor.resize(tensor.len() + column.kind.width(), 0.0);
                Ok(())
            }
        },
        ColumnKind::Date(date) => {
            encode_date(date, &Moment::of(cell)?, tensor);
            Ok(())
        }
    }
}

fn encode_category(
    category: &Category,
    places: &HashMap<Box<str>, usize>,
    cell: &Cell,
    tensor: &mut Vec<f32>,
) -> Result<(), String> {
    let text = cell.text();
    let known = places.get(&*text).or_else(|| places.get(plain(&text)?));
    let missing = || category.missing.as_deref().filter(|_| cell.is_missing());
    let known = known.or_else(|| places.get(missing()?));
    let place = match (known, category.unknown) {
        (Some(place), _) => Some(*place as i32),
        (None, Unknown::Zeros) => None,
        (None, Unknown::Index(index)) => Some(index),
        (None, Unknown::Error) if cell.is_missing() => {
            return Err("it is missing, and the model has nothing to put in its place".to_owned());
        }
        (None, Unknown::Error) => {
            let first: Vec<&str> = category.values.iter().take(8).map(String::as_str).collect();
            let more = if category.values.len() > first.len() { ", ..." } else { "" };
            return Err(format!("{} is none of {}{more}", cell.shown(), first.join(", ")));
        }
    };
    match category.encoding {
        Encoding::Ordinal => tensor.push(place.unwrap_or_default() as f32),
        Encoding::OneHot => {
            let width = category.width() as i32;
            tensor.extend((0..width).map(|at| f32::from(u8::from(Some(at) == place))));
        }
    }
    Ok(())
}

fn encode_date(date: &Date, moment: &Moment, tensor: &mut Vec<f32>) {
    for part in &date.parts {
        let value = moment.part(part.part);
        match (part.form, part.part.period()) {
            (PartForm::Number(scaling), _) => tensor.push(scaling.apply(value) as f32),
            (PartForm::Cycle, Some(period)) => {
                let (sine, cosine) = (TAU * value / period).sin_cos();
                tensor.extend([sine as f32, cosine as f32]);
            }
            // A checked input has none.
            (PartForm::Cycle, None) => tensor.extend([0.0; 2]),
        }
    }
}

//! A csv with one square grey picture a line: its pixels row by row, and the label.

use super::collector::{Collector, Place, Shape};
use super::grey_png;
use super::rows::{Row, Rows, sniff_delimiter};
use super::tree::read_up_to;
use super::{ImportOptions, tree};
use crate::error::{Error, Result};
use flotilla_protocol::limits;
use std::io::{BufReader, Read};

/// Bytes from which delimiter and header are guessed.
const SAMPLE: usize = 64 * limits::KIB;
/// Rows that are looked at to find out what a csv is.
pub(super) const ROWS: usize = 20;
/// Fewest pixels of a picture: 4 x 4.
const PIXELS_MIN: usize = 16;
/// Up to this value the pixels are taken for counts of 4x4 blocks, as in the digits of UCI.
const SMALL_SCALE: u16 = 16;
/// The scale of a byte.
const BYTE_SCALE: u16 = 255;

/// A csv that can be opened more than once.
pub(super) trait Csv {
    /// Its name in messages.
    fn name(&self) -> &str;
    /// Opens it at its start.
    fn open(&mut self) -> Result<Box<dyn Read + '_>>;
    /// What it comes from, for messages about bounds.
    fn source(&self) -> String {
        self.name().to_owned()
    }
}

/// Opens a csv and guesses its delimiter. Also returns the bytes it was guessed from.
pub(super) fn sample(csv: &mut dyn Csv) -> Result<(u8, Vec<u8>)> {
    let (name, source) = (csv.name().to_owned(), csv.source());
    let mut bytes = vec![0; SAMPLE];
    let mut reader = csv.open()?;
    let read = read_up_to(&mut *reader, &mut bytes).map_err(|e| tree::failed(&source, name.as_ref(), e))?;
    bytes.truncate(read);
    Ok((sniff_delimiter(&bytes), bytes))
}

/// The first rows of a sample.
pub(super) fn first_rows(delimiter: u8, sample: &[u8], count: usize) -> Vec<Vec<String>> {
    let mut rows = Rows::new(sample, delimiter);
    std::iter::from_fn(|| rows.next().ok().flatten()).filter_map(|row| row.fields.ok()).take(count).collect()
}

/// How a csv's columns are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Layout {
    header: bool,
    columns: usize,
    label: usize,
    side: u32,
}

impl Layout {
    /// What most of the first rows say; any of them may be broken. Why not: a csv that does not look like pictures.
    fn of(rows: &[Vec<String>], options: &ImportOptions) -> Result<Self, String> {
        let first = rows.first().map_or(&[][..], |row| &row[..]);
        let words = first.iter().filter(|field| field.parse::<u16>().is_err()).count();
        // One bad field makes no header: it makes a broken line, which is listed.
        let header = options.header.unwrap_or(words * 2 > first.len());
        let columns = usual_columns(rows);
        let pixels = columns.saturating_sub(1);
        let side = pixels.isqrt();
        if pixels < PIXELS_MIN || side * side != pixels {
            return Err(format!(
                "its lines have {columns} fields; a square picture and a label have n x n + 1 fields"
            ));
        }
        let named = |name: &str| first.iter().position(|field| field.eq_ignore_ascii_case(name));
        let label = match options.label_column.as_deref() {
            Some("last") => Some(pixels),
            Some("first") => Some(0),
            Some(name) if header => named(name),
            Some(_) => None,
            None if header => ["label", "class", "target"].into_iter().find_map(named).or(Some(pixels)),
            None => Some(pixels),
        };
        let label = label
            .ok_or("the option label_column names no column: give first, last, or a name of the header")?;
        Ok(Self { header, columns, label, side: side as u32 })
    }
}

/// The number of fields that most rows have; of equals, that of the earlier row.
fn usual_columns(rows: &[Vec<String>]) -> usize {
    let with = |columns: usize| rows.iter().filter(|row| row.len() == columns).count();
    rows.iter().rev().map(Vec::len).max_by_key(|columns| with(*columns)).unwrap_or(0)
}

/// Whether a csv looks like pictures: no header, or one that names pixels, and whole numbers in most of its rows.
pub(super) fn looks_like_pictures(rows: &[Vec<String>]) -> bool {
    let Ok(layout) = Layout::of(rows, &ImportOptions::default()) else { return false };
    let names_pixels = |first: &[String]| {
        first.iter().filter(|field| field.to_ascii_lowercase().starts_with("pixel")).count() + 1
            == first.len()
    };
    if layout.header && !rows.first().is_some_and(|first| names_pixels(first)) {
        return false;
    }
    let rest = &rows[usize::from(layout.header)..];
    let whole = |row: &&Vec<String>| {
        row.len() == layout.columns && row.iter().all(|field| field.parse::<u16>().is_ok())
    };
    rest.is_empty() || rest.iter().filter(whole).count() * 2 > rest.len()
}

/// Reads all pictures.
pub(super) fn read(csv: &mut dyn Csv, options: &ImportOptions, collector: &mut Collector) -> Result<()> {
    let name = csv.name().to_owned();
    let (delimiter, sample) = sample(csv)?;
    let layout = Layout::of(&first_rows(delimiter, &sample, ROWS), options)
        .map_err(|problem| Error::format(&name, problem))?;
    let scale = match options.pixel_max {
        Some(scale) => scale,
        None => guess_scale(csv, delimiter, layout)?,
    };
    let mut grey = Vec::new();
    each_row(csv, delimiter, |row| {
        if layout.header && row.line == 1 {
            return Ok(());
        }
        let at = Place { file: &name, line: Some(row.line) };
        match picture(row, layout, scale, &mut grey) {
            Err(reason) => collector.skip(at, reason),
            Ok(label) => match grey_png::encode(&grey, layout.side, layout.side) {
                Err(reason) => collector.skip(at, reason),
                Ok(png) => {
                    let shape = Shape { width: layout.side, height: layout.side, grey: true };
                    collector.picture(at, &png, shape, label, None)
                }
            },
        }
    })
}

/// The label, and the pixels in `grey`; or why the row is broken.
fn picture<'a>(row: &'a Row, layout: Layout, scale: u16, grey: &mut Vec<u8>) -> Result<&'a str, String> {
    let fields = row.fields.as_ref().map_err(Clone::clone)?;
    if fields.len() != layout.columns {
        return Err(format!("it has {} fields, {} are expected", fields.len(), layout.columns));
    }
    grey.clear();
    for (index, field) in fields.iter().enumerate().filter(|(index, _)| *index != layout.label) {
        let value: u16 = field
            .parse()
            .map_err(|_| format!("field {} is {field:?}, a whole number is expected", index + 1))?;
        if value > scale {
            return Err(format!("field {} is {value}, the largest possible value is {scale}", index + 1));
        }
        grey.push(((u32::from(value) * 255 + u32::from(scale) / 2) / u32::from(scale)) as u8);
    }
    let label = fields[layout.label].as_str();
    if label.is_empty() { Err("its label is empty".into()) } else { Ok(label) }
}

/// The largest value decides on the scale.
fn guess_scale(csv: &mut dyn Csv, delimiter: u8, layout: Layout) -> Result<u16> {
    let mut largest = 0;
    each_row(csv, delimiter, |row| {
        let fields = row.fields.as_deref().unwrap_or_default();
        if fields.len() == layout.columns {
            let pixels = fields.iter().enumerate().filter(|(index, _)| *index != layout.label);
            // What is no pixel value at all belongs to a broken line, which says nothing about the scale.
            let values = pixels.filter_map(|(_, field)| field.parse().ok()).filter(|&v| v <= BYTE_SCALE);
            largest = values.max().unwrap_or(0).max(largest);
        }
        Ok(())
    })?;
    Ok(if largest <= SMALL_SCALE { SMALL_SCALE } else { BYTE_SCALE })
}

/// Passes every row, broken ones too.
pub(super) fn each_row(
    csv: &mut dyn Csv,
    delimiter: u8,
    mut take: impl FnMut(&Row) -> Result<()>,
) -> Result<()> {
    let (name, source) = (csv.name().to_owned(), csv.source());
    let mut rows = Rows::new(BufReader::with_capacity(SAMPLE, csv.open()?), delimiter);
    while let Some(row) = rows.next().map_err(|e| tree::failed(&source, name.as_ref(), e))? {
        take(&row)?;
    }
    Ok(())
}

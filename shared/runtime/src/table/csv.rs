//! Rows of CSV, with or without a header, into a buffer of fixed size.

use super::cell::{Cell, shown};
use super::read::Rows;
use crate::{Error, Result};
use csv_core::ReadRecordResult;
use flotilla_protocol::limits;

/// The records of a file.
struct Records<'a> {
    rest: &'a [u8],
    reader: csv_core::Reader,
    text: Vec<u8>,
    ends: Vec<usize>,
    /// Cells of the record at hand.
    count: usize,
}

impl<'a> Records<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        let (text, ends) = (vec![0; limits::TABLE_ROW], vec![0; limits::TABLE_COLUMNS]);
        Self { rest: bytes, reader: csv_core::Reader::new(), text, ends, count: 0 }
    }

    /// Goes to the next record; false at the end.
    fn next(&mut self) -> Result<bool> {
        let (mut length, mut count) = (0, 0);
        loop {
            let (text, ends) = (&mut self.text[length..], &mut self.ends[count..]);
            let (result, read, written, ended) = self.reader.read_record(self.rest, text, ends);
            self.rest = &self.rest[read..];
            (length, count) = (length + written, count + ended);
            let (bound, what) = match result {
                ReadRecordResult::InputEmpty => continue,
                ReadRecordResult::Record => {
                    self.count = count;
                    return Ok(true);
                }
                ReadRecordResult::End => return Ok(false),
                ReadRecordResult::OutputFull => (limits::TABLE_ROW, "bytes in a row"),
                ReadRecordResult::OutputEndsFull => (limits::TABLE_COLUMNS, "columns"),
            };
            return Err(Error::TableTooLarge { bound, what });
        }
    }

    /// The text of a cell of the record at hand; none if it is not UTF-8.
    fn text(&self, index: usize) -> Option<&str> {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        std::str::from_utf8(&self.text[start..self.ends[index]]).ok().map(str::trim)
    }
}

pub(super) fn read(bytes: &[u8], rows: &mut Rows<'_>) -> Result<()> {
    let mut records = Records::new(bytes);
    let mut header: Option<Vec<Option<usize>>> = None;
    let mut first = true;
    while records.next()? {
        if std::mem::take(&mut first) && is_header(&records, rows) {
            header = Some(places(&records, rows)?);
            continue;
        }
        rows.start()?;
        if let Some(header) = &header
            && header.len() != records.count
        {
            let problem = format!("has {} values, but the header {}", records.count, header.len());
            return Err(rows.wrong(problem));
        }
        for index in 0..records.count {
            let place = match &header {
                Some(header) => header[index],
                None => Some(index),
            };
            let Some(place) = place else { continue };
            let cell = match records.text(index) {
                Some(text) if text.len() <= limits::TABLE_CELL => Cell::of_text(text),
                problem => {
                    if place >= rows.columns.names.len() {
                        return Err(rows.wrong_count("more"));
                    }
                    let problem = match problem {
                        Some(text) => format!("{} bytes; {} are possible", text.len(), limits::TABLE_CELL),
                        None => "its text is not UTF-8".to_owned(),
                    };
                    return Err(rows.wrong_cell(place, problem));
                }
            };
            rows.fill_next(place, cell)?;
        }
        rows.finish(header.is_none().then_some(records.count))?;
    }
    Ok(())
}

/// A first record is a header if it has all names, or one that can be no number: another is lacking then.
fn is_header(records: &Records<'_>, rows: &Rows<'_>) -> bool {
    let mut found = 0;
    for text in (0..records.count).filter_map(|index| records.text(index)) {
        if rows.columns.place(text).is_some() {
            if text.parse::<f64>().is_err() {
                return true;
            }
            found += 1;
        }
    }
    found >= rows.columns.names.len()
}

/// Which column the cells of a record are, by its header.
fn places(records: &Records<'_>, rows: &Rows<'_>) -> Result<Vec<Option<usize>>> {
    let names = &rows.columns.names;
    let mut filled = vec![false; names.len()];
    let mut places = Vec::with_capacity(records.count);
    for index in 0..records.count {
        // Names that are not UTF-8 are none of ours.
        let place = rows.columns.place(records.text(index).unwrap_or_default());
        if let Some(place) = place
            && std::mem::replace(&mut filled[place], true)
        {
            return Err(Error::TableFormat(format!("its header has {} twice", shown(&names[place]))));
        }
        places.push(place);
    }
    match filled.iter().position(|filled| !filled) {
        None => Ok(places),
        Some(place) => Err(Error::TableFormat(format!("its header has no column {}", shown(&names[place])))),
    }
}

/// The header's names. A number among them says that there is no header.
pub(super) fn names(bytes: &[u8]) -> Result<Vec<String>> {
    let mut records = Records::new(bytes);
    if !records.next()? {
        return Err(Error::TableFormat("it has no rows".to_owned()));
    }
    let name = |index| {
        let text = records.text(index).unwrap_or_default();
        match text.parse::<f64>() {
            Err(_) if !text.is_empty() => Ok(text.to_owned()),
            _ => Err(Error::TableFormat(format!(
                "its first line is no header, because {} is no name; name the columns",
                shown(text)
            ))),
        }
    };
    (0..records.count).map(name).collect()
}

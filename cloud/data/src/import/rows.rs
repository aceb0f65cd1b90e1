//! The rows of a csv, one by one, each with its line; a broken one is told and the next one is read.
//!
//! Lines are joined to rows by quotes. Where a quote is never closed, its line alone is broken: the lines behind
//! it are read again as rows of their own.

use crate::bounds::{ROW_BYTES, ROW_LINES};
use std::collections::VecDeque;
use std::io::{self, BufRead};

/// What separates fields, in the order in which they are tried.
const DELIMITERS: [u8; 4] = [b',', b';', b'\t', b'|'];
/// The mark that some programs put at the start of a UTF-8 file.
const BOM: &[u8] = b"\xef\xbb\xbf";

/// One row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    /// The line on which it begins, from 1.
    pub(super) line: u64,
    /// Its fields, or why it has none.
    pub(super) fields: Result<Vec<String>, String>,
}

/// Reads rows.
pub(super) struct Rows<R> {
    reader: R,
    delimiter: u8,
    /// Lines that were read and not used.
    ahead: VecDeque<Line>,
    next_line: u64,
}

#[derive(Debug)]
struct Line {
    number: u64,
    /// Without its end; cut off when over the bound.
    bytes: Vec<u8>,
    over_bound: bool,
}

impl<R: BufRead> Rows<R> {
    pub(super) fn new(reader: R, delimiter: u8) -> Self {
        Self { reader, delimiter, ahead: VecDeque::new(), next_line: 1 }
    }

    /// The next row that is not empty.
    pub(super) fn next(&mut self) -> io::Result<Option<Row>> {
        loop {
            let Some(first) = self.line()? else { return Ok(None) };
            if !first.bytes.iter().all(u8::is_ascii_whitespace) || first.over_bound {
                return self.row(first).map(Some);
            }
        }
    }

    fn row(&mut self, first: Line) -> io::Result<Row> {
        let line = first.number;
        let broken = |reason: &str| Ok(Row { line, fields: Err(reason.to_owned()) });
        if first.over_bound {
            return broken(&format!("the line has more than {ROW_BYTES} bytes"));
        }
        let mut quotes = Quotes::new(self.delimiter);
        quotes.feed(&first.bytes);
        let mut row = first.bytes;
        let mut more: VecDeque<Line> = VecDeque::new();
        while quotes.open {
            let next = if more.len() + 1 < ROW_LINES { self.line()? } else { None };
            match next {
                Some(next) if !next.over_bound && row.len() + next.bytes.len() < ROW_BYTES => {
                    row.push(b'\n');
                    quotes.feed(b"\n");
                    row.extend_from_slice(&next.bytes);
                    quotes.feed(&next.bytes);
                    more.push_back(next);
                }
                next => {
                    more.extend(next);
                    more.append(&mut self.ahead);
                    self.ahead = more;
                    return broken("a quote is not closed");
                }
            }
        }
        Ok(Row { line, fields: fields(&row, self.delimiter) })
    }

    /// The next line, in bounded memory.
    fn line(&mut self) -> io::Result<Option<Line>> {
        if let Some(line) = self.ahead.pop_front() {
            return Ok(Some(line));
        }
        let mut line = Line { number: self.next_line, bytes: Vec::new(), over_bound: false };
        let mut any = false;
        loop {
            let piece = match self.reader.fill_buf() {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                piece => piece?,
            };
            if piece.is_empty() {
                break;
            }
            any = true;
            let end = piece.iter().position(|&b| b == b'\n');
            let text = &piece[..end.unwrap_or(piece.len())];
            let room = ROW_BYTES - line.bytes.len();
            line.over_bound |= text.len() > room;
            line.bytes.extend_from_slice(&text[..text.len().min(room)]);
            let used = end.map_or(piece.len(), |end| end + 1);
            self.reader.consume(used);
            if end.is_some() {
                break;
            }
        }
        if !any {
            return Ok(None);
        }
        if line.bytes.last() == Some(&b'\r') {
            line.bytes.pop();
        }
        if line.number == 1 && line.bytes.starts_with(BOM) {
            line.bytes.drain(..BOM.len());
        }
        self.next_line += 1;
        Ok(Some(line))
    }
}

/// Whether a text so far ends within quotes.
struct Quotes {
    delimiter: u8,
    open: bool,
    field_start: bool,
}

impl Quotes {
    fn new(delimiter: u8) -> Self {
        Self { delimiter, open: false, field_start: true }
    }

    /// A quote opens at the start of a field only; a doubled one closes and opens again.
    fn feed(&mut self, text: &[u8]) {
        for &byte in text {
            if self.open {
                if byte == b'"' {
                    self.open = false;
                    self.field_start = true;
                }
            } else if byte == b'"' && self.field_start {
                self.open = true;
            } else {
                self.field_start = byte == self.delimiter;
            }
        }
    }
}

/// The fields of a complete row.
fn fields(row: &[u8], delimiter: u8) -> Result<Vec<String>, String> {
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .delimiter(delimiter)
        .buffer_capacity(row.len() + 2)
        .from_reader(row);
    let mut record = csv::StringRecord::new();
    match reader.read_record(&mut record) {
        Ok(true) => Ok(record.iter().map(|field| field.trim().to_owned()).collect()),
        Ok(false) => Ok(Vec::new()),
        Err(e) if matches!(e.kind(), csv::ErrorKind::Utf8 { .. }) => Err("it is not UTF-8".into()),
        Err(e) => Err(e.to_string()),
    }
}

/// The delimiter that cuts the first lines into the most fields, the same number in each.
pub(super) fn sniff_delimiter(sample: &[u8]) -> u8 {
    let score = |delimiter: u8| {
        let mut rows = Rows::new(sample, delimiter);
        let mut counts = Vec::new();
        while let Ok(Some(row)) = rows.next() {
            counts.extend(row.fields.ok().map(|fields| fields.len()));
        }
        // The last line may be cut off by the sample's end.
        if counts.len() > 2 {
            counts.pop();
        }
        let most = counts.iter().copied().max().unwrap_or(0);
        let agreeing = counts.iter().filter(|&&count| count == most).count();
        if most < 2 { (0, 0) } else { (agreeing * 100 / counts.len().max(1), most) }
    };
    let best = DELIMITERS.into_iter().rev().max_by_key(|&delimiter| score(delimiter));
    best.unwrap_or(b',')
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;

    fn rows(text: &[u8]) -> Vec<Row> {
        let mut rows = Rows::new(text, sniff_delimiter(text));
        std::iter::from_fn(|| rows.next().unwrap()).collect()
    }

    fn fields(text: &[u8]) -> Vec<(u64, Vec<String>)> {
        rows(text).into_iter().map(|row| (row.line, row.fields.unwrap())).collect()
    }

    fn row(line: u64, fields: &[&str]) -> (u64, Vec<String>) {
        (line, fields.iter().map(|f| (*f).to_owned()).collect())
    }

    #[test]
    fn common_dialects_are_read() {
        assert_eq!(fields(b"a,b\n1, 2 \n"), [row(1, &["a", "b"]), row(2, &["1", "2"])]);
        assert_eq!(fields(b"\xef\xbb\xbfa;b\r\n\r\n1;2,5"), [row(1, &["a", "b"]), row(3, &["1", "2,5"])]);
        assert_eq!(fields(b"a\tb\n\"x\ty\"\t2\n"), [row(1, &["a", "b"]), row(2, &["x\ty", "2"])]);
    }

    #[test]
    fn quotes_hold_delimiters_line_ends_and_quotes() {
        let found = fields(b"a,b\n\"x\ny, \"\"z\"\"\",2\n5\" disk,3\n");
        assert_eq!(found, [row(1, &["a", "b"]), row(2, &["x\ny, \"z\"", "2"]), row(4, &["5\" disk", "3"])]);
    }

    #[test]
    fn an_open_quote_breaks_its_own_line_only() {
        let found = rows(b"a,b\n1,\"open\n2,3\n4,5\n");
        assert_eq!(
            found.iter().map(|r| (r.line, r.fields.is_ok())).collect::<Vec<_>>(),
            [(1, true), (2, false), (3, true), (4, true)]
        );
        assert_eq!(found[3].fields.as_ref().unwrap(), &["4", "5"]);
    }

    #[test]
    fn a_line_over_the_bound_and_one_that_is_not_text_break_alone() {
        let long = [&b"a,b\n"[..], &vec![b'x'; ROW_BYTES + 1], b"\n\xff,1\n1,2\n"].concat();
        let found = rows(&long);
        assert_eq!(found.iter().map(|r| r.fields.is_ok()).collect::<Vec<_>>(), [true, false, false, true]);
        assert!(found[1].fields.as_ref().unwrap_err().contains("262144"));
        assert!(found[2].fields.as_ref().unwrap_err().contains("UTF-8"));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_to_their_end(text in proptest::collection::vec(
            proptest::prelude::prop_oneof![
                proptest::prelude::Just(b'"'), proptest::prelude::Just(b'\n'),
                proptest::prelude::Just(b','), proptest::prelude::any::<u8>()], 0..300)) {
            let lines = text.split(|&b| b == b'\n').count() as u64;
            let mut last = 0;
            for row in rows(&text) {
                proptest::prop_assert!(row.line > last && row.line <= lines);
                last = row.line;
            }
        }
    }
}

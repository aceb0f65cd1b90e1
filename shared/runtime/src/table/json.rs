//! Rows of JSON as they are parsed: an object or an array is a row, an array of these and one behind the other are
//! rows. What is not needed is never kept.

use super::cell::Cell;
use super::read::Rows;
use crate::{Error, Result};
use flotilla_protocol::limits;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;

pub(super) fn read(bytes: &[u8], rows: &mut Rows<'_>) -> Result<()> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    while reader.end().is_err() {
        let mut refused = None;
        let value = Value { rows: &mut *rows, refused: &mut refused, within: false };
        match (value.deserialize(&mut reader), refused) {
            (_, Some(error)) => return Err(error),
            (Err(error), None) => return Err(Error::TableFormat(error.to_string())),
            (Ok(Item::Row), None) => {}
            (Ok(Item::Cell(_)), None) => return Err(no_row()),
        }
    }
    Ok(())
}

fn no_row() -> Error {
    Error::TableFormat("a row is an object or an array".to_owned())
}

/// A value where a row may be: at the top, or within an array there.
struct Value<'a, 'b> {
    rows: &'a mut Rows<'b>,
    /// What was wrong with a row: the parser's own errors say only what was wrong with JSON.
    refused: &'a mut Option<Error>,
    within: bool,
}

/// What a value was.
enum Item {
    /// One row or several, handed on.
    Row,
    Cell(Cell),
}

impl Value<'_, '_> {
    fn refuse<T, E: serde::de::Error>(&mut self, result: Result<T>) -> Result<T, E> {
        result.map_err(|error| {
            *self.refused = Some(error);
            E::custom("the row is refused")
        })
    }
}

impl<'de> DeserializeSeed<'de> for Value<'_, '_> {
    type Value = Item;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Item, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value<'_, '_> {
    type Value = Item;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a row")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Item, A::Error> {
        let started = self.rows.start();
        self.refuse(started)?;
        while let Some(name) = map.next_key_seed(Key(&*self.rows))? {
            match self.refuse(name)? {
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
                Some(place) => {
                    let cell = map.next_value_seed(OneCell)?;
                    let cell = cell.map_err(|problem| self.rows.wrong_cell(place, problem));
                    let filled = cell.and_then(|cell| self.rows.fill(place, cell));
                    self.refuse(filled)?;
                }
            }
        }
        let finished = self.rows.finish(None);
        self.refuse(finished)?;
        Ok(Item::Row)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<Item, A::Error> {
        let mut count = 0;
        if self.within {
            let started = self.rows.start();
            self.refuse(started)?;
            while let Some(cell) = seq.next_element_seed(OneCell)? {
                self.cell(count, cell)?;
                count += 1;
            }
        } else {
            // The first value says whether this is a row or an array of rows.
            let mut rows = false;
            loop {
                if rows || count == 0 {
                    let value = Value { rows: &mut *self.rows, refused: &mut *self.refused, within: true };
                    match seq.next_element_seed(value)? {
                        None => break,
                        Some(Item::Row) => rows = true,
                        Some(Item::Cell(_)) if rows => return self.refuse(Err(no_row())),
                        Some(Item::Cell(cell)) => {
                            let started = self.rows.start();
                            self.refuse(started)?;
                            self.cell(0, Ok(cell))?;
                        }
                    }
                } else if let Some(cell) = seq.next_element_seed(OneCell)? {
                    self.cell(count, cell)?;
                } else {
                    break;
                }
                count += 1;
            }
            if rows || count == 0 {
                return Ok(Item::Row);
            }
        }
        let finished = self.rows.finish(Some(count));
        self.refuse(finished)?;
        Ok(Item::Row)
    }

    fn visit_unit<E>(self) -> Result<Item, E> {
        Ok(Item::Cell(Cell::Missing))
    }

    fn visit_bool<E>(self, truth: bool) -> Result<Item, E> {
        Ok(Item::Cell(Cell::Boolean(truth)))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Item, E> {
        Ok(Item::Cell(Cell::Number(number as f64)))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Item, E> {
        Ok(Item::Cell(Cell::Number(number as f64)))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Item, E> {
        Ok(Item::Cell(Cell::Number(number)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Item, E> {
        Ok(Item::Cell(Cell::of_text(text)))
    }
}

impl Value<'_, '_> {
    /// The next cell of a row without names.
    fn cell<E: serde::de::Error>(&mut self, place: usize, cell: Result<Cell, String>) -> Result<(), E> {
        let filled = match cell {
            Ok(cell) => self.rows.fill_next(place, cell),
            Err(_) if place >= self.rows.columns.names.len() => Err(self.rows.wrong_count("more")),
            Err(problem) => Err(self.rows.wrong_cell(place, problem)),
        };
        self.refuse(filled)
    }
}

/// The name of a cell: the place of its column, if it is needed.
struct Key<'a, 'b>(&'a Rows<'b>);

impl<'de> DeserializeSeed<'de> for Key<'_, '_> {
    type Value = Result<Option<usize>>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key<'_, '_> {
    type Value = Result<Option<usize>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.place(name))
    }
}

/// A cell within a row; otherwise what is wrong with it.
struct OneCell;

impl<'de> DeserializeSeed<'de> for OneCell {
    type Value = Result<Cell, String>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for OneCell {
    type Value = Result<Cell, String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Ok(Cell::Missing))
    }

    fn visit_bool<E>(self, truth: bool) -> Result<Self::Value, E> {
        Ok(Ok(Cell::Boolean(truth)))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
        Ok(Ok(Cell::Number(number as f64)))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Self::Value, E> {
        Ok(Ok(Cell::Number(number as f64)))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Self::Value, E> {
        Ok(Ok(Cell::Number(number)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Ok(Cell::of_text(text)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Err("an object; a number, a text, true, false or null is needed".to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Err("an array; a number, a text, true, false or null is needed".to_owned()))
    }
}

/// The names of the first row's cells.
pub(super) fn names(bytes: &[u8]) -> Result<Vec<String>> {
    let mut names = None;
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let parsed = reader.deserialize_any(Names(&mut names));
    match (names, parsed) {
        (Some(names), _) => Ok(names),
        (None, Err(error)) if error.is_syntax() || error.is_eof() => {
            Err(Error::TableFormat(error.to_string()))
        }
        (None, _) => Err(Error::TableFormat("its rows are no objects; name the columns".to_owned())),
    }
}

struct Names<'a>(&'a mut Option<Vec<String>>);

impl<'de> DeserializeSeed<'de> for Names<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Names<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut names = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if names.len() >= limits::TABLE_COLUMNS {
                return Err(A::Error::custom(format!("a row has {} columns or more", limits::TABLE_COLUMNS)));
            }
            map.next_value::<IgnoredAny>()?;
            names.push(name.trim().to_owned());
        }
        *self.0 = Some(names);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        seq.next_element_seed(Names(self.0))?;
        // The rest is read later.
        Err(A::Error::custom("no object"))
    }
}

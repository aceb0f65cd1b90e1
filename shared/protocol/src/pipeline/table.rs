//! How a row of a table becomes a tensor: what each column is, and how its values become numbers.
//!
//! Scaling, one-hot and ordinal codes are those of scikit-learn's `StandardScaler`, `OneHotEncoder` and
//! `OrdinalEncoder`.

use super::InvalidPipeline;
use crate::limits;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;

/// A row to a tensor `[1, width]` (f32): the columns' values beside each other, in the order of the columns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TableInput {
    /// The columns. Others that a row has are not looked at, where they have names.
    pub columns: Vec<Column>,
}

/// One column.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Column {
    /// Its name, the key of JSON objects and the text in a CSV file's header.
    pub name: String,
    /// What its values are, and what becomes of them.
    pub kind: ColumnKind,
}

/// What a column's values are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnKind {
    /// A quantity; one value.
    Number(Number),
    /// One of several texts; one value, or one a text.
    Category(Category),
    /// True or false, yes or no, 1 or 0; one value, 1 or 0.
    Boolean(Boolean),
    /// A date, with or without a time of day; the values of its parts beside each other.
    Date(Date),
}

/// A quantity: `value = (number - mean) / std`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Number {
    /// The number that a missing one counts as; without it a missing one is an error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<f64>,
    /// Numbers beyond are brought to these bounds, before they are scaled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip: Option<Bounds>,
    /// What becomes 0.
    pub mean: f64,
    /// What becomes 1 above the mean; never zero.
    pub std: f64,
}

/// `(number - mean) / std`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scaling {
    /// What becomes 0.
    pub mean: f64,
    /// What becomes 1 above the mean; never zero.
    pub std: f64,
}

/// A lowest and a highest number.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bounds {
    /// The lowest.
    pub low: f64,
    /// The highest.
    pub high: f64,
}

/// One of several texts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Category {
    /// The texts, in the order of their codes.
    pub values: Vec<String>,
    /// What becomes of them.
    pub encoding: Encoding,
    /// What becomes of other texts.
    pub unknown: Unknown,
    /// The text that a missing one counts as, one of `values`; without it a missing one is an unknown one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
}

/// What becomes of a category.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// One value a text: 1 at the place of this one, 0 at the others.
    OneHot,
    /// One value: the place of this one, from 0.
    Ordinal,
}

/// What becomes of a text that the category does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unknown {
    /// It is an error.
    Error,
    /// No place has a 1; only with one-hot codes.
    Zeros,
    /// It has this place. With one-hot codes the one behind the last text's is possible too, which makes the code
    /// longer by one; with ordinal codes any is, -1 mostly.
    Index(i32),
}

/// True or false.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boolean {
    /// What a missing one counts as; without it a missing one is an error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<bool>,
}

/// A date: ISO 8601 (`2024-05-01`, `2024-05-01T13:45:00+02:00`), or seconds since 1970 in UTC.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Date {
    /// What is taken of it.
    pub parts: Vec<DatePart>,
    /// What becomes of a missing one.
    pub missing: MissingDate,
}

/// What becomes of a missing date.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MissingDate {
    /// It is an error.
    Error,
    /// All its values are 0.
    Zeros,
}

/// A part of a date and what becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct DatePart {
    /// The part.
    pub part: Part,
    /// What becomes of it.
    pub form: PartForm,
}

/// A part of a date. All but `UnixSeconds` are read as written, whatever offset from UTC stands behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// The year.
    Year,
    /// 1 to 12.
    Month,
    /// 1 to 31.
    Day,
    /// 0 for Monday to 6 for Sunday.
    Weekday,
    /// 0 to 23.
    Hour,
    /// 1 to 366.
    DayOfYear,
    /// Seconds since 1970 in UTC; a date without an offset is taken to be in UTC.
    UnixSeconds,
}

/// What becomes of a part of a date.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PartForm {
    /// One value.
    Number(Scaling),
    /// Two values, `sin(2 pi part / period)` and the cosine; not of years and seconds, which do not come back.
    Cycle,
}

impl TableInput {
    /// Checks every bound; executing a checked input cannot divide by zero or allocate without bound.
    pub fn check(&self) -> Result<(), InvalidPipeline> {
        let count = self.columns.len();
        if count == 0 || count > limits::TABLE_COLUMNS {
            return fail(
                "table.columns",
                format!("{count} columns; 1 to {} are possible", limits::TABLE_COLUMNS),
            );
        }
        let mut names = HashSet::new();
        for column in &self.columns {
            check_text("table.columns.name", &column.name)?;
            if !names.insert(&column.name) {
                return fail("table.columns.name", format!("{:?} is there twice", column.name));
            }
            column.check()?;
        }
        let width = self.width();
        if width > limits::TABLE_WIDTH {
            return fail(
                "table.columns",
                format!("{width} values of a row; {} are possible", limits::TABLE_WIDTH),
            );
        }
        Ok(())
    }

    /// Values of one row's tensor.
    pub fn width(&self) -> usize {
        self.columns.iter().map(|column| column.kind.width()).sum()
    }
}

impl Column {
    fn check(&self) -> Result<(), InvalidPipeline> {
        match &self.kind {
            ColumnKind::Number(number) => self.check_number(number),
            ColumnKind::Category(category) => self.check_category(category),
            ColumnKind::Boolean(_) => Ok(()),
            ColumnKind::Date(date) => self.check_date(date),
        }
    }

    fn check_number(&self, number: &Number) -> Result<(), InvalidPipeline> {
        self.check_scaling(number.scaling())?;
        if number.missing.is_some_and(|missing| !missing.is_finite()) {
            return self.fail("table.number.missing", "a finite number is needed");
        }
        if let Some(Bounds { low, high }) = number.clip
            && !(low.is_finite() && high.is_finite() && low <= high)
        {
            return self.fail("table.number.clip", "finite numbers are needed, the lower one first");
        }
        Ok(())
    }

    fn check_scaling(&self, Scaling { mean, std }: Scaling) -> Result<(), InvalidPipeline> {
        if !mean.is_finite() {
            return self.fail("table.mean", "a finite number is needed");
        }
        if !std.is_normal() {
            return self.fail("table.std", "a finite number other than zero is needed");
        }
        Ok(())
    }

    fn check_category(&self, category: &Category) -> Result<(), InvalidPipeline> {
        let count = category.values.len();
        let most = limits::TABLE_CATEGORIES;
        if count == 0 || count > most {
            return self.fail("table.category.values", format!("{count} values; 1 to {most} are possible"));
        }
        let mut seen = HashSet::new();
        for value in &category.values {
            check_text("table.category.values", value)?;
            if !seen.insert(value) {
                return self.fail("table.category.values", format!("{value:?} is there twice"));
            }
        }
        if category.missing.as_ref().is_some_and(|missing| !seen.contains(missing)) {
            return self.fail("table.category.missing", "it is none of the values");
        }
        match (category.encoding, category.unknown) {
            (_, Unknown::Error) | (Encoding::OneHot, Unknown::Zeros) => Ok(()),
            (Encoding::Ordinal, Unknown::Zeros) => self
                .fail("table.category.unknown", "0 is the first value's place; choose an index, such as -1"),
            (Encoding::OneHot, Unknown::Index(index)) => {
                if usize::try_from(index).is_ok_and(|index| index <= count) {
                    return Ok(());
                }
                self.fail("table.category.unknown", format!("index {index}; 0 to {count} are possible"))
            }
            // What floats of 32 bits hold exactly.
            (Encoding::Ordinal, Unknown::Index(index)) => {
                if index.unsigned_abs() <= 1 << f32::MANTISSA_DIGITS {
                    return Ok(());
                }
                self.fail("table.category.unknown", format!("index {index} is too large"))
            }
        }
    }

    fn check_date(&self, date: &Date) -> Result<(), InvalidPipeline> {
        // Every part in both forms.
        let most = 14;
        let count = date.parts.len();
        if count == 0 || count > most {
            return self.fail("table.date.parts", format!("{count} parts; 1 to {most} are possible"));
        }
        for DatePart { part, form } in &date.parts {
            match form {
                PartForm::Number(scaling) => self.check_scaling(*scaling)?,
                PartForm::Cycle if part.period().is_none() => {
                    return self.fail("table.date.parts", format!("{part:?} does not come back"));
                }
                PartForm::Cycle => {}
            }
        }
        Ok(())
    }

    fn fail<T>(&self, field: &'static str, problem: impl Into<String>) -> Result<T, InvalidPipeline> {
        fail(field, format!("column {:?}: {}", self.name, problem.into()))
    }
}

impl ColumnKind {
    /// Values that it gives.
    pub fn width(&self) -> usize {
        match self {
            ColumnKind::Number(_) | ColumnKind::Boolean(_) => 1,
            ColumnKind::Category(category) => category.width(),
            ColumnKind::Date(date) => date.parts.iter().map(|part| part.form.width()).sum(),
        }
    }
}

impl Category {
    /// Values that it gives.
    pub fn width(&self) -> usize {
        let count = self.values.len();
        match (self.encoding, self.unknown) {
            (Encoding::Ordinal, _) => 1,
            (Encoding::OneHot, Unknown::Index(index)) if usize::try_from(index) == Ok(count) => count + 1,
            (Encoding::OneHot, _) => count,
        }
    }
}

impl Part {
    /// After how much it comes back.
    pub fn period(self) -> Option<f64> {
        match self {
            Part::Year | Part::UnixSeconds => None,
            Part::Month => Some(12.0),
            Part::Day => Some(31.0),
            Part::Weekday => Some(7.0),
            Part::Hour => Some(24.0),
            Part::DayOfYear => Some(365.25),
        }
    }
}

impl PartForm {
    /// Values that it gives.
    pub fn width(self) -> usize {
        match self {
            PartForm::Number(_) => 1,
            PartForm::Cycle => 2,
        }
    }
}

impl Number {
    /// How it is scaled.
    pub fn scaling(&self) -> Scaling {
        Scaling { mean: self.mean, std: self.std }
    }
}

impl Scaling {
    /// The scaled number.
    pub fn apply(self, number: f64) -> f64 {
        (number - self.mean) / self.std
    }
}

fn fail<T>(field: &'static str, problem: String) -> Result<T, InvalidPipeline> {
    Err(InvalidPipeline { field, problem })
}

/// Cells are trimmed before they are compared, so these must be.
fn check_text(field: &'static str, text: &str) -> Result<(), InvalidPipeline> {
    let most = limits::LABEL;
    if text.is_empty() || text.len() > most {
        return fail(field, format!("a text has {} bytes; 1 to {most} are possible", text.len()));
    }
    if text.trim() != text {
        return fail(field, format!("{text:?} starts or ends with a space"));
    }
    Ok(())
}

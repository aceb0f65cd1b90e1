//! What a table's columns are, guessed, and what must be learnt of their values: means, deviations, categories.

use super::Table;
use super::cell::Cell;
use super::date::Moment;
use crate::{Error, Result};
use flotilla_protocol::limits;
use flotilla_protocol::pipeline::table::{
    Boolean, Category, Column, ColumnKind, Date, DatePart, Encoding, MissingDate, Number, Part, PartForm,
    Scaling, TableInput, Unknown,
};
use std::collections::BTreeSet;

/// Rows from which on a category that never repeats itself is a name or a number of the row.
const ROWS_OF_NAMES: usize = 20;

/// Learns an input from rows, of all columns but those left out (the label, names of rows). Numbers are scaled to
/// mean 0 and deviation 1; categories become one-hot codes in the order of their texts; dates become their year, the
/// cycles of their month and weekday and of their hour if they have any, and seconds. What was missing here may be
/// missing later: numbers count as the mean, categories and dates as zeros.
pub fn fit(table: &Table, leave_out: &[&str]) -> Result<TableInput> {
    let (input, unusable) = learn(table, leave_out)?;
    match unusable.into_iter().next() {
        Some((column, problem)) => Err(Error::TableColumn { column, problem }),
        None => finished(input),
    }
}

/// The same, but columns of which nothing can be learnt are left out, too: their names, and why.
pub fn fit_usable(table: &Table, leave_out: &[&str]) -> Result<(TableInput, Vec<(String, String)>)> {
    let (input, unusable) = learn(table, leave_out)?;
    match unusable.first() {
        Some((column, problem)) if input.columns.is_empty() => {
            Err(Error::TableColumn { column: column.clone(), problem: problem.clone() })
        }
        _ => Ok((finished(input)?, unusable)),
    }
}

fn finished(input: TableInput) -> Result<TableInput> {
    input.check()?;
    Ok(input)
}

/// What is learnt of each column, and of which nothing can be.
fn learn(table: &Table, leave_out: &[&str]) -> Result<(TableInput, Vec<(String, String)>)> {
    if let Some(name) = leave_out.iter().find(|name| table.columns.place(name).is_none()) {
        return Err(Error::TableFormat(format!("it has no column {name:?} to leave out")));
    }
    if table.rows.is_empty() {
        return Err(Error::TableFormat("it has no rows to learn from".to_owned()));
    }
    let (mut columns, mut unusable) = (Vec::new(), Vec::new());
    for (place, name) in table.names().iter().enumerate() {
        if leave_out.iter().any(|left_out| left_out.trim() == name) {
            continue;
        }
        let cells: Vec<&Cell> = table.rows.iter().map(|cells| &cells[place]).collect();
        match kind(&cells) {
            Ok(kind) => columns.push(Column { name: name.clone(), kind }),
            Err(problem) => unusable.push((name.clone(), problem)),
        }
    }
    Ok((TableInput { columns }, unusable))
}

fn kind(cells: &[&Cell]) -> Result<ColumnKind, String> {
    let there: Vec<&Cell> = cells.iter().copied().filter(|cell| !cell.is_missing()).collect();
    let gaps = there.len() < cells.len();
    if there.is_empty() {
        return Err("no row has a value".to_owned());
    }
    let numbers: Option<Vec<f64>> = there.iter().map(|cell| cell.number()).collect();
    let booleans = there.iter().all(|cell| cell.boolean().is_some());
    if let Some(numbers) = numbers
        && !there.iter().any(|cell| matches!(cell, Cell::Boolean(_)))
    {
        let Scaling { mean, std } = scaling(&numbers)?;
        return Ok(ColumnKind::Number(Number { missing: gaps.then_some(mean), clip: None, mean, std }));
    }
    if booleans {
        let most = 2 * there.iter().filter(|cell| cell.boolean() == Some(true)).count() > there.len();
        return Ok(ColumnKind::Boolean(Boolean { missing: gaps.then_some(most) }));
    }
    let text = |cell: &&Cell| match cell {
        Cell::Text(text) => Moment::of_text(text),
        _ => None,
    };
    if let Some(moments) = there.iter().map(text).collect::<Option<Vec<_>>>() {
        return date(&moments, gaps);
    }
    category(&there)
}

/// Mean and deviation as `StandardScaler` learns them: of the whole population, and 1 where nothing deviates.
fn scaling(numbers: &[f64]) -> Result<Scaling, String> {
    let count = numbers.len() as f64;
    let mean = numbers.iter().sum::<f64>() / count;
    let std = (numbers.iter().map(|number| (number - mean).powi(2)).sum::<f64>() / count).sqrt();
    if !mean.is_finite() || !std.is_finite() {
        return Err("its numbers are too large to be scaled".to_owned());
    }
    // What is left of equal numbers is rounding.
    let constant = std <= 10.0 * f64::EPSILON * mean.abs() || !std.is_normal();
    Ok(Scaling { mean, std: if constant { 1.0 } else { std } })
}

fn date(moments: &[Moment], gaps: bool) -> Result<ColumnKind, String> {
    let values = |part| moments.iter().map(|moment| moment.part(part)).collect::<Vec<_>>();
    let number = |part| Ok::<_, String>(DatePart { part, form: PartForm::Number(scaling(&values(part))?) });
    let cycle = |part| DatePart { part, form: PartForm::Cycle };
    let mut parts = vec![number(Part::Year)?, cycle(Part::Month), cycle(Part::Weekday)];
    if values(Part::Hour).iter().any(|hour| *hour > 0.0) {
        parts.push(cycle(Part::Hour));
    }
    parts.push(number(Part::UnixSeconds)?);
    let missing = if gaps { MissingDate::Zeros } else { MissingDate::Error };
    Ok(ColumnKind::Date(Date { parts, missing }))
}

fn category(there: &[&Cell]) -> Result<ColumnKind, String> {
    let mut values = BTreeSet::new();
    for cell in there {
        let text = cell.text();
        if text.len() > limits::LABEL {
            return Err(format!("a text has {} bytes; {} are possible", text.len(), limits::LABEL));
        }
        values.insert(text.into_owned());
        if values.len() > limits::TABLE_CATEGORIES {
            return Err(format!("it has more than {} different texts", limits::TABLE_CATEGORIES));
        }
    }
    if values.len() == there.len() && there.len() >= ROWS_OF_NAMES {
        return Err("every row has another text, so none says anything about the next".to_owned());
    }
    let values = values.into_iter().collect();
    let category = Category { values, encoding: Encoding::OneHot, unknown: Unknown::Zeros, missing: None };
    Ok(ColumnKind::Category(category))
}

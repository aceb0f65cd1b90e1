//! A csv table: each row is a sample, a JSON array of its cells; one column is the label.

use super::ImportOptions;
use super::collector::{Collector, Place};
use super::image_csv::{Csv, each_row, first_rows, sample};
use crate::bounds::COLUMNS;
use crate::dataset::{Column, ColumnKind, TableFacts};
use crate::error::{Error, Result};
use flotilla_protocol::limits;
use std::collections::BTreeSet;

/// Names of a label column that need not be told.
const LABEL_NAMES: [&str; 3] = ["label", "class", "target"];
/// Cells that mean "no value".
const MISSING: [&str; 7] = ["", "?", "na", "n/a", "nan", "null", "none"];
/// Column names that an error lists.
const NAMES_TOLD: usize = 30;

/// Reads all rows, and the table's shape.
pub(super) fn read(
    csv: &mut dyn Csv,
    options: &ImportOptions,
    collector: &mut Collector,
) -> Result<(TableFacts, Vec<Column>)> {
    let name = csv.name().to_owned();
    let (delimiter, sample) = sample(csv)?;
    let first = first_rows(delimiter, &sample, 1).pop().unwrap_or_default();
    let header = options.header.unwrap_or_else(|| first.iter().all(|field| field.parse::<f64>().is_err()));
    let names = if header { first } else { (1..=first.len()).map(|n| format!("column_{n}")).collect() };
    check_names(&name, &names)?;
    let label = label_column(&names, options)?;
    collector.numeric(options.numeric_label);
    let mut columns: Vec<Seen> = names.iter().map(|_| Seen::default()).collect();
    let mut header_passed = !header;
    each_row(csv, delimiter, |row| {
        let at = Place { file: &name, line: Some(row.line) };
        let fields = match &row.fields {
            Err(reason) => return collector.skip(at, reason),
            Ok(fields) => fields,
        };
        if !std::mem::replace(&mut header_passed, true) {
            return Ok(());
        }
        if fields.len() != names.len() {
            return collector
                .skip(at, format!("it has {} fields, {} are expected", fields.len(), names.len()));
        }
        if is_missing(&fields[label]) {
            return collector.skip(at, format!("its label ({}) is missing", names[label]));
        }
        for (column, field) in columns.iter_mut().zip(fields) {
            column.see(field);
        }
        let bytes = serde_json::to_vec(fields).map_err(|e| Error::format(&name, e.to_string()))?;
        collector.row(at, &bytes, &fields[label])
    })?;
    let facts = TableFacts {
        columns: names.len() as u32,
        label: label as u32,
        label_name: names[label].clone(),
        numeric_label: false,
    };
    let columns = names.into_iter().zip(columns).map(|(name, seen)| seen.column(name)).collect();
    Ok((facts, columns))
}

fn check_names(file: &str, names: &[String]) -> Result<()> {
    if names.len() < 2 {
        return Err(Error::format(file, "its first line has less than two columns"));
    }
    if names.len() > COLUMNS {
        let (size, bound) = (names.len() as u64, COLUMNS as u64);
        return Err(Error::TooLarge { what: format!("columns of {file}"), size, bound });
    }
    let mut seen = BTreeSet::new();
    for (index, name) in names.iter().enumerate() {
        if name.is_empty() || name.len() > limits::LABEL {
            let problem = format!("the name of column {} has {} bytes", index + 1, name.len());
            return Err(Error::format(file, problem));
        }
        if !seen.insert(name) {
            return Err(Error::format(file, format!("two columns are called {name:?}")));
        }
    }
    Ok(())
}

fn label_column(names: &[String], options: &ImportOptions) -> Result<usize> {
    let told = || names.iter().take(NAMES_TOLD).cloned().collect::<Vec<_>>().join(", ");
    let refuse = |problem: String| Err(Error::Option { option: "label_column", problem });
    match options.label_column.as_deref() {
        Some(wanted) => match names.iter().position(|name| name == wanted) {
            Some(index) => Ok(index),
            None if wanted == "first" => Ok(0),
            None if wanted == "last" => Ok(names.len() - 1),
            None => refuse(format!("there is no column {wanted:?}; the columns are {}", told())),
        },
        None => {
            let is_label = |name: &String| LABEL_NAMES.contains(&name.to_ascii_lowercase().as_str());
            match names.iter().position(is_label) {
                Some(index) => Ok(index),
                None => refuse(format!("name the column to predict; the columns are {}", told())),
            }
        }
    }
}

/// Whether a cell says that nothing is known.
pub(crate) fn is_missing(field: &str) -> bool {
    MISSING.contains(&field.to_ascii_lowercase().as_str())
}

/// What a column's cells were so far.
#[derive(Debug, Default)]
struct Seen {
    missing: u64,
    any: bool,
    fraction: bool,
    text: bool,
}

impl Seen {
    fn see(&mut self, field: &str) {
        if is_missing(field) {
            self.missing += 1;
            return;
        }
        self.any = true;
        self.fraction |= field.parse::<i64>().is_err();
        self.text |= field.parse::<f64>().map_or(true, |value| !value.is_finite());
    }

    fn column(self, name: String) -> Column {
        let kind = match self {
            Seen { any: false, .. } | Seen { text: true, .. } => ColumnKind::Text,
            Seen { fraction: true, .. } => ColumnKind::Number,
            _ => ColumnKind::Integer,
        };
        Column { name, kind, missing: self.missing }
    }
}

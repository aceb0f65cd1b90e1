//! A sample as a model gets it.
//!
//! Pictures and recordings are taken as they are. A row is stored with all its cells, as an array; a model gets it as an
//! object without the label, as applications send rows, and a cell that says that nothing is known as `null`.

use crate::dataset::{DatasetVersion, TableFacts};
use crate::error::{Error, Result};
use bytes::Bytes;
use flotilla_protocol::Truth;
use serde_json::Value;

/// How the samples of a version become inputs of models.
#[derive(Clone, Debug)]
pub struct InputForm {
    table: Option<Row>,
}

#[derive(Clone, Debug)]
struct Row {
    names: Vec<String>,
    facts: TableFacts,
}

impl InputForm {
    /// The form of a version with these columns.
    pub(crate) fn new(version: &DatasetVersion, columns: &[crate::Column]) -> Self {
        let names = || columns.iter().map(|column| column.name.clone()).collect();
        Self { table: version.table.clone().map(|facts| Row { names: names(), facts }) }
    }

    /// The input that a sample is.
    pub fn input(&self, sample: Bytes) -> Result<Bytes> {
        let Some(row) = &self.table else { return Ok(sample) };
        let cells = row.cells(&sample)?;
        // In the order of the columns, which maps do not keep.
        let mut fields = Vec::with_capacity(cells.len());
        for (index, (name, cell)) in row.names.iter().zip(cells).enumerate() {
            if index != row.facts.label as usize {
                let missing = crate::import::is_missing(&cell);
                let cell = if missing { Value::Null } else { Value::String(cell) };
                fields.push(format!("{}:{cell}", Value::String(name.clone())));
            }
        }
        Ok(format!("{{{}}}", fields.join(",")).into())
    }

    /// What is true of a sample: what the list says, but for tables with a numeric target of versions that knew classes
    /// only, whose rows say it themselves.
    pub fn truth(&self, listed: &Truth, sample: &[u8]) -> Result<Truth> {
        match (&self.table, listed) {
            (Some(row), Truth::Class(_)) if row.facts.numeric_label => {
                let cell = row.cells(sample)?.into_iter().nth(row.facts.label as usize).unwrap_or_default();
                let target: Option<f64> = cell.parse().ok();
                target
                    .map(|target| Truth::Values(vec![target]))
                    .ok_or_else(|| Error::format("a row", format!("its target {cell:?} is no number")))
            }
            _ => Ok(listed.clone()),
        }
    }
}

impl Row {
    fn cells(&self, sample: &[u8]) -> Result<Vec<String>> {
        let cells: Vec<String> = serde_json::from_slice(sample)
            .map_err(|e| Error::format("a row", format!("it is no array of texts ({e})")))?;
        match cells.len() == self.names.len() {
            true => Ok(cells),
            false => Err(Error::format(
                "a row",
                format!("it has {} cells, and the table {} columns", cells.len(), self.names.len()),
            )),
        }
    }
}

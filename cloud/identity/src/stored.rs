//! How this crate's records are written: as JSON, readable and tolerant of fields of later versions.

use crate::error::Result;
use flotilla_storage::{Error, Key, Record, Table};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;

/// The value of a record.
pub(crate) fn encode<T: Serialize>(table: &Table, value: &T) -> Result<Vec<u8>> {
    Ok(serde_json::to_vec(value)
        .map_err(|source| Error::Encode { table: table.as_str().to_owned(), source: Arc::new(source) })?)
}

/// What a record says.
pub(crate) fn decode<T: DeserializeOwned>(key: &Key, record: &Record) -> Result<T> {
    Ok(serde_json::from_slice(&record.value)
        .map_err(|source| Error::Decode { key: Box::new(key.clone()), source: Arc::new(source) })?)
}

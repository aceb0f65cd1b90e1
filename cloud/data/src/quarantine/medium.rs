//! What a hard example is, found out from its bytes alone: nothing that a device says of it is believed.

use crate::bounds::{COLUMNS, QUARANTINE_DECODE_BYTES, QUARANTINE_PIXELS, ROW_BYTES};
use crate::dataset::Kind;
use crate::import::{check_recording, look_into};
use flotilla_protocol::limits;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What a hard example is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Medium {
    /// A picture: what all were that earlier versions recorded.
    #[default]
    Picture,
    /// A recording.
    Recording,
    /// A row of a table, as a JSON object.
    Row,
}

impl Medium {
    /// The stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Medium::Picture => "picture",
            Medium::Recording => "recording",
            Medium::Row => "row",
        }
    }

    /// Whether it can be a sample of such a dataset.
    pub(crate) fn fits(self, kind: Kind) -> bool {
        match self {
            Medium::Picture => matches!(kind, Kind::ImageClassification | Kind::ObjectDetection),
            Medium::Recording => kind == Kind::SoundClassification,
            Medium::Row => kind == Kind::Table,
        }
    }
}

/// What bytes are that nobody has looked at yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Looked {
    pub(super) medium: Medium,
    /// Columns and rows of a picture.
    pub(super) width: u32,
    pub(super) height: u32,
    /// How long a recording is.
    pub(super) milliseconds: u32,
}

/// Looks into bytes; the error says why they are nothing usable.
pub(super) fn look(bytes: &[u8]) -> Result<Looked, String> {
    match bytes.first() {
        Some(b'{') => row(bytes).map(|()| Looked { medium: Medium::Row, ..Looked::default() }),
        Some(b'R') => check_recording(bytes).map(|facts| Looked {
            medium: Medium::Recording,
            milliseconds: facts.max_ms,
            ..Looked::default()
        }),
        _ => look_into(bytes, QUARANTINE_PIXELS, QUARANTINE_DECODE_BYTES).map(|(width, height)| Looked {
            width,
            height,
            ..Looked::default()
        }),
    }
}

/// A row is an object of texts, numbers, truths and gaps by name.
fn row(bytes: &[u8]) -> Result<(), String> {
    if bytes.len() > ROW_BYTES {
        return Err(format!("a row has {} bytes; {ROW_BYTES} are possible", bytes.len()));
    }
    let row: Map<String, Value> = serde_json::from_slice(bytes).map_err(|e| format!("it is no row: {e}"))?;
    if row.is_empty() || row.len() > COLUMNS {
        return Err(format!("a row has {} cells; 1 to {COLUMNS} are possible", row.len()));
    }
    let nested = |cell: &Value| cell.is_array() || cell.is_object();
    if row.values().any(nested) || row.keys().any(|name| name.len() > limits::LABEL) {
        return Err("a cell of the row is no single value, or its name is too long".to_owned());
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_an_object_of_single_values() {
        assert_eq!(look(br#"{"a": 1, "b": "x", "c": null}"#).map(|looked| looked.medium), Ok(Medium::Row));
        for bad in [&br#"{"a": [1]}"#[..], b"{}", b"{\"a\": 1", b"RIFFxxxxWAVE", b"", b"hello"] {
            look(bad).unwrap_err();
        }
    }
}

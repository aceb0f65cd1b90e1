//! The list of a version's samples: one object of JSON lines, because records are small.
//!
//! The first line is a header, each further line one sample as an array, in the order in which the samples lie
//! in their packs. Later formats may append to the arrays.

use crate::dataset::{Column, SampleRef, Split};
use crate::error::{Error, Result};
use bytes::Bytes;
use flotilla_protocol::Digest;
use serde::{Deserialize, Serialize};

const FORMAT: u32 = 1;

/// What stands before the samples.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    format: u32,
    samples: u64,
    packs: Vec<Digest>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    columns: Vec<Column>,
}

/// A sample as it is listed: digest, label, split, copies, pack, offset, length.
type Line = (Digest, u32, Split, u32, u32, u32, u32);

/// One sample as the importer knows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Listed {
    pub(crate) digest: Digest,
    pub(crate) label: u32,
    pub(crate) split: Split,
    pub(crate) copies: u32,
    /// Index into the packs.
    pub(crate) pack: u32,
    pub(crate) offset: u32,
    pub(crate) len: u32,
}

/// Writes a list.
pub(crate) fn encode(
    packs: Vec<Digest>,
    columns: Vec<Column>,
    samples: impl ExactSizeIterator<Item = Listed>,
) -> serde_json::Result<Vec<u8>> {
    let header = Header { format: FORMAT, samples: samples.len() as u64, packs, columns };
    let mut out = serde_json::to_vec(&header)?;
    out.push(b'\n');
    for s in samples {
        let line: Line = (s.digest, s.label, s.split, s.copies, s.pack, s.offset, s.len);
        serde_json::to_writer(&mut out, &line)?;
        out.push(b'\n');
    }
    Ok(out)
}

/// A list as it was read.
#[derive(Debug)]
pub(crate) struct SampleList {
    digest: Digest,
    bytes: Bytes,
    header: Header,
    /// Where the samples begin.
    body: usize,
}

impl SampleList {
    /// Reads the header of the list with this digest.
    pub(crate) fn open(digest: Digest, bytes: Bytes) -> Result<Self> {
        let damaged = |problem: String| Error::Damaged { what: "sample list", digest, problem };
        let end = bytes.iter().position(|&b| b == b'\n').unwrap_or(bytes.len());
        let header: Header = serde_json::from_slice(&bytes[..end]).map_err(|e| damaged(e.to_string()))?;
        if header.format != FORMAT {
            return Err(damaged(format!("format {} is not known to this version", header.format)));
        }
        let body = (end + 1).min(bytes.len());
        Ok(Self { digest, bytes, header, body })
    }

    /// The columns of a table.
    pub(crate) fn into_columns(self) -> Vec<Column> {
        self.header.columns
    }

    /// The samples, in order.
    pub(crate) fn samples(&self) -> impl Iterator<Item = Result<SampleRef>> + '_ {
        let lines = self.bytes[self.body..].split(|&b| b == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| self.sample(line))
    }

    fn sample(&self, line: &[u8]) -> Result<SampleRef> {
        let damaged = |problem: String| Error::Damaged { what: "sample list", digest: self.digest, problem };
        let line: Line = serde_json::from_slice(line).map_err(|e| damaged(e.to_string()))?;
        let (digest, label, split, copies, pack, offset, len) = line;
        let pack = self.header.packs.get(pack as usize).copied();
        let pack = pack.ok_or_else(|| damaged(format!("sample {digest} names a pack that is not listed")))?;
        Ok(SampleRef { digest, label, split, copies, pack, offset, len })
    }
}

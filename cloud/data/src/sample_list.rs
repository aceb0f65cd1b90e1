//! The list of a version's samples: one object of JSON lines, because records are small.
//!
//! The first line is a header, each further line one sample as an array, in the order in which the samples lie
//! in their packs. In format 1 every sample is of one class, whose index stands in the array; in format 2 something else
//! may be true of a sample, which stands there as an object. Lists that need nothing else are still of format 1.

use crate::dataset::{Column, SampleRef, Split};
use crate::error::{Error, Result};
use bytes::Bytes;
use flotilla_protocol::{Digest, Truth};
use serde::{Deserialize, Serialize};

/// Classes only.
const CLASSES: u32 = 1;
/// Whatever may be true.
const TRUTHS: u32 = 2;

/// What stands before the samples.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    format: u32,
    samples: u64,
    packs: Vec<Digest>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    columns: Vec<Column>,
}

/// A sample as it is listed: digest, truth, split, copies, pack, offset, length.
type Line<T> = (Digest, T, Split, u32, u32, u32, u32);

/// What is true of a sample, as it is listed.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Stored<T> {
    Class(u32),
    Other(T),
}

/// One sample as the importer knows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Listed<'a> {
    pub(crate) digest: Digest,
    pub(crate) truth: &'a Truth,
    pub(crate) split: Split,
    pub(crate) copies: u32,
    /// Index into the packs.
    pub(crate) pack: u32,
    pub(crate) offset: u32,
    pub(crate) len: u32,
}

/// Writes a list.
pub(crate) fn encode<'a>(
    packs: Vec<Digest>,
    columns: Vec<Column>,
    samples: impl ExactSizeIterator<Item = Listed<'a>> + Clone,
) -> serde_json::Result<Vec<u8>> {
    let classes = samples.clone().all(|sample| matches!(sample.truth, Truth::Class(_)));
    let format = if classes { CLASSES } else { TRUTHS };
    let header = Header { format, samples: samples.len() as u64, packs, columns };
    let mut out = serde_json::to_vec(&header)?;
    out.push(b'\n');
    for s in samples {
        let truth = match s.truth {
            Truth::Class(class) => Stored::Class(*class),
            other => Stored::Other(other),
        };
        let line: Line<Stored<&Truth>> = (s.digest, truth, s.split, s.copies, s.pack, s.offset, s.len);
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
        if !(CLASSES..=TRUTHS).contains(&header.format) {
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
        let line: Line<Stored<Truth>> = serde_json::from_slice(line).map_err(|e| damaged(e.to_string()))?;
        let (digest, truth, split, copies, pack, offset, len) = line;
        let truth = match truth {
            Stored::Class(class) => Truth::Class(class),
            Stored::Other(truth) => truth,
        };
        let pack = self.header.packs.get(pack as usize).copied();
        let pack = pack.ok_or_else(|| damaged(format!("sample {digest} names a pack that is not listed")))?;
        Ok(SampleRef { digest, truth, split, copies, pack, offset, len })
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;
    use flotilla_protocol::TrueBox;

    fn listed(truth: &Truth, offset: u32) -> Listed<'_> {
        let digest = Digest::of(&offset.to_be_bytes());
        Listed { digest, truth, split: Split::Test, copies: 1, pack: 0, offset, len: 9 }
    }

    fn read(bytes: Vec<u8>) -> Result<Vec<Truth>> {
        let list = SampleList::open(Digest::of(&bytes), bytes.into())?;
        list.samples().map(|sample| sample.map(|sample| sample.truth)).collect()
    }

    /// The bytes that version 1 writes must be read for ever, and are what lists of classes are.
    #[test]
    fn a_list_of_classes_is_still_of_version_1() {
        let truth = Truth::Class(3);
        let bytes = encode(vec![Digest::of(b"p")], vec![], [listed(&truth, 5)].into_iter()).unwrap();
        let (s, p) = (Digest::of(&5_u32.to_be_bytes()), Digest::of(b"p"));
        let expected =
            format!("{{\"format\":1,\"samples\":1,\"packs\":[\"{p}\"]}}\n[\"{s}\",3,\"test\",1,0,5,9]\n");
        assert_eq!(String::from_utf8(bytes.clone()).unwrap(), expected);
        assert_eq!(read(bytes).unwrap(), [truth]);
    }

    #[test]
    fn whatever_is_true_of_samples_is_listed_beside_classes() {
        let area = [1.0, 2.0, 3.5, 4.0];
        let truths = [
            Truth::Class(0),
            Truth::Labels(vec![2, 0]),
            Truth::Boxes(vec![TrueBox { label: 1, area, ignored: true }]),
            Truth::Values(vec![-0.1, 1e-300]),
            Truth::Anomalous(true),
        ];
        let samples: Vec<_> = truths.iter().zip(0..).map(|(truth, at)| listed(truth, at)).collect();
        let bytes = encode(vec![Digest::of(b"p")], vec![], samples.into_iter()).unwrap();
        assert!(bytes.starts_with(b"{\"format\":2,"));
        assert_eq!(read(bytes).unwrap(), truths);
        let later = read(b"{\"format\":3,\"samples\":0,\"packs\":[]}\n".to_vec());
        assert!(matches!(later, Err(Error::Damaged { .. })));
    }
}

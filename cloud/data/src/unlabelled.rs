//! Samples of a version that nobody has labelled yet. They are in no split, so nothing trains on them or is measured by
//! them; a newer version carries them on until a label comes.
//!
//! Their list is one more object of JSON lines: a header, then one sample a line as an array.

use crate::dataset::DatasetVersion;
use crate::error::{Error, Result};
use bytes::Bytes;
use flotilla_protocol::Digest;
use serde::{Deserialize, Serialize};

const FORMAT: u32 = 1;

/// The samples of a version that have no label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unlabelled {
    /// How many.
    pub samples: u64,
    /// Bytes of all of them.
    pub bytes: u64,
    /// The object that lists them.
    pub(crate) list: Digest,
    /// What the version means without them.
    pub(crate) labelled: Digest,
}

/// One sample without a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnlabelledRef {
    /// SHA-256 of its bytes.
    pub digest: Digest,
    /// The pack that holds it.
    pub(crate) pack: Digest,
    /// Where in the pack it begins.
    pub(crate) offset: u32,
    /// How many bytes it has.
    pub(crate) len: u32,
}

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    format: u32,
    unlabelled: u64,
    packs: Vec<Digest>,
}

/// A sample as it is listed: digest, pack, offset, length.
type Line = (Digest, u32, u32, u32);

/// Writes a list.
pub(crate) fn encode(samples: &[UnlabelledRef]) -> serde_json::Result<Vec<u8>> {
    let mut packs: Vec<Digest> = Vec::new();
    let mut lines = Vec::with_capacity(samples.len());
    for sample in samples {
        // Samples of one pack follow one another.
        if packs.last() != Some(&sample.pack) {
            packs.push(sample.pack);
        }
        let line: Line = (sample.digest, (packs.len() - 1) as u32, sample.offset, sample.len);
        lines.push(line);
    }
    let mut out = serde_json::to_vec(&Header { format: FORMAT, unlabelled: samples.len() as u64, packs })?;
    out.push(b'\n');
    for line in lines {
        serde_json::to_writer(&mut out, &line)?;
        out.push(b'\n');
    }
    Ok(out)
}

/// Reads a list.
pub(crate) fn decode(digest: &Digest, bytes: &Bytes) -> Result<Vec<UnlabelledRef>> {
    let damaged =
        |problem: String| Error::Damaged { what: "list of unlabelled samples", digest: *digest, problem };
    let mut lines = bytes.split(|&b| b == b'\n').filter(|line| !line.is_empty());
    let header: Header =
        serde_json::from_slice(lines.next().unwrap_or_default()).map_err(|e| damaged(e.to_string()))?;
    if header.format != FORMAT {
        return Err(damaged(format!("format {} is not known to this version", header.format)));
    }
    lines
        .map(|line| {
            let (digest, pack, offset, len): Line =
                serde_json::from_slice(line).map_err(|e| damaged(e.to_string()))?;
            let pack = header.packs.get(pack as usize).copied();
            let pack =
                pack.ok_or_else(|| damaged(format!("sample {digest} names a pack that is not listed")))?;
            Ok(UnlabelledRef { digest, pack, offset, len })
        })
        .collect()
}

/// What a version means that has these samples beside its labelled ones.
fn content(labelled: &Digest, samples: &[UnlabelledRef]) -> Digest {
    let mut digests: Vec<_> = samples.iter().map(|sample| sample.digest).collect();
    digests.sort_unstable();
    let mut hasher = Digest::hasher();
    hasher.update(b"unlabelled");
    hasher.update(labelled.as_bytes());
    digests.iter().for_each(|digest| hasher.update(digest.as_bytes()));
    hasher.finish()
}

impl DatasetVersion {
    /// Has these unlabelled samples from now on, which this object lists; none takes the field away.
    pub(crate) fn set_unlabelled(&mut self, samples: &[UnlabelledRef], list: Digest) {
        let labelled = self.unlabelled.map_or(self.digest, |before| before.labelled);
        if samples.is_empty() {
            (self.digest, self.unlabelled) = (labelled, None);
            return;
        }
        self.digest = content(&labelled, samples);
        self.unlabelled = Some(Unlabelled {
            samples: samples.len() as u64,
            bytes: samples.iter().map(|sample| u64::from(sample.len)).sum(),
            list,
            labelled,
        });
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_list_reads_as_it_was_written_and_a_damaged_one_is_named() {
        let sample = |n: u8, pack: &[u8]| UnlabelledRef {
            digest: Digest::of(&[n]),
            pack: Digest::of(pack),
            offset: u32::from(n),
            len: 9,
        };
        let samples = [sample(1, b"a"), sample(2, b"a"), sample(3, b"b")];
        let bytes = Bytes::from(encode(&samples).unwrap());
        let digest = Digest::of(&bytes);
        assert_eq!(decode(&digest, &bytes).unwrap(), samples);
        let cut = bytes.slice(..bytes.len() - 5);
        assert!(matches!(decode(&digest, &cut), Err(Error::Damaged { .. })));
        let reversed = [samples[2], samples[1], samples[0]];
        assert_eq!(content(&digest, &samples), content(&digest, &reversed), "their order means nothing");
    }

    /// The bytes that version 1 writes must be read for ever.
    #[test]
    fn a_list_of_version_1_is_still_written_so() {
        let sample = UnlabelledRef { digest: Digest::of(b"s"), pack: Digest::of(b"p"), offset: 5, len: 9 };
        let (s, p) = (Digest::of(b"s"), Digest::of(b"p"));
        let expected = format!("{{\"format\":1,\"unlabelled\":1,\"packs\":[\"{p}\"]}}\n[\"{s}\",0,5,9]\n");
        assert_eq!(String::from_utf8(encode(&[sample]).unwrap()).unwrap(), expected);
    }
}

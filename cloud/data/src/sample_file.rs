//! One split of a dataset as a single local file: what a job's child process reads.
//!
//! Format: the line `flotilla-samples 2`, then for each sample two little-endian u32 and its bytes. The first number is
//! the class that it is of or, with the highest bit set, the length of what is true of it as CBOR, which then stands
//! before its bytes; the second one is their length. Format 1 knew classes only and reads the same.

use crate::error::{Error, Result};
use flotilla_protocol::{Truth, codec, limits};
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

const MAGIC: &[u8] = b"flotilla-samples 2\n";
const MAGIC_1: &[u8] = b"flotilla-samples 1\n";
/// Says that not a class follows, but the length of a truth.
const OTHER: u32 = 1 << 31;
/// Bytes of what is true of a sample: thousands of boxes.
const TRUTH_BYTES: usize = limits::MIB;

/// Writes such a file.
#[derive(Debug)]
pub struct SampleFileWriter {
    file: BufWriter<File>,
    path: PathBuf,
}

impl SampleFileWriter {
    /// A new file; fails if the name is taken.
    pub fn create(path: &Path) -> Result<Self> {
        let file =
            OpenOptions::new().write(true).create_new(true).open(path).map_err(Error::io("create", path))?;
        let mut writer = Self { file: BufWriter::new(file), path: path.to_path_buf() };
        writer.write(MAGIC)?;
        Ok(writer)
    }

    /// Adds a sample.
    pub fn add(&mut self, truth: &Truth, sample: &[u8]) -> Result<()> {
        let len = u32::try_from(sample.len()).ok().filter(|&len| len as usize <= limits::PREDICT_INPUT);
        let len = len.ok_or_else(|| too_large(&self.path, sample.len() as u64, limits::PREDICT_INPUT))?;
        let (head, truth) = match truth {
            Truth::Class(class) if *class < OTHER => (*class, Vec::new()),
            other => {
                let truth = codec::encode(other);
                if truth.len() > TRUTH_BYTES {
                    return Err(too_large(&self.path, truth.len() as u64, TRUTH_BYTES));
                }
                (OTHER | truth.len() as u32, truth)
            }
        };
        self.write(&head.to_le_bytes())?;
        self.write(&len.to_le_bytes())?;
        self.write(&truth)?;
        self.write(sample)
    }

    /// Completes the file. It is as durable as a job's folder needs: not at all.
    pub fn finish(mut self) -> Result<()> {
        self.file.flush().map_err(Error::io("write", &self.path))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(Error::io("write", &self.path))
    }
}

/// Reads such a file, sample by sample.
#[derive(Debug)]
pub struct SampleFile {
    file: BufReader<File>,
    path: PathBuf,
}

impl SampleFile {
    /// Opens the file.
    pub fn open(path: &Path) -> Result<Self> {
        let mut file = BufReader::new(File::open(path).map_err(Error::io("open", path))?);
        let mut magic = vec![0; MAGIC.len()];
        match file.read_exact(&mut magic) {
            Err(e) if e.kind() != io::ErrorKind::UnexpectedEof => Err(Error::io("read", path)(e)),
            _ if magic != MAGIC && magic != MAGIC_1 => {
                Err(Error::format(path.display().to_string(), "it is not a file of samples"))
            }
            _ => Ok(Self { file, path: path.to_path_buf() }),
        }
    }

    fn sample(&mut self) -> Result<Option<(Truth, Vec<u8>)>> {
        let mut head = [0; 8];
        let read = crate::import::read_up_to(&mut self.file, &mut head);
        match read.map_err(Error::io("read", &self.path))? {
            0 => return Ok(None),
            8 => {}
            _ => return Err(self.cut_off()),
        }
        let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (first, len) = (number(0), number(4) as usize);
        let truth = if first < OTHER {
            Truth::Class(first)
        } else {
            let truth = self.take((first ^ OTHER) as usize, TRUTH_BYTES)?;
            let broken =
                |e: codec::DecodeError| Error::format(self.path.display().to_string(), e.to_string());
            codec::decode(&truth, TRUTH_BYTES).map_err(broken)?
        };
        Ok(Some((truth, self.take(len, limits::PREDICT_INPUT)?)))
    }

    /// The next so many bytes, at most `bound`.
    fn take(&mut self, len: usize, bound: usize) -> Result<Vec<u8>> {
        if len > bound {
            return Err(too_large(&self.path, len as u64, bound));
        }
        let mut bytes = vec![0; len];
        match self.file.read_exact(&mut bytes) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Err(self.cut_off()),
            read => read.map_err(Error::io("read", &self.path)).map(|()| bytes),
        }
    }

    fn cut_off(&self) -> Error {
        Error::format(self.path.display().to_string(), "it ends within a sample")
    }
}

impl Iterator for SampleFile {
    type Item = Result<(Truth, Vec<u8>)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.sample().transpose()
    }
}

fn too_large(path: &Path, size: u64, bound: usize) -> Error {
    Error::TooLarge { what: format!("a sample in {}", path.display()), size, bound: bound as u64 }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;
    use flotilla_protocol::TrueBox;

    #[test]
    fn a_file_reads_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.samples");
        let boxes = vec![TrueBox { label: 1, area: [0.0, 1.0, 2.0, 3.0], ignored: false }];
        let samples = [
            (Truth::Class(7), b"one".to_vec()),
            (Truth::Values(vec![0.25]), Vec::new()),
            (Truth::Boxes(boxes), b"three".to_vec()),
            (Truth::Class(u32::MAX), b"four".to_vec()),
        ];
        let mut file = SampleFileWriter::create(&path).unwrap();
        samples.iter().for_each(|(truth, sample)| file.add(truth, sample).unwrap());
        file.finish().unwrap();
        let read: Vec<_> = SampleFile::open(&path).unwrap().collect::<Result<_>>().unwrap();
        assert_eq!(read, samples);
        let whole = std::fs::read(&path).unwrap();
        for end in MAGIC.len()..whole.len() {
            std::fs::write(&path, &whole[..end]).unwrap();
            let read: Result<Vec<_>> = SampleFile::open(&path).unwrap().collect();
            // Cut between two samples it is shorter; cut within one it says so.
            assert!(read.map_or(true, |read| read.len() < samples.len()), "{end}");
        }
    }

    /// What an earlier version wrote must be read as long as its jobs may go on.
    #[test]
    fn a_file_of_version_1_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.samples");
        std::fs::write(&path, b"flotilla-samples 1\n\x02\0\0\0\x03\0\0\0abc").unwrap();
        let read: Vec<_> = SampleFile::open(&path).unwrap().collect::<Result<_>>().unwrap();
        assert_eq!(read, [(Truth::Class(2), b"abc".to_vec())]);
    }
}

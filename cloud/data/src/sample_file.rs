//! One split of a dataset as a single local file: what a job's child process reads.
//!
//! Format: the line `flotilla-samples 1`, then for each sample its label and length as little-endian u32, and
//! its bytes.

use crate::error::{Error, Result};
use flotilla_protocol::limits;
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

const MAGIC: &[u8] = b"flotilla-samples 1\n";

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
    pub fn add(&mut self, label: u32, sample: &[u8]) -> Result<()> {
        let len = u32::try_from(sample.len()).ok().filter(|&len| len as usize <= limits::PREDICT_INPUT);
        let len = len.ok_or_else(|| too_large(&self.path, sample.len() as u64))?;
        self.write(&label.to_le_bytes())?;
        self.write(&len.to_le_bytes())?;
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
            _ if magic != MAGIC => {
                Err(Error::format(path.display().to_string(), "it is not a file of samples"))
            }
            _ => Ok(Self { file, path: path.to_path_buf() }),
        }
    }

    fn sample(&mut self) -> Result<Option<(u32, Vec<u8>)>> {
        let mut head = [0; 8];
        let read = crate::import::read_up_to(&mut self.file, &mut head);
        match read.map_err(Error::io("read", &self.path))? {
            0 => return Ok(None),
            8 => {}
            _ => return Err(self.cut_off()),
        }
        let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (label, len) = (number(0), number(4) as usize);
        if len > limits::PREDICT_INPUT {
            return Err(too_large(&self.path, len as u64));
        }
        let mut sample = vec![0; len];
        match self.file.read_exact(&mut sample) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Err(self.cut_off()),
            read => read.map_err(Error::io("read", &self.path)).map(|()| Some((label, sample))),
        }
    }

    fn cut_off(&self) -> Error {
        Error::format(self.path.display().to_string(), "it ends within a sample")
    }
}

impl Iterator for SampleFile {
    type Item = Result<(u32, Vec<u8>)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.sample().transpose()
    }
}

fn too_large(path: &Path, size: u64) -> Error {
    Error::TooLarge {
        what: format!("a sample in {}", path.display()),
        size,
        bound: limits::PREDICT_INPUT as u64,
    }
}

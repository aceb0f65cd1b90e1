//! A release on this machine: the manifest, believed already, and its files, never believed.

use crate::{Error, GOLDEN_BYTES, GOLDEN_VECTORS, Result};
use flotilla_protocol::manifest::{FileEntry, Golden};
use flotilla_protocol::{Baseline, Digest, ReleaseManifest, codec, limits};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// A manifest and where its files are.
#[derive(Clone, Debug)]
pub struct Bundle {
    manifest: ReleaseManifest,
    files: Files,
}

#[derive(Clone, Debug)]
enum Files {
    Folder(PathBuf),
    Memory(BTreeMap<String, Vec<u8>>),
}

impl Bundle {
    /// The release whose files lie in `folder`, each under its name. All of them are checked; later reads
    /// check again, so that the bytes which are used are always the bytes which were signed.
    pub fn open(folder: impl Into<PathBuf>, manifest: ReleaseManifest) -> Result<Self> {
        Self::checked(manifest, Files::Folder(folder.into()))
    }

    /// A release in memory.
    pub fn from_files(manifest: ReleaseManifest, files: BTreeMap<String, Vec<u8>>) -> Result<Self> {
        Self::checked(manifest, Files::Memory(files))
    }

    fn checked(manifest: ReleaseManifest, files: Files) -> Result<Self> {
        manifest.check()?;
        let bundle = Self { manifest, files };
        bundle.manifest.files.iter().try_for_each(|entry| bundle.check(entry))?;
        Ok(bundle)
    }

    /// The manifest.
    pub fn manifest(&self) -> &ReleaseManifest {
        &self.manifest
    }

    /// The content of a file, its digest checked.
    pub fn read(&self, name: &str) -> Result<Cow<'_, [u8]>> {
        let entry = self.manifest.file(name).ok_or_else(|| missing(name))?;
        match &self.files {
            Files::Memory(files) => {
                let content = files.get(name).ok_or_else(|| missing(name))?;
                check_digest(entry, content.len() as u64, Digest::of(content))?;
                Ok(Cow::Borrowed(content))
            }
            Files::Folder(folder) => {
                let mut content = Vec::new();
                each_block(folder, entry, |block| content.extend_from_slice(block))?;
                Ok(Cow::Owned(content))
            }
        }
    }

    /// The golden vectors.
    pub fn golden(&self) -> Result<Golden> {
        let name = &self.manifest.golden;
        let entry = self.manifest.file(name).ok_or_else(|| missing(name))?;
        if entry.bytes > GOLDEN_BYTES as u64 {
            return Err(Error::Golden(format!("{} bytes, over the bound of {GOLDEN_BYTES}", entry.bytes)));
        }
        let golden: Golden =
            codec::decode(&self.read(name)?, GOLDEN_BYTES).map_err(|e| Error::Golden(e.to_string()))?;
        if golden.vectors.len() > GOLDEN_VECTORS {
            let vectors = golden.vectors.len();
            return Err(Error::Golden(format!("{vectors} vectors, over the bound of {GOLDEN_VECTORS}")));
        }
        Ok(golden)
    }

    /// What the model saw and answered in training; `None` where the release does not say, or in a format of a newer
    /// control plane.
    pub fn baseline(&self) -> Result<Option<Baseline>> {
        #[derive(serde::Deserialize)]
        struct Format {
            format: u16,
        }
        let Some(name) = &self.manifest.baseline else { return Ok(None) };
        let content = self.read(name)?;
        let malformed = |error: codec::DecodeError| Error::Baseline(error.to_string());
        let Format { format } = codec::decode(&content, limits::BASELINE).map_err(malformed)?;
        if format != Baseline::FORMAT {
            return Ok(None);
        }
        let baseline: Baseline = codec::decode(&content, limits::BASELINE).map_err(malformed)?;
        baseline.check().map_err(|error| Error::Baseline(error.to_string()))?;
        Ok(Some(baseline))
    }

    fn check(&self, entry: &FileEntry) -> Result<()> {
        match &self.files {
            Files::Memory(_) => self.read(&entry.name).map(drop),
            Files::Folder(folder) => each_block(folder, entry, |_| ()),
        }
    }
}

/// Hands the file's content over block by block; an error at the end says that none of it may be used.
fn each_block(folder: &Path, entry: &FileEntry, mut block: impl FnMut(&[u8])) -> Result<()> {
    let failed = |source| Error::File { name: entry.name.clone(), source };
    let mut file = File::open(folder.join(&entry.name)).map_err(failed)?;
    let mut hasher = Digest::hasher();
    let mut buffer = vec![0; 64 * 1024];
    let mut length = 0;
    // One byte over the signed size is enough to know that the file is another one.
    while length <= entry.bytes {
        let read = match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(failed(e)),
        };
        length += read as u64;
        hasher.update(&buffer[..read]);
        block(&buffer[..read]);
    }
    check_digest(entry, length, hasher.finish())
}

fn check_digest(entry: &FileEntry, length: u64, digest: Digest) -> Result<()> {
    if length != entry.bytes {
        let problem = format!("it does not have the {} bytes of the manifest", entry.bytes);
        return Err(Error::Damaged { name: entry.name.clone(), problem });
    }
    if digest != entry.digest {
        return Err(Error::digest(&entry.name, entry.digest, digest));
    }
    Ok(())
}

fn missing(name: &str) -> Error {
    Error::File { name: name.to_owned(), source: io::ErrorKind::NotFound.into() }
}

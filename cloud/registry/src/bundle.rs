//! A release as one zip file: `release.cbor` (the signed envelope), `files/NAME` and `patches/DIGEST`.
//!
//! Reading believes nothing: names are compared with the three forms above before anything else, sizes are
//! bounded while unpacking, and a file counts only when its digest stands in the signed manifest.

use crate::error::{Error, Result};
use bytes::Bytes;
use flotilla_protocol::{Digest, Envelope, ReleaseManifest, TrustFile, limits};
use std::collections::BTreeMap;
use std::io::{Cursor, Read, Write};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipArchive, ZipWriter};

const ENVELOPE_ENTRY: &str = "release.cbor";
const FILES_FOLDER: &str = "files/";
const PATCHES_FOLDER: &str = "patches/";
/// Entries of a bundle.
const ENTRIES: usize = 1 + limits::RELEASE_FILES + limits::FILE_PATCHES * limits::RELEASE_FILES;
/// Bytes that all files of a bundle may unpack to: they are read into memory.
const UNPACKED: u64 = 256 * limits::MIB as u64;

/// A signed release with its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    /// The encoded envelope.
    pub envelope: Bytes,
    /// The files by name.
    pub files: BTreeMap<String, Bytes>,
    /// Patches of files by their digests. Those that are missing cannot be fetched by devices, which then fetch the files.
    pub patches: BTreeMap<Digest, Bytes>,
}

impl Bundle {
    /// The zip file. The same release always gives the same bytes. Blocks.
    pub fn to_zip(&self) -> Result<Vec<u8>> {
        let failed = |error: zip::result::ZipError| Error::Bundle(format!("it cannot be written: {error}"));
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Deflated)
            .last_modified_time(DateTime::default());
        let entries = self.files.iter().map(|(name, bytes)| (format!("{FILES_FOLDER}{name}"), bytes));
        let patches = self.patches.iter().map(|(digest, bytes)| (format!("{PATCHES_FOLDER}{digest}"), bytes));
        let envelope = [(ENVELOPE_ENTRY.to_owned(), &self.envelope)];
        for (name, bytes) in envelope.into_iter().chain(entries).chain(patches) {
            zip.start_file(name, options).map_err(failed)?;
            zip.write_all(bytes).map_err(|error| failed(error.into()))?;
        }
        Ok(zip.finish().map_err(failed)?.into_inner())
    }

    /// Reads a zip file, believing nothing but its form. Blocks.
    pub fn from_zip(bytes: &[u8]) -> Result<Self> {
        let unreadable =
            |error: zip::result::ZipError| Error::Bundle(format!("it is not a zip file: {error}"));
        let mut zip = ZipArchive::new(Cursor::new(bytes)).map_err(unreadable)?;
        if zip.len() > ENTRIES {
            return Err(Error::Bundle(format!("{} entries, over the bound of {ENTRIES}", zip.len())));
        }
        let (mut envelope, mut files, mut patches) = (None, BTreeMap::new(), BTreeMap::new());
        let mut room = UNPACKED;
        for index in 0..zip.len() {
            let mut entry = zip.by_index(index).map_err(unreadable)?;
            let name = entry.name().map_err(unreadable)?.into_owned();
            let bound =
                if name == ENVELOPE_ENTRY { limits::ENVELOPE as u64 } else { room.min(limits::RELEASE_FILE) };
            let place = match place_of(&name) {
                Some(place) if !entry.is_symlink() && !entry.is_dir() => place,
                _ => return Err(Error::BundlePath { path: name.chars().take(limits::LABEL).collect() }),
            };
            // The sizes that the archive claims are not believed.
            let mut content = Vec::new();
            let read = (&mut entry).take(bound + 1).read_to_end(&mut content);
            read.map_err(|error| Error::Bundle(format!("{name} cannot be unpacked: {error}")))?;
            if content.len() as u64 > bound {
                return Err(Error::TooLarge {
                    what: "the unpacked bundle",
                    size: content.len() as u64,
                    bound,
                });
            }
            room = room.saturating_sub(content.len() as u64);
            let content = Bytes::from(content);
            let twice = match place {
                Place::Envelope => envelope.replace(content).is_some(),
                Place::File(file) => files.insert(file.to_owned(), content).is_some(),
                Place::Patch(digest) => patches.insert(digest, content).is_some(),
            };
            if twice {
                return Err(Error::Bundle(format!("{name} is there twice")));
            }
        }
        let envelope = envelope.ok_or_else(|| Error::Bundle(format!("{ENVELOPE_ENTRY} is missing")))?;
        Ok(Self { envelope, files, patches })
    }

    /// Opens the signed manifest against a trust file, and checks every file against the manifest. A release
    /// signed by a key that is not trusted is refused before its files are looked at.
    pub fn verify(&self, trust: &TrustFile, now_ms: u64) -> Result<(Envelope, ReleaseManifest)> {
        let envelope = Envelope::from_bytes(&self.envelope)?;
        let manifest = ReleaseManifest::open(&envelope, trust, now_ms)?;
        for entry in &manifest.files {
            let content = self.files.get(&entry.name);
            let content = content.ok_or_else(|| Error::Bundle(format!("{} is missing", entry.name)))?;
            if content.len() as u64 != entry.bytes || Digest::of(content) != entry.digest {
                return Err(Error::BundleDigest { name: entry.name.clone() });
            }
        }
        let known =
            |digest: &Digest| manifest.files.iter().flat_map(|f| &f.patches).any(|p| p.digest == *digest);
        for (digest, content) in &self.patches {
            if !known(digest) || Digest::of(content) != *digest {
                return Err(Error::BundleDigest { name: format!("{PATCHES_FOLDER}{digest}") });
            }
        }
        match self.files.keys().find(|name| manifest.file(name).is_none()) {
            Some(name) => Err(Error::Bundle(format!("{name} is not part of the release"))),
            None => Ok((envelope, manifest)),
        }
    }
}

/// What an entry is.
enum Place<'a> {
    Envelope,
    File(&'a str),
    Patch(Digest),
}

fn place_of(entry: &str) -> Option<Place<'_>> {
    if entry == ENVELOPE_ENTRY {
        return Some(Place::Envelope);
    }
    match entry.strip_prefix(PATCHES_FOLDER) {
        Some(digest) => digest.parse().ok().map(Place::Patch),
        None => file_name(entry).map(Place::File),
    }
}

/// The file that an entry names: one plain component below the folder of files.
fn file_name(entry: &str) -> Option<&str> {
    let name = entry.strip_prefix(FILES_FOLDER)?;
    let plain = !name.is_empty()
        && name.len() <= limits::LABEL
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    plain.then_some(name)
}

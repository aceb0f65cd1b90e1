//! Files of an archive in memory, within bounds.

use std::collections::BTreeMap;
use std::io::{Cursor, Read};

use flate2::read::GzDecoder;
use flotilla_protocol::limits::MIB;
use zip::ZipArchive;

use crate::format::Archive;
use crate::{Error, Result};

/// Entries of an archive.
const MAX_ENTRIES: usize = 4096;
/// Bytes that an archive may unpack to.
const MAX_UNPACKED: usize = 256 * MIB;
/// Bytes that one byte of an archive may unpack to, once past [`FREE`].
const MAX_RATIO: usize = 200;
/// Unpacked bytes up to which the ratio does not matter.
const FREE: usize = 4 * MIB;
/// Bytes of one header or block of a tar.
const BLOCK: usize = 512;

/// All files of an archive by their paths.
pub(super) fn read(bytes: &[u8], kind: Archive) -> Result<BTreeMap<String, Vec<u8>>> {
    let bound = bytes.len().saturating_mul(MAX_RATIO).clamp(FREE, MAX_UNPACKED);
    match kind {
        Archive::Zip => unzip(bytes, bound),
        Archive::Tar => untar(bytes),
        Archive::TarGz => {
            let mut unpacked = Vec::new();
            let read = GzDecoder::new(bytes).take(bound as u64 + 1).read_to_end(&mut unpacked);
            read.map_err(|error| Error::Archive { problem: format!("its gzip is damaged ({error})") })?;
            if unpacked.len() > bound {
                return Err(over(bound));
            }
            untar(&unpacked)
        }
    }
}

fn over(bound: usize) -> Error {
    Error::ArchiveBomb {
        problem: format!("unpacks to more than {bound} bytes, which its size does not explain"),
    }
}

fn too_many() -> Error {
    Error::ArchiveBomb { problem: format!("has more than {MAX_ENTRIES} entries") }
}

/// Only these files matter; weights in other formats are named and not read.
fn is_read(path: &str) -> bool {
    [".onnx", ".json", ".txt"].iter().any(|end| path.ends_with(end))
}

fn checked(path: &str) -> Result<String> {
    let path = path.strip_prefix("./").unwrap_or(path);
    let leaves = path.starts_with('/') || path.contains('\\') || path.split('/').any(|part| part == "..");
    if leaves { Err(Error::ArchivePath { path: path.into() }) } else { Ok(path.into()) }
}

fn unzip(bytes: &[u8], bound: usize) -> Result<BTreeMap<String, Vec<u8>>> {
    let damaged =
        |error: zip::result::ZipError| Error::Archive { problem: format!("the zip is damaged ({error})") };
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(damaged)?;
    if archive.len() > MAX_ENTRIES {
        return Err(too_many());
    }
    let (mut files, mut left) = (BTreeMap::new(), bound);
    for index in 0..archive.len() {
        let mut file = archive.by_index(index).map_err(damaged)?;
        let name = file.name().map_err(damaged)?.into_owned();
        if file.is_dir() {
            continue;
        }
        let path = checked(&name)?;
        let mut content = Vec::new();
        if is_read(&path) {
            let read = (&mut file).take(left as u64 + 1).read_to_end(&mut content);
            read.map_err(|error| Error::Archive { problem: format!("`{path}` is damaged ({error})") })?;
            left = left.checked_sub(content.len()).ok_or_else(|| over(bound))?;
        }
        files.insert(path, content);
    }
    Ok(files)
}

/// The files of a tar: plain ones; links and devices are left out.
fn untar(bytes: &[u8]) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    let mut at = 0;
    // A name that the header has no room for stands in an entry of its own before it.
    let mut long_name: Option<String> = None;
    let mut entries = 0;
    while let Some(header) = bytes.get(at..at + BLOCK) {
        if header.iter().all(|&byte| byte == 0) {
            break;
        }
        entries += 1;
        if entries > MAX_ENTRIES {
            return Err(too_many());
        }
        let size = octal(&header[124..136])?;
        let start = at + BLOCK;
        let content = start.checked_add(size).and_then(|end| bytes.get(start..end));
        let content =
            content.ok_or_else(|| Error::Archive { problem: "the tar ends inside a file".into() })?;
        match header[156] {
            b'0' | 0 => {
                let path = checked(&long_name.take().unwrap_or_else(|| name(header)))?;
                let content = if is_read(&path) { content.to_vec() } else { Vec::new() };
                files.insert(path, content);
            }
            b'L' => long_name = Some(text(content)),
            b'x' => long_name = pax_path(content),
            _ => long_name = None,
        }
        at = start + size.div_ceil(BLOCK) * BLOCK;
    }
    if files.is_empty() {
        return Err(Error::Archive { problem: "there is no file in the tar".into() });
    }
    Ok(files)
}

fn octal(field: &[u8]) -> Result<usize> {
    let digits = std::str::from_utf8(field).unwrap_or_default().trim_matches(['\0', ' ']);
    usize::from_str_radix(digits, 8)
        .map_err(|_| Error::Archive { problem: "a header of the tar has no readable size".into() })
}

fn text(field: &[u8]) -> String {
    let end = field.iter().position(|&byte| byte == 0).unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end]).into_owned()
}

fn name(header: &[u8]) -> String {
    let (prefix, name) = (text(&header[345..500]), text(&header[..100]));
    let posix = &header[257..263] == b"ustar\0";
    if posix && !prefix.is_empty() { format!("{prefix}/{name}") } else { name }
}

/// The path in an extended header: lines of `LENGTH KEY=VALUE`.
fn pax_path(content: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(content);
    text.lines().find_map(|line| line.split_once(" path=").map(|(_, path)| path.to_owned()))
}

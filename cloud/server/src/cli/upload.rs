//! What the user names, as one file to send: a file as it is, a folder as a zip in a temporary file.

use super::exit::Failure;
use flotilla_protocol::ErrorCode;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use zip::CompressionMethod;
use zip::write::SimpleFileOptions;

/// Files left out that are named.
const LEFT_OUT_SHOWN: usize = 20;
/// Folders deeper than this are not walked.
const DEPTH: usize = 16;

/// An open file with the bytes to send, and the name that tells its format.
pub(crate) fn open(path: &Path) -> Result<(File, String), Failure> {
    let missing = |e: std::io::Error| {
        let detail = format!("{} cannot be read: {e}; name a folder, a zip or a csv file", path.display());
        Failure::new(ErrorCode::DatasetPathMissing, detail)
    };
    let facts = std::fs::metadata(path).map_err(missing)?;
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_else(|| "data".into());
    if facts.is_file() {
        return Ok((File::open(path).map_err(missing)?, name));
    }
    let failed = |e: std::io::Error| {
        let (code, advice) = match e.kind() {
            std::io::ErrorKind::StorageFull => (ErrorCode::StorageFull, "; name a larger disk with TMPDIR"),
            _ => (ErrorCode::StorageIo, ""),
        };
        Failure::new(code, format!("packing {}: {e}{advice}", path.display()))
    };
    let mut writer = zip::ZipWriter::new(anonymous_file().map_err(failed)?);
    let mut left_out = Vec::new();
    pack(&mut writer, path, "", 0, &mut left_out).map_err(failed)?;
    for reason in left_out.iter().take(LEFT_OUT_SHOWN) {
        eprintln!("left out: {reason}");
    }
    if left_out.len() > LEFT_OUT_SHOWN {
        eprintln!("left out: … and {} more", left_out.len() - LEFT_OUT_SHOWN);
    }
    let mut file = writer.finish().map_err(|e| failed(std::io::Error::other(e)))?;
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    Ok((file, format!("{name}.zip")))
}

/// Several files and folders as a zip, in the order in which they are named; one as [`open`] does it.
pub(crate) fn files(paths: &[PathBuf]) -> Result<(File, String), Failure> {
    if let [path] = paths {
        return open(path);
    }
    let failed = |e: std::io::Error| Failure::new(ErrorCode::StorageIo, format!("packing the samples: {e}"));
    let mut writer = zip::ZipWriter::new(anonymous_file().map_err(failed)?);
    let mut left_out = Vec::new();
    for (index, path) in paths.iter().enumerate() {
        let missing = |e: std::io::Error| {
            Failure::new(ErrorCode::NotFound, format!("{} cannot be read: {e}", path.display()))
        };
        // Files of different folders may be called alike.
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if std::fs::metadata(path).map_err(missing)?.is_dir() {
            pack(&mut writer, path, &format!("{index:06}/"), 0, &mut left_out).map_err(failed)?;
            continue;
        }
        let mut file = File::open(path).map_err(missing)?;
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
        writer
            .start_file(format!("{index:06}-{name}"), options)
            .map_err(|e| failed(std::io::Error::other(e)))?;
        std::io::copy(&mut file, &mut writer).map_err(failed)?;
    }
    if let Some(reason) = left_out.first() {
        return Err(Failure::new(ErrorCode::InvalidInput, format!("{reason}; name the samples without it")));
    }
    let mut file = writer.finish().map_err(|e| failed(std::io::Error::other(e)))?;
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    Ok((file, "samples.zip".to_owned()))
}

/// Programs as a zip, each named by its architecture: what the program says itself, or `arch`.
pub(crate) fn programs(files: &[PathBuf], arch: Option<String>) -> Result<File, Failure> {
    let failed = |e: std::io::Error| Failure::new(ErrorCode::StorageIo, format!("packing the programs: {e}"));
    let mut writer = zip::ZipWriter::new(anonymous_file().map_err(failed)?);
    for path in files {
        let program = std::fs::read(path).map_err(|e| {
            Failure::new(ErrorCode::NotFound, format!("{} cannot be read: {e}", path.display()))
        })?;
        let found = flotilla_registry::architecture(&program).map(ToOwned::to_owned);
        let arch = match &arch {
            Some(_) if files.len() > 1 => {
                let detail = "--arch is for one program; several say their architecture themselves";
                return Err(Failure::new(ErrorCode::InvalidInput, detail));
            }
            Some(arch) => arch.clone(),
            None => found.ok_or_else(|| {
                let detail = format!("{} does not say its architecture; name it with --arch", path.display());
                Failure::new(ErrorCode::InvalidInput, detail)
            })?,
        };
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
        writer.start_file(arch, options).map_err(|e| failed(std::io::Error::other(e)))?;
        writer.write_all(&program).map_err(failed)?;
    }
    let mut file = writer.finish().map_err(|e| failed(std::io::Error::other(e)))?;
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    Ok(file)
}

/// A temporary file that has no name any more, so that nothing stays behind.
fn anonymous_file() -> std::io::Result<File> {
    let path = std::env::temp_dir().join(format!("flotilla-upload-{:016x}", rand::random::<u64>()));
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

/// Packs what can be read; what cannot is named in `left_out`, with the reason.
fn pack(
    writer: &mut zip::ZipWriter<File>,
    folder: &Path,
    prefix: &str,
    depth: usize,
    left_out: &mut Vec<String>,
) -> std::io::Result<()> {
    if depth > DEPTH {
        left_out.push(format!("{}: it lies more than {DEPTH} folders deep", folder.display()));
        return Ok(());
    }
    let mut entries = std::fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        let (kind, path) = (entry.file_type()?, entry.path());
        if kind.is_dir() {
            pack(writer, &path, &format!("{name}/"), depth + 1, left_out)?;
        } else if kind.is_file() {
            let mut file = match File::open(&path) {
                Ok(file) => file,
                Err(e) => {
                    left_out.push(format!("{}: {e}", path.display()));
                    continue;
                }
            };
            // Pictures are compressed already.
            let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
            writer.start_file(name, options).map_err(std::io::Error::other)?;
            std::io::copy(&mut file, writer)?;
        } else {
            left_out.push(format!("{}: it is neither a file nor a folder", path.display()));
        }
    }
    Ok(())
}

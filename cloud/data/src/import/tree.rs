//! The files of a source: a folder, a zip or one file, listed and checked before anything is read.

use super::metered::{Meter, bomb, is_over_bound, unpacked_bound};
use crate::bounds::{FOLDER_DEPTH, IMPORT_FILES};
use crate::error::{Error, Result};
use flate2::read::MultiGzDecoder;
use flotilla_protocol::limits;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek};
use std::path::{Path, PathBuf};
use zip::ZipArchive;
use zip::result::ZipError;

/// What a zip begins with: a file, or the end of an empty one.
const ZIP_MAGICS: [&[u8]; 2] = [b"PK\x03\x04", b"PK\x05\x06"];
/// What a gzip file begins with.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
/// Bytes read at once.
const BUFFER: usize = 64 * limits::KIB;

/// One file of a source.
#[derive(Clone, Debug)]
pub(super) struct TreeFile {
    /// Its path within the source, parts joined by `/`.
    pub(super) path: String,
    /// Its bytes as stored (in a zip: as declared).
    bytes: u64,
    /// Index in the zip.
    index: usize,
}

impl TreeFile {
    /// The name without its folders, in lower case and without `.gz`.
    pub(super) fn plain_name(&self) -> String {
        let name = self.path.rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
        name.strip_suffix(".gz").map(str::to_owned).unwrap_or(name)
    }

    /// The extension of the plain name.
    pub(super) fn extension(&self) -> String {
        let name = self.plain_name();
        name.rsplit_once('.').map(|(_, extension)| extension.to_owned()).unwrap_or_default()
    }
}

/// A file that cannot be read, and why.
pub(super) type Unreadable = (String, String);

/// The files of a source.
pub(super) struct Tree {
    /// How the source is called in messages.
    pub(super) name: String,
    /// Its files, sorted by path.
    pub(super) files: Vec<TreeFile>,
    /// What was found and cannot be read.
    pub(super) unreadable: Vec<Unreadable>,
    root: Root,
    max_bytes: u64,
}

enum Root {
    File(PathBuf),
    Folder(PathBuf),
    Zip { archive: Box<ZipArchive<BufReader<File>>>, meter: Meter },
}

impl Tree {
    /// Lists a source. An archive with a dangerous entry is refused here.
    pub(super) fn open(path: &Path, max_bytes: u64) -> Result<Self> {
        let name = path.display().to_string();
        let metadata = match fs::metadata(path) {
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Err(Error::PathMissing { path: path.to_path_buf() });
            }
            found => found.map_err(Error::io("read", path))?,
        };
        let mut tree = Self {
            name,
            files: Vec::new(),
            unreadable: Vec::new(),
            root: Root::Folder(path.to_path_buf()),
            max_bytes,
        };
        if metadata.is_dir() {
            tree.walk(path)?;
        } else if metadata.is_file() {
            tree.open_file(path, metadata.len())?;
        } else {
            return Err(Error::format(tree.name, "it is neither a file nor a folder"));
        }
        tree.files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(tree)
    }

    fn open_file(&mut self, path: &Path, bytes: u64) -> Result<()> {
        let mut file = File::open(path).map_err(Error::io("open", path))?;
        let mut magic = [0; 4];
        let read = read_up_to(&mut file, &mut magic).map_err(Error::io("read", path))?;
        if ZIP_MAGICS.contains(&&magic[..read]) {
            file.rewind().map_err(Error::io("read", path))?;
            return self.open_zip(file, bytes);
        }
        let file_name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.files.push(TreeFile { path: file_name, bytes, index: 0 });
        self.root = Root::File(path.to_path_buf());
        Ok(())
    }

    fn open_zip(&mut self, file: File, bytes: u64) -> Result<()> {
        let name = self.name.clone();
        let damaged = |e: ZipError| Error::format(name.clone(), format!("the zip is damaged ({e})"));
        let mut archive = ZipArchive::new(BufReader::with_capacity(BUFFER, file)).map_err(damaged)?;
        if archive.len() > IMPORT_FILES {
            return Err(too_many_files(&self.name));
        }
        if archive.has_overlapping_files().map_err(damaged)? {
            let problem = "gives the same bytes to several entries".to_owned();
            return Err(Error::ArchiveBomb { archive: self.name.clone(), problem });
        }
        let bound = unpacked_bound(bytes, self.max_bytes);
        let mut declared: u64 = 0;
        for index in 0..archive.len() {
            let entry = archive.by_index_data(index).map_err(damaged)?;
            let entry_name = entry.name().map_err(damaged)?;
            let dangerous = |problem| Error::ArchivePath {
                archive: self.name.clone(),
                entry: entry_name.chars().take(limits::LABEL).collect(),
                problem,
            };
            let path = entry_path(&entry_name).map_err(dangerous)?;
            if entry.is_symlink() {
                return Err(dangerous("a symbolic link"));
            }
            declared = declared.saturating_add(entry.size());
            if entry.is_dir() || is_hidden(&path) {
                continue;
            }
            if entry.encrypted() {
                self.unreadable.push((path, "it is encrypted".into()));
            } else {
                self.files.push(TreeFile { path, bytes: entry.size(), index });
            }
        }
        if declared > bound {
            return Err(bomb(&self.name));
        }
        self.root = Root::Zip { archive: Box::new(archive), meter: Meter::new(bound) };
        Ok(())
    }

    fn walk(&mut self, root: &Path) -> Result<()> {
        let mut folders = vec![(root.to_path_buf(), String::new(), 0)];
        while let Some((folder, prefix, depth)) = folders.pop() {
            for entry in fs::read_dir(&folder).map_err(Error::io("list", &folder))? {
                let entry = entry.map_err(Error::io("list", &folder))?;
                let path = prefix.clone() + &entry.file_name().to_string_lossy();
                if is_hidden(&path) {
                    continue;
                }
                if self.files.len() + self.unreadable.len() + folders.len() >= IMPORT_FILES {
                    return Err(too_many_files(&self.name));
                }
                let metadata = entry.metadata().map_err(Error::io("read", &entry.path()))?;
                if entry.file_name().to_str().is_none() {
                    self.unreadable.push((path, "its name is not UTF-8".into()));
                } else if metadata.is_dir() && depth + 1 == FOLDER_DEPTH {
                    self.unreadable.push((path, format!("it is more than {FOLDER_DEPTH} folders deep")));
                } else if metadata.is_dir() {
                    folders.push((entry.path(), format!("{path}/"), depth + 1));
                } else if metadata.is_file() {
                    self.files.push(TreeFile { path, bytes: metadata.len(), index: 0 });
                } else {
                    // A link may lead anywhere on the server's machine.
                    self.unreadable.push((path, "it is a link or a special file".into()));
                }
            }
        }
        Ok(())
    }

    /// Whether the source may hold more than one file.
    pub(super) fn is_archive_or_folder(&self) -> bool {
        !matches!(self.root, Root::File(_))
    }

    /// Opens a file, unpacking gzip. All reading is bounded.
    pub(super) fn open_at(&mut self, file: &TreeFile) -> Result<Box<dyn Read + '_>> {
        let path = match &self.root {
            Root::File(path) => path.clone(),
            Root::Folder(root) => root.join(&file.path),
            Root::Zip { .. } => PathBuf::from(&file.path),
        };
        let max_bytes = self.max_bytes;
        let mut inner: Box<dyn Read + '_> = match &mut self.root {
            Root::File(_) | Root::Folder(_) => {
                let opened = File::open(&path).map_err(Error::io("open", &path))?;
                Box::new(Meter::new(max_bytes).reader(BufReader::with_capacity(BUFFER, opened)))
            }
            Root::Zip { archive, meter } => {
                let entry = archive.by_index(file.index);
                let entry = entry.map_err(|e| Error::format(&file.path, format!("it is damaged ({e})")))?;
                Box::new(meter.reader(entry))
            }
        };
        let mut magic = [0; 2];
        let read = read_up_to(&mut inner, &mut magic).map_err(|e| failed(&self.name, &path, e))?;
        let whole = io::Cursor::new(magic).take(read as u64).chain(inner);
        if magic != GZIP_MAGIC {
            return Ok(Box::new(whole));
        }
        let meter = Meter::new(unpacked_bound(file.bytes, max_bytes));
        Ok(Box::new(meter.reader(MultiGzDecoder::new(whole))))
    }
}

/// The error for a failed read. Running out the meter is an attack or a mistake, not a bad sample; what does
/// not unpack is the file's fault, not the disk's.
pub(super) fn failed(archive: &str, path: &Path, error: io::Error) -> Error {
    use io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
    if is_over_bound(&error) {
        return bomb(archive);
    }
    match error.kind() {
        InvalidData | InvalidInput | UnexpectedEof => {
            Error::format(path.display().to_string(), format!("it is damaged or cut off ({error})"))
        }
        _ => Error::io("read", path)(error),
    }
}

fn too_many_files(name: &str) -> Error {
    Error::TooLarge {
        what: format!("files in {name}"),
        size: IMPORT_FILES as u64 + 1,
        bound: IMPORT_FILES as u64,
    }
}

/// Files that systems leave about: no data, and nobody misses them.
fn is_hidden(path: &str) -> bool {
    path.split('/').any(|part| part.starts_with('.') || part == "__MACOSX")
}

/// The path of an archive's entry, or why it is dangerous. Such an entry is refused, not repaired: whoever
/// wrote it meant harm or made a mistake that shows elsewhere too.
fn entry_path(name: &str) -> Result<String, &'static str> {
    if name.contains('\0') {
        return Err("a name with a zero byte");
    }
    if name.starts_with(['/', '\\']) || name.as_bytes().get(1) == Some(&b':') {
        return Err("an absolute path");
    }
    if name.split(['/', '\\']).any(|part| part == "..") {
        return Err("a path that leaves the archive");
    }
    if name.contains('\\') {
        return Err("a path with backslashes");
    }
    let parts: Vec<&str> = name.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    Ok(parts.join("/"))
}

/// Fills the buffer as far as there is something.
pub(crate) fn read_up_to(reader: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::entry_path;

    #[test]
    fn dangerous_entry_names_are_refused_and_harmless_ones_normalised() {
        for dangerous in
            ["../x", "a/../../x", "a/..", "/etc/passwd", "\\x", "C:\\x", "c:/x", "a\\..\\x", "a\\b", "a\0b"]
        {
            entry_path(dangerous).unwrap_err();
        }
        assert_eq!(entry_path("./a//b.png").unwrap(), "a/b.png");
        assert_eq!(entry_path("a/..b/c...png").unwrap(), "a/..b/c...png");
    }
}

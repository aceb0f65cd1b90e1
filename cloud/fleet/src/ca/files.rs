//! Private files: written atomically, readable by their owner alone, and checked for that when read.

use super::Error;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use zeroize::Zeroizing;

/// Largest key file that is read: a key and a certificate take about 1 KiB.
const KEY_FILE: u64 = 64 * 1024;
const GROUP_AND_OTHERS: u32 = 0o077;

fn failed(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    move |source| Error::Io { action, path: path.to_path_buf(), source }
}

/// Makes the folder if it is not there, and closes it to other users.
pub(super) fn private_folder(path: &Path) -> Result<(), Error> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("create", path))?;
    let mode = fs::metadata(path).map_err(failed("read", path))?.permissions().mode();
    if mode & GROUP_AND_OTHERS != 0 {
        fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(failed("restrict", path))?;
    }
    Ok(())
}

/// The text of a private file; `None` if there is none.
pub(super) fn read(path: &Path) -> Result<Option<Zeroizing<String>>, Error> {
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(failed("open", path))?,
    };
    let mode = file.metadata().map_err(failed("read", path))?.permissions().mode() & 0o7777;
    if mode & GROUP_AND_OTHERS != 0 {
        return Err(Error::Exposed { path: path.to_path_buf(), mode });
    }
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(KEY_FILE + 1).read_to_end(&mut bytes).map_err(failed("read", path))?;
    let damaged = |reason: &str| Error::Damaged { path: path.to_path_buf(), reason: reason.to_owned() };
    if bytes.len() as u64 > KEY_FILE {
        return Err(damaged("larger than any key file"));
    }
    match std::str::from_utf8(&bytes) {
        Ok(text) => Ok(Some(Zeroizing::new(text.to_owned()))),
        Err(_) => Err(damaged("not text")),
    }
}

/// Writes a private file so that after a power cut there is either all of it or none of it.
pub(super) fn write(folder: &Path, name: &str, text: &str) -> Result<(), Error> {
    let target = folder.join(name);
    let draft = folder.join(format!(".{name}.draft"));
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed("remove", &draft)(error)),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&draft)
        .map_err(failed("create", &draft))?;
    file.write_all(text.as_bytes()).map_err(failed("write", &draft))?;
    file.sync_all().map_err(failed("flush", &draft))?;
    fs::rename(&draft, &target).map_err(failed("rename", &draft))?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("flush", folder))
}

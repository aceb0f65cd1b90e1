//! The administrator token: in plain only in a file that its owner alone can read.
//!
//! The file is what the server believes, the stored hash says whether it has changed since. A file that is
//! gone, or that others could read, is replaced with a new token, which ends the old one and its sessions.

use crate::error::{Error, Result};
use crate::secret::Secret;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Name of the token's file.
pub const ADMIN_TOKEN_FILE: &str = "admin-token";
const PREFIX: &str = "flt-";
/// `flt-` and 64 hex digits.
const TOKEN_LEN: usize = 68;
const GROUP_AND_OTHERS: u32 = 0o077;

/// What opening found: for the server to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenState {
    /// The first start: a token was made.
    Created,
    /// The token of the last start is valid.
    Unchanged,
    /// The file was gone: a new token was made, the old one no longer works.
    Replaced,
    /// Other users could read the file: a new token was made, the old one no longer works.
    ReplacedExposed,
    /// The file holds another token than at the last start: that one is valid now, the old one no longer works.
    Changed,
}

/// What lies in the folder.
pub(crate) enum Found {
    Token(Secret),
    Missing,
    Exposed,
}

/// Reads the token file.
pub(crate) fn read(path: &Path) -> Result<Found> {
    let failed = |action| move |source| Error::Io { action, path: path.to_path_buf(), source };
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Missing),
        opened => opened.map_err(failed("open"))?,
    };
    let mode = file.metadata().map_err(failed("read"))?.permissions().mode();
    if mode & GROUP_AND_OTHERS != 0 {
        return Ok(Found::Exposed);
    }
    let mut text = zeroize::Zeroizing::new(String::new());
    let not_a_token = || Error::TokenFile { path: path.to_path_buf() };
    match file.take(TOKEN_LEN as u64 + 2).read_to_string(&mut text) {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(not_a_token()),
        read => read.map_err(failed("read"))?,
    };
    let token = text.trim_end();
    let digits = token.strip_prefix(PREFIX).ok_or_else(not_a_token)?;
    if token.len() != TOKEN_LEN || !digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(not_a_token());
    }
    Ok(Found::Token(Secret::from_text(token)))
}

/// Makes a token and its file; after a power cut there is either all of the file or none of it.
pub(crate) fn create(folder: &Path) -> Result<Secret> {
    let failed = |action, path: &Path| {
        let path: PathBuf = path.to_path_buf();
        move |source| Error::Io { action, path, source }
    };
    fs::create_dir_all(folder).map_err(failed("create", folder))?;
    let path = folder.join(ADMIN_TOKEN_FILE);
    let draft = folder.join(format!(".{ADMIN_TOKEN_FILE}.draft"));
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("remove", &draft)(error)),
        _ => {}
    }
    let token = Secret::random(PREFIX);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&draft)
        .map_err(failed("create", &draft))?;
    file.write_all(token.expose().as_bytes()).map_err(failed("write", &draft))?;
    file.write_all(b"\n").map_err(failed("write", &draft))?;
    file.sync_all().map_err(failed("flush", &draft))?;
    fs::rename(&draft, &path).map_err(failed("rename", &draft))?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("flush", folder))?;
    Ok(token)
}

//! The project's signing keys: one for releases and trust files, one for desired documents.
//!
//! They are apart because they may live apart: the control key must be online to sign what devices should do
//! from minute to minute; the release key is used when a person makes a release.

use crate::error::{Error, Result};
use crate::files;
use flotilla_protocol::signature::SigningKey;
use std::path::Path;
use zeroize::Zeroizing;

const RELEASE_FILE: &str = "release.key";
const CONTROL_FILE: &str = "control.key";

/// The two private keys of a project. Debug output shows their ids only.
#[derive(Debug)]
pub struct Keys {
    /// Signs releases and trust files.
    pub release: SigningKey,
    /// Signs desired documents.
    pub control: SigningKey,
}

impl Keys {
    /// Opens the keys in `folder` (0700), making those that are not there yet (0600). Blocks on the disk.
    pub fn open_or_create(folder: &Path) -> Result<Self> {
        files::private_folder(folder)?;
        Ok(Self { release: open(folder, RELEASE_FILE)?, control: open(folder, CONTROL_FILE)? })
    }
}

/// Reads a private key that a person keeps, such as an offline release key. Blocks on the disk.
pub fn read_key(path: &Path) -> Result<SigningKey> {
    let missing =
        || Error::Io { action: "open", path: path.to_owned(), source: std::io::ErrorKind::NotFound.into() };
    let bytes = files::read(path)?.ok_or_else(missing)?;
    SigningKey::from_pkcs8(&bytes).map_err(|_| Error::KeyDamaged { path: path.to_owned() })
}

fn open(folder: &Path, name: &str) -> Result<SigningKey> {
    let path = folder.join(name);
    let bytes = match files::read(&path)? {
        Some(bytes) => bytes,
        None => {
            let bytes = Zeroizing::new(SigningKey::generate_pkcs8());
            files::write(folder, name, &bytes)?;
            bytes
        }
    };
    SigningKey::from_pkcs8(&bytes).map_err(|_| Error::KeyDamaged { path })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;
    use flotilla_protocol::ErrorCode;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn keys_are_made_once_private_and_apart() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("keys");
        let first = Keys::open_or_create(&folder).unwrap();
        let again = Keys::open_or_create(&folder).unwrap();
        assert_eq!(first.release.public(), again.release.public());
        assert_eq!(first.control.public(), again.control.public());
        assert_ne!(first.release.public(), first.control.public());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&folder), 0o700);
        assert_eq!(mode(&folder.join(RELEASE_FILE)), 0o600);
        assert_eq!(mode(&folder.join(CONTROL_FILE)), 0o600);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2, "no draft stays");
    }

    #[test]
    fn a_key_that_others_can_read_or_that_is_damaged_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        Keys::open_or_create(dir.path()).unwrap();
        let path = dir.path().join(RELEASE_FILE);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(Keys::open_or_create(dir.path()).unwrap_err().code(), ErrorCode::PermissionDenied);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, b"not a key").unwrap();
        assert_eq!(Keys::open_or_create(dir.path()).unwrap_err().code(), ErrorCode::StorageCorrupt);
        fs::write(&path, vec![0; 10_000]).unwrap();
        assert_eq!(Keys::open_or_create(dir.path()).unwrap_err().code(), ErrorCode::StorageCorrupt);
    }
}

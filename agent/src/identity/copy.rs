//! A second copy of names, CA, key and certificates, in one file with a checksum.

use super::{CA, CERTIFICATE, KEY, NAMES, bytes, file};
use crate::Error;
use crate::folder::{Folder, IDENTITY, IDENTITY_COPY};
use flotilla_device::frame::{self, Kind};
use flotilla_protocol::{codec, limits};
use std::collections::BTreeMap;
use std::path::Path;
use zeroize::Zeroizing;

const KIND: Kind = Kind { name: *b"FIC", version: 1 };
const BOUND: usize = 256 * limits::KIB;
const FILES: [&str; 4] = [KEY, CERTIFICATE, CA, NAMES];

/// Brings the copy up to date with an identity that was read well.
pub(super) fn renew(folder: &Folder) -> Result<(), Error> {
    let mut files = BTreeMap::new();
    for name in FILES {
        files.insert(name, Zeroizing::new(String::from_utf8_lossy(&bytes(folder, name)?).into_owned()));
    }
    let texts: BTreeMap<&str, &str> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let sealed = Zeroizing::new(frame::seal(KIND, &Zeroizing::new(codec::encode(&texts))));
    let there = folder.disk().read(IDENTITY_COPY.as_ref(), BOUND).ok().flatten().map(Zeroizing::new);
    if there.as_deref() != Some(&*sealed) {
        folder.disk().replace(IDENTITY_COPY.as_ref(), &sealed)?;
    }
    Ok(())
}

/// Puts back every file that differs from the copy. False if there is no copy that can be used.
pub(super) fn put_back(folder: &Folder) -> Result<bool, Error> {
    let Some(sealed) = folder.disk().read(IDENTITY_COPY.as_ref(), BOUND)?.map(Zeroizing::new) else {
        return Ok(false);
    };
    let Ok((_, content)) = frame::open(KIND, &sealed) else { return Ok(false) };
    let Ok(files) = codec::decode::<BTreeMap<String, String>>(content, BOUND) else { return Ok(false) };
    let files: BTreeMap<String, Zeroizing<String>> =
        files.into_iter().map(|(name, text)| (name, Zeroizing::new(text))).collect();
    for name in FILES {
        let Some(text) = files.get(name) else { return Ok(false) };
        let there = folder.disk().read(&Path::new(IDENTITY).join(name), BOUND).ok().flatten();
        if there.as_deref() != Some(text.as_bytes()) {
            tracing::warn!(file = %file(folder, name).display(), "put back from its copy");
            folder.disk().replace(&Path::new(IDENTITY).join(name), text.as_bytes())?;
        }
    }
    Ok(true)
}

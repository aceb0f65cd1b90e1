//! A second copy of names, CA, key and certificates, in one file with a checksum.

use super::{CA, CERTIFICATE, KEY, NAMES, bytes};
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

/// The files of the copy by name; none if there is no copy that can be used.
pub(super) fn read(folder: &Folder) -> Result<Option<BTreeMap<String, Zeroizing<String>>>, Error> {
    let Some(sealed) = folder.disk().read(IDENTITY_COPY.as_ref(), BOUND)?.map(Zeroizing::new) else {
        return Ok(None);
    };
    let Ok((_, content)) = frame::open(KIND, &sealed) else { return Ok(None) };
    let Ok(files) = codec::decode::<BTreeMap<String, String>>(content, BOUND) else { return Ok(None) };
    let files: BTreeMap<_, _> = files.into_iter().map(|(name, text)| (name, Zeroizing::new(text))).collect();
    Ok(Some(files).filter(|files| FILES.iter().all(|name| files.contains_key(*name))))
}

/// Puts back every file that differs from the copy. False if there is no copy that can be used.
pub(super) fn put_back(folder: &Folder) -> Result<bool, Error> {
    let Some(files) = read(folder)? else { return Ok(false) };
    for (name, text) in files.iter().filter(|(name, _)| FILES.contains(&name.as_str())) {
        let place = Path::new(IDENTITY).join(name);
        let there = folder.disk().read(&place, BOUND).ok().flatten();
        if there.as_deref() != Some(text.as_bytes()) {
            tracing::warn!(file = %place.display(), "put back from its copy");
            folder.disk().replace(&place, text.as_bytes())?;
        }
    }
    Ok(true)
}

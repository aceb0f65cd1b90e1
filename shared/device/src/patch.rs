//! Which files of a release are made from patches instead of being fetched.
//!
//! A patch is fetched as files are, and what comes out of it counts chunk by chunk, as what is copied from another slot
//! does. So nothing depends on it: what a patch does not bring, however it fails, is fetched.

use crate::Fault;
use crate::download::Download;
use flotilla_patch::METHOD;
use flotilla_protocol::manifest::{FileEntry, Patch};
use flotilla_protocol::{Digest, ErrorCode};
use std::collections::BTreeSet;

/// A file and the patch that it is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The file.
    pub file: FileEntry,
    /// The patch.
    pub patch: Patch,
}

/// The patches of one attempt to fill a slot. Each is tried once.
#[derive(Clone, Debug)]
pub struct Patches {
    files: Vec<FileEntry>,
    tried: BTreeSet<Digest>,
}

impl Patches {
    /// Those of a verified manifest's files.
    pub fn of(files: &[FileEntry]) -> Self {
        Self { files: files.to_vec(), tried: BTreeSet::new() }
    }

    /// The next patch to try: of a method known here, with a base that is held, and with less to fetch than the file still
    /// has; of several that which costs least. `here` says how many bytes of a patch lie here already.
    pub fn next(
        &mut self,
        download: &Download,
        held: impl Fn(&Digest) -> bool,
        here: impl Fn(&Patch) -> u64,
    ) -> Option<Choice> {
        let choice = self.files.iter().find_map(|file| {
            let missing = download.missing_bytes(&file.digest);
            let usable = file.patches.iter().filter(|patch| {
                patch.method == METHOD
                    && !self.tried.contains(&patch.digest)
                    && patch.base.as_ref().is_none_or(&held)
            });
            let costs = usable.map(|patch| (patch.bytes.saturating_sub(here(patch)), patch));
            let (cost, patch) = costs.min_by_key(|(cost, _)| *cost)?;
            (cost < missing).then(|| Choice { file: file.clone(), patch: patch.clone() })
        })?;
        self.tried.insert(choice.patch.digest);
        Some(choice)
    }
}

/// Whether a patch that could not be fetched is given up for the file itself, which may well be had: the cloud does not give
/// the patch out or sends something else, or there is room for the file alone. A link that is down is neither's fault.
pub fn is_given_up(fault: &Fault, fetch: &Download) -> bool {
    match fault.code {
        ErrorCode::NotFound | ErrorCode::FetchDenied | ErrorCode::NoRoom => true,
        _ => fetch.is_refused(),
    }
}

#[cfg(test)]
#[path = "patch_tests.rs"]
mod tests;

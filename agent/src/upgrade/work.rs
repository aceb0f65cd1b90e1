//! Slow work that only the agent's own release needs.

use super::selftest;
use crate::daemon::News;
use crate::intake::{Desk, blocking};
use crate::probe::{self, FILES_FOLDER, ProbeError, ProbeLimits};
use crate::slot::Slot;
use flotilla_device::Fault;
use flotilla_device::launch::Binary;
use flotilla_launcher::{checksum, is_unusable};
use flotilla_protocol::message::{ProbeReport, SlotName};
use flotilla_protocol::{Digest, ErrorCode, ReleaseManifest};
use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Where the binary of a release lies.
fn path_of(place: &Slot, part: &ReleaseManifest) -> PathBuf {
    let name = part.files.first().map_or("", |file| &file.name);
    place.path().join(FILES_FOLDER).join(name)
}

/// Lets the agent's user, and nobody else, run the binary.
pub(crate) fn make_program(place: &Slot, part: &ReleaseManifest) -> Result<(), Fault> {
    let path = path_of(place, part);
    let open = || {
        let file = File::open(&path)?;
        file.set_permissions(Permissions::from_mode(0o700))?;
        file.sync_all()
    };
    open().map_err(|e| transient(&path, &e))
}

fn transient(path: &Path, error: &io::Error) -> Fault {
    Fault::transient(ErrorCode::StorageIo, format!("{}: {error}", path.display()))
}

/// Asks the candidate for its version and lets it try everything it needs of this folder, without writing to it.
pub(crate) async fn try_out(
    desk: &Desk,
    place: &Slot,
    release: Digest,
    bounds: ProbeLimits,
) -> Result<ProbeReport, Fault> {
    let (own, own_place) = (desk.clone(), place.clone());
    // What was staged may have changed since: nothing unsigned is started.
    let (part, damaged) = blocking(move || {
        let part = own.part(&own_place, release)?;
        own_place.check(&part)?;
        Ok((part, selftest::damaged(&own.folder)?))
    })
    .await?;
    let path = path_of(place, &part);
    let refused = |error: ProbeError| match &error {
        // A file that is no program here never will be; that a child cannot be started now says nothing about it.
        ProbeError::Spawn(source) if !is_unusable(source) => {
            Fault::transient(ErrorCode::Internal, format!("{error}: {source}"))
        }
        ProbeError::Spawn(source) => {
            Fault::lasting(ErrorCode::ProbeCrashed, format!("the new agent cannot be started: {source}"))
        }
        _ => Fault::lasting(error.code(), error.to_string()),
    };
    let version = probe::version(&path, bounds).await.map_err(refused)?;
    let stated = part.agent.map(|agent| agent.version).unwrap_or_default();
    if version != stated {
        let detail = format!("the new agent says that it is {version:?}; its release says {stated:?}");
        return Err(Fault::lasting(ErrorCode::ProbeMismatch, detail));
    }
    probe::self_test(&path, desk.folder.root(), &damaged, bounds).await.map_err(refused)
}

/// Finds out what the launcher has to know of the release in a slot. Whatever is wrong there came over a file that was
/// verified before, so none of it is the release's fault.
pub(crate) async fn tell_binary(desk: Desk, ticket: u64, name: SlotName, release: Digest) {
    let own = desk.clone();
    let result = blocking(move || {
        let place = own.slot(name);
        let part = own.part(&place, release)?;
        place.check(&part)?;
        let path = path_of(&place, &part);
        let (bytes, crc) = checksum(&path).map_err(|e| transient(&path, &e))?;
        let file = part.files.into_iter().next().map(|file| file.name).unwrap_or_default();
        let version = part.agent.map(|agent| agent.version).unwrap_or_default();
        Ok(Binary { slot: name, release, counter: part.counter, version, file, bytes, crc })
    })
    .await
    .map_err(|fault| Fault { transient: true, ..fault });
    let _ = desk.news.send(News::Binary { ticket, result }).await;
}

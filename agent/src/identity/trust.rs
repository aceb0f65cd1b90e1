//! The trust file: which keys are believed, and how far back nothing may go. It is kept in two places.

use super::{CA, certificates, put_back_text};
use crate::folder::{Folder, TRUST, TRUST_COPY};
use crate::{Error, tls};
use flotilla_device::frame::{self, Kind};
use flotilla_protocol::{Envelope, ProjectId, TrustFile, codec, limits};

const KIND: Kind = Kind { name: *b"FTR", version: 1 };
const PLACES: [&str; 2] = [TRUST, TRUST_COPY];

/// Stores an accepted trust file. The frame shows damage; that the content was believed is why it is here.
pub fn store_trust(folder: &Folder, envelope: &Envelope) -> Result<(), Error> {
    store(folder, &envelope.to_bytes())
}

fn store(folder: &Folder, envelope: &[u8]) -> Result<(), Error> {
    let bytes = frame::seal(KIND, envelope);
    PLACES.into_iter().try_for_each(|place| Ok(folder.disk().replace(place.as_ref(), &bytes)?))
}

/// Reads the trust file that was accepted last. Its signatures were checked then, by keys that it may have
/// replaced since, so they are not checked again.
pub fn trust(folder: &Folder, project: &ProjectId) -> Result<TrustFile, Error> {
    let [first, second] = PLACES.map(|place| read(folder, place, project));
    match (first, second) {
        (Ok(first), Ok(second)) => {
            Ok(if second.trust.version > first.trust.version { second.trust } else { first.trust })
        }
        (Ok(one), Err(_)) | (Err(_), Ok(one)) => Ok(one.trust),
        (Err(error), Err(_)) => Err(error),
    }
}

/// Makes both places hold the file that counts. Says what was damaged. Folders of earlier agents have one place only.
pub(super) fn mend(folder: &Folder, project: &ProjectId) -> Result<Option<String>, Error> {
    let [first, second] = PLACES.map(|place| read(folder, place, project));
    let (good, damaged) = match (&first, &second) {
        (Ok(first), Ok(second)) if first.envelope == second.envelope => return Ok(None),
        (Ok(first), Ok(second)) => {
            (if second.trust.version > first.trust.version { second } else { first }, None)
        }
        (Ok(good), Err(error)) if folder.path(TRUST_COPY).exists() => (good, Some(error)),
        (Ok(good), Err(_)) => (good, None),
        (Err(error), Ok(good)) => (good, Some(error)),
        (Err(_), Err(_)) => return first.map(|_| None),
    };
    if let Err(error) = store(folder, &good.envelope) {
        tracing::warn!(%error, "the copy of the trust file cannot be renewed");
    }
    Ok(damaged.map(put_back_text))
}

/// Why one of the two places cannot be used, if the other can.
pub(crate) fn damaged_copy(folder: &Folder, project: &ProjectId) -> Option<Error> {
    match PLACES.map(|place| read(folder, place, project)) {
        [Ok(_), Err(error)] if folder.path(TRUST_COPY).exists() => Some(error),
        [Err(error), Ok(_)] => Some(error),
        _ => None,
    }
}

struct Stored {
    envelope: Vec<u8>,
    trust: TrustFile,
}

fn read(folder: &Folder, place: &str, project: &ProjectId) -> Result<Stored, Error> {
    let path = folder.path(place);
    let problem = |problem: String| Error::Damaged { path: path.clone(), problem };
    let bytes = folder
        .disk()
        .read(place.as_ref(), limits::ENVELOPE + limits::KIB)?
        .ok_or_else(|| problem("it is missing".to_owned()))?;
    let (_, content) = frame::open(KIND, &bytes).map_err(|e| problem(e.to_string()))?;
    let envelope = Envelope::from_bytes(content).map_err(|e| problem(e.to_string()))?;
    let trust: TrustFile =
        codec::decode(&envelope.payload, limits::ENVELOPE).map_err(|e| problem(e.to_string()))?;
    if trust.project != *project {
        return Err(problem(format!("it is of project {}", trust.project)));
    }
    let ca = certificates(folder, CA)?;
    if ca.first().and_then(|ca| tls::key_digest(ca)) != Some(trust.ca) {
        return Err(problem("it names another CA than the identity".to_owned()));
    }
    Ok(Stored { envelope: content.to_vec(), trust })
}

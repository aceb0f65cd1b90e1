//! Whether a release may come onto this device: asked of the signed manifest alone, before any file is fetched.

use crate::fault::Fault;
use flotilla_protocol::manifest::{ENGINE_TRACT, ReleaseKind, agent_engine};
use flotilla_protocol::{Digest, Envelope, ErrorCode, ModelName, ReleaseManifest, TrustFile, limits};

/// What this device has to offer a release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Board {
    /// Name of the board profile.
    pub name: String,
    /// Largest release that may be stored, in bytes.
    pub model_bytes: u64,
    /// Free bytes on the disk of the agent's folder that no other download was promised.
    pub disk_free_bytes: u64,
    /// Bytes on that disk that stay free.
    pub disk_reserve_bytes: u64,
    /// What the agent may still take of that disk, however much is free.
    pub storage_left_bytes: u64,
    /// Memory of the device; 0 for unknown.
    pub memory_bytes: u64,
}

/// Examines an encoded release envelope. The numbered steps are those of the order in which an attacker would
/// have to get past them:
///
/// 1. the bytes are those that the desired document names;
/// 2. signature, project, floor and expiry, and the manifest's own consistency ([`ReleaseManifest::open`]);
/// 3. it is a model, and the one that is wanted under this name;
/// 4. a variant for this board and engine exists;
/// 5. its files fit the chunk size of the transfer, the bound on models, the disk and the memory.
///
/// `present_bytes` says how much of its files lies in the slot already and needs no further room.
pub fn examine(
    bytes: &[u8],
    expected: Digest,
    model: &ModelName,
    trust: &TrustFile,
    trusted_now_ms: u64,
    board: &Board,
    present_bytes: impl FnOnce(&ReleaseManifest) -> u64,
) -> Result<ReleaseManifest, Fault> {
    let manifest = open(bytes, expected, trust, trusted_now_ms)?;
    match manifest.kind {
        ReleaseKind::Model => {}
        ReleaseKind::Agent => {
            return Err(Fault::lasting(ErrorCode::Unsupported, "the release holds an agent, not a model"));
        }
        ReleaseKind::Measurement => {
            return Err(Fault::lasting(
                ErrorCode::Unsupported,
                "the model was signed to be measured, not to serve",
            ));
        }
    }
    if manifest.model != *model {
        let detail = format!("the release is of model {}, wanted for {model}", manifest.model);
        return Err(Fault::lasting(ErrorCode::InvalidInput, detail));
    }
    manifest.variant_for(&board.name, ENGINE_TRACT).map_err(|e| Fault::lasting(e.code(), e.to_string()))?;
    check_room(&manifest, board, present_bytes(&manifest))?;
    Ok(manifest)
}

/// Examines an encoded manifest of a model that is to be measured, in the same steps. Only such a one: what was signed to
/// serve is tried out by the update that wants it.
pub fn examine_measurement(
    bytes: &[u8],
    expected: Digest,
    trust: &TrustFile,
    trusted_now_ms: u64,
    board: &Board,
    present_bytes: impl FnOnce(&ReleaseManifest) -> u64,
) -> Result<ReleaseManifest, Fault> {
    let manifest = open(bytes, expected, trust, trusted_now_ms)?;
    if manifest.kind != ReleaseKind::Measurement {
        return Err(Fault::lasting(ErrorCode::Unsupported, "it was not signed to be measured"));
    }
    manifest.variant_for(&board.name, ENGINE_TRACT).map_err(|e| Fault::lasting(e.code(), e.to_string()))?;
    check_room(&manifest, board, present_bytes(&manifest))?;
    Ok(manifest)
}

/// Examines an encoded release of the agent itself, in the same steps; `platform` is
/// the operating system and architecture, as Rust names them. What comes back is the part that this device needs: its own binary.
pub fn examine_agent(
    bytes: &[u8],
    expected: Digest,
    trust: &TrustFile,
    trusted_now_ms: u64,
    board: &Board,
    platform: (&str, &str),
    present_bytes: impl FnOnce(&ReleaseManifest) -> u64,
) -> Result<ReleaseManifest, Fault> {
    let manifest = open(bytes, expected, trust, trusted_now_ms)?;
    if manifest.kind != ReleaseKind::Agent {
        return Err(Fault::lasting(ErrorCode::Unsupported, "the release holds a model, not an agent"));
    }
    let part = manifest.part_for(&board.name, &agent_engine(platform.0, platform.1));
    let manifest = part.map_err(|e| Fault::lasting(e.code(), e.to_string()))?;
    check_room(&manifest, board, present_bytes(&manifest))?;
    Ok(manifest)
}

/// Steps 1 and 2.
fn open(
    bytes: &[u8],
    expected: Digest,
    trust: &TrustFile,
    trusted_now_ms: u64,
) -> Result<ReleaseManifest, Fault> {
    let got = Digest::of(bytes);
    if got != expected {
        let detail = format!("the release document has digest {}, wanted {}", got.short(), expected.short());
        return Err(Fault::transient(ErrorCode::DigestMismatch, detail));
    }
    let envelope = Envelope::from_bytes(bytes).map_err(|e| Fault::lasting(e.code(), e.to_string()))?;
    ReleaseManifest::open(&envelope, trust, trusted_now_ms)
        .map_err(|e| Fault::lasting(e.code(), e.to_string()))
}

/// Whether so many bytes fit onto the disk beside what stays free. If not, that is tried again: others may go.
pub fn check_disk(bytes: u64, board: &Board) -> Result<(), Fault> {
    let needed = bytes.saturating_add(board.disk_reserve_bytes);
    // What is complete needs no room, however full the disk has become since.
    if bytes == 0 {
        return Ok(());
    }
    if bytes > board.storage_left_bytes {
        let detail = format!(
            "it needs {bytes} bytes, and {} are left of what the agent may store; raise storage_bytes in agent.toml or \
             remove a model, and it goes on by itself",
            board.storage_left_bytes
        );
        return Err(Fault::transient(ErrorCode::NoRoom, detail));
    }
    if needed <= board.disk_free_bytes {
        return Ok(());
    }
    let detail = format!(
        "{needed} bytes must be free on the disk ({} of them stay free), {} are; make room, and it goes on by itself",
        board.disk_reserve_bytes, board.disk_free_bytes
    );
    Err(Fault::transient(ErrorCode::NoRoom, detail))
}

fn check_room(manifest: &ReleaseManifest, board: &Board, present_bytes: u64) -> Result<(), Fault> {
    let transfer = limits::CHUNK as u32;
    if let Some(file) = manifest.files.iter().find(|f| f.chunk_bytes != transfer && f.chunks.len() > 1) {
        let detail =
            format!("file {} is cut at {} bytes, the transfer at {transfer}", file.name, file.chunk_bytes);
        return Err(Fault::lasting(ErrorCode::Unsupported, detail));
    }
    let total = manifest.total_bytes();
    if total > board.model_bytes {
        let detail = format!("the release has {total} bytes, this device takes {}", board.model_bytes);
        return Err(Fault::lasting(ErrorCode::TooLarge, detail));
    }
    check_disk(total.saturating_sub(present_bytes), board)?;
    let memory = manifest.constraints.memory_bytes;
    if board.memory_bytes > 0 && memory > board.memory_bytes {
        let detail =
            format!("the release needs {memory} bytes of memory, the device has {}", board.memory_bytes);
        return Err(Fault::lasting(ErrorCode::NoRoom, detail));
    }
    Ok(())
}

#[cfg(test)]
#[path = "release_tests.rs"]
mod tests;

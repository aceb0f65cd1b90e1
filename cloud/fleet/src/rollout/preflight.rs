//! Who cannot take a release, and why: asked before a rollout touches anybody. What it says is no promise: a device
//! may come back, or change.

use super::health::Watch;
use super::stage::ShadowStage;
use super::state::Wave;
use crate::devices::Device;
use flotilla_protocol::{DeviceId, ErrorCode, ReleaseManifest, RolloutId};
use flotilla_registry::Release;

/// What a rollout would do.
#[derive(Debug)]
pub struct Preflight {
    /// The release.
    pub release: Release,
    /// Its waves. Which device is in which is decided when it starts.
    pub waves: Vec<Wave>,
    /// How they would be watched, if they would.
    pub watch: Option<Watch>,
    /// The stage before the first wave, if it is asked for.
    pub shadow: Option<ShadowStage>,
    /// Rollouts of the same model that are under way: it would take its devices from them.
    pub supersedes: Vec<RolloutId>,
    /// What stands in its way, by device.
    pub obstacles: Vec<Obstacle>,
}

/// Why a device may not take a release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// The device.
    pub device: DeviceId,
    /// The stable code.
    pub code: ErrorCode,
    /// For people.
    pub detail: String,
}

/// What stands in the way of one device.
pub(super) fn obstacles(
    manifest: &ReleaseManifest,
    device: &Device,
    is_connected: bool,
    now_ms: u64,
) -> Vec<Obstacle> {
    let mut obstacles = Vec::new();
    let mut found = |code, detail| obstacles.push(Obstacle { device: device.id.clone(), code, detail });
    let board = &device.board;
    if !is_connected {
        let detail = match device.last_seen_ms {
            Some(at_ms) => format!("offline; last heard of {} ago", span(now_ms.saturating_sub(at_ms))),
            None => "it has never connected".to_owned(),
        };
        found(ErrorCode::Network, detail);
    }
    // One that has never said hello has not said what it is, either.
    if device.last_seen_ms.is_some() || is_connected {
        let fits = board.engines.iter().any(|engine| manifest.variant_for(&board.board, engine).is_ok());
        if !fits {
            let engines = board.engines.join(", ");
            found(
                ErrorCode::BoardMismatch,
                format!("the release is for other boards or engines: this is {} with {engines}", board.board),
            );
        }
        let needed = manifest.constraints.memory_bytes;
        if board.memory_bytes > 0 && needed > board.memory_bytes {
            let detail =
                format!("the release needs {needed} bytes of memory, the device has {}", board.memory_bytes);
            found(ErrorCode::NoRoom, detail);
        }
    }
    obstacles
}

/// A time in the largest unit that it has two of.
fn span(ms: u64) -> String {
    let seconds = ms / 1_000;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

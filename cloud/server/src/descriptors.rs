//! How many file descriptors this process may have: each connected device takes three.

use flotilla_fleet::broker::Bounds;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors for everything else: the API, records, objects, jobs.
const BESIDE: u64 = 1_024;
/// Descriptors of a connected device.
const CONNECTION: u64 = 3;

/// Raises the soft limit as far as the system permits, and bounds the broker's connections by what there is: a fleet that
/// is too large must not take from the disk what it needs.
pub(crate) fn bounded(bounds: Bounds) -> Bounds {
    let limits = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limits.maximum, maximum: limits.maximum };
    // Where even that is refused the present limit counts.
    let limit = setrlimit(Resource::Nofile, raised).map_or(limits.current, |()| limits.maximum);
    let Some(limit) = limit else { return bounds };
    let room = usize::try_from(limit.saturating_sub(BESIDE) / CONNECTION).unwrap_or(usize::MAX).max(1);
    if room < bounds.connections {
        tracing::info!(
            limit,
            devices = room,
            "more devices than these cannot be connected at a time: raise the limit of file descriptors (`ulimit -n`, or \
             LimitNOFILE= of the service) for more"
        );
    }
    Bounds { connections: bounds.connections.min(room), ..bounds }
}

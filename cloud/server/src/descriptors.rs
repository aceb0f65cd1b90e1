//! How many file descriptors this process may have: each connected device takes one.

use flotilla_fleet::broker::Bounds;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors for everything else: the API, records, objects, jobs.
const BESIDE: u64 = 1_024;
/// Descriptors of a connected device.
const CONNECTION: u64 = 1;

/// Raises the soft limit as far as the system permits, and bounds the broker's connections by what there is: a fleet that
/// is too large must not take from the disk what it needs.
pub(crate) fn bounded(bounds: Bounds) -> Bounds {
    let limits = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limits.maximum, maximum: limits.maximum };
    // Where even that is refused the present limit counts.
    let limit = setrlimit(Resource::Nofile, raised).map_or(limits.current, |()| limits.maximum);
    let Some(limit) = limit else { return bounds };
    let room = devices(limit);
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

/// Devices that can be connected at a time within a limit.
fn devices(limit: u64) -> usize {
    usize::try_from(limit.saturating_sub(BESIDE) / CONNECTION).unwrap_or(usize::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_thousand_devices_fit_under_a_limit_that_is_little_larger() {
        assert!(devices(12_000) >= 10_000);
        assert_eq!(devices(1_024), 1, "a small limit is no reason not to start");
    }
}

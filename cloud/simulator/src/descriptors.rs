//! Whether the system permits so many connections: each takes a file descriptor.

use crate::Error;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What the process needs beside its connections.
const BESIDE: u64 = 128;

/// Raises the soft limit as far as it has to be, or says what to do.
pub(crate) fn provide(devices: u32) -> Result<(), Error> {
    let needed = u64::from(devices) + BESIDE;
    let limits = getrlimit(Resource::Nofile);
    // No limit at all is enough.
    if limits.current.is_none_or(|soft| soft >= needed) {
        return Ok(());
    }
    let refused = |limit: u64| Error::Descriptors { devices, needed, limit };
    if let Some(hard) = limits.maximum.filter(|hard| *hard < needed) {
        return Err(refused(hard));
    }
    let raised = Rlimit { current: Some(needed), maximum: limits.maximum };
    setrlimit(Resource::Nofile, raised).map_err(|_| refused(limits.current.unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_connections_than_the_system_permits_are_refused_with_what_to_do() {
        assert!(provide(10).is_ok());
        if let Some(hard) = getrlimit(Resource::Nofile).maximum.and_then(|hard| u32::try_from(hard).ok()) {
            let refused = provide(hard).map_err(|error| error.to_string());
            assert!(refused.is_err_and(|text| text.contains("ulimit -n")));
        }
    }
}

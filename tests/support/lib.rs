//! What the end-to-end tests share: the real binaries as child processes, an API client, a browser.
//!
//! Everything runs in temporary folders and on free ports, so that tests can run side by side.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod binaries;
mod browser;
mod device;
mod disk;
mod listeners;
mod plane;
mod simulation;
mod wait;

pub use binaries::{binary, run, run_ok};
pub use browser::Browser;
pub use device::Device;
pub use disk::SmallDisk;
pub use listeners::{descendants, listeners};
pub use plane::Plane;
pub use simulation::Simulation;
pub use wait::eventually;

use std::path::{Path, PathBuf};

/// A file of the big test data; `None` (and a line that says so) when the data is not here.
///
/// # Panics
/// In CI, where nothing may be skipped.
pub fn test_data(path: &str) -> Option<PathBuf> {
    let Some(folder) = std::env::var_os("FLOTILLA_TEST_DATA") else {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "FLOTILLA_TEST_DATA is not set in CI");
        eprintln!("skipped: FLOTILLA_TEST_DATA is not set");
        return None;
    };
    let path = Path::new(&folder).join(path);
    assert!(path.exists(), "{} is missing", path.display());
    Some(path)
}

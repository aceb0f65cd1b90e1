//! The binaries under test.

use std::path::PathBuf;
use std::process::{Command, Output};

/// The path of a built binary.
///
/// # Panics
/// When it is not built.
pub fn binary(name: &str) -> PathBuf {
    let folder = match std::env::var_os("FLOTILLA_BIN_DIR") {
        Some(folder) => PathBuf::from(folder),
        // The test runs from target/PROFILE/deps.
        None => std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().to_owned(),
    };
    let path = folder.join(name);
    assert!(path.exists(), "{} is not built: cargo build --workspace --bins", path.display());
    path
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"))
}

/// Runs a command that must succeed and gives its stdout.
pub fn run_ok(command: &mut Command) -> String {
    let output = run(command);
    assert!(
        output.status.success(),
        "{command:?} ended with {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

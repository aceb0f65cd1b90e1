//! One agent process: started only from a whole binary, stopped by the end of its standard input.

use crate::{AGENT, FILES_FOLDER, LAUNCHED, Options, child, slot_folder};
use flotilla_device::launch::{Binary, Exit, Place};
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

/// What the system says of a file that is no program for this machine (ENOEXEC).
const NO_PROGRAM: i32 = 8;

/// A running agent. Killed when dropped.
pub(super) struct Agent {
    child: Child,
    /// Its standard input: the agent stops when this is closed.
    leash: Option<ChildStdin>,
}

/// Why it was not started.
pub(super) struct Refusal {
    /// It never will be.
    pub(super) unusable: bool,
    pub(super) detail: String,
}

impl Agent {
    /// Starts the binary in this place.
    pub(super) fn start(options: &Options, place: Place, binary: Option<&Binary>) -> Result<Self, Refusal> {
        let path = match binary {
            None => options.installed.clone(),
            Some(binary) => {
                let path = path_of(&options.dir, binary);
                check(&path, binary)?;
                path
            }
        };
        let failed = |e: io::Error| Refusal { unusable: is_unusable(&e), detail: text(&path, &e) };
        let mut command = Command::new(&path);
        // One that hangs and hears nothing must not hold the folder against the next launcher's.
        child::bind(&mut command, 0);
        let mut child = command
            .args(["run", "--until-stdin-closes", "--dir"])
            .arg(&options.dir)
            .args(&options.arguments)
            .env(LAUNCHED, place.as_str())
            // The service manager watches this program; the signs of life are the agent's.
            .env_remove("WATCHDOG_PID")
            .stdin(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let leash = child.stdin.take();
        Ok(Self { child, leash })
    }

    /// How it ended, once it has.
    pub(super) fn ended(&mut self) -> Option<Exit> {
        match self.child.try_wait() {
            Ok(None) => None,
            Ok(Some(status)) => Some(match (status.code(), status.signal()) {
                (Some(code), _) => Exit::Code(code),
                (None, signal) => Exit::Signal(signal.unwrap_or_default()),
            }),
            // Only a child that is not ours any more cannot be waited for.
            Err(_) => Some(Exit::Signal(0)),
        }
    }

    /// Asks it to stop.
    pub(super) fn ask(&mut self) {
        self.leash = None;
    }

    /// Kills it.
    pub(super) fn kill(&mut self) {
        // One that has ended meanwhile cannot be killed, and need not be.
        let _ = self.child.kill();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Where a slot's binary lies.
fn path_of(dir: &Path, binary: &Binary) -> PathBuf {
    slot_folder(&dir.join(AGENT), binary.slot).join(FILES_FOLDER).join(&binary.file)
}

/// Whether the file is the one that the journal names.
fn check(path: &Path, binary: &Binary) -> Result<(), Refusal> {
    let (bytes, crc) = checksum(path)
        .map_err(|e| Refusal { unusable: e.kind() == ErrorKind::NotFound, detail: text(path, &e) })?;
    if (bytes, crc) == (binary.bytes, binary.crc) {
        return Ok(());
    }
    Err(Refusal { unusable: true, detail: format!("{} is damaged", path.display()) })
}

/// Size and CRC-32 of a file.
pub fn checksum(path: &Path) -> io::Result<(u64, u32)> {
    let mut file = File::open(path)?;
    let (mut hasher, mut bytes) = (crc32fast::Hasher::new(), 0);
    let mut buffer = vec![0; 128 * 1024];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok((bytes, hasher.finalize())),
            Ok(read) => {
                hasher.update(&buffer[..read]);
                bytes += read as u64;
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Whether a program that could not be started for this reason never can be.
pub fn is_unusable(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied | ErrorKind::IsADirectory)
        || error.raw_os_error() == Some(NO_PROGRAM)
}

fn text(path: &Path, error: &io::Error) -> String {
    format!("{}: {error}", path.display())
}

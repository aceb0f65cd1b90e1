//! The parent's side: start the child, bound it in time and output, and read what became of the candidate.

use super::ProbeFailure;
use flotilla_protocol::message::{Measured, ProbeReport};
use flotilla_protocol::{ErrorCode, limits};
use serde::de::DeserializeOwned;
use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

/// Bytes of the child's answer at most.
const STDOUT: usize = 16 * limits::KIB;
/// Last bytes of the child's complaints that are kept.
const STDERR: usize = 4 * limits::KIB;

/// What a candidate may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeLimits {
    /// Private memory of the whole child in bytes, a few MiB of its own included; 0 for no bound.
    pub memory_bytes: u64,
    /// Time for everything.
    pub timeout: Duration,
    /// Time of one prediction (95th percentile) in microseconds; 0 for any.
    pub latency_us: u64,
}

/// Why a candidate did not pass.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The child could not be started or waited for.
    #[error("the probe process cannot be run")]
    Spawn(#[source] io::Error),
    /// The child found a fault.
    #[error("the probe refused the candidate: {detail}")]
    Refused {
        /// The stable code.
        code: ErrorCode,
        /// What the child says.
        detail: String,
    },
    /// The child did not end in time.
    #[error("the probe did not end within {} ms and was stopped", limit.as_millis())]
    Timeout {
        /// The bound.
        limit: Duration,
    },
    /// Predictions take too long on this board.
    #[error("a prediction takes {p95_us} us here (95th percentile); the release allows {limit_us} us")]
    TooSlow {
        /// Measured.
        p95_us: u64,
        /// The bound.
        limit_us: u64,
    },
    /// The child ran out of memory.
    #[error("the candidate needs more than {limit_bytes} bytes of memory: {detail}")]
    Memory {
        /// The bound.
        limit_bytes: u64,
        /// The child's last words.
        detail: String,
    },
    /// The child died, or said nothing that can be understood.
    #[error("the probe process failed ({how}): {detail}")]
    Crashed {
        /// How it ended.
        how: String,
        /// Its last words.
        detail: String,
    },
}

impl ProbeError {
    /// The stable code.
    pub fn code(&self) -> ErrorCode {
        match self {
            ProbeError::Spawn(_) => ErrorCode::Internal,
            ProbeError::Refused { code, .. } => *code,
            ProbeError::Timeout { .. } | ProbeError::TooSlow { .. } => ErrorCode::ProbeTooSlow,
            ProbeError::Memory { .. } => ErrorCode::ProbeMemory,
            ProbeError::Crashed { .. } => ErrorCode::ProbeCrashed,
        }
    }
}

/// Probes the candidate in `slot` with the child `exe prefix… probe`, which must call
/// [`super::child_main`]. The child outlives neither the returned future nor this process.
pub async fn run(
    exe: &Path,
    args_prefix: &[String],
    slot: &Path,
    board: &str,
    limits: ProbeLimits,
) -> Result<ProbeReport, ProbeError> {
    let mut command = bounded(exe, limits);
    command.args(args_prefix).arg("probe").arg("--dir").arg(slot).arg(format!("--board={board}"));
    judge(hear(command, limits).await?, limits)
}

/// Measures the model in `slot` with the same child; what it answers is not judged.
pub(crate) async fn measure(
    exe: &Path,
    args_prefix: &[String],
    slot: &Path,
    board: &str,
    limits: ProbeLimits,
) -> Result<Measured, ProbeError> {
    let mut command = bounded(exe, limits);
    command.args(args_prefix).arg("probe").arg("--dir").arg(slot).arg(format!("--board={board}"));
    command.arg("--measure");
    read(hear(command, limits).await?, limits)
}

/// Lets a new agent try whether it can read `folder`, except for what is `damaged` there: the child `exe self-test`,
/// which must call [`crate::upgrade::self_test_main`].
pub async fn self_test(
    exe: &Path,
    folder: &Path,
    damaged: &[String],
    limits: ProbeLimits,
) -> Result<ProbeReport, ProbeError> {
    let mut command = bounded(exe, limits);
    command.arg("self-test").arg("--dir").arg(folder);
    command.args(damaged.iter().map(|name| format!("--damaged={name}")));
    judge(hear(command, limits).await?, limits)
}

/// A child that is held to its bounds by the system, whatever its program does.
fn bounded(exe: &Path, limits: ProbeLimits) -> Command {
    let mut command = Command::new(exe);
    flotilla_launcher::child::bind(command.as_std_mut(), limits.memory_bytes);
    command
}

/// The version that an agent says it is: the last word of `exe --version`.
pub async fn version(exe: &Path, limits: ProbeLimits) -> Result<String, ProbeError> {
    let mut command = bounded(exe, limits);
    command.arg("--version");
    let words = listen_for(command, limits.timeout).await?;
    let text = String::from_utf8_lossy(&words.stdout);
    match text.split_whitespace().last() {
        Some(version) if words.status.success() && words.stdout.len() <= STDOUT => Ok(version.to_owned()),
        _ => Err(ProbeError::Crashed { how: words.status.to_string(), detail: words.stderr }),
    }
}

async fn hear(mut command: Command, limits: ProbeLimits) -> Result<Words, ProbeError> {
    command.arg(format!("--memory-bytes={}", limits.memory_bytes)).arg("--until-stdin-closes");
    listen_for(command, limits.timeout).await
}

/// Runs a child to its end, or to the end of its time.
async fn listen_for(mut command: Command, timeout: Duration) -> Result<Words, ProbeError> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(ProbeError::Spawn)?;
    // Held open, or waiting would close it. When this process ends, killed or not, the system closes it, and the child
    // ends with it.
    let _lifeline = child.stdin.take();
    let ended = tokio::time::timeout(timeout, listen(&mut child)).await;
    let stopped = match &ended {
        Ok(Ok(_)) => Ok(()),
        // Nothing that comes later is of interest, and the child must not stay as a zombie.
        Ok(Err(_)) | Err(_) => child.kill().await,
    };
    match ended {
        Ok(Ok(words)) => Ok(words),
        Ok(Err(error)) => Err(ProbeError::Spawn(error)),
        Err(_) => {
            stopped.map_err(ProbeError::Spawn)?;
            Err(ProbeError::Timeout { limit: timeout })
        }
    }
}

/// How a child ended and what it said.
struct Words {
    status: ExitStatus,
    stdout: Vec<u8>,
    stderr: String,
}

async fn listen(child: &mut Child) -> io::Result<Words> {
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(io::Error::other("the child's output is not connected"));
    };
    let (stdout, stderr, status) = tokio::try_join!(head(stdout), tail(stderr), child.wait())?;
    Ok(Words { status, stdout, stderr: String::from_utf8_lossy(&stderr).trim().to_owned() })
}

/// The first bytes; one more than the bound where there is more. The rest meets a closed pipe.
async fn head(stream: impl AsyncRead + Unpin) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stream.take(STDOUT as u64 + 1).read_to_end(&mut bytes).await?;
    Ok(bytes)
}

/// The last bytes: a panic message is the last thing that is said.
pub(crate) async fn tail(mut stream: impl AsyncRead + Unpin) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut block = [0; 1024];
    loop {
        let read = stream.read(&mut block).await?;
        if read == 0 {
            return Ok(bytes);
        }
        bytes.extend_from_slice(&block[..read]);
        bytes.drain(..bytes.len().saturating_sub(STDERR));
    }
}

fn judge(words: Words, limits: ProbeLimits) -> Result<ProbeReport, ProbeError> {
    check(read(words, limits)?, limits)
}

/// What a child says of itself.
fn read<T: DeserializeOwned>(words: Words, limits: ProbeLimits) -> Result<T, ProbeError> {
    let Words { status, stdout, stderr } = words;
    let crashed = |how: String| Err(ProbeError::Crashed { how, detail: stderr.clone() });
    if stdout.len() > STDOUT {
        return crashed(format!("it wrote more than {STDOUT} bytes"));
    }
    match status.code() {
        Some(0) => match serde_json::from_slice(&stdout) {
            Ok(report) => Ok(report),
            Err(error) => crashed(format!("its report is not readable: {error}")),
        },
        Some(1) if let Ok(failure) = serde_json::from_slice::<ProbeFailure>(&stdout) => {
            Err(ProbeError::Refused { code: failure.code, detail: failure.detail })
        }
        _ if tells_of_memory(&stderr) => {
            Err(ProbeError::Memory { limit_bytes: limits.memory_bytes, detail: stderr })
        }
        _ => crashed(status.to_string()),
    }
}

fn check(report: ProbeReport, limits: ProbeLimits) -> Result<ProbeReport, ProbeError> {
    let p95_us = (report.p95_ms * 1e3).ceil() as u64;
    if limits.latency_us > 0 && p95_us > limits.latency_us {
        return Err(ProbeError::TooSlow { p95_us, limit_us: limits.latency_us });
    }
    Ok(report)
}

/// Whether these are the words of the standard library, or of the engine, when there is no memory left.
pub(crate) fn tells_of_memory(text: &str) -> bool {
    ["memory allocation of ", "failed to allocate", "Cannot allocate memory"]
        .iter()
        .any(|words| text.contains(words))
}

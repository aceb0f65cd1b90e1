//! A job's child process as its parent sees it.

use crate::frame::{Frame, Frames, NoFrame};
use rustix::process::{Pid, Signal, kill_process_group};
use std::io;
use std::process::{ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::process::{ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// How long output is awaited after the child has gone: a process it left behind may hold the pipes.
const DRAIN: Duration = Duration::from_secs(1);
/// Bytes of the standard error that are read at once.
const STDERR: usize = 8 * 1024;

/// Starts children from one thread that lives as long as this.
///
/// The system kills a child when the *thread* that started it ends, and the threads of a runtime come and go.
#[derive(Debug)]
pub(crate) struct Spawner {
    requests: mpsc::Sender<Request>,
}

struct Request {
    command: Command,
    answer: oneshot::Sender<io::Result<ChildProcess>>,
}

impl Spawner {
    /// Begins. Within a runtime.
    pub(crate) fn start() -> io::Result<Self> {
        let (requests, incoming) = mpsc::channel::<Request>();
        let runtime = Handle::current();
        std::thread::Builder::new().name("job-spawner".into()).spawn(move || {
            let _guard = runtime.enter();
            for Request { command, answer } in incoming {
                // Nobody waits any more: the child is killed as it is dropped.
                let _ = answer.send(ChildProcess::spawn(command));
            }
        })?;
        Ok(Self { requests })
    }

    /// Starts a child.
    pub(crate) async fn spawn(&self, command: Command) -> io::Result<ChildProcess> {
        let stopped = || io::Error::other("the thread that starts child processes has stopped");
        let (answer, answered) = oneshot::channel();
        self.requests.send(Request { command, answer }).map_err(|_| stopped())?;
        answered.await.map_err(|_| stopped())?
    }
}

/// What comes from a child.
#[derive(Debug)]
pub(crate) enum Said {
    /// A frame.
    Frame(Frame),
    /// Something that is no frame; no frames follow.
    Garbage(String),
    /// Bytes for the log.
    Stderr(Vec<u8>),
    /// It has gone, and everything it said has been passed on.
    Exited(ExitStatus),
}

/// A running child. Dropping it kills it with all processes it started.
#[derive(Debug)]
pub(crate) struct ChildProcess {
    child: tokio::process::Child,
    group: Option<Pid>,
    stdin: Option<ChildStdin>,
    frames: Option<Frames<ChildStdout>>,
    stderr: Option<ChildStderr>,
    exited: Option<(ExitStatus, Instant)>,
}

impl ChildProcess {
    fn spawn(mut command: Command) -> io::Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        Ok(Self {
            group,
            stdin: child.stdin.take(),
            frames: child.stdout.take().map(Frames::new),
            stderr: child.stderr.take(),
            exited: None,
            child,
        })
    }

    /// The next thing from the child. Safe to cancel. Not called again after [`Said::Exited`].
    pub(crate) async fn next(&mut self) -> io::Result<Said> {
        loop {
            if let Some((status, _)) = self.exited
                && self.frames.is_none()
                && self.stderr.is_none()
            {
                return Ok(Said::Exited(status));
            }
            let drained = self.exited.map(|(_, at)| at + DRAIN);
            let mut bytes = Vec::with_capacity(STDERR);
            tokio::select! {
                frame = next_frame(&mut self.frames), if self.frames.is_some() => match frame {
                    Ok(frame) => return Ok(Said::Frame(frame)),
                    Err(end) => {
                        self.frames = None;
                        if !matches!(end, NoFrame::End) {
                            return Ok(Said::Garbage(end.to_string()));
                        }
                    }
                },
                read = next_bytes(&mut self.stderr, &mut bytes), if self.stderr.is_some() => match read {
                    Ok(0) | Err(_) => self.stderr = None,
                    Ok(_) => return Ok(Said::Stderr(bytes)),
                },
                status = self.child.wait(), if self.exited.is_none() => {
                    self.exited = Some((status?, Instant::now()));
                    self.group = None;
                }
                () = at(drained), if drained.is_some() => {
                    self.frames = None;
                    self.stderr = None;
                }
            }
        }
    }

    /// Tells the child that it is to stop.
    pub(crate) fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Asks the system to end the child and what it started.
    pub(crate) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Ends the child and what it started.
    pub(crate) fn kill(&self) {
        self.signal(Signal::KILL);
    }

    fn signal(&self, signal: Signal) {
        // A group that has gone meanwhile needs no signal.
        if let Some(group) = self.group
            && let Err(error) = kill_process_group(group, signal)
        {
            tracing::debug!(%error, "the job's process group could not be signalled");
        }
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn next_frame(frames: &mut Option<Frames<ChildStdout>>) -> Result<Frame, NoFrame> {
    match frames {
        Some(frames) => frames.next().await,
        None => std::future::pending().await,
    }
}

async fn next_bytes(stderr: &mut Option<ChildStderr>, bytes: &mut Vec<u8>) -> io::Result<usize> {
    match stderr {
        Some(stderr) => stderr.read_buf(bytes).await,
        None => std::future::pending().await,
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

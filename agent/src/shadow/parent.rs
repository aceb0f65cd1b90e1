//! The parent's side: starts the child, gives it inputs, and does not wait for longer than it said.

use super::{ANSWER, Said, head};
use crate::host::Kept;
use crate::probe::{tail, tells_of_memory};
use flotilla_device::Fault;
use flotilla_device::shadow::End;
use flotilla_protocol::{ErrorCode, codec};
use flotilla_runtime::Port;
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;

/// What a shadow may cost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Private memory of the whole child in bytes; 0 for no bound.
    pub(super) memory_bytes: u64,
    /// Time to load.
    pub(super) load: Duration,
    /// Time for one answer.
    pub(super) answer: Duration,
}

/// A shadow's process. It does not outlive this.
pub(super) struct Process {
    child: Child,
    inputs: ChildStdin,
    answers: ChildStdout,
    complaints: JoinHandle<io::Result<Vec<u8>>>,
    bounds: Bounds,
}

impl Process {
    /// Starts `exe prefix… shadow` on a slot, which must call [`super::shadow_main`], and waits until the model is loaded.
    /// Gives what its network takes.
    pub(super) async fn start(
        exe: &Path,
        prefix: &[String],
        slot: &Path,
        board: &str,
        bounds: Bounds,
    ) -> Result<(Self, Vec<Port>), End> {
        let mut command = Command::new(exe);
        flotilla_launcher::child::bind(command.as_std_mut(), bounds.memory_bytes);
        command.args(prefix).arg("shadow").arg("--dir").arg(slot).arg(format!("--board={board}"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        // That it could not even be started says nothing about the release.
        let spawned = |problem: String| {
            End::Refused(Fault::transient(
                ErrorCode::Internal,
                format!("the shadow cannot be started: {problem}"),
            ))
        };
        let mut child = command.spawn().map_err(|e| spawned(e.to_string()))?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(inputs), Some(answers), Some(stderr)) = pipes else {
            return Err(spawned("it is not connected".to_owned()));
        };
        let complaints = tokio::spawn(tail(stderr));
        let mut process = Self { child, inputs, answers, complaints, bounds };
        match process.hear(bounds.load).await {
            Ok(Said::Ready { inputs }) => Ok((process, inputs)),
            Ok(Said::Refused { code, detail }) => {
                let storage = code == ErrorCode::StorageIo;
                let fault = Fault::lasting(code, detail);
                Err(End::Refused(Fault { transient: storage, ..fault }))
            }
            Ok(said) => Err(process.ended(&format!("it said {said:?} before it was loaded")).await),
            Err(how) => Err(process.give_up(how, bounds.load).await),
        }
    }

    /// Gives it an input. An answer, or none with the reason; or how it ended.
    pub(super) async fn ask(
        &mut self,
        input: &Kept,
    ) -> Result<Result<(flotilla_runtime::Prediction, u64), String>, End> {
        let limit = self.bounds.answer;
        // A child that hangs does not take its input either.
        let given = match tokio::time::timeout(limit, self.give(input)).await {
            Ok(given) => given.map_err(Silence::Broken),
            Err(_) => Err(Silence::Late),
        };
        let said = match given {
            Ok(()) => self.hear(limit).await,
            Err(how) => Err(how),
        };
        match said {
            Ok(Said::Answer { prediction, latency_us }) => Ok(Ok((prediction, latency_us))),
            Ok(Said::None { detail }) => Ok(Err(detail)),
            Ok(said) => Err(self.ended(&format!("it said {said:?} in place of an answer")).await),
            Err(how) => Err(self.give_up(how, limit).await),
        }
    }

    /// Ends it.
    pub(super) async fn stop(mut self) {
        if let Err(error) = self.child.kill().await {
            tracing::warn!(%error, "a shadow's process is not stopped");
        }
    }

    /// Waits until it ends by itself, which it should not.
    pub(super) async fn watch(&mut self) -> End {
        let how = self.child.wait().await.map_or_else(|e| e.to_string(), |status| status.to_string());
        self.ended(&how).await
    }

    async fn give(&mut self, input: &Kept) -> io::Result<()> {
        self.inputs.write_all(&head(input)).await?;
        match input {
            Kept::Encoded(bytes) | Kept::Raw(bytes) | Kept::Tensors(bytes) => {
                self.inputs.write_all(bytes).await?;
            }
        }
        self.inputs.flush().await
    }

    async fn hear(&mut self, limit: Duration) -> Result<Said, Silence> {
        let frame = async {
            let length = self.answers.read_u32_le().await? as usize;
            if length > ANSWER {
                return Err(io::Error::other(format!("it speaks of {length} bytes; {ANSWER} are possible")));
            }
            let mut bytes = vec![0; length];
            self.answers.read_exact(&mut bytes).await?;
            codec::decode(&bytes, ANSWER).map_err(io::Error::other)
        };
        match tokio::time::timeout(limit, frame).await {
            Ok(said) => said.map_err(Silence::Broken),
            Err(_) => Err(Silence::Late),
        }
    }

    async fn give_up(&mut self, how: Silence, limit: Duration) -> End {
        match how {
            Silence::Broken(error) => self.ended(&error.to_string()).await,
            Silence::Late => {
                self.end().await;
                let detail = format!("it did not answer within {} ms and was stopped", limit.as_millis());
                End::Crashed(Fault::lasting(ErrorCode::Timeout, detail))
            }
        }
    }

    /// The story of a child that ended, or that is ended for what it said.
    async fn ended(&mut self, how: &str) -> End {
        let status = self.end().await;
        let words = (&mut self.complaints).await.ok().and_then(Result::ok).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).trim().to_owned();
        let (code, words) = match words {
            words if tells_of_memory(&words) => (ErrorCode::ProbeMemory, words),
            words => (ErrorCode::ModelCrashed, words),
        };
        End::Crashed(Fault::lasting(code, format!("its process ended ({status}; {how}) {words}").trim_end()))
    }

    /// Sees to it that the process is over. One that closed its pipes is about to end and may have a story of its own.
    async fn end(&mut self) -> String {
        const GRACE: Duration = Duration::from_millis(500);
        let own = tokio::time::timeout(GRACE, self.child.wait()).await;
        let status = match own {
            Ok(status) => status,
            Err(_) => match self.child.kill().await {
                Ok(()) => self.child.wait().await,
                Err(error) => Err(error),
            },
        };
        status.map_or_else(|error| error.to_string(), |status| status.to_string())
    }
}

/// Why nothing was heard.
enum Silence {
    Late,
    Broken(io::Error),
}

//! The launcher: a small program that starts the agent, and starts another binary of it when it is told to or has to.
//!
//! It knows nothing of models, brokers or signatures, so that it never needs an upgrade itself: it reads one small
//! journal, counts, starts, waits and stops. What it decides is [`flotilla_device::launch`]. It never looks inside a
//! binary, but starts one from a slot only while its size and checksum are those in the journal.
//!
//! The agent's standard input is a pipe from the launcher: when it ends, because the launcher asks for that or dies,
//! the agent stops by itself. No signal has to reach the right process; one that hangs is killed by the system when the
//! launcher dies, where the system knows how.
//!
//! ```text
//! DIR/agent/launch, launch.copy   the launch journal, twice: a damaged first one is not the end
//! DIR/agent/journal               the update journal of the agent's own release
//! DIR/agent/slot-{a,b}/           as a model's slots; the binary is in files/
//! DIR/agent/lock                  held while the launcher runs
//! ```

pub mod file;
mod process;

pub(crate) use process::{checksum, is_unusable};

use crate::Error;
use crate::folder::Folder;
use file::LaunchFile;
use flotilla_device::launch::{Effect, Event, Exit, Launcher};
use process::Agent;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The environment variable that tells an agent from where it runs: `installed`, `a` or `b`.
pub const LAUNCHED: &str = "FLOTILLA_LAUNCHED";

/// An agent that has just ended frees the folder within this time.
const FREED: Duration = Duration::from_secs(1);
/// How often it is looked whether another process still holds the folder: it tells nobody when it is gone.
const LOOK: Duration = Duration::from_millis(20);

/// What the launcher runs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The agent's folder.
    pub dir: PathBuf,
    /// The binary that was installed with the device.
    pub installed: PathBuf,
    /// Further arguments of the agent, behind `run --dir DIR`.
    pub arguments: Vec<OsString>,
}

/// Runs the launcher until it is told to stop by SIGTERM or SIGINT.
pub async fn run(options: Options) -> Result<(), Error> {
    let folder = Folder::open(&options.dir)?;
    let _lock = folder.lock_launcher()?;
    let listen = |kind| {
        signal(kind).map_err(|e| Error::System { what: "listening for signals", problem: e.to_string() })
    };
    let (terminate, interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let file = LaunchFile::new(folder.clone());
    let mut shell = Shell {
        options,
        folder,
        file,
        launcher: Launcher::default(),
        agent: None,
        tick: None,
        started: Instant::now(),
        terminate,
        interrupt,
        finished: false,
    };
    if !shell.wait_for_folder().await {
        return Ok(());
    }
    let journal = shell.read();
    shell.give(Event::Started(journal)).await;
    while !shell.finished {
        let event = shell.next().await;
        shell.give(event).await;
    }
    Ok(())
}

/// Performs what the machine says.
struct Shell {
    options: Options,
    folder: Folder,
    file: LaunchFile,
    launcher: Launcher,
    agent: Option<Agent>,
    tick: Option<Instant>,
    started: Instant,
    terminate: Signal,
    interrupt: Signal,
    finished: bool,
}

impl Shell {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// What the disk holds. A journal that cannot be read is an empty one: the installed binary is started, and the
    /// agent says what it knows.
    fn read(&self) -> flotilla_device::launch::LaunchJournal {
        let (journal, problem) = self.file.read();
        if let Some(problem) = problem {
            eprintln!("flotilla-launcher: {problem}");
        }
        journal
    }

    /// Waits for what happens next.
    async fn next(&mut self) -> Event {
        let tick = self.tick;
        let timer = async {
            match tick {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        let ended = async {
            match &mut self.agent {
                Some(agent) => agent.ended().await,
                None => std::future::pending().await,
            }
        };
        let exit: Option<Exit> = tokio::select! {
            exit = ended => Some(exit),
            _ = self.terminate.recv() => return Event::Stop,
            _ = self.interrupt.recv() => return Event::Stop,
            () = timer => None,
        };
        match exit {
            Some(exit) => {
                self.agent = None;
                Event::Exited(exit, self.read())
            }
            None => {
                self.tick = None;
                Event::Tick(self.read())
            }
        }
    }

    /// One step, and the steps that follow from what its effects bring.
    async fn give(&mut self, event: Event) {
        let mut open = vec![event];
        while let Some(event) = open.pop() {
            let (next, effects) = self.launcher.step(event, self.now_ms(), random());
            self.launcher = next;
            for effect in effects {
                match effect {
                    Effect::Persist(journal) => {
                        if let Err(error) = self.file.store(&journal) {
                            eprintln!("flotilla-launcher: {error}");
                            open.push(Event::NotPersisted);
                            break;
                        }
                    }
                    Effect::Run(place, binary) => {
                        if tokio::time::timeout(FREED, folder_is_free(&self.folder)).await.is_err() {
                            open.push(Event::InUse);
                            continue;
                        }
                        match Agent::start(&self.options, &self.folder, place, binary.as_ref()) {
                            Ok(agent) => {
                                self.agent = Some(agent);
                                open.push(Event::Running);
                            }
                            Err(refusal) => {
                                let (unusable, detail) = (refusal.unusable, refusal.detail);
                                open.push(Event::NotRunning { unusable, detail });
                            }
                        }
                    }
                    Effect::Ask => self.agent.iter_mut().for_each(Agent::ask),
                    Effect::Kill => self.agent.iter_mut().for_each(Agent::kill),
                    Effect::ScheduleTick(at_ms) => {
                        self.tick = Some(self.started + Duration::from_millis(at_ms));
                    }
                    Effect::Log(text) => eprintln!("flotilla-launcher: {text}"),
                    Effect::Finish => self.finished = true,
                }
            }
        }
    }

    /// Waits until no agent of an earlier launcher holds the folder, before any start is counted. False if the launcher
    /// is told to stop meanwhile.
    async fn wait_for_folder(&mut self) -> bool {
        let folder = self.folder.clone();
        let free = async {
            if tokio::time::timeout(FREED, folder_is_free(&folder)).await.is_err() {
                eprintln!("flotilla-launcher: waits for an agent that still runs on this folder");
                folder_is_free(&folder).await;
            }
        };
        tokio::select! {
            () = free => true,
            _ = self.terminate.recv() => false,
            _ = self.interrupt.recv() => false,
        }
    }
}

async fn folder_is_free(folder: &Folder) {
    while matches!(folder.lock(), Err(Error::InUse { .. })) {
        tokio::time::sleep(LOOK).await;
    }
}

/// Spreads the restarts of a fleet a little; nothing secret depends on it.
fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(())
}

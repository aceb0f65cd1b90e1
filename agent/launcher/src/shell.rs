//! The running launcher: performs what the machine says. One thread decides; another waits for signals, the end of the
//! agent among them, and tells it.

use crate::disk::{DiskError, FolderDisk};
use crate::journal::LaunchFile;
use crate::lock::{self, LockError};
use crate::process::Agent;
use flotilla_device::launch::{Effect, Event, LaunchJournal, Launcher};
use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

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

/// Why the launcher could not begin.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder, or another launcher on it.
    #[error(transparent)]
    Folder(#[from] LockError),
    /// Signals.
    #[error("listening for signals failed: {0}")]
    Signals(io::Error),
}

impl From<DiskError> for Error {
    fn from(error: DiskError) -> Self {
        Error::Folder(error.into())
    }
}

impl Error {
    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Folder(_) => 6,
            Error::Signals(_) => 1,
        }
    }
}

/// What a signal tells.
enum News {
    /// The launcher is to stop.
    Stop,
    /// A child may have ended.
    Child,
}

/// Runs the launcher until it is told to stop by SIGTERM or SIGINT.
pub fn run(options: Options) -> Result<(), Error> {
    let disk = Arc::new(FolderDisk::new(&options.dir)?);
    let _lock = lock::launcher(&options.dir)?;
    let (tell, news) = channel();
    // SIGCHLD also because a parent may have left it ignored: then the system would keep no exit for us.
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGCHLD]).map_err(Error::Signals)?;
    let listen = move || {
        for signal in signals.forever() {
            // Nobody listens any more when the launcher ends anyway.
            let _ = tell.send(if signal == SIGCHLD { News::Child } else { News::Stop });
        }
    };
    thread::Builder::new().name("signals".to_owned()).spawn(listen).map_err(Error::Signals)?;
    let mut shell = Shell {
        file: LaunchFile::new(disk),
        options,
        launcher: Launcher::default(),
        agent: None,
        tick: None,
        started: Instant::now(),
        news,
        finished: false,
    };
    if !shell.wait_for_folder() {
        return Ok(());
    }
    let journal = shell.read();
    shell.give(Event::Started(journal));
    while !shell.finished {
        let event = shell.next();
        shell.give(event);
    }
    Ok(())
}

struct Shell {
    options: Options,
    file: LaunchFile,
    launcher: Launcher,
    agent: Option<Agent>,
    tick: Option<Instant>,
    started: Instant,
    news: Receiver<News>,
    finished: bool,
}

impl Shell {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// What the disk holds. A journal that cannot be read is an empty one: the installed binary is started, and the
    /// agent says what it knows.
    fn read(&self) -> LaunchJournal {
        let (journal, problem) = self.file.read();
        if let Some(problem) = problem {
            eprintln!("flotilla-launcher: {problem}");
        }
        journal
    }

    /// Waits for what happens next.
    fn next(&mut self) -> Event {
        loop {
            let news = match self.tick {
                Some(at) => self.news.recv_timeout(at.saturating_duration_since(Instant::now())),
                None => self.news.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match news {
                Ok(News::Stop) => return Event::Stop,
                Ok(News::Child) => {
                    if let Some(exit) = self.agent.as_mut().and_then(Agent::ended) {
                        self.agent = None;
                        return Event::Exited(exit, self.read());
                    }
                }
                // The other thread listens for good, so that it can only be time.
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    self.tick = None;
                    return Event::Tick(self.read());
                }
            }
        }
    }

    /// One step, and the steps that follow from what its effects bring.
    fn give(&mut self, event: Event) {
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
                        if !becomes_free(&self.options.dir) {
                            open.push(Event::InUse);
                            continue;
                        }
                        match Agent::start(&self.options, place, binary.as_ref()) {
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
    fn wait_for_folder(&self) -> bool {
        let (began, mut said) = (Instant::now(), false);
        while is_held(&self.options.dir) {
            if !said && began.elapsed() >= FREED {
                said = true;
                eprintln!("flotilla-launcher: waits for an agent that still runs on this folder");
            }
            if let Ok(News::Stop) = self.news.recv_timeout(LOOK) {
                return false;
            }
        }
        true
    }
}

/// Whether nobody holds the folder, now or within the time that an agent takes to free it.
fn becomes_free(folder: &Path) -> bool {
    let began = Instant::now();
    while is_held(folder) {
        if began.elapsed() >= FREED {
            return false;
        }
        thread::sleep(LOOK);
    }
    true
}

/// A disk that fails says nothing about others; the start tells what is wrong.
fn is_held(folder: &Path) -> bool {
    matches!(lock::agent(folder), Err(LockError::InUse { .. }))
}

/// Spreads the restarts of a fleet a little; nothing secret depends on it.
fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(())
}

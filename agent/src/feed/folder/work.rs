//! What is done with one file, from looking at it to putting it away. All of it may block.

use super::super::config::{Done, FolderFeed};
use super::super::line::{Line, Of, settled};
use super::super::log::ResultLog;
use super::Places;
use super::kept::{Kept, MOST};
use super::trial::{self, Trial};
use crate::clock::Clock;
use crate::disk::DiskError;
use crate::host::{Answer, HostError, ModelHost};
use flotilla_device::Fault;
use flotilla_device::inbox::Stamp;
use flotilla_protocol::ErrorCode;
use flotilla_runtime::Input;
use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, RenameFlags, mkdirat, openat, renameat, renameat_with, statat, unlinkat,
};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Folders within the folder: for what was predicted, and for what could not be.
const DONE: &str = "done";
const FAILED: &str = "failed";
/// Files that are listed at most: twice what may be done with, so that new ones are seen behind them.
const LISTED: usize = 2 * MOST;
/// Names that are tried for a file whose own is taken.
const NAMES: u32 = 10_000;

/// How it went with a file.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It has a line with a label.
    Predicted,
    /// It has a line with a code.
    Refused,
    /// It has a line, but stays in the folder.
    Stuck(Fault),
    /// It is gone, or was done with before.
    Nothing,
    /// Somebody has changed it: it has to rest again.
    Changed(Stamp),
    /// Not now.
    Wait(Fault),
}

/// Why a file has no label.
enum Refusal {
    /// It is its own fault.
    Line(Fault),
    /// It is gone.
    Gone,
    Changed(Stamp),
    Wait(Fault),
}

/// What work on files needs.
pub(super) struct Desk {
    feed: FolderFeed,
    host: Arc<ModelHost>,
    clock: Clock,
    log: ResultLog,
    kept: Kept,
    trial: Trial,
    /// A file that has its line, and of which that could not be noted yet.
    unfinished: Option<(OsString, Stamp, bool)>,
    /// Files that are listed at most.
    most: usize,
}

/// What lies in the folder.
struct Entries {
    files: Vec<(OsString, Stamp)>,
    /// Whether there is nothing else.
    all: bool,
}

/// What was found in the folder.
#[derive(Debug, Default)]
pub(super) struct Looked {
    /// Files that are not done with.
    pub(super) waiting: Vec<(OsString, Stamp)>,
    /// Files that are done with and cannot be put away.
    pub(super) stuck: u64,
    /// Why not.
    pub(super) problem: Option<Fault>,
}

impl Desk {
    pub(super) fn open(
        feed: FolderFeed,
        places: &Places,
        host: Arc<ModelHost>,
        clock: Clock,
    ) -> Result<Self, Fault> {
        if !feed.path.is_dir() {
            let detail =
                format!("{} is no folder; make it, or correct path in agent.toml", feed.path.display());
            return Err(Fault::transient(ErrorCode::StorageIo, detail));
        }
        let (log, last) = ResultLog::open(&places.output, feed.output_bytes).map_err(fault)?;
        let kept = Kept::open(&places.kept).map_err(fault)?;
        let trial = Trial::open(&places.trial).map_err(fault)?;
        let last = last.and_then(|line| settled(&line));
        let mut desk = Self { feed, host, clock, log, kept, trial, unfinished: None, most: LISTED };
        let entries = desk.entries()?;
        for (name, stamp) in &entries.files {
            let stamp = *stamp;
            // The file of the last line is the only one of which it may not be noted that it is done with. What an
            // earlier run could not put away, it may be possible to put away now.
            let last = last.filter(|(last, _)| *last == stamp).map(|(_, refused)| refused);
            if let Some(refused) = desk.kept.get(&stamp).or(last)
                && let Outcome::Wait(fault) = desk.finish(name, stamp, refused)
            {
                return Err(fault);
            }
        }
        desk.forget_gone(&entries)?;
        Ok(desk)
    }

    /// The files in the folder that are not done with; what could not be put away before is tried again.
    pub(super) fn look(&mut self) -> Result<Looked, Fault> {
        let entries = self.entries()?;
        if self.kept.is_stale(entries.files.len()) {
            self.forget_gone(&entries)?;
        }
        let mut looked = Looked::default();
        // Mostly one reason is all files' reason, so the others of the kind need not be tried.
        let mut hopeless = [false; 2];
        for (name, stamp) in entries.files {
            let Some(refused) = self.kept.get(&stamp) else {
                looked.waiting.push((name, stamp));
                continue;
            };
            if !self.goes_away(refused) {
                continue;
            }
            let hopeless = &mut hopeless[usize::from(refused)];
            let tried = if *hopeless { None } else { Some(self.put_away(&name, stamp, refused)) };
            if let Some(Ok(())) = tried {
                continue;
            }
            *hopeless = true;
            looked.stuck += 1;
            let why = tried.and_then(Result::err).map(fault);
            looked.problem = looked.problem.or(why);
        }
        Ok(looked)
    }

    fn entries(&self) -> Result<Entries, Fault> {
        let failed = |error| fault(DiskError::of(&self.feed.path, error));
        let mut entries = Entries { files: Vec::new(), all: true };
        for entry in fs::read_dir(&self.feed.path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entries.files.len() >= self.most {
                entries.all = false;
                break;
            }
            let name = entry.file_name();
            // What vanishes meanwhile is not there.
            if is_input(&name)
                && let Ok(meta) = entry.metadata()
            {
                entries.files.push((name, stamp(&meta)));
            }
        }
        Ok(entries)
    }

    /// Forgets files that are gone. Where not all were seen, one that was not may be there still, and would have a second
    /// line.
    fn forget_gone(&mut self, entries: &Entries) -> Result<(), Fault> {
        if !entries.all {
            return Ok(());
        }
        let there: BTreeSet<Stamp> = entries.files.iter().map(|(_, stamp)| *stamp).collect();
        self.kept.retain(|stamp| there.contains(stamp)).map_err(fault)
    }

    /// Whether a file that is done with is to leave the folder.
    fn goes_away(&self, refused: bool) -> bool {
        refused || self.feed.done != Done::Keep
    }

    /// Predicts a file, writes its line and puts it away.
    pub(super) fn handle(&mut self, name: &OsStr, stamp: Stamp) -> Outcome {
        if let Some((name, stamp, refused)) = self.unfinished.take()
            && let wait @ Outcome::Wait(_) = self.finish(&name, stamp, refused)
        {
            return wait;
        }
        if self.kept.get(&stamp).is_some() {
            return Outcome::Nothing;
        }
        if self.kept.is_full() {
            let detail =
                format!("{} holds {MOST} files that are done with; take some away", self.feed.path.display());
            return Outcome::Wait(Fault::transient(ErrorCode::TooLarge, detail));
        }
        let answered = match self.predict(name, stamp) {
            Ok(answer) => Ok(answer),
            Err(Refusal::Line(fault)) => Err(fault),
            Err(Refusal::Gone) => return Outcome::Nothing,
            Err(Refusal::Changed(stamp)) => return Outcome::Changed(stamp),
            Err(Refusal::Wait(fault)) => return Outcome::Wait(fault),
        };
        let refused = answered.is_err();
        if let Err(error) = self.write(name, stamp, &answered) {
            return Outcome::Wait(fault(error));
        }
        self.finish(name, stamp, refused)
    }

    fn write(
        &mut self,
        name: &OsStr,
        stamp: Stamp,
        answered: &Result<Answer, Fault>,
    ) -> Result<(), DiskError> {
        let file = name.to_string_lossy();
        let of = Of::File { file: &file, stamp: stamp.to_string() };
        let at_ms = self.clock.wall_ms();
        let line = match answered {
            Ok(answer) => Line::answered(at_ms, of, &self.feed.model, answer),
            Err(fault) => Line::refused(at_ms, of, &self.feed.model, fault),
        };
        let text =
            serde_json::to_string(&line).map_err(|error| DiskError::of(&self.feed.path, error.into()))?;
        self.log.append(&text, true)
    }

    fn predict(&self, name: &OsStr, stamp: Stamp) -> Result<Answer, Refusal> {
        if self.trial.ended(stamp) >= trial::MOST {
            let detail = format!("the agent ended {} times while it predicted this file", trial::MOST);
            return Err(Refusal::Line(Fault::lasting(ErrorCode::InferenceFailed, detail)));
        }
        let bytes = self.read(name, stamp)?;
        let line = |error: &HostError| Refusal::Line(Fault::lasting(error.code(), error.to_string()));
        let answered = self.host.admit(&self.feed.model).and_then(|ticket| {
            // While it waits for its turn others are at work, and the file is innocent of what they do.
            let turn = ticket.wait();
            self.trial.begin(stamp);
            let answered = turn.predict(Input::Encoded(&bytes));
            self.trial.end();
            answered
        });
        answered.map_err(|error| match &error {
            HostError::NotServing { .. } | HostError::Busy { .. } => {
                Refusal::Wait(Fault::transient(error.code(), error.to_string()))
            }
            _ => line(&error),
        })
    }

    /// The content of a file, and of nothing else: what is no plain file is not even opened for reading.
    fn read(&self, name: &OsStr, expected: Stamp) -> Result<Vec<u8>, Refusal> {
        let line = |code, detail: String| Refusal::Line(Fault::lasting(code, detail));
        let path = self.feed.path.join(name);
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => Refusal::Gone,
            io::ErrorKind::PermissionDenied => {
                line(ErrorCode::PermissionDenied, "the agent's user may not read it".to_owned())
            }
            _ => Refusal::Wait(fault(DiskError::of(&path, error))),
        };
        let kind = |meta: &Metadata| {
            let kind = meta.file_type();
            let what = match () {
                () if kind.is_file() => return Ok(()),
                () if kind.is_dir() => "a folder",
                () if kind.is_symlink() => "a link",
                () => "a device, pipe or socket",
            };
            Err(line(ErrorCode::InvalidInput, format!("it is {what}; only plain files are predicted")))
        };
        kind(&fs::symlink_metadata(&path).map_err(failed)?)?;
        // Between the look and here it may have become anything: a link is not followed, a pipe not waited for.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = openat(CWD, &path, flags, Mode::empty());
        let file = File::from(opened.map_err(|error| failed(error.into()))?);
        let meta = file.metadata().map_err(failed)?;
        kind(&meta)?;
        if stamp(&meta) != expected {
            return Err(Refusal::Changed(stamp(&meta)));
        }
        let most = self.feed.max_bytes;
        let too_large =
            || line(ErrorCode::TooLarge, format!("it has {} bytes; {most} are possible", meta.len()));
        if meta.len() > most {
            return Err(too_large());
        }
        let mut bytes = Vec::new();
        (&file).take(most + 1).read_to_end(&mut bytes).map_err(failed)?;
        let after = stamp(&file.metadata().map_err(failed)?);
        if after != expected {
            return Err(Refusal::Changed(after));
        }
        Ok(bytes)
    }

    /// Puts away what has its line, or notes that it stays.
    fn finish(&mut self, name: &OsStr, stamp: Stamp, refused: bool) -> Outcome {
        let mut outcome = if refused { Outcome::Refused } else { Outcome::Predicted };
        if self.goes_away(refused) {
            match self.put_away(name, stamp, refused) {
                Ok(()) => return outcome,
                Err(error) => outcome = Outcome::Stuck(fault(error)),
            }
        }
        if let Err(error) = self.kept.add(stamp, refused) {
            self.unfinished = Some((name.to_owned(), stamp, refused));
            return Outcome::Wait(fault(error));
        }
        outcome
    }

    /// Removes or moves a file, unless another one has its name by now.
    fn put_away(&mut self, name: &OsStr, expected: Stamp, refused: bool) -> Result<(), DiskError> {
        let at = self.feed.path.clone();
        let (failed, of_file) = (on(at.clone()), on(at.join(name)));
        // The path is the owner's word. What lies in the folder is not: all of it goes by this descriptor.
        let folder = File::open(&at).map_err(&failed)?;
        let looked = open_at(&folder, name, OFlags::PATH | OFlags::NOFOLLOW).and_then(|file| file.metadata());
        match looked {
            Ok(meta) if stamp(&meta) == expected => {}
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(of_file(error)),
        }
        if self.feed.done == Done::Delete && !refused {
            unlinkat(&folder, name, AtFlags::empty()).map_err(|errno| of_file(errno.into()))?;
        } else {
            let within = if refused { FAILED } else { DONE };
            let of_target = on(at.join(within));
            let target = open_within(&folder, within).map_err(&of_target)?;
            move_to(&folder, name, &target).map_err(|errno| of_file(errno.into()))?;
            target.sync_all().map_err(of_target)?;
        }
        self.kept.remove(&expected);
        folder.sync_all().map_err(failed)
    }
}

/// The error of what was done with this path.
fn on(path: PathBuf) -> impl Fn(io::Error) -> DiskError {
    move |error| DiskError::of(&path, error)
}

fn open_at(folder: &File, name: impl AsRef<Path>, flags: OFlags) -> io::Result<File> {
    Ok(openat(folder, name.as_ref(), flags | OFlags::CLOEXEC, Mode::empty())?.into())
}

/// Opens a folder within a folder; made, if it is not there, it is open to whom the other is open to: they put the files
/// in, and take them away. A link is not followed: they could have it lead anywhere that the agent's user may write.
fn open_within(folder: &File, name: &str) -> io::Result<File> {
    let open = || match open_at(folder, name, OFlags::DIRECTORY | OFlags::NOFOLLOW) {
        Err(error)
            if [Errno::NOTDIR, Errno::LOOP]
                .iter()
                .any(|no| Some(no.raw_os_error()) == error.raw_os_error()) =>
        {
            let problem =
                "it is a link or a file where a folder has to be, so nothing is moved there; take it away";
            Err(io::Error::new(io::ErrorKind::NotADirectory, problem))
        }
        opened => opened,
    };
    match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        opened => return opened,
    }
    mkdirat(folder, name, Mode::RWXU)?;
    let made = open()?;
    made.set_permissions(Permissions::from_mode(folder.metadata()?.permissions().mode() & 0o777))?;
    Ok(made)
}

/// Moves a file into a folder, without harm to what is there: under its own name, or one with a number.
fn move_to(folder: &File, name: &OsStr, target: &File) -> rustix::io::Result<()> {
    for number in 0..NAMES {
        let mut free = name.to_owned();
        if number > 0 {
            free.push(format!(".{number}"));
        }
        let moved = match renameat_with(folder, name, target, &free, RenameFlags::NOREPLACE) {
            // A file system that cannot promise it.
            Err(Errno::INVAL) => match statat(target, &free, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(_) => Err(Errno::EXIST),
                Err(_) => renameat(folder, name, target, &free),
            },
            moved => moved,
        };
        if moved != Err(Errno::EXIST) {
            return moved;
        }
    }
    Err(Errno::EXIST)
}

/// Whether a name is that of an input: hidden and temporary files are what others are still making.
pub(super) fn is_input(name: &OsStr) -> bool {
    let bytes = name.as_bytes();
    let unfinished = [&b".tmp"[..], b".part"].iter().any(|ending| bytes.ends_with(ending));
    !is_target(name) && !unfinished && !bytes.starts_with(b".")
}

/// Whether a name is that of a folder for what is done with.
pub(super) fn is_target(name: &OsStr) -> bool {
    [DONE, FAILED].iter().any(|target| name == *target)
}

/// What tells this content from another.
pub(super) fn stamp(meta: &Metadata) -> Stamp {
    let changed_ns = i128::from(meta.ctime()) * 1_000_000_000 + i128::from(meta.ctime_nsec());
    Stamp { inode: meta.ino(), bytes: meta.len(), changed_ns }
}

fn fault(error: DiskError) -> Fault {
    Fault::transient(error.code(), error.to_string())
}

#[cfg(test)]
#[path = "work_tests.rs"]
mod tests;

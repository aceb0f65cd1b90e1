//! The system's notices of what happens in a folder: inotify(7), without a thread of its own.

use super::super::ready::readable;
use flotilla_device::Fault;
use flotilla_protocol::ErrorCode;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::future::pending;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use tokio::io::unix::AsyncFd;

/// Bytes of notices that are read at once: a good hundred.
const BUFFER: usize = 8 * 1024;

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Notice {
    /// Something has a name here that had none.
    Made(OsString),
    /// A file was written and closed, or came whole from elsewhere.
    Written(OsString),
    /// A name is gone.
    Gone(OsString),
    /// The system could not keep all notices.
    Lost,
}

/// A folder that is watched.
pub(super) struct Watch {
    inotify: AsyncFd<OwnedFd>,
}

impl Watch {
    pub(super) fn new(folder: &Path) -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let wanted = WatchFlags::CREATE
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::DELETE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        inotify::add_watch(&inotify, folder, wanted)?;
        Ok(Self { inotify: readable(inotify)? })
    }

    /// Waits for notices. An error says that the folder is not there any more.
    async fn next(&self) -> Result<Vec<Notice>, Fault> {
        let failed =
            |error: io::Error| Fault::transient(ErrorCode::StorageIo, format!("notices of files: {error}"));
        loop {
            let mut guard = self.inotify.readable().await.map_err(failed)?;
            if let Ok(notices) = guard.try_io(|inotify| read(inotify.get_ref())) {
                return match notices.map_err(failed)? {
                    Some(notices) => Ok(notices),
                    None => Err(Fault::transient(
                        ErrorCode::StorageIo,
                        "the folder was removed, moved or unmounted",
                    )),
                };
            }
        }
    }
}

/// Waits for notices, for ever if there is no watch.
pub(super) async fn next(watch: Option<&Watch>) -> Result<Vec<Notice>, Fault> {
    match watch {
        Some(watch) => watch.next().await,
        None => pending().await,
    }
}

/// The notices that are there; none once the folder itself is gone.
fn read(inotify: &OwnedFd) -> io::Result<Option<Vec<Notice>>> {
    let mut buffer = [MaybeUninit::uninit(); BUFFER];
    let mut reader = Reader::new(inotify, &mut buffer);
    let mut notices = Vec::new();
    loop {
        let event = match reader.next() {
            Ok(event) => event,
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN) if !notices.is_empty() => return Ok(Some(notices)),
            Err(error) => return Err(error.into()),
        };
        let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()).to_owned());
        let what = event.events();
        if what.intersects(
            ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::UNMOUNT | ReadFlags::IGNORED,
        ) {
            return Ok(None);
        }
        if what.contains(ReadFlags::QUEUE_OVERFLOW) {
            notices.push(Notice::Lost);
        }
        let Some(name) = name else { continue };
        if what.intersects(ReadFlags::CLOSE_WRITE | ReadFlags::MOVED_TO) {
            notices.push(Notice::Written(name));
        } else if what.contains(ReadFlags::CREATE) {
            notices.push(Notice::Made(name));
        } else if what.intersects(ReadFlags::DELETE | ReadFlags::MOVED_FROM) {
            notices.push(Notice::Gone(name));
        }
        // A flood must not keep the reader here.
        if notices.len() >= BUFFER {
            return Ok(Some(notices));
        }
    }
}

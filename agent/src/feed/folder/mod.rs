//! Files that are dropped into a folder: each is predicted once it rests, and has exactly one line.
//!
//! What is guaranteed: a file (an inode with its size and the time of its last change, [`Stamp`]) has one line in the
//! results, whatever ends the agent and whenever: the line is on stable storage before the file is moved, removed or noted
//! as kept, that is done before the next line is written, and a file whose line is there only gets what is still to be
//! done with it. It holds as long as nobody else changes the results. A prediction that was cut off before
//! its line is made again. Files that cannot be predicted have a line with a code, and go into `failed/`. What cannot be
//! moved or removed stays, is noted, and is in nobody's way.
//!
//! While the model does not serve or is busy, or there is no room for a line, files wait where they are.

mod kept;
mod trial;
mod watch;
mod work;

use super::config::FolderFeed;
use super::{Problem, SAY_MS, Shared, Shown, update};
use crate::intake::blocking;
use flotilla_device::Fault;
use flotilla_device::backoff::Backoff;
use flotilla_device::inbox::{Inbox, Stamp};
use flotilla_protocol::ErrorCode;
use serde::Serialize;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use watch::{Notice, Watch};
use work::{Desk, Outcome, stamp};

/// The folder is looked into so often whatever the system's notices say: there are none of what another machine does.
const LOOK_MS: u64 = 30_000;
/// The same where the system gives no notices at all.
const BLIND_LOOK_MS: u64 = 2_000;
/// Waits after a failure of the folder, or before a file is tried again.
const RETRY: Backoff = Backoff { base_ms: 500, cap_ms: 5_000 };

/// Where a feed keeps what.
#[derive(Clone, Debug)]
pub(super) struct Places {
    /// The lines.
    pub(super) output: PathBuf,
    /// Files that are done with and still in the folder.
    pub(super) kept: PathBuf,
    /// The file that is being predicted.
    pub(super) trial: PathBuf,
}

/// What `/status` says of a folder.
#[derive(Debug, Default, Serialize)]
pub(super) struct Status {
    /// Files that wait.
    waiting: usize,
    /// Files that were predicted since the start.
    predicted: u64,
    /// Files that were refused since the start.
    refused: u64,
    /// Files that are done with and cannot be moved or removed.
    stuck: u64,
    /// Why it does not go on, if it does not.
    problem: Option<Problem>,
}

/// Runs until the agent stops.
pub(super) async fn run(feed: FolderFeed, places: Places, shared: Arc<Shared>, shown: Shown<Status>) {
    let mut worker = Worker { feed, places, shared, shown, tries: 0, say_again_ms: 0 };
    while let Err(fault) = worker.attend().await {
        if !worker.trouble(&fault).await {
            return;
        }
    }
}

struct Worker {
    feed: FolderFeed,
    places: Places,
    shared: Arc<Shared>,
    shown: Shown<Status>,
    /// Failures since the last success.
    tries: u32,
    say_again_ms: u64,
}

impl Worker {
    /// Says what is wrong, but not all the time.
    fn say(&mut self, fault: &Fault) {
        let now_ms = self.shared.clock.now_ms();
        // That a model does not serve or is busy is said elsewhere.
        if now_ms >= self.say_again_ms && !matches!(fault.code, ErrorCode::Busy | ErrorCode::NotFound) {
            self.say_again_ms = now_ms + SAY_MS;
            self.shared.say(format!("folder {}", self.feed.name), fault.clone());
        }
    }

    /// Shows how many files cannot be put away, and says why. The feed goes on.
    fn stuck(&mut self, count: u64, why: Option<&Fault>) {
        update(&self.shown, |status| {
            // What was wrong is mended; anything else that is wrong shows itself.
            if count == 0 && status.stuck > 0 {
                status.problem = None;
            }
            status.stuck = count;
            if let Some(why) = why {
                status.problem = Some(why.into());
            }
        });
        if let Some(why) = why {
            self.say(why);
        }
    }

    /// Shows and says what is wrong, and waits; false if the agent stops meanwhile.
    async fn trouble(&mut self, fault: &Fault) -> bool {
        update(&self.shown, |status| status.problem = Some(fault.into()));
        self.say(fault);
        let wait = RETRY.delay_ms(self.tries, rand::random());
        self.tries += 1;
        self.shared.pause(wait).await
    }

    fn well(&mut self) {
        self.tries = 0;
        update(&self.shown, |status| {
            if status.stuck == 0 {
                status.problem = None;
            }
        });
    }

    /// Attends to the folder until the agent stops, or until the folder cannot be used.
    async fn attend(&mut self) -> Result<(), Fault> {
        let (feed, places) = (self.feed.clone(), self.places.clone());
        let host = Arc::clone(&self.shared.host);
        let clock = self.shared.clock.clone();
        let mut desk = blocking(move || Desk::open(feed, &places, host, clock)).await?;
        let watch = Watch::new(&self.feed.path)
            .inspect_err(|error| {
                tracing::warn!(folder = self.feed.name, %error, "no notices of new files: the folder is looked into instead");
            })
            .ok();
        let every_ms = if watch.is_some() { LOOK_MS } else { BLIND_LOOK_MS };
        let mut inbox = Inbox::new(self.feed.settle_ms);
        let mut look_ms = 0;
        self.well();
        while !self.shared.shutdown.is_cancelled() {
            let now_ms = self.shared.clock.now_ms();
            if now_ms >= look_ms || inbox.wants_look() {
                inbox.looks();
                let found;
                (desk, found) = on(desk, Desk::look).await?;
                let found = found?;
                for (name, stamp) in &found.waiting {
                    inbox.seen(name, *stamp, false, now_ms);
                }
                self.stuck(found.stuck, found.problem.as_ref());
                look_ms = now_ms + every_ms;
            }
            update(&self.shown, |status| status.waiting = inbox.len());
            if let Some(name) = inbox.next(now_ms).map(ToOwned::to_owned) {
                desk = self.take(desk, &mut inbox, name).await?;
                continue;
            }
            let due = self.shared.clock.instant(inbox.due_ms().map_or(look_ms, |due| due.min(look_ms)));
            tokio::select! {
                () = self.shared.shutdown.cancelled() => {}
                notices = watch::next(watch.as_ref()) => {
                    let now_ms = self.shared.clock.now_ms();
                    for notice in notices? {
                        self.note(&mut inbox, notice, now_ms);
                    }
                }
                () = tokio::time::sleep_until(due) => {}
            }
        }
        Ok(())
    }

    fn note(&self, inbox: &mut Inbox, notice: Notice, now_ms: u64) {
        match notice {
            Notice::Made(name) => {
                if let Some((stamp, open)) = self.look_at(&name) {
                    inbox.seen(&name, stamp, open, now_ms);
                }
            }
            Notice::Written(name) => {
                if let Some((stamp, _)) = self.look_at(&name) {
                    inbox.closed(&name, stamp, now_ms);
                }
            }
            // What was in the way of files that could not be put away may be gone.
            Notice::Gone(name) if work::is_target(&name) => inbox.lost_notices(),
            Notice::Gone(name) => inbox.gone(&name),
            Notice::Lost => inbox.lost_notices(),
        }
    }

    /// The stamp of a file, and whether its writer holds it open: what is no file, or has another name too, was not
    /// opened when it was made.
    fn look_at(&self, name: &OsString) -> Option<(Stamp, bool)> {
        use std::os::unix::fs::MetadataExt;
        if !work::is_input(name) {
            return None;
        }
        let meta = std::fs::symlink_metadata(self.feed.path.join(name)).ok()?;
        Some((stamp(&meta), meta.is_file() && meta.nlink() == 1))
    }

    /// Takes a file that is ready.
    async fn take(&mut self, desk: Desk, inbox: &mut Inbox, name: OsString) -> Result<Desk, Fault> {
        let path = self.feed.path.join(&name);
        let now = blocking(move || Ok(std::fs::symlink_metadata(path).ok().map(|meta| stamp(&meta)))).await?;
        if !inbox.take(&name, now, self.shared.clock.now_ms()) {
            return Ok(desk);
        }
        let Some(stamp) = now else { return Ok(desk) };
        let turn = self.shared.turns.acquire().await;
        let (file, turned) = (name.clone(), desk);
        let (desk, outcome) = on(turned, move |desk| desk.handle(&file, stamp)).await?;
        drop(turn);
        match outcome {
            Outcome::Predicted => {
                self.well();
                update(&self.shown, |status| status.predicted += 1);
            }
            Outcome::Refused => {
                self.well();
                update(&self.shown, |status| status.refused += 1);
            }
            Outcome::Stuck(fault) => {
                let mut stuck = 0;
                update(&self.shown, |status| stuck = status.stuck);
                self.stuck(stuck + 1, Some(&fault));
            }
            Outcome::Nothing => {}
            Outcome::Changed(stamp) => inbox.closed(&name, stamp, self.shared.clock.now_ms()),
            Outcome::Wait(fault) => {
                inbox.closed(&name, stamp, self.shared.clock.now_ms());
                self.trouble(&fault).await;
            }
        }
        Ok(desk)
    }
}

/// Does a piece of work at the desk on a thread that may block.
async fn on<T: Send + 'static>(
    mut desk: Desk,
    work: impl FnOnce(&mut Desk) -> T + Send + 'static,
) -> Result<(Desk, T), Fault> {
    blocking(move || {
        let done = work(&mut desk);
        Ok((desk, done))
    })
    .await
}

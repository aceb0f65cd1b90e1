//! Kills at every write of the update's journal, the switch among them: the moment before it is on the disk, and the
//! moment after, before anything else has happened.
//!
//! A clock would miss these moments, so the test starts itself as a child: an agent whose disk kills the process.

use crate::cloud::PATIENCE;
use crate::device::Device;
use crate::disk::beneath;
use crate::releases::Plan;
use crate::updates::{confirmed, settled, want};
use flotilla_agent::config::Config;
use flotilla_agent::daemon::{self, Options};
use flotilla_agent::disk::{Disk, DiskError, FolderDisk};
use flotilla_agent::folder::Folder;
use flotilla_device::update::Step;
use flotilla_protocol::Digest;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio_util::sync::CancellationToken;

const CHILD_FOLDER: &str = "FLOTILLA_KILLED_AGENT_FOLDER";
const CHILD_MOMENT: &str = "FLOTILLA_KILLED_AGENT_MOMENT";
const SIGKILL: i32 = 9;

/// A moment in an update: before or after the journal's write of this number, from 1.
#[derive(Clone, Copy, Debug)]
enum Moment {
    Before(u32),
    After(u32),
}

impl Moment {
    fn to_text(self) -> String {
        match self {
            Moment::Before(write) => format!("before {write}"),
            Moment::After(write) => format!("after {write}"),
        }
    }

    fn parse(text: &str) -> Self {
        let (side, write) = text.split_once(' ').unwrap();
        let write = write.parse().unwrap();
        if side == "before" { Moment::Before(write) } else { Moment::After(write) }
    }

    /// The number of journal writes that are on the disk then.
    fn written(self) -> usize {
        match self {
            Moment::Before(write) => write as usize - 1,
            Moment::After(write) => write as usize,
        }
    }
}

/// A disk that kills its process at one moment.
struct DeadlyDisk {
    disk: FolderDisk,
    moment: Moment,
    writes: AtomicU32,
}

impl Disk for DeadlyDisk {
    beneath!();

    fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
        let journal = path.file_name().is_some_and(|name| name == "journal");
        let write = if journal { self.writes.fetch_add(1, Ordering::SeqCst) + 1 } else { 0 };
        if matches!(self.moment, Moment::Before(fatal) if fatal == write) {
            die();
        }
        self.disk.replace(path, bytes)?;
        if matches!(self.moment, Moment::After(fatal) if fatal == write) {
            die();
        }
        Ok(())
    }
}

/// The caller never comes back, so whatever it wanted to do next is not done.
fn die() -> ! {
    let _ = Command::new("kill").args(["-KILL", &std::process::id().to_string()]).status();
    loop {
        std::thread::park();
    }
}

/// The child of the test below; nothing when nobody named a folder.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_killed() {
    let Some(root) = std::env::var_os(CHILD_FOLDER).map(PathBuf::from) else { return };
    let moment = Moment::parse(&std::env::var(CHILD_MOMENT).unwrap());
    let disk = DeadlyDisk { disk: FolderDisk::new(&root).unwrap(), moment, writes: AtomicU32::new(0) };
    let options = Options {
        folder: Folder::with_disk(&root, Arc::new(disk)),
        config: Config::default(),
        exe: PathBuf::from(env!("CARGO_BIN_EXE_flotilla-agent")),
        prefix: Vec::new(),
        launched: None,
        wall: flotilla_agent::clock::wall_ms,
    };
    daemon::run(options, CancellationToken::new()).await.unwrap();
}

/// Runs the agent on this device's folder until its disk kills it.
async fn run_until(device: &Device, moment: Moment) {
    let mut child = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "switch::an_agent_that_is_killed", "--nocapture"])
        .env(CHILD_FOLDER, device.path(""))
        .env(CHILD_MOMENT, moment.to_text())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let ended = tokio::time::timeout(PATIENCE, child.wait()).await;
    let status = ended.unwrap_or_else(|_| panic!("{moment:?} never came")).unwrap();
    assert_eq!(status.signal(), Some(SIGKILL), "{moment:?}: {status}");
}

/// What the journal on the disk says of the release that is confirmed and of the one on its way.
fn journal(device: &Device) -> (Option<Digest>, Option<(Digest, Step)>) {
    let journal = device.journal();
    (journal.confirmed.map(|c| c.release), journal.candidate.map(|c| (c.release, c.step)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_write_of_the_journal_ends_in_a_working_release() {
    let (mut cloud, mut device, mut old) = settled().await;
    let mut old_label = "a";
    device.kill().await;
    // What is on its way after each write of an update: taken up, its document examined, its files complete,
    // switched to, confirmed.
    let steps = [Some(Step::Filling), Some(Step::Filling), Some(Step::Staged), Some(Step::Trial), None];
    let switch = 4;
    let writes = 1..=steps.len() as u32;
    for (round, moment) in writes.flat_map(|write| [Moment::Before(write), Moment::After(write)]).enumerate()
    {
        let (label, text) = [(1, "b"), (2, "c")][round % 2];
        let new = Plan::changed(label, move |m| m.version = round as u32 + 1).publish(&cloud);
        want(&mut cloud, &new);
        run_until(&device, moment).await;

        let written = moment.written();
        let on_its_way = written.checked_sub(1).and_then(|last| steps[last]).map(|step| (new.release, step));
        let works = if written == steps.len() { new.release } else { old.release };
        assert_eq!(journal(&device), (Some(works), on_its_way), "{moment:?}");

        // From the switch on, the new release serves without a network.
        let switched = written >= switch;
        if switched {
            cloud.stop().await;
        }
        device.start().await;
        device.until("an answer", async |device| device.predict(&[1, 2, 3, 4]).await.ok()).await;
        let serves = device.label().await;
        assert!(serves == text || !switched && serves == old_label, "{moment:?}: {serves} serves");
        if switched {
            cloud.resume().await;
        }
        confirmed(&cloud, new.release).await;
        assert_eq!(device.label().await, text, "{moment:?}");
        assert!(device.terminate().await.success());
        assert_eq!(journal(&device), (Some(new.release), None), "{moment:?}");
        (old, old_label) = (new, text);
    }
}

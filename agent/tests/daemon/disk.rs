//! A disk that takes no more, or loses what was written last, under an agent in this process.

use crate::cloud::Cloud;
use crate::releases::Plan;
use crate::updates::{confirmed, report, want};
use flotilla_agent::config::Config;
use flotilla_agent::daemon::{self, Options};
use flotilla_agent::disk::{Disk, DiskError, FolderDisk};
use flotilla_agent::folder::Folder;
use flotilla_device::update::{Step, UpdateJournal};
use flotilla_protocol::message::Phase;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio_util::sync::CancellationToken;

/// Journals that say this are not taken, as long as there are refusals left.
struct FullDisk {
    disk: FolderDisk,
    step: Step,
    refusals: AtomicU32,
}

impl Disk for FullDisk {
    fn read(&self, path: &Path, max: usize) -> Result<Option<Vec<u8>>, DiskError> {
        self.disk.read(path, max)
    }

    fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
        let step = UpdateJournal::from_bytes(bytes).ok().and_then(|j| j.candidate).map(|c| c.step);
        let left = |n: u32| n.checked_sub(1);
        if step == Some(self.step)
            && self.refusals.fetch_update(Ordering::SeqCst, Ordering::SeqCst, left).is_ok()
        {
            return Err(DiskError::Full { path: path.to_owned() });
        }
        self.disk.replace(path, bytes)
    }

    fn remove(&self, path: &Path) -> Result<(), DiskError> {
        self.disk.remove(path)
    }

    fn folders(&self, path: &Path) -> Result<Vec<String>, DiskError> {
        self.disk.folders(path)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_cannot_be_written_holds_the_update_up_and_breaks_nothing() {
    for step in [Step::Filling, Step::Staged, Step::Trial] {
        let mut cloud = Cloud::start().await;
        let root = tempfile::tempdir().unwrap();
        cloud.admit(root.path());
        let first = Plan::good(0).publish(&cloud);
        want(&mut cloud, &first);
        let disk = Arc::new(FullDisk {
            disk: FolderDisk::new(root.path()).unwrap(),
            step,
            refusals: AtomicU32::new(1),
        });
        let shutdown = CancellationToken::new();
        let agent = tokio::spawn(daemon::run(
            Options {
                folder: Folder::with_disk(root.path(), Arc::clone(&disk) as Arc<dyn Disk>),
                config: Config::default(),
                exe: PathBuf::from(env!("CARGO_BIN_EXE_flotilla-agent")),
                prefix: Vec::new(),
                launched: None,
            },
            shutdown.clone(),
        ));
        confirmed(&cloud, first.release).await;
        assert_eq!(disk.refusals.load(Ordering::SeqCst), 0, "{step:?} was never refused");
        let failure = report(&cloud.state()).filter(|r| r.phase == Phase::Confirmed).and_then(|r| r.failure);
        assert_eq!(failure, None);
        shutdown.cancel();
        agent.await.unwrap().unwrap();
    }
}

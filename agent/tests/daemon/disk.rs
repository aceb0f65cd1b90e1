//! A disk that takes no more, or loses what was written last, under an agent in this process.

use crate::cloud::Cloud;
use crate::device::{Device, answer_of};
use crate::releases::Plan;
use crate::updates::{confirmed, report, want};
use flotilla_agent::config::Config;
use flotilla_agent::daemon::{self, Options};
use flotilla_agent::disk::{Disk, DiskError, FolderDisk};
use flotilla_agent::folder::Folder;
use flotilla_device::update::{Step, UpdateJournal};
use flotilla_protocol::message::Phase;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio_util::sync::CancellationToken;

/// The operations of a disk that are those of its field `disk`: all but the replacing of files.
macro_rules! beneath {
    () => {
        fn content(&self, path: &Path, max: usize) -> Result<Option<Vec<u8>>, DiskError> {
            self.disk.content(path, max)
        }

        fn read_at(&self, path: &Path, offset: u64, buffer: &mut [u8]) -> Result<usize, DiskError> {
            self.disk.read_at(path, offset, buffer)
        }

        fn write_at(&self, path: &Path, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
            self.disk.write_at(path, offset, bytes)
        }

        fn size(&self, path: &Path) -> Result<Option<flotilla_agent::disk::Size>, DiskError> {
            self.disk.size(path)
        }

        fn settle(&self, path: &Path, bytes: u64) -> Result<(), DiskError> {
            self.disk.settle(path, bytes)
        }

        fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
            self.disk.rename(from, to)
        }

        fn remove(&self, path: &Path) -> Result<(), DiskError> {
            self.disk.remove(path)
        }

        fn create_folder(&self, path: &Path) -> Result<(), DiskError> {
            self.disk.create_folder(path)
        }

        fn sync_folder(&self, path: &Path) -> Result<(), DiskError> {
            self.disk.sync_folder(path)
        }

        fn folders(&self, path: &Path) -> Result<Vec<String>, DiskError> {
            self.disk.folders(path)
        }
    };
}
pub(crate) use beneath;

/// Journals that say this are not taken, as long as there are refusals left.
struct FullDisk {
    disk: FolderDisk,
    step: Step,
    refusals: AtomicU32,
}

impl Disk for FullDisk {
    beneath!();

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
}

/// A small file system of its own, to fill up or to make read-only; unmounted when dropped.
pub(crate) struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// Mounts one; `None`, and a line that says so, where that is not permitted. In CI nothing may be skipped.
    pub(crate) fn mount(size: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let options = format!("size={size}");
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(folder.path()).output();
        if mount.is_ok_and(|output| output.status.success()) {
            return Some(Self(folder));
        }
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "CI must be able to mount a tmpfs");
        eprintln!("skipped: mounting a tmpfs is not permitted here");
        None
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn write_protect(&self) {
        let status = Command::new("mount").args(["-o", "remount,ro"]).arg(self.path()).status().unwrap();
        assert!(status.success());
    }

    /// Takes so much room, or all there is; [`Self::release`] gives it back.
    pub(crate) fn fill(&self, bytes: usize) {
        let mut file = File::create(self.path().join("somebody-elses-file")).unwrap();
        let mut left = bytes;
        while left > 0 && file.write_all(&[0; 4096]).is_ok() {
            left = left.saturating_sub(4096);
        }
    }

    pub(crate) fn release(&self) {
        std::fs::remove_file(self.path().join("somebody-elses-file")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("--lazy").arg(self.path()).status());
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
                wall: flotilla_agent::clock::wall_ms,
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

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_nobody_from_predicting_and_is_got_over_when_there_is_room_again() {
    let Some(disk) = SmallDisk::mount("32m") else { return };
    let mut cloud = Cloud::start().await;
    let first = Plan::good(0).publish(&cloud);
    want(&mut cloud, &first);
    let mut device = Device::at(&cloud, disk.path());
    std::fs::write(device.path("agent.toml"), "disk_reserve_bytes = 1000000").unwrap();
    device.start().await;
    confirmed(&cloud, first.release).await;

    disk.fill(usize::MAX);
    let second = Plan { ballast_chunks: 8, ..Plan::good(1) }.publish(&cloud);
    want(&mut cloud, &second);
    // What cannot be stored is not acted on: the device gives the connection up and comes again.
    let gave_up = async |d: &Device| (d.status().await["connected"] == false).then_some(());
    device.until("the end of the connection", gave_up).await;
    assert_eq!(device.answer().await.map(|(_, label)| label).as_deref(), Some("a"));
    disk.release();
    confirmed(&cloud, second.release).await;
    assert_eq!(device.label().await, "b");

    // From a cold start on a full disk the confirmed release serves.
    device.kill().await;
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    std::fs::write(device.path("agent.toml"), format!("disk_reserve_bytes = 1000000\nlisten = \"{port}\""))
        .unwrap();
    disk.fill(usize::MAX);
    device.spawn();
    let answer = device.until("an answer", async |_| answer_of(&port.to_string(), "letters").await).await;
    assert_eq!(answer.1, "b");
    disk.release();
    device.until("the endpoint's file", async |d| d.path("run/endpoint").exists().then_some(())).await;
    let third = Plan { ballast_chunks: 8, salt: 1, ..Plan::good(2) }.publish(&cloud);
    want(&mut cloud, &third);
    confirmed(&cloud, third.release).await;
    assert_eq!(device.label().await, "c");
}

#[tokio::test(flavor = "multi_thread")]
async fn records_go_on_once_a_full_disk_has_room_again_without_a_restart() {
    let Some(disk) = SmallDisk::mount("32m") else { return };
    let mut cloud = Cloud::start().await;
    let first = Plan::good(0).publish(&cloud);
    cloud.settings.telemetry_interval_s = 1;
    want(&mut cloud, &first);
    let mut device = Device::at(&cloud, disk.path());
    device.start().await;
    confirmed(&cloud, first.release).await;
    // The log lies on the same disk, so it is the status that tells.
    disk.fill(usize::MAX);
    let held_up = async |d: &Device| (d.status().await["records_waiting"].is_null()).then_some(());
    device.until("an outbox that cannot be used", held_up).await;
    assert_eq!(device.answer().await.map(|(_, label)| label).as_deref(), Some("a"));
    let kept = async |d: &Device| (d.status().await["records_in_memory"].as_u64() >= Some(3)).then_some(());
    device.until("records in memory", kept).await;
    disk.release();
    let sent = async |d: &Device| (d.status().await["records_waiting"] == 0).then_some(());
    device.until("an empty outbox", sent).await;
    assert_eq!(device.status().await["records_in_memory"], 0);
    let state = cloud.state();
    let mut seconds: Vec<u64> = state.kept.values().map(|record| record.at_ms / 1_000).collect();
    seconds.sort_unstable();
    let widest = seconds.windows(2).map(|pair| pair[1] - pair[0]).max();
    assert!(widest <= Some(6), "a hole of {widest:?} s among the samples of every second");
}

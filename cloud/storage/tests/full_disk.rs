//! On a disk that is really full, or really read-only, every store refuses with a typed error, keeps what it has acknowledged, and
//! goes on when there is room again.
//!
//! Needs a small file system of its own, which takes the right to mount one; where that is missing the test
//! says so and is skipped, except in CI.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use bytes::Bytes;
use flotilla_protocol::{Digest, ErrorCode};
use flotilla_storage::fs::RealFs;
use flotilla_storage::{
    Batch, Error, Key, Objects, Range, Records, RecordsConfig, Segments, SegmentsConfig, SledRecords, Table,
};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use tempfile::TempDir;

const TABLE: Table = Table::new("rows");
const DISK: &str = "size=48m";

/// A small disk in memory, unmounted on drop.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let folder = TempDir::new().unwrap();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", DISK, "tmpfs"]).arg(folder.path()).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self(folder));
        }
        assert!(std::env::var_os("CI").is_none(), "CI must be able to mount a tmpfs");
        println!("skipped: mounting a tmpfs is not permitted here");
        None
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn remount(&self, mode: &str) {
        let options = format!("remount,{mode}");
        let status = Command::new("mount").args(["-o", &options]).arg(self.path()).status().unwrap();
        assert!(status.success());
    }

    /// Another program takes all the room there is.
    fn fill(&self) -> PathBuf {
        let path = self.path().join("somebody-elses-file");
        let mut file = std::fs::File::create(&path).unwrap();
        let piece = vec![0; 4096];
        while file.write_all(&piece).is_ok() {}
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, because a failed test may still hold files on it.
        let unmounted = Command::new("umount").arg("-l").arg(self.path()).status();
        assert!(std::thread::panicking() || unmounted.is_ok_and(|status| status.success()));
    }
}

struct Stores {
    records: SledRecords,
    objects: Objects,
    segments: Segments,
}

impl Stores {
    fn open(root: &Path) -> Result<Self, Error> {
        let records = RecordsConfig { checkpoint_bytes: 2 << 20, ..RecordsConfig::default() };
        Ok(Self {
            records: SledRecords::open_with(Arc::new(RealFs), &root.join("records"), records)?,
            objects: Objects::open(&root.join("objects"))?,
            segments: Segments::open_with(
                Arc::new(RealFs),
                &root.join("segments"),
                SegmentsConfig::default(),
            )?,
        })
    }

    async fn commit(&self, number: u32) -> Result<(), Error> {
        let mut batch = Batch::new();
        batch.put(Key::new(TABLE, number.to_be_bytes()), vec![number as u8; 8000]);
        self.records.commit(batch).await.map(drop)
    }

    async fn append(&self) -> Result<u64, Error> {
        Ok(self.segments.append(vec![Bytes::from(vec![7; 60_000])]).await?.end)
    }

    async fn put(&self, number: u32) -> Result<Digest, Error> {
        self.objects.put(number.to_be_bytes().repeat(20_000)).await
    }
}

/// What has been acknowledged.
#[derive(Default)]
struct Acknowledged {
    records: u32,
    frames: u64,
    objects: Vec<Digest>,
}

impl Acknowledged {
    /// Writes to all stores in turn until each has refused.
    async fn write_until_full(&mut self, stores: &Stores) {
        let mut refused = [false; 3];
        for _ in 0..10_000 {
            if refused == [true; 3] {
                return;
            }
            match stores.commit(self.records).await {
                Ok(()) => self.records += 1,
                Err(error) => refused[0] = is_full(&error),
            }
            match stores.append().await {
                Ok(next) => self.frames = next,
                Err(error) => refused[1] = is_full(&error),
            }
            match stores.put(self.objects.len() as u32).await {
                Ok(digest) => self.objects.push(digest),
                Err(error) => refused[2] = is_full(&error),
            }
        }
        panic!("a disk of {DISK} is full before");
    }

    async fn check(&self, stores: &Stores) {
        let mut range = Range::table(TABLE);
        let mut records = 0;
        loop {
            let page = stores.records.range(&range).await.unwrap();
            let Some((last, _)) = page.last() else { break };
            records += page.len();
            range = range.after(last.id());
        }
        assert_eq!(records, self.records as usize);
        for digest in &self.objects {
            stores.objects.verify(digest).await.unwrap();
        }
        assert_eq!(stores.segments.next(), self.frames);
    }
}

fn is_full(error: &Error) -> bool {
    assert_eq!(error.code(), ErrorCode::StorageFull, "{error} {error:?}");
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_refused_kept_and_survived() {
    let Some(disk) = SmallDisk::mount() else { return };
    let stores = Stores::open(disk.path()).unwrap();
    let mut acknowledged = Acknowledged::default();
    acknowledged.write_until_full(&stores).await;
    assert!(acknowledged.records > 20, "{} records", acknowledged.records);
    acknowledged.check(&stores).await;

    // The reserve goes too, and with it every chance to write.
    let filler = disk.fill();
    assert_eq!(stores.commit(0).await.unwrap_err().code(), ErrorCode::StorageFull);
    acknowledged.check(&stores).await;
    drop(stores);
    if let Err(error) = Stores::open(disk.path()) {
        is_full(&error);
    }

    std::fs::remove_file(filler).unwrap();
    let stores = Stores::open(disk.path()).unwrap();
    acknowledged.check(&stores).await;
    stores.objects.remove(&acknowledged.objects.pop().unwrap()).await.unwrap();
    for digest in acknowledged.objects.drain(..).take(100) {
        stores.objects.remove(&digest).await.unwrap();
    }
    stores.commit(acknowledged.records).await.unwrap();
    acknowledged.records += 1;
    acknowledged.check(&stores).await;
}

/// The folder of the index that is in use.
fn index_folders(disk: &SmallDisk) -> Vec<std::ffi::OsString> {
    let entries =
        std::fs::read_dir(disk.path().join("records")).unwrap().map(|entry| entry.unwrap().file_name());
    entries.filter(|name| name.to_string_lossy().starts_with("index-")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_others_filled_for_a_while_heals_without_a_restart() {
    let Some(disk) = SmallDisk::mount() else { return };
    let stores = Stores::open(disk.path()).unwrap();
    let mut acknowledged = Acknowledged::default();
    let first = index_folders(&disk);
    // sled writes in the background twice a second; sooner or later it meets the full disk, and then fails for good.
    for _ in 0..500 {
        let filler = disk.fill();
        assert_eq!(stores.commit(0).await.unwrap_err().code(), ErrorCode::StorageFull);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        std::fs::remove_file(filler).unwrap();
        stores.commit(acknowledged.records).await.unwrap();
        acknowledged.records += 1;
        if index_folders(&disk) != first {
            break;
        }
    }
    let healed = index_folders(&disk);
    assert!(healed != first && healed.len() == 1, "the index was made anew: {first:?} {healed:?}");
    acknowledged.check(&stores).await;
    stores.records.close().await.unwrap();
    drop(stores);
    acknowledged.check(&Stores::open(disk.path()).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_disk_is_named_and_nothing_is_lost() {
    let Some(disk) = SmallDisk::mount() else { return };
    let mut acknowledged = Acknowledged::default();
    let stores = Stores::open(disk.path()).unwrap();
    stores.commit(0).await.unwrap();
    acknowledged.records = 1;
    acknowledged.objects.push(stores.put(0).await.unwrap());
    acknowledged.frames = stores.append().await.unwrap();
    stores.records.close().await.unwrap();
    stores.segments.close().await;
    drop(stores);

    disk.remount("ro");
    for (name, refused) in [
        ("records", SledRecords::open(&disk.path().join("records")).err()),
        ("objects", Objects::open(&disk.path().join("objects")).err()),
        ("segments", Segments::open(&disk.path().join("segments")).err()),
    ] {
        let error = refused.unwrap();
        assert_eq!(error.code(), ErrorCode::StorageReadOnly, "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }
    disk.remount("rw");
    acknowledged.check(&Stores::open(disk.path()).unwrap()).await;
}

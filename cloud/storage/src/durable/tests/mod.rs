#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

//! Restarts, damage, bounds, leases, watches and failing disks.

mod model;

use super::*;
use crate::testing::{Fault, FaultyFs, small_records};
use crate::{Expect, Lease, News, Table};
use bytes::Bytes;
use flotilla_protocol::ErrorCode;
use std::time::Duration;
use tempfile::TempDir;

const A: Table = Table::new("a");
const B: Table = Table::new("b");

fn open(folder: &Path) -> Result<SledRecords> {
    SledRecords::open_with(Arc::new(RealFs), folder, small_records())
}

fn key(id: &str) -> Key {
    Key::new(A, id)
}

fn put(key: Key, value: impl Into<Bytes>, expect: Expect) -> Batch {
    let mut batch = Batch::new();
    batch.put_if(key, value, expect);
    batch
}

/// What a kill leaves: the files as they are while the store is open.
fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else if let Err(error) = std::fs::copy(entry.path(), target) {
            // sled's threads rename and remove files of their own meanwhile.
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}");
        }
    }
}

#[tokio::test]
async fn a_clean_restart_keeps_the_index_and_a_damaged_index_is_made_anew() {
    let parent = TempDir::new().unwrap();
    let folder = parent.path().join("records");
    let records = open(&folder).unwrap();
    for i in 0..100 {
        records.commit(put(key(&format!("{i:03}")), vec![1; 100], Expect::Absent)).await.unwrap();
    }
    records.close().await.unwrap();
    assert!(matches!(records.get(&key("000")).await, Err(Error::Closed { .. })));
    let before = records.shared.index.path().to_path_buf();
    let records = open(&folder).unwrap();
    assert_eq!(records.shared.index.path(), before, "it was not made anew");
    records.close().await.unwrap();

    let mut db = std::fs::read(before.join("db")).unwrap();
    db.iter_mut().for_each(|byte| *byte = byte.wrapping_add(1));
    std::fs::write(before.join("db"), db).unwrap();
    let records = open(&folder).unwrap();
    assert_eq!(records.range(&Range::table(A)).await.unwrap().len(), 100);
}

#[tokio::test]
async fn the_journal_stays_short_and_a_damaged_snapshot_is_reported() {
    let parent = TempDir::new().unwrap();
    let folder = parent.path().join("records");
    let records = open(&folder).unwrap();
    for i in 0..400_u32 {
        let value = i.to_le_bytes().repeat(50);
        records.commit(put(key(&(i % 7).to_string()), value, Expect::Any)).await.unwrap();
    }
    records.close().await.unwrap();
    let journal = RealFs.list(&folder.join("journal")).unwrap();
    let size: u64 = journal.iter().map(|e| e.len).sum();
    assert!(size <= 5 * small_records().checkpoint_bytes, "{size} bytes for 80 KB of commits");
    let snapshots: Vec<_> =
        RealFs.list(&folder).unwrap().into_iter().filter(|e| e.name.starts_with("snapshot-")).collect();
    assert_eq!(snapshots.len(), 1, "old snapshots are removed: {snapshots:?}");

    let path = folder.join(&snapshots[0].name);
    let mut content = std::fs::read(&path).unwrap();
    content[100] ^= 1;
    std::fs::write(&path, content).unwrap();
    std::fs::remove_file(folder.join("CLEAN")).unwrap();
    let error = open(&folder).unwrap_err();
    assert_eq!(error.code(), ErrorCode::StorageCorrupt);
    assert!(error.to_string().contains(&snapshots[0].name), "{error}");
}

#[tokio::test]
async fn a_journal_that_lost_acknowledged_commits_is_reported() {
    let parent = TempDir::new().unwrap();
    let records = open(parent.path()).unwrap();
    records.commit(put(key("one"), "1", Expect::Any)).await.unwrap();
    records.commit(put(key("two"), "2", Expect::Any)).await.unwrap();
    records.close().await.unwrap();
    let journal = parent.path().join("journal");
    let segment = journal.join(&RealFs.list(&journal).unwrap()[0].name);
    let mut content = std::fs::read(&segment).unwrap();
    let damaged = content.windows(3).rposition(|w| w == b"two").unwrap();
    content[damaged] ^= 1;
    std::fs::write(&segment, content).unwrap();
    assert_eq!(open(parent.path()).unwrap_err().code(), ErrorCode::StorageCorrupt);
}

#[tokio::test]
async fn many_writers_count_up_one_record_without_losing_a_step() {
    let parent = TempDir::new().unwrap();
    let records = Arc::new(open(parent.path()).unwrap());
    records.commit(put(key("count"), "0", Expect::Absent)).await.unwrap();
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let records = Arc::clone(&records);
            tokio::spawn(async move {
                let mut done = 0;
                while done < 10 {
                    let found = records.get(&key("count")).await.unwrap().unwrap();
                    let count: u32 = std::str::from_utf8(&found.value).unwrap().parse().unwrap();
                    let next = put(key("count"), (count + 1).to_string(), Expect::Version(found.version));
                    match records.commit(next).await {
                        Ok(_) => done += 1,
                        Err(error) => assert_eq!(error.code(), ErrorCode::PreconditionFailed),
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(records.get(&key("count")).await.unwrap().unwrap().value, "80");
}

#[tokio::test]
async fn batches_over_a_bound_are_refused_whole() {
    let parent = TempDir::new().unwrap();
    let records = open(parent.path()).unwrap();
    let mut batch = put(key("small"), "x", Expect::Any);
    batch.put(key("large"), vec![0; 16 * 1024 + 1]);
    let error = records.commit(batch).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::TooLarge);
    assert!(error.to_string().contains("a/large"), "{error}");
    assert_eq!(records.get(&key("small")).await.unwrap(), None);
    records.commit(put(key("largest"), vec![0; 16 * 1024], Expect::Any)).await.unwrap();

    let mut twice = put(key("same"), "x", Expect::Any);
    twice.delete(key("same"));
    assert_eq!(records.commit(twice).await.unwrap_err().code(), ErrorCode::InvalidInput);
    let long_id = Key::new(A, vec![b'x'; 513]);
    assert_eq!(records.commit(put(long_id, "", Expect::Any)).await.unwrap_err().code(), ErrorCode::TooLarge);
    let mut many = Batch::new();
    for i in 0..4097_u32 {
        many.delete(Key::new(A, i.to_be_bytes()));
    }
    assert_eq!(records.commit(many).await.unwrap_err().code(), ErrorCode::TooLarge);
}

#[tokio::test]
async fn leases_pass_on_with_growing_tokens_and_shut_out_their_old_holders() {
    let parent = TempDir::new().unwrap();
    let records: Arc<dyn Records> = Arc::new(open(parent.path()).unwrap());
    let ttl = Duration::from_millis(100);
    let first = records.acquire_lease("job/1", "one", ttl, 1000).await.unwrap().unwrap();
    assert_eq!(first.expires, 1100);
    assert_eq!(records.acquire_lease("job/1", "two", ttl, 1099).await.unwrap(), None);
    let renewed = records.renew_lease(&first, ttl, 1050).await.unwrap();
    assert_eq!((renewed.token, renewed.expires), (first.token, 1150));
    assert_eq!(records.acquire_lease("job/1", "two", ttl, 1149).await.unwrap(), None);

    let fenced = |lease: &Lease, value: &'static str| {
        let mut batch = put(key("result"), value, Expect::Any);
        batch.fence(&lease.name, lease.token);
        batch
    };
    records.commit(fenced(&renewed, "by one")).await.unwrap();
    let second = records.acquire_lease("job/1", "two", ttl, 1150).await.unwrap().unwrap();
    assert!(second.token > first.token);
    let stale = records.commit(fenced(&renewed, "stale")).await.unwrap_err();
    assert_eq!(stale.code(), ErrorCode::LeaseLost);
    assert_eq!(records.renew_lease(&renewed, ttl, 1150).await.unwrap_err().code(), ErrorCode::LeaseLost);
    records.release_lease(&renewed).await.unwrap();
    records.commit(fenced(&second, "by two")).await.unwrap();
    assert_eq!(records.get(&key("result")).await.unwrap().unwrap().value, "by two");

    records.release_lease(&second).await.unwrap();
    assert_eq!(records.commit(fenced(&second, "x")).await.unwrap_err().code(), ErrorCode::LeaseLost);
    let third = records.acquire_lease("job/1", "one", ttl, 0).await.unwrap().unwrap();
    assert!(third.token > second.token, "tokens grow even after a release");
    let again = records.acquire_lease("job/1", "one", ttl, 0).await.unwrap().unwrap();
    assert!(again.token > third.token, "a restarted holder shuts out its earlier life");
}

#[tokio::test]
async fn a_watch_tells_changes_in_order_and_says_when_it_missed_some() {
    let parent = TempDir::new().unwrap();
    let records = open(parent.path()).unwrap();
    let mut watch = records.watch(Range::prefix(A, "x"));
    let first = records.commit(put(key("x1"), "", Expect::Any)).await.unwrap().version;
    let mut batch = put(key("y"), "", Expect::Any);
    batch.delete(key("x1")).put(Key::new(B, "x"), "");
    let second = records.commit(batch).await.unwrap().version;
    assert_eq!(watch.next().await, Some(News::Put { key: key("x1"), version: first }));
    assert_eq!(watch.next().await, Some(News::Deleted { key: key("x1"), version: second }));

    let mut wide = Batch::new();
    for i in 0..65_u8 {
        wide.put(Key::new(B, [i]), "");
    }
    records.commit(wide).await.unwrap();
    assert_eq!(watch.next().await, Some(News::Lagged), "too many records to tell one by one");

    let records = Arc::new(records);
    let tasks: Vec<_> = (0..1100_u32)
        .map(|i| {
            let records = Arc::clone(&records);
            tokio::spawn(async move { records.commit(put(key(&format!("x{i}")), "", Expect::Any)).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert_eq!(watch.next().await, Some(News::Lagged), "the backlog is bounded");
    assert!(matches!(watch.next().await, Some(News::Put { .. })), "it goes on after that");
    records.close().await.unwrap();
    let mut rest = 0;
    while watch.next().await.is_some() {
        rest += 1;
    }
    assert!(rest < 1100, "{rest}");
}

#[tokio::test]
async fn a_full_disk_refuses_commits_loses_nothing_and_heals() {
    let parent = TempDir::new().unwrap();
    let fs = FaultyFs::new();
    let records = SledRecords::open_with(Arc::new(fs.clone()), parent.path(), small_records()).unwrap();
    records.commit(put(key("kept"), "1", Expect::Absent)).await.unwrap();
    for fault in [Fault::Full, Fault::Free(1000)] {
        fs.set(fault);
        let error = records.commit(put(key("lost"), vec![1; 3000], Expect::Absent)).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::StorageFull, "{error}");
        assert_eq!(records.get(&key("lost")).await.unwrap(), None);
        assert_eq!(records.get(&key("kept")).await.unwrap().unwrap().value, "1");
    }
    fs.set(Fault::None);
    records.commit(put(key("lost"), vec![1; 3000], Expect::Absent)).await.unwrap();
    drop(records);
    assert_eq!(open(parent.path()).unwrap().range(&Range::table(A)).await.unwrap().len(), 2);
}

#[tokio::test]
async fn after_a_failed_sync_nothing_is_acknowledged_until_a_restart() {
    let parent = TempDir::new().unwrap();
    let fs = FaultyFs::new();
    let records = SledRecords::open_with(Arc::new(fs.clone()), parent.path(), small_records()).unwrap();
    records.commit(put(key("kept"), "1", Expect::Absent)).await.unwrap();
    fs.set(Fault::Sync);
    let failed = records.commit(put(key("unknown"), "2", Expect::Absent)).await.unwrap_err();
    assert!(failed.to_string().contains("refuses writes"), "{failed}");
    fs.set(Fault::None);
    let refused = records.commit(put(key("late"), "3", Expect::Absent)).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::StorageIo);
    assert_eq!(records.get(&key("kept")).await.unwrap().unwrap().value, "1", "reads go on");
    drop(records);
    let records = open(parent.path()).unwrap();
    assert_eq!(records.get(&key("kept")).await.unwrap().unwrap().value, "1");
    assert_eq!(records.get(&key("late")).await.unwrap(), None);
    records.commit(put(key("late"), "3", Expect::Absent)).await.unwrap();
}

#[tokio::test]
async fn folders_in_use_read_only_or_newer_are_refused_by_name() {
    let parent = TempDir::new().unwrap();
    let folder = parent.path().join("deep").join("records");
    let records = open(&folder).unwrap();
    let error = open(&folder).unwrap_err();
    assert_eq!(error.code(), ErrorCode::StorageInUse);
    assert!(error.to_string().contains(folder.to_str().unwrap()), "{error}");
    records.close().await.unwrap();

    let fs = FaultyFs::new();
    fs.set(Fault::ReadOnly);
    let error = SledRecords::open_with(Arc::new(fs), &folder, small_records()).unwrap_err();
    assert_eq!(error.code(), ErrorCode::StorageReadOnly);

    std::fs::write(folder.join("FORMAT"), "flotilla-records 2\n").unwrap();
    let error = open(&folder).unwrap_err();
    assert_eq!(error.code(), ErrorCode::StorageVersion);
    std::fs::write(folder.join("FORMAT"), "flotilla-objects 1\n").unwrap();
    assert_eq!(open(&folder).unwrap_err().code(), ErrorCode::InvalidInput);
    std::fs::write(folder.join("FORMAT"), "flotilla-records 1\n").unwrap();
    open(&folder).unwrap();
}

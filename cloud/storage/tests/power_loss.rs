//! After a power loss at any moment every store opens, and everything acknowledged is there.
//!
//! A seeded workload runs on a recorded file system. For many moments of it a disk is made up that holds
//! what was synced and an arbitrary part of the rest; the stores are opened on it and asked for everything
//! that had been acknowledged by that moment. Every few images the power also fails during that opening.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod support;

use bytes::Bytes;
use flotilla_protocol::Digest;
use flotilla_storage::fs::Fs;
use flotilla_storage::{
    Batch, Error, Key, Objects, Records, RecordsConfig, Segments, SegmentsConfig, SledRecords, Table,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use support::disk::{Disk, Share};
use support::recorder::{Call, Recorder};
use tempfile::TempDir;

const LEFT: Table = Table::new("left");
const RIGHT: Table = Table::new("right");
const LIVES: u64 = 6;
const IMAGES: usize = 60;
/// Names how many workloads are recorded, for long runs.
const SEEDS: &str = "FLOTILLA_POWER_LOSS_SEEDS";

const RECORDS: RecordsConfig = RecordsConfig {
    cache_bytes: 1 << 20,
    checkpoint_bytes: 6 << 10,
    segment_bytes: 2 << 10,
    grow_bytes: 700,
    reserve_bytes: 1 << 20,
};
const SEGMENTS: SegmentsConfig = SegmentsConfig {
    segment_bytes: 1 << 10,
    total_bytes: 1 << 20,
    frame_bytes: 2 << 10,
    grow_bytes: 600,
    reserve_bytes: 1 << 20,
};

/// When something was asked for and when it was acknowledged, in calls of the recorder.
#[derive(Debug, Clone, Copy)]
struct When {
    asked: usize,
    /// Never, where the process was killed before.
    acknowledged: usize,
}

impl When {
    /// The time of a call that began at `asked` and has ended now with `result`.
    fn ended<T>(recorder: &Recorder, asked: usize, result: &Result<T, Error>) -> Self {
        if let Err(error) = result {
            assert!(recorder.is_dead(), "{error:?}");
            return Self { asked, acknowledged: usize::MAX };
        }
        Self { asked, acknowledged: recorder.now() }
    }
}

/// What the workload did.
#[derive(Debug, Default)]
struct History {
    /// The values of each record, in order; none for removed.
    records: BTreeMap<u8, Vec<(When, Option<Bytes>)>>,
    put: BTreeMap<Digest, When>,
    removed: BTreeMap<Digest, When>,
    frames: BTreeMap<u64, (When, Bytes)>,
}

struct Stores {
    records: SledRecords,
    objects: Objects,
    segments: Segments,
}

impl Stores {
    fn open(fs: &Arc<dyn Fs>, root: &Path) -> Result<Self, Error> {
        Ok(Self {
            records: SledRecords::open_with(Arc::clone(fs), &root.join("records"), RECORDS)?,
            objects: Objects::open_with(Arc::clone(fs), &root.join("objects"))?,
            segments: Segments::open_with(Arc::clone(fs), &root.join("segments"), SEGMENTS)?,
        })
    }
}

/// A folder in memory where there is one: hundreds of images are written and none must survive.
fn scratch() -> TempDir {
    TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap()
}

fn random_bytes(rng: &mut StdRng, max: usize) -> Bytes {
    let len = rng.random_range(1..=max);
    (0..len).map(|_| rng.random::<u8>()).collect::<Vec<_>>().into()
}

/// Runs tasks that write at once, each to its own records.
async fn work(recorder: &Recorder, stores: Stores, history: &Arc<Mutex<History>>, seed: u64) -> Stores {
    let stores = Arc::new(stores);
    let tasks: Vec<_> = (0..5_u8)
        .map(|task| {
            let (stores, history, recorder) = (Arc::clone(&stores), Arc::clone(history), recorder.clone());
            let mut rng = StdRng::seed_from_u64(seed * 100 + u64::from(task));
            tokio::spawn(async move {
                for _ in 0..12 {
                    if recorder.is_dead() {
                        return;
                    }
                    match task {
                        0..3 => change_record(&recorder, &stores, &history, &mut rng, task).await,
                        3 => change_object(&recorder, &stores, &history, &mut rng).await,
                        _ => append_frames(&recorder, &stores, &history, &mut rng).await,
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    Arc::into_inner(stores).unwrap()
}

async fn change_record(
    recorder: &Recorder,
    stores: &Stores,
    history: &Mutex<History>,
    rng: &mut StdRng,
    task: u8,
) {
    let id = task * 8 + rng.random_range(0..3);
    let value = rng.random_bool(0.8).then(|| random_bytes(rng, 900));
    let mut batch = Batch::new();
    for table in [LEFT, RIGHT] {
        match &value {
            Some(value) => batch.put(Key::new(table, [id]), value.clone()),
            None => batch.delete(Key::new(table, [id])),
        };
    }
    let asked = recorder.now();
    let when = When::ended(recorder, asked, &stores.records.commit(batch).await);
    history.lock().unwrap().records.entry(id).or_default().push((when, value));
}

async fn change_object(recorder: &Recorder, stores: &Stores, history: &Mutex<History>, rng: &mut StdRng) {
    let present: Vec<Digest> = {
        let history = history.lock().unwrap();
        let there = |when: &When| when.acknowledged != usize::MAX;
        let put = history.put.iter().filter(|(_, when)| there(when)).map(|(digest, _)| *digest);
        put.filter(|digest| !history.removed.contains_key(digest)).collect()
    };
    let asked = recorder.now();
    if !present.is_empty() && rng.random_bool(0.2) {
        let digest = present[rng.random_range(0..present.len())];
        let removed = stores.objects.remove(&digest).await;
        let when = When::ended(recorder, asked, &removed);
        assert!(removed.unwrap_or(true), "it was there");
        history.lock().unwrap().removed.insert(digest, when);
    } else if rng.random_bool(0.3) {
        let contents: Vec<Bytes> = (0..3).map(|_| random_bytes(rng, 3000)).collect();
        let when = When::ended(recorder, asked, &stores.objects.put_many(contents.clone()).await);
        history.lock().unwrap().put.extend(contents.iter().map(|content| (Digest::of(content), when)));
    } else {
        let content = random_bytes(rng, 3000);
        let digest = Digest::of(&content);
        let when = When::ended(recorder, asked, &stores.objects.put(content).await);
        history.lock().unwrap().put.insert(digest, when);
    }
}

async fn append_frames(recorder: &Recorder, stores: &Stores, history: &Mutex<History>, rng: &mut StdRng) {
    let frames: Vec<Bytes> = (0..rng.random_range(1..4)).map(|_| random_bytes(rng, 300)).collect();
    let asked = recorder.now();
    let numbers = stores.segments.append(frames.clone()).await;
    let when = When::ended(recorder, asked, &numbers);
    let Ok(numbers) = numbers else { return };
    history.lock().unwrap().frames.extend(numbers.zip(frames.into_iter().map(|frame| (when, frame))));
}

type Loss = Box<dyn std::error::Error>;

fn ensure(holds: bool, loss: impl FnOnce() -> String) -> Result<(), Loss> {
    if holds { Ok(()) } else { Err(loss().into()) }
}

/// Everything acknowledged at `moment` is in the stores, and nothing that was never written.
async fn check(stores: &Stores, history: &History, moment: usize) -> Result<(), Loss> {
    check_records(stores, history, moment).await?;
    check_objects(stores, history, moment).await?;
    check_frames(stores, history, moment).await
}

async fn check_records(stores: &Stores, history: &History, moment: usize) -> Result<(), Loss> {
    for (id, values) in &history.records {
        let acknowledged = values.iter().rposition(|(when, _)| when.acknowledged <= moment);
        let asked = values.iter().take_while(|(when, _)| when.asked < moment).count();
        // The last acknowledged value, or one that was on its way; before the first, nothing.
        let first = acknowledged.unwrap_or(0);
        let mut possible: Vec<Option<&Bytes>> =
            values[first..asked.max(first)].iter().map(|(_, value)| value.as_ref()).collect();
        if acknowledged.is_none() {
            possible.push(None);
        }
        let keys = [LEFT, RIGHT].map(|table| Key::new(table, [*id]));
        let found = stores.records.get_many(&keys).await?;
        ensure(found[0] == found[1], || format!("the batch of record {id} is not whole"))?;
        let value = found[0].as_ref().map(|record| &record.value);
        ensure(possible.contains(&value), || format!("record {id}: {value:?} is none of {possible:?}"))?;
    }
    Ok(())
}

async fn check_objects(stores: &Stores, history: &History, moment: usize) -> Result<(), Loss> {
    for (digest, put) in &history.put {
        let removed = history.removed.get(digest);
        if removed.is_some_and(|when| when.acknowledged <= moment) {
            let back = stores.objects.contains(digest).await?;
            ensure(!back, || format!("object {digest} was removed"))?;
            continue;
        }
        let kept = put.acknowledged <= moment && removed.is_none_or(|when| when.asked >= moment);
        if kept || stores.objects.contains(digest).await? {
            stores.objects.verify(digest).await?;
        }
    }
    Ok(())
}

async fn check_frames(stores: &Stores, history: &History, moment: usize) -> Result<(), Loss> {
    let mut reader = stores.segments.reader(0);
    let mut found = BTreeMap::new();
    loop {
        let page = reader.page(64, 1 << 20).await?;
        if page.is_empty() {
            break;
        }
        found.extend(page);
    }
    for (number, (when, frame)) in &history.frames {
        match found.get(number) {
            Some(found) => ensure(found == frame, || format!("frame {number} is another"))?,
            None => ensure(when.acknowledged > moment, || format!("frame {number} is gone"))?,
        }
    }
    Ok(())
}

/// What a reader has seen after a restart must stay, acknowledged or not.
async fn note_what_is_seen(recorder: &Recorder, stores: &Stores, history: &Mutex<History>) {
    let ids: Vec<u8> = history.lock().unwrap().records.keys().copied().collect();
    let keys: Vec<Key> = ids.iter().map(|id| Key::new(LEFT, [*id])).collect();
    let found = stores.records.get_many(&keys).await.unwrap();
    let when = When { asked: recorder.now().saturating_sub(1), acknowledged: recorder.now() };
    let mut history = history.lock().unwrap();
    for (id, record) in ids.into_iter().zip(found) {
        history.records.entry(id).or_default().push((when, record.map(|record| record.value)));
    }
}

fn pick_share(rng: &mut StdRng) -> Share {
    let kept = match rng.random_range(0..4) {
        0 => 0.0,
        1 => 1.0,
        2 => rng.random_range(0.8..1.0),
        _ => rng.random_range(0.0..1.0),
    };
    Share(kept)
}

/// Opens an image, checks it, and sees that it can be written to and opened again.
async fn check_image(root: &Path, history: &History, moment: usize, rng: &mut StdRng) {
    let recorder = Recorder::new(root);
    let fs: Arc<dyn Fs> = Arc::new(recorder.clone());
    let stores = Stores::open(&fs, root).unwrap();
    check(&stores, history, moment).await.unwrap();
    let mut batch = Batch::new();
    batch.put(Key::new(LEFT, "after the loss"), "written");
    stores.records.commit(batch).await.unwrap();
    let committed = recorder.now();
    stores.records.close().await.unwrap();
    drop(stores);

    // The power fails once more while the stores recover, write and close.
    let calls = recorder.calls();
    let again = rng.random_range(0..=calls.len());
    let second = scratch();
    Disk::after(&recorder, &calls[..again], |_| true).lose(pick_share(rng), rng, second.path());
    let fs: Arc<dyn Fs> = Arc::new(Recorder::new(second.path()));
    let stores = Stores::open(&fs, second.path()).unwrap();
    check(&stores, history, moment).await.unwrap();
    if again >= committed {
        let found = stores.records.get(&Key::new(LEFT, "after the loss")).await.unwrap();
        assert_eq!(found.unwrap().value, "written");
    }
}

/// A recorded workload.
struct Recording {
    /// Kept, because the recorder's paths are below it.
    _root: TempDir,
    recorder: Recorder,
    calls: Vec<Call>,
    history: History,
    rng: StdRng,
}

async fn record(seed: u64) -> Recording {
    let root = scratch();
    let recorder = Recorder::new(root.path());
    let fs: Arc<dyn Fs> = Arc::new(recorder.clone());
    let history = Arc::new(Mutex::new(History::default()));
    let mut rng = StdRng::seed_from_u64(seed);
    for life in 0..LIVES {
        recorder.kill_after(None);
        let stores = Stores::open(&fs, root.path()).unwrap();
        note_what_is_seen(&recorder, &stores, &history).await;
        // Every other life ends in the middle of its work, by a kill that the disk survives.
        recorder.kill_after((life % 2 == 1).then(|| rng.random_range(0..150)));
        let stores = work(&recorder, stores, &history, seed * 10 + life).await;
        stores.segments.close().await;
        let closed = stores.records.close().await;
        assert!(closed.is_ok() || recorder.is_dead(), "{closed:?}");
    }
    recorder.kill_after(None);
    let history = std::mem::take(&mut *history.lock().unwrap());
    Recording { _root: root, calls: recorder.calls(), recorder, history, rng }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_write_is_lost_and_every_reopen_works() {
    let seeds = std::env::var(SEEDS).map_or(2, |seeds| seeds.parse().expect("the number of seeds"));
    for seed in 0..seeds {
        let Recording { _root, recorder, calls, history, mut rng } = record(seed).await;
        for image in 0..IMAGES {
            let moment = rng.random_range(0..=calls.len());
            let kept = pick_share(&mut rng);
            println!(
                "seed {seed}, image {image}: power lost after call {moment} of {}, {kept:?}",
                calls.len()
            );
            let target = scratch();
            Disk::after(&recorder, &calls[..moment], |_| true).lose(kept, &mut rng, target.path());
            check_image(target.path(), &history, moment, &mut rng).await;
        }
    }
}

/// Says which calls were made.
type Made = fn(&Call) -> bool;

/// Says whether some image shows a loss when a kind of call had not been made.
async fn is_found(made: Made) -> bool {
    let Recording { _root, recorder, calls, history, mut rng } = record(7).await;
    assert!(!calls.iter().all(made), "there is such a call");
    for _ in 0..IMAGES {
        let moment = rng.random_range(0..=calls.len());
        let target = scratch();
        Disk::after(&recorder, &calls[..moment], made).lose(Share(0.3), &mut rng, target.path());
        let fs: Arc<dyn Fs> = Arc::new(Recorder::new(target.path()));
        let found = match Stores::open(&fs, target.path()) {
            Ok(stores) => check(&stores, &history, moment).await,
            Err(error) => Err(error.into()),
        };
        if let Err(loss) = found {
            println!("{loss}");
            return true;
        }
    }
    false
}

/// The test above would notice if one of the syncs were forgotten.
#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_sync_is_noticed() {
    let kinds: [(&str, Made); 6] = [
        ("of a file", |call| !matches!(call, Call::Sync(_))),
        ("of the journal's folder", |call| !is_sync_of(call, |path| path.ends_with("records/journal"))),
        ("of the records' folder", |call| !is_sync_of(call, |path| path.ends_with("records"))),
        ("of the segments' folder", |call| !is_sync_of(call, |path| path.ends_with("segments/frames"))),
        ("of an object's folder", |call| !is_sync_of(call, |path| path.starts_with("objects"))),
        ("of many objects", |call| !matches!(call, Call::SyncAll)),
    ];
    for (kind, made) in kinds {
        println!("without the sync {kind}:");
        assert!(is_found(made).await, "the sync {kind} is not missed");
    }
}

fn is_sync_of(call: &Call, which: impl Fn(&Path) -> bool) -> bool {
    matches!(call, Call::SyncDir(path) if which(path))
}

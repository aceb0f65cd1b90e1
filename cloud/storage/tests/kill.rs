//! A process that is killed in the middle of its writes loses nothing it has acknowledged.
//!
//! This test starts itself a hundred times as a child that writes to all three stores as fast as it can and
//! names each acknowledged write on its standard output; after some of these lines the child is killed.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use bytes::Bytes;
use flotilla_protocol::Digest;
use flotilla_storage::fs::RealFs;
use flotilla_storage::{
    Batch, Key, Objects, Records, RecordsConfig, Segments, SegmentsConfig, SledRecords, Table,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use tempfile::TempDir;

const CHILD: &str = "FLOTILLA_KILL_TEST_FOLDER";
const KILLS: usize = 100;
const WRITERS: u8 = 4;
const LEFT: Table = Table::new("left");
const RIGHT: Table = Table::new("right");

struct Stores {
    records: SledRecords,
    objects: Objects,
    segments: Segments,
}

impl Stores {
    /// Small sizes, so that kills meet snapshots and new segments too.
    fn open(root: &Path) -> Self {
        let records = RecordsConfig {
            cache_bytes: 4 << 20,
            checkpoint_bytes: 64 << 10,
            segment_bytes: 16 << 10,
            grow_bytes: 8 << 10,
            reserve_bytes: 1 << 20,
        };
        let segments =
            SegmentsConfig { segment_bytes: 64 << 10, grow_bytes: 16 << 10, ..SegmentsConfig::default() };
        Self {
            records: SledRecords::open_with(Arc::new(RealFs), &root.join("records"), records).unwrap(),
            objects: Objects::open(&root.join("objects")).unwrap(),
            segments: Segments::open_with(Arc::new(RealFs), &root.join("segments"), segments).unwrap(),
        }
    }

    /// The number a writer has counted up to, in both of its records.
    async fn count(&self, writer: u8) -> u64 {
        let keys = [LEFT, RIGHT].map(|table| Key::new(table, [writer]));
        let found = self.records.get_many(&keys).await.unwrap();
        assert_eq!(found[0], found[1], "a batch is whole");
        let digits = |value: &Bytes| std::str::from_utf8(&value[..20]).unwrap().parse().unwrap();
        found[0].as_ref().map_or(0, |record| digits(&record.value))
    }
}

fn object(number: u64) -> Vec<u8> {
    (0..20_000_u64).map(|i| (i * (number + 3) % 251) as u8).collect()
}

fn frame(number: u64) -> Bytes {
    format!("{number:020}").repeat(10).into()
}

fn acknowledge(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "ack {line}").unwrap();
    out.flush().unwrap();
}

async fn write_records(stores: Arc<Stores>, writer: u8) {
    let mut number = stores.count(writer).await;
    loop {
        number += 1;
        let mut batch = Batch::new();
        for table in [LEFT, RIGHT] {
            batch.put(Key::new(table, [writer]), format!("{number:020}").repeat(1 + number as usize % 40));
        }
        stores.records.commit(batch).await.unwrap();
        acknowledge(&format!("record {writer} {number}"));
    }
}

async fn write_objects(stores: Arc<Stores>, mut number: u64) {
    loop {
        number += 1;
        let digest = stores.objects.put(object(number)).await.unwrap();
        acknowledge(&format!("object {digest}"));
    }
}

async fn write_frames(stores: Arc<Stores>) {
    loop {
        let number = stores.segments.next();
        let numbers = stores.segments.append(vec![frame(number), frame(number + 1)]).await.unwrap();
        assert_eq!(numbers.start, number, "nobody else appends");
        acknowledge(&format!("frame {}", number + 1));
    }
}

/// The child of the test below, which runs until it is killed; nothing when nobody named a folder.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn write_until_killed() {
    let Some(folder) = std::env::var_os(CHILD).map(PathBuf::from) else { return };
    // The harness has begun a line.
    println!();
    acknowledge("start");
    let stores = Arc::new(Stores::open(&folder));
    let started = stores.segments.next();
    let mut tasks = vec![
        tokio::spawn(write_objects(Arc::clone(&stores), started * 1000)),
        tokio::spawn(write_frames(Arc::clone(&stores))),
    ];
    tasks.extend((0..WRITERS).map(|writer| tokio::spawn(write_records(Arc::clone(&stores), writer))));
    for task in tasks {
        task.await.unwrap();
    }
}

/// What children have acknowledged so far.
#[derive(Default)]
struct Acknowledged {
    counts: BTreeMap<u8, u64>,
    objects: Vec<Digest>,
    frames: u64,
}

impl Acknowledged {
    fn take(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["ack", "start"] => {}
            ["ack", "record", writer, number] => {
                self.counts.insert(writer.parse().unwrap(), number.parse().unwrap());
            }
            ["ack", "object", digest] => self.objects.push(digest.parse().unwrap()),
            ["ack", "frame", number] => self.frames = number.parse::<u64>().unwrap() + 1,
            // A line cut off by the kill was not acknowledged, and the harness has lines of its own.
            _ => {}
        }
    }
}

/// Starts a child, kills it after `lines` of its lines, and takes in what it had said until then.
fn kill_after(folder: &Path, lines: usize, acknowledged: &mut Acknowledged) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "write_until_killed", "--nocapture", "--test-threads=1"])
        .env(CHILD, folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    let (mut seen, mut line) = (0, String::new());
    while reader.read_line(&mut line).unwrap() > 0 {
        if line.ends_with('\n') {
            acknowledged.take(line.trim_end());
        }
        seen += usize::from(line.starts_with("ack "));
        if seen == lines {
            child.kill().unwrap();
        }
        line.clear();
    }
    child.wait().unwrap();
    assert!(seen >= lines, "the child ended on its own after {seen} lines");
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_in_a_hundred_kills() {
    let folder = TempDir::new().unwrap();
    let seed = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut acknowledged = Acknowledged::default();
    let (mut objects_checked, mut frames_checked) = (0, 0);
    for kill in 1..=KILLS {
        // Some kills come while the child still opens its stores.
        let lines = if rng.random_bool(0.2) { 1 } else { rng.random_range(2..60) };
        kill_after(folder.path(), lines, &mut acknowledged);
        // The last time everything is looked at, not only what is new.
        if kill == KILLS {
            (objects_checked, frames_checked) = (0, 0);
        }
        let stores = Stores::open(folder.path());
        for (&writer, &number) in &acknowledged.counts {
            let found = stores.count(writer).await;
            assert!(found >= number, "kill {kill}: writer {writer} counted to {number}, {found} is there");
        }
        for digest in &acknowledged.objects[objects_checked..] {
            stores.objects.verify(digest).await.unwrap();
        }
        objects_checked = acknowledged.objects.len();
        let mut reader = stores.segments.reader(frames_checked);
        while frames_checked < acknowledged.frames {
            for (number, found) in reader.page(1000, 1 << 20).await.unwrap() {
                assert_eq!((number, &found), (frames_checked, &frame(number)), "kill {kill}");
                frames_checked += 1;
            }
        }
    }
    let records: u64 = acknowledged.counts.values().sum();
    println!("{records} commits, {objects_checked} objects, {frames_checked} frames");
    assert!(records > 100 && objects_checked > 10 && frames_checked > 10, "the children did write");
}

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

//! What a log gives back after it was torn, overwritten or damaged.

use super::*;
use crate::fs::RealFs;
use crate::testing::{Fault, FaultyFs};
use proptest::prelude::*;
use tempfile::TempDir;

const CONFIG: LogConfig = LogConfig { segment_bytes: 200, grow_bytes: 64, frame_bytes: 100 };

fn open(folder: &TempDir) -> Result<Log> {
    Log::open(Arc::new(RealFs), folder.path(), CONFIG, 1)
}

fn frames(log: &Log, from: u64) -> Vec<(u64, Vec<u8>)> {
    let mut found = Vec::new();
    log.replay(from, |number, frame| {
        found.push((number, frame));
        Ok(())
    })
    .unwrap();
    found
}

fn last_segment(folder: &TempDir, log: &Log) -> PathBuf {
    folder.path().join(segment_name(*log.segments().last().unwrap()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_log_cut_anywhere_gives_back_a_prefix_and_goes_on(
        lengths in proptest::collection::vec(1_usize..40, 1..6),
        cut in 0_usize..200,
        garbage in proptest::collection::vec(any::<u8>(), 0..30),
    ) {
        let folder = TempDir::new().unwrap();
        let mut log = open(&folder).unwrap();
        let payloads: Vec<Bytes> = lengths.iter().enumerate().map(|(i, &n)| vec![i as u8 + 1; n].into()).collect();
        log.append(&payloads).unwrap();
        let path = last_segment(&folder, &log);
        let end = log.active.end as usize;
        drop(log);
        let mut content = std::fs::read(&path).unwrap();
        content.truncate(frame::SEGMENT_HEADER + cut % (end - frame::SEGMENT_HEADER));
        let ends = lengths.iter().scan(frame::SEGMENT_HEADER, |end, len| {
            *end += frame::HEADER + len;
            Some(*end)
        });
        let whole = ends.filter(|&end| end <= content.len()).count();
        content.extend_from_slice(&garbage);
        std::fs::write(&path, content).unwrap();

        let mut log = open(&folder).unwrap();
        let kept = frames(&log, 1);
        prop_assert!(kept.len() >= whole, "{} of {whole} whole frames", kept.len());
        for (i, (number, frame)) in kept.iter().enumerate() {
            prop_assert_eq!(*number, i as u64 + 1);
            prop_assert_eq!(frame, &payloads[i]);
        }
        let first = log.append(&[Bytes::from_static(b"after")]).unwrap();
        prop_assert_eq!(first, kept.len() as u64 + 1);
        drop(log);
        prop_assert_eq!(frames(&open(&folder).unwrap(), first), vec![(first, b"after".to_vec())]);
    }
}

#[test]
fn frames_of_a_lost_group_do_not_come_back_behind_new_ones() {
    let folder = TempDir::new().unwrap();
    let mut log = open(&folder).unwrap();
    log.append(&["one", "two", "old"].map(Bytes::from)).unwrap();
    let path = last_segment(&folder, &log);
    drop(log);
    // The first frame is lost, those behind it reached the disk.
    let mut content = std::fs::read(&path).unwrap();
    content[frame::SEGMENT_HEADER..][..frame::HEADER + 3].fill(0);
    std::fs::write(&path, content).unwrap();

    let mut log = open(&folder).unwrap();
    // As long as the lost frame, so that the old second one would follow it exactly.
    log.append(&[Bytes::from_static(b"new")]).unwrap();
    drop(log);
    assert_eq!(frames(&open(&folder).unwrap(), 1), vec![(1, b"new".to_vec())]);
}

#[test]
fn a_damaged_frame_before_the_last_segment_is_an_error_not_a_loss() {
    let folder = TempDir::new().unwrap();
    let mut log = open(&folder).unwrap();
    for i in 0..12_u8 {
        log.append(&[vec![i + 1; 50].into()]).unwrap();
    }
    let segments = log.segments();
    assert!(segments.len() > 2);
    let path = folder.path().join(segment_name(segments[1]));
    drop(log);
    let mut content = std::fs::read(&path).unwrap();
    content[frame::SEGMENT_HEADER + frame::HEADER] ^= 1;
    std::fs::write(&path, content).unwrap();
    let error = open(&folder).err().unwrap();
    assert_eq!(error.code(), flotilla_protocol::ErrorCode::StorageCorrupt);
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
}

#[test]
fn a_missing_segment_is_an_error() {
    let folder = TempDir::new().unwrap();
    let mut log = open(&folder).unwrap();
    for i in 0..12_u8 {
        log.append(&[vec![i + 1; 50].into()]).unwrap();
    }
    std::fs::remove_file(folder.path().join(segment_name(log.segments()[1]))).unwrap();
    drop(log);
    assert!(matches!(open(&folder), Err(Error::Corrupt { .. })));
}

#[test]
fn on_a_full_disk_nothing_is_appended_and_the_log_goes_on_afterwards() {
    let folder = TempDir::new().unwrap();
    let fs = FaultyFs::new();
    let mut log = Log::open(Arc::new(fs.clone()), folder.path(), CONFIG, 1).unwrap();
    log.append(&[Bytes::from_static(b"before")]).unwrap();
    fs.set(Fault::Full);
    let refused = log.append(&["failed one", "failed two"].map(Bytes::from));
    assert!(matches!(refused, Err(Error::DiskFull { .. })), "{refused:?}");
    assert_eq!(frames(&open(&folder).unwrap(), 1), vec![(1, b"before".to_vec())]);
    fs.set(Fault::None);
    assert_eq!(log.append(&[Bytes::from_static(b"after")]).unwrap(), 2);
    let expected = vec![(1, b"before".to_vec()), (2, b"after".to_vec())];
    assert_eq!(frames(&open(&folder).unwrap(), 1), expected);
}

#[test]
fn a_full_disk_at_the_start_of_a_segment_leaves_the_log_usable() {
    let folder = TempDir::new().unwrap();
    let fs = FaultyFs::new();
    let mut log = Log::open(Arc::new(fs.clone()), folder.path(), CONFIG, 1).unwrap();
    while log.active.end < CONFIG.segment_bytes {
        log.append(&[vec![7; 50].into()]).unwrap();
    }
    fs.set(Fault::Full);
    assert!(matches!(log.append(&[Bytes::from_static(b"x")]), Err(Error::DiskFull { .. })));
    fs.set(Fault::None);
    let number = log.append(&[Bytes::from_static(b"x")]).unwrap();
    assert_eq!(log.segments().last(), Some(&number));
    assert_eq!(frames(&open(&folder).unwrap(), number), vec![(number, b"x".to_vec())]);
}

#[test]
fn after_a_failed_sync_the_log_refuses_until_it_is_opened_again() {
    let folder = TempDir::new().unwrap();
    let fs = FaultyFs::new();
    let mut log = Log::open(Arc::new(fs.clone()), folder.path(), CONFIG, 1).unwrap();
    log.append(&[Bytes::from_static(b"kept")]).unwrap();
    fs.set(Fault::Sync);
    assert!(matches!(log.append(&[Bytes::from_static(b"unknown")]), Err(Error::Refusing { .. })));
    fs.set(Fault::None);
    let refused = log.append(&[Bytes::from_static(b"refused")]).unwrap_err();
    assert!(refused.to_string().contains("restart"), "{refused}");
    drop(log);
    assert_eq!(frames(&open(&folder).unwrap(), 1)[0], (1, b"kept".to_vec()));
}

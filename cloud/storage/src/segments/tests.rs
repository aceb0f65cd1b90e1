#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

//! What a consumer of segments reads, and what happens at the bounds.

use super::*;
use crate::testing::{Fault, FaultyFs, small_segments};
use flotilla_protocol::ErrorCode;
use tempfile::TempDir;

fn open(folder: &TempDir) -> Segments {
    Segments::open_with(Arc::new(RealFs), folder.path(), small_segments()).unwrap()
}

fn payload(i: u64) -> Bytes {
    format!("frame number {i}").into()
}

async fn read_all(reader: &mut SegmentReader) -> Vec<(u64, Bytes)> {
    let mut all = Vec::new();
    loop {
        let page = reader.page(3, 1000).await.unwrap();
        if page.is_empty() {
            return all;
        }
        all.extend(page);
    }
}

#[tokio::test]
async fn frames_come_back_in_order_across_segments_and_a_restart() {
    let folder = TempDir::new().unwrap();
    let segments = open(&folder);
    let mut early = segments.reader(0);
    for i in (0..30).step_by(2) {
        assert_eq!(segments.append(vec![payload(i), payload(i + 1)]).await.unwrap(), i..i + 2);
        let page = early.page(10, 1000).await.unwrap();
        assert_eq!(page, vec![(i, payload(i)), (i + 1, payload(i + 1))], "a reader sees frames as they come");
    }
    segments.close().await;
    assert!(matches!(segments.append(vec![payload(0)]).await, Err(Error::Closed { .. })));

    let segments = open(&folder);
    assert_eq!((segments.first(), segments.next()), (0, 30));
    let expected: Vec<_> = (7..30).map(|i| (i, payload(i))).collect();
    assert_eq!(read_all(&mut segments.reader(7)).await, expected);
}

#[tokio::test]
async fn concurrent_appends_get_disjoint_numbers() {
    let folder = TempDir::new().unwrap();
    let config = SegmentsConfig { total_bytes: 1 << 20, ..small_segments() };
    let segments = Arc::new(Segments::open_with(Arc::new(RealFs), folder.path(), config).unwrap());
    let tasks: Vec<_> = (0..40)
        .map(|i| {
            let segments = Arc::clone(&segments);
            tokio::spawn(async move { (i, segments.append(vec![payload(i), payload(i)]).await.unwrap()) })
        })
        .collect();
    let mut expected = std::collections::BTreeMap::new();
    for task in tasks {
        let (i, numbers) = task.await.unwrap();
        expected.extend(numbers.map(|n| (n, payload(i))));
    }
    assert_eq!(expected.len(), 80);
    assert_eq!(read_all(&mut segments.reader(0)).await, expected.into_iter().collect::<Vec<_>>());
}

#[tokio::test]
async fn at_the_bound_appends_are_refused_until_frames_are_released() {
    let folder = TempDir::new().unwrap();
    let segments = open(&folder);
    let mut last = 0;
    let refused = loop {
        match segments.append(vec![payload(last)]).await {
            Ok(_) => last += 1,
            Err(error) => break error,
        }
        assert!(last < 1000, "the bound holds");
    };
    assert_eq!(refused.code(), ErrorCode::StorageFull);
    assert_eq!(segments.first(), 0, "nothing was dropped");
    segments.release(last / 2);
    segments.append(vec![payload(last)]).await.unwrap();
    assert!(segments.first() > 0 && segments.first() <= last / 2, "only what was released is gone");
    let first = segments.first();
    let expected: Vec<_> = (first..=last).map(|i| (i, payload(i))).collect();
    assert_eq!(read_all(&mut segments.reader(0)).await, expected, "a reader goes on at the oldest frame");
}

#[tokio::test]
async fn bad_appends_are_refused_and_a_full_disk_loses_nothing() {
    let folder = TempDir::new().unwrap();
    let fs = FaultyFs::new();
    let segments = Segments::open_with(Arc::new(fs.clone()), folder.path(), small_segments()).unwrap();
    assert_eq!(segments.append(vec![Bytes::new()]).await.unwrap_err().code(), ErrorCode::InvalidInput);
    assert_eq!(segments.append(vec![vec![1; 129].into()]).await.unwrap_err().code(), ErrorCode::TooLarge);
    segments.append(vec![payload(0)]).await.unwrap();
    fs.set(Fault::Free(1000));
    assert_eq!(segments.append(vec![payload(1)]).await.unwrap_err().code(), ErrorCode::StorageFull);
    fs.set(Fault::None);
    assert_eq!(segments.append(vec![payload(1)]).await.unwrap(), 1..2);
    assert_eq!(read_all(&mut segments.reader(0)).await, vec![(0, payload(0)), (1, payload(1))]);
}

#[tokio::test]
async fn a_second_user_of_the_folder_is_refused() {
    let folder = TempDir::new().unwrap();
    let _first = open(&folder);
    let refused = Segments::open(folder.path()).unwrap_err();
    assert_eq!(refused.code(), ErrorCode::StorageInUse);
}

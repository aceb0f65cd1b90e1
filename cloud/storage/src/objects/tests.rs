#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

//! What goes in comes out, and nothing else ever does.

use super::*;
use crate::testing::{Fault, FaultyFs};
use flotilla_protocol::ErrorCode;
use proptest::prelude::*;
use tempfile::TempDir;

fn path_of(folder: &TempDir, digest: &Digest) -> PathBuf {
    let text = digest.to_string();
    folder.path().join(&text[..2]).join(&text[2..4]).join(text)
}

#[tokio::test]
async fn bytes_come_back_by_their_digest_after_a_restart() {
    let folder = TempDir::new().unwrap();
    let objects = Objects::open(folder.path()).unwrap();
    let large: Vec<u8> = (0..700_000_u32).map(|i| (i % 251) as u8).collect();
    let by_bytes = objects.put(large.clone()).await.unwrap();
    let by_reader = objects.put_reader(std::io::Cursor::new(large.clone())).await.unwrap();
    let source = folder.path().join("source");
    std::fs::write(&source, &large).unwrap();
    assert_eq!(by_bytes, Digest::of(&large));
    assert_eq!(by_reader, by_bytes);
    assert_eq!(objects.put_file(&source).await.unwrap(), by_bytes);
    let empty = objects.put(Vec::new()).await.unwrap();
    drop(objects);

    let objects = Objects::open(folder.path()).unwrap();
    assert_eq!(objects.get(&by_bytes).await.unwrap(), large);
    assert_eq!(objects.get(&empty).await.unwrap(), Bytes::new());
    assert_eq!(objects.len(&by_bytes).await.unwrap(), 700_000);
    assert_eq!(objects.read_range(&by_bytes, 300_000, 5).await.unwrap(), large[300_000..300_005]);
    let past_end = objects.read_range(&by_bytes, 699_999, 2).await.unwrap_err();
    assert_eq!(past_end.code(), ErrorCode::InvalidInput);
    let target = folder.path().join("target");
    assert_eq!(objects.fetch_to(&by_bytes, &target).await.unwrap(), 700_000);
    assert_eq!(std::fs::read(target).unwrap(), large);
    assert!(objects.remove(&empty).await.unwrap());
    assert!(!objects.remove(&empty).await.unwrap());
    assert!(!objects.contains(&empty).await.unwrap());
    assert_eq!(objects.get(&empty).await.unwrap_err().code(), ErrorCode::NotFound);
}

#[tokio::test]
async fn many_objects_are_put_at_once_with_repetitions() {
    let folder = TempDir::new().unwrap();
    let objects = Objects::open(folder.path()).unwrap();
    let present = objects.put("1").await.unwrap();
    let contents: Vec<Bytes> = (0..200).map(|i| Bytes::from((i % 150).to_string())).collect();
    let digests = objects.put_many(contents.clone()).await.unwrap();
    assert_eq!(digests[1], present);
    for (digest, content) in digests.iter().zip(&contents) {
        assert_eq!(objects.get(digest).await.unwrap(), content);
    }
    assert_eq!(objects.list(None, 1000).await.unwrap().len(), 150);
    assert_eq!(std::fs::read_dir(folder.path().join("incoming")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_damaged_object_is_reported_set_aside_and_can_be_put_again() {
    let folder = TempDir::new().unwrap();
    let objects = Objects::open(folder.path()).unwrap();
    let digest = objects.put("good bytes").await.unwrap();
    std::fs::write(path_of(&folder, &digest), "bad bytes!").unwrap();
    let target = folder.path().join("target");
    assert_eq!(objects.get(&digest).await.unwrap_err().code(), ErrorCode::StorageCorrupt);
    assert_eq!(objects.fetch_to(&digest, &target).await.unwrap_err().code(), ErrorCode::NotFound);
    assert!(!target.exists());
    assert_eq!(
        std::fs::read(folder.path().join("quarantine").join(digest.to_string())).unwrap(),
        b"bad bytes!"
    );
    objects.put("good bytes").await.unwrap();
    assert_eq!(objects.get(&digest).await.unwrap(), "good bytes");

    std::fs::write(path_of(&folder, &digest), "bad again!").unwrap();
    objects.put("good bytes").await.unwrap();
    assert_eq!(objects.get(&digest).await.unwrap(), "good bytes", "putting repairs a copy nobody has read");
    std::fs::write(path_of(&folder, &digest), "bad again!").unwrap();
    assert_eq!(objects.fetch_to(&digest, &target).await.unwrap_err().code(), ErrorCode::StorageCorrupt);
    assert!(!target.exists(), "no half-checked copy stays");
}

#[tokio::test]
async fn failures_are_typed_and_leave_nothing_behind() {
    let folder = TempDir::new().unwrap();
    let fs = FaultyFs::new();
    let objects = Objects::open_with(Arc::new(fs.clone()), folder.path()).unwrap();
    assert_eq!(Objects::open(folder.path()).unwrap_err().code(), ErrorCode::StorageInUse);
    for (fault, code) in [
        (Fault::Full, ErrorCode::StorageFull),
        (Fault::Free(1000), ErrorCode::StorageFull),
        (Fault::ReadOnly, ErrorCode::StorageReadOnly),
        (Fault::Sync, ErrorCode::StorageIo),
    ] {
        fs.set(fault);
        assert_eq!(objects.put("something").await.unwrap_err().code(), code, "{fault:?}");
        fs.set(Fault::None);
        assert_eq!(objects.list(None, 10).await.unwrap(), []);
        let left = std::fs::read_dir(folder.path().join("incoming")).unwrap().count();
        assert_eq!(left, 0, "{fault:?}");
    }
    objects.put("something").await.unwrap();
    let missing = objects.put_file(folder.path().join("no-such-file")).await.unwrap_err();
    assert!(missing.to_string().contains("no-such-file"), "{missing}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn listing_pages_through_every_object_once(
        seeds in proptest::collection::btree_set(any::<u16>(), 0..40),
        page in 1_usize..7,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let folder = TempDir::new().unwrap();
            let objects = Objects::open(folder.path()).unwrap();
            let mut expected = std::collections::BTreeSet::new();
            for seed in &seeds {
                expected.insert(objects.put(seed.to_string()).await.unwrap());
            }
            let mut found = Vec::new();
            loop {
                let digests = objects.list(found.last().copied(), page).await.unwrap();
                assert!(digests.len() <= page);
                if digests.is_empty() {
                    break;
                }
                found.extend(digests);
            }
            assert_eq!(found, expected.into_iter().collect::<Vec<_>>());
        });
    }
}

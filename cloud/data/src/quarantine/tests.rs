#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod bounds;

use super::held::Bounds;
use super::{ExampleState, Medium, Quarantine};
use crate::{Datasets, Error, ImportOptions, ImportRequest, Source};
use flotilla_identity::{Actor, audit};
use flotilla_protocol::message::{HardExample, HardExamples, HardReason, Upload};
use flotilla_protocol::{DatasetName, DeviceId, Digest, ErrorCode};
use flotilla_storage::{Objects, Records, SledRecords};
use image::{ExtendedColorType, ImageEncoder, codecs::png::PngEncoder};
use std::sync::Arc;
use tempfile::TempDir;

const NOW: u64 = 1_790_000_000_000;

fn picture(seed: u8) -> Vec<u8> {
    let mut out = Vec::new();
    PngEncoder::new(&mut out).write_image(&[seed; 16], 4, 4, ExtendedColorType::L8).unwrap();
    // Bytes behind its end are no harm, and make it large enough for several pieces.
    out.extend([seed; 300]);
    out
}

fn example() -> HardExample {
    HardExample {
        model: "digits".parse().unwrap(),
        release: Digest::of(b"release"),
        reason: HardReason::Confidence,
        label: "7".into(),
        label_index: 7,
        score: 0.5,
        margin: 0.25,
        at_ms: NOW,
    }
}

fn policy() -> HardExamples {
    HardExamples { daily_bytes: 100_000, dataset: Some(digits()), ..HardExamples::default() }
}

fn digits() -> DatasetName {
    "digits".parse().unwrap()
}

fn device(name: &str) -> DeviceId {
    name.parse().unwrap()
}

struct House {
    bounds: Bounds,
    dir: TempDir,
    records: Arc<dyn Records>,
    datasets: Datasets,
    quarantine: Quarantine,
}

impl House {
    async fn new() -> Self {
        Self::within(Bounds::default()).await
    }

    async fn within(bounds: Bounds) -> Self {
        let dir = TempDir::new().unwrap();
        let records: Arc<dyn Records> = Arc::new(SledRecords::open(&dir.path().join("records")).unwrap());
        let objects = Objects::open(&dir.path().join("objects")).unwrap();
        let datasets = Datasets::new(records.clone(), objects);
        let quarantine = open(bounds, &dir, &records, &datasets).await;
        Self { bounds, dir, records, datasets, quarantine }
    }

    /// As after a kill.
    async fn restart(&mut self) {
        self.quarantine = open(self.bounds, &self.dir, &self.records, &self.datasets).await;
    }

    async fn import(&self) -> u32 {
        let request = ImportRequest {
            name: digits(),
            source: Source::BundledDigits,
            format: None,
            options: ImportOptions::default(),
        };
        let report = self.datasets.import(&Actor::administrator(), request, &mut |_| {}, NOW).await.unwrap();
        report.version.version
    }

    async fn offer(&self, of: &str, digest: Digest, total: usize) -> Result<u64, Error> {
        self.quarantine.offer(&device(of), &example(), &policy(), (digest, total as u64), NOW).await
    }

    async fn piece(
        &self,
        of: &str,
        digest: Digest,
        whole: &[u8],
        from: usize,
        to: usize,
    ) -> Result<u64, Error> {
        let upload = upload(digest, whole.len(), from, &whole[from..to]);
        self.quarantine.receive(&device(of), &example(), &policy(), upload, NOW).await
    }

    /// Offers a digest and sends these bytes for it.
    async fn try_send(&self, of: &str, digest: Digest, whole: &[u8]) -> Result<u64, Error> {
        assert_eq!(self.offer(of, digest, whole.len()).await?, 0);
        self.piece(of, digest, whole, 0, whole.len()).await
    }

    /// Sends a whole picture and gives its digest.
    async fn send(&self, of: &str, picture: &[u8]) -> Digest {
        let digest = Digest::of(picture);
        let stored = self.try_send(of, digest, picture).await.unwrap();
        assert_eq!(stored, picture.len() as u64);
        digest
    }

    fn pictures(&self) -> usize {
        std::fs::read_dir(self.dir.path().join("hard/pictures")).unwrap().count()
    }

    async fn audited(&self, action: &str) -> usize {
        let trail = audit::list(&*self.records, audit::Order::NewestFirst, None, 500).await.unwrap();
        trail.iter().filter(|record| record.action == action).count()
    }
}

async fn open(bounds: Bounds, dir: &TempDir, records: &Arc<dyn Records>, datasets: &Datasets) -> Quarantine {
    let folder = dir.path().join("hard");
    Quarantine::open_within(bounds, records.clone(), datasets.clone(), folder, NOW).await.unwrap()
}

fn upload(digest: Digest, total: usize, offset: usize, data: &[u8]) -> Upload {
    let (total, offset, data) = (total as u64, offset as u64, data.to_vec());
    Upload { id: 1, digest, offset, total, data, example: None, log: None }
}

#[tokio::test]
async fn an_upload_goes_on_after_a_restart_and_is_taken_in_once() {
    let mut house = House::new().await;
    let whole = picture(1);
    let digest = Digest::of(&whole);
    assert_eq!(house.offer("box-1", digest, whole.len()).await.unwrap(), 0);
    assert_eq!(house.piece("box-1", digest, &whole, 0, 100).await.unwrap(), 100);
    assert_eq!(house.piece("box-1", digest, &whole, 0, 100).await.unwrap(), 100, "twice is once");
    assert_eq!(house.piece("box-1", digest, &whole, 150, 200).await.unwrap(), 100, "not with a hole");
    house.restart().await;
    assert_eq!(house.offer("box-1", digest, whole.len()).await.unwrap(), 100);
    assert_eq!(house.offer("box-2", digest, whole.len()).await.unwrap(), 0, "another device's bytes");
    assert!(house.quarantine.list(None, None, 9).await.unwrap().0.is_empty());
    let end = house.piece("box-1", digest, &whole, 100, whole.len()).await.unwrap();
    assert_eq!(end, whole.len() as u64);

    let (all, _) = house.quarantine.list(Some("quarantined"), None, 9).await.unwrap();
    let [taken] = &all[..] else { panic!("{all:?}") };
    assert_eq!((taken.digest, taken.width, taken.height), (digest, 4, 4));
    assert_eq!((&taken.device, taken.dataset.clone()), (&device("box-1"), Some(digits())));
    assert_eq!(house.quarantine.picture(&digest).await.unwrap(), whole);
    let known = house.offer("box-2", digest, whole.len()).await.unwrap();
    assert_eq!(known, whole.len() as u64, "known: no device sends it again");
}

#[tokio::test]
async fn what_is_not_what_it_should_be_is_thrown_away() {
    let house = House::new().await;
    let (whole, digest) = (picture(1), Digest::of(b"another"));
    let refused = house.try_send("box-1", digest, &whole).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::DigestMismatch);
    let noise = vec![7; 500];
    let digest = Digest::of(&noise);
    let refused = house.try_send("box-1", digest, &noise).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::SampleInvalid);
    let cut = &picture(2)[..60];
    let refused = house.try_send("box-1", Digest::of(cut), cut).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::SampleInvalid, "{refused}");
    assert_eq!(house.offer("box-1", digest, 500).await.unwrap(), 0, "nothing of it is left");
    assert!(house.quarantine.list(None, None, 9).await.unwrap().0.is_empty());
    assert_eq!(house.pictures(), 0);
}

#[tokio::test]
async fn a_device_that_sends_more_than_its_share_is_told_to_wait() {
    let house = House::new().await;
    let policy = HardExamples { daily_bytes: 250, ..policy() };
    let whole = picture(1);
    let digest = Digest::of(&whole);
    house.offer("box-1", digest, 9_000).await.unwrap();
    let send = async |from: usize, to: usize, now_ms: u64| {
        let upload = upload(digest, 9_000, from, &vec![1; to - from]);
        house.quarantine.receive(&device("box-1"), &example(), &policy, upload, now_ms).await
    };
    assert_eq!(send(0, 250, NOW).await.unwrap(), 250);
    assert_eq!(send(250, 500, NOW).await.unwrap(), 500, "two of its days may fall into one of ours");
    assert_eq!(send(500, 501, NOW).await.unwrap_err().code(), ErrorCode::Busy);
    assert_eq!(send(500, 600, NOW + 24 * 3_600 * 1_000).await.unwrap(), 600);
}

#[tokio::test]
async fn accepted_ones_become_unlabelled_samples_in_one_new_version_and_stay_through_imports() {
    let mut house = House::new().await;
    assert_eq!(house.import().await, 1);
    let first = house.datasets.version(&digits(), None).await.unwrap();
    // A picture that the dataset has already, and two that it has not.
    let sample = house.datasets.samples(&first, None).await.unwrap().swap_remove(0);
    let known = house.datasets.sample_bytes(&sample).await.unwrap();
    let mut digests = vec![house.send("box-1", &known).await];
    for seed in [1, 2] {
        digests.push(house.send("box-1", &picture(seed)).await);
    }
    let admin = Actor::administrator();
    let decided = house.quarantine.accept(&admin, &digests, None, NOW).await.unwrap();
    assert_eq!((decided.version, decided.examples.len()), (Some(2), 3));
    let second = house.datasets.version(&digits(), None).await.unwrap();
    assert_eq!(second.unlabelled.map(|unlabelled| unlabelled.samples), Some(2));
    assert_eq!((second.samples, second.splits, second.list), (first.samples, first.splits, first.list));
    assert_ne!(second.digest, first.digest);
    let listed: Vec<Digest> =
        house.datasets.unlabelled(&second).await.unwrap().iter().map(|sample| sample.digest).collect();
    assert_eq!(listed, digests[1..]);
    assert_eq!(house.datasets.unlabelled_bytes(&second, &digests[1]).await.unwrap(), picture(1));
    assert_eq!(house.pictures(), 0, "their bytes are the dataset's now");
    assert_eq!(house.audited("example:review").await, 1);

    // A decision is made once, and remembered over restarts.
    house.restart().await;
    let again = house.quarantine.accept(&admin, &digests, None, NOW).await.unwrap_err();
    assert_eq!(again.code(), ErrorCode::WrongState);
    assert_eq!(house.offer("box-2", digests[1], 9).await.unwrap(), 9);
    assert!(matches!(
        house.quarantine.get(&digests[2]).await.unwrap().state,
        ExampleState::Accepted { version: 2, .. }
    ));

    // The same data again is the version that has both.
    assert_eq!(house.import().await, 2);
    let third = house.send("box-1", &picture(3)).await;
    house.quarantine.accept(&admin, &[third], Some(&digits()), NOW).await.unwrap();
    let newest = house.datasets.version(&digits(), None).await.unwrap();
    assert_eq!((newest.version, newest.unlabelled.map(|u| u.samples)), (3, Some(3)));
}

#[tokio::test]
async fn a_rejected_one_is_deleted_and_remembered_and_a_refused_decision_changes_nothing() {
    let mut house = House::new().await;
    let digests = [house.send("box-1", &picture(1)).await, house.send("box-1", &picture(2)).await];
    let admin = Actor::administrator();
    let missing = house.quarantine.accept(&admin, &digests, None, NOW).await.unwrap_err();
    assert_eq!(missing.code(), ErrorCode::NotFound, "there is no such dataset");
    let unknown = [digests[0], Digest::of(b"x")];
    assert_eq!(house.quarantine.reject(&admin, &unknown, NOW).await.unwrap_err().code(), ErrorCode::NotFound);
    assert_eq!(house.pictures(), 2);
    house.quarantine.reject(&admin, &digests[..1], NOW).await.unwrap();
    assert_eq!(house.pictures(), 1);
    assert_eq!(house.quarantine.picture(&digests[0]).await.unwrap_err().code(), ErrorCode::WrongState);
    assert_eq!(house.offer("box-1", digests[0], 9).await.unwrap(), 9, "it is not wanted again");
    assert_eq!(house.audited("example:review").await, 1);

    // A kill between the file and its record, or the record and its file, leaves nothing behind.
    std::fs::write(house.dir.path().join("hard/pictures").join(Digest::of(b"y").to_string()), b"y").unwrap();
    house.restart().await;
    assert_eq!(house.pictures(), 1);
    let (waiting, _) = house.quarantine.list(Some("quarantined"), None, 9).await.unwrap();
    assert_eq!(waiting.iter().map(|example| example.digest).collect::<Vec<_>>(), digests[1..]);
}

#[tokio::test]
async fn a_whole_upload_that_a_kill_kept_from_being_taken_in_is_taken_in_by_the_next_offer() {
    let mut house = House::new().await;
    let whole = picture(1);
    let digest = Digest::of(&whole);
    house.offer("box-1", digest, whole.len()).await.unwrap();
    house.piece("box-1", digest, &whole, 0, 100).await.unwrap();
    // As if the kill had come just behind the last piece.
    let part = house.dir.path().join("hard/incoming/box-1").join(digest.to_string());
    std::fs::write(&part, &whole).unwrap();
    house.restart().await;
    assert_eq!(house.offer("box-1", digest, whole.len()).await.unwrap(), whole.len() as u64);
    assert_eq!(house.quarantine.picture(&digest).await.unwrap(), whole);
    assert!(!part.exists());

    let torn = picture(2);
    let digest = Digest::of(&torn);
    house.offer("box-1", digest, torn.len()).await.unwrap();
    house.piece("box-1", digest, &torn, 0, 100).await.unwrap();
    let part = part.with_file_name(digest.to_string());
    std::fs::write(&part, vec![0; torn.len()]).unwrap();
    assert_eq!(house.offer("box-1", digest, torn.len()).await.unwrap(), 0, "it begins anew");
    assert!(!part.exists());
}

#[tokio::test]
async fn recordings_and_rows_are_taken_in_and_stay_with_their_kind() {
    let house = House::new().await;
    house.import().await;
    let row = br#"{"temperature": 71, "make": null}"#;
    let mut recording =
        b"RIFF\x2c\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x40\x1f\0\0\x80\x3e\0\0\x02\0\x10\0data".to_vec();
    recording.extend(1_600_u32.to_le_bytes());
    recording.extend([1; 1_600]);
    let (row, recording) = (house.send("box-1", row).await, house.send("box-1", &recording).await);
    let of = async |digest: &Digest| house.quarantine.get(digest).await.unwrap();
    assert_eq!(of(&row).await.medium, Medium::Row);
    let heard = of(&recording).await;
    assert_eq!((heard.medium, heard.milliseconds, heard.width), (Medium::Recording, 100, 0));
    for digest in [row, recording] {
        let into = house.quarantine.accept(&Actor::administrator(), &[digest], Some(&digits()), NOW).await;
        assert!(matches!(into, Err(Error::KindDiffers { .. })), "digits are pictures");
    }
    let nested = house.try_send("box-1", Digest::of(b"{\"a\": []}"), b"{\"a\": []}").await.unwrap_err();
    assert_eq!(nested.code(), ErrorCode::SampleInvalid);
}

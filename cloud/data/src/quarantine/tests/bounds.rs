//! What the quarantine holds and promises, whatever devices and people do.

use super::*;
use crate::bounds::{QUARANTINE_DECIDE, REMEMBERED_MS};
use std::task::{Context, Waker};

const DAY_MS: u64 = 24 * 3_600 * 1_000;

fn bounds() -> Bounds {
    Bounds { reserve_bytes: 0, ..Bounds::default() }
}

impl House {
    fn part(&self, of: &str, digest: Digest) -> std::path::PathBuf {
        self.dir.path().join("hard/incoming").join(of).join(digest.to_string())
    }

    async fn known(&self) -> usize {
        self.quarantine.list(None, None, 100).await.unwrap().0.len()
    }
}

#[tokio::test]
async fn decided_ones_are_no_obstacle_and_the_oldest_decisions_give_way() {
    let house = House::within(Bounds { waiting: 2, decisions: 3, ..bounds() }).await;
    let (admin, mut digests) = (Actor::administrator(), Vec::new());
    for seed in 0..6_u8 {
        let digest = house.send("box-1", &picture(seed)).await;
        house.quarantine.reject(&admin, &[digest], NOW + u64::from(seed)).await.unwrap();
        digests.push(digest);
    }
    assert_eq!(house.known().await, 3, "as many decisions as are remembered");
    assert_eq!(house.offer("box-1", digests[5], 9).await.unwrap(), 9, "decided");
    assert_eq!(house.offer("box-1", digests[0], 9).await.unwrap(), 0, "forgotten");

    let waiting = [house.send("box-2", &picture(7)).await];
    let full = house.offer("box-2", Digest::of(b"x"), 9).await.unwrap_err();
    assert_eq!(full.code(), ErrorCode::Busy, "one waits and one is on its way");
    house.quarantine.tidy(NOW + REMEMBERED_MS + DAY_MS).await.unwrap();
    assert_eq!(house.known().await, 1, "old decisions are forgotten without a restart");
    house.quarantine.reject(&admin, &waiting, NOW).await.unwrap();
    assert_eq!(house.offer("box-2", Digest::of(b"x"), 9).await.unwrap(), 0);
}

#[tokio::test]
async fn what_is_on_its_way_has_its_room_from_the_offer_on_until_it_is_over() {
    let mut house = House::within(Bounds { bytes: 1_000, ..bounds() }).await;
    let (a, b) = (picture(1), picture(2));
    let (of_a, of_b) = (Digest::of(&a), Digest::of(&b));
    assert!(a.len() > 333 && a.len() < 500, "{}", a.len());
    house.offer("box-1", of_a, a.len()).await.unwrap();
    house.offer("box-1", of_a, a.len()).await.unwrap();
    house.offer("box-2", of_b, b.len()).await.unwrap();
    let refused = house.offer("box-3", Digest::of(b"c"), a.len()).await.unwrap_err();
    assert!(matches!(refused, Error::QuarantineFull), "{refused}");
    house.piece("box-1", of_a, &a, 0, 100).await.unwrap();
    let larger = upload(of_a, a.len() + 1, 100, &a[100..]);
    let refused = house.quarantine.receive(&device("box-1"), &example(), &policy(), larger, NOW).await;
    assert!(matches!(refused, Err(Error::NotOffered { .. })), "more than was offered: {refused:?}");

    // What was refused for good has no room any more.
    let noise = vec![7; b.len()];
    let refused = house.piece("box-2", of_b, &noise, 0, noise.len()).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::DigestMismatch);
    house.offer("box-3", Digest::of(b"c"), a.len()).await.unwrap();

    // Two days later nothing has gone on, whether there was a restart or not.
    let later = NOW + 3 * DAY_MS;
    let touched = std::fs::File::open(house.part("box-1", of_a)).unwrap();
    touched.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_millis(NOW)).unwrap();
    house.restart().await;
    assert!(house.part("box-1", of_a).exists());
    house.quarantine.tidy(later).await.unwrap();
    assert!(!house.part("box-1", of_a).parent().unwrap().exists());
    let whole = (of_b, 1_000);
    let offered = house.quarantine.offer(&device("box-4"), &example(), &policy(), whole, later).await;
    assert_eq!(offered.unwrap(), 0);
    let whole = (of_a, 1_000);
    let offered = house.quarantine.offer(&device("box-5"), &example(), &policy(), whole, later).await;
    assert!(matches!(offered, Err(Error::QuarantineFull)));
    let much_later = later + 3 * DAY_MS;
    let offered = house.quarantine.offer(&device("box-5"), &example(), &policy(), whole, much_later).await;
    assert_eq!(offered.unwrap(), 0, "what is stale makes way at once");
}

#[tokio::test]
async fn a_fifth_upload_of_a_device_takes_the_place_of_the_one_that_rested_longest() {
    let house = House::within(bounds()).await;
    let pictures: Vec<Vec<u8>> = (0..5).map(picture).collect();
    for (age, picture) in pictures.iter().enumerate() {
        let (digest, now_ms) = (Digest::of(picture), NOW + age as u64);
        let (device, total) = (device("box-1"), picture.len());
        let whole = (digest, total as u64);
        house.quarantine.offer(&device, &example(), &policy(), whole, now_ms).await.unwrap();
        let piece = upload(digest, total, 0, &picture[..100]);
        house.quarantine.receive(&device, &example(), &policy(), piece, now_ms).await.unwrap();
    }
    let here: Vec<bool> =
        pictures.iter().map(|picture| house.part("box-1", Digest::of(picture)).exists()).collect();
    assert_eq!(here, [false, true, true, true, true]);
    let refused = house.piece("box-1", Digest::of(&pictures[0]), &pictures[0], 0, 100).await;
    assert_eq!(refused.unwrap_err().code(), ErrorCode::WrongState, "it offers again");
}

#[tokio::test]
async fn uploads_leave_the_disk_to_the_control_plane_itself() {
    let house = House::within(Bounds { reserve_bytes: u64::MAX, ..bounds() }).await;
    let whole = picture(1);
    let refused = house.try_send("box-1", Digest::of(&whole), &whole).await.unwrap_err();
    assert!(matches!(refused, Error::QuarantineFull), "{refused}");
    assert!(!house.part("box-1", Digest::of(&whole)).exists());
    let records = flotilla_storage::RecordsConfig::default().reserve_bytes;
    assert!(Bounds::default().reserve_bytes >= 16 * records);
}

#[tokio::test]
async fn what_is_on_its_way_of_a_device_that_may_not_send_any_more_is_deleted() {
    let house = House::within(bounds()).await;
    let (whole, taken) = (picture(1), house.send("box-1", &picture(2)).await);
    let digest = Digest::of(&whole);
    house.offer("box-1", digest, whole.len()).await.unwrap();
    house.piece("box-1", digest, &whole, 0, 100).await.unwrap();
    assert_eq!(house.quarantine.senders().await, [device("box-1")]);
    house.quarantine.give_up(&device("box-1")).await.unwrap();
    assert!(!house.part("box-1", digest).exists() && house.quarantine.senders().await.is_empty());
    let refused = house.piece("box-1", digest, &whole, 100, whole.len()).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::WrongState);
    assert_eq!(house.quarantine.picture(&taken).await.unwrap(), picture(2), "taken in is taken in");
}

#[tokio::test]
async fn a_picture_that_could_not_be_recorded_is_a_part_again() {
    let house = House::within(bounds()).await;
    let whole = picture(1);
    let (digest, total) = (Digest::of(&whole), whole.len());
    // Over the bound of a record.
    let long = HardExample { label: "7".repeat(20_000), ..example() };
    let offer = (digest, total as u64);
    house.quarantine.offer(&device("box-1"), &long, &policy(), offer, NOW).await.unwrap();
    let piece = upload(digest, total, 0, &whole);
    let failed = house.quarantine.receive(&device("box-1"), &long, &policy(), piece, NOW).await;
    assert_eq!(failed.unwrap_err().code(), ErrorCode::TooLarge);
    assert_eq!(house.pictures(), 0);
    assert_eq!(house.offer("box-1", digest, total).await.unwrap(), total as u64, "nothing is sent again");
    assert_eq!((house.pictures(), house.known().await), (1, 1));

    // A picture without a record goes without a restart.
    let orphan = house.dir.path().join("hard/pictures").join(Digest::of(b"y").to_string());
    std::fs::write(&orphan, b"y").unwrap();
    house.quarantine.tidy(NOW).await.unwrap();
    assert_eq!(house.pictures(), 1);
}

#[tokio::test]
async fn a_picture_that_grows_too_much_when_it_is_decoded_is_refused() {
    let house = House::within(bounds()).await;
    let mut bomb = Vec::new();
    let (width, height) = (5_000, 4_000);
    let black = vec![0; width as usize * height as usize];
    PngEncoder::new(&mut bomb).write_image(&black, width, height, ExtendedColorType::L8).unwrap();
    let policy = HardExamples { daily_bytes: 10_000_000, ..policy() };
    let (digest, of) = (Digest::of(&bomb), device("box-1"));
    let offer = (digest, bomb.len() as u64);
    house.quarantine.offer(&of, &example(), &policy, offer, NOW).await.unwrap();
    let piece = upload(digest, bomb.len(), 0, &bomb);
    let refused = house.quarantine.receive(&of, &example(), &policy, piece, NOW).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::SampleInvalid);
    assert!(refused.to_string().contains("5000 x 4000"), "{refused}");
    assert!(!house.part("box-1", digest).exists());
}

#[tokio::test]
async fn the_second_of_two_reviewers_is_told_that_it_is_decided() {
    let house = House::within(bounds()).await;
    let digests = [house.send("box-1", &picture(1)).await];
    let admin = Actor::administrator();
    let reject = || house.quarantine.reject(&admin, &digests, NOW);
    let (one, other) = tokio::join!(reject(), reject());
    let refused = one.and(other).unwrap_err();
    assert!(matches!(refused, Error::AlreadyDecided { state: "rejected", .. }), "{refused}");
}

#[tokio::test]
async fn a_decision_that_nobody_waits_for_any_more_is_made_whole() {
    let house = House::within(Bounds { waiting: 1, ..bounds() }).await;
    let digests = [house.send("box-1", &picture(1)).await];
    let admin = Actor::administrator();
    let mut rejecting = Box::pin(house.quarantine.reject(&admin, &digests, NOW));
    assert!(rejecting.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    drop(rejecting);
    let gone = async {
        while house.offer("box-2", Digest::of(b"x"), 9).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), gone).await.expect("its room is free again");
    assert_eq!(house.pictures(), 0);
}

#[tokio::test]
async fn examples_are_accepted_into_one_dataset_at_a_time_and_not_while_an_import_runs() {
    let house = House::within(bounds()).await;
    let admin = Actor::administrator();
    let digests = [house.send("box-1", &picture(1)).await, house.send("box-1", &picture(2)).await];
    let (imported, refused) =
        tokio::join!(house.import(), house.quarantine.accept(&admin, &digests, None, NOW));
    assert_eq!(imported, 1);
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::Busy, "{refused}");
    assert!(refused.to_string().contains("accept again when the import has ended"), "{refused}");
    house.quarantine.accept(&admin, &digests, None, NOW).await.unwrap();

    let send = async |seed: u8, dataset: Option<&str>| {
        let (whole, of) = (picture(seed), device("box-1"));
        let policy = HardExamples { dataset: dataset.map(|name| name.parse().unwrap()), ..policy() };
        let digest = Digest::of(&whole);
        let offer = (digest, whole.len() as u64);
        house.quarantine.offer(&of, &example(), &policy, offer, NOW).await.unwrap();
        let piece = upload(digest, whole.len(), 0, &whole);
        house.quarantine.receive(&of, &example(), &policy, piece, NOW).await.unwrap();
        digest
    };
    let (a, b, none) = (send(3, Some("a")).await, send(4, Some("b")).await, send(5, None).await);
    let refused = house.quarantine.accept(&admin, &[b, a], None, NOW).await.unwrap_err().to_string();
    let said = "they name several datasets: a, b; decide one dataset at a time (`--model`)";
    assert!(refused.contains(said), "{refused}");
    let refused = house.quarantine.accept(&admin, &[a, none], None, NOW).await.unwrap_err().to_string();
    assert!(refused.contains("1 of these 2 examples name none"), "{refused}");
}

/// Each in a pack of its own, and so with a note: the most that one decision can need.
#[tokio::test]
async fn as_many_as_can_be_decided_on_at_once_fit_into_one_batch() {
    let house = House::within(bounds()).await;
    house.import().await;
    let policy = HardExamples { daily_bytes: 1_000_000_000, ..policy() };
    let mut digests = Vec::new();
    for number in 0..QUARANTINE_DECIDE as u32 {
        let mut whole = picture(1);
        whole.extend(number.to_be_bytes());
        let digest = Digest::of(&whole);
        let (of, long) = (device("box-1"), HardExample { label: "\u{1}".repeat(256), ..example() });
        let offer = (digest, whole.len() as u64);
        house.quarantine.offer(&of, &long, &policy, offer, NOW).await.unwrap();
        let piece = upload(digest, whole.len(), 0, &whole);
        house.quarantine.receive(&of, &long, &policy, piece, NOW).await.unwrap();
        digests.push(digest);
    }
    let admin = Actor::administrator();
    let accepted = house.quarantine.accept(&admin, &digests, None, NOW).await.unwrap();
    assert_eq!(accepted.examples.len(), QUARANTINE_DECIDE);
    // A sample may have a pack of its own, whose note goes in the same batch, beside the version and its audit record.
    let (operations, packs, rest) = (3 * QUARANTINE_DECIDE, QUARANTINE_DECIDE, 32);
    assert!(operations + packs + rest <= flotilla_storage::BATCH_OPERATIONS);
}

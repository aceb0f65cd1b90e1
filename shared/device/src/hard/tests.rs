#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use super::ledger::{Ledger, day};
use super::shelf::{Admission, COUNT, Kept, Key, Shelf};
use super::stored::StoredExample;
use super::*;
use crate::upload::{ANSWER_MS, Next, Outcome, PIECE, Uploader};
use flotilla_protocol::message::HardExample;
use flotilla_protocol::{Digest, ErrorCode, ModelName, codec};
use proptest::prelude::*;
use std::path::Path;

fn model(name: &str) -> ModelName {
    name.parse().unwrap()
}

fn policy(daily_bytes: u64) -> HardExamples {
    HardExamples { confidence_below_per_mille: Some(600), daily_bytes, ..HardExamples::default() }
}

fn example() -> HardExample {
    HardExample {
        model: model("digits"),
        release: Digest::of(b"release"),
        reason: HardReason::Confidence,
        label: "seven".into(),
        label_index: 7,
        score: 0.5,
        margin: 0.25,
        at_ms: 1_790_000_000_000,
    }
}

#[test]
fn an_input_is_kept_for_the_reason_that_says_most() {
    let policy = HardExamples {
        confidence_below_per_mille: Some(600),
        margin_below_per_mille: Some(100),
        shadow_disagreement: true,
        audit_per_million: 1_000,
        daily_bytes: 1,
        dataset: None,
    };
    let all = 999_999;
    assert_eq!(decide(&policy, 0.59, 0.01, 0), Some(HardReason::Confidence));
    assert_eq!(decide(&policy, 0.61, 0.01, 0), Some(HardReason::Margin));
    assert_eq!(decide(&policy, 0.61, 0.2, 999), Some(HardReason::Audit));
    assert_eq!(decide(&policy, 0.61, 0.2, 1_000), None);
    assert_eq!(decide(&policy, 0.61, 0.2, all), None);
    assert!(wants_disagreements(&policy));
    let blind = HardExamples { shadow_disagreement: false, ..policy };
    assert!(!wants_disagreements(&blind), "nobody asked for them");
}

#[test]
fn the_margin_is_to_the_next_best_label() {
    assert_eq!(margin(&[0.25, 0.5, 0.125], 1), 0.25);
    assert_eq!(margin(&[0.5, 0.5], 0), 0.0);
    assert_eq!(margin(&[0.75], 0), 0.75);
}

proptest! {
    #[test]
    fn without_a_policy_or_a_budget_nothing_is_kept(
        score in -1.0f32..2.0, margin in -1.0f32..2.0, random: u64,
        confidence in 1u16..=1000, audit in 0u32..=1_000_000,
    ) {
        prop_assert_eq!(decide(&HardExamples::default(), score, margin, random), None);
        let nothing = HardExamples {
            confidence_below_per_mille: Some(confidence),
            audit_per_million: audit,
            shadow_disagreement: true,
            ..HardExamples::default()
        };
        prop_assert_eq!(decide(&nothing, score, margin, random), None);
        prop_assert!(!wants_disagreements(&nothing));
        prop_assert_eq!(Ledger::default().may_keep(&model("m"), &nothing, Some(1)), 0);
    }

    /// Between two moments at which the clock moves on past midnight, whatever else happens to clock and agent, no more
    /// is sent than the budget says.
    #[test]
    fn a_budget_is_never_exceeded_over_any_days_and_restarts(
        budget in 0u64..5_000,
        steps in prop::collection::vec((0u8..6, 0u64..2_000), 1..200),
    ) {
        let (model, policy) = (model("m"), policy(budget));
        let (mut ledger, mut today, mut believed) = (Ledger::default(), 20_000u64, true);
        let (mut sent, mut kept) = (0, 0);
        for (what, size) in steps {
            let clock = believed.then_some(today);
            match what {
                0 => {
                    today += 1 + size % 3;
                    (sent, kept) = (0, 0);
                }
                1 => today -= size % 3,
                2 => believed = !believed,
                3 => ledger = Ledger::from_bytes(&ledger.to_bytes()).unwrap(),
                4 => if size <= ledger.may_keep(&model, &policy, clock) {
                    ledger.keep(&model, clock, size);
                    kept += size;
                },
                _ => if size <= ledger.may_send(&model, &policy, clock) {
                    ledger.send(&model, clock, size);
                    sent += size;
                },
            }
            prop_assert!(sent <= budget, "{sent} of {budget}");
            prop_assert!(kept <= budget * ledger::KEPT_FOR_SENT);
        }
    }

    #[test]
    fn a_shelf_keeps_its_bounds_and_the_worthy(
        room in 0u64..40, news in prop::collection::vec((0u64..300, 0u8..3, 0u64..20), 1..400),
    ) {
        let mut shelf = Shelf::new(room);
        let mut kept: std::collections::BTreeMap<Key, Kept> = Default::default();
        let (mut dropped, pinned) = (0, (model("m"), Digest::of(&[7])));
        for (at_ms, reason, bytes) in news {
            let reason = [HardReason::Audit, HardReason::Margin, HardReason::Disagreement][usize::from(reason)];
            let digest = Digest::of(&[at_ms as u8]);
            let new = Kept { digest, model: model(if bytes % 2 == 0 { "m" } else { "n" }), reason, at_ms, bytes };
            let key = new.key();
            match shelf.admit(new.clone(), Some(&pinned)) {
                Admission::Known => prop_assert!(kept.contains_key(&key)),
                Admission::Refused => dropped += 1,
                Admission::Taken { evicted } => {
                    for gone in evicted {
                        prop_assert!(worth(gone.reason) <= worth(reason) && gone.key() != pinned);
                        prop_assert_eq!(kept.remove(&gone.key()), Some(gone));
                        dropped += 1;
                    }
                    kept.insert(key, new);
                }
            }
            let bytes: u64 = kept.values().map(|kept| kept.bytes).sum();
            prop_assert_eq!((shelf.len(), shelf.bytes(), shelf.dropped()), (kept.len(), bytes, dropped));
            prop_assert!(bytes <= room && kept.len() <= COUNT);
        }
        let best = kept.values().map(|kept| worth(kept.reason)).max();
        prop_assert_eq!(shelf.next(|_| true).map(|kept| worth(kept.reason)), best);
        prop_assert_eq!(shelf.next(|_| false), None);
    }

    /// A link that loses and repeats, an agent and a cloud that are killed: the example gets there, what the cloud had
    /// when it answered is not sent again on that connection, and the budget holds.
    #[test]
    fn an_upload_ends_whatever_happens_on_the_way(
        total in 1u64..1_000_000,
        troubles in prop::collection::vec(0u8..8, 0..60),
        budget in 2_048u64..400_000,
    ) {
        let mut troubles = troubles.into_iter();
        let digest = Digest::of(b"picture");
        let (policy, name) = (policy(budget), model("digits"));
        let mut ledger = Ledger::default();
        let mut uploader = Uploader::default();
        let (mut now_ms, mut today, mut id) = (0u64, 20_000u64, 0u64);
        // What the cloud holds durably, and how much of the file each connection was told of.
        let (mut durable, mut told) = (0u64, 0u64);
        let mut sent_today = 0u64;
        for _ in 0..5_000 {
            if uploader.current().is_none() {
                uploader.begin(example(), digest, total);
            }
            id += 1;
            match uploader.next(id, ledger.may_send(&name, &policy, Some(today)), now_ms, id) {
                Next::Idle => prop_assert!(false, "it has something to do"),
                Next::Wait { until_ms } => now_ms = until_ms,
                Next::Spent => {
                    today += 1;
                    sent_today = 0;
                }
                Next::Send { mut upload, len, cost } => {
                    upload.data = vec![1; len];
                    prop_assert!(codec::encode(&upload).len() as u64 <= cost);
                    prop_assert_eq!(upload.check(), Ok(()));
                    prop_assert!(upload.data.is_empty() || upload.offset >= told, "sent again");
                    ledger.send(&name, Some(today), cost);
                    sent_today += cost;
                    prop_assert!(sent_today <= budget);
                    let trouble = troubles.next().unwrap_or(0);
                    if trouble == 1 {
                        // Lost on the way there.
                        now_ms += ANSWER_MS;
                        continue;
                    }
                    if upload.offset == durable {
                        durable += upload.data.len() as u64;
                    }
                    match trouble {
                        // The answer is lost.
                        2 => now_ms += ANSWER_MS,
                        // The agent is killed.
                        3 => (uploader, told) = (Uploader::default(), 0),
                        4 => {
                            uploader.reconnected();
                            told = 0;
                        }
                        // The cloud lost what it had not acknowledged, or all of it to a broken disk.
                        5 => durable = 0,
                        6 => prop_assert_eq!(
                            uploader.refused(id, ErrorCode::Busy, now_ms, id), Outcome::Onward),
                        _ => {
                            prop_assert_eq!(uploader.stored(id + 7, total, now_ms, 0), Outcome::Foreign);
                            let outcome = uploader.stored(id, durable, now_ms, id);
                            prop_assert_eq!(uploader.stored(id, durable, now_ms, id), Outcome::Foreign, "twice");
                            if outcome == Outcome::Complete(digest) {
                                prop_assert_eq!(durable, total);
                                return Ok(());
                            }
                            told = durable;
                        }
                    }
                    if trouble == 5 || (trouble == 1 && durable < told) {
                        told = 0;
                    }
                }
            }
        }
        prop_assert!(false, "it never ends");
    }
}

#[test]
fn without_trouble_no_byte_is_sent_twice_and_what_the_cloud_has_costs_none() {
    let (digest, total) = (Digest::of(b"p"), 300_000);
    let mut uploader = Uploader::default();
    uploader.begin(example(), digest, total);
    let mut pieces = Vec::new();
    let mut has = 0;
    for id in 1.. {
        let Next::Send { upload, len, .. } = uploader.next(id, u64::MAX, 0, 0) else { panic!("it goes on") };
        pieces.push((upload.offset, len));
        has += len as u64;
        if uploader.stored(id, has, 0, 0) == Outcome::Complete(digest) {
            break;
        }
    }
    let (offer, pieces) = pieces.split_first().unwrap();
    assert_eq!(*offer, (0, 0));
    let expected: Vec<_> =
        (0..total as usize).step_by(PIECE).map(|at| (at as u64, PIECE.min(total as usize - at))).collect();
    assert_eq!(pieces, expected);
    assert_eq!(uploader.next(99, u64::MAX, 0, 0), Next::Idle);

    uploader.begin(example(), digest, total);
    assert!(matches!(uploader.next(100, u64::MAX, 0, 0), Next::Send { len: 0, .. }));
    assert_eq!(uploader.stored(100, total, 0, 0), Outcome::Complete(digest), "known to the cloud");
}

#[test]
fn what_the_cloud_will_never_take_is_given_up_and_the_rest_waits_ever_longer() {
    let mut uploader = Uploader::default();
    uploader.begin(example(), Digest::of(b"p"), 10);
    let (mut now_ms, mut last) = (0, 0);
    for id in 1..12 {
        assert!(matches!(uploader.next(id, u64::MAX, now_ms, 0), Next::Send { .. }));
        assert_eq!(uploader.refused(id, ErrorCode::Busy, now_ms, 0), Outcome::Onward);
        let Next::Wait { until_ms } = uploader.next(100, u64::MAX, now_ms, 0) else { panic!("it waits") };
        assert!(until_ms - now_ms >= last, "ever longer");
        (last, now_ms) = (until_ms - now_ms, until_ms);
    }
    assert_eq!(last, 3_600_000 / 2);
    assert!(matches!(uploader.next(50, u64::MAX, now_ms, 0), Next::Send { .. }));
    let hopeless = uploader.refused(50, ErrorCode::PermissionDenied, now_ms, 0);
    assert_eq!(hopeless, Outcome::Hopeless(Digest::of(b"p")));
    assert_eq!(uploader.next(51, u64::MAX, now_ms, 0), Next::Idle);
}

#[test]
fn a_consent_that_is_withdrawn_leaves_nothing_of_the_model() {
    let mut shelf = Shelf::new(100);
    for (name, seed) in [("a", 1u8), ("b", 2), ("a", 3)] {
        let kept = Kept {
            digest: Digest::of(&[seed]),
            model: model(name),
            reason: HardReason::Audit,
            at_ms: 1,
            bytes: 10,
        };
        assert_eq!(shelf.admit(kept, None), Admission::Taken { evicted: vec![] });
    }
    shelf.forget(&model("a"));
    assert_eq!((shelf.len(), shelf.bytes()), (1, 10));
    assert_eq!(shelf.next(|_| true).unwrap().model, model("b"));
    shelf.settled((model("b"), Digest::of(&[2])));
    assert!(shelf.is_empty());
    let again =
        Kept { digest: Digest::of(&[2]), model: model("b"), reason: HardReason::Audit, at_ms: 2, bytes: 1 };
    assert_eq!(shelf.admit(again, None), Admission::Known, "the cloud has it");
}

#[test]
fn models_that_see_the_same_picture_each_have_their_example() {
    let mut shelf = Shelf::new(100);
    let kept = |name, at_ms| Kept {
        digest: Digest::of(b"one picture"),
        model: model(name),
        reason: HardReason::Confidence,
        at_ms,
        bytes: 10,
    };
    for (name, at_ms) in [("a", 1), ("b", 2)] {
        assert_eq!(shelf.admit(kept(name, at_ms), None), Admission::Taken { evicted: vec![] });
        assert_eq!(shelf.admit(kept(name, 9), None), Admission::Known, "again by the same model");
    }
    assert_eq!((shelf.len(), shelf.bytes()), (2, 20));
    assert_eq!(shelf.settled(kept("a", 1).key()), Some(kept("a", 1)));
    assert_eq!(shelf.next(|_| true), Some(&kept("b", 2)), "the other one's is still to be sent");
    assert_eq!(shelf.admit(kept("a", 3), None), Admission::Known, "the cloud has it");
    shelf.forget(&model("b"));
    assert_eq!((shelf.len(), shelf.bytes(), shelf.dropped()), (0, 0, 0));
}

#[test]
fn a_ledger_that_was_lost_on_a_day_that_nobody_knew_gives_that_day_no_second_budget() {
    let (model, policy) = (model("m"), policy(1_000));
    let mut lost = Ledger::from_bytes(&Ledger::in_place_of_lost(None).to_bytes()).unwrap();
    for today in [None, Some(20_000)] {
        assert_eq!((lost.may_send(&model, &policy, today), lost.may_keep(&model, &policy, today)), (0, 0));
    }
    // The clock is believed now, which has to outlive a restart.
    assert!(lost.date(20_000));
    let mut lost = Ledger::from_bytes(&lost.to_bytes()).unwrap();
    assert!(!lost.date(20_001), "it has its day");
    assert_eq!(lost.may_send(&model, &policy, Some(20_000)), 0);
    assert_eq!(lost.may_send(&model, &policy, Some(20_001)), 1_000);
    assert!(!Ledger::default().date(20_000));
}

#[test]
fn a_damaged_ledger_counts_as_spent_until_the_next_day() {
    let (model, policy) = (model("m"), policy(1_000));
    assert_eq!(day(20_000 * 86_400_000 + 5), 20_000);
    assert!(Ledger::from_bytes(b"rubbish").is_err());
    let lost = Ledger::from_bytes(&Ledger::in_place_of_lost(Some(20_000)).to_bytes()).unwrap();
    for today in [None, Some(19_000), Some(20_000)] {
        assert_eq!(lost.may_send(&model, &policy, today), 0);
        assert_eq!(lost.may_keep(&model, &policy, today), 0);
    }
    assert_eq!(lost.may_send(&model, &policy, Some(20_001)), 1_000);
}

/// The bytes that version 1 writes must be read for ever.
#[test]
fn files_of_version_1_still_read_and_are_still_written_so() {
    let mut ledger = Ledger::default();
    ledger.send(&model("digits"), Some(20_000), 700);
    ledger.keep(&model("digits"), Some(20_000), 900);
    let stored = StoredExample { example: example(), picture: b"picture".to_vec() };
    golden("hard-ledger", &ledger.to_bytes(), &ledger, |bytes| Ledger::from_bytes(bytes).unwrap());
    golden("hard-example", &stored.to_bytes(), &stored, |bytes| StoredExample::from_bytes(bytes).unwrap());
    let mut torn = stored.to_bytes();
    torn.pop();
    assert_eq!(StoredExample::from_bytes(&torn).unwrap_err().code(), ErrorCode::StorageCorrupt);
}

fn golden<T: PartialEq + std::fmt::Debug>(name: &str, now: &[u8], value: &T, read: impl Fn(&[u8]) -> T) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(format!("{name}-v1.bin"));
    if !path.exists() && std::env::var_os("FLOTILLA_BLESS").is_some() {
        std::fs::write(&path, now).unwrap();
    }
    let old = std::fs::read(&path).unwrap();
    assert_eq!(&read(&old), value);
    assert_eq!(old, now, "{name} is written differently");
}

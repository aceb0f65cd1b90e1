//! What a split promises, over random datasets.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn item(number: u32, label: u32) -> Item {
    Item { digest: Digest::of(&number.to_be_bytes()), label, copies: 1, given: None }
}

fn items() -> impl Strategy<Value = Vec<Item>> {
    let given = prop_oneof![Just(None), proptest::sample::select(&Split::ALL[..]).prop_map(Some)];
    proptest::collection::vec((0_u32..5, 1_u32..3, given), 0..200).prop_map(|all| {
        let item = |(number, (label, copies, given)): (usize, (u32, u32, Option<Split>))| Item {
            copies,
            given,
            ..item(number as u32, label)
        };
        all.into_iter().enumerate().map(item).collect()
    })
}

proptest! {
    #[test]
    fn the_order_of_files_does_not_matter(items in items(), seed: u64, turn in 0_usize..200) {
        let splits = assign(&items, Ratios::default(), seed);
        let by_digest: BTreeMap<_, _> = items.iter().map(|i| i.digest).zip(splits).collect();
        let mut turned = items.clone();
        turned.rotate_left(turn % items.len().max(1));
        for (item, split) in turned.iter().zip(assign(&turned, Ratios::default(), seed)) {
            prop_assert_eq!(by_digest[&item.digest], split);
        }
    }

    #[test]
    fn what_the_source_holds_out_is_never_trained_on(items in items(), seed: u64) {
        let given = |split| items.iter().any(|item| item.given == Some(split));
        let keeps = given(Split::Train) && (given(Split::Validation) || given(Split::Test));
        for (item, split) in items.iter().zip(assign(&items, Ratios::default(), seed)) {
            if let Some(held_out) = item.given.filter(|given| keeps && *given != Split::Train) {
                prop_assert_eq!(split, held_out);
            }
        }
    }

    #[test]
    fn every_class_has_its_share_of_every_split(sizes in proptest::collection::vec(3_u32..60, 1..6), seed: u64) {
        let mut all = Vec::new();
        for (label, &size) in sizes.iter().enumerate() {
            all.extend((0..size).map(|n| item(label as u32 * 1000 + n, label as u32)));
        }
        let splits = assign(&all, Ratios::default(), seed);
        for (label, &size) in sizes.iter().enumerate() {
            let of = |split| all.iter().zip(&splits).filter(|(i, s)| i.label == label as u32 && **s == split).count();
            let expected = |share: f64| (f64::from(size) * share).round().max(1.0) as usize;
            prop_assert_eq!(of(Split::Test), expected(0.2));
            prop_assert_eq!(of(Split::Validation), expected(0.1));
            prop_assert!(of(Split::Train) > 0);
        }
    }
}

#[test]
fn another_seed_is_another_split() {
    let all: Vec<_> = (0..100).map(|n| item(n, 0)).collect();
    assert_eq!(assign(&all, Ratios::default(), 1), assign(&all, Ratios::default(), 1));
    assert_ne!(assign(&all, Ratios::default(), 1), assign(&all, Ratios::default(), 2));
}

#[test]
fn a_missing_split_is_cut_from_the_training_part_alone() {
    let mut all: Vec<_> = (0..900).map(|n| Item { given: Some(Split::Train), ..item(n, 0) }).collect();
    all.extend((900..1000).map(|n| Item { given: Some(Split::Test), ..item(n, 0) }));
    let counts = count(&all, &assign(&all, Ratios::default(), 1));
    // 0.1 / (0.7 + 0.1) of the 900.
    assert_eq!((counts.train, counts.validation, counts.test), (787, 113, 100));
}

#[test]
fn a_lone_split_of_the_source_is_split_as_a_whole() {
    let all: Vec<_> = (0..100).map(|n| Item { given: Some(Split::Test), ..item(n, 0) }).collect();
    let counts = count(&all, &assign(&all, Ratios::default(), 1));
    assert_eq!((counts.train, counts.validation, counts.test), (70, 10, 20));
}

#[test]
fn shares_that_are_none_are_refused() {
    let ratios = |train, validation, test| Ratios { train, validation, test };
    for wrong in
        [ratios(0.0, 0.5, 0.5), ratios(0.8, 0.1, 0.2), ratios(1.1, -0.1, 0.0), ratios(f64::NAN, 0.1, 0.2)]
    {
        let error = wrong.check().unwrap_err();
        assert_eq!(error.code(), flotilla_protocol::ErrorCode::InvalidInput);
    }
    ratios(1.0, 0.0, 0.0).check().unwrap();
}

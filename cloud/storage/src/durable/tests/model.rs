//! Records against a `BTreeMap`, with clean restarts and kills in between.

use super::{A, B, copy_tree, open};
use crate::batch::{Batch, Expect};
use crate::durable::SledRecords;
use crate::key::{Key, Range};
use crate::records::{Record, Records};
use bytes::Bytes;
use flotilla_protocol::ErrorCode;
use proptest::prelude::*;
use std::collections::BTreeMap;
use tempfile::TempDir;

/// A change of one of a few records.
#[derive(Debug, Clone)]
struct Step {
    key: u8,
    /// None removes.
    value: Option<u16>,
    expect: u8,
}

#[derive(Debug, Clone)]
enum Action {
    Commit(Vec<Step>),
    Restart { clean: bool },
    Range { low: u8, high: u8, after: Option<u8>, limit: usize, backwards: bool },
}

fn action() -> impl Strategy<Value = Action> {
    let step = (0_u8..12, proptest::option::weighted(0.7, any::<u16>()), 0_u8..5)
        .prop_map(|(key, value, expect)| Step { key, value, expect });
    prop_oneof![
        12 => proptest::collection::vec(step, 1..4).prop_map(Action::Commit),
        1 => any::<bool>().prop_map(|clean| Action::Restart { clean }),
        4 => (0_u8..14, 0_u8..14, proptest::option::of(0_u8..14), 0_usize..8, any::<bool>()).prop_map(
            |(low, high, after, limit, backwards)| Action::Range { low, high, after, limit, backwards }
        ),
    ]
}

/// Six records in each of two tables.
fn model_key(number: u8) -> Key {
    Key::new(if number.is_multiple_of(2) { A } else { B }, [b'k', number])
}

type Model = BTreeMap<Key, Record>;

fn expectation(step: &Step, model: &Model) -> Expect {
    let version = model.get(&model_key(step.key)).map_or(0, |r| r.version);
    match step.expect {
        0 => Expect::Absent,
        1 => Expect::Present,
        2 => Expect::Version(version),
        3 => Expect::Version(version + 1),
        _ => Expect::Any,
    }
}

async fn commit_both(records: &SledRecords, model: &mut Model, steps: &[Step]) {
    let mut batch = Batch::new();
    let mut next = model.clone();
    let mut holds = true;
    let distinct: BTreeMap<u8, &Step> = steps.iter().map(|s| (s.key, s)).collect();
    for step in distinct.values() {
        let (key, expect) = (model_key(step.key), expectation(step, model));
        holds &= expect.holds(model.get(&key).map(|r| r.version));
        match step.value {
            Some(value) => {
                let value = Bytes::from(vec![value as u8; (value >> 6) as usize]);
                batch.put_if(key.clone(), value.clone(), expect);
                next.insert(key, Record { value, version: 0 });
            }
            None => {
                batch.delete_if(key.clone(), expect);
                next.remove(&key);
            }
        }
    }
    match records.commit(batch).await {
        Ok(commit) => {
            assert!(holds, "a batch happened against its conditions");
            let newest = model.values().map(|r| r.version).max().unwrap_or(0);
            assert!(commit.version > newest, "versions go up");
            next.values_mut().filter(|r| r.version == 0).for_each(|r| r.version = commit.version);
            *model = next;
        }
        Err(error) => {
            assert_eq!(error.code(), ErrorCode::PreconditionFailed);
            assert!(!holds, "{error}");
        }
    }
}

fn model_range(model: &Model, action: &Action) -> (Range, Vec<(Key, Record)>) {
    let &Action::Range { low, high, after, limit, backwards } = action else { unreachable!() };
    let mut range = Range::between(A, [b'k', low], [b'k', high]).limit(limit);
    if backwards {
        range = range.backwards();
    }
    if let Some(after) = after {
        range = range.after([b'k', after]);
    }
    let inside = |k: &Key| {
        let number = k.id()[1];
        let ahead = after.is_none_or(|after| if backwards { number < after } else { number > after });
        *k.table() == A && number >= low && number < high && ahead
    };
    let mut found: Vec<_> =
        model.iter().filter(|(k, _)| inside(k)).map(|(k, r)| (k.clone(), r.clone())).collect();
    if backwards {
        found.reverse();
    }
    found.truncate(limit);
    (range, found)
}

async fn check_all(records: &SledRecords, model: &Model) {
    for table in [A, B] {
        let found = records.range(&Range::table(table.clone())).await.unwrap();
        let expected: Vec<_> =
            model.iter().filter(|(k, _)| *k.table() == table).map(|(k, r)| (k.clone(), r.clone())).collect();
        assert_eq!(found, expected);
    }
    let keys: Vec<Key> = (0..12).map(model_key).collect();
    let expected: Vec<_> = keys.iter().map(|k| model.get(k).cloned()).collect();
    assert_eq!(records.get_many(&keys).await.unwrap(), expected);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn records_are_an_ordered_map_with_versions(actions in proptest::collection::vec(action(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let parent = TempDir::new().unwrap();
            let mut life = 0;
            let mut folder = parent.path().join("0");
            let mut records = open(&folder).unwrap();
            let mut model = Model::new();
            for action in &actions {
                match action {
                    Action::Commit(steps) => commit_both(&records, &mut model, steps).await,
                    Action::Range { .. } => {
                        let (range, expected) = model_range(&model, action);
                        assert_eq!(records.range(&range).await.unwrap(), expected, "{range:?}");
                    }
                    Action::Restart { clean: true } => {
                        records.close().await.unwrap();
                        records = open(&folder).unwrap();
                        check_all(&records, &model).await;
                    }
                    Action::Restart { clean: false } => {
                        life += 1;
                        let killed = folder;
                        folder = parent.path().join(life.to_string());
                        copy_tree(&killed, &folder);
                        drop(records);
                        records = open(&folder).unwrap();
                        check_all(&records, &model).await;
                    }
                }
            }
            check_all(&records, &model).await;
        });
    }
}

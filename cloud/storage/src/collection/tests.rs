#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

//! Entities and their indexes against plain maps.

use super::*;
use crate::SledRecords;
use flotilla_protocol::ErrorCode;
use proptest::prelude::*;
use serde::Deserialize;
use std::collections::BTreeMap;
use tempfile::TempDir;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Device {
    id: String,
    group: String,
    tags: Vec<u8>,
    serial: Option<String>,
    #[serde(default)]
    note: String,
}

impl Entity for Device {
    const TABLE: Table = Table::new("devices");

    fn id(&self) -> Vec<u8> {
        self.id.clone().into_bytes()
    }

    fn indexes(&self) -> Vec<(&'static str, Vec<u8>)> {
        let tags = self.tags.iter().map(|&tag| ("tag", vec![tag]));
        [("group", self.group.clone().into_bytes())].into_iter().chain(tags).collect()
    }

    fn unique(&self) -> Vec<(&'static str, Vec<u8>)> {
        self.serial.iter().map(|serial| ("serial", serial.clone().into_bytes())).collect()
    }
}

/// A second type, to commit along with the first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Audit {
    number: u64,
    text: String,
}

impl Entity for Audit {
    const TABLE: Table = Table::new("audit");

    fn id(&self) -> Vec<u8> {
        self.number.to_be_bytes().to_vec()
    }
}

#[derive(Debug, Clone)]
struct Step {
    device: Device,
    delete: bool,
    stale: bool,
}

fn device() -> impl Strategy<Value = Device> {
    // "g" is a prefix of "g0", and zero bytes are what index encodings trip over.
    let group = prop_oneof![Just("g"), Just("g0"), Just("g\0"), Just("")];
    let serial = proptest::option::of(prop_oneof![Just("s1"), Just("s2"), Just("s3")]);
    let tags = proptest::collection::vec(0_u8..3, 0..3);
    (0_u8..6, group, tags, serial).prop_map(|(id, group, tags, serial)| Device {
        id: format!("d{id}"),
        group: group.into(),
        tags,
        serial: serial.map(Into::into),
        note: String::new(),
    })
}

fn step() -> impl Strategy<Value = Step> {
    (device(), proptest::bool::weighted(0.25), proptest::bool::weighted(0.1))
        .prop_map(|(device, delete, stale)| Step { device, delete, stale })
}

type Model = BTreeMap<String, Device>;

/// Does the step to both; they must agree on whether it can be done.
async fn take(
    records: &Arc<dyn Records>,
    devices: &Collection<Device>,
    model: &mut Model,
    step: &Step,
    number: u64,
) {
    let mut batch = Batch::new();
    let id = step.device.id.clone();
    let mut next = model.clone();
    match devices.get(&id).await.unwrap() {
        None => {
            devices.insert(&mut batch, &step.device).unwrap();
            next.insert(id, step.device.clone());
        }
        Some(mut old) => {
            old.version -= u64::from(step.stale);
            if step.delete {
                devices.delete(&mut batch, &old).unwrap();
                next.remove(&id);
            } else {
                devices.update(&mut batch, &old, &step.device).unwrap();
                next.insert(id, step.device.clone());
            }
        }
    }
    let stale = step.stale && model.contains_key(&step.device.id);
    let serials: Vec<_> = next.values().filter_map(|d| d.serial.as_ref()).collect();
    let unique = serials.iter().collect::<std::collections::BTreeSet<_>>().len() == serials.len();
    let audits = Collection::<Audit>::new(Arc::clone(records));
    audits.insert(&mut batch, &Audit { number, text: "changed".into() }).unwrap();
    match records.commit(batch).await {
        Ok(_) => {
            assert!(unique && !stale);
            *model = next;
        }
        Err(error) => {
            assert_eq!(error.code(), ErrorCode::PreconditionFailed);
            assert!(!unique || stale, "{error}");
        }
    }
    let audited = audits.get(number.to_be_bytes()).await.unwrap().is_some();
    assert_eq!(audited, unique && !stale, "the audit record goes with the change");
}

async fn all(
    devices: &Collection<Device>,
    lookup: Option<(&'static str, &[u8])>,
    page: usize,
) -> Vec<Device> {
    let mut found = Vec::new();
    let mut after: Option<Vec<u8>> = None;
    loop {
        let page = match lookup {
            Some((index, value)) => devices.lookup(index, value, after.as_deref(), page).await.unwrap(),
            None => devices.list(after.as_deref(), page).await.unwrap(),
        };
        found.extend(page.items.into_iter().map(|item| item.value));
        after = page.next;
        if after.is_none() {
            return found;
        }
    }
}

async fn check(devices: &Collection<Device>, model: &Model, page: usize) {
    let select = |keep: &dyn Fn(&Device) -> bool| -> Vec<Device> {
        model.values().filter(|d| keep(d)).cloned().collect()
    };
    assert_eq!(all(devices, None, page).await, select(&|_| true));
    for group in ["g", "g0", "g\0", ""] {
        let found = all(devices, Some(("group", group.as_bytes())), page).await;
        assert_eq!(found, select(&|d| d.group == group), "group {group:?}");
    }
    for tag in 0..3 {
        assert_eq!(all(devices, Some(("tag", &[tag])), page).await, select(&|d| d.tags.contains(&tag)));
    }
    for serial in ["s1", "s2", "s3"] {
        let found = devices.find_unique("serial", serial).await.unwrap().map(|item| item.value);
        assert_eq!(found, select(&|d| d.serial.as_deref() == Some(serial)).pop());
    }
    // Nothing is left over: as many entries as the entities have values.
    let entries = devices.records.range(&Range::table(Device::TABLE.index("tag"))).await.unwrap().len();
    let distinct = |d: &Device| d.tags.iter().collect::<std::collections::BTreeSet<_>>().len();
    assert_eq!(entries, model.values().map(distinct).sum::<usize>());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn indexes_are_never_stale(steps in proptest::collection::vec(step(), 1..40), page in 1_usize..4) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let folder = TempDir::new().unwrap();
            let records: Arc<dyn Records> = Arc::new(SledRecords::open(folder.path()).unwrap());
            let devices = Collection::<Device>::new(Arc::clone(&records));
            let mut model = Model::new();
            for (number, step) in steps.iter().enumerate() {
                take(&records, &devices, &mut model, step, number as u64).await;
                if number % 4 == 0 {
                    check(&devices, &model, page).await;
                }
            }
            check(&devices, &model, page).await;
        });
    }
}

#[tokio::test]
async fn entities_of_other_versions_are_read_and_broken_ones_are_named() {
    let folder = TempDir::new().unwrap();
    let records: Arc<dyn Records> = Arc::new(SledRecords::open(folder.path()).unwrap());
    let devices = Collection::<Device>::new(Arc::clone(&records));
    let mut batch = Batch::new();
    let newer = r#"{"id":"d1","group":"g","tags":[],"serial":null,"note":"n","added_later":{"x":1}}"#;
    let older = r#"{"id":"d2","group":"g","tags":[],"serial":null}"#;
    batch.put(Collection::<Device>::key("d1"), newer).put(Collection::<Device>::key("d2"), older);
    batch.put(Collection::<Device>::key("d3"), r#"{"id":3}"#);
    records.commit(batch).await.unwrap();
    assert_eq!(devices.get("d1").await.unwrap().unwrap().value.note, "n");
    assert_eq!(devices.get("d2").await.unwrap().unwrap().value.note, "");
    let error = devices.get("d3").await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::StorageCorrupt);
    assert!(error.to_string().contains("devices/d3"), "{error}");
}

#[tokio::test]
async fn entities_that_are_too_large_or_change_their_id_are_refused_before_the_commit() {
    let folder = TempDir::new().unwrap();
    let records: Arc<dyn Records> = Arc::new(SledRecords::open(folder.path()).unwrap());
    let devices = Collection::<Device>::new(records);
    let small = Device { id: "d".into(), group: "g".into(), tags: vec![], serial: None, note: String::new() };
    let large = Device { note: "x".repeat(16 * 1024), ..small.clone() };
    let mut batch = Batch::new();
    assert_eq!(devices.insert(&mut batch, &large).unwrap_err().code(), ErrorCode::TooLarge);
    let long_value = Device { group: "g".repeat(600), ..small.clone() };
    assert_eq!(devices.insert(&mut batch, &long_value).unwrap_err().code(), ErrorCode::TooLarge);
    let old = Versioned { value: small.clone(), version: 1 };
    let renamed = Device { id: "other".into(), ..small };
    assert_eq!(devices.update(&mut batch, &old, &renamed).unwrap_err().code(), ErrorCode::InvalidInput);
}

#[tokio::test]
async fn the_newest_come_first_backwards() {
    let folder = TempDir::new().unwrap();
    let records: Arc<dyn Records> = Arc::new(SledRecords::open(folder.path()).unwrap());
    let audits = Collection::<Audit>::new(Arc::clone(&records));
    let mut batch = Batch::new();
    for number in 0..5 {
        audits.insert(&mut batch, &Audit { number, text: String::new() }).unwrap();
    }
    records.commit(batch).await.unwrap();
    let first = audits.list_backwards(None, 2).await.unwrap();
    let second = audits.list_backwards(first.next.as_deref(), 3).await.unwrap();
    let numbers = |page: &Page<Audit>| page.items.iter().map(|item| item.value.number).collect::<Vec<_>>();
    assert_eq!((numbers(&first), numbers(&second)), (vec![4, 3], vec![2, 1, 0]));
}

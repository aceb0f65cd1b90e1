//! The roster says what the records say, after whatever has happened; and it is small and quick for 100,000 devices.

use super::*;
use crate::changes::Changes;
use crate::devices::{self, ReportHead, TagChange, Twin};
use crate::ingest::LatestSample;
use flotilla_identity::Actor;
use flotilla_protocol::ProjectId;
use flotilla_protocol::message::{ModelReport, ModelTelemetry, Phase, Settings, TelemetrySample};
use flotilla_registry::Keys;
use flotilla_storage::{Batch, Objects, Records, SledRecords};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use std::time::Instant;
use tempfile::TempDir;

const NOW: u64 = 1_800_000_000_000;

struct Cloud {
    _folder: TempDir,
    store: Arc<Store>,
    registry: Arc<Registry>,
    connections: Arc<Connections>,
    changes: Changes,
}

impl Cloud {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let records: Arc<dyn Records> = Arc::new(SledRecords::open(&folder.path().join("records")).unwrap());
        let objects = Objects::open(&folder.path().join("objects")).unwrap();
        let keys = Keys::open_or_create(&folder.path().join("keys")).unwrap();
        let (project, ca) = (ProjectId::new("shop").unwrap(), Digest::of(b"ca"));
        let registry = Registry::open(project, records.clone(), objects, keys, ca, NOW).await.unwrap();
        Self {
            _folder: folder,
            store: Arc::new(Store::new(records)),
            registry: Arc::new(registry),
            connections: Arc::default(),
            changes: Changes::new(),
        }
    }

    async fn roster(&self, changes: &Changes) -> Roster {
        let (store, registry) = (self.store.clone(), self.registry.clone());
        Roster::open(store, registry, self.connections.clone(), changes).await.unwrap()
    }

    /// The rows as they are made from the records alone.
    async fn rebuilt(&self) -> Vec<Arc<Row>> {
        self.roster(&Changes::new()).await.rows().await.unwrap()
    }

    async fn enrol(&self, id: &DeviceId) {
        let mut batch = Batch::new();
        self.store.devices.insert(&mut batch, &testing::bare_device(id.as_str(), NOW)).unwrap();
        self.store.twins.insert(&mut batch, &Twin::new(id.clone(), Settings::default(), NOW)).unwrap();
        self.store.try_commit(batch).await.unwrap();
    }

    /// Something happens to a device, as the rest of the fleet does it: commit, then tell.
    async fn happen(&self, id: &DeviceId, random: &mut SmallRng) {
        let store = &self.store;
        let model: flotilla_protocol::ModelName =
            ["digits", "faces"].choose(random).unwrap().parse().unwrap();
        let release = Digest::of(&[random.random_range(0..3)]);
        let known = store.devices.get(id.as_str()).await.unwrap().is_some();
        match random.random_range(0..9) {
            _ if !known => self.enrol(id).await,
            0 => {
                let add = [format!("label-{}", random.random_range(0..4))].into();
                let set = [("site".to_owned(), random.random::<bool>().then(|| "berlin".to_owned()))].into();
                let change = TagChange { add, set, ..TagChange::default() };
                devices::tag(store, &Actor::administrator(), id, &change, NOW).await.unwrap();
            }
            1 if random.random() => {
                devices::decommission(store, &Actor::administrator(), id, "old", NOW)
                    .await
                    .map(drop)
                    .unwrap();
            }
            1 => devices::revoke(store, &Actor::administrator(), id, "lost", NOW).await.unwrap(),
            2 => {
                let want = |twin: &mut Twin, _: &mut Batch| {
                    twin.want(&model, release, 10, NOW).map(|_| true).map_err(|_| unreachable!())
                };
                store.modify(&store.twins, id.as_str().as_bytes(), want).await.unwrap();
            }
            3 | 4 => {
                let phase = *[Phase::Confirmed, Phase::Failed, Phase::Downloading].choose(random).unwrap();
                let report = ModelReport { phase, confirmed: Some(release), ..ModelReport::default() };
                let state = ModelState { device: id.clone(), model, report };
                let key = ModelState::id_of(id, &state.model);
                let found = store.models.get(key).await.unwrap();
                let mut batch = Batch::new();
                match found {
                    Some(found) if random.random() => store.models.delete(&mut batch, &found).unwrap(),
                    found => store::put(&store.models, &mut batch, found.as_ref(), &state).unwrap(),
                }
                store.commit(batch).await.unwrap();
            }
            5 => {
                let telemetry = ModelTelemetry {
                    release: Some(release),
                    predictions: random.random_range(0..9),
                    ..ModelTelemetry::default()
                };
                let cpu_percent = random.random_range(0..100) as f32;
                let models = [(model, telemetry)].into();
                let sample = TelemetrySample { cpu_percent, models, ..TelemetrySample::default() };
                let latest =
                    LatestSample { device: id.clone(), at_ms: NOW, received_ms: NOW, starts: 0, sample };
                let found = store.samples.get(id.as_str()).await.unwrap();
                let mut batch = Batch::new();
                store::put(&store.samples, &mut batch, found.as_ref(), &latest).unwrap();
                store.commit(batch).await.unwrap();
            }
            8 => {
                let reason = random.random::<bool>().then_some("it fails again and again");
                // A revoked one is refused.
                drop(devices::quarantine(store, &Actor::administrator(), id, reason, NOW).await);
            }
            6 => drop(self.connections.begin(id, random.random(), NOW)),
            _ => {
                if let Some(connection) = self.connections.get(id) {
                    self.connections.end(id, &connection);
                }
            }
        }
        self.changes.device(id);
    }
}

#[tokio::test]
async fn the_roster_is_what_the_records_say_whatever_has_happened() {
    for seed in 0..4 {
        let (cloud, mut random) = (Cloud::new().await, SmallRng::seed_from_u64(seed));
        let roster = cloud.roster(&cloud.changes).await;
        let ids: Vec<DeviceId> = (0..8).map(|n| format!("gate-{n}").parse().unwrap()).collect();
        for step in 0..120 {
            cloud.happen(ids.choose(&mut random).unwrap(), &mut random).await;
            if step % 15 == 14 {
                let (rows, rebuilt) = (roster.rows().await.unwrap(), cloud.rebuilt().await);
                assert_eq!(rows, rebuilt, "seed {seed}, step {step}");
                assert!(rows.len() > 1);
            }
        }
    }
}

#[tokio::test]
async fn a_reading_that_is_cut_off_loses_no_change() {
    let cloud = Cloud::new().await;
    let roster = cloud.roster(&cloud.changes).await;
    let ids: Vec<DeviceId> = (0..20).map(|n| format!("gate-{n}").parse().unwrap()).collect();
    for id in &ids {
        cloud.enrol(id).await;
        cloud.changes.device(id);
    }
    // Given up at its first await, and whenever it has done a few more.
    for polls in 0..10 {
        let mut reading = Box::pin(roster.rows());
        for _ in 0..polls {
            if futures::poll!(&mut reading).is_ready() {
                break;
            }
        }
    }
    assert_eq!(roster.rows().await.unwrap().len(), ids.len());
}

#[tokio::test]
async fn what_a_report_is_about_does_not_matter_to_who_has_never_reported() {
    let cloud = Cloud::new().await;
    let id: DeviceId = "gate-1".parse().unwrap();
    cloud.enrol(&id).await;
    let mut batch = Batch::new();
    let head =
        ReportHead { device: Some(id.clone()), counter: 1, version: 1, desired_version: 1, at_ms: NOW };
    store::put(&cloud.store.reports, &mut batch, None, &head).unwrap();
    cloud.store.commit(batch).await.unwrap();
    let rows = cloud.rebuilt().await;
    assert_eq!((rows.len(), rows[0].state, rows[0].online()), (1, "idle", false));
}

/// A fleet in memory: every eighth device fails, every third is a canary, each has a site and a serial number of its own.
fn fleet(devices: usize) -> Vec<Arc<Row>> {
    let mut pool = Pool::default();
    let row = |n: usize, pool: &mut Pool| {
        let mut device = testing::bare_device(&format!("device-{n:06}"), NOW);
        device.board.board = format!("board-{}", n % 7);
        device.board.cpus = 4;
        device.board.memory_bytes = (4 + (n as u64 % 3)) << 30;
        device.last_seen_ms = Some(NOW - (n as u64 % 5_000) * 1_000);
        if n.is_multiple_of(3) {
            device.tags.labels.insert("canary".into());
        }
        device.tags.attributes.insert("site".into(), format!("site-{}", n % 40));
        device.tags.attributes.insert("serial".into(), format!("SN{n:012}"));
        let report = |release: u8| ModelReport {
            phase: if n.is_multiple_of(8) { Phase::Failed } else { Phase::Confirmed },
            confirmed: Some(Digest::of(&[release])),
            ..ModelReport::default()
        };
        let model = |name: &str, release| ModelState {
            device: device.id.clone(),
            model: name.parse().unwrap(),
            report: report(release),
        };
        let models = vec![model("digits", 1), model("faces", (n % 2) as u8)];
        let sample = TelemetrySample { cpu_percent: (n % 1_000) as f32 / 10.0, ..TelemetrySample::default() };
        let sample =
            LatestSample { device: device.id.clone(), at_ms: NOW, received_ms: NOW, starts: 0, sample };
        let read = Read { device, twin: None, models, sample: Some(sample) };
        let release = |digest: &Digest| RowRelease { digest: digest.to_string(), version: Some(1) };
        Arc::new(read.row(None, pool, release))
    };
    (0..devices).map(|n| row(n, &mut pool)).collect()
}

fn query(filter: &str, sort: &str, limit: usize, after: Option<String>) -> Query {
    let (filter, sort, limit) = (Some(filter.into()), Some(sort.into()), Some(limit));
    Query { filter, sort, limit, after, ..Query::default() }
}

fn find(rows: &[Arc<Row>], query: &Query) -> Found {
    Search::new(query).unwrap().find(rows.to_vec(), NOW, &|_, _| false)
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[test]
fn a_hundred_thousand_devices_fit_into_memory_and_are_searched_in_bounded_time() {
    const DEVICES: usize = 100_000;
    const BOUND: usize = 1_024;
    let before = resident_bytes();
    let rows = fleet(DEVICES);
    let each = resident_bytes().saturating_sub(before) / DEVICES;
    println!("roster: {each} bytes a device with 2 models, 2 attributes and a sample");
    assert!(each <= BOUND, "{each} bytes a device");
    for (what, asked) in [
        ("everything, by id", query("true", "id", 50, None)),
        (
            "filter, sorted by two columns",
            query(
                r#""canary" in labels && models.digits.phase == "failed" && telemetry.cpu > 10"#,
                "-cpu,board",
                50,
                None,
            ),
        ),
        ("a site", query(r#"attributes.site == "site-7""#, "-seen", 50, None)),
        ("words", Query { search: Some("board-3 device-00".into()), ..Query::default() }),
    ] {
        let begun = Instant::now();
        let found = find(&rows, &asked);
        println!("{what}: {} of {DEVICES} in {:?} (not optimised)", found.total, begun.elapsed());
        assert!(found.total > 0);
    }
}

#[test]
fn pages_show_every_device_once_in_order_while_others_come_and_go() {
    let mut rows = fleet(1_000);
    for sort in ["", "id", "-cpu,board", "board,-seen", "name", "-temperature", "state,-id"] {
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let page = find(&rows, &query("true", sort, 90, after));
            seen.extend(page.page.iter().map(|row| row.id.clone()));
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        let whole = find(&rows, &query("true", sort, 1_000, None));
        let whole: Vec<_> = whole.page.iter().map(|row| row.id.clone()).collect();
        assert_eq!(seen, whole, "sorted by {sort:?}");
        assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), 1_000);
    }
    // The device at which a page ended goes, and others come: nobody is shown twice or left out.
    let first = find(&rows, &query("true", "-cpu", 100, None));
    let last = first.page.last().unwrap().id.clone();
    rows.retain(|row| row.id != last);
    let second = find(&rows, &query("true", "-cpu", 1_000, first.next.clone()));
    assert_eq!(first.page.len() + second.page.len(), 1_000);
    let of = |found: &Found| found.page.iter().map(|row| row.id.clone()).collect::<BTreeSet<_>>();
    assert!(of(&first).is_disjoint(&of(&second)));
}

#[test]
fn a_page_in_the_middle_is_found_without_the_pages_before_it() {
    let rows = fleet(1_000);
    for sort in ["", "-cpu,board", "name"] {
        let all: Vec<_> = find(&rows, &query("true", sort, 1_000, None)).page;
        for (skip, limit, shown) in
            [(0, 10, 10), (495, 10, 10), (995, 10, 5), (1_000, 10, 0), (usize::MAX, 10, 0)]
        {
            let page = find(&rows, &Query { skip: Some(skip), ..query("true", sort, limit, None) });
            let end = skip.min(all.len()) + shown;
            assert_eq!(page.page, all[end - shown..end], "{sort} from {skip}");
            assert_eq!((page.total, page.next.is_some()), (1_000, end < 1_000), "{sort} from {skip}");
        }
        // Behind a cursor it counts from there.
        let first = find(&rows, &query("true", sort, 10, None));
        let page = find(&rows, &Query { skip: Some(5), ..query("true", sort, 10, first.next) });
        assert_eq!(page.page, all[15..25], "{sort}");
    }
}

#[test]
fn a_query_that_cannot_be_answered_says_why() {
    let cursor = find(&fleet(10), &query("true", "cpu", 2, None)).next;
    for (bad, says) in [
        (query("true", "colour", 5, None), "there are id, name"),
        (query("true", "id,id,id,id,id", 5, None), "at most 4"),
        (query("true", "", 0, None), "1 to 1000"),
        (query("true", "", 5_000, None), "1 to 1000"),
        (query("true", "", 5, Some("nonsense".into())), "after"),
        (query("true", "id", 5, Some("x".repeat(5_000))), "after"),
        (query("true", "cpu,id", 5, cursor), "after"),
        (query("nonsense", "", 5, None), "no variable nonsense"),
        (Query { search: Some("x".repeat(129)), ..Query::default() }, "128"),
    ] {
        let error = Search::new(&bad).map(|_| ()).unwrap_err();
        assert_eq!(error.code(), flotilla_protocol::ErrorCode::InvalidInput);
        assert!(error.to_string().contains(says), "{error}");
    }
}

/// However often an expression asks for a group, that is looked at once a device.
#[test]
fn a_group_is_looked_at_once_a_device() {
    let rows = fleet(10);
    let many = vec!["1"; 200].join(",");
    let asked = query(&format!(r#"[{many}].exists(x, x > 1 || "canaries" in groups)"#), "id", 50, None);
    let looks = std::cell::Cell::new(0);
    let search = Search::new(&asked).unwrap();
    let found = search.find(rows, NOW, &|_, _| {
        looks.set(looks.get() + 1);
        false
    });
    assert_eq!((found.total, looks.get()), (0, 10));
}

/// Connected devices are heard while they are sorted.
#[test]
fn a_page_is_sorted_by_what_was_known_when_it_was_asked_for() {
    let connections = Connections::default();
    let connected: Vec<_> = (0..2_000)
        .map(|n| {
            let id = DeviceId::new(format!("d{n:04}")).unwrap();
            (connections.begin(&id, n + 1, NOW), id)
        })
        .collect();
    let mut pool = Pool::default();
    let rows: Vec<Arc<Row>> = connected
        .iter()
        .map(|(connection, id)| {
            let device = testing::bare_device(id.as_str(), NOW);
            let read = Read { device, twin: None, models: Vec::new(), sample: None };
            let release = |_: &Digest| RowRelease { digest: String::new(), version: None };
            Arc::new(read.row(Some(connection.clone()), &mut pool, release))
        })
        .collect();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut now = NOW;
            while !stop.load(Ordering::Relaxed) {
                now += 1;
                connected.iter().for_each(|(connection, _)| connection.received(1, now));
            }
        });
        for _ in 0..200 {
            let found = find(&rows, &query("true", "-seen", 100, None));
            assert_eq!((found.total, found.page.len()), (2_000, 100));
        }
        stop.store(true, Ordering::Relaxed);
    });
}

//! A fleet of many devices in a stopped control plane's folder: to enrol 10,000 takes minutes, to read them does not.

use flotilla_fleet::{Device, LatestSample, ModelState, ReportHead, Twin};
use flotilla_protocol::message::{DesiredModel, ModelReport, Phase, SlotName, TelemetrySample};
use flotilla_protocol::{Digest, ModelName};
use flotilla_storage::{Batch, Collection, Records, SledRecords};
use std::path::Path;
use std::sync::Arc;

/// Boards of seeded devices, in turn.
pub(crate) const BOARDS: [&str; 4] = ["raspberry-pi-5", "raspberry-pi-4", "jetson-orin-nano", "x86-64"];
/// Sites of seeded devices, in turn.
pub(crate) const SITES: usize = 20;
/// Devices that are written in one commit.
const DEVICES_A_COMMIT: usize = 250;
/// Labels that a device may have.
const LABELS: usize = 16;

/// The id of a seeded device.
pub(crate) fn id(number: usize) -> String {
    format!("edge-{number:05}")
}

/// Writes so many devices, each like the enrolled one in what is not told here. Number 0 has no room for another label.
/// Every tenth one should run a release that it does not run yet.
pub(crate) fn seed(dir: &Path, like: &str, devices: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let records: Arc<dyn Records> = Arc::new(SledRecords::open(&dir.join("records")).unwrap());
        let known = Collection::<Device>::new(records.clone()).get(like).await.unwrap().unwrap().value;
        let twin = Collection::<Twin>::new(records.clone()).get(like).await.unwrap().unwrap().value;
        let mut batch = Batch::new();
        for number in 0..devices {
            if number % DEVICES_A_COMMIT == 0 {
                records.commit(std::mem::take(&mut batch)).await.unwrap();
            }
            one(&records, &mut batch, &known, &twin, number);
        }
        records.commit(batch).await.unwrap();
    });
}

fn one(records: &Arc<dyn Records>, batch: &mut Batch, known: &Device, twin: &Twin, number: usize) {
    let mut device = Device { id: id(number).parse().unwrap(), ..known.clone() };
    device.agent = "0.1.0".into();
    device.board.board = BOARDS[number % BOARDS.len()].into();
    device.board.arch = "aarch64".into();
    device.board.os = "Debian 13".into();
    device.last_seen_ms = Some(known.enrolled_at_ms.saturating_sub(60_000 * number as u64));
    device.tags.attributes = [("site".to_owned(), format!("site-{}", number % SITES))].into();
    if number == 0 {
        device.tags.labels = (0..LABELS).map(|label| format!("l{label}")).collect();
    }
    let (model, now_ms) = (ModelName::new("digits").unwrap(), known.enrolled_at_ms);
    let runs = Digest::of(b"a release of another registry");
    let behind = number % 10 == 3;
    let wanted = if behind { Digest::of(b"a newer one") } else { runs };
    let mut twin = Twin { device: device.id.clone(), version: if behind { 3 } else { 2 }, ..twin.clone() };
    let attempt = u32::try_from(twin.version).unwrap();
    twin.models.insert(model.clone(), DesiredModel { release: wanted, envelope_bytes: 1_000, attempt });
    let head = ReportHead {
        device: Some(device.id.clone()),
        counter: 1,
        version: 1,
        desired_version: 2,
        at_ms: now_ms,
    };
    let report = ModelReport {
        phase: Phase::Confirmed,
        confirmed: Some(runs),
        attempt: 2,
        slot: Some(SlotName::A),
        ..ModelReport::default()
    };
    let sample = TelemetrySample {
        cpu_percent: (number % 97) as f32,
        temperature_c: Some(30.0 + (number % 50) as f32),
        rss_bytes: 40_000_000,
        ..TelemetrySample::default()
    };
    let sample =
        LatestSample { device: device.id.clone(), at_ms: now_ms, received_ms: now_ms, starts: 0, sample };
    let state = ModelState { device: device.id.clone(), model, report };
    let into = records.clone();
    Collection::new(into.clone()).insert(batch, &device).unwrap();
    Collection::new(into.clone()).insert(batch, &twin).unwrap();
    Collection::new(into.clone()).insert(batch, &head).unwrap();
    Collection::new(into.clone()).insert(batch, &state).unwrap();
    Collection::new(into).insert(batch, &sample).unwrap();
}

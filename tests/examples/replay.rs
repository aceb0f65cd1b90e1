//! How fast a device replays what it recorded while the cloud was away: the real agent, the real control plane, over
//! TLS and MQTT on loopback, every batch brought to the disk on both sides. Prints records a second.
//!
//! `cargo build --workspace --bins && cargo run -p flotilla-tests --example replay [RECORDS]`, with `--release` for both
//! to measure what ships.

#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use flotilla_agent::folder::Folder;
use flotilla_agent::outbox::Store;
use flotilla_protocol::message::{Histogram, ModelTelemetry, RecordBody, TelemetrySample};
use flotilla_tests::{Device, Plane};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const RECORDS: u64 = 50_000;
/// Below the bound of an outbox.
const MOST: u64 = 60_000;

fn main() {
    let asked = std::env::args().nth(1).map(|n| n.parse::<u64>().unwrap());
    let records = asked.unwrap_or(RECORDS).min(MOST);
    let plane = Plane::start();
    let mut device = Device::enrol(&plane, "box-1");
    fill(&device, records);
    println!("{records} records wait in the outbox; the agent starts");

    device.start();
    // Connecting is not replaying: the time runs from the first record that is seen.
    let came = || plane.device("box-1").unwrap()["records"].as_u64().unwrap();
    let before = until(|| Some(came()).filter(|came| *came > 0));
    let since = Instant::now();
    let counted = until(|| Some(came()).filter(|came| *came >= records)) - before;
    let time = since.elapsed();
    println!(
        "{counted} records in {:.2} s: {:.0} records/s from the device's disk to the control plane's",
        time.as_secs_f64(),
        counted as f64 / time.as_secs_f64()
    );
}

fn until(mut ask: impl FnMut() -> Option<u64>) -> u64 {
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Samples of the size that a device with one model makes.
fn fill(device: &Device, records: u64) {
    let folder = Folder::open(&device.dir).unwrap();
    let (mut store, _) = Store::open(&folder).unwrap();
    for n in 0..records {
        let latency = Histogram { buckets: vec![0, 0, 0, 0, 0, 0, n, 2 * n, n / 2], sum_us: 300 * n };
        let model = ModelTelemetry { predictions: 4 * n, latency, ..ModelTelemetry::default() };
        let sample = TelemetrySample {
            uptime_s: n,
            cpu_percent: 12.5,
            memory_used_bytes: 1 << 30,
            rss_bytes: 1 << 24,
            disk_free_bytes: 1 << 35,
            models: BTreeMap::from([("digits".parse().unwrap(), model)]),
            ..TelemetrySample::default()
        };
        store.append(1_790_000_000_000 + n * 1_000, RecordBody::Sample(sample)).unwrap();
    }
    store.close().unwrap();
}

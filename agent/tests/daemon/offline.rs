//! Without the cloud everything local works, and what was recorded meanwhile arrives once the cloud is there.

use crate::cloud::{Cloud, State};
use crate::device::Device;
use crate::releases::Plan;
use crate::updates::{confirmed, settled, want};
use flotilla_agent::folder::Folder;
use flotilla_agent::outbox::Store;
use flotilla_protocol::limits;
use flotilla_protocol::message::{Epoch, EventKind, RecordBody, Stream, TelemetryBatch, TelemetrySample};
use std::collections::BTreeMap;

async fn waiting(device: &Device) -> u64 {
    device.status().await["records_waiting"].as_u64().unwrap()
}

async fn until_nothing_waits(device: &Device) {
    device.until("an empty outbox", async |device| (waiting(device).await == 0).then_some(())).await;
}

/// How often each number came, by epoch and stream.
fn numbers(state: &State) -> BTreeMap<(Epoch, Stream), BTreeMap<u64, u32>> {
    let mut seen: BTreeMap<_, BTreeMap<u64, u32>> = BTreeMap::new();
    for batch in &state.batches {
        let stream = seen.entry((batch.epoch, batch.stream)).or_default();
        batch.records.iter().for_each(|record| *stream.entry(record.seq).or_default() += 1);
        assert!(batch.dropped.is_empty(), "nothing was dropped");
    }
    seen
}

fn backlog(state: &State) -> impl Iterator<Item = &TelemetryBatch> {
    state.batches.iter().filter(|batch| batch.stream == Stream::Backlog)
}

fn started(state: &State) -> usize {
    state.events().filter(|event| event.kind == EventKind::Started).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn from_a_cold_boot_without_the_cloud_the_device_predicts_and_records_and_all_of_it_arrives_once() {
    let (mut cloud, mut device, first) = settled().await;
    until_nothing_waits(&device).await;
    assert!(device.terminate().await.success());
    cloud.stop().await;

    let mut kept = 0;
    for boot in 0..3 {
        device.start().await;
        device.until("an answer", async |device| device.predict(&[1, 2, 3, 4]).await.ok()).await;
        assert_eq!(device.label().await, "a");
        let status = device.status().await;
        assert_eq!(status["connected"], false);
        assert_eq!(status["models"]["letters"]["confirmed"], first.release.to_string());
        // At least its start and a sample.
        let now = device
            .until("more records", async |device| Some(waiting(device).await).filter(|now| *now >= kept + 2));
        kept = now.await;
        if boot < 2 {
            assert!(device.terminate().await.success());
        }
    }

    cloud.resume().await;
    until_nothing_waits(&device).await;
    let made = device.status().await["records_made"].as_u64().unwrap();
    let state = cloud.state();
    assert_eq!(started(&state), 4, "each start was recorded once");
    let mut arrived = 0;
    for (stream, numbers) in numbers(&state) {
        let last = numbers.len() as u64;
        assert!(numbers.keys().copied().eq(1..=last), "{stream:?} has holes: {numbers:?}");
        assert!(numbers.values().all(|times| *times == 1), "{stream:?} came twice: {numbers:?}");
        arrived += last;
    }
    assert!(arrived >= made, "{arrived} of {made} records arrived");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_and_live_records_pass_a_backlog_of_thousands() {
    const BACKLOG: u64 = 5_000;
    let mut cloud = Cloud::start().await;
    let release = Plan::good(0).publish(&cloud);
    want(&mut cloud, &release);
    let mut device = Device::new(&cloud);
    let folder = Folder::open(&device.path("")).unwrap();
    let (mut store, _) = Store::open(&folder).unwrap();
    for n in 0..BACKLOG {
        let sample = TelemetrySample { uptime_s: n, ..TelemetrySample::default() };
        store.append(n, RecordBody::Sample(sample)).unwrap();
    }
    store.close().unwrap();
    drop(store);

    // The cloud acknowledges nothing of the backlog, and a whole update goes by.
    cloud.state().hold = Some(Stream::Backlog);
    device.start().await;
    confirmed(&cloud, release.release).await;
    cloud.until_event(EventKind::Confirmed).await;
    let order: Vec<Stream> = cloud.state().batches.iter().map(|batch| batch.stream).collect();
    assert_eq!(order[0], Stream::Event, "events go first");
    let begins: Vec<u64> = backlog(&cloud.state()).map(|batch| batch.records[0].seq).collect();
    assert!(begins.iter().all(|seq| *seq == 1), "no more than one batch of it is on the way: {begins:?}");
    assert!(order.contains(&Stream::Live), "{order:?}");
    let passed = waiting(&device).await;
    assert!(
        (BACKLOG..BACKLOG + 10).contains(&passed),
        "all but the backlog is through, {passed} records wait"
    );

    cloud.release();
    until_nothing_waits(&device).await;
    let state = cloud.state();
    let mut last = 0;
    // A batch that is sent again because its acknowledgement was held back is no other batch.
    for batch in backlog(&state) {
        if batch.records[0].seq == 1 && last > 0 {
            continue;
        }
        assert!(batch.records.len() <= limits::TELEMETRY_BATCH);
        for record in &batch.records {
            assert_eq!(record.seq, last + 1, "in its order, and once");
            last = record.seq;
        }
    }
    // The sample of the start came before the connection.
    assert!((BACKLOG..BACKLOG + 5).contains(&last), "{last}");
    assert!(backlog(&state).count() as u64 <= BACKLOG / 100, "in batches of at least a hundred records");
}

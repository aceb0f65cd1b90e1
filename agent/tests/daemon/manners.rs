//! The agent leaves the box to others: nice level, and predictions that slow down on a board that is too hot.

use crate::cloud::Cloud;
use crate::device::Device;
use crate::releases::Plan;
use crate::updates::{confirmed, want};
use flotilla_protocol::message::{EventKind, RecordBody};

/// The nice level of a process (proc(5), field 19 of `stat`).
fn nice(pid: u32) -> i32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit(") ").next().unwrap().split_whitespace().nth(16).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hot_board_slows_down_says_so_still_answers_and_recovers() {
    let mut cloud = Cloud::start().await;
    cloud.settings.telemetry_interval_s = 1;
    let first = Plan::good(0).publish(&cloud);
    want(&mut cloud, &first);
    let mut device = Device::new(&cloud);
    let thermometer = device.path("temp");
    std::fs::write(&thermometer, "41000\n").unwrap();
    let config = format!(
        "temperature_file = {thermometer:?}\nthrottle_c = 80\nresume_c = 70\nthreads = 1\nnice = 3\n"
    );
    std::fs::write(device.path("agent.toml"), config).unwrap();
    device.start().await;
    confirmed(&cloud, first.release).await;
    assert_eq!(nice(device.pid()), 3);
    let throttled = async |device: &Device, hot: bool| {
        device.until("heat", async |d| (d.status().await["throttled"] == hot).then_some(())).await;
    };
    throttled(&device, false).await;

    std::fs::write(&thermometer, "80000\n").unwrap();
    throttled(&device, true).await;
    let hot = cloud.until_event(EventKind::Throttled).await;
    assert!(hot.detail.contains("80.0 degrees"), "{}", hot.detail);
    for _ in 0..5 {
        assert_eq!(device.label().await, "a");
    }
    cloud
        .until("a sample that says so", |state| {
            state.records.iter().find_map(|record| match &record.body {
                RecordBody::Sample(sample) if sample.throttled => sample.temperature_c.filter(|c| *c == 80.0),
                _ => None,
            })
        })
        .await;

    std::fs::write(&thermometer, "69900\n").unwrap();
    throttled(&device, false).await;
    cloud.until_event(EventKind::Cooled).await;
    let state = cloud.state();
    let count = |kind| {
        state.kept.values().filter(|r| matches!(&r.body, RecordBody::Event(e) if e.kind == kind)).count()
    };
    assert_eq!((count(EventKind::Throttled), count(EventKind::Cooled)), (1, 1), "one event a change");
}

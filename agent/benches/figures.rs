//! The agent's figures, printed: `cargo bench -p flotilla-agent --bench figures`, or with `--profile dev` beside the tests.
//!
//! Everything is real: the agent's own process, TLS and MQTT over loopback to the small control plane of the tests.
//! Nothing is asserted about time; the goals stand beside what was measured.
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot measure ends")]

#[path = "../tests/daemon/cloud.rs"]
#[expect(dead_code, reason = "the tests use more of it")]
mod cloud;
#[path = "../tests/daemon/device.rs"]
#[expect(dead_code, reason = "the tests use more of it")]
mod device;
#[path = "../tests/daemon/releases.rs"]
#[expect(dead_code, reason = "the tests use more of it")]
mod releases;

use cloud::{Cloud, State};
use device::Device;
use flotilla_protocol::Digest;
use flotilla_protocol::message::Phase;
use releases::{Plan, letters};
use std::time::{Duration, Instant};

/// Rounds of each figure; the median is shown with the extremes.
const ROUNDS: usize = 9;
/// Chunks of 128 KiB: one MiB.
const CHUNKS: usize = 8;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(figures());
}

async fn figures() {
    let mut cloud = Cloud::start().await;
    let first = Plan::good(0).publish(&cloud);
    cloud.models.insert(letters(), first.clone());
    cloud.want();
    let mut device = Device::started(&cloud).await;
    confirmed(&cloud, first.release).await;

    let mut updates = Vec::new();
    for round in 1..=ROUNDS {
        let plan = Plan { ballast_chunks: CHUNKS, salt: round as u8, ..Plan::good(round % 3) };
        let next = plan.publish(&cloud);
        cloud.models.insert(letters(), next.clone());
        let started = Instant::now();
        cloud.want();
        confirmed(&cloud, next.release).await;
        updates.push(started.elapsed());
    }
    show("a 1 MiB update from desired to confirmed, probation at its minimum", "2 s", &mut updates);

    let mut restarts = Vec::new();
    for _ in 0..ROUNDS {
        device.kill().await;
        let started = Instant::now();
        device.spawn();
        while device.answer().await.is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        restarts.push(started.elapsed());
    }
    show("a killed agent from its start to the first prediction", "300 ms", &mut restarts);

    let status =
        device.until("memory", async |d| Some(d.status().await).filter(|s| s["rss_bytes"].is_u64())).await;
    let rss = status["rss_bytes"].as_u64().unwrap();
    println!(
        "{:<66} {:>9.1} MiB",
        "resident memory of the agent with a small model",
        rss as f64 / f64::from(1 << 20)
    );
}

async fn confirmed(cloud: &Cloud, release: Digest) {
    let seen = |state: &State| {
        let report = state.reported.as_ref()?.models.get(&letters())?;
        (report.phase == Phase::Confirmed && report.confirmed == Some(release)).then_some(())
    };
    cloud.until("confirmation", seen).await;
}

fn show(what: &str, goal: &str, times: &mut [Duration]) {
    times.sort_unstable();
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    println!(
        "{what:<66} {:>9.1} ms (goal {goal}; {:.1} to {:.1} in {} rounds)",
        ms(times[times.len() / 2]),
        ms(times[0]),
        ms(times[times.len() - 1]),
        times.len()
    );
}

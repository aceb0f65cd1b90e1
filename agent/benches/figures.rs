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
use device::{Device, answer_of};
use flotilla_agent::host::{ModelHost, Side};
use flotilla_protocol::Digest;
use flotilla_protocol::message::{Phase, ShadowPhase, ShadowRelease, SlotName};
use flotilla_runtime::Input;
use releases::{Plan, letters, model};
use std::time::{Duration, Instant};

/// Rounds of each figure; the median is shown with the extremes.
const ROUNDS: usize = 9;
/// Chunks of 128 KiB: one MiB.
const CHUNKS: usize = 8;
/// Predictions of one round.
const PREDICTIONS: usize = 2_000;
/// Requests to the local API in one round.
const REQUESTS: usize = 300;

fn main() {
    beside_a_shadow();
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

    let endpoint = std::fs::read_to_string(device.path("run/endpoint")).unwrap();
    let mut alone = requests(endpoint.trim()).await;
    show("a request to the local API, connection included", "0.3 ms over the engine", &mut alone);
    let shadow = Plan { salt: 77, ..Plan::good(2) }.publish(&cloud);
    let (release, envelope_bytes) = (shadow.release, shadow.envelope_bytes);
    let shadow = ShadowRelease { release, envelope_bytes, attempt: 0, share_per_mille: 1_000 };
    cloud.shadows.insert(letters(), shadow);
    cloud.want();
    let runs = |state: &State| {
        let shadow = state.reported.as_ref()?.shadows.get(&letters())?;
        (shadow.phase == ShadowPhase::Running).then_some(())
    };
    cloud.until("the shadow", runs).await;
    let mut beside = requests(endpoint.trim()).await;
    show("the same with a shadow on every input", "as before", &mut beside);
    cloud.shadows.clear();
    cloud.want();

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

/// The way of an answer inside the agent: what a shadow costs those who do not know of it.
fn beside_a_shadow() {
    let (host, name, against) = (ModelHost::new(), letters(), Digest::of(b"confirmed"));
    host.install(name.clone(), against, SlotName::A, model(0)).unwrap();
    let picture = vec![7; 4];
    let round = || {
        let mut times: Vec<Duration> = (0..PREDICTIONS)
            .map(|_| {
                let started = Instant::now();
                host.predict(&name, Input::Raw(&picture)).unwrap();
                started.elapsed()
            })
            .collect();
        times.sort_unstable();
        times[PREDICTIONS / 2]
    };
    let side = Side { release: Digest::of(b"shadow"), against, inputs: vec![], share_per_mille: 1_000 };
    let (mut alone, mut busy, mut idle) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        host.forget_shadow(&name);
        alone.push(round());
        let waiting = host.attach_shadow(&name, side.clone()).unwrap();
        busy.push(round());
        drop(waiting);
        let mut taking = host.attach_shadow(&name, side.clone()).unwrap();
        let taker = std::thread::spawn(move || while taking.blocking_recv().is_some() {});
        idle.push(round());
        host.detach_shadow(&name);
        taker.join().unwrap();
    }
    show("the median prediction inside the agent, without a shadow", "-", &mut alone);
    show("with a shadow that is busy: inputs are counted, not kept", "as before", &mut busy);
    show("with a shadow that takes every input", "as before", &mut idle);
}

/// Median times of requests, a round each.
async fn requests(endpoint: &str) -> Vec<Duration> {
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let mut times = Vec::new();
        for _ in 0..REQUESTS {
            let started = Instant::now();
            answer_of(endpoint, "letters").await.unwrap();
            times.push(started.elapsed());
        }
        times.sort_unstable();
        rounds.push(times[REQUESTS / 2]);
    }
    rounds
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
        "{what:<66} {:>9.4} ms (goal {goal}; {:.4} to {:.4} in {} rounds)",
        ms(times[times.len() / 2]),
        ms(times[0]),
        ms(times[times.len() - 1]),
        times.len()
    );
}

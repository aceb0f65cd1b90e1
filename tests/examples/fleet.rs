//! How fast a release reaches a whole fleet: the real control plane and `flotilla simulate` as two processes, devices
//! over TLS with their own certificates, a release of 100 KB to all of them in one wave. Prints what it took beside the
//! goals. `tests/bench-fleet [DEVICES]` builds and runs it.

#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use flotilla_tests::{Plane, Simulation};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const DEVICES: u32 = 10_000;
/// Goals: seconds from the rollout's start until the last device has confirmed, and bytes of memory of the server.
const GOAL_S: f64 = 180.0;
const GOAL_RSS: u64 = 1_500_000_000;
/// A fleet that is not there after so long does not come any more.
const LIMIT: Duration = Duration::from_secs(1_500);

fn main() {
    let asked = std::env::args().nth(1).map(|n| n.parse::<u32>().unwrap());
    let devices = asked.unwrap_or(DEVICES);
    let plane = Plane::start();
    // Not compressed, it has the size that is wanted.
    let _dataset: Value = plane.cli(&["dataset", "import", "digits"]);
    let config = json!({ "epochs": 3, "patience": 0, "seed": 1 }).to_string();
    let _trained: Value = plane.cli(&["train", "digits", "--config", &config]);
    let release: Value = plane.cli(&["release", "create", "digits"]);
    let digest = release["digest"].as_str().unwrap();
    println!("release {} of {} bytes", &digest[..12], release["bytes"]);

    let simulation = Simulation::start(&plane, devices, &["--until-release", digest, "--connecting", "64"]);
    let all = format!("{devices}/{devices} connected");
    until(|| simulation.said().contains(&all).then_some(()));
    let (cpu, server_cpu) = (cpu_s(simulation.pid()), cpu_s(plane.pid()));
    println!("{devices} devices are connected; server {:.0} MB", rss(plane.pid(), "VmRSS:") as f64 / 1e6);

    let began = Instant::now();
    let rollout: Value = plane.cli(&["rollout", "create", digest, "--wave", "100%", "--detach"]);
    println!("the rollout was created within {:.1} s", began.elapsed().as_secs_f64());
    let path = format!("/api/v1/rollouts/{}", rollout["id"].as_str().unwrap());
    let simulator = simulation.pid();
    let simulating = std::thread::spawn(move || simulation.report());
    let report = loop {
        if simulating.is_finished() {
            break simulating.join().unwrap();
        }
        assert!(began.elapsed() < LIMIT, "the release does not reach all devices");
        println!(
            "{:6.1} s  server {:.0} MB, {:.1} s of CPU; simulator {:.0} MB, {:.1} s of CPU",
            began.elapsed().as_secs_f64(),
            rss(plane.pid(), "VmRSS:") as f64 / 1e6,
            cpu_s(plane.pid()) - server_cpu,
            rss(simulator, "VmRSS:") as f64 / 1e6,
            cpu_s(simulator) - cpu,
        );
        std::thread::sleep(Duration::from_secs(5));
    };
    until(|| (plane.get(&path).1["state"] == "succeeded").then_some(()));
    let whole = began.elapsed().as_secs_f64();

    let spread = &report["releases"][0];
    let connect = &report["connect"];
    let peak = rss(plane.pid(), "VmHWM:");
    println!();
    println!("enrolled     {} devices in {:.1} s", report["enrolled"], number(&report["enrol_s"]));
    println!(
        "connected    {:.0} a second, the last after {:.1} s",
        number(&connect["per_s"]),
        number(&connect["seconds"])
    );
    println!(
        "to the fleet {:.1} s until the last of {} devices confirmed (half of them {:.1} s, 99% {:.1} s); goal {GOAL_S:.0} s",
        number(&spread["seconds"]),
        spread["running"],
        number(&spread["p50_s"]),
        number(&spread["p99_s"]),
    );
    println!(
        "             {whole:.1} s until the control plane called it succeeded; probation of a device 2 s of it"
    );
    println!("server       {:.0} MB at its peak; goal {:.0} MB", peak as f64 / 1e6, GOAL_RSS as f64 / 1e6);
    println!(
        "traffic      {} bytes to the devices, {} from them",
        report["traffic"]["received"], report["traffic"]["sent"]
    );
    println!("lost         {}", report["lost"]);
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

fn until<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(began.elapsed() < LIMIT, "it takes too long");
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// A figure of memory of a process, in bytes.
fn rss(pid: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).map_or(0, |kib| kib * 1024)
}

/// Seconds that a process has computed, at the usual hundred ticks a second.
fn cpu_s(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in brackets may hold anything. After it, utime and stime are the 12th and 13th.
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let times = rest.split_whitespace().skip(11).take(2);
    times.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

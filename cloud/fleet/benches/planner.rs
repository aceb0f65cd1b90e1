//! What planning a rollout to a million devices takes: `cargo bench -p flotilla-fleet --bench planner`, or with
//! `--profile dev` beside the tests. Nothing is asserted about time; the goals stand beside what was measured.
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot measure ends")]

use flotilla_fleet::{
    Action, Observation, Observations, Policy, Report, Rollout, RolloutDevice, RolloutState, Sent, Status,
    Target, Wanted, WaveSpec, plan, resolve,
};
use flotilla_protocol::message::{DesiredModel, ModelReport, Phase};
use flotilla_protocol::{ActorId, DeviceId, Digest, RolloutId};
use std::hint::black_box;
use std::time::Instant;

const DEVICES: usize = 1_000_000;
const STEPS: usize = 9;
/// Actions of one step, as the control plane takes them.
const ACTIONS: usize = 256;

fn main() {
    let release = Digest::of(b"new release");
    let before = resident_bytes();
    let (rollout, mut devices) = fleet(release);
    let told = |n: usize| DesiredModel { release, envelope_bytes: 100, attempt: 2 + n as u32 % 2 };
    for device in &mut devices {
        let previous = Some(told(device.position as usize));
        let sent = Sent { desired_version: 2, attempt: 2, at_ms: 1, previous };
        device.sent = Some(Box::new(sent));
        device.status = Status::Sent;
    }
    let bytes = (resident_bytes() - before) / DEVICES as u64;
    println!(
        "planner: a rollout to {DEVICES} devices, all told what to run, of {} actions a step at most",
        ACTIONS
    );
    println!("  memory             {bytes:>8} bytes a device     goal 300");

    let report = |n: usize| ModelReport {
        phase: Phase::Confirmed,
        confirmed: Some(release),
        attempt: told(n).attempt,
        ..ModelReport::default()
    };
    let observed: Observations = devices
        .iter()
        .step_by(1_000)
        .map(|device| {
            let seen = Observation {
                desired: Some(DesiredModel { release, envelope_bytes: 100, attempt: 2 }),
                report: Some(Report { desired_version: 2, model: Some(report(0)) }),
                ..Observation::default()
            };
            (device.device.clone(), seen)
        })
        .collect();
    show("marks, 1,000 heard", || plan(&rollout, &devices, &observed, 5, ACTIONS));
    show("nobody heard", || plan(&rollout, &devices, &Observations::new(), 5, ACTIONS));
    for device in devices.iter_mut().skip(DEVICES / 2) {
        device.status = Status::Pending;
    }
    show("the next to tell", || plan(&rollout, &devices, &Observations::new(), 5, ACTIONS));
}

fn fleet(release: Digest) -> (Rollout, Vec<RolloutDevice>) {
    let id = RolloutId::new("rollout-019abcdef012-01234567").unwrap();
    let targets = (0..DEVICES).map(|n| Target::from(DeviceId::new(format!("device-{n:07}")).unwrap()));
    let (waves, devices) = resolve(&id, targets, &[WaveSpec::Rest], None);
    let rollout = Rollout {
        id,
        model: "digits".parse().unwrap(),
        wanted: Wanted { release, envelope_bytes: 100, version: 2, counter: 2 },
        waves,
        state: RolloutState::Running,
        wave: 0,
        deadline_ms: 60_000,
        counted_from_ms: 0,
        created_by: ActorId::new("administrator").unwrap(),
        created_at_ms: 0,
        finished_at_ms: None,
        reason: None,
        watch: None,
        watched: None,
        shadow: None,
        policy: Policy::default(),
        starts_at_ms: None,
        needs_approval: false,
        approved_waves: 0,
        follows: None,
        superseded_by: Vec::new(),
        tallies: Vec::new(),
    };
    (rollout, devices)
}

fn show(what: &str, step: impl Fn() -> Vec<Action>) {
    let mut times: Vec<f64> = (0..STEPS)
        .map(|_| {
            let began = Instant::now();
            black_box(step());
            began.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    println!(
        "  {what:<18} {:>8.1} ms a step ({:.1} to {:.1})     goal 1,000",
        times[STEPS / 2],
        times[0],
        times[STEPS - 1]
    );
}

/// Resident memory of this process (proc_pid_statm(5): the second number, in pages).
fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

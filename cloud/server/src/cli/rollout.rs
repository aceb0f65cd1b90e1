//! `flotilla rollout …`: starts, follows, controls and shows rollouts.

use super::args::{OnStop, Rollout, RolloutId, RolloutSpec};
use super::client::Client;
use super::commands::{Done, Out, client, encode};
use super::exit::Failure;
use super::{follow, table, telemetry};
use crate::http::api::{
    GateFindingView, ObstacleView, RampView, RolloutDevicePage, RolloutDeviceRequest, RolloutPlanView,
    RolloutRequest, RolloutView, ShadowStageRequest, WatchView, WaveCounts, WaveDeviceView, WaveView,
};
use flotilla_protocol::ErrorCode;
use serde::Serialize;
use serde_json::Value as Json;
use std::time::SystemTime;

/// Devices of a wave that are named on a line.
const NAMED: usize = 12;

/// Runs a command.
pub(super) fn run(command: Rollout, out: &Out) -> Done {
    match command {
        Rollout::Create { spec, detach } => {
            let client = client(&spec.target)?;
            let rollout: RolloutView = client.post("/api/v1/rollouts", &request_of(&spec)?)?;
            // What waits for a time or a word need not be waited for here.
            let waits = rollout.state == "scheduled" || rollout.waits_for_somebody();
            let rollout = if detach || waits { rollout } else { follow::rollout(&client, rollout)? };
            out.show(&rollout, print)
        }
        Rollout::Plan(spec) => {
            let client = client(&spec.target)?;
            let plan: RolloutPlanView = client.post("/api/v1/rollouts/plan", &request_of(&spec)?)?;
            out.show(&plan, print_plan)
        }
        Rollout::List(target) => {
            let all: Vec<RolloutView> = client(&target)?.get("/api/v1/rollouts")?;
            out.show(&all, |all| all.iter().for_each(print))
        }
        Rollout::Show(rollout) => {
            let rollout: RolloutView = client(&rollout.target)?.get(&path(&rollout, ""))?;
            out.show(&rollout, |rollout| {
                print(rollout);
                rollout.telemetry.iter().for_each(telemetry::print_release);
            })
        }
        Rollout::Watch(rollout) => {
            let client = client(&rollout.target)?;
            let found: RolloutView = client.get(&path(&rollout, ""))?;
            out.show(&follow::rollout(&client, found)?, print)
        }
        Rollout::Devices { state, rollout } => {
            let all = devices(&client(&rollout.target)?, &rollout, state.as_deref())?;
            out.show(&all, |all| print_devices(all))
        }
        Rollout::Start(rollout) => order(&rollout, "start", &Json::Null, out),
        Rollout::Approve(rollout) => order(&rollout, "approve", &Json::Null, out),
        Rollout::Reject(rollout) => order(&rollout, "reject", &Json::Null, out),
        Rollout::Pause(rollout) => order(&rollout, "pause", &Json::Null, out),
        Rollout::Resume(rollout) => order(&rollout, "resume", &Json::Null, out),
        Rollout::Rollback(rollout) => order(&rollout, "rollback", &Json::Null, out),
        Rollout::Finish(rollout) => order(&rollout, "finish", &Json::Null, out),
        Rollout::Abort(rollout) => order(&rollout, "abort", &Json::Null, out),
        Rollout::Retry { device, rollout } => order(&rollout, "retry", &RolloutDeviceRequest { device }, out),
        Rollout::Skip { device, rollout } => {
            order(&rollout, "skip", &RolloutDeviceRequest { device: Some(device) }, out)
        }
    }
}

fn path(rollout: &RolloutId, of: &str) -> String {
    format!("/api/v1/rollouts/{}{of}", encode(&rollout.id))
}

fn order<T: Serialize>(rollout: &RolloutId, what: &str, request: &T, out: &Out) -> Done {
    let path = path(rollout, &format!("/{what}"));
    let rollout: RolloutView = client(&rollout.target)?.post(&path, request)?;
    out.show(&rollout, print)
}

fn request_of(spec: &RolloutSpec) -> Result<RolloutRequest, Failure> {
    let some = |texts: &Vec<String>| (!texts.is_empty()).then(|| texts.clone());
    let ms = |at: SystemTime| at.duration_since(SystemTime::UNIX_EPOCH).map(|since| since.as_millis() as u64);
    let starts_at_ms = spec.at.map(ms).transpose();
    let starts_at_ms =
        starts_at_ms.map_err(|_| Failure::new(ErrorCode::InvalidInput, "--at is before 1970".to_owned()))?;
    Ok(RolloutRequest {
        release: spec.release.clone(),
        devices: some(&spec.devices),
        group: spec.group.clone(),
        follows: spec.follows,
        waves: some(&spec.waves),
        soak_s: spec.soak.map(|time| time.as_secs()),
        max_soak_s: spec.max_soak.map(|time| time.as_secs()),
        shadow: spec.shadow.clone().map(|devices| ShadowStageRequest {
            devices,
            soak_s: spec.shadow_for.as_secs(),
            max_soak_s: spec.max_shadow.map(|time| time.as_secs()),
            share_percent: spec.shadow_share,
            differing_percent: spec.differing,
        }),
        max_failures: spec.max_failures.clone(),
        min_decided: spec.min_decided,
        deadline_s: spec.deadline.map(|time| time.as_secs()),
        per_minute: spec.per_minute,
        ramp: spec.ramp.map(|(factor, every, max_per_minute)| RampView { factor, every, max_per_minute }),
        concurrency: spec.concurrency,
        tries: spec.tries,
        retry_wait_s: spec.retry_wait.map(|time| time.as_secs()),
        retry_codes: spec.retry_codes.clone(),
        window: spec.window.clone(),
        window_zone: spec.window_zone.clone(),
        on_stop: (spec.on_stop == OnStop::Hold).then(|| "hold".to_owned()),
        approve_waves: spec.approve_waves,
        priority: spec.priority,
        draft: spec.draft,
        needs_approval: spec.needs_approval,
        starts_at_ms,
    })
}

/// All devices of a rollout that stand like this, page by page.
fn devices(
    client: &Client,
    rollout: &RolloutId,
    state: Option<&str>,
) -> Result<Vec<WaveDeviceView>, Failure> {
    let state = state.map(|state| format!("&state={}", encode(state))).unwrap_or_default();
    let (mut all, mut from) = (Vec::new(), 0);
    loop {
        let page: RolloutDevicePage = client.get(&path(rollout, &format!("/devices?from={from}{state}")))?;
        all.extend(page.devices);
        match page.next {
            Some(next) => from = next,
            None => return Ok(all),
        }
    }
}

fn print_devices(devices: &[WaveDeviceView]) {
    let row = |device: &WaveDeviceView| {
        vec![
            device.id.clone(),
            device.wave.to_string(),
            device.state.clone(),
            device.tries.to_string(),
            device.detail.clone().unwrap_or_default(),
        ]
    };
    table::print(&["DEVICE", "WAVE", "STATE", "TOLD", "WHY"], &devices.iter().map(row).collect::<Vec<_>>());
}

fn print_plan(plan: &RolloutPlanView) {
    let waves: Vec<String> = plan.waves.iter().map(u32::to_string).collect();
    println!("{} {} to {} devices in waves of {}", plan.model, plan.release, plan.devices, waves.join(" + "));
    plan.policy.iter().for_each(|phrase| println!("  {phrase}"));
    for older in &plan.supersedes {
        println!("it would take its devices from {older}, which is under way");
    }
    let row = |found: &ObstacleView| vec![found.device.clone(), found.code.clone(), found.detail.clone()];
    if plan.obstacles.is_empty() {
        println!("nothing stands in the way of any of them");
    } else {
        let rows: Vec<_> = plan.obstacles.iter().map(row).collect();
        table::print(&["DEVICE", "IN THE WAY", "WHY"], &rows);
    }
}

fn print(rollout: &RolloutView) {
    println!("{} {} {} {}", rollout.id, rollout.model, rollout.state, rollout.reason);
    rollout.policy.iter().for_each(|phrase| println!("  {phrase}"));
    if let Some(group) = &rollout.follows {
        println!("  takes in devices that come into group {group}");
    }
    if let Some(newer) = rollout.superseded_by.last() {
        println!("  a newer rollout of the model has begun: {newer}");
    }
    if let Some(stage) = &rollout.shadow {
        println!("  shadow {} on {} devices", stage.state, stage.devices);
        if stage.state == "running" || stage.state == "stopped" {
            print_watch(&stage.watch);
        }
    }
    for (number, wave) in rollout.waves.iter().enumerate() {
        println!("  wave {} {}: {}", number + 1, wave.state, summary(wave));
    }
    if let Some(watch) = &rollout.watch {
        print_watch(watch);
    }
}

fn print_watch(watch: &WatchView) {
    println!(
        "  watch {} to {} s, {} windows of this one are over",
        watch.soak_s, watch.max_soak_s, watch.windows
    );
    print_findings(&watch.findings);
}

/// What each metric says of a release.
pub(super) fn print_findings(findings: &[GateFindingView]) {
    let row = |finding: &GateFindingView| {
        vec![
            finding.metric.clone(),
            finding.verdict.clone(),
            finding.change.clone(),
            finding.devices.to_string(),
            format!("{:.1} of {:.1}", finding.against, finding.against_needed),
            format!("{:.1} of {:.1}", finding.in_favour, finding.in_favour_needed),
        ]
    };
    if !findings.is_empty() {
        let header = ["METRIC", "VERDICT", "WORSE BY", "DEVICES", "EVIDENCE OF HARM", "OF NONE"];
        table::print(&header, &findings.iter().map(row).collect::<Vec<_>>());
    }
}

/// How many devices of a wave stand where, and which, as far as they fit on a line.
fn summary(wave: &WaveView) -> String {
    let WaveCounts { pending, sent, retrying, confirmed, failed, skipped, reverted } = wave.counts;
    let counts = [
        (pending, "pending"),
        (sent, "sent"),
        (retrying, "retrying"),
        (confirmed, "confirmed"),
        (failed, "failed"),
        (skipped, "skipped"),
        (reverted, "reverted"),
    ];
    let counts: Vec<String> = counts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, name)| format!("{count} {name}"))
        .collect();
    let devices: Vec<_> =
        wave.devices.iter().take(NAMED).map(|d| table::line(&format!("{}={}", d.id, d.state))).collect();
    let more = if wave.size as usize > devices.len() { " …" } else { "" };
    match devices.as_slice() {
        [] => counts.join(", "),
        devices => format!("{} ({}{more})", counts.join(", "), devices.join(" ")),
    }
}

//! Rollouts as people see them.

use super::super::api::{
    EvidenceView, GateFindingView, RolloutView, ShadowStageView, WatchView, WaveCounts, WaveDeviceView,
    WaveView,
};
use flotilla_fleet::{
    Evidence, OnStop, Policy, Rollout, RolloutDevice, RolloutState, ShadowStage, Status, Tally, Watch,
    Watched,
};
use flotilla_gates::gate::Finding;
use std::time::Duration;

/// A rollout with some of its devices.
pub(super) fn rollout_view(rollout: &Rollout, tallies: &[Tally], devices: &[RolloutDevice]) -> RolloutView {
    let waves = rollout.waves.iter().zip(0..).map(|(wave, number)| {
        let tally = tallies.get(number as usize).copied().unwrap_or_default();
        let members = devices.iter().filter(|device| device.wave == number);
        WaveView {
            state: wave_state(rollout, number, &tally).to_owned(),
            size: wave.devices,
            counts: counts(&tally),
            devices: members.map(device_view).collect(),
        }
    });
    RolloutView {
        id: rollout.id.to_string(),
        model: rollout.model.to_string(),
        release: rollout.wanted.release.to_string(),
        state: rollout.state.as_str().to_owned(),
        reason: rollout.reason.as_ref().map(|r| r.detail.clone()).unwrap_or_default(),
        waves: waves.collect(),
        started_at_ms: rollout.created_at_ms,
        finished_at_ms: rollout.finished_at_ms,
        telemetry: None,
        watch: rollout.watch.as_ref().map(|watch| watch_view(watch, rollout.watched.as_ref())),
        shadow: rollout.shadow.as_ref().map(|stage| stage_view(rollout, stage)),
        created_by: rollout.created_by.to_string(),
        starts_at_ms: rollout.starts_at_ms,
        policy: policy_words(&rollout.policy),
        follows: rollout.follows.as_ref().map(|group| group.to_string()),
        superseded_by: rollout.superseded_by.iter().map(|id| id.to_string()).collect(),
    }
}

fn wave_state(rollout: &Rollout, wave: u32, tally: &Tally) -> &'static str {
    let max = rollout.waves.get(wave as usize).map_or(0, |wave| wave.max_failures);
    let through = wave < rollout.wave || rollout.state == RolloutState::Succeeded;
    match rollout.state {
        _ if tally.reverted > 0 || tally.failed > max => "failed",
        _ if through => "done",
        RolloutState::Running if wave == rollout.wave && rollout.open_stage().is_none() => "running",
        _ => "waiting",
    }
}

fn counts(tally: &Tally) -> WaveCounts {
    let Tally { pending, sent, retrying, confirmed, failed, skipped, reverted, superseded: _ } = *tally;
    WaveCounts { pending, sent, retrying, confirmed, failed, skipped, reverted }
}

fn stage_view(rollout: &Rollout, stage: &ShadowStage) -> ShadowStageView {
    let watched = stage.watched.as_ref();
    let state = match rollout.state {
        _ if watched.is_some_and(|watched| watched.through) => "done",
        _ if stage.over && watched.is_none() => "skipped",
        RolloutState::Draft | RolloutState::WaitingForApproval | RolloutState::Scheduled => "waiting",
        RolloutState::Running | RolloutState::Paused if !stage.over => "running",
        _ => "stopped",
    };
    ShadowStageView {
        state: state.to_owned(),
        devices: if watched.is_some() { stage.told } else { stage.devices },
        watch: watch_view(&stage.watch, watched),
    }
}

/// A watch, and how far it has come.
pub(super) fn watch_view(watch: &Watch, watched: Option<&Watched>) -> WatchView {
    let findings = watched.and_then(|watched| watched.look.as_ref()).map(|look| look.findings.as_slice());
    WatchView {
        soak_s: watch.soak_ms / 1000,
        max_soak_s: watch.max_soak_ms / 1000,
        since_ms: watched.map(|watched| watched.since_ms),
        windows: watched.map_or(0, |watched| watched.windows),
        findings: findings.unwrap_or_default().iter().map(finding).collect(),
        curve: watched.map(|watched| watched.curve.iter().map(evidence).collect()).unwrap_or_default(),
    }
}

fn evidence(point: &Evidence) -> EvidenceView {
    EvidenceView {
        at_ms: point.at_ms,
        metric: point.metric.as_str().to_owned(),
        against: point.against,
        in_favour: point.in_favour,
    }
}

fn finding(finding: &Finding) -> GateFindingView {
    GateFindingView {
        metric: finding.metric.as_str().to_owned(),
        devices: finding.pairs,
        change: finding.metric.describe(finding.worsening),
        against: finding.against,
        against_needed: finding.against_needed,
        in_favour: finding.in_favour,
        in_favour_needed: finding.in_favour_needed,
        verdict: finding.verdict.as_str().to_owned(),
    }
}

/// A device within a rollout.
pub(super) fn device_view(device: &RolloutDevice) -> WaveDeviceView {
    let detail = match &device.status {
        Status::Failed { code, detail, .. } | Status::Retrying { code, detail, .. } => {
            Some(format!("{detail} [{code}]"))
        }
        Status::Skipped { code, .. } => Some(code.to_string()),
        Status::Reverted { failure: Some(code), .. } => Some(code.to_string()),
        _ => None,
    };
    WaveDeviceView {
        id: device.device.to_string(),
        state: device.status.as_str().to_owned(),
        detail,
        wave: device.wave + 1,
        tries: device.tries,
    }
}

/// How long its waves are watched, in words.
pub(super) fn watch_words(watch: &Watch) -> String {
    let span = |ms: u64| humantime::format_duration(Duration::from_millis(ms)).to_string();
    format!(
        "each wave is watched for {} at least, and asks after {}",
        span(watch.soak_ms),
        span(watch.max_soak_ms)
    )
}

/// The stage before its first wave, in words.
pub(super) fn stage_words(stage: &ShadowStage) -> String {
    let span = |ms: u64| humantime::format_duration(Duration::from_millis(ms)).to_string();
    format!(
        "before the first wave the release runs as a shadow on {} {} for {} at least, and asks after {}",
        stage.devices,
        if stage.devices == 1 { "device" } else { "devices" },
        span(stage.watch.soak_ms),
        span(stage.watch.max_soak_ms)
    )
}

/// How a rollout goes about it, a phrase for each thing that is not as usual.
pub(super) fn policy_words(policy: &Policy) -> Vec<String> {
    let span = |ms: u64| humantime::format_duration(Duration::from_millis(ms)).to_string();
    let pace = &policy.pace;
    let rate = pace.per_minute.map(|rate| format!("at most {rate} devices a minute"));
    let ramp = pace.ramp.as_ref().map(|ramp| {
        format!(
            "times {} for every {} confirmed devices, up to {} a minute",
            ramp.factor, ramp.every, ramp.max_per_minute
        )
    });
    let concurrency = pace.concurrency.map(|most| format!("at most {most} devices under way at a time"));
    let retry = &policy.retry;
    let tries = (retry.tries > 1).then(|| {
        let codes: Vec<&str> = retry.codes.iter().map(|code| code.as_str()).collect();
        let what = if codes.is_empty() { "what may pass".to_owned() } else { codes.join(", ") };
        format!(
            "each device told up to {} times after {what}, at first after {}",
            retry.tries,
            span(retry.wait_ms)
        )
    });
    let window = policy.window.as_ref().map(|window| {
        format!("only {window} on the device's own clock, which is {} where it has none", window.zone)
    });
    let hold =
        (policy.on_stop == OnStop::Hold).then(|| "devices keep what they have if it stops itself".to_owned());
    let approve = policy.approve_waves.then(|| "each further wave waits for an operator".to_owned());
    let priority = (policy.priority > 0).then(|| format!("priority {}", policy.priority));
    [rate, ramp, concurrency, tries, window, hold, approve, priority].into_iter().flatten().collect()
}

//! The stage before the first wave, for those who want one: on some devices the release runs in the shadow of what they
//! have confirmed, on the same inputs, and no application gets an answer of it. What it does worse shows before anybody
//! depends on it.
//!
//! Both releases see the same inputs, so nothing but the release is to blame for a difference: a device is its own
//! partner. What is asked are failures, disagreement and confidence; latency and memory of a shadow, which gives way to
//! everything else on a device, say nothing of the release.

use super::effect::Standing;
use super::health::{self, Follows, Watch, Watched};
use super::planner::{Action, Observation, Observations};
use super::state::{Reason, Rollout, RolloutDevice, RolloutState, Status};
use crate::devices::Twin;
use flotilla_gates::change::{Change, Pair};
use flotilla_gates::gate::{Finding, Health, Look, Verdict};
use flotilla_gates::metric::{Bounds, Metric};
use flotilla_protocol::ErrorCode;
use flotilla_protocol::message::{CONFIDENCE_ONE, ShadowPhase, ShadowReport, ShadowSide, ShadowTelemetry};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Devices of a stage at most.
pub const SHADOWED_MOST: u32 = 1_000;
/// Inputs from which on the shares of a device say something.
const LEAST: u64 = 100;
/// Disagreement is harm once it is so much more than what is tolerated.
const HARM: f64 = 0.15;

/// The stage of a rollout.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShadowStage {
    /// Devices that are to run the release as a shadow.
    pub devices: u32,
    /// Share of their inputs that it is to see, in per mille.
    pub share_per_mille: u32,
    /// How it is watched.
    pub watch: Watch,
    /// Devices that were told when the watch began.
    #[serde(default)]
    pub told: u32,
    /// The watch, once all were told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watched: Option<Watched>,
    /// Whether no device runs the shadow any more.
    #[serde(default)]
    pub over: bool,
}

/// What a device has to do with the stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "shadow")]
pub enum ShadowPart {
    /// Its document names the shadow.
    Told {
        /// The attempt in it.
        attempt: u32,
    },
    /// It runs none: it has no release of the model for one to stand beside, or could not run it.
    Out {
        /// The stable code.
        code: ErrorCode,
    },
    /// It ran one.
    Ended,
}

/// What is known of the shadow on a device.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ShadowSeen {
    /// What the device says of it.
    pub report: Option<ShadowReport>,
    /// How it compares.
    pub figures: Option<ShadowTelemetry>,
    /// When that came, by the cloud's clock.
    pub received_ms: u64,
}

impl ShadowStage {
    /// On so many devices, watched for so long. Tolerates that this share of the answers differs, 0 to 1.
    pub(super) fn new(
        devices: u32,
        share_per_mille: u32,
        soak_ms: u64,
        max_soak_ms: u64,
        differing: Option<f64>,
    ) -> Self {
        let mut metrics: BTreeMap<Metric, Bounds> =
            [Metric::Errors, Metric::Confidence, Metric::Disagreement]
                .into_iter()
                .map(|metric| (metric, metric.default_bounds()))
                .collect();
        if let Some(tolerated) = differing {
            metrics.insert(Metric::Disagreement, Bounds { tolerated, harm: tolerated + HARM });
        }
        let health = Health { metrics, ..Health::default() };
        let watch = Watch { soak_ms, max_soak_ms, health };
        Self { devices, share_per_mille, watch, told: 0, watched: None, over: false }
    }

    fn is_look_due(&self, now_ms: u64) -> bool {
        self.watched.as_ref().is_some_and(|watched| watched.is_due(&self.watch, now_ms))
    }

    /// Whether the release may go on to the first wave.
    pub fn is_through(&self) -> bool {
        self.watched.as_ref().is_some_and(|watched| watched.through)
    }
}

impl RolloutDevice {
    /// Whether its document names the shadow of the rollout.
    pub(super) fn is_shadowed(&self) -> bool {
        matches!(self.shadow.as_deref(), Some(ShadowPart::Told { .. }))
    }
}

impl Rollout {
    /// The stage, while the rollout is in it or devices still run the shadow.
    pub fn open_stage(&self) -> Option<&ShadowStage> {
        self.shadow.as_ref().filter(|stage| !stage.over)
    }

    /// Whether all devices of the stage are to be looked at now.
    pub(super) fn is_stage_due(&self, now_ms: u64) -> bool {
        self.open_stage().is_some_and(|stage| !stage.is_through() && stage.is_look_due(now_ms))
    }

    pub(super) fn watch_stage(&mut self, told: u32, now_ms: u64) {
        if let Some(stage) = &mut self.shadow {
            (stage.told, stage.watched) = (told, Some(Watched::from(now_ms)));
        }
    }

    /// Remembers what was seen of the shadows at the end of a window, and does what follows.
    pub(super) fn look_at_stage(&mut self, look: Look, follows: &Follows, now_ms: u64) {
        if let Some(watched) = self.shadow.as_mut().and_then(|stage| stage.watched.as_mut()) {
            watched.close_window(look, now_ms);
            watched.through = *follows == Follows::Wave;
        }
        self.follow(follows, now_ms);
    }

    pub(super) fn end_stage(&mut self) {
        if let Some(stage) = &mut self.shadow {
            stage.over = true;
        }
    }
}

/// What the stage of a rollout asks for now: first what has become of shadows, then to tell further devices, then to watch;
/// when it is through, or the rollout has stopped, to end the shadows.
pub(super) fn next(
    rollout: &Rollout,
    stage: &ShadowStage,
    devices: &[RolloutDevice],
    observed: &Observations,
    now_ms: u64,
    most: usize,
) -> Vec<Action> {
    if rollout.state != RolloutState::Running || stage.is_through() {
        return ends(devices, most);
    }
    let told = || devices.iter().enumerate().filter(|(_, device)| device.is_shadowed());
    let mut out = Vec::new();
    for (index, device) in told() {
        match observed.get(&device.device).and_then(|seen| became(rollout, device, seen)) {
            Some((code, detail)) if is_fault(code) => return vec![fails(device, code, &detail)],
            Some((code, _)) if out.len() < most => out.push(Action::Unshadow { index, code: Some(code) }),
            _ => {}
        }
    }
    if !out.is_empty() {
        return out;
    }
    let running = told().count();
    let Some(watched) = &stage.watched else {
        return begins(stage, devices, running, most);
    };
    if now_ms < watched.window_ms {
        // A clock that was ahead is right again.
        return vec![Action::WatchStage { told: stage.told }];
    }
    if !stage.is_look_due(now_ms) {
        return Vec::new();
    }
    let shadowed: Vec<&RolloutDevice> = told().map(|(_, device)| device).collect();
    let pairs = pairs(rollout, watched, &shadowed, observed);
    let (look, follows) = look(stage, watched, &pairs, now_ms);
    vec![Action::LookAtStage { look, follows }]
}

/// Tells further devices until there are as many as there are to be, then begins the watch.
fn begins(stage: &ShadowStage, devices: &[RolloutDevice], running: usize, most: usize) -> Vec<Action> {
    let wanted = (stage.devices as usize).saturating_sub(running).min(most);
    let free = |device: &RolloutDevice| device.shadow.is_none() && device.status == Status::Pending;
    let free = devices.iter().enumerate().filter(|(_, device)| free(device));
    let further: Vec<Action> = free.take(wanted).map(|(index, _)| Action::Shadow { index }).collect();
    if !further.is_empty() {
        return further;
    }
    if running > 0 {
        return vec![Action::WatchStage { told: u32::try_from(running).unwrap_or(u32::MAX) }];
    }
    let code = |device: &RolloutDevice| match device.shadow.as_deref() {
        Some(ShadowPart::Out { code }) if *code != ErrorCode::NotFound => Some(*code),
        _ => None,
    };
    match devices.iter().find_map(code) {
        // Nobody has anything that it could be compared with: there is nothing to lose either.
        None => vec![Action::EndStage],
        Some(code) => {
            let detail = format!(
                "no device could run the release as a shadow (the first: {code}): resume, or roll back"
            );
            vec![Action::Ask { reason: Reason { code: ErrorCode::Timeout, detail, device: None } }]
        }
    }
}

fn ends(devices: &[RolloutDevice], most: usize) -> Vec<Action> {
    let told = devices.iter().enumerate().filter(|(_, device)| device.is_shadowed());
    let ends: Vec<Action> =
        told.take(most).map(|(index, _)| Action::Unshadow { index, code: None }).collect();
    if ends.is_empty() { vec![Action::EndStage] } else { ends }
}

/// Why a device runs the shadow no more, if there is news.
fn became(rollout: &Rollout, device: &RolloutDevice, seen: &Observation) -> Option<(ErrorCode, String)> {
    if seen.revoked {
        return Some((ErrorCode::Revoked, String::new()));
    }
    let Some(ShadowPart::Told { attempt }) = device.shadow.as_deref() else { return None };
    let report = seen.shadow.as_ref()?.report.as_ref()?;
    let ours = report.release == rollout.wanted.release && report.attempt == *attempt;
    let failed = ours && report.phase == ShadowPhase::Failed;
    let failure = report.failure.as_ref().filter(|_| failed)?;
    Some((failure.code, failure.detail.clone()))
}

/// Whether the release is to blame, and not the device, its link or its room.
fn is_fault(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::ProbeMismatch
            | ErrorCode::ProbeCrashed
            | ErrorCode::ModelCrashed
            | ErrorCode::ModelUnsupported
    )
}

fn fails(device: &RolloutDevice, code: ErrorCode, detail: &str) -> Action {
    let detail = format!("it failed as a shadow: {detail}");
    Action::Fail { reason: Reason { code, detail, device: Some(device.device.clone()) } }
}

/// Each device's confirmed release and its shadow, for each metric that there are figures of. What came before the present
/// window began is too old.
fn pairs(
    rollout: &Rollout,
    watched: &Watched,
    shadowed: &[&RolloutDevice],
    observed: &Observations,
) -> BTreeMap<Metric, Vec<Pair>> {
    let mut pairs: BTreeMap<Metric, Vec<Pair>> = BTreeMap::new();
    for device in shadowed {
        let Some(seen) = observed.get(&device.device).and_then(|seen| seen.shadow.as_ref()) else { continue };
        let Some(figures) = seen.figures.as_ref().filter(|_| seen.received_ms >= watched.window_ms) else {
            continue;
        };
        if figures.release != Some(rollout.wanted.release) {
            continue;
        }
        for (metric, updated) in changes(figures) {
            pairs.entry(metric).or_default().push(Pair { updated, waiting: None });
        }
    }
    pairs
}

/// From the confirmed release to its shadow.
fn changes(figures: &ShadowTelemetry) -> Vec<(Metric, Change)> {
    let (compared, failed) = (figures.compared, figures.failures);
    let seen = compared.saturating_add(failed);
    let mut changes = Vec::new();
    if seen >= LEAST {
        changes.push((Metric::Errors, Change { before: 0.0, after: failed as f64 / seen as f64 }));
    }
    if compared >= LEAST {
        let differing = compared.saturating_sub(figures.agreed) as f64 / compared as f64;
        changes.push((Metric::Disagreement, Change { before: 0.0, after: differing }));
        let mean = |side: &ShadowSide| side.confidence_sum as f64 / CONFIDENCE_ONE as f64 / compared as f64;
        let change = Change { before: mean(&figures.confirmed), after: mean(&figures.shadow) };
        changes.push((Metric::Confidence, change));
    }
    changes
}

/// What the devices say at the end of a window, and what follows.
fn look(
    stage: &ShadowStage,
    watched: &Watched,
    pairs: &BTreeMap<Metric, Vec<Pair>>,
    now_ms: u64,
) -> (Look, Follows) {
    let health = &stage.watch.health;
    let look = Look::new(health, 1, watched.windows, pairs);
    // A few devices prove nothing; those that say nothing at all prove less.
    let silent = !look.findings.iter().any(|finding| finding.metric == Metric::Disagreement);
    let follows = match look.verdict(health, stage.told) {
        Verdict::Worse => Follows::Stop(look.worse().map(reason).unwrap_or_default()),
        Verdict::Harmless if !silent => match look.alarming(health) {
            Some(finding) => Follows::Pause(alarm(finding)),
            None => Follows::Wave,
        },
        _ if watched.is_last(&stage.watch, now_ms) => Follows::Pause(health::open(&look)),
        _ => Follows::Window,
    };
    (look, follows)
}

fn reason(finding: &Finding) -> String {
    format!(
        "as a shadow the release does worse: {} on {} devices, on the same inputs; evidence {:.1}, needed {:.1}",
        finding.metric.describe(finding.worsening),
        finding.pairs,
        finding.against,
        finding.against_needed
    )
}

fn alarm(finding: &Finding) -> String {
    format!(
        "as a shadow the release does worse ({}), but {} devices are too few to be certain: look at it, then resume or roll back",
        finding.metric.describe(finding.worsening),
        finding.pairs
    )
}

/// Lets the release run beside the confirmed one on a device, if there is one and its place is free.
pub(super) fn shadow(
    rollout: &Rollout,
    device: &mut RolloutDevice,
    twin: Option<&mut Twin>,
    standing: Standing,
    now_ms: u64,
) {
    let (model, wanted) = (&rollout.model, &rollout.wanted);
    let share = rollout.shadow.as_ref().map_or(0, |stage| stage.share_per_mille);
    let runs = twin.as_ref().and_then(|twin| twin.models.get(model)).map(|runs| runs.release);
    let told = match (standing, runs, twin) {
        (Standing::Out(code), ..) => Err(code),
        (Standing::Free, Some(runs), Some(twin)) if runs != wanted.release => {
            if twin.shadows.contains_key(model) {
                Err(ErrorCode::Busy)
            } else {
                twin.shadow(model, wanted.release, wanted.envelope_bytes, share, now_ms)
            }
        }
        _ => Err(ErrorCode::NotFound),
    };
    device.shadow = Some(Box::new(match told {
        Ok(attempt) => ShadowPart::Told { attempt },
        Err(code) => ShadowPart::Out { code },
    }));
}

/// Ends the shadow on a device, if it is still the rollout's.
pub(super) fn unshadow(
    rollout: &Rollout,
    device: &mut RolloutDevice,
    twin: Option<&mut Twin>,
    code: Option<ErrorCode>,
    now_ms: u64,
) {
    if let (Some(twin), Some(ShadowPart::Told { attempt })) = (twin, device.shadow.as_deref()) {
        let ours = |shadow: &flotilla_protocol::message::ShadowRelease| {
            shadow.release == rollout.wanted.release && shadow.attempt == *attempt
        };
        if twin.shadows.get(&rollout.model).is_some_and(ours) {
            twin.unshadow(&rollout.model, now_ms);
        }
    }
    device.shadow = Some(Box::new(match code {
        Some(code) => ShadowPart::Out { code },
        None => ShadowPart::Ended,
    }));
}

#[cfg(test)]
#[path = "stage_tests.rs"]
mod tests;

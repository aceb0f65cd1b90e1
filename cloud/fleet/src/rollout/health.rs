//! The health of a release while a wave is watched: what is remembered of a device when it is updated, and how that
//! compares with what it says afterwards and with a device that still waits.

use super::figures::{Figures, changes};
use super::state::{Rollout, RolloutDevice, RolloutState, Status};
use flotilla_gates::change::Pair;
use flotilla_gates::gate::{Finding, Health, Look, Verdict};
use flotilla_gates::metric::Metric;
use flotilla_protocol::{DeviceId, ErrorCode};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Windows of one wave at most: each is twice as long as the one before.
const WINDOWS: u32 = 16;

/// Points of a curve that are kept: all metrics over all windows.
const CURVE: usize = WINDOWS as usize * Metric::ALL.len();

/// How a wave is watched before the next one begins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Watch {
    /// Length of the first window, in milliseconds: so long a wave is watched at least.
    pub soak_ms: u64,
    /// A wave of which nothing is certain after so long pauses the rollout, in milliseconds.
    pub max_soak_ms: u64,
    /// What is asked.
    pub health: Health,
}

/// How far the watch over a wave has come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Watched {
    /// When all of its devices were decided, in milliseconds since 1970.
    pub since_ms: u64,
    /// When the present window began, in milliseconds since 1970.
    #[serde(default)]
    pub window_ms: u64,
    /// Windows that are over.
    pub windows: u32,
    /// What was seen at the end of the last one.
    #[serde(default)]
    pub look: Option<Look>,
    /// Whether the wave is through: by evidence, or because an operator went on without any.
    #[serde(default)]
    pub through: bool,
    /// What was seen at the end of each window.
    #[serde(default)]
    pub curve: Vec<Evidence>,
}

/// What one metric said at the end of one window, each in shares of what is needed: 1 decides.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// Of which metric.
    pub metric: Metric,
    /// Evidence that the release does worse.
    pub against: f64,
    /// Evidence that it does no harm.
    pub in_favour: f64,
}

impl Evidence {
    fn of(finding: &Finding, at_ms: u64) -> Self {
        let share = |has: f64, needed: f64| if needed > 0.0 { (has / needed).max(0.0) } else { 0.0 };
        Self {
            at_ms,
            metric: finding.metric,
            against: share(finding.against, finding.against_needed),
            in_favour: share(finding.in_favour, finding.in_favour_needed),
        }
    }
}

impl Watched {
    /// A watch that begins now.
    pub(crate) fn from(since_ms: u64) -> Self {
        Self { since_ms, window_ms: since_ms, windows: 0, look: None, through: false, curve: Vec::new() }
    }

    /// When the present window ends: each is twice as long as the one before, as far as the longest watch lets it.
    fn end_ms(&self, watch: &Watch) -> u64 {
        let length_ms = watch.soak_ms.saturating_mul(1 << self.windows.min(WINDOWS));
        let last_ms = self.since_ms.saturating_add(watch.max_soak_ms);
        self.window_ms
            .saturating_add(length_ms)
            .min(last_ms.max(self.window_ms.saturating_add(watch.soak_ms)))
    }

    /// Adds what was seen at the end of a window to the curve.
    fn draw(&mut self, look: &Look, now_ms: u64) {
        self.curve.extend(look.findings.iter().map(|finding| Evidence::of(finding, now_ms)));
        let over = self.curve.len().saturating_sub(CURVE);
        self.curve.drain(..over);
    }

    /// Whether the present window is the last one.
    pub(crate) fn is_last(&self, watch: &Watch, now_ms: u64) -> bool {
        now_ms >= self.since_ms.saturating_add(watch.max_soak_ms) || self.windows + 1 >= WINDOWS
    }

    /// Whether its end has come, or the clock was ahead and is right again.
    pub(crate) fn is_due(&self, watch: &Watch, now_ms: u64) -> bool {
        now_ms < self.window_ms || now_ms >= self.end_ms(watch)
    }

    /// A window is over.
    pub(crate) fn close_window(&mut self, look: Look, now_ms: u64) {
        self.windows += 1;
        self.draw(&look, now_ms);
        self.begin_window(now_ms);
        self.look = Some(look);
    }

    /// What the devices said meanwhile is too old to be looked at: the window begins again.
    pub(crate) fn begin_window(&mut self, now_ms: u64) {
        self.window_ms = now_ms;
    }
}

/// What was known when a device was told to update.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    /// Of the device itself.
    pub own: Figures,
    /// Of a device that waits; none if nobody does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partner: Option<Partner>,
}

/// A device that waits, to compare with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Partner {
    /// The device.
    pub device: DeviceId,
    /// What it said then; nothing if it had said nothing.
    pub figures: Option<Figures>,
}

/// Where in the order of a rollout the device stands that a device is compared with: each has one of a later wave for
/// itself, or none.
pub(super) fn partner(rollout: &Rollout, device: &RolloutDevice) -> Option<usize> {
    let waves = rollout.waves.get(..=device.wave as usize)?;
    let size = waves.last()?.devices;
    let end: u32 = waves.iter().map(|wave| wave.devices).sum();
    let place = device.position.checked_sub(end - size)?;
    usize::try_from(end.checked_add(place)?).ok()
}

/// What follows from a look.
#[derive(Clone, Debug, PartialEq)]
pub enum Follows {
    /// The next window.
    Window,
    /// The next wave.
    Wave,
    /// The release is worse: the rollout fails.
    Stop(String),
    /// Nothing is certain, and the time is up.
    Pause(String),
}

/// What is known of devices now, by device.
pub(super) type Now = BTreeMap<DeviceId, Figures>;

/// What the watch over the present wave asks for at this moment.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// To begin.
    Begin,
    /// To wait for the end of a window.
    Wait,
    /// To look at the devices of the wave.
    Look(Look, Follows),
    /// Nothing more: the wave is through.
    Through,
}

impl Rollout {
    /// Whether the devices of the present wave are to be looked at now.
    pub(super) fn is_look_due(&self, now_ms: u64) -> bool {
        self.watching().is_some_and(|(watch, watched)| watched.is_due(watch, now_ms))
    }

    fn watching(&self) -> Option<(&Watch, &Watched)> {
        let (watch, watched) = self.watch.as_ref().zip(self.watched.as_ref())?;
        (self.state == RolloutState::Running && !watched.through).then_some((watch, watched))
    }
}

/// The next step of the watch over the present wave, all of whose devices are decided.
pub(super) fn step(
    rollout: &Rollout,
    watch: &Watch,
    devices: &[RolloutDevice],
    now: &Now,
    now_ms: u64,
) -> Step {
    let Some(watched) = &rollout.watched else { return Step::Begin };
    if watched.through {
        return Step::Through;
    }
    // A clock that was ahead is right again.
    if now_ms < watched.window_ms {
        return Step::Begin;
    }
    if now_ms < watched.end_ms(watch) {
        return Step::Wait;
    }
    let wave: Vec<&RolloutDevice> = devices.iter().filter(|device| device.wave == rollout.wave).collect();
    let pairs = pairs(rollout, watched, &wave, now);
    let look = Look::new(&watch.health, rollout.waves.len(), watched.windows, &pairs);
    let size = rollout.waves.get(rollout.wave as usize).map_or(0, |wave| wave.devices);
    let beside =
        wave.iter().any(|device| device.baseline.as_ref().is_some_and(|known| known.partner.is_some()));
    let follows = match look.verdict(&watch.health, size) {
        Verdict::Worse if beside => Follows::Stop(look.worse().map(reason).unwrap_or_default()),
        Verdict::Worse => Follows::Pause(alarm(look.worse(), "nobody waits any more to compare them with")),
        Verdict::Harmless => match look.alarming(&watch.health) {
            Some(finding) => Follows::Pause(alarm(Some(finding), "they are too few to be certain")),
            None => Follows::Wave,
        },
        Verdict::Open if watched.is_last(watch, now_ms) => Follows::Pause(open(&look)),
        Verdict::Open => Follows::Window,
    };
    Step::Look(look, follows)
}

fn alarm(finding: Option<&Finding>, but: &str) -> String {
    let what = finding.map(|finding| finding.metric.describe(finding.worsening)).unwrap_or_default();
    format!("devices with the release do worse ({what}), but {but}: look at it, then resume or roll back")
}

fn reason(finding: &Finding) -> String {
    format!(
        "the release does worse: {} on {} devices, beside others that were not updated; evidence {:.1}, needed {:.1}",
        finding.metric.describe(finding.worsening),
        finding.pairs,
        finding.against,
        finding.against_needed
    )
}

/// What is not certain at the end of the last window.
pub(super) fn open(look: &Look) -> String {
    let open = look.findings.iter().filter(|finding| finding.verdict == Verdict::Open);
    let names: Vec<&str> = open.map(|finding| finding.metric.as_str()).collect();
    let of =
        if names.is_empty() { "too few devices have said anything".to_owned() } else { names.join(", ") };
    format!(
        "the time is up, and whether the release does harm is not certain ({of}): look at it, then resume or roll back"
    )
}

/// The code of a rollout that its gate has stopped.
pub(super) const WORSE: ErrorCode = ErrorCode::ProbationFailed;

/// Each confirmed device of the wave beside its partner, for each metric that both have figures of. What either said before
/// the present window began is too old; one that ran the release before it was told to shows no change.
fn pairs(
    rollout: &Rollout,
    watched: &Watched,
    wave: &[&RolloutDevice],
    now: &Now,
) -> BTreeMap<Metric, Vec<Pair>> {
    let mut pairs: BTreeMap<Metric, Vec<Pair>> = BTreeMap::new();
    let wanted = Some(rollout.wanted.release);
    let fresh =
        |device: &DeviceId| now.get(device).filter(|figures| figures.received_ms >= watched.window_ms);
    let anybody =
        wave.iter().any(|device| device.baseline.as_ref().is_some_and(|known| known.partner.is_some()));
    for device in wave {
        let (Status::Confirmed { .. }, Some(baseline)) = (&device.status, &device.baseline) else { continue };
        let Some(after) = fresh(&device.device).filter(|figures| figures.release == wanted) else { continue };
        if baseline.own.release == wanted {
            continue;
        }
        let updated = changes(&baseline.own, Some(after), after.restarts(&baseline.own));
        let waiting = match &baseline.partner {
            Some(Partner { device, figures: Some(before) }) if before.release != wanted => {
                let Some(after) = fresh(device).filter(|after| after.release == before.release) else {
                    continue;
                };
                Some(changes(before, after.since(before).as_ref(), after.restarts(before)))
            }
            None if !anybody => None,
            _ => continue,
        };
        for (metric, updated) in updated {
            let waiting = match &waiting {
                None => None,
                Some(of) => match of.get(&metric) {
                    Some(change) => Some(*change),
                    None => continue,
                },
            };
            pairs.entry(metric).or_default().push(Pair { updated, waiting });
        }
    }
    pairs
}

#[cfg(test)]
#[path = "health_tests.rs"]
mod tests;

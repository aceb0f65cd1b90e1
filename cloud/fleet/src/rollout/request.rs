//! What is asked for when a rollout is started, and what that means where nothing is said.

use super::health::Watch;
use super::policy::{Policy, Tolerance};
use super::stage::{SHADOWED_MOST, ShadowStage};
use super::state::WaveSpec;
use crate::error::{Error, Result};
use flotilla_gates::gate::Health;
use flotilla_protocol::{DeviceId, Digest, GroupName, ModelName};
use serde::{Deserialize, Serialize};

/// How long a device may take beside its probation, unless the operator says otherwise.
const DEADLINE_S: u64 = 30 * 60;
/// The longest that an operator may say: 90 days.
const DEADLINE_MAX_S: u64 = 90 * 24 * 60 * 60;
/// The longest watch over one wave: 30 days.
const SOAK_MAX_S: u64 = 30 * 24 * 60 * 60;
/// From so many devices on, a rollout of which nothing else is said is watched: fewer prove nothing.
pub const WATCHED_FLEET: usize = 100;
/// For so long at least, in seconds: what begins to drift within two hours is seen before the next wave.
pub const SOAK_S: u64 = 3 * 60 * 60;
/// The furthest ahead that a rollout may be scheduled: a year.
const AHEAD_MAX_MS: u64 = 366 * 24 * 60 * 60 * 1000;

/// A stage before the first wave in which the release runs as a shadow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShadowRequest {
    /// On how many devices.
    pub devices: WaveSpec,
    /// For how long at least, in seconds.
    pub soak_s: u64,
    /// After how long it asks if nothing is certain, in seconds; eight times the shortest watch where nothing is said.
    #[serde(default)]
    pub max_soak_s: Option<u64>,
    /// Of a hundred inputs so many are seen by it, too; all of them where nothing is said.
    #[serde(default)]
    pub share_percent: Option<u8>,
    /// Of a hundred answers so many may differ; 5 where nothing is said.
    #[serde(default)]
    pub differing_percent: Option<u8>,
}

impl ShadowRequest {
    /// The stage of a rollout to so many devices; at least one of them, and at most [`SHADOWED_MOST`].
    fn stage(&self, devices: usize) -> Result<ShadowStage> {
        let bad = |what: &str| Err(Error::Invalid(format!("the shadow stage: {what}")));
        let share = self.share_percent.unwrap_or(100);
        if !(1..=100).contains(&share) {
            return bad("1 to 100 of a hundred inputs are seen by a shadow");
        }
        if self.differing_percent.is_some_and(|percent| percent > 50) {
            return bad("0 to 50 of a hundred answers may differ");
        }
        let Some(watch) = watch(Some(self.soak_s), self.max_soak_s)? else {
            return bad("a stage that takes no time shows nothing: soak_s is 1 or more");
        };
        let all = u32::try_from(devices).unwrap_or(u32::MAX);
        let asked = match self.devices {
            WaveSpec::Devices(devices) => devices,
            WaveSpec::Percent(percent) => (u64::from(all) * u64::from(percent)).div_ceil(100) as u32,
            WaveSpec::Rest => all,
        };
        let devices = asked.min(all).clamp(1, SHADOWED_MOST);
        let differing = self.differing_percent.map(|percent| f64::from(percent) / 100.0);
        Ok(ShadowStage::new(devices, u32::from(share) * 10, watch.soak_ms, watch.max_soak_ms, differing))
    }
}

/// What is to be rolled out, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RolloutRequest {
    /// The model.
    pub model: ModelName,
    /// The release; the newest where none is named.
    #[serde(default)]
    pub release: Option<Digest>,
    /// The devices; every active one where none are named.
    #[serde(default)]
    pub devices: Option<Vec<DeviceId>>,
    /// The devices of this group instead, as they are when the rollout starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupName>,
    /// Whether devices that come into the group later are taken in.
    #[serde(default)]
    pub follows: bool,
    /// The waves; one canary and then the rest where none are named.
    #[serde(default)]
    pub waves: Option<Vec<WaveSpec>>,
    /// How many failures each wave tolerates; none in the first, a tenth in the others, where nothing is said.
    #[serde(default)]
    pub tolerance: Option<Tolerance>,
    /// How long a device may take, in seconds; its probation and half an hour where nothing is said.
    #[serde(default)]
    pub deadline_s: Option<u64>,
    /// How long a wave is watched at least before the next one begins, in seconds; not at all if that is none. Where
    /// nothing is said, and no waves are named either, a fleet of [`WATCHED_FLEET`] is watched for [`SOAK_S`].
    #[serde(default)]
    pub soak_s: Option<u64>,
    /// After how long a wave of which nothing is certain pauses the rollout, in seconds; eight times the shortest watch
    /// where nothing is said.
    #[serde(default)]
    pub max_soak_s: Option<u64>,
    /// The stage before the first wave; none where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<ShadowRequest>,
    /// How it goes about it.
    #[serde(default)]
    pub policy: Policy,
    /// Whether it waits to be started.
    #[serde(default)]
    pub draft: bool,
    /// Whether somebody has to approve it before it begins.
    #[serde(default)]
    pub needs_approval: bool,
    /// When it begins, in milliseconds since 1970; at once where nothing is said.
    #[serde(default)]
    pub starts_at_ms: Option<u64>,
}

impl RolloutRequest {
    /// The newest release of a model to every active device, one canary first.
    pub fn newest(model: ModelName) -> Self {
        Self {
            model,
            release: None,
            devices: None,
            group: None,
            follows: false,
            waves: None,
            tolerance: None,
            deadline_s: None,
            soak_s: None,
            max_soak_s: None,
            shadow: None,
            policy: Policy::default(),
            draft: false,
            needs_approval: false,
            starts_at_ms: None,
        }
    }

    /// Refuses what cannot be meant.
    pub(super) fn check(&self, now_ms: u64) -> Result<()> {
        self.policy.check()?;
        watch(self.soak_s, self.max_soak_s)?;
        if self.follows && self.group.is_none() {
            return Err(Error::Invalid("who comes later is taken into a group: name one".into()));
        }
        if self.starts_at_ms.is_some_and(|at| at > now_ms.saturating_add(AHEAD_MAX_MS)) {
            return Err(Error::Invalid("a rollout begins within a year".into()));
        }
        Ok(())
    }

    /// How the waves of so many devices are watched.
    pub(super) fn watch(&self, devices: usize) -> Result<Option<Watch>> {
        watch(self.soak(devices), self.max_soak_s)
    }

    /// The stage before the first wave.
    pub(super) fn stage(&self, devices: usize) -> Result<Option<ShadowStage>> {
        self.shadow.as_ref().map(|shadow| shadow.stage(devices)).transpose()
    }

    /// How long they are watched at least, in seconds.
    fn soak(&self, devices: usize) -> Option<u64> {
        let usual = (self.waves.is_none() && devices >= WATCHED_FLEET).then_some(SOAK_S);
        self.soak_s.or(usual)
    }

    /// How long a device may take, in milliseconds.
    pub(super) fn deadline_ms(&self, longest_probation_s: u64) -> Result<u64> {
        let usual_s = (DEADLINE_S + longest_probation_s).min(DEADLINE_MAX_S);
        let deadline_s = self.deadline_s.unwrap_or(usual_s);
        if !(1..=DEADLINE_MAX_S).contains(&deadline_s) {
            return Err(Error::Invalid(format!(
                "a deadline is 1 to {DEADLINE_MAX_S} seconds, not {deadline_s}"
            )));
        }
        Ok(deadline_s * 1000)
    }

    /// The waves that are asked for.
    pub(super) fn waves(&self, devices: usize) -> Vec<WaveSpec> {
        let is_watched = self.soak(devices).is_some_and(|soak| soak > 0);
        self.waves.clone().unwrap_or_else(|| default_waves(is_watched, devices))
    }
}

/// One device and then the rest. Where waves are watched, the second and third are large enough to show something.
fn default_waves(watched: bool, devices: usize) -> Vec<WaveSpec> {
    let least = Health::default().min_devices;
    let share = |percent: usize| u32::try_from(devices * percent / 100).unwrap_or(u32::MAX).max(least);
    let mut waves = vec![WaveSpec::Devices(1)];
    if watched {
        waves.extend([WaveSpec::Devices(share(4)), WaveSpec::Devices(share(20))]);
    }
    waves.push(WaveSpec::Rest);
    waves
}

/// How waves are watched, if they are.
pub(crate) fn watch(soak_s: Option<u64>, max_soak_s: Option<u64>) -> Result<Option<Watch>> {
    let Some(soak_s) = soak_s.filter(|soak| *soak > 0) else {
        return match max_soak_s {
            None => Ok(None),
            Some(_) => Err(Error::Invalid("a longest watch needs a shortest one: soak_s".into())),
        };
    };
    let max_soak_s = max_soak_s.unwrap_or_else(|| soak_s.saturating_mul(8).min(SOAK_MAX_S));
    if !(1..=SOAK_MAX_S).contains(&soak_s) || !(soak_s..=SOAK_MAX_S).contains(&max_soak_s) {
        return Err(Error::Invalid(format!(
            "a wave is watched for 1 to {SOAK_MAX_S} seconds, at most for as long as at least: not {soak_s} to {max_soak_s}"
        )));
    }
    Ok(Some(Watch { soak_ms: soak_s * 1000, max_soak_ms: max_soak_s * 1000, health: Health::default() }))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_fleet_that_can_prove_something_is_watched_unless_something_else_is_said() {
        let usual = RolloutRequest::newest("digits".parse().unwrap());
        let watched = |request: &RolloutRequest, devices| {
            let watch = request.watch(devices).unwrap();
            (watch.map(|watch| watch.soak_ms / 1000), request.waves(devices).len())
        };
        assert_eq!(watched(&usual, 99), (None, 2));
        assert_eq!(watched(&usual, 100), (Some(SOAK_S), 4));
        assert_eq!(watched(&RolloutRequest { soak_s: Some(0), ..usual.clone() }, 10_000), (None, 2));
        assert_eq!(watched(&RolloutRequest { soak_s: Some(60), ..usual.clone() }, 10), (Some(60), 4));
        let named = RolloutRequest { waves: Some(vec![WaveSpec::Rest]), ..usual };
        assert_eq!(watched(&named, 10_000), (None, 1));
    }
}

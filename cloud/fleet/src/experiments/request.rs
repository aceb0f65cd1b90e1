//! What is asked for when an experiment is started, and what is refused.

use super::state::Winner;
use crate::error::{Error, Result};
use crate::rollout::{Watch, watch_for};
use flotilla_gates::gate::Health;
use flotilla_gates::metric::{Bounds, Metric};
use flotilla_protocol::{Digest, GroupName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The shortest comparison where nothing is said, in seconds.
const SOAK_S: u64 = 30 * 60;
/// The longest where nothing is said, in seconds.
const MAX_SOAK_S: u64 = 24 * 60 * 60;
/// Bytes of a name.
const NAME: usize = 64;

/// What is to be compared, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct ExperimentRequest {
    /// The release that stays where there is no difference that matters.
    pub a: Digest,
    /// The release that is tried.
    pub b: Digest,
    /// On whose devices.
    pub members: Members,
    /// So many of a hundred devices run B.
    pub share: u8,
    /// How long both are compared at least, in seconds; half an hour where nothing is said.
    pub soak_s: Option<u64>,
    /// When it ends without evidence, in seconds; a day where nothing is said, or the shortest comparison if that is longer.
    pub max_soak_s: Option<u64>,
    /// What is compared; errors, latency, memory, drift and confidence where nothing is named.
    pub metrics: BTreeMap<Metric, Bounds>,
    /// Who decides.
    pub winner: Winner,
    /// What people call it.
    pub name: String,
}

/// Whose devices take part, as they are when the experiment starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Members {
    /// Every one that takes rollouts.
    All,
    /// Those of a group.
    Group(GroupName),
    /// Those that an expression is true of.
    Where(String),
}

impl ExperimentRequest {
    /// Half of all devices, asked for as usual.
    pub fn of(a: Digest, b: Digest) -> Self {
        Self {
            a,
            b,
            members: Members::All,
            share: 50,
            soak_s: None,
            max_soak_s: None,
            metrics: BTreeMap::new(),
            winner: Winner::Ask,
            name: String::new(),
        }
    }

    /// Refuses what cannot be meant; otherwise how the halves are compared.
    pub(super) fn check(&self) -> Result<Watch> {
        if self.a == self.b {
            return Err(Error::Invalid("an experiment compares two releases: a and b are the same".into()));
        }
        if !(1..=99).contains(&self.share) {
            return Err(Error::Invalid(format!(
                "the share of devices that run b is 1 to 99 of a hundred, not {}",
                self.share
            )));
        }
        if self.name.len() > NAME || self.name.chars().any(char::is_control) {
            return Err(Error::Invalid(format!("a name is one line of up to {NAME} bytes")));
        }
        let usual = Health::default();
        for (metric, bounds) in &self.metrics {
            if !usual.metrics.contains_key(metric) {
                let known: Vec<&str> = usual.metrics.keys().map(|metric| metric.as_str()).collect();
                return Err(Error::Invalid(format!(
                    "{} is not compared in an experiment: name one of {}",
                    metric.as_str(),
                    known.join(", ")
                )));
            }
            if !bounds.is_valid() {
                return Err(Error::Invalid(format!(
                    "the bounds of {} mean nothing: what is tolerated is 0 or more, harm is more than that",
                    metric.as_str()
                )));
            }
        }
        let soak_s = self.soak_s.unwrap_or(SOAK_S);
        let max_soak_s = self.max_soak_s.unwrap_or(MAX_SOAK_S.max(soak_s));
        let watch = watch_for(Some(soak_s), Some(max_soak_s))?
            .ok_or_else(|| Error::Invalid("an experiment compares for a second at least: soak".into()))?;
        let metrics = if self.metrics.is_empty() { usual.metrics.clone() } else { self.metrics.clone() };
        Ok(Watch { health: Health { metrics, ..usual }, ..watch })
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let usual = ExperimentRequest::of(Digest::of(b"a"), Digest::of(b"b"));
        let watch = usual.check().unwrap();
        assert_eq!((watch.soak_ms, watch.max_soak_ms), (1_800_000, 86_400_000));
        assert_eq!(watch.health, Health::default());
        let named = BTreeMap::from([(Metric::Errors, Metric::Errors.default_bounds())]);
        let errors = ExperimentRequest { metrics: named.clone(), ..usual.clone() }.check().unwrap();
        assert_eq!(errors.health.metrics, named);
        let backwards = Bounds { tolerated: 0.2, harm: 0.1 };
        for refused in [
            ExperimentRequest { b: usual.a, ..usual.clone() },
            ExperimentRequest { share: 0, ..usual.clone() },
            ExperimentRequest { share: 100, ..usual.clone() },
            ExperimentRequest { name: "x".repeat(65), ..usual.clone() },
            ExperimentRequest { name: "two\nlines".into(), ..usual.clone() },
            ExperimentRequest { soak_s: Some(0), ..usual.clone() },
            ExperimentRequest { soak_s: Some(60), max_soak_s: Some(59), ..usual.clone() },
            ExperimentRequest { max_soak_s: Some(u64::MAX), ..usual.clone() },
            ExperimentRequest { metrics: [(Metric::Errors, backwards)].into(), ..usual.clone() },
            ExperimentRequest {
                metrics: [(Metric::Disagreement, Metric::Disagreement.default_bounds())].into(),
                ..usual.clone()
            },
        ] {
            assert!(matches!(refused.check(), Err(Error::Invalid(_))), "{refused:?}");
        }
    }
}

//! Hard examples: inputs that a model was not sure of, which a device may send to the cloud together with what the model
//! said.
//!
//! A device keeps and sends nothing unless its desired document names a policy for the model: that is the consent. What
//! it sends travels as [`super::Upload`]s: first an offer that names digest, size and [`HardExample`] without any bytes;
//! the cloud answers [`super::ReplyBody::Stored`] with how many bytes it holds durably, and the device goes on from
//! there. So a broken upload resumes, and what the cloud knows already costs no bytes.

use crate::{DatasetName, Digest, ErrorCode, ModelName, limits};
use serde::{Deserialize, Serialize};

/// What a device may keep and send of one model's inputs. Everything is off by default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HardExamples {
    /// Inputs whose best score is below so many thousandths.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confidence_below_per_mille: Option<u16>,
    /// Inputs whose best two scores are less than so many thousandths apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub margin_below_per_mille: Option<u16>,
    /// Inputs on which a release in the shadow says another label.
    pub shadow_disagreement: bool,
    /// Any inputs at random: so many of a million.
    pub audit_per_million: u32,
    /// Bytes that may be sent on one day (UTC); 0 keeps and sends nothing.
    pub daily_bytes: u64,
    /// The dataset that accepted ones are meant for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dataset: Option<DatasetName>,
}

/// Why a policy is not acceptable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHardExamples {
    /// A threshold that nothing, or everything, is below.
    #[error("{what} is {got}; 1 to 1000 thousandths are possible, and without it there is no such threshold")]
    PerMille {
        /// Which.
        what: &'static str,
        /// What was given.
        got: u16,
    },
    /// More than all.
    #[error("audit_per_million is {0}; 0 to 1000000 are possible")]
    Audit(u32),
    /// More than a device's link is for.
    #[error("daily_bytes is {0}; 0 to {max} are possible", max = limits::HARD_DAILY_BYTES)]
    Budget(u64),
}

impl HardExamples {
    /// Checks what an operator asks for.
    pub fn check(&self) -> Result<(), InvalidHardExamples> {
        let thresholds = [
            ("confidence_below_per_mille", self.confidence_below_per_mille),
            ("margin_below_per_mille", self.margin_below_per_mille),
        ];
        for (what, got) in thresholds {
            if let Some(got) = got.filter(|got| !(1..=1000).contains(got)) {
                return Err(InvalidHardExamples::PerMille { what, got });
            }
        }
        if self.audit_per_million > 1_000_000 {
            return Err(InvalidHardExamples::Audit(self.audit_per_million));
        }
        if self.daily_bytes > limits::HARD_DAILY_BYTES {
            return Err(InvalidHardExamples::Budget(self.daily_bytes));
        }
        Ok(())
    }
}

/// Why an input was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HardReason {
    /// A release in the shadow said another label.
    Disagreement,
    /// The best score was low.
    Confidence,
    /// The best two scores were close.
    Margin,
    /// Drawn at random.
    Audit,
    /// A reason of a newer version.
    #[serde(other)]
    Unknown,
}

impl HardReason {
    /// The stable text.
    pub fn as_str(self) -> &'static str {
        match self {
            HardReason::Disagreement => "disagreement",
            HardReason::Confidence => "confidence",
            HardReason::Margin => "margin",
            HardReason::Audit => "audit",
            HardReason::Unknown => "unknown",
        }
    }
}

/// What a model said of an input that was kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HardExample {
    /// The model.
    pub model: ModelName,
    /// Its release.
    pub release: Digest,
    /// Why the input was kept.
    pub reason: HardReason,
    /// The label that was answered.
    pub label: String,
    /// Its index.
    pub label_index: u32,
    /// Its score.
    pub score: f32,
    /// By how much it was ahead of the next label.
    pub margin: f32,
    /// When, by the device's clock, in milliseconds since 1970.
    pub at_ms: u64,
}

impl HardExample {
    /// Checks the bounds.
    pub fn check(&self) -> Result<(), ErrorCode> {
        if self.label.len() > limits::LABEL {
            return Err(ErrorCode::TooLarge);
        }
        let finite = self.score.is_finite() && self.margin.is_finite();
        if finite { Ok(()) } else { Err(ErrorCode::InvalidInput) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_that_means_nothing_possible_is_named() {
        let policy = HardExamples::default;
        assert_eq!(policy().check(), Ok(()), "off");
        let all = HardExamples {
            confidence_below_per_mille: Some(1000),
            margin_below_per_mille: Some(1),
            shadow_disagreement: true,
            audit_per_million: 1_000_000,
            daily_bytes: limits::HARD_DAILY_BYTES,
            ..policy()
        };
        assert_eq!(all.check(), Ok(()));
        for (bad, word) in [
            (HardExamples { confidence_below_per_mille: Some(0), ..policy() }, "confidence"),
            (HardExamples { margin_below_per_mille: Some(1001), ..policy() }, "1001"),
            (HardExamples { audit_per_million: 1_000_001, ..policy() }, "audit"),
            (HardExamples { daily_bytes: u64::MAX, ..policy() }, "daily_bytes"),
        ] {
            assert!(bad.check().is_err_and(|e| e.to_string().contains(word)), "{bad:?}");
        }
    }
}

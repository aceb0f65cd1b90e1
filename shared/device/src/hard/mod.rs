//! Hard examples: which inputs a device keeps for the cloud, and how much of them; [`crate::upload`] gets them there.
//!
//! - here: whether an input is one ([`decide`], [`wants_disagreements`]);
//! - [`ledger`]: what was kept and sent today, so that no budget is exceeded;
//! - [`shelf`]: which of those kept give way to better ones, and which goes next;
//! - [`stored`]: one of them as a file.

pub mod ledger;
pub mod shelf;
pub mod stored;

#[cfg(test)]
mod tests;

use flotilla_protocol::message::{HardExamples, HardReason};

/// By how much the score at `best` is ahead of the highest of the others; its own height if there is no other.
pub fn margin(scores: &[f32], best: usize) -> f32 {
    let score = scores.get(best).copied().unwrap_or(0.0);
    let others = scores.iter().enumerate().filter(|(index, _)| *index != best);
    score - others.map(|(_, score)| *score).reduce(f32::max).unwrap_or(0.0)
}

/// Why an input is to be kept as soon as it is answered, if it is; `random` is a fresh random value. Asked once an input: a
/// second draw would fill the audit's sample with what is asked twice.
pub fn decide(policy: &HardExamples, score: f32, margin: f32, random: u64) -> Option<HardReason> {
    if policy.daily_bytes == 0 {
        return None;
    }
    let below = |value: f32, per_mille: Option<u16>| {
        per_mille.is_some_and(|per_mille| f64::from(value) * 1_000.0 < f64::from(per_mille))
    };
    if below(score, policy.confidence_below_per_mille) {
        Some(HardReason::Confidence)
    } else if below(margin, policy.margin_below_per_mille) {
        Some(HardReason::Margin)
    } else if random % 1_000_000 < u64::from(policy.audit_per_million) {
        Some(HardReason::Audit)
    } else {
        None
    }
}

/// Whether inputs to which a release in the shadow has another answer are to be kept.
pub fn wants_disagreements(policy: &HardExamples) -> bool {
    policy.shadow_disagreement && policy.daily_bytes > 0
}

/// What an example is worth beside others: two models that disagree know more than one that doubts, and either more than
/// chance.
pub fn worth(reason: HardReason) -> u8 {
    match reason {
        HardReason::Disagreement => 3,
        HardReason::Confidence | HardReason::Margin => 2,
        HardReason::Audit => 1,
        HardReason::Unknown => 0,
    }
}

//! Probation: what is measured of a candidate that serves, and when it is too much.
//!
//! Errors and latency are the candidate's own. Memory and temperature are the device's, so they are compared with
//! what they were when the candidate had just been loaded, and must stay too high for some looks in a row.

use super::event::{Context, Health, Vitals};
use super::journal::Candidate;
use super::machine::MIN_PREDICTIONS;

/// Looks in a row at which memory or temperature must be too high.
const LOOKS: u32 = 3;
/// Degrees by which a candidate must have heated the device up before its temperature counts against it.
const HEATING_C: u32 = 5;
/// A candidate without a promise may take so many times the latency that its probe measured,
const LATENCY_FACTOR: f64 = 10.0;
/// and so much beside it, in microseconds: the probe had the device to itself.
const LATENCY_SLACK_US: f64 = 50_000.0;

/// What was seen of a candidate since it was loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Watch {
    /// At the first look.
    pub(super) first: Option<Vitals>,
    /// Looks in a row at which something was too high.
    high: u32,
}

/// What a look at a candidate tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing is wrong.
    Well,
    /// Something is, but not for long enough.
    Doubtful,
    /// It has to go, for this reason.
    Ill(String),
}

impl Watch {
    /// Whether something was too high at the last look.
    pub(super) fn is_doubtful(&self) -> bool {
        self.high > 0
    }

    /// One look. `ended` says that the time of probation is over, so that few predictions count, too.
    pub(super) fn look(
        &mut self,
        candidate: &Candidate,
        health: &Health,
        ctx: &Context,
        ended: bool,
    ) -> Verdict {
        let total = health.predictions.saturating_add(health.failures);
        let enough = ended || total >= MIN_PREDICTIONS;
        let own = errors(health, total, ctx).or_else(|| latency(candidate, health));
        if let Some(why) = own.filter(|_| enough) {
            return Verdict::Ill(why);
        }
        let first = *self.first.get_or_insert(health.vitals);
        let Some(why) = memory(candidate, first, health, ctx).or_else(|| heat(first, health, ctx)) else {
            self.high = 0;
            return Verdict::Well;
        };
        self.high += 1;
        if self.high < LOOKS { Verdict::Doubtful } else { Verdict::Ill(why) }
    }
}

fn errors(health: &Health, total: u64, ctx: &Context) -> Option<String> {
    let permitted = u128::from(total) * u128::from(ctx.probation_error_per_mille);
    let over = u128::from(health.failures) * 1_000 > permitted;
    over.then(|| format!("{} of {total} predictions failed on probation", health.failures))
}

fn latency(candidate: &Candidate, health: &Health) -> Option<String> {
    let limit_us = match (candidate.promise.latency_us, &candidate.probe) {
        (0, None) => return None,
        (0, Some(probe)) => (probe.p95_ms * 1_000.0 * LATENCY_FACTOR + LATENCY_SLACK_US) as u64,
        (promised, _) => promised,
    };
    let p95_us = health.p95_us.filter(|p95_us| *p95_us > limit_us)?;
    Some(format!(
        "predictions on probation take {p95_us} us and more (95th percentile), {limit_us} are permitted"
    ))
}

fn memory(candidate: &Candidate, first: Vitals, health: &Health, ctx: &Context) -> Option<String> {
    let limit = match candidate.promise.memory_bytes {
        0 => ctx.memory_bytes,
        promised => promised,
    };
    let grown = health.vitals.memory_bytes?.checked_sub(first.memory_bytes?)?;
    (grown > limit)
        .then(|| format!("the agent's memory grew by {grown} bytes on probation, {limit} are permitted"))
}

fn heat(first: Vitals, health: &Health, ctx: &Context) -> Option<String> {
    let now_c = health.vitals.temperature_c.filter(|now_c| *now_c > ctx.temperature_c)?;
    let before_c = first.temperature_c.filter(|before_c| now_c >= before_c.saturating_add(HEATING_C))?;
    let limit_c = ctx.temperature_c;
    Some(format!(
        "the device heated up from {before_c} to {now_c} degrees on probation, {limit_c} are permitted"
    ))
}

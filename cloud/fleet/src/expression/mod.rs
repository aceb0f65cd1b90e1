//! Expressions over devices: the one language of search, dynamic groups and orders for many devices.
//!
//! The language is CEL (the Common Expression Language), read by the crate `cel`. What is read is checked against the
//! variables below once, and then asked of each device by an evaluation of our own, which reads a row of the roster
//! where it lies: it allocates nothing and answers for 100,000 devices in milliseconds.
//!
//! | variable | what it is |
//! | --- | --- |
//! | `id`, `name` | texts; a device without a name has none |
//! | `state` | text: `revoked`, `decommissioned` (search leaves those out unless the filter names this state), `quarantined`, or the phase of the model that is worst off |
//! | `online` | whether it is connected now |
//! | `seen_s`, `enrolled_s` | seconds since it was last heard of, since it enrolled |
//! | `board`, `arch`, `os`, `agent` | texts that the device reports; `agent` is the version of its agent |
//! | `engines` | list of texts that the device reports |
//! | `cpus`, `memory`, `trust` | numbers that the device reports: logical CPUs, bytes, version of its trust file |
//! | `labels` | list of texts that operators gave it |
//! | `attributes` | map of texts that operators gave it: `attributes.site`, `attributes["rack-no"]` |
//! | `groups` | asked by `"NAME" in groups` only; not in the expression of a group |
//! | `models` | map by model name: `models.digits.phase`, with `release` and `wanted` (digests of the confirmed and the wanted release), `version` and `wanted_version`, `phase`, `confirmed` (whether the wanted release is the confirmed one), `failure` (code), `drift`, `predictions`, `failures`, `p95_ms` |
//! | `telemetry` | the last sample: `cpu` (per cent), `memory_used`, `memory_free`, `disk_free`, `agent_memory` (bytes), `temperature` (degrees Celsius), `throttled`, `uptime_s`, `age_s` (seconds since it came) |
//!
//! There are `== != < <= > >= && || ! + - * / % ?: in`, `has(…)`, `size(…)`, `startsWith`, `endsWith`, `contains` of
//! texts, and `exists`, `all`, `exists_one` over lists and over the keys of maps:
//! `models.exists(m, models[m].phase == "failed")`.
//!
//! **What a device lacks** is no error and never matches: `attributes.site != "lab"` does not match a device without a
//! site, and neither does its opposite. As CEL has it for errors, `false && lacking` is false, `true || lacking` true.
//! The same is true of what has no value: division by zero, numbers that are too large.
//!
//! **Bounds.** [`LENGTH`] of the text, [`DEPTH`] of the tree, [`COST`] of the evaluation on a device that has as much of
//! everything as possible. All are checked before the first device is asked, so that what passes cannot run away.

mod check;
mod evaluate;
mod tree;

pub(crate) use check::GROUPS;
pub(crate) use evaluate::Asked;
use flotilla_protocol::GroupName;
use tree::Node;

/// Longest expression, in bytes.
pub(crate) const LENGTH: usize = 1024;
/// Deepest nesting of an expression.
const DEPTH: usize = 32;
/// Most steps of one evaluation.
const COST: usize = 10_000;
/// Stack of the thread that reads an expression: the parser recurses as deep as the text is nested.
const STACK: usize = 16 * 1024 * 1024;

/// Why a text is no expression over devices.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the expression is not usable at character {at}: {what}")]
pub struct ExpressionError {
    /// The character, from 1.
    pub at: usize,
    /// What is wrong there, and what there is.
    pub what: String,
}

/// An expression that can be asked of every device.
#[derive(Debug)]
pub(crate) struct Expression {
    root: Node,
    groups: Vec<GroupName>,
}

impl Expression {
    /// Reads and checks an expression.
    pub(crate) fn parse(text: &str) -> Result<Self, ExpressionError> {
        if text.len() > LENGTH {
            let what = format!("it has {} bytes; {LENGTH} are possible", text.len());
            return Err(ExpressionError { at: LENGTH + 1, what });
        }
        if text.trim().is_empty() {
            return Err(ExpressionError { at: 1, what: "it is empty".into() });
        }
        let owned = text.to_owned();
        let reading = std::thread::Builder::new().stack_size(STACK).spawn(move || check::read(&owned));
        let unreadable = || ExpressionError { at: 1, what: "it cannot be read".into() };
        let read = reading.map_err(|_| unreadable())?.join().map_err(|_| unreadable())?;
        let (root, groups) = read?;
        Ok(Self { root, groups })
    }

    /// The groups that it asks for, in the order of their numbers.
    pub(crate) fn groups(&self) -> &[GroupName] {
        &self.groups
    }

    /// Whether it is true of a device.
    pub(crate) fn matches(&self, asked: &Asked<'_>) -> bool {
        self.root.is_true(asked)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests;

//! One frame of `flotilla fleet top`. Pure: the fleet and the size of the terminal in, lines out.

use super::super::table;
use crate::http::api::{ConcernView, FleetSummaryView, ModelCounts, RolloutView, WaveView};
use std::time::Duration;

/// Characters of a bar, at most.
const BAR: usize = 30;
/// Digits of a digest that are shown.
const DIGITS: usize = 12;

/// How large a terminal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) columns: usize,
    pub(super) rows: usize,
}

/// How a line is shown where there are colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Heading,
    Bad,
}

/// One line, harmless to a terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) tone: Tone,
    pub(super) text: String,
}

/// What goes on each second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rates {
    messages: f64,
    received: f64,
    sent: f64,
}

impl Rates {
    /// From two answers; none if the control plane has started anew in between.
    pub(super) fn between(before: &FleetSummaryView, now: &FleetSummaryView) -> Option<Self> {
        let seconds = now.at_ms.checked_sub(before.at_ms).filter(|ms| *ms > 0)? as f64 / 1_000.0;
        let each = |before: u64, now: u64| Some(now.checked_sub(before)? as f64 / seconds);
        Some(Self {
            messages: each(before.messages, now.messages)?,
            received: each(before.received_bytes, now.received_bytes)?,
            sent: each(before.sent_bytes, now.sent_bytes)?,
        })
    }
}

/// The lines that fit. Where not all do, each part has its share.
pub(super) fn frame(
    view: &FleetSummaryView,
    rates: Option<Rates>,
    problem: Option<&str>,
    size: Size,
) -> Vec<Line> {
    let mut head = vec![heading(title(view)), plain(traffic(view, rates))];
    head.extend(problem.map(|problem| bad(problem.to_owned())));
    let mut parts = vec![head, concerns(view), rollouts(view), models(view), states(view)];
    let lengths: Vec<usize> = parts.iter().map(Vec::len).collect();
    for (part, room) in parts.iter_mut().zip(shares(&lengths, size.rows)) {
        cut(part, room);
    }
    // What needs somebody's eye has its share first, and stands last, where a terminal ends.
    let [head, concerns, rollouts, models, states] = parts.try_into().unwrap_or_default();
    let lines = [head, states, models, rollouts, concerns].into_iter().flatten();
    lines.map(|line| Line { text: fit(&line.text, size.columns), ..line }).collect()
}

/// How many lines each part has of this room: one after the other in turn, as long as it needs more.
fn shares(lengths: &[usize], mut room: usize) -> Vec<usize> {
    let mut shares = vec![0; lengths.len()];
    while room > 0 {
        let mut grew = false;
        for (share, length) in shares.iter_mut().zip(lengths) {
            if *share < *length && room > 0 {
                (*share, room, grew) = (*share + 1, room - 1, true);
            }
        }
        if !grew {
            break;
        }
    }
    shares
}

/// Keeps so many lines of a part, of which the last one then says how many are missing.
fn cut(part: &mut Vec<Line>, room: usize) {
    let missing = part.len().saturating_sub(room);
    part.truncate(room);
    if missing > 0 && room > 1 {
        part.pop();
        part.push(plain(format!("  … {} more", missing + 1)));
    }
}

/// A text within this width, without what could command a terminal.
fn fit(text: &str, columns: usize) -> String {
    let text = table::line(text);
    if text.chars().count() <= columns {
        return text;
    }
    let kept: String = text.chars().take(columns.saturating_sub(1)).collect();
    if columns > 0 { kept + "…" } else { kept }
}

fn plain(text: String) -> Line {
    Line { tone: Tone::Plain, text }
}

fn heading(text: String) -> Line {
    Line { tone: Tone::Heading, text }
}

fn bad(text: String) -> Line {
    Line { tone: Tone::Bad, text }
}

fn title(view: &FleetSummaryView) -> String {
    let seconds = view.at_ms / 1_000;
    let time = format!("{:02}:{:02}:{:02} UTC", seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    let offline = may_connect(view).saturating_sub(view.online);
    let gone = match view.decommissioned {
        0 => String::new(),
        gone => format!(", {gone} decommissioned"),
    };
    let waiting = match view.states.get("waiting").copied().unwrap_or_default() {
        0 => String::new(),
        waiting => format!(", {waiting} wait for approval"),
    };
    format!("{time}  {} devices, {} online, {offline} offline{waiting}{gone}", view.devices, view.online)
}

/// Devices that may connect and are of the fleet: those that wait for approval are neither online nor offline.
fn may_connect(view: &FleetSummaryView) -> usize {
    let of = |state: &str| view.states.get(state).copied().unwrap_or_default();
    view.devices.saturating_sub(of("revoked") + of("waiting"))
}

fn traffic(view: &FleetSummaryView, rates: Option<Rates>) -> String {
    match rates {
        Some(rates) => format!(
            "{:.1} messages/s, {}/s from devices, {}/s to devices",
            rates.messages,
            bytes(rates.received),
            bytes(rates.sent)
        ),
        None => format!(
            "{} messages, {} from devices, {} to devices since the control plane started",
            view.messages,
            bytes(view.received_bytes as f64),
            bytes(view.sent_bytes as f64)
        ),
    }
}

fn bytes(count: f64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let (mut count, mut unit) = (count, 0);
    while count >= 999.95 && unit + 1 < units.len() {
        (count, unit) = (count / 1_000.0, unit + 1);
    }
    let decimals = usize::from(unit > 0);
    format!("{count:.decimals$} {}", units[unit])
}

fn states(view: &FleetSummaryView) -> Vec<Line> {
    let counts = view.states.iter().map(|(state, count)| format!("{count} {state}"));
    let boards = view.boards.iter().map(|of| {
        let board = if of.board.is_empty() { "not told" } else { &of.board };
        format!("{} {board}", of.devices)
    });
    let others = (view.other_boards > 0).then(|| format!("{} others", view.other_boards));
    let [counts, boards] = [counts.collect::<Vec<_>>(), boards.chain(others).collect()];
    let mut lines = Vec::new();
    for (name, counts) in [("STATES", counts), ("BOARDS", boards)] {
        if !counts.is_empty() {
            lines.push(plain(format!("{name}  {}", counts.join(", "))));
        }
    }
    lines
}

fn models(view: &FleetSummaryView) -> Vec<Line> {
    let mut lines = Vec::new();
    for model in &view.models {
        let changing = match model.changing {
            0 => String::new(),
            changing => format!(", {changing} changing"),
        };
        lines.push(heading(format!("MODEL {}  {} devices{changing}", model.model, model.devices)));
        lines.extend(releases(model));
    }
    lines
}

fn releases(model: &ModelCounts) -> Vec<Line> {
    let line = |name: String, devices: usize| {
        let share = devices * 100 / model.devices.max(1);
        format!("  {name:<20} {devices:>7} {share:>3} % {}", bar(devices, model.devices))
    };
    let named = model.releases.iter().map(|of| {
        let version = of.version.map_or_else(|| "unknown".into(), |version| format!("v{version}"));
        line(format!("{version:<7} {}", of.release.get(..DIGITS).unwrap_or(&of.release)), of.devices)
    });
    let others = [("other releases", model.other_releases), ("none", model.none)];
    let others = others.into_iter().filter(|(_, devices)| *devices > 0);
    named.chain(others.map(|(name, devices)| line(name.to_owned(), devices))).map(plain).collect()
}

/// A part of a whole as a bar; what is there at all is seen.
fn bar(part: usize, whole: usize) -> String {
    "#".repeat((part * BAR).div_ceil(whole.max(1)).min(BAR))
}

fn rollouts(view: &FleetSummaryView) -> Vec<Line> {
    let mut lines = Vec::new();
    for rollout in &view.rollouts {
        lines.push(rollout_line(rollout));
        for (number, wave) in rollout.waves.iter().enumerate() {
            lines.push(wave_line(number + 1, wave));
        }
    }
    lines
}

fn rollout_line(rollout: &RolloutView) -> Line {
    let (confirmed, all) = rollout.progress();
    let reason = match rollout.reason.as_str() {
        "" => String::new(),
        reason => format!(": {reason}"),
    };
    let release = rollout.release.get(..DIGITS).unwrap_or(&rollout.release);
    let text = format!(
        "ROLLOUT {} {} {release}  {confirmed}/{all} {}{reason}",
        rollout.id, rollout.model, rollout.state
    );
    if matches!(rollout.state.as_str(), "stopping" | "failed") { bad(text) } else { heading(text) }
}

/// How far a wave is: `#` for devices that are through, `!` for those that failed, `>` for those under way.
fn wave_line(number: usize, wave: &WaveView) -> Line {
    let counts = &wave.counts;
    let failed = counts.failed + counts.reverted;
    let parts =
        [('#', counts.confirmed + counts.skipped), ('!', failed), ('>', counts.sent + counts.retrying)];
    let mut filled = String::new();
    let mut before = 0;
    for (mark, devices) in parts {
        before += devices;
        let until = scaled(before, wave.size);
        // One that is there at all is seen.
        let from = filled.len();
        let length = until.saturating_sub(from).max(usize::from(devices > 0)).min(BAR.saturating_sub(from));
        filled.extend(std::iter::repeat_n(mark, length));
    }
    let bad_ones = if failed > 0 { format!(", {failed} failed") } else { String::new() };
    let text = format!(
        "  wave {number:<3} {:<8} [{filled:.<BAR$}] {}/{}{bad_ones}",
        wave.state, counts.confirmed, wave.size
    );
    if failed > 0 { bad(text) } else { plain(text) }
}

fn scaled(part: u32, whole: u32) -> usize {
    (u64::from(part) * BAR as u64 / u64::from(whole.max(1))) as usize
}

fn concerns(view: &FleetSummaryView) -> Vec<Line> {
    if view.worst.is_empty() {
        return Vec::new();
    }
    let width = view.worst.iter().map(|one| shown(one).chars().count()).max().unwrap_or_default();
    let line = |one: &ConcernView| {
        let text = format!("  {:<width$}  {:<11}  {}", shown(one), one.reason, why(one, view.at_ms));
        if one.reason == "failed" { bad(text) } else { plain(text) }
    };
    let title = heading("LOOK AT".to_owned());
    std::iter::once(title).chain(view.worst.iter().map(line)).collect()
}

/// The device, with its name if it has one.
fn shown(one: &ConcernView) -> String {
    match &one.name {
        Some(name) => format!("{} ({name})", one.device),
        None => one.device.clone(),
    }
}

fn why(one: &ConcernView, now_ms: u64) -> String {
    let model = one.model.clone();
    let drift = one.drift.filter(|_| one.reason == "drifted").map(|drift| format!("by {drift:.2}"));
    let silent = match one.last_seen_ms {
        _ if one.online => None,
        Some(at) => Some(format!("offline for {}", span(now_ms.saturating_sub(at)))),
        None => Some("never connected".to_owned()),
    };
    let code = one.code.clone().filter(|_| one.reason != "drifted");
    [model, code, drift, silent].into_iter().flatten().collect::<Vec<_>>().join(" ")
}

/// A span of time in one or two units.
fn span(ms: u64) -> String {
    let seconds = match ms / 1_000 {
        seconds @ 0..3_600 => seconds,
        seconds @ 3_600..86_400 => seconds / 60 * 60,
        seconds => seconds / 3_600 * 3_600,
    };
    humantime::format_duration(Duration::from_secs(seconds)).to_string()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
#[path = "frame_tests.rs"]
mod tests;

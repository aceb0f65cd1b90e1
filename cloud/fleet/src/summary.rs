//! The whole fleet in some numbers, and the devices that need somebody's eye. Counted on the rows of the roster: no record
//! is read for it, so that it may be asked for each second.

use crate::devices::{DECOMMISSIONED, Traffic};
use crate::error::Result;
use crate::fleet::Fleet;
use crate::groups::blocking;
use crate::roster::{Row, RowModel, RowRelease};
use flotilla_identity::now_ms;
use flotilla_protocol::baseline::Shift;
use flotilla_protocol::message::Phase;
use flotilla_protocol::{DeviceId, ErrorCode};
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::Arc;

/// Boards that are counted by name, those of most devices; the others are counted together.
const BOARDS: usize = 16;
/// Models that are told, those of most devices.
const MODELS: usize = 16;
/// Releases of one model that are told, those of most devices.
const RELEASES: usize = 8;
/// Devices that are named for each reason.
const NAMED: usize = 10;

/// The whole fleet.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FleetSummary {
    /// When this was counted, in milliseconds since 1970.
    pub at_ms: u64,
    /// Devices that have not been decommissioned.
    pub devices: usize,
    /// Those that have been.
    pub decommissioned: usize,
    /// Devices that are connected.
    pub online: usize,
    /// Devices by where they stand.
    pub states: BTreeMap<&'static str, usize>,
    /// Devices by board, most first.
    pub boards: Vec<(String, usize)>,
    /// Devices of further boards.
    pub other_boards: usize,
    /// What they run, the models of most devices first.
    pub models: Vec<ModelSummary>,
    /// Devices of which a model has drifted far from its training data.
    pub drifted: usize,
    /// The devices that need somebody's eye: some for each reason, the worst first.
    pub worst: Vec<Concern>,
    /// MQTT payload since the start of the control plane.
    pub traffic: Traffic,
    /// Messages in both directions since then.
    pub messages: u64,
}

/// What runs of one model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelSummary {
    /// The model.
    pub model: String,
    /// Devices that run it, or are to.
    pub devices: usize,
    /// Devices that have confirmed none of its releases.
    pub none: usize,
    /// Devices that are to run another release than they do.
    pub changing: usize,
    /// Confirmed releases, those of most devices first.
    pub releases: Vec<ReleaseCount>,
    /// Devices that run further ones.
    pub other_releases: usize,
}

/// How many devices run a release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReleaseCount {
    /// Its digest.
    pub release: String,
    /// The model version, if this registry knows it.
    pub version: Option<u32>,
    /// Devices.
    pub devices: usize,
}

/// A device that needs somebody's eye.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Concern {
    /// The device.
    pub device: DeviceId,
    /// Its name for people.
    pub name: Option<String>,
    /// Why.
    pub reason: ConcernReason,
    /// Whether it is connected.
    pub online: bool,
    /// When it was last heard of, in milliseconds since 1970.
    pub last_seen_ms: Option<u64>,
    /// The model that it is about.
    pub model: Option<String>,
    /// Why an update failed.
    pub code: Option<ErrorCode>,
    /// How far the model has drifted, in thousandths.
    pub drift: Option<u32>,
}

/// Why a device needs somebody's eye.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConcernReason {
    /// A release did not make it.
    Failed,
    /// No rollout takes it.
    Quarantined,
    /// A model has drifted.
    Drifted,
    /// It is not connected.
    Offline,
}

impl ConcernReason {
    /// The stable text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Quarantined => "quarantined",
            Self::Drifted => "drifted",
            Self::Offline => "offline",
        }
    }
}

impl Fleet {
    /// The whole fleet in some numbers.
    pub async fn summary(&self) -> Result<FleetSummary> {
        let rows = self.inner.groups.roster.rows().await?;
        let counted = blocking(move || summarise(&rows, now_ms())).await?;
        let connections = &self.inner.connections;
        Ok(FleetSummary { traffic: connections.traffic(), messages: connections.messages(), ..counted })
    }
}

/// Counts what the rows say.
fn summarise(rows: &[Arc<Row>], at_ms: u64) -> FleetSummary {
    let mut summary = FleetSummary { at_ms, ..FleetSummary::default() };
    let mut boards: HashMap<&str, usize> = HashMap::new();
    let mut models: HashMap<&str, Counted<'_>> = HashMap::new();
    let mut concerns: BTreeMap<ConcernReason, Vec<Worry<'_>>> = BTreeMap::new();
    for row in rows {
        if row.state == DECOMMISSIONED {
            summary.decommissioned += 1;
            continue;
        }
        summary.devices += 1;
        *summary.states.entry(row.state).or_default() += 1;
        if !row.active {
            continue;
        }
        summary.online += usize::from(row.online());
        *boards.entry(row.facts.board.as_str()).or_default() += 1;
        row.models.iter().for_each(|model| models.entry(&model.name).or_default().count(model));
        let drifted = drifted(row);
        summary.drifted += usize::from(drifted.is_some());
        if let Some((reason, worry)) = concern(row, drifted, at_ms) {
            concerns.entry(reason).or_default().push(worry);
        }
    }
    let (boards, other_boards) = most(boards, BOARDS);
    summary.boards = boards.into_iter().map(|(board, devices)| (board.to_owned(), devices)).collect();
    summary.other_boards = other_boards;
    let mut models: Vec<_> = models.into_iter().collect();
    models.sort_by_key(|(name, counted)| (Reverse(counted.devices), *name));
    summary.models = models.into_iter().take(MODELS).map(|(name, counted)| counted.told(name)).collect();
    for (reason, mut of) in concerns {
        of.sort_by_key(|worry| (Reverse(worry.weight), &worry.row.id));
        summary.worst.extend(of.into_iter().take(NAMED).map(|worry| worry.told(reason)));
    }
    summary
}

/// What one model is found to run.
#[derive(Default)]
struct Counted<'a> {
    devices: usize,
    none: usize,
    changing: usize,
    releases: HashMap<&'a RowRelease, usize>,
}

impl<'a> Counted<'a> {
    fn count(&mut self, model: &'a RowModel) {
        self.devices += 1;
        self.changing += usize::from(model.wanted.is_some() && model.wanted != model.confirmed);
        match &model.confirmed {
            Some(release) => *self.releases.entry(release).or_default() += 1,
            None => self.none += 1,
        }
    }

    fn told(self, model: &str) -> ModelSummary {
        let (releases, other_releases) = most(self.releases, RELEASES);
        let count = |(release, devices): (&RowRelease, usize)| ReleaseCount {
            release: release.digest.clone(),
            version: release.version,
            devices,
        };
        ModelSummary {
            model: model.to_owned(),
            devices: self.devices,
            none: self.none,
            changing: self.changing,
            releases: releases.into_iter().map(count).collect(),
            other_releases,
        }
    }
}

/// The values that were counted most, so many, and how often the others were counted together.
fn most<T: Ord + Hash>(counted: HashMap<T, usize>, so_many: usize) -> (Vec<(T, usize)>, usize) {
    let mut all: Vec<(T, usize)> = counted.into_iter().collect();
    all.sort_unstable_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    let others = all.iter().skip(so_many).map(|(_, count)| count).sum();
    all.truncate(so_many);
    (all, others)
}

/// The model of a device that has drifted furthest, if it is a major shift.
fn drifted(row: &Row) -> Option<&RowModel> {
    let shifted = |model: &&RowModel| model.drift.is_some_and(|drift| Shift::of_milli(drift) == Shift::Major);
    row.models.iter().filter(shifted).max_by_key(|model| model.drift)
}

/// A device that needs somebody's eye.
struct Worry<'a> {
    /// How much, beside others for the same reason.
    weight: u64,
    row: &'a Row,
    model: Option<&'a RowModel>,
}

/// Why a device needs somebody's eye most.
fn concern<'a>(
    row: &'a Row,
    drifted: Option<&'a RowModel>,
    now_ms: u64,
) -> Option<(ConcernReason, Worry<'a>)> {
    let silent_ms = now_ms.saturating_sub(row.last_seen_ms().unwrap_or(row.enrolled_at_ms));
    let failed = row.models.iter().find(|model| matches!(model.phase, Phase::Failed | Phase::Reverting));
    let (reason, weight, model) = match (failed, drifted) {
        _ if row.state == "quarantined" => (ConcernReason::Quarantined, silent_ms, failed),
        (Some(_), _) => (ConcernReason::Failed, silent_ms, failed),
        (None, Some(model)) => (ConcernReason::Drifted, model.drift.unwrap_or_default().into(), Some(model)),
        (None, None) if !row.online() => (ConcernReason::Offline, silent_ms, None),
        (None, None) => return None,
    };
    Some((reason, Worry { weight, row, model }))
}

impl Worry<'_> {
    fn told(&self, reason: ConcernReason) -> Concern {
        let Self { row, model, weight: _ } = self;
        Concern {
            device: row.id.clone(),
            name: row.name.as_deref().map(str::to_owned),
            reason,
            online: row.online(),
            last_seen_ms: row.last_seen_ms(),
            model: model.map(|model| model.name.to_string()),
            code: model.and_then(|model| model.failure),
            drift: model.and_then(|model| model.drift),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;
    use crate::roster::testing::{bare_row, full_row};

    const NOW: u64 = 1_800_000_000_000;

    fn named(mut row: Row, id: &str) -> Arc<Row> {
        row.id = id.parse().unwrap();
        Arc::new(row)
    }

    fn with(change: impl FnOnce(&mut RowModel)) -> Row {
        let mut row = full_row(NOW);
        change(&mut row.models[0]);
        row.state = row.models[0].phase.as_str();
        row
    }

    fn confirmed(model: &mut RowModel) {
        (model.phase, model.failure, model.drift) = (Phase::Confirmed, None, None);
        model.wanted = model.confirmed.clone();
    }

    fn drifted_by(thousandths: u32) -> Row {
        with(|model| {
            confirmed(model);
            model.drift = Some(thousandths);
        })
    }

    #[test]
    fn devices_are_counted_by_state_board_and_release_and_those_that_are_gone_apart() {
        let mut gone = bare_row(NOW);
        (gone.state, gone.active) = (DECOMMISSIONED, false);
        let mut shut_out = bare_row(NOW);
        (shut_out.state, shut_out.active) = ("revoked", false);
        let rows = [
            named(gone, "a"),
            named(shut_out, "b"),
            named(with(confirmed), "c"),
            named(with(confirmed), "d"),
            named(with(|model| model.confirmed = None), "e"),
            named(bare_row(NOW), "f"),
        ];
        let summary = summarise(&rows, NOW);
        assert_eq!((summary.devices, summary.decommissioned, summary.online), (5, 1, 0));
        let states = [("confirmed", 2), ("failed", 1), ("idle", 1), ("revoked", 1)];
        assert_eq!(summary.states, states.into());
        assert_eq!(summary.boards, [("raspberry-pi-5".to_owned(), 3), (String::new(), 1)]);
        let [digits] = summary.models.as_slice() else { panic!("{:?}", summary.models) };
        assert_eq!((digits.devices, digits.none, digits.changing), (3, 1, 1));
        assert_eq!(digits.releases, [ReleaseCount { release: "ab".into(), version: Some(3), devices: 2 }]);
    }

    #[test]
    fn each_device_that_needs_an_eye_is_named_once_for_its_worst_reason() {
        let mut aside = full_row(NOW);
        aside.state = "quarantined";
        let rows = [
            named(with(confirmed), "offline"),
            named(drifted_by(251), "drifted"),
            named(drifted_by(250), "hardly-drifted"),
            named(full_row(NOW), "failed"),
            named(aside, "aside"),
            named(bare_row(NOW), "longest-offline"),
        ];
        let summary = summarise(&rows, NOW);
        let worst: Vec<_> =
            summary.worst.iter().map(|one| (one.device.as_str(), one.reason.as_str())).collect();
        let wanted = [
            ("failed", "failed"),
            ("aside", "quarantined"),
            ("drifted", "drifted"),
            ("longest-offline", "offline"),
            ("hardly-drifted", "offline"),
            ("offline", "offline"),
        ];
        assert_eq!(worst, wanted);
        assert_eq!(summary.drifted, 1);
        let failed = &summary.worst[0];
        assert_eq!((failed.model.as_deref(), failed.code), (Some("digits"), Some(ErrorCode::ProbeTooSlow)));
    }

    #[test]
    fn a_hundred_thousand_devices_are_counted_quickly_and_few_are_named() {
        let rows: Vec<_> = (0..100_000).map(|n| named(full_row(NOW), &format!("gate-{n}"))).collect();
        let begun = std::time::Instant::now();
        let summary = summarise(&rows, NOW);
        let took = begun.elapsed();
        println!("100,000 devices are counted in {took:?}");
        assert_eq!((summary.devices, summary.worst.len()), (100_000, NAMED));
        assert!(took < std::time::Duration::from_secs(2), "{took:?}");
    }

    #[test]
    fn what_is_rare_is_counted_together() {
        let board = |n: usize| {
            let mut row = bare_row(NOW);
            row.facts = Arc::new(crate::roster::testing::board(&format!("board-{n:02}")));
            named(row, &format!("gate-{n}"))
        };
        let summary = summarise(&(0..BOARDS + 3).map(board).collect::<Vec<_>>(), NOW);
        assert_eq!((summary.boards.len(), summary.other_boards), (BOARDS, 3));
    }
}

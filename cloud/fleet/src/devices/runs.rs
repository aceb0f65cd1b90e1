//! What ran on a device, and when: the last changes of the releases that its models have confirmed, and those that did not
//! make it. Written with the report that says so.

use crate::error::{Error, Result};
use crate::rollout::{Rollout, RolloutState};
use crate::store::{self, Store};
use flotilla_protocol::message::{ModelReport, Phase};
use flotilla_protocol::{DeviceId, Digest, ErrorCode, ModelName, RolloutId, limits};
use flotilla_storage::{Batch, Entity, Table};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Entries of a device that are remembered, if they fit into a record.
const REMEMBERED: usize = 64;
/// Rollouts under way that are looked through for the one that brought a release.
const UNDER_WAY: usize = 64;

/// Something that happened to a model of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ran {
    /// When the device's report said so, in milliseconds since 1970.
    pub at_ms: u64,
    /// The model; the agent itself under its reserved name.
    pub model: ModelName,
    /// The release that it is about.
    pub release: Digest,
    /// What became of it.
    pub outcome: RanOutcome,
    /// Why, of one that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<ErrorCode>,
    /// The rollout that brought it, if there was no more than one under way that could have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutId>,
}

/// What became of a release on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RanOutcome {
    /// It serves from now on.
    Confirmed,
    /// It serves again: what came after it has given way.
    Reverted,
    /// It did not make it, or had to give way.
    Failed,
    /// It serves no more, and nothing else does.
    Removed,
}

impl RanOutcome {
    /// The stable text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Confirmed => "confirmed",
            Self::Reverted => "reverted",
            Self::Failed => "failed",
            Self::Removed => "removed",
        }
    }
}

/// The last entries of a device, oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Runs {
    device: DeviceId,
    entries: Vec<Ran>,
}

impl Entity for Runs {
    const TABLE: Table = Table::new("device-runs");

    fn id(&self) -> Vec<u8> {
        self.device.as_str().into()
    }
}

/// What a model said before, and what it says now; nothing where it is not named.
pub(crate) type ModelChange<'a> = (Option<&'a ModelReport>, Option<&'a ModelReport>);

impl Runs {
    fn new(device: DeviceId) -> Self {
        Self { device, entries: Vec::new() }
    }

    /// Notes down what the change of a model's report says.
    fn note(&mut self, model: &ModelName, (before, now): ModelChange<'_>, now_ms: u64) {
        let confirmed = |report: Option<&ModelReport>| report.and_then(|report| report.confirmed);
        let (served, serves) = (confirmed(before), confirmed(now));
        let entry = |release, outcome, code| {
            let model = model.clone();
            Ran { at_ms: now_ms, model, release, outcome, code, rollout: None }
        };
        let failed = now.and_then(|report| failed(report).filter(|_| is_new_failure(before, report)));
        let failed = failed.map(|(release, code)| entry(release, RanOutcome::Failed, Some(code)));
        let served = served.filter(|_| served != serves);
        let moved = match serves {
            _ if confirmed(before) == serves => None,
            Some(release) => {
                let gave_way = failed.as_ref().is_some_and(|failed| Some(failed.release) == served);
                let again = gave_way || self.knows(model, &release);
                let outcome = if again { RanOutcome::Reverted } else { RanOutcome::Confirmed };
                Some(entry(release, outcome, None))
            }
            None => served.map(|release| entry(release, RanOutcome::Removed, None)),
        };
        self.entries.extend(failed.into_iter().chain(moved));
        self.fit();
    }

    /// Whether this release has served the model before, as far as that is remembered.
    fn knows(&self, model: &ModelName, release: &Digest) -> bool {
        let served = |ran: &&Ran| matches!(ran.outcome, RanOutcome::Confirmed | RanOutcome::Reverted);
        let mut of_model = self.entries.iter().filter(served).filter(|ran| ran.model == *model);
        of_model.any(|ran| ran.release == *release)
    }

    /// Forgets the oldest, within what a record holds.
    fn fit(&mut self) {
        let size = |all: &Self| serde_json::to_vec(all).map_or(0, |text| text.len());
        while self.entries.len() > REMEMBERED || size(self) > limits::RECORD {
            self.entries.remove(0);
        }
    }
}

/// The release that has failed for good, and why.
fn failed(report: &ModelReport) -> Option<(Digest, ErrorCode)> {
    let failure = report.failure.as_ref().filter(|_| report.phase == Phase::Failed)?;
    Some((failure.release, failure.code))
}

/// Whether the failure that a report names is another one than that of the report before.
fn is_new_failure(before: Option<&ModelReport>, now: &ModelReport) -> bool {
    before.is_none_or(|before| failed(before) != failed(now) || before.attempt != now.attempt)
}

/// Whether there is something to note down.
fn is_news((before, now): &ModelChange<'_>) -> bool {
    let confirmed = |report: &Option<&ModelReport>| report.and_then(|report| report.confirmed);
    confirmed(before) != confirmed(now)
        || now.is_some_and(|now| failed(now).is_some() && is_new_failure(*before, now))
}

/// Adds what the changes of its models' reports say to a device's history, within the commit that stores them.
pub(crate) async fn note_runs(
    store: &Store,
    batch: &mut Batch,
    device: &DeviceId,
    changes: BTreeMap<&ModelName, ModelChange<'_>>,
    now_ms: u64,
) -> Result<()> {
    let news: Vec<_> = changes.into_iter().filter(|(_, change)| is_news(change)).collect();
    if news.is_empty() {
        return Ok(());
    }
    let found = store.runs.get(device.as_str()).await?;
    let mut runs = found.as_ref().map_or_else(|| Runs::new(device.clone()), |found| found.value.clone());
    news.iter().for_each(|(model, change)| runs.note(model, *change, now_ms));
    let active = store.rollouts.lookup(Rollout::BY_STATE, Rollout::ACTIVE, None, UNDER_WAY).await?.items;
    for ran in runs.entries.iter_mut().rev().take_while(|ran| ran.at_ms == now_ms) {
        let brings = |rollout: &&Rollout| rollout.model == ran.model && rollout.wanted.release == ran.release;
        let mut able =
            active.iter().map(|found| &found.value).filter(|one| tells_devices(one)).filter(brings);
        ran.rollout = able.next().filter(|_| able.next().is_none()).map(|rollout| rollout.id.clone());
    }
    runs.fit();
    store::put(&store.runs, batch, found.as_ref(), &runs)
}

/// Whether a rollout may have told devices something that they answer now.
fn tells_devices(rollout: &Rollout) -> bool {
    matches!(rollout.state, RolloutState::Running | RolloutState::Paused | RolloutState::Stopping)
}

/// What ran on a device, newest first.
pub(crate) async fn runs(store: &Store, id: &DeviceId) -> Result<Vec<Ran>> {
    if store.devices.get(id.as_str()).await?.is_none() {
        return Err(Error::DeviceMissing(id.clone()));
    }
    let entries = store.runs.get(id.as_str()).await?.map(|found| found.value.entries).unwrap_or_default();
    Ok(entries.into_iter().rev().collect())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;
    use flotilla_protocol::message::Failure;

    fn release(name: &str) -> Digest {
        Digest::of(name.as_bytes())
    }

    fn serves(name: &str) -> ModelReport {
        ModelReport { phase: Phase::Confirmed, confirmed: Some(release(name)), ..ModelReport::default() }
    }

    fn fails(serving: Option<&str>, failed: &str, attempt: u32) -> ModelReport {
        let failure =
            Failure { release: release(failed), code: ErrorCode::ProbeTooSlow, detail: String::new() };
        let confirmed = serving.map(release);
        ModelReport {
            phase: Phase::Failed,
            confirmed,
            attempt,
            failure: Some(failure),
            ..ModelReport::default()
        }
    }

    /// What is noted down of a model that says one thing after the other.
    fn told(reports: &[Option<ModelReport>]) -> Vec<(RanOutcome, Digest)> {
        let mut runs = Runs::new("gate-7".parse().unwrap());
        let model = "digits".parse().unwrap();
        let mut before: Option<&ModelReport> = None;
        for (now, at) in reports.iter().zip(1..) {
            let change = (before, now.as_ref());
            let length = runs.entries.len();
            runs.note(&model, change, at);
            assert_eq!(is_news(&change), runs.entries.len() > length, "{at}");
            before = now.as_ref();
        }
        runs.entries.iter().map(|ran| (ran.outcome, ran.release)).collect()
    }

    #[test]
    fn each_release_that_comes_to_serve_is_noted_once_and_one_that_comes_back_as_such() {
        use RanOutcome::{Confirmed, Removed, Reverted};
        let on_its_way = ModelReport { phase: Phase::Downloading, ..serves("a") };
        let all = [
            Some(ModelReport::default()),
            Some(serves("a")),
            Some(serves("a")),
            Some(on_its_way),
            Some(serves("b")),
            Some(serves("a")),
            None,
        ];
        let wanted = [(Confirmed, "a"), (Confirmed, "b"), (Reverted, "a"), (Removed, "a")];
        assert_eq!(told(&all), wanted.map(|(outcome, name)| (outcome, release(name))));
    }

    #[test]
    fn a_failure_is_noted_once_an_attempt_and_one_of_a_serving_release_brings_back_the_one_before() {
        use RanOutcome::{Confirmed, Failed, Reverted};
        let held_up = ModelReport { phase: Phase::Downloading, ..fails(Some("a"), "b", 2) };
        let all = [
            Some(serves("a")),
            Some(held_up),
            Some(fails(Some("a"), "b", 2)),
            Some(fails(Some("a"), "b", 2)),
            Some(fails(Some("a"), "b", 3)),
            Some(serves("c")),
            Some(fails(Some("x"), "c", 4)),
        ];
        let wanted = [
            (Confirmed, "a"),
            (Failed, "b"),
            (Failed, "b"),
            (Confirmed, "c"),
            (Failed, "c"),
            (Reverted, "x"),
        ];
        assert_eq!(told(&all), wanted.map(|(outcome, name)| (outcome, release(name))));
    }

    #[test]
    fn the_newest_entries_fit_into_a_record_and_an_older_form_is_read() {
        let mut runs = Runs::new(DeviceId::new("d".repeat(limits::ID)).unwrap());
        let model = ModelName::new("m".repeat(limits::ID)).unwrap();
        for n in 0..200_u32 {
            let (before, now) = (serves(&n.to_string()), serves(&(n + 1).to_string()));
            runs.note(&model, (Some(&before), Some(&now)), u64::MAX);
            runs.entries.last_mut().unwrap().rollout = RolloutId::new("r".repeat(limits::ID)).ok();
            runs.entries.last_mut().unwrap().code = Some(ErrorCode::ProbeTooSlow);
            runs.fit();
            assert!(serde_json::to_vec(&runs).unwrap().len() <= limits::RECORD);
            assert_eq!(runs.entries.last().unwrap().release, release(&(n + 1).to_string()));
        }
        let mut usual = Runs::new("gate-7".parse().unwrap());
        let model = ModelName::new("digits").unwrap();
        for n in 0..200_u32 {
            let (before, now) = (serves(&n.to_string()), serves(&(n + 1).to_string()));
            usual.note(&model, (Some(&before), Some(&now)), 1_800_000_000_000);
        }
        assert_eq!(usual.entries.len(), REMEMBERED);
        let bare =
            format!(r#"{{"at_ms":1,"model":"digits","release":"{}","outcome":"confirmed"}}"#, release("a"));
        assert_eq!(serde_json::from_str::<Ran>(&bare).unwrap().rollout, None);
    }
}

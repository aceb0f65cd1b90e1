//! What a device should be beside what it says it is, and where the two differ.

use super::shadow::ShadowState;
use super::twin::{ModelState, ReportHead, Twin};
use crate::error::{Error, Result};
use crate::store::{self, Store};
use flotilla_protocol::manifest::AGENT_NAME;
use flotilla_protocol::message::{Desired, DesiredModel, ModelReport, Phase, ShadowPhase, ShadowReport};
use flotilla_protocol::{DeviceId, Digest, ModelName, ProjectId};
use flotilla_storage::compound;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// The two sides of a twin.
#[derive(Clone, Debug, PartialEq)]
pub struct Compared {
    /// The document that the device should follow, as of now.
    pub desired: Desired,
    /// When it changed last, in milliseconds since 1970.
    pub changed_at_ms: u64,
    /// The last report without what follows; none of a device that has never reported.
    pub head: Option<ReportHead>,
    /// What the device should run: a release a model, and under its reserved name that of the agent itself.
    pub wanted: BTreeMap<ModelName, DesiredModel>,
    /// What it says of them.
    pub models: BTreeMap<ModelName, ModelReport>,
    /// What it says of its shadows.
    pub shadows: BTreeMap<ModelName, ShadowReport>,
    /// Where the two sides differ.
    pub differences: Vec<Difference>,
}

/// Something that is not on a device as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// What: `version`, `models/NAME/release`, `shadows/NAME/release` or `commands/NUMBER`.
    pub at: String,
    /// As it should be; none for what should not be there.
    pub desired: Option<String>,
    /// As the device says it is; none for what is not there.
    pub reported: Option<String>,
    /// Where that stands, for people.
    pub why: String,
}

/// Both sides of a device's twin, from the records.
pub(crate) async fn compared(
    store: &Store,
    project: &ProjectId,
    id: &DeviceId,
    now_ms: u64,
) -> Result<Compared> {
    let twin = store.twins.get(id.as_str()).await?.ok_or_else(|| Error::DeviceMissing(id.clone()))?.value;
    let consents = super::consents(store, id).await?;
    let head = store.reports.get(id.as_str()).await?.map(|found| found.value);
    let models = store::all(&store.models, &ModelState::prefix(id)).await?;
    let models = models.into_iter().map(|state| (state.value.model, state.value.report)).collect();
    let shadows = store::all(&store.shadows, &compound([id.as_str()])).await?;
    let shadow = |state: ShadowState| (state.model, state.report);
    let shadows = shadows.into_iter().map(|state| shadow(state.value)).collect();
    let differences = differences(&twin, head.as_ref(), &models, &shadows, now_ms);
    Ok(Compared {
        desired: twin.document(project, consents, now_ms),
        changed_at_ms: twin.changed_at_ms,
        wanted: twin.models,
        head,
        models,
        shadows,
        differences,
    })
}

impl Compared {
    /// Whether the device runs another release of a model than it should.
    pub fn differs(&self, model: &ModelName) -> bool {
        let confirmed = self.models.get(model).and_then(|report| report.confirmed);
        is_other(model, self.wanted.get(model), confirmed)
    }
}

/// Whether what is confirmed is not what is wanted. Where no agent is wanted the device keeps the one that it has.
fn is_other(model: &ModelName, wanted: Option<&DesiredModel>, confirmed: Option<Digest>) -> bool {
    match wanted {
        None if model.as_str() == AGENT_NAME => false,
        wanted => wanted.map(|wanted| wanted.release) != confirmed,
    }
}

/// Where a device is not as it should be.
fn differences(
    twin: &Twin,
    head: Option<&ReportHead>,
    models: &BTreeMap<ModelName, ModelReport>,
    shadows: &BTreeMap<ModelName, ShadowReport>,
    now_ms: u64,
) -> Vec<Difference> {
    let answered = head.map_or(0, |head| head.desired_version);
    let seen = |attempt: u32| answered >= u64::from(attempt);
    let mut all = Vec::new();
    if answered != twin.version {
        let why = match answered {
            0 => "the device has answered no document yet",
            _ if answered > twin.version => "the device has a newer document than there is here",
            _ => "the device has not answered the newest document yet",
        };
        all.push(Difference {
            at: "version".into(),
            desired: Some(twin.version.to_string()),
            reported: (answered > 0).then(|| answered.to_string()),
            why: why.into(),
        });
    }
    let names: BTreeSet<&ModelName> = twin.models.keys().chain(models.keys()).collect();
    for name in names {
        let (wanted, report) = (twin.models.get(name), models.get(name));
        let confirmed = report.and_then(|report| report.confirmed);
        if !is_other(name, wanted, confirmed) {
            continue;
        }
        all.push(Difference {
            at: format!("models/{name}/release"),
            desired: wanted.map(|wanted| wanted.release.to_string()),
            reported: confirmed.map(|confirmed| confirmed.to_string()),
            why: match wanted {
                Some(wanted) if seen(wanted.attempt) => on_its_way(wanted, report),
                Some(_) => "the device has not seen that it should run this".into(),
                None => "nobody wants it there any more".into(),
            },
        });
    }
    let names: BTreeSet<&ModelName> = twin.shadows.keys().chain(shadows.keys()).collect();
    for name in names {
        let (wanted, report) = (twin.shadows.get(name), shadows.get(name));
        let there = report.map(|report| report.release);
        let runs =
            |report: &ShadowReport| matches!(report.phase, ShadowPhase::Running | ShadowPhase::Promoted);
        if wanted.map(|wanted| wanted.release) == there && report.is_some_and(runs) {
            continue;
        }
        all.push(Difference {
            at: format!("shadows/{name}/release"),
            desired: wanted.map(|wanted| wanted.release.to_string()),
            reported: there.map(|there| there.to_string()),
            why: match (wanted, report) {
                (None, _) => "nobody wants it there any more".into(),
                (Some(_), None) => "the device says nothing of it yet".into(),
                (Some(_), Some(ShadowReport { failure: Some(failure), .. })) => {
                    format!("{}: {}", failure.code, failure.detail)
                }
                (Some(_), Some(report)) => report.phase.as_str().into(),
            },
        });
    }
    all.extend(twin.open_commands(now_ms).map(|command| Difference {
        at: format!("commands/{}", command.id),
        desired: Some("done".into()),
        reported: None,
        why: "the device has not answered this command yet".into(),
    }));
    all
}

/// Where a release stands that is not confirmed yet.
fn on_its_way(wanted: &DesiredModel, report: Option<&ModelReport>) -> String {
    let Some(report) = report else { return "the device says nothing of it yet".into() };
    if let Some(failure) = report.failure.as_ref().filter(|failure| failure.release == wanted.release) {
        return format!("{}: {}", failure.code, failure.detail);
    }
    match report.phase {
        Phase::Downloading if report.bytes_total > 0 => {
            format!("downloading, {} of {} bytes", report.bytes_done, report.bytes_total)
        }
        phase => phase.as_str().into(),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;
    use flotilla_protocol::ErrorCode;
    use flotilla_protocol::manifest::agent_name;
    use flotilla_protocol::message::{CommandKind, Failure, Settings};

    struct Sides {
        twin: Twin,
        answered: Option<u64>,
        models: BTreeMap<ModelName, ModelReport>,
        shadows: BTreeMap<ModelName, ShadowReport>,
    }

    fn model(name: &str) -> ModelName {
        ModelName::new(name).unwrap()
    }

    fn release(text: &str) -> Digest {
        Digest::of(text.as_bytes())
    }

    impl Sides {
        /// A device that should run a release of digits and does.
        fn agreed() -> Self {
            let mut twin = Twin::new(DeviceId::new("gate-7").unwrap(), Settings::default(), 1);
            twin.want(&model("digits"), release("r1"), 10, 5).unwrap();
            let confirmed = ModelReport {
                phase: Phase::Confirmed,
                confirmed: Some(release("r1")),
                ..ModelReport::default()
            };
            let answered = Some(twin.version);
            Self { twin, answered, models: [(model("digits"), confirmed)].into(), shadows: BTreeMap::new() }
        }

        fn told(&self) -> Vec<(String, String)> {
            let head =
                self.answered.map(|desired_version| ReportHead { desired_version, ..ReportHead::default() });
            let all = differences(&self.twin, head.as_ref(), &self.models, &self.shadows, 10);
            all.into_iter().map(|one| (one.at, one.why)).collect()
        }

        fn digits(&mut self) -> &mut ModelReport {
            self.models.get_mut(&model("digits")).unwrap()
        }
    }

    fn pair(at: &str, why: &str) -> (String, String) {
        (at.into(), why.into())
    }

    #[test]
    fn a_device_that_is_as_it_should_be_differs_in_nothing() {
        assert_eq!(Sides::agreed().told(), []);
    }

    #[test]
    fn a_release_is_followed_from_the_document_to_its_end() {
        let mut sides = Sides::agreed();
        sides.twin.want(&model("digits"), release("r2"), 10, 6).unwrap();
        let at = "models/digits/release";
        let unseen = pair(at, "the device has not seen that it should run this");
        assert_eq!(
            sides.told(),
            [pair("version", "the device has not answered the newest document yet"), unseen]
        );
        sides.answered = Some(sides.twin.version);
        sides.digits().phase = Phase::Downloading;
        assert_eq!(sides.told(), [pair(at, "downloading")]);
        (sides.digits().bytes_done, sides.digits().bytes_total) = (3, 8);
        assert_eq!(sides.told(), [pair(at, "downloading, 3 of 8 bytes")]);
        let failure =
            |of| Failure { release: release(of), code: ErrorCode::ProbeTooSlow, detail: "slow".into() };
        sides.digits().phase = Phase::Failed;
        sides.digits().failure = Some(failure("r0"));
        assert_eq!(sides.told(), [pair(at, "failed")], "what another release did is no reason");
        sides.digits().failure = Some(failure("r2"));
        assert_eq!(sides.told(), [pair(at, "probe_too_slow: slow")]);
        sides.digits().confirmed = Some(release("r2"));
        assert_eq!(sides.told(), []);
    }

    #[test]
    fn what_is_on_one_side_alone_is_a_difference() {
        let mut sides = Sides::agreed();
        sides.twin.restore(&model("digits"), None, 6);
        sides.answered = Some(sides.twin.version);
        assert_eq!(sides.told(), [pair("models/digits/release", "nobody wants it there any more")]);
        sides.models.clear();
        assert_eq!(sides.told(), []);
        sides.twin.want(&model("faces"), release("f1"), 10, 7).unwrap();
        sides.answered = Some(sides.twin.version);
        assert_eq!(sides.told(), [pair("models/faces/release", "the device says nothing of it yet")]);
        sides.answered = None;
        assert_eq!(sides.told()[0], pair("version", "the device has answered no document yet"));
        sides.answered = Some(sides.twin.version + 1);
        assert_eq!(sides.told()[0].1, "the device has a newer document than there is here");

        // But a device keeps the agent that it has where none is wanted.
        let mut sides = Sides::agreed();
        let agent = ModelReport { confirmed: Some(release("a1")), ..ModelReport::default() };
        sides.models.insert(agent_name(), agent);
        assert_eq!(sides.told(), []);
    }

    #[test]
    fn shadows_and_open_commands_are_told() {
        let mut sides = Sides::agreed();
        sides.twin.shadow(&model("digits"), release("s1"), 10, 1_000, 6).unwrap();
        let ping = sides.twin.command(CommandKind::Ping, 20, 6).unwrap();
        sides.answered = Some(sides.twin.version);
        let command = pair(&format!("commands/{ping}"), "the device has not answered this command yet");
        let at = "shadows/digits/release";
        assert_eq!(sides.told(), [pair(at, "the device says nothing of it yet"), command.clone()]);
        let mut report = ShadowReport {
            release: release("s1"),
            phase: ShadowPhase::Staged,
            attempt: 0,
            bytes_done: 0,
            bytes_total: 0,
            bytes_reused: 0,
            failure: None,
        };
        sides.shadows.insert(model("digits"), report.clone());
        assert_eq!(sides.told(), [pair(at, "staged"), command.clone()]);
        report.phase = ShadowPhase::Running;
        sides.shadows.insert(model("digits"), report);
        assert_eq!(sides.told(), [command]);
        sides.twin.unshadow(&model("digits"), 7);
        sides.answered = Some(sides.twin.version);
        assert_eq!(sides.told()[0], pair(at, "nobody wants it there any more"));
    }
}

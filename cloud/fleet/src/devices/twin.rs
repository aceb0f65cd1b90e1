//! The twin of a device: what it should run, and what it says it runs.

use crate::text::bounded;
use flotilla_protocol::manifest::agent_name;
use flotilla_protocol::message::{
    Command, CommandKind, CommandReport, CommandState, Desired, DesiredModel, Diagnosis, Failure,
    HardExamples, ModelReport, Reported, Settings, ShadowRelease,
};
use flotilla_protocol::{DeviceId, ErrorCode, ModelName, ProjectId, limits};
use flotilla_storage::{Entity, Table, compound};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Longest detail of a failure that is kept.
pub(super) const DETAIL: usize = 512;
/// Open commands of one device: with as many models as a document may name they still fit into one record.
pub(crate) const COMMANDS: usize = 11;
/// A version that a device claims to have seen and that is believed; beyond it no newer one would fit.
const VERSION_BELIEVED: u64 = u64::MAX / 2;

/// What a device should run: the content of its desired document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Twin {
    /// The device.
    pub device: DeviceId,
    /// Version of the desired document; rises with every change.
    pub version: u64,
    /// The release a model, and under its reserved name that of the agent itself.
    pub models: BTreeMap<ModelName, DesiredModel>,
    /// The releases that run beside confirmed ones, a model.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub shadows: BTreeMap<ModelName, ShadowRelease>,
    /// How the device behaves.
    pub settings: Settings,
    /// Commands that are not yet reported done.
    #[serde(default)]
    pub commands: Vec<Command>,
    /// When the version rose last, in milliseconds since 1970.
    pub changed_at_ms: u64,
}

impl Entity for Twin {
    const TABLE: Table = Table::new("twins");

    fn id(&self) -> Vec<u8> {
        self.device.as_str().into()
    }

    /// Most devices have no shadow, and nobody who asks for shadows should read those.
    fn indexes(&self) -> Vec<(&'static str, Vec<u8>)> {
        let any = (!self.shadows.is_empty()).then(|| Self::ANY.to_vec());
        let models = self.shadows.keys().map(|model| model.as_str().into());
        any.into_iter().chain(models).map(|of| (Self::SHADOWED, of)).collect()
    }
}

impl Twin {
    /// The index of the devices with a shadow, by its model.
    pub(crate) const SHADOWED: &str = "shadowed";
    /// Its value for all of them, which is the name of no model.
    pub(crate) const ANY: &[u8] = b"*";

    /// The twin of a device that has just enrolled: it should run nothing.
    pub fn new(device: DeviceId, settings: Settings, now_ms: u64) -> Self {
        Self {
            device,
            version: 1,
            models: BTreeMap::new(),
            shadows: BTreeMap::new(),
            settings,
            commands: Vec::new(),
            changed_at_ms: now_ms,
        }
    }

    /// The document for the device, as of now.
    pub fn document(
        &self,
        project: &ProjectId,
        hard_examples: BTreeMap<ModelName, HardExamples>,
        now_ms: u64,
    ) -> Desired {
        let mut models = self.models.clone();
        let agent = models.remove(&agent_name());
        Desired {
            project: project.clone(),
            device: self.device.clone(),
            version: self.version,
            issued_at_ms: now_ms,
            models,
            settings: self.settings.clone(),
            commands: self.open_commands(now_ms).cloned().collect(),
            agent,
            hard_examples,
            shadows: self.shadows.clone(),
        }
    }

    pub(crate) fn changed(&mut self, now_ms: u64) {
        self.version = self.version.saturating_add(1);
        self.changed_at_ms = now_ms;
    }

    /// Wants a release of a model, as a new attempt. The attempt is the document's version: it rises with every
    /// change, so that a release which failed on the device once is tried again when it is wanted again.
    pub(crate) fn want(
        &mut self,
        model: &ModelName,
        release: flotilla_protocol::Digest,
        envelope_bytes: u32,
        now_ms: u64,
    ) -> Result<u32, ErrorCode> {
        if self.models.len() >= limits::DESIRED_MODELS && !self.models.contains_key(model) {
            return Err(ErrorCode::TooLarge);
        }
        self.changed(now_ms);
        let attempt = u32::try_from(self.version).unwrap_or(u32::MAX);
        self.models.insert(model.clone(), DesiredModel { release, envelope_bytes, attempt });
        Ok(attempt)
    }

    /// Goes back to what was wanted before, in a newer document.
    pub(crate) fn restore(&mut self, model: &ModelName, before: Option<DesiredModel>, now_ms: u64) {
        self.changed(now_ms);
        match before {
            Some(before) => self.models.insert(model.clone(), before),
            None => {
                // There is nothing any more for it to run beside.
                self.shadows.remove(model);
                self.models.remove(model)
            }
        };
    }

    /// Wants a release beside the confirmed one of a model, as a new attempt.
    pub(crate) fn shadow(
        &mut self,
        model: &ModelName,
        release: flotilla_protocol::Digest,
        envelope_bytes: u32,
        share_per_mille: u32,
        now_ms: u64,
    ) -> Result<u32, ErrorCode> {
        if self.shadows.len() >= limits::DESIRED_SHADOWS && !self.shadows.contains_key(model) {
            return Err(ErrorCode::TooLarge);
        }
        self.changed(now_ms);
        let attempt = u32::try_from(self.version).unwrap_or(u32::MAX);
        self.shadows
            .insert(model.clone(), ShadowRelease { release, envelope_bytes, attempt, share_per_mille });
        Ok(attempt)
    }

    /// Wants none any more. Says whether that is a change.
    pub(crate) fn unshadow(&mut self, model: &ModelName, now_ms: u64) -> bool {
        let had = self.shadows.remove(model).is_some();
        if had {
            self.changed(now_ms);
        }
        had
    }

    /// Changes how the device behaves. Says whether that is a change.
    pub(crate) fn configure(&mut self, settings: Settings, now_ms: u64) -> bool {
        let differs = self.settings != settings;
        if differs {
            self.settings = settings;
            self.changed(now_ms);
        }
        differs
    }

    /// The commands whose deadline has not passed.
    pub(crate) fn open_commands(&self, now_ms: u64) -> impl Iterator<Item = &Command> {
        self.commands.iter().filter(move |command| command.deadline_ms.is_none_or(|at| now_ms < at))
    }

    /// The open command to examine itself.
    pub(crate) fn examination(&self, now_ms: u64) -> Option<u64> {
        self.open_commands(now_ms)
            .find(|command| command.kind == CommandKind::Diagnostics)
            .map(|command| command.id)
    }

    /// Adds an open command and returns its id. Whoever asks for an examination while one is open waits for that one,
    /// which then has the later of both deadlines.
    pub(crate) fn command(
        &mut self,
        kind: CommandKind,
        deadline_ms: u64,
        now_ms: u64,
    ) -> Result<u64, ErrorCode> {
        if let Some(id) = self.examination(now_ms).filter(|_| kind == CommandKind::Diagnostics) {
            let open = self.commands.iter_mut().find(|command| command.id == id);
            if let Some(at) = open.and_then(|open| open.deadline_ms.as_mut()).filter(|at| **at < deadline_ms)
            {
                *at = deadline_ms;
                self.changed(now_ms);
            }
            return Ok(id);
        }
        if self.open_commands(now_ms).count() >= COMMANDS {
            return Err(ErrorCode::Busy);
        }
        self.changed(now_ms);
        self.commands.retain(|command| command.deadline_ms.is_none_or(|at| now_ms < at));
        self.commands.push(Command { id: self.version, kind, deadline_ms: Some(deadline_ms) });
        Ok(self.version)
    }

    /// Drops the commands that are reported done. Says whether that is a change.
    pub(crate) fn finish(&mut self, done: &[CommandReport], now_ms: u64) -> bool {
        let before = self.commands.len();
        self.commands.retain(|command| done.iter().all(|report| report.id != command.id));
        let differs = self.commands.len() != before;
        if differs {
            self.changed(now_ms);
        }
        differs
    }

    /// Wants nothing of the device any more: no models, no shadows, no commands.
    pub(crate) fn clear(&mut self, now_ms: u64) {
        self.changed(now_ms);
        self.models.clear();
        self.shadows.clear();
        self.commands.clear();
    }

    /// Goes above a version that the device has accepted although we never issued it: these records come from a
    /// backup, and the device would ignore everything older. Says whether that is a change.
    pub(crate) fn overtake(&mut self, accepted: u64, now_ms: u64) -> bool {
        let behind = accepted > self.version && accepted <= VERSION_BELIEVED;
        if behind {
            self.version = accepted;
            self.changed(now_ms);
        }
        behind
    }
}

/// The last report of a device, without its models.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ReportHead {
    /// The device, once there is a report.
    pub device: Option<DeviceId>,
    /// The hello counter of the connection it came on.
    pub counter: u64,
    /// Its version within that counter.
    pub version: u64,
    /// The desired version it answers.
    pub desired_version: u64,
    /// When it came, in milliseconds since 1970.
    pub at_ms: u64,
}

impl Entity for ReportHead {
    const TABLE: Table = Table::new("reports");

    fn id(&self) -> Vec<u8> {
        self.device.as_ref().map_or_else(Vec::new, |device| device.as_str().into())
    }
}

/// What a device reports of one model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelState {
    /// The device.
    pub device: DeviceId,
    /// The model.
    pub model: ModelName,
    /// What it says.
    pub report: ModelReport,
}

impl ModelState {
    pub(crate) fn id_of(device: &DeviceId, model: &ModelName) -> Vec<u8> {
        compound([device.as_str(), model.as_str()])
    }

    pub(crate) fn prefix(device: &DeviceId) -> Vec<u8> {
        compound([device.as_str()])
    }
}

impl Entity for ModelState {
    const TABLE: Table = Table::new("report-models");

    fn id(&self) -> Vec<u8> {
        Self::id_of(&self.device, &self.model)
    }
}

/// A report within bounds and storable: texts cut, figures that are not numbers left out, and the agent's own release
/// among the models, under its reserved name.
pub(crate) fn sanitise(mut reported: Reported) -> Result<Reported, ErrorCode> {
    if reported.models.len() > limits::DESIRED_MODELS * 2
        || reported.commands.len() > limits::DESIRED_COMMANDS
    {
        return Err(ErrorCode::TooLarge);
    }
    super::shadow::sanitise(&mut reported.shadows)?;
    reported.models.remove(&agent_name());
    if let Some(agent) = reported.agent.take() {
        reported.models.insert(agent_name(), agent.upgrade);
    }
    for report in reported.models.values_mut() {
        if let Some(Failure { detail, .. }) = &mut report.failure {
            *detail = bounded(detail, DETAIL);
        }
        report.probe = report.probe.take().filter(|probe| {
            probe.max_abs_error.is_finite() && probe.p50_ms.is_finite() && probe.p95_ms.is_finite()
        });
    }
    for report in &mut reported.commands {
        if let CommandState::Failed { detail, .. } = &mut report.state {
            *detail = bounded(detail, DETAIL);
        }
        report.diagnosis = report.diagnosis.take().map(Diagnosis::bounded);
    }
    Ok(reported)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;
    use flotilla_protocol::Digest;
    use flotilla_protocol::message::{AgentReport, LogLevel, LogQuery, ProbeReport};

    fn twin() -> Twin {
        Twin::new(DeviceId::new("gate-7").unwrap(), Settings::default(), 1)
    }

    fn model(name: &str) -> ModelName {
        ModelName::new(name).unwrap()
    }

    #[test]
    fn every_change_is_a_newer_document_and_going_back_is_one_too() {
        let mut twin = twin();
        let (digits, release) = (model("digits"), Digest::of(b"r1"));
        let first = twin.want(&digits, release, 10, 5).unwrap();
        let before = twin.models.get(&digits).cloned();
        let second = twin.want(&digits, Digest::of(b"r2"), 10, 6).unwrap();
        assert!(second > first);
        let version = twin.version;
        twin.restore(&digits, before.clone(), 7);
        assert!(twin.version > version);
        assert_eq!(twin.models.get(&digits), before.as_ref());
        twin.restore(&digits, None, 8);
        assert!(twin.models.is_empty());
        assert!(
            twin.want(&digits, release, 10, 9).unwrap() > second,
            "the same release again is a new attempt"
        );
        let document = twin.document(&ProjectId::new("default").unwrap(), BTreeMap::new(), 100);
        assert_eq!((document.version, document.issued_at_ms), (twin.version, 100));
    }

    #[test]
    fn the_agents_release_travels_in_its_own_field_and_is_kept_like_a_models() {
        let mut twin = twin();
        twin.want(&agent_name(), Digest::of(b"agent"), 10, 5).unwrap();
        twin.want(&model("digits"), Digest::of(b"model"), 10, 5).unwrap();
        let document = twin.document(&ProjectId::new("default").unwrap(), BTreeMap::new(), 100);
        assert_eq!(document.agent.map(|agent| agent.release), Some(Digest::of(b"agent")));
        assert_eq!(document.models.keys().collect::<Vec<_>>(), [&model("digits")]);

        let upgrade = ModelReport { attempt: 7, ..ModelReport::default() };
        let liar = ModelReport { attempt: 8, ..ModelReport::default() };
        let reported = |agent| Reported {
            version: 1,
            desired_version: 1,
            models: [(agent_name(), liar.clone())].into(),
            commands: vec![],
            agent,
            shadows: BTreeMap::new(),
        };
        let agent = AgentReport { version: "0.2.0".into(), slot: None, upgrade: upgrade.clone() };
        assert_eq!(sanitise(reported(Some(agent))).unwrap().models, [(agent_name(), upgrade)].into());
        assert!(sanitise(reported(None)).unwrap().models.is_empty());
    }

    #[test]
    fn only_real_changes_make_a_newer_document() {
        let mut twin = twin();
        assert!(!twin.configure(Settings::default(), 5));
        assert!(!twin.finish(&[], 5));
        assert!(!twin.overtake(0, 5));
        assert_eq!(twin.version, 1);
        assert!(twin.configure(Settings { probation_s: 1, ..Settings::default() }, 5));
        assert_eq!((twin.version, twin.changed_at_ms), (2, 5));
    }

    #[test]
    fn commands_ride_along_until_they_are_reported_done() {
        let mut twin = twin();
        let ping = twin.command(CommandKind::Ping, u64::MAX, 1).unwrap();
        let other = twin.command(CommandKind::Ping, u64::MAX, 2).unwrap();
        assert_ne!(ping, other);
        assert!(twin.finish(
            &[CommandReport { id: ping, state: CommandState::Done, diagnosis: None, measured: None }],
            3
        ));
        assert_eq!(twin.commands.iter().map(|c| c.id).collect::<Vec<_>>(), [other]);
        let version = twin.version;
        assert!(!twin.finish(
            &[CommandReport { id: ping, state: CommandState::Done, diagnosis: None, measured: None }],
            4
        ));
        assert_eq!(twin.version, version, "the same report again changes nothing");
        while twin.commands.len() < COMMANDS {
            twin.command(CommandKind::Ping, u64::MAX, 5).unwrap();
        }
        assert_eq!(twin.command(CommandKind::Ping, u64::MAX, 5), Err(ErrorCode::Busy));
    }

    #[test]
    fn a_command_leaves_the_document_and_makes_room_at_its_deadline() {
        let mut twin = twin();
        while twin.command(CommandKind::Ping, 100, 1).is_ok() {}
        let document = |twin: &Twin, now| {
            twin.document(&ProjectId::new("default").unwrap(), BTreeMap::new(), now).commands
        };
        assert_eq!(document(&twin, 99).len(), COMMANDS);
        assert!(document(&twin, 100).is_empty());
        let fresh = twin.command(CommandKind::Ping, 200, 100).unwrap();
        assert_eq!(twin.commands.iter().map(|c| c.id).collect::<Vec<_>>(), [fresh]);
    }

    #[test]
    fn documents_stay_within_what_a_device_takes_and_a_record_holds() {
        let mut twin =
            Twin::new(DeviceId::new("d".repeat(limits::ID)).unwrap(), Settings::default(), u64::MAX);
        twin.overtake(u64::MAX / 2, u64::MAX);
        let name = |n: usize| model(&format!("{n:0>64}"));
        for n in 0..limits::DESIRED_MODELS {
            twin.want(&name(n), Digest::of(b"r"), limits::ENVELOPE as u32, 1).unwrap();
        }
        assert_eq!(twin.want(&model("one-more"), Digest::of(b"r"), 1, 1), Err(ErrorCode::TooLarge));
        twin.want(&name(0), Digest::of(b"r2"), limits::ENVELOPE as u32, 1).unwrap();
        for n in 0..limits::DESIRED_SHADOWS {
            twin.shadow(&name(n), Digest::of(b"s"), limits::ENVELOPE as u32, 1_000, 1).unwrap();
        }
        assert_eq!(
            twin.shadow(&name(63), Digest::of(b"s"), 1, 1_000, 1),
            Err(ErrorCode::TooLarge),
            "one shadow more"
        );
        let (from_ms, to_ms, max_bytes) = (u64::MAX - 1, u64::MAX, u32::MAX);
        let largest = CommandKind::LogPull(LogQuery { from_ms, to_ms, max_bytes, level: LogLevel::Unknown });
        while twin.command(largest.clone(), u64::MAX, 1).is_ok() {}
        twin.document(&ProjectId::new("default").unwrap(), BTreeMap::new(), 1).check().unwrap();
        let size = serde_json::to_string(&twin).unwrap().len();
        assert!(size <= limits::RECORD, "{size}");
    }

    #[test]
    fn a_twin_from_a_backup_overtakes_what_the_device_has_accepted() {
        let mut twin = twin();
        assert!(twin.overtake(40, 5));
        assert_eq!(twin.version, 41);
        assert!(!twin.overtake(u64::MAX, 5), "a device cannot push its twin to the end of all numbers");
        assert_eq!(twin.version, 41);
    }

    #[test]
    fn a_report_is_storable_whatever_the_device_says() {
        let probe =
            ProbeReport { vectors: 1, max_abs_error: f32::NAN, p50_ms: 1.0, p95_ms: 2.0, peak_rss_bytes: 3 };
        let failure =
            Failure { release: Digest::of(b"r"), code: ErrorCode::Internal, detail: "ü".repeat(5000) };
        let report = ModelReport { probe: Some(probe), failure: Some(failure), ..ModelReport::default() };
        let mut reported = Reported {
            version: 1,
            desired_version: 1,
            models: [(model("m"), report)].into(),
            commands: vec![],
            agent: None,
            shadows: BTreeMap::new(),
        };
        let kept = sanitise(reported.clone()).unwrap();
        let report = &kept.models[&model("m")];
        assert_eq!(report.probe, None);
        assert_eq!(report.failure.as_ref().unwrap().detail.len(), DETAIL);
        let text = serde_json::to_string(report).unwrap();
        assert_eq!(serde_json::from_str::<ModelReport>(&text).unwrap(), *report);
        for n in 0..=limits::DESIRED_MODELS * 2 {
            reported.models.insert(model(&format!("x{n}")), ModelReport::default());
        }
        assert_eq!(sanitise(reported), Err(ErrorCode::TooLarge));
    }
}

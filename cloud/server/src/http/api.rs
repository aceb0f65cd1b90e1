//! The bodies of the HTTP API, shared by its handlers, the command line and the console.

mod commands;
mod devices;
mod diagnosis;
mod experiments;
mod hard;
mod rollouts;
mod shadow;
mod summary;
mod telemetry;
mod twin;

pub use commands::{CommandRequest, CommandView};
pub use devices::{
    AdmissionRequest, DecommissionRequest, DeviceIdPage, GroupChange, GroupPreview, GroupRequest, GroupView,
    QuarantineRequest, RanView, RegisteredView, RegistrationView, TagAnswer, TagRequest,
};
pub use diagnosis::{DiagnosisAnswer, DiagnosisView, FindingView};
pub use experiments::{
    ExperimentMetric, ExperimentPromotion, ExperimentRequest, ExperimentStop, ExperimentView, HalfView,
};
use flotilla_protocol::ErrorCode;
pub use hard::{
    HardConsentAnswer, HardConsentRequest, HardConsentView, HardDecision, HardDecisionView, HardExamplePage,
    HardExampleView, HardPolicy, UnlabelledView,
};
pub use rollouts::{
    EvidenceView, GateFindingView, ObstacleView, RampView, RolloutDevicePage, RolloutDeviceRequest,
    RolloutPlanView, RolloutRequest, RolloutView, ShadowStageRequest, ShadowStageView, WatchView, WaveCounts,
    WaveDeviceView, WaveView,
};
use serde::{Deserialize, Serialize};
pub use shadow::{
    DisagreementView, ShadowDeviceView, ShadowFiguresView, ShadowRequest, ShadowStop, ShadowView,
};
use std::collections::BTreeMap;
pub use summary::{BoardCount, ConcernView, FleetSummaryView, ModelCounts, ReleaseCounts};
pub use telemetry::{
    ClassCount, DeviceTelemetryView, DriftView, EventView, HistoryView, NpuView, ReleaseTelemetryView,
};
pub use twin::{TwinDifference, TwinModelView, TwinView};
use utoipa::ToSchema;

/// Any JSON object whose shape another crate owns.
pub type Json = serde_json::Value;

/// A dataset and its newest version.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct DatasetView {
    /// Name.
    pub name: String,
    /// Newest version.
    pub version: u32,
    /// Samples of that version.
    pub samples: u64,
    /// Label names.
    pub class_names: Vec<String>,
    /// Number of labels.
    pub classes: usize,
    /// Samples of the training split.
    pub train: u64,
    /// Samples of the validation split.
    pub validation: u64,
    /// Samples of the test split.
    pub test: u64,
    /// Samples that nobody has labelled; they are in no split.
    #[serde(default)]
    pub unlabelled: u64,
}

/// How far a running import is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImportProgressView {
    /// What it is doing: `reading`, `finishing` or `done`.
    pub stage: String,
    /// Samples so far.
    pub done: u64,
    /// Samples in all, where that is known before.
    pub total: Option<u64>,
}

/// What an import did.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ImportView {
    /// The dataset as it is now.
    pub dataset: DatasetView,
    /// Whether the very same content was there already.
    pub unchanged: bool,
    /// Samples imported.
    pub imported: u64,
    /// Samples with the same content as another.
    pub duplicates: u64,
    /// Bad samples in all.
    pub skipped_total: u64,
    /// The first of them.
    pub skipped: Vec<SkippedView>,
}

/// A sample that was not imported.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct SkippedView {
    /// File within the source.
    pub file: String,
    /// Line, for text files.
    pub line: Option<u64>,
    /// Why.
    pub reason: String,
}

/// One sample of a version.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct SampleView {
    /// Content address: the last segment of the sample's route.
    pub digest: String,
    /// Index of its label.
    pub label: u32,
}

/// Starts a training job.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainRequest {
    /// Dataset name.
    pub dataset: String,
    /// Dataset version; the newest by default.
    #[serde(default)]
    pub dataset_version: Option<u32>,
    /// The model that gets a new version.
    pub model: String,
    /// Settings of the algorithm; every one has a default.
    #[serde(default)]
    pub config: Json,
}

/// Starts a compression job.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CompressRequest {
    /// The model.
    pub model: String,
    /// The version to compress; the newest by default.
    #[serde(default)]
    pub version: Option<u32>,
    /// Largest acceptable drop of test accuracy, absolute.
    #[serde(default = "default_max_drop")]
    pub max_drop: f64,
    /// Largest acceptable size of the file in bytes.
    #[serde(default)]
    pub max_bytes: Option<u64>,
}

/// The default accuracy budget.
pub fn default_max_drop() -> f64 {
    0.01
}

/// A job.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct JobView {
    /// Id.
    pub id: String,
    /// `train` or `compress`.
    pub kind: String,
    /// queued, running, succeeded, failed, cancelling or cancelled.
    pub state: String,
    /// Which attempt runs or ran.
    pub attempt: u32,
    /// How far it is.
    pub progress: Option<ProgressView>,
    /// What was asked for.
    pub spec: Json,
    /// The newest metrics, oldest first.
    pub metrics: Vec<Json>,
    /// What came out.
    pub result: Option<Json>,
    /// Why it failed.
    pub failure: Option<FailureView>,
    /// Milliseconds since 1970.
    pub created_at_ms: u64,
    /// Milliseconds since 1970.
    pub finished_at_ms: Option<u64>,
}

impl JobView {
    /// Whether nothing will happen to it any more.
    pub fn is_over(&self) -> bool {
        matches!(self.state.as_str(), "succeeded" | "failed" | "cancelled")
    }
}

/// How far a job is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ProgressView {
    /// Steps done.
    pub done: u64,
    /// All steps.
    pub total: u64,
    /// What the steps are.
    pub stage: String,
}

/// Why something failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FailureView {
    /// The stable code.
    pub code: String,
    /// For people.
    pub detail: String,
}

impl FailureView {
    /// A failure with this code.
    pub fn new(code: ErrorCode, detail: impl ToString) -> Self {
        Self { code: code.to_string(), detail: detail.to_string() }
    }
}

/// A device on which an order was not possible.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct OrderFailure {
    /// Device id.
    pub device: String,
    /// Why.
    pub failure: FailureView,
}

/// A model version.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ModelVersionView {
    /// Model.
    pub model: String,
    /// Version.
    pub version: u32,
    /// trained, compressed or imported.
    pub source: String,
    /// Digest of the ONNX file.
    pub onnx: String,
    /// Size of the ONNX file.
    pub bytes: u64,
    /// Accuracy on the test split, measured by the runtime on this file.
    pub accuracy: Option<f64>,
    /// Dataset it was trained on.
    pub dataset: String,
    /// Version of that dataset.
    pub dataset_version: u32,
    /// What compression did.
    pub recipe: String,
    /// The job that made it.
    pub job: String,
    /// Milliseconds since 1970.
    pub created_at_ms: u64,
}

/// Accuracy of a model version on a split, measured by the runtime in the control plane.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct EvaluationView {
    /// Samples.
    pub total: u64,
    /// Of these right.
    pub correct: u64,
    /// Share of right ones.
    pub accuracy: f64,
    /// Predicted label index a sample, in the order of the samples route.
    pub predictions: Vec<u32>,
}

/// Makes a release of a model version.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReleaseRequest {
    /// The model.
    pub model: String,
    /// The version; the newest by default.
    #[serde(default)]
    pub version: Option<u32>,
    /// The boards that it is for, by the names of their profiles; every board by default. Others refuse it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub boards: Vec<String>,
}

/// A signed release.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ReleaseView {
    /// Model.
    pub model: String,
    /// Model version.
    pub version: u32,
    /// Release counter.
    pub counter: u64,
    /// Digest of the signed envelope: the release's identity.
    pub digest: String,
    /// Bytes of all files.
    pub bytes: u64,
    /// The key that signed.
    pub key_id: String,
    /// Accuracy stated in the manifest.
    pub accuracy: Option<f64>,
    /// Milliseconds since 1970.
    pub created_at_ms: u64,
    /// Version of the agent, of a release of the agent itself.
    #[serde(default)]
    pub agent: Option<String>,
}

/// Asks for a claim code.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ClaimRequest {
    /// How many devices may enrol with it.
    #[serde(default = "one")]
    pub uses: u32,
    /// How long it is valid.
    #[serde(default = "one_day")]
    pub valid_s: u64,
    /// The static group that its devices join.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Labels that its devices get.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// Attributes that they get.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
    /// Whether they wait for somebody's approval: they may connect, and get nothing before.
    #[serde(default)]
    pub approval: bool,
    /// Whether it is for registered serial numbers only.
    #[serde(default)]
    pub registered: bool,
}

impl ClaimRequest {
    /// A claim for so many devices and seconds that gives nothing beside certificates.
    pub fn plain(uses: u32, valid_s: u64) -> Self {
        Self {
            uses,
            valid_s,
            group: None,
            labels: Vec::new(),
            attributes: BTreeMap::new(),
            approval: false,
            registered: false,
        }
    }
}

fn one() -> u32 {
    1
}

fn one_day() -> u64 {
    86_400
}

/// A new claim code. It is shown once.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ClaimView {
    /// The text for the device's claim file.
    pub code: String,
    /// Milliseconds since 1970.
    pub expires_at_ms: u64,
}

/// A device as operators see it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct DeviceView {
    /// Id.
    pub id: String,
    /// Whether it is connected now.
    pub connected: bool,
    /// The same, under the name that search goes by.
    #[serde(default)]
    pub online: bool,
    /// The state of the model that is worst off, or `idle`; `waiting` for one that waits for approval; `revoked` or `decommissioned` for one that is shut out for
    /// good, `quarantined` for one in quarantine.
    pub state: String,
    /// Why no rollout takes it, if it is in quarantine.
    #[serde(default)]
    pub quarantine: Option<String>,
    /// The name that operators gave it.
    #[serde(default)]
    pub name: Option<String>,
    /// The labels that operators gave it.
    #[serde(default)]
    pub labels: Vec<String>,
    /// The attributes that operators gave it.
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
    /// The groups that it is in; told of a single device only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<Vec<String>>,
    /// When it enrolled, in milliseconds since 1970.
    #[serde(default)]
    pub enrolled_at_ms: u64,
    /// The serial number that it said its board has: its word, and no proof.
    #[serde(default)]
    pub serial: Option<String>,
    /// Engines that its agent can run.
    #[serde(default)]
    pub engines: Vec<String>,
    /// Logical CPUs.
    #[serde(default)]
    pub cpus: u32,
    /// Its memory.
    #[serde(default)]
    pub memory_bytes: u64,
    /// Operating system and its version.
    #[serde(default)]
    pub os: String,
    /// Board profile.
    pub board: String,
    /// CPU architecture.
    pub arch: String,
    /// Agent version.
    pub agent: String,
    /// Where the agent's own release stands, once there is one.
    #[serde(default)]
    pub agent_upgrade: Option<AgentUpgradeView>,
    /// Its models, wanted or running, by name.
    pub models: Vec<DeviceModelView>,
    /// Memory of the agent.
    pub rss_bytes: Option<u64>,
    /// CPU use of the whole device, 0 to 100.
    #[serde(default)]
    pub cpu_percent: Option<f32>,
    /// Free bytes on its disk.
    #[serde(default)]
    pub disk_free_bytes: Option<u64>,
    /// Its highest temperature, in degrees Celsius.
    #[serde(default)]
    pub temperature_c: Option<f32>,
    /// Bytes that came in over its network since it started, whoever they were for.
    #[serde(default)]
    pub received_bytes: Option<u64>,
    /// Bytes that went out since then.
    #[serde(default)]
    pub network_sent_bytes: Option<u64>,
    /// Its neural processing units.
    #[serde(default)]
    pub npus: Vec<NpuView>,
    /// MQTT payload sent to it since it enrolled.
    pub bytes_sent: u64,
    /// Milliseconds since 1970.
    pub last_seen_ms: u64,
    /// Events and telemetry samples that came from it.
    #[serde(default)]
    pub records: u64,
    /// Those that it declared dropped, because its outbox was full.
    #[serde(default)]
    pub records_dropped: u64,
    /// Those that are missing without a word.
    #[serde(default)]
    pub records_missing: u64,
    /// Hellos whose counter did not rise: the device's folder may have been copied.
    #[serde(default)]
    pub repeated_hellos: u64,
    /// The last thing that it got wrong.
    #[serde(default)]
    pub problem: Option<FailureView>,
    /// Serial numbers of the certificates that it may show.
    #[serde(default)]
    pub certificates: Vec<String>,
    /// When the newest of these ends, in milliseconds since 1970.
    #[serde(default)]
    pub certificate_ends_ms: Option<u64>,
    /// Its question for a new certificate after the end of the old one: pending, approved or rejected.
    #[serde(default)]
    pub renewal: Option<String>,
    /// The digest of the new key that this is about, hex: an approval names it.
    #[serde(default)]
    pub renewal_key: Option<String>,
}

impl DeviceView {
    /// Whether it may not connect any more, whatever its models last said.
    pub fn is_shut_out(&self) -> bool {
        matches!(self.state.as_str(), "revoked" | "decommissioned")
    }

    /// Its model of this name.
    pub fn model(&self, name: &str) -> Option<&DeviceModelView> {
        self.models.iter().find(|model| model.model == name)
    }
}

/// A model on a device.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct DeviceModelView {
    /// Name.
    pub model: String,
    /// What the update machine does.
    pub state: String,
    /// The model version that it runs.
    pub version: Option<u32>,
    /// The confirmed release.
    pub release: Option<String>,
    /// The slot that serves.
    pub slot: Option<String>,
    /// Verified bytes of a release on its way in.
    pub bytes_done: u64,
    /// All bytes of it.
    pub bytes_total: u64,
    /// Bytes of it that were on the device already and are not fetched.
    pub bytes_reused: u64,
    /// Bytes of it that were made from patches instead of being fetched.
    pub bytes_rebuilt: u64,
    /// Bytes of these patches.
    pub bytes_patches: u64,
    /// The last probe.
    pub probe: Option<ProbeView>,
    /// Why the last update failed.
    pub failure: Option<FailureView>,
    /// Accuracy: counted on the device if an evaluation was recorded, else as the release states it.
    pub accuracy: Option<f64>,
    /// Which of the two it is.
    pub accuracy_source: Option<String>,
    /// Median latency upper bound in microseconds.
    pub p50_us: Option<u64>,
    /// 95th percentile upper bound in microseconds.
    pub p95_us: Option<u64>,
    /// 99th percentile upper bound in microseconds.
    #[serde(default)]
    pub p99_us: Option<u64>,
    /// Predictions answered since the agent's start.
    pub predictions: u64,
    /// Predictions failed since the agent's start.
    pub failures: u64,
    /// Answers a label since the agent's start, the most frequent first.
    #[serde(default)]
    pub classes: Vec<ClassCount>,
    /// Answers by the score of the answered label, a tenth each from 0; trailing zeros are left out.
    #[serde(default)]
    pub confidence: Vec<u64>,
    /// How far inputs and answers of late are from the training data; null if the device cannot tell.
    #[serde(default)]
    pub drift: Option<DriftView>,
}

/// Which request for a certificate is approved.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ApproveRequest {
    /// The `renewal_key` that was looked at. Refused if another request has taken its place.
    pub key: String,
}

/// Why a renewal is rejected.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RejectRequest {
    /// For people, the device's log included.
    pub reason: String,
}

/// The trust file in force.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct TrustView {
    /// Its version.
    pub version: u64,
    /// What it says.
    pub document: Json,
    /// The signed envelope, hex.
    pub envelope: String,
}

/// Where the agent's own release stands on a device.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct AgentUpgradeView {
    /// Phase of the upgrade.
    pub phase: String,
    /// The confirmed release; none for the agent as it was installed.
    pub release: Option<String>,
    /// The release that is wanted.
    pub wanted: Option<String>,
    /// The slot it runs from.
    pub slot: Option<String>,
    /// Why the last upgrade failed.
    pub failure: Option<FailureView>,
}

/// What a device's probe measured.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ProbeView {
    /// Largest absolute difference from the golden outputs.
    pub max_abs_error: f32,
    /// Median latency in milliseconds.
    pub p50_ms: f64,
    /// 95th percentile in milliseconds.
    pub p95_ms: f64,
}

/// Records how a device did on labelled samples sent to its own endpoint.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeviceEvaluation {
    /// The release that answered.
    pub release: String,
    /// Samples.
    pub total: u64,
    /// Of these right.
    pub correct: u64,
}

/// A compression report in short.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CompressionView {
    /// Model.
    pub model: String,
    /// The compressed version.
    pub version: u32,
    /// What was done.
    pub recipe: String,
    /// Size before.
    pub bytes_before: u64,
    /// Size after.
    pub bytes_after: u64,
    /// Test accuracy before.
    pub accuracy_before: f64,
    /// Test accuracy after.
    pub accuracy_after: f64,
    /// Median latency before, in milliseconds.
    pub latency_before_ms: f64,
    /// Median latency after, in milliseconds.
    pub latency_after_ms: f64,
    /// Layer by layer.
    pub layers: Vec<LayerView>,
}

/// What compression did to one layer.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct LayerView {
    /// Name.
    pub name: String,
    /// Bytes before.
    pub bytes_before: u64,
    /// Bytes after.
    pub bytes_after: u64,
    /// Relative error of the model's output with only this layer compressed.
    pub output_error: f64,
}

/// The whole state that the console shows.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Overview {
    /// The control plane itself.
    pub server: ServerView,
    /// Datasets, oldest first.
    pub datasets: Vec<DatasetView>,
    /// Jobs, oldest first.
    pub jobs: Vec<JobView>,
    /// Compression reports, oldest first.
    pub compression: Vec<CompressionView>,
    /// Releases, oldest first.
    pub releases: Vec<ReleaseView>,
    /// Devices in figures.
    pub fleet: FleetView,
    /// Devices whose models have drifted most, the farthest first.
    pub drifted: Vec<DeviceView>,
    /// Rollouts, oldest first.
    pub rollouts: Vec<RolloutView>,
    /// The first hard examples that wait for a decision.
    pub hard_examples: Vec<HardExampleView>,
    /// Releases that run beside confirmed ones.
    pub shadows: Vec<ShadowView>,
}

/// The devices in figures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FleetView {
    /// Devices, those that are revoked with them, but not those that have been decommissioned.
    pub total: usize,
    /// Devices that are connected.
    pub online: usize,
    /// Devices by state.
    pub states: BTreeMap<String, usize>,
    /// Another number than before says that a device has changed: ask for those that you show.
    pub changes: u64,
}

/// The control plane itself.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ServerView {
    /// Version.
    pub version: String,
    /// The project.
    pub project: String,
    /// Milliseconds since 1970.
    pub started_at_ms: u64,
    /// Chunk bytes sent to devices since the start.
    pub bytes_over_mqtt: u64,
}

/// A one-time address that opens the console.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct LoginView {
    /// Open it once, within ten minutes.
    pub url: String,
}

/// Who a token or session belongs to.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct WhoAmI {
    /// Actor id.
    pub actor: String,
    /// Kind of actor.
    pub kind: String,
}

/// Whether the control plane is up.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// `ok`.
    pub status: String,
    /// Version of the control plane.
    pub version: String,
}

/// One entry of the audit trail.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct AuditView {
    /// Milliseconds since 1970.
    pub at_ms: u64,
    /// Who.
    pub actor: String,
    /// What was done.
    pub action: String,
    /// To what.
    pub subject: String,
    /// More about it.
    pub detail: Json,
}

/// Asks for the accuracy of a model version on a split.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EvaluateRequest {
    /// Dataset.
    pub dataset: String,
    /// Dataset version.
    pub version: u32,
    /// train, validation or test.
    pub split: String,
}

//! One device: how it comes into the fleet, and what is known of it.

use super::{ClassCount, DriftView, FailureView, NpuView};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

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

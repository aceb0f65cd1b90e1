//! One hard example, and what was received of a device today.

use super::medium::Medium;
use flotilla_protocol::message::HardExample;
use flotilla_protocol::{ActorId, DatasetName, DeviceId, Digest, ModelName};
use flotilla_storage::{Entity, Table, compound};
use serde::{Deserialize, Serialize};

/// Where a hard example stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum ExampleState {
    /// Nobody has decided yet.
    Quarantined,
    /// It is an unlabelled sample.
    Accepted {
        /// Of this dataset.
        dataset: DatasetName,
        /// The first version that has it.
        version: u32,
        /// When, in milliseconds since 1970.
        at_ms: u64,
        /// Who decided.
        by: ActorId,
    },
    /// Its bytes are deleted.
    Rejected {
        /// When, in milliseconds since 1970.
        at_ms: u64,
        /// Who decided.
        by: ActorId,
    },
}

impl ExampleState {
    /// The names of all states.
    pub const NAMES: [&'static str; 3] = ["quarantined", "accepted", "rejected"];

    /// The stable name.
    pub fn as_str(&self) -> &'static str {
        match self {
            ExampleState::Quarantined => "quarantined",
            ExampleState::Accepted { .. } => "accepted",
            ExampleState::Rejected { .. } => "rejected",
        }
    }

    /// When it was decided.
    pub(super) fn decided_ms(&self) -> Option<u64> {
        match self {
            ExampleState::Quarantined => None,
            ExampleState::Accepted { at_ms, .. } | ExampleState::Rejected { at_ms, .. } => Some(*at_ms),
        }
    }
}

/// A hard example that came in whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quarantined {
    /// SHA-256 of its bytes.
    pub digest: Digest,
    /// How many they are.
    pub bytes: u64,
    /// What it is.
    #[serde(default)]
    pub medium: Medium,
    /// Columns of a picture.
    pub width: u32,
    /// Rows of a picture.
    pub height: u32,
    /// How long a recording is.
    #[serde(default)]
    pub milliseconds: u32,
    /// The device that sent it first.
    pub device: DeviceId,
    /// What the model said, as the device tells it.
    pub example: HardExample,
    /// The dataset that the device's policy named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset: Option<DatasetName>,
    /// When it was complete, in milliseconds since 1970.
    pub received_at_ms: u64,
    /// Where it stands.
    pub state: ExampleState,
}

impl Entity for Quarantined {
    const TABLE: Table = Table::new("hard-examples");

    fn id(&self) -> Vec<u8> {
        self.digest.as_bytes().to_vec()
    }

    fn indexes(&self) -> Vec<(&'static str, Vec<u8>)> {
        vec![("state", self.state.as_str().into())]
    }
}

/// What was received of one model of a device on one day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Received {
    pub(super) device: DeviceId,
    pub(super) model: ModelName,
    /// Days since 1970.
    pub(super) day: u64,
    pub(super) bytes: u64,
}

impl Received {
    pub(super) fn id_of(device: &DeviceId, model: &ModelName) -> Vec<u8> {
        compound([device.as_str(), model.as_str()])
    }
}

impl Entity for Received {
    const TABLE: Table = Table::new("hard-received");

    fn id(&self) -> Vec<u8> {
        Self::id_of(&self.device, &self.model)
    }
}

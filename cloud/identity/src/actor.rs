//! Who acts.

use flotilla_protocol::{ActorId, DeviceId};
use serde::{Deserialize, Serialize};

/// Who acts. An actor comes from [`crate::Identity`], from a device's certificate, or from the control plane.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Actor {
    /// Its name in the audit trail.
    pub id: ActorId,
    /// What it is.
    pub kind: ActorKind,
}

/// What an actor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActorKind {
    /// The person who holds the administrator token.
    Administrator,
    /// A device, known by its certificate.
    Device,
    /// The control plane itself: its reconcilers and job workers.
    System,
}

impl Actor {
    /// The holder of the administrator token.
    pub fn administrator() -> Self {
        Self { id: fixed("administrator"), kind: ActorKind::Administrator }
    }

    /// The control plane itself.
    pub fn system() -> Self {
        Self { id: fixed("system"), kind: ActorKind::System }
    }

    /// The device with this id.
    pub fn device(device: &DeviceId) -> Self {
        Self { id: fixed(device.as_str()), kind: ActorKind::Device }
    }
}

fn fixed(text: &str) -> ActorId {
    ActorId::new(text).expect("all ids share one alphabet and length")
}

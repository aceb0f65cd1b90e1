//! What is remembered of an experiment and of each of its devices.

use crate::rollout::{Figures, Wanted, Watch, Watched};
use flotilla_gates::versus::Side;
use flotilla_protocol::{ActorId, DeviceId, Digest, ExperimentId, GroupName, ModelName, RolloutId};
use flotilla_storage::{Entity, Table, compound};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// An experiment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Experiment {
    /// Its id.
    pub id: ExperimentId,
    /// What people call it; empty if they do not.
    pub name: String,
    /// The model.
    pub model: ModelName,
    /// The release that stays where there is no difference that matters, and its devices.
    pub a: Half,
    /// The release that is tried, and its devices.
    pub b: Half,
    /// So many of a hundred devices run B.
    pub share: u8,
    /// Whose devices they are.
    pub members: super::Members,
    /// Devices that cannot take one of the releases and take no part, by the code of what is in the way.
    pub left_out: BTreeMap<String, u32>,
    /// How long the halves are compared, and in what.
    pub watch: Watch,
    /// Who decides.
    pub winner: Winner,
    /// Where it stands.
    pub state: ExperimentState,
    /// Why it stands there.
    pub reason: String,
    /// What has been compared.
    pub compared: Option<Contest>,
    /// What came of it.
    pub decision: Option<Decision>,
    /// The rollout of the winner to the others.
    pub promotion: Option<Promotion>,
    /// Whether both halves go back to what they ran before.
    pub goes_back: bool,
    /// Who started it.
    pub created_by: ActorId,
    /// When, in milliseconds since 1970.
    pub created_at_ms: u64,
    /// When there was nothing left to do.
    pub finished_at_ms: Option<u64>,
}

/// A release and the devices that try it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Half {
    /// The release.
    pub wanted: Wanted,
    /// Its devices.
    pub devices: u32,
    /// The rollout that brings it to them; none where all should run it already.
    pub rollout: Option<RolloutId>,
}

/// Who decides what becomes of an experiment whose comparison is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Winner {
    /// The evidence, where there is any.
    Auto,
    /// An operator.
    Ask,
}

impl Winner {
    /// The stable text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Ask => "ask",
        }
    }
}

/// Where an experiment stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExperimentState {
    /// The halves are being updated.
    Running,
    /// Both run what they should, and are compared.
    Comparing,
    /// It waits for an operator.
    Decided,
    /// The winner goes to the others.
    Promoting,
    /// The winner is promoted.
    Succeeded,
    /// An operator ended it.
    Stopped,
    /// It came to nothing.
    Failed,
}

impl ExperimentState {
    /// The stable text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Comparing => "comparing",
            Self::Decided => "decided",
            Self::Promoting => "promoting",
            Self::Succeeded => "succeeded",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }
}

/// What the halves said of each other, window by window. Both watches keep the same times.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Contest {
    /// What speaks against A.
    pub a: Watched,
    /// What speaks against B.
    pub b: Watched,
}

/// What came of the comparison.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// The winner; none where people have to weigh.
    pub winner: Option<Side>,
    /// Why.
    pub reason: String,
}

/// The winner goes to the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promotion {
    /// The winner.
    pub side: Side,
    /// The rollout.
    pub rollout: RolloutId,
    /// Whether it is to all whose devices took part, late comers too, and not just to the other half.
    pub to_all: bool,
}

impl Experiment {
    pub(crate) const BY_STATE: &'static str = "active";
    /// The index value of experiments that may have something left to do.
    pub(crate) const ACTIVE: &'static [u8] = b"1";

    /// Whether there may be something left to do.
    pub fn is_active(&self) -> bool {
        self.finished_at_ms.is_none()
    }

    /// One of the halves.
    pub fn half(&self, side: Side) -> &Half {
        match side {
            Side::A => &self.a,
            Side::B => &self.b,
        }
    }

    /// Pairs of devices that there might be: each device is in one at most.
    pub fn pairs(&self) -> u32 {
        self.a.devices.min(self.b.devices)
    }

    /// The group whose devices they are, if they are those of one.
    pub fn group(&self) -> Option<&GroupName> {
        match &self.members {
            super::Members::Group(group) => Some(group),
            _ => None,
        }
    }

    /// A rollout of this experiment. One that is decided at the same moment is the same.
    pub(super) fn rollout_id(id: &ExperimentId, part: &str, now_ms: u64) -> RolloutId {
        let hash = Digest::of(format!("{id}/{part}").as_bytes()).to_string();
        let end: String = hash.chars().filter(char::is_ascii_hexdigit).rev().take(8).collect();
        RolloutId::new(format!("rollout-{now_ms:012x}-{end}")).expect("hex digits and dashes make an id")
    }
}

impl Entity for Experiment {
    const TABLE: Table = Table::new("experiments");

    fn id(&self) -> Vec<u8> {
        self.id.as_str().into()
    }

    fn indexes(&self) -> Vec<(&'static str, Vec<u8>)> {
        if self.is_active() { vec![(Self::BY_STATE, Self::ACTIVE.to_vec())] } else { Vec::new() }
    }
}

/// A device in an experiment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ExperimentDevice {
    pub(super) experiment: ExperimentId,
    pub(super) side: Side,
    /// Its place in its half: the device at the same place of the other one is the one that it is compared with.
    pub(super) place: u32,
    pub(super) device: DeviceId,
    /// What it said of the model before it was told anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) before: Option<Box<Figures>>,
    /// Whether it should run the release of its half already.
    pub(super) has_it: bool,
}

impl ExperimentDevice {
    pub(super) fn prefix(experiment: &ExperimentId, side: Side) -> Vec<u8> {
        compound([experiment.as_str(), side.as_str()])
    }
}

impl Entity for ExperimentDevice {
    const TABLE: Table = Table::new("experiment-devices");

    fn id(&self) -> Vec<u8> {
        compound([
            self.experiment.as_str().as_bytes(),
            self.side.as_str().as_bytes(),
            &self.place.to_be_bytes(),
        ])
    }
}

/// Puts devices into an order that depends on nothing but the experiment and them, and gives so many of a hundred to B,
/// evenly: of half and half, each two neighbours are one of A and one of B.
pub(super) fn halves(id: &ExperimentId, devices: Vec<DeviceId>, share: u8) -> (Vec<DeviceId>, Vec<DeviceId>) {
    let mut order: Vec<(Digest, DeviceId)> =
        devices.into_iter().map(|device| (Digest::of(format!("{id}/{device}").as_bytes()), device)).collect();
    order.sort();
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for (place, (_, device)) in order.into_iter().enumerate() {
        let of_b = |devices: usize| devices * usize::from(share) / 100;
        if of_b(place + 1) > of_b(place) { b.push(device) } else { a.push(device) }
    }
    (a, b)
}

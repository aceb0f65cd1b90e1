//! A device: what it is, which certificates it may show, and what it got wrong.

use super::tags::Tags;
use crate::ca::{DeviceCertificate, Serial};
use crate::error::Error;
use crate::text::{bounded, millis};
use flotilla_protocol::enrol::BoardSerial;
use flotilla_protocol::message::{BoardFacts, Epoch, Hello};
use flotilla_protocol::{ActorId, DeviceId, Digest, ErrorCode, ProjectId, limits};
use flotilla_storage::{Entity, Table};
use serde::{Deserialize, Serialize};

/// Certificates that one device may hold: the current one, and some that are to take over, of which the last counts.
const CERTIFICATES: usize = 4;
/// Certificates that are signed for a device within [`RENEWAL_WINDOW_MS`], the first aside.
const RENEWALS: usize = 6;
/// The time over which they are counted; the life of one certificate if that is shorter.
const RENEWAL_WINDOW_MS: u64 = 60 * 60 * 1000;
/// Retired certificates that are remembered a device.
const RETIRED: usize = 8;
/// A device that was heard of so long after it retired a certificate knows its new one: until then it may still try the
/// old one, should the answer to its hello have been lost.
const SETTLED_MS: u64 = 60 * 1000;
/// Signs of a copied folder are raised as an event at most this often a device.
const RAISE_MS: u64 = 60 * 60 * 1000;
/// Engines that a device may name.
pub(crate) const ENGINES: usize = 16;
/// Longest text of a board fact that is kept.
const FACT: usize = 128;

/// A device of the fleet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Device {
    /// Its id.
    pub id: DeviceId,
    /// Its project.
    pub project: ProjectId,
    /// What it is made of, as it says.
    pub board: BoardFacts,
    /// Whether it may connect.
    pub state: DeviceState,
    /// The certificates it may show.
    pub certificates: Vec<Certificate>,
    /// The last certificates that a newer one has retired.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retired: Vec<Retired>,
    /// When its last certificates after the first were signed, in milliseconds since 1970.
    #[serde(default)]
    pub renewed_ms: Vec<u64>,
    /// When it enrolled, in milliseconds since 1970.
    pub enrolled_at_ms: u64,
    /// With which claim.
    pub claim: String,
    /// Its last message that was recorded; the connection table knows newer ones.
    #[serde(default)]
    pub last_seen_ms: Option<u64>,
    /// The highest hello counter seen.
    #[serde(default)]
    pub hello_counter: u64,
    /// The epoch of its outbox.
    #[serde(default)]
    pub epoch: Option<Epoch>,
    /// Version of its agent.
    #[serde(default)]
    pub agent: String,
    /// Version of its trust file.
    #[serde(default)]
    pub trust_version: u64,
    /// What it got wrong.
    #[serde(default)]
    pub health: Health,
    /// Bytes of payload to and from it, as far as they are written down.
    #[serde(default)]
    pub traffic: Traffic,
    /// Updates in a row that it has failed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub failed_updates: u32,
    /// What operators have written on it.
    #[serde(default, skip_serializing_if = "Tags::is_empty")]
    pub tags: Tags,
    /// Why no rollout takes it, if it is in quarantine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantine: Option<Quarantine>,
    /// The serial number that it said its board has when it enrolled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<BoardSerial>,
}

/// A device that connects and works, and that no rollout takes before it is released.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantine {
    /// Since when, in milliseconds since 1970.
    pub at_ms: u64,
    /// Who said so.
    pub by: ActorId,
    /// Why.
    pub reason: String,
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// Whether a device may connect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum DeviceState {
    /// It may.
    Active,
    /// It may, so that it can be seen, but gets nothing until somebody has approved it.
    Waiting {
        /// Since when, in milliseconds since 1970.
        since_ms: u64,
    },
    /// It may not, for good.
    Revoked {
        /// When, in milliseconds since 1970.
        at_ms: u64,
        /// Who said so.
        by: ActorId,
        /// Why.
        reason: String,
    },
    /// It has served its time: it may not, for good, and is shown to those only who ask for it.
    Decommissioned {
        /// When, in milliseconds since 1970.
        at_ms: u64,
        /// Who said so.
        by: ActorId,
        /// Why.
        reason: String,
    },
}

/// A certificate of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Its serial number in hex.
    pub serial: String,
    /// Digest of the public key.
    pub key: Digest,
    /// When it ends, in milliseconds since 1970.
    pub not_after_ms: u64,
    /// Whether it has yet to be used: the first hello with it retires the others.
    #[serde(default)]
    pub unused: bool,
}

/// A certificate that does not count any more because a newer one was used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retired {
    /// Its serial number in hex.
    pub serial: String,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
}

impl From<&DeviceCertificate> for Certificate {
    fn from(issued: &DeviceCertificate) -> Self {
        Self {
            serial: issued.serial.to_string(),
            key: issued.key_digest,
            not_after_ms: millis(issued.not_after),
            unused: false,
        }
    }
}

/// Bytes of MQTT payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// To the device.
    pub sent: u64,
    /// From the device.
    pub received: u64,
}

impl Traffic {
    /// What has come since an earlier count.
    pub fn minus(self, earlier: Self) -> Self {
        Self {
            sent: self.sent.saturating_sub(earlier.sent),
            received: self.received.saturating_sub(earlier.received),
        }
    }

    /// Both together with another's.
    pub fn plus(self, other: Self) -> Self {
        Self {
            sent: self.sent.saturating_add(other.sent),
            received: self.received.saturating_add(other.received),
        }
    }
}

/// What a device got wrong. A healthy device has none of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Health {
    /// Messages that could not be used.
    pub refused_messages: u64,
    /// Hellos whose counter did not rise: somebody may have copied the device's folder.
    pub repeated_hellos: u64,
    /// The last of these.
    pub last_problem: Option<Problem>,
    /// When a sign of a copied folder was last raised as an event, in milliseconds since 1970.
    pub raised_ms: Option<u64>,
}

/// Something a device got wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// The stable code.
    pub code: ErrorCode,
    /// For people.
    pub detail: String,
}

impl Health {
    /// Counts in what another record of health holds, which is newer.
    pub fn absorb(&mut self, newer: &Health) {
        self.refused_messages = self.refused_messages.saturating_add(newer.refused_messages);
        self.repeated_hellos = self.repeated_hellos.saturating_add(newer.repeated_hellos);
        if newer.last_problem.is_some() {
            self.last_problem.clone_from(&newer.last_problem);
        }
        self.raised_ms = self.raised_ms.max(newer.raised_ms);
    }
}

impl Entity for Device {
    const TABLE: Table = Table::new("devices");

    fn id(&self) -> Vec<u8> {
        self.id.as_str().into()
    }
}

impl Device {
    /// A device that has just enrolled.
    pub(crate) fn enrolled(
        project: ProjectId,
        id: DeviceId,
        board: &BoardFacts,
        certificate: Certificate,
        claim: String,
        now_ms: u64,
    ) -> Self {
        Self {
            id,
            project,
            board: bounded_board(board),
            state: DeviceState::Active,
            certificates: vec![certificate],
            retired: Vec::new(),
            renewed_ms: Vec::new(),
            enrolled_at_ms: now_ms,
            claim,
            last_seen_ms: None,
            hello_counter: 0,
            epoch: None,
            agent: String::new(),
            trust_version: 0,
            health: Health::default(),
            traffic: Traffic::default(),
            failed_updates: 0,
            tags: Tags::default(),
            quarantine: None,
            serial: None,
        }
    }

    /// Whether the device may connect at all.
    pub fn may_connect(&self) -> bool {
        matches!(self.state, DeviceState::Active | DeviceState::Waiting { .. })
    }

    /// Whether it is one of the fleet: it may connect, and anything may be asked of it.
    pub fn is_active(&self) -> bool {
        self.state == DeviceState::Active
    }

    /// Why nothing may be asked of a device that is not active.
    pub(crate) fn refusal(&self) -> Error {
        let id = self.id.clone();
        if self.may_connect() { Error::DeviceWaiting(id) } else { Error::DeviceRevoked(id) }
    }

    /// Whether a rollout may take it.
    pub fn takes_rollouts(&self) -> bool {
        self.is_active() && self.quarantine.is_none()
    }

    /// Whether an enrolment with this claim and key is the one that made the device, which has not connected yet.
    pub(crate) fn is_enrolled_as(&self, claim: &str, key: &Digest) -> bool {
        let same_key = self.certificates.iter().any(|certificate| certificate.key == *key);
        self.may_connect() && self.claim == claim && same_key && self.hello_counter == 0
    }

    /// Whether the device may connect with this certificate.
    pub fn accepts(&self, serial: &Serial) -> bool {
        let serial = serial.to_string();
        self.may_connect() && self.certificates.iter().take(CERTIFICATES).any(|known| known.serial == serial)
    }

    /// Whether one of its certificates is over this key.
    pub(crate) fn knows(&self, key: &Digest) -> bool {
        self.certificates.iter().any(|known| known.key == *key)
    }

    /// Whether another certificate may be signed for it now; counts it.
    pub(crate) fn count_renewal(&mut self, life_ms: u64, now_ms: u64) -> bool {
        let window = RENEWAL_WINDOW_MS.min(life_ms);
        self.renewed_ms.retain(|at| now_ms.saturating_sub(*at) < window);
        if self.renewed_ms.len() >= RENEWALS {
            return false;
        }
        self.renewed_ms.push(now_ms);
        true
    }

    /// Adds a certificate that is to take over. One over the same key that was never used gives way to it. One over
    /// another key stays as long as there is room: it may be the one that the device has.
    pub(crate) fn issue(&mut self, certificate: Certificate) {
        self.certificates.retain(|known| !(known.unused && known.key == certificate.key));
        while self.certificates.len() >= CERTIFICATES {
            let oldest = self.certificates.iter().position(|known| known.unused).unwrap_or(0);
            self.certificates.remove(oldest);
        }
        self.certificates.push(Certificate { unused: true, ..certificate });
    }

    /// Takes note that a hello was said with this certificate. The first one retires the others, which are returned.
    pub(crate) fn used(&mut self, serial: &Serial, now_ms: u64) -> Option<Vec<Certificate>> {
        let serial = serial.to_string();
        let used = self.certificates.iter_mut().find(|known| known.serial == serial && known.unused)?;
        used.unused = false;
        let others: Vec<_> = self.certificates.extract_if(.., |known| known.serial != serial).collect();
        let retired = others.iter().map(|other| Retired { serial: other.serial.clone(), at_ms: now_ms });
        self.retired.extend(retired);
        self.retired.drain(..self.retired.len().saturating_sub(RETIRED));
        Some(others)
    }

    /// Whether showing this certificate is a sign of a copy: it was retired, and the device has talked on without it.
    pub(crate) fn shows_copy(&self, serial: &Serial) -> bool {
        let serial = serial.to_string();
        let seen_ms = self.last_seen_ms.unwrap_or(0);
        let settled = |retired: &Retired| seen_ms >= retired.at_ms.saturating_add(SETTLED_MS);
        self.may_connect() && self.retired.iter().any(|retired| retired.serial == serial && settled(retired))
    }

    /// Keeps a sign of a copied folder as the last problem.
    pub(crate) fn suspect(&mut self, detail: &str, now_ms: u64) {
        let detail = bounded(detail, 256);
        self.health.last_problem = Some(Problem { at_ms: now_ms, code: ErrorCode::Replayed, detail });
    }

    /// Whether a sign of a copied folder is to be raised as an event now.
    pub(crate) fn is_suspicion_due(&self, now_ms: u64) -> bool {
        self.health.raised_ms.is_none_or(|at| now_ms.saturating_sub(at) >= RAISE_MS)
    }

    /// Takes in a hello, and says whether its counter did not rise: of two devices with the same folder at least one
    /// shows it.
    pub(crate) fn hello(&mut self, hello: &Hello, now_ms: u64) -> bool {
        let repeated = hello.counter <= self.hello_counter;
        if repeated {
            self.health.repeated_hellos = self.health.repeated_hellos.saturating_add(1);
        }
        self.hello_counter = self.hello_counter.max(hello.counter);
        self.epoch = Some(hello.epoch);
        self.agent = bounded(&hello.agent, FACT);
        self.trust_version = hello.trust_version;
        self.board = bounded_board(&hello.board);
        self.last_seen_ms = Some(now_ms);
        repeated
    }
}

/// What a device says of itself is kept within bounds.
fn bounded_board(board: &BoardFacts) -> BoardFacts {
    BoardFacts {
        board: bounded(&board.board, limits::ID),
        engines: board.engines.iter().take(ENGINES).map(|engine| bounded(engine, limits::ID)).collect(),
        arch: bounded(&board.arch, FACT),
        cpus: board.cpus,
        memory_bytes: board.memory_bytes,
        os: bounded(&board.os, FACT),
    }
}

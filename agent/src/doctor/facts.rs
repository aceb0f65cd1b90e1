//! What the doctor looks at: gathered first, judged after, so that every judgement can be tested without a device.

use crate::config::Config;
use crate::identity::Names;
use flotilla_device::launch::Binary;
use flotilla_device::update::UpdateJournal;
use flotilla_protocol::message::SlotName;
use flotilla_protocol::{Digest, ErrorCode, ModelName, ProjectId, ReleaseManifest};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Why something cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) code: ErrorCode,
    pub(super) text: String,
}

impl Problem {
    pub(super) fn new(code: ErrorCode, text: impl ToString) -> Self {
        Self { code, text: text.to_string() }
    }
}

/// Something that was read; `None` within for what is not there.
pub(super) type Read<T> = Result<T, Problem>;

/// Everything about one folder.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) root: PathBuf,
    pub(super) now_ms: u64,
    pub(super) build_ms: u64,
    pub(super) agent: Agent,
    /// `None`: the agent is started without the launcher.
    pub(super) launcher: Option<Launcher>,
    pub(super) config: Read<Config>,
    pub(super) identity: IdentityFacts,
    pub(super) trust: Read<TrustFacts>,
    /// Why one of its two copies cannot be used.
    pub(super) trust_copy: Option<Problem>,
    pub(super) small: SmallFiles,
    pub(super) desired: Read<Option<DesiredFacts>>,
    pub(super) disk: Read<DiskFacts>,
    pub(super) link: Link,
    pub(super) memory: MemoryFacts,
    /// What its neural processing units say.
    pub(super) npus: Vec<flotilla_protocol::message::NpuSample>,
    /// The owner's `temperature_file`, if it tells no temperature.
    pub(super) blind: Option<PathBuf>,
    pub(super) models: Read<BTreeMap<ModelName, ModelFacts>>,
    pub(super) outbox: OutboxFacts,
}

/// Whether an agent runs on the folder.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Agent {
    /// None does.
    Stopped,
    /// None does; one left its address behind.
    Gone,
    /// One holds the folder, but does not answer, or its address is not written down.
    Silent,
    /// One runs.
    Runs(Running),
}

/// What the launcher starts.
#[derive(Clone, Debug)]
pub(super) struct Launcher {
    /// What is wrong with its journal.
    pub(super) damage: Option<String>,
    /// Whether the update journal of the agent's own releases can be read.
    pub(super) update: Read<()>,
    /// The binaries that its journal names, for what, and whether they are whole.
    pub(super) binaries: Vec<(&'static str, Binary, Read<()>)>,
    /// The release that was given up, and why.
    pub(super) given_up: Option<(Digest, String)>,
}

/// What a running agent says of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Running {
    pub(super) connected: bool,
    /// Why it is not connected.
    pub(super) problem: Option<Problem>,
    /// By how much its clock is ahead of the control plane's, in milliseconds.
    pub(super) clock_ahead_ms: Option<i64>,
    pub(super) records_waiting: Option<u64>,
    pub(super) records_lost: u64,
    /// Models that it serves.
    pub(super) serving: Vec<String>,
    /// Folders and streams that do not work, and why.
    pub(super) feeds: Vec<(String, Problem)>,
}

/// Who the device is.
#[derive(Clone, Debug)]
pub(super) struct IdentityFacts {
    /// `None`: the folder is not enrolled.
    pub(super) names: Read<Option<Names>>,
    pub(super) key: Read<KeyFacts>,
    pub(super) certificate: Read<CertificateFacts>,
    pub(super) ca: Read<CertificateFacts>,
    /// Whether certificate and intermediates lead to the CA, whatever the time.
    pub(super) chain: Read<()>,
    /// Whether the next start can put it back from a copy.
    pub(super) has_copy: bool,
}

#[derive(Clone, Debug)]
pub(super) struct KeyFacts {
    /// Digest of its public half.
    pub(super) public: Digest,
    /// Permission bits of its file.
    pub(super) mode: u32,
}

#[derive(Clone, Debug)]
pub(super) struct CertificateFacts {
    /// Digest of its public key.
    pub(super) public: Digest,
    pub(super) not_before_ms: u64,
    pub(super) not_after_ms: u64,
    /// The URI that names a device.
    pub(super) uri: Option<String>,
}

#[derive(Clone, Debug)]
pub(super) struct TrustFacts {
    pub(super) version: u64,
    pub(super) issued_at_ms: u64,
    pub(super) floors: BTreeMap<ModelName, u64>,
}

/// The small files beside the identity.
#[derive(Clone, Debug, Default)]
pub(super) struct SmallFiles {
    /// Version of the accepted desired document.
    pub(super) accepted: u64,
    /// The latest moment that a signature proved.
    pub(super) proof_ms: u64,
    /// What is damaged.
    pub(super) damage: Vec<String>,
}

#[derive(Clone, Debug)]
pub(super) struct DesiredFacts {
    pub(super) version: u64,
    pub(super) issued_at_ms: u64,
    pub(super) project: ProjectId,
    pub(super) device: String,
    /// The release a model.
    pub(super) models: BTreeMap<ModelName, Digest>,
}

#[derive(Clone, Debug)]
pub(super) struct DiskFacts {
    pub(super) total_bytes: u64,
    pub(super) free_bytes: u64,
    /// Files that can still be made; `None` where the file system does not count them.
    pub(super) free_files: Option<u64>,
    pub(super) read_only: bool,
    /// Folders that this user may not write to.
    pub(super) not_writable: Vec<PathBuf>,
}

/// How far the way to the control plane was open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// Without an identity there is nowhere to go.
    NotTried,
    /// The name has no address.
    Unresolved { address: String, problem: String },
    /// No connection.
    Unreachable { address: String, problem: String },
    /// No safe connection.
    NotSafe { address: String, cause: NotSafe, problem: String },
    /// The broker refused the device.
    Refused { address: String, problem: String },
    /// The broker said nothing.
    Silent { address: String },
    /// Open; `asked` says whether the broker was asked as well. It is not while an agent runs: a second connection
    /// of the same device would end the agent's.
    Open { address: String, asked: bool },
}

/// Why a handshake failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotSafe {
    /// The server's certificate is of another CA.
    OtherCa,
    /// The server's certificate is not valid at this time.
    Time,
    /// The server's certificate is for another name.
    Name,
    /// The server did not accept the device's certificate.
    Certificate,
    /// Anything else.
    Other,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MemoryFacts {
    /// 0 for unknown.
    pub(super) total_bytes: u64,
    /// `None` where the system does not say.
    pub(super) available_bytes: Option<u64>,
}

#[derive(Clone, Debug)]
pub(super) struct ModelFacts {
    /// `None`: there is none.
    pub(super) journal: Read<Option<UpdateJournal>>,
    pub(super) slots: BTreeMap<SlotName, SlotFacts>,
}

/// A slot that is not empty.
#[derive(Clone, Debug)]
pub(super) struct SlotFacts {
    /// Digest of the envelope and what it says.
    pub(super) release: Read<(Digest, Box<ReleaseManifest>)>,
    /// Files that are not what the manifest says, by name; not asked where the release cannot be read.
    pub(super) bad_files: Vec<(String, Problem)>,
    /// Files that are.
    pub(super) good_files: usize,
}

#[derive(Clone, Debug, Default)]
pub(super) struct OutboxFacts {
    /// Bytes of its files.
    pub(super) bytes: u64,
    /// A file that cannot be read.
    pub(super) problem: Option<Problem>,
    /// It is being opened, or opening it ended the agent.
    pub(super) opening: bool,
    /// Its main file is there.
    pub(super) exists: bool,
}

//! What the update machine is told, and what it asks for.

use super::UpdateJournal;
use super::journal::Promise;
use crate::fault::Fault;
use flotilla_protocol::Digest;
use flotilla_protocol::message::{DesiredModel, EventRecord, ProbeReport, SlotName};

/// What the machine may look at besides its own state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// A clock that only runs forward; its zero means nothing.
    pub now_ms: u64,
    /// The moment to check expiry against: [`crate::clock::TrustedClock::now_ms`].
    pub trusted_now_ms: u64,
    /// The trust file's floor of this model.
    pub floor: u64,
    /// How long a candidate must stay healthy.
    pub probation_ms: u64,
    /// Share of failed predictions above which a candidate is reverted.
    pub probation_error_per_mille: u32,
    /// Memory by which a candidate may grow where it promises nothing.
    pub memory_bytes: u64,
    /// Temperature of the device above which a candidate that has heated it up is reverted.
    pub temperature_c: u32,
    /// A fresh random value.
    pub random: u64,
}

/// What a verified release envelope says that the machine needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReleaseFacts {
    /// The release counter.
    pub counter: u64,
    /// After this moment it is not activated any more.
    pub expires_at_ms: Option<u64>,
    /// Bytes of its files.
    pub total_bytes: u64,
    /// What it says that it takes.
    pub promise: Promise,
}

/// How the release that serves has done since it was loaded, and how the device does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Predictions answered.
    pub predictions: u64,
    /// Predictions that failed.
    pub failures: u64,
    /// What the 95th percentile of latency certainly reaches, in microseconds; none before the first answer.
    pub p95_us: Option<u64>,
    /// How the device does.
    pub vitals: Vitals,
    /// Of an agent: why it cannot be called healthy now.
    pub unready: Option<Unready>,
}

/// Why an agent cannot be called healthy now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unready {
    /// A confirmed model does not serve.
    Silent,
    /// It has no session, although the agent before it had one, and nobody says why.
    Offline,
    /// It has no session, because it is refused or does not understand.
    Refused,
}

impl Unready {
    /// For people.
    pub fn as_str(self) -> &'static str {
        match self {
            Unready::Silent => "a model does not serve",
            Unready::Offline => "it has no session, as the agent before it had",
            Unready::Refused => "the control plane and it do not come together",
        }
    }
}

/// How the device does; none for what it does not measure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vitals {
    /// Memory that the agent's process holds and nothing but its end gives back, in bytes.
    pub memory_bytes: Option<u64>,
    /// Its highest temperature, in degrees Celsius.
    pub temperature_c: Option<u32>,
}

/// What happened. Results carry the ticket of the effect they answer; those of an older ticket are ignored.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The process started; the first event.
    Started {
        /// Whether the process before it ended while this model was being loaded or predicting.
        crashed: bool,
    },
    /// The accepted desired document: this release, or none.
    Desired(Option<DesiredModel>),
    /// Answer to [`Effect::FetchRelease`].
    EnvelopeFetched {
        /// The effect's ticket.
        ticket: u64,
        /// The examined envelope.
        result: Result<ReleaseFacts, Fault>,
    },
    /// Verified bytes of the candidate's files so far.
    FileProgress {
        /// The effect's ticket.
        ticket: u64,
        /// The bytes.
        bytes_done: u64,
    },
    /// Bytes of the candidate's files that were on the device already and are not fetched.
    FilesReused {
        /// The ticket of [`Effect::FetchFiles`].
        ticket: u64,
        /// The bytes.
        bytes: u64,
    },
    /// Bytes of the candidate's files that were made from a patch and are not fetched.
    FilesRebuilt {
        /// The ticket of [`Effect::FetchFiles`].
        ticket: u64,
        /// The bytes.
        bytes: u64,
        /// Those of the patch that were fetched instead.
        patch_bytes: u64,
    },
    /// A patch could not be used. What is missing of its file is fetched.
    PatchFailed {
        /// The ticket of [`Effect::FetchFiles`].
        ticket: u64,
        /// Why.
        fault: Fault,
    },
    /// Answer to [`Effect::FetchFiles`]: every chunk is there.
    FilesComplete {
        /// The effect's ticket.
        ticket: u64,
        /// Done, or why not.
        result: Result<(), Fault>,
    },
    /// Answer to [`Effect::VerifyFiles`]: every file has its digest and is on stable storage.
    FilesVerified {
        /// The effect's ticket.
        ticket: u64,
        /// Done, or why not.
        result: Result<(), Fault>,
    },
    /// Answer to [`Effect::Probe`].
    ProbeDone {
        /// The effect's ticket.
        ticket: u64,
        /// What was measured, or why the candidate is refused.
        result: Result<ProbeReport, Fault>,
    },
    /// Answer to [`Effect::Activate`]: the release serves.
    SwitchDone {
        /// The effect's ticket.
        ticket: u64,
    },
    /// Answer to [`Effect::Activate`]: it could not be loaded. What served before still does.
    LoadFailed {
        /// The effect's ticket.
        ticket: u64,
        /// Why.
        fault: Fault,
    },
    /// There is a session: what failed only for want of one may be tried again.
    Online,
    /// Load what serves anew.
    Reload,
    /// The time asked for with [`Effect::ScheduleTick`] has come.
    Tick {
        /// How the release that serves is doing.
        health: Health,
    },
}

/// What is to be done, in this order.
#[expect(clippy::large_enum_variant, reason = "few are made, and they are used up at once")]
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Store the journal durably. Always first; if it fails, the old state stands, none of the other effects
    /// is performed, and the event is given again later.
    PersistJournal(UpdateJournal),
    /// Stop work on fetches and probes of earlier tickets.
    Cancel,
    /// Free the slot of everything that is not of this release; fetch the release's envelope unless it is there;
    /// examine it.
    FetchRelease {
        /// For the answer.
        ticket: u64,
        /// The slot.
        slot: SlotName,
        /// The envelope's digest.
        release: Digest,
        /// The envelope's size.
        bytes: u32,
    },
    /// Fetch what is missing of the release's files.
    FetchFiles {
        /// For the answer.
        ticket: u64,
        /// The slot.
        slot: SlotName,
        /// The release.
        release: Digest,
    },
    /// Check whole files and bring them to stable storage under their names.
    VerifyFiles {
        /// For the answer.
        ticket: u64,
        /// The slot.
        slot: SlotName,
        /// The release.
        release: Digest,
    },
    /// Run the golden vectors in a child process.
    Probe {
        /// For the answer.
        ticket: u64,
        /// The slot.
        slot: SlotName,
        /// The release.
        release: Digest,
    },
    /// Load the release and let it serve in place of what served before, without a gap.
    Activate {
        /// For the answer.
        ticket: u64,
        /// The slot.
        slot: SlotName,
        /// The release.
        release: Digest,
    },
    /// Stop serving.
    Deactivate,
    /// Remove everything in the slot.
    ClearSlot {
        /// The slot.
        slot: SlotName,
    },
    /// What `report` says has changed.
    Report,
    /// Put an event into the outbox.
    EmitEvent(EventRecord),
    /// Send [`Event::Tick`] at this moment of [`Context::now_ms`]; replaces an earlier one.
    ScheduleTick {
        /// The moment.
        at_ms: u64,
    },
}

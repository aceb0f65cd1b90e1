//! What the machine of a shadow is told, and what it asks for.

use super::ShadowJournal;
use crate::fault::Fault;
use crate::update;
use flotilla_protocol::Digest;
use flotilla_protocol::message::{EventRecord, ShadowRelease};

/// What the machine may look at besides its own state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// A clock that only runs forward; its zero means nothing.
    pub now_ms: u64,
    /// The moment to check expiry against: [`crate::clock::TrustedClock::now_ms`].
    pub trusted_now_ms: u64,
    /// The trust file's floor of this model.
    pub floor: u64,
    /// The confirmed release of the model, whether it serves or not.
    pub confirmed: Option<Digest>,
    /// The same while it serves and no other is being tried.
    pub beside: Option<Beside>,
    /// The release that the model is on its way to.
    pub coming: Option<Digest>,
    /// Memory that the board has for this model, shadow included; 0 for unknown.
    pub memory_bytes: u64,
    /// A fresh random value.
    pub random: u64,
}

/// The release beside which a shadow runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beside {
    /// The release.
    pub release: Digest,
    /// Memory that it takes; 0 for unknown.
    pub memory_bytes: u64,
}

/// How a running shadow ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It could not be loaded.
    Refused(Fault),
    /// It died, or did not answer in time: the code, and the story for people.
    Crashed(Fault),
}

/// What happened. Results carry the ticket of the effect they answer; those of an older ticket are ignored.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The accepted desired document: this release, or none.
    Desired(Option<ShadowRelease>),
    /// The model may have come to another confirmed release, or to rest, or on its way.
    Model,
    /// An answer of the same work that brings in a model's releases.
    Intake(update::Event),
    /// Answer to [`Effect::Start`]: it is loaded and answers.
    Runs {
        /// The effect's ticket.
        ticket: u64,
    },
    /// It does not run any more, without having been stopped.
    Ended {
        /// The ticket of [`Effect::Start`].
        ticket: u64,
        /// How.
        end: End,
    },
    /// The time asked for with [`Effect::ScheduleTick`] has come.
    Tick,
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Store the journal durably. Always first; if it fails, the old state stands, none of the other effects is
    /// performed, and the event is given again later.
    PersistJournal(ShadowJournal),
    /// Stop work on fetches and probes of earlier tickets.
    Cancel,
    /// Free the place of everything that is not of this release; fetch the release's envelope unless it is there;
    /// examine it.
    FetchRelease {
        /// For the answer.
        ticket: u64,
        /// The envelope's digest.
        release: Digest,
        /// The envelope's size.
        bytes: u32,
    },
    /// Fetch what is missing of the release's files.
    FetchFiles {
        /// For the answer.
        ticket: u64,
        /// The release.
        release: Digest,
    },
    /// Check whole files and bring them to stable storage under their names.
    VerifyFiles {
        /// For the answer.
        ticket: u64,
        /// The release.
        release: Digest,
    },
    /// Run the golden vectors in a child process.
    Probe {
        /// For the answer.
        ticket: u64,
        /// The release.
        release: Digest,
    },
    /// Load it in a child process and let it see inputs.
    Start {
        /// For the answer.
        ticket: u64,
        /// The release.
        release: Digest,
        /// The confirmed release with which it is compared.
        against: Digest,
        /// Share of the inputs, in per mille.
        share_per_mille: u32,
    },
    /// Let it see another share of the inputs.
    Share {
        /// In per mille.
        share_per_mille: u32,
    },
    /// End it; what it was asked is given up.
    Stop,
    /// Remove everything in its place.
    Clear,
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

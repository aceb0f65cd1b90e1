//! The messages of the device protocol, one type a topic. All travel as CBOR through [`crate::codec`].
//!
//! `desired` is an [`crate::Envelope`] of kind `desired` around [`Desired`]; everything else is plain, because
//! the connection's client certificate already says who speaks.

mod desired;
mod diagnosis;
mod hard;
mod lenient;
mod measure;
mod report;
mod shadow;
mod telemetry;
mod transfer;

pub use desired::{
    Command, CommandKind, DAY_MIN, Desired, DesiredModel, InvalidLogQuery, InvalidSettings, LogLevel,
    LogQuery, QuietHours, Settings,
};
pub use diagnosis::{Diagnosis, Finding, Subject, Verdict};
pub use hard::{HardExample, HardExamples, HardReason, InvalidHardExamples};
pub use measure::{Measured, Measurement};
pub use report::{
    AgentReport, BoardFacts, CommandReport, CommandState, Failure, Hello, ModelReport, Phase, ProbeReport,
    Reported, SlotName,
};
pub use shadow::{
    CONFIDENCE_ONE, Disagreement, SHARE_ALL, ShadowPhase, ShadowRelease, ShadowReport, ShadowSide,
    ShadowTelemetry,
};
pub use telemetry::{
    Ack, Chance, Drift, Epoch, EventKind, EventRecord, Histogram, ModelTelemetry, NpuHealth, NpuSample,
    Record, RecordBody, ReportStored, SeqRange, Stream, TelemetryBatch, TelemetrySample,
};
pub use transfer::{Chunk, Fetch, LogOffer, Reply, ReplyBody, Request, RequestBody, Upload};

//! The bodies of the HTTP API, shared by its handlers, the command line and the console.

mod boards;
mod commands;
mod compress;
mod datasets;
mod device;
mod devices;
mod diagnosis;
mod experiments;
mod hard;
mod imports;
mod jobs;
mod models;
mod releases;
mod rollouts;
mod server;
mod shadow;
mod summary;
mod telemetry;
mod twin;

pub use crate::examine::ReadOptions;
pub use boards::{BoardDetailView, BoardView, CorrectionView, MeasureRequest, MeasuredView, PredictionView};
pub use commands::{CommandRequest, CommandView};
pub use compress::{CompressRequest, CompressionView, SampleSetView, default_max_drop};
pub use datasets::{DatasetView, ImportProgressView, ImportView, SampleView, SkippedView};
pub use device::{
    AgentUpgradeView, ApproveRequest, ClaimRequest, ClaimView, DeviceEvaluation, DeviceModelView, DeviceView,
    ProbeView, RejectRequest,
};
pub use devices::{
    AdmissionRequest, DecommissionRequest, DeviceIdPage, GroupChange, GroupPreview, GroupRequest, GroupView,
    QuarantineRequest, RanView, RegisteredView, RegistrationView, TagAnswer, TagRequest,
};
pub use diagnosis::{DiagnosisAnswer, DiagnosisView, FindingView};
pub use experiments::{
    ExperimentMetric, ExperimentPromotion, ExperimentRequest, ExperimentStop, ExperimentView, HalfView,
};
pub use hard::{
    HardConsentAnswer, HardConsentRequest, HardConsentView, HardDecision, HardDecisionView, HardExamplePage,
    HardExampleView, HardPolicy, UnlabelledView,
};
pub use imports::{ModelImportRequest, UploadView};
pub use jobs::{FailureView, JobView, ProgressView, TrainRequest};
pub use models::{EvaluateRequest, EvaluationView, LicenceRequest, ModelVersionView};
pub use releases::{ReleaseRequest, ReleaseView, TrustView};
pub use rollouts::{
    EvidenceView, GateFindingView, ObstacleView, RampView, RolloutDevicePage, RolloutDeviceRequest,
    RolloutPlanView, RolloutRequest, RolloutView, ShadowStageRequest, ShadowStageView, WatchView, WaveCounts,
    WaveDeviceView, WaveView,
};
use serde::{Deserialize, Serialize};
pub use server::{AuditView, FleetView, Health, LoginView, Overview, ServerView, WhoAmI};
pub use shadow::{
    DisagreementView, ShadowDeviceView, ShadowFiguresView, ShadowRequest, ShadowStop, ShadowView,
};
pub use summary::{BoardCount, ConcernView, FleetSummaryView, ModelCounts, ReleaseCounts};
pub use telemetry::{
    ClassCount, DeviceTelemetryView, DriftView, EventView, HistoryView, NpuView, ReleaseTelemetryView,
};
pub use twin::{TwinDifference, TwinModelView, TwinView};
use utoipa::ToSchema;

/// Any JSON object whose shape another crate owns.
pub type Json = serde_json::Value;

/// A device on which an order was not possible.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct OrderFailure {
    /// Device id.
    pub device: String,
    /// Why.
    pub failure: FailureView,
}

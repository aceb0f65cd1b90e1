//! Boards, and how long models take there.

use super::Json;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A board in short.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct BoardView {
    /// Its name.
    pub name: String,
    /// What people call it.
    pub title: String,
    /// Whether its profile was tried on the hardware.
    pub verified: bool,
    /// Where what operators cost there is from: `measured` on such a board, `derived` from documents; none where nothing
    /// says it, so that nothing is predicted.
    pub costs: Option<String>,
    /// By which factor a prediction may be off without a word of devices, nine times out of ten.
    pub spread: Option<f64>,
    /// What devices say of its predictions.
    pub correction: Option<CorrectionView>,
}

/// What devices of a board say of its predictions.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CorrectionView {
    /// The factor on predictions.
    pub scale: f64,
    /// Models on devices behind it, by what each measured when it took the model up.
    pub reports: usize,
    /// By which factor corrected predictions are off, the median.
    pub median_error: Option<f64>,
    /// By which factor nine of ten are off at most.
    pub spread: Option<f64>,
}

/// A board with all that is known of it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct BoardDetailView {
    /// In short.
    #[serde(flatten)]
    pub board: BoardView,
    /// Its profile; null for one that is known by measurements alone.
    pub profile: Json,
    /// What operators cost there, in nanoseconds a unit of work, by kind; null where nothing says it.
    pub table: Json,
}

/// How long a version takes on a board.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PredictionView {
    /// The board.
    pub board: String,
    /// The model.
    pub model: String,
    /// Its version.
    pub version: u32,
    /// One prediction on one thread, in milliseconds.
    pub ms: f64,
    /// It is longer than this nine times out of ten …
    pub low_ms: f64,
    /// … and shorter than this.
    pub high_ms: f64,
    /// The part of the time that is taken by operators of which nothing is known, 0 to 1.
    pub unknown: f64,
    /// `measured` or `derived`.
    pub costs: String,
    /// Reports of devices that corrected it.
    pub reports: usize,
}

/// Asks a device to measure a version.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MeasureRequest {
    /// The model.
    pub model: String,
    /// The version; the newest by default.
    #[serde(default)]
    pub version: Option<u32>,
    /// Seconds after which it is given up; ten minutes if not given.
    #[serde(default)]
    pub deadline_s: Option<u64>,
}

/// What a device measured.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct MeasuredView {
    /// Inputs that the model was run on.
    pub vectors: u32,
    /// Median time of a prediction, pre- and post-processing included, in milliseconds.
    pub p50_ms: f64,
    /// 95th percentile.
    pub p95_ms: f64,
    /// Largest memory of the process, in bytes; 0 for unknown.
    pub peak_bytes: u64,
    /// Largest difference of a score from what the control plane got.
    pub max_error: f64,
    /// Digest of all scores.
    pub outputs: String,
}

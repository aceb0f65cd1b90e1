//! `flotilla compress` as types.

use super::Target;
use clap::Args;

/// `flotilla compress`
#[derive(Debug, Args)]
pub struct Compress {
    /// The model.
    pub model: String,
    /// The version; the newest by default.
    #[arg(long)]
    pub version: Option<u32>,
    /// Largest acceptable drop of test accuracy, absolute.
    #[arg(long, default_value_t = crate::http::api::default_max_drop())]
    pub max_drop: f64,
    /// Largest acceptable size in bytes.
    #[arg(long)]
    pub max_bytes: Option<u64>,
    /// Return at once instead of following the job.
    #[arg(long)]
    pub detach: bool,
    /// The control plane.
    #[command(flatten)]
    pub target: Target,
}

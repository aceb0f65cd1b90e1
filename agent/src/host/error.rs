//! Why a model did not answer.

use flotilla_protocol::{ErrorCode, ModelName, limits};

/// Why there is no answer, or why a model cannot be installed.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// No release of this model serves here.
    #[error("no model {model} serves on this device")]
    NotServing {
        /// The name that was asked for.
        model: ModelName,
    },
    /// Too many predictions wait already.
    #[error("model {model} is busy: {} predictions run or wait already; try again", super::QUEUE)]
    Busy {
        /// The model.
        model: ModelName,
    },
    /// The runtime could not make a prediction of the input.
    #[error("model {model} has no prediction for this input: {}", source.detail())]
    Predict {
        /// The model.
        model: ModelName,
        /// Why.
        source: flotilla_runtime::Error,
    },
    /// The device carries as many models as it can.
    #[error("this device serves {} models already, which is the bound", limits::DESIRED_MODELS)]
    TooManyModels,
}

impl HostError {
    /// The stable code.
    pub fn code(&self) -> ErrorCode {
        match self {
            HostError::NotServing { .. } => ErrorCode::NotFound,
            HostError::Busy { .. } => ErrorCode::Busy,
            HostError::Predict { source, .. } => source.code(),
            HostError::TooManyModels => ErrorCode::TooLarge,
        }
    }
}

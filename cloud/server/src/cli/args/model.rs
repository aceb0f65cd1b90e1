//! `flotilla model …` as types.

use super::{Output, Target};
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// `flotilla model …`
#[derive(Debug, Subcommand)]
pub enum Model {
    /// List model versions.
    List(Target),
    /// Show what all devices say of a model, by release: latency, answers, confidence, drift.
    Telemetry {
        /// The model.
        model: String,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
    /// Say what a model of another tool is and costs: inputs, outputs, operators, memory, a guess at its pipeline. Takes an
    /// ONNX file or a ModelArts model package; needs no control plane.
    Inspect(Inspect),
    /// Show what training or compression said of a version: of a compression the candidates, the layers and the recipe.
    Report {
        /// The model.
        model: String,
        /// The version.
        version: u32,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
    /// Write the plain ONNX file of a version.
    Export {
        /// The model.
        model: String,
        /// The version.
        version: u32,
        /// The file to write.
        file: PathBuf,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
}

/// `flotilla model inspect`
#[derive(Debug, Args)]
pub struct Inspect {
    /// The file.
    pub file: PathBuf,
    /// A file with the names of the classes, one a line.
    #[arg(long, value_name = "FILE")]
    pub labels: Option<PathBuf>,
    /// What an open dimension is, by the symbol of the file; repeat for several. An open batch is 1.
    #[arg(long = "dim", value_name = "SYMBOL=NUMBER")]
    pub dims: Vec<String>,
    /// An input that always has the same value, as a sample rate; repeat for several.
    #[arg(long = "fix", value_name = "INPUT=NUMBER")]
    pub fixed: Vec<String>,
    /// Of a quantised model, clamp activations and do not round them: as fast as the float model, other numbers.
    #[arg(long)]
    pub float_activations: bool,
    /// Write the cleaned model there.
    #[arg(long, value_name = "FILE")]
    pub cleaned: Option<PathBuf>,
    /// Output form, of errors too.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

impl Model {
    /// The form in which results and errors are printed.
    pub(crate) fn output(&self) -> Output {
        match self {
            Self::Inspect(inspect) => inspect.output,
            Self::List(target)
            | Self::Telemetry { target, .. }
            | Self::Report { target, .. }
            | Self::Export { target, .. } => target.output,
        }
    }
}

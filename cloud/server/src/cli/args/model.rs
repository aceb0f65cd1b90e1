//! `flotilla model …` as types.

use super::{Output, Target};
use clap::{Args, Subcommand, ValueEnum};
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
    /// Register a model of another tool as a new version: an ONNX file or a ModelArts model package. Shows what it is, and
    /// asks for what the file does not tell.
    Import(ModelImport),
    /// Print the card of a version: how good it is and how sure that is, its data, lineage, licence and signatures.
    Card(ModelCard),
    /// Say under which licence a version comes; its card says so.
    Licence {
        /// The model.
        model: String,
        /// The version.
        version: u32,
        /// An SPDX expression such as Apache-2.0, or a few words; without it, what was said is taken back.
        licence: Option<String>,
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
        /// Write what stands before and after the network there: JSON where the name ends so, else TOML.
        #[arg(long, value_name = "FILE")]
        pipeline: Option<PathBuf>,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
}

/// `flotilla model card`
#[derive(Debug, Args)]
pub struct ModelCard {
    /// The model.
    pub model: String,
    /// The version; the newest by default.
    pub version: Option<u32>,
    /// The form of the card; Markdown by default, JSON with `-o json`.
    #[arg(long, value_enum)]
    pub format: Option<CardFormat>,
    /// Write it there instead.
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// The control plane.
    #[command(flatten)]
    pub target: Target,
}

/// The form of a model card.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CardFormat {
    /// Markdown with metadata that other tools read.
    Md,
    /// One HTML file that needs no other.
    Html,
    /// JSON.
    Json,
}

/// `flotilla model inspect`
#[derive(Debug, Args)]
pub struct Inspect {
    /// The file.
    pub file: PathBuf,
    /// How it is read.
    #[command(flatten)]
    pub reading: Reading,
    /// Write the cleaned model there.
    #[arg(long, value_name = "FILE")]
    pub cleaned: Option<PathBuf>,
    /// Write the proposed pipeline there, to be edited and given to `flotilla model import`: JSON where the name ends so,
    /// else TOML.
    #[arg(long, value_name = "FILE")]
    pub pipeline: Option<PathBuf>,
    /// Output form, of errors too.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// How a file is read.
#[derive(Debug, Args)]
pub struct Reading {
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
}

/// `flotilla model import`
#[derive(Debug, Args)]
pub struct ModelImport {
    /// The file.
    pub file: PathBuf,
    /// The model that gets a new version; made where it does not exist yet.
    #[arg(long, value_name = "MODEL")]
    pub name: String,
    /// How it is read.
    #[command(flatten)]
    pub reading: Reading,
    /// What stands before and after the network, as `flotilla model inspect --pipeline` wrote it and you made it right.
    #[arg(long, value_name = "FILE")]
    pub pipeline: Option<PathBuf>,
    /// Take the proposed pipeline with all its guesses.
    #[arg(long, conflicts_with = "pipeline")]
    pub yes: bool,
    /// Measure the model on the test split of this dataset; its samples prove releases, too.
    #[arg(long, value_name = "NAME[@VERSION]")]
    pub dataset: Option<String>,
    /// An input that devices prove releases with, where there is no dataset; repeat for several.
    #[arg(long = "sample", value_name = "FILE")]
    pub samples: Vec<PathBuf>,
    /// The licence that it comes under: an SPDX expression, or a few words.
    #[arg(long, value_name = "SPDX")]
    pub licence: Option<String>,
    /// Where it comes from, for people.
    #[arg(long)]
    pub note: Option<String>,
    /// Do not wait for the end.
    #[arg(long)]
    pub detach: bool,
    /// The control plane.
    #[command(flatten)]
    pub target: Target,
}

impl Model {
    /// The form in which results and errors are printed.
    pub(crate) fn output(&self) -> Output {
        match self {
            Self::Inspect(inspect) => inspect.output,
            Self::Import(import) => import.target.output,
            Self::Card(card) => card.target.output,
            Self::List(target)
            | Self::Telemetry { target, .. }
            | Self::Licence { target, .. }
            | Self::Report { target, .. }
            | Self::Export { target, .. } => target.output,
        }
    }
}

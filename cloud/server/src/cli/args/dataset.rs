//! `flotilla dataset …` as types.

use super::{Output, Target};
use clap::Subcommand;
use std::path::PathBuf;

/// `flotilla dataset …`
#[derive(Debug, Subcommand)]
pub enum Dataset {
    /// Import a folder, zip or csv as a new version.
    Import {
        /// Name of the dataset.
        name: String,
        /// A folder or zip of pictures or of wav recordings by class, pictures with COCO or Pascal VOC boxes, an IDX folder or
        /// zip, a csv table. Without it: the bundled digits.
        path: Option<PathBuf>,
        /// The format, when it is not recognised by itself.
        #[arg(long)]
        format: Option<String>,
        /// Column of a table with the class of each row; `first` and `last` are possible, too.
        #[arg(long, value_name = "COLUMN", conflicts_with = "target_column")]
        label: Option<String>,
        /// Column of a table with a number to predict.
        #[arg(long = "target", value_name = "COLUMN")]
        target_column: Option<String>,
        /// Seed of the split.
        #[arg(long)]
        seed: Option<u64>,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
    /// List datasets.
    List(Target),
}

impl Dataset {
    /// The form in which results and errors are printed.
    pub(crate) fn output(&self) -> Output {
        match self {
            Self::Import { target, .. } | Self::List(target) => target.output,
        }
    }
}

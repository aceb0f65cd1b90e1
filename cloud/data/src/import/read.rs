//! Reads one source from its beginning to its end. Blocking.

use super::class_folders::{self, Medium};
use super::collector::{Collected, Collector, Place, Step};
use super::image_csv::Csv;
use super::tree::{Tree, TreeFile};
use super::{Format, ImportOptions, ImportRequest, Source};
use super::{coco, detect, idx, image_csv, table, voc};
use crate::dataset::Kind;
use crate::digits;
use crate::error::{Error, Result};
use flate2::read::GzDecoder;
use std::io::Read;
use std::path::Path;
use tokio::sync::mpsc;

/// Reads what is asked for; packs and progress go out while it runs.
pub(crate) fn read(request: &ImportRequest, out: mpsc::Sender<Step>) -> Result<Collected> {
    match &request.source {
        Source::BundledDigits => read_digits(request, out),
        Source::Path(path) => read_path(path, request.format, &request.options, out),
    }
}

fn read_digits(request: &ImportRequest, out: mpsc::Sender<Step>) -> Result<Collected> {
    if request.format.is_some_and(|format| format != Format::ImageCsv) {
        let problem = "the bundled digits are image-csv: leave it out".to_owned();
        return Err(Error::Option { option: "format", problem });
    }
    let mut collector = Collector::new(Kind::ImageClassification, out, request.options.max_samples);
    let options = ImportOptions {
        label_column: Some("last".into()),
        header: Some(false),
        pixel_max: Some(digits::PIXEL_MAX),
        ..request.options.clone()
    };
    image_csv::read(&mut BundledCsv, &options, &mut collector)?;
    collector.finish(Format::ImageCsv, None)
}

fn read_path(
    path: &Path,
    format: Option<Format>,
    options: &ImportOptions,
    out: mpsc::Sender<Step>,
) -> Result<Collected> {
    let mut tree = Tree::open(path, options.max_bytes)?;
    let format = match format {
        Some(format) => format,
        None => detect::detect(&mut tree)?,
    };
    let kind = match format {
        Format::Table => Kind::Table,
        Format::SoundFolders => Kind::SoundClassification,
        Format::Coco | Format::Voc => Kind::ObjectDetection,
        Format::ImageFolders | Format::Idx | Format::ImageCsv => Kind::ImageClassification,
    };
    let mut collector = Collector::new(kind, out, options.max_samples);
    for (file, reason) in std::mem::take(&mut tree.unreadable) {
        collector.skip(Place { file: &file, line: None }, reason)?;
    }
    let mut shape = None;
    match format {
        Format::ImageFolders => class_folders::read(&mut tree, Medium::Pictures, &mut collector)?,
        Format::SoundFolders => class_folders::read(&mut tree, Medium::Recordings, &mut collector)?,
        Format::Coco => coco::read(&mut tree, &mut collector)?,
        Format::Voc => voc::read(&mut tree, &mut collector)?,
        Format::Idx => idx::read(&mut tree, &mut collector)?,
        Format::ImageCsv => {
            let file = only_file(&tree)?;
            image_csv::read(&mut TreeCsv::new(&mut tree, file), options, &mut collector)?;
        }
        Format::Table => {
            let file = only_file(&tree)?;
            shape = Some(table::read(&mut TreeCsv::new(&mut tree, file), options, &mut collector)?);
        }
    }
    collector.finish(format, shape)
}

/// With a format given, a lone file may have any name.
fn only_file(tree: &Tree) -> Result<TreeFile> {
    match tree.files.as_slice() {
        [only] => Ok(only.clone()),
        _ => detect::csv_file(tree),
    }
}

/// A csv within a source.
pub(super) struct TreeCsv<'a> {
    tree: &'a mut Tree,
    file: TreeFile,
}

impl<'a> TreeCsv<'a> {
    pub(super) fn new(tree: &'a mut Tree, file: TreeFile) -> Self {
        Self { tree, file }
    }
}

impl Csv for TreeCsv<'_> {
    fn name(&self) -> &str {
        &self.file.path
    }

    fn open(&mut self) -> Result<Box<dyn Read + '_>> {
        self.tree.open_at(&self.file)
    }

    fn source(&self) -> String {
        self.tree.name.clone()
    }
}

/// The csv that comes with the program.
struct BundledCsv;

impl Csv for BundledCsv {
    fn name(&self) -> &str {
        digits::FILE
    }

    fn open(&mut self) -> Result<Box<dyn Read + '_>> {
        Ok(Box::new(GzDecoder::new(digits::BYTES)))
    }
}

//! A fresh installation's storage, and ways to make sources.

use flotilla_data::{Datasets, ImportOptions, ImportReport, ImportRequest, Result, Source};
use flotilla_identity::Actor;
use flotilla_protocol::DatasetName;
use flotilla_storage::{Objects, Range, Records, SledRecords, Table};
use image::{ExtendedColorType, ImageEncoder, codecs::jpeg::JpegEncoder, codecs::png::PngEncoder};
use std::fs;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

pub(crate) const NOW: u64 = 1_790_000_000_000;

/// Storage in a folder that goes with the test.
pub(crate) struct House {
    pub(crate) dir: TempDir,
    pub(crate) records: Arc<dyn Records>,
    pub(crate) objects: Objects,
    pub(crate) datasets: Datasets,
}

impl House {
    pub(crate) fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let records: Arc<dyn Records> = Arc::new(SledRecords::open(&dir.path().join("records")).unwrap());
        let objects = Objects::open(&dir.path().join("objects")).unwrap();
        let datasets = Datasets::new(records.clone(), objects.clone());
        Self { dir, records, objects, datasets }
    }

    pub(crate) async fn import(&self, request: ImportRequest) -> Result<ImportReport> {
        self.datasets.import(&Actor::administrator(), request, &mut |_| {}, NOW).await
    }

    /// Everything that an import could leave: objects, and records of datasets and of the trail.
    pub(crate) async fn left(&self) -> (usize, usize) {
        let mut records = 0;
        for table in ["datasets", "dataset-versions", "dataset-imports", "audit"].map(Table::new) {
            records += self.records.range(&Range::table(table)).await.unwrap().len();
        }
        (self.objects.list(None, 1000).await.unwrap().len(), records)
    }

    /// A path for a source.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A source file with this content.
    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }
}

pub(crate) fn request(name: &str, path: &Path) -> ImportRequest {
    ImportRequest {
        name: DatasetName::new(name).unwrap(),
        source: Source::Path(path.to_path_buf()),
        format: None,
        options: ImportOptions::default(),
    }
}

/// A small grey picture; each number another one.
pub(crate) fn png(number: u32) -> Vec<u8> {
    let mut out = Vec::new();
    let pixels: Vec<u8> = (0..16).map(|i| (number.wrapping_mul(2_654_435_761) >> i) as u8).collect();
    PngEncoder::new(&mut out).write_image(&pixels, 4, 4, ExtendedColorType::L8).unwrap();
    out
}

/// A small coloured picture with detail, so that its data has a length.
pub(crate) fn jpeg(number: u32) -> Vec<u8> {
    let mut out = Vec::new();
    let pixels: Vec<u8> = (0..48 * 48 * 3_u32)
        .map(|i| (i.wrapping_mul(2_654_435_761).rotate_left(number % 31) >> 9) as u8)
        .collect();
    JpegEncoder::new(&mut out).write_image(&pixels, 48, 48, ExtendedColorType::Rgb8).unwrap();
    out
}

/// A zip with these entries.
pub(crate) fn zip(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in entries {
        zip.start_file(*name, SimpleFileOptions::default()).unwrap();
        zip.write_all(content).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// Pictures of two classes, ten each: what a small good source holds.
pub(crate) fn two_classes(prefix: &str) -> Vec<(String, Vec<u8>)> {
    let picture = |n: u32| (format!("{prefix}{}/{n}.png", if n < 10 { "cat" } else { "dog" }), png(n));
    (0..20).map(picture).collect()
}

/// A tone as a wav of one channel and 16 bits.
pub(crate) fn wav(rate: u32, samples: u32, hertz: f32) -> Vec<u8> {
    let bytes = samples * 2;
    let mut out = b"RIFF".to_vec();
    out.extend((36 + bytes).to_le_bytes());
    out.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    out.extend(rate.to_le_bytes());
    out.extend((rate * 2).to_le_bytes());
    out.extend(b"\x02\0\x10\0data");
    out.extend(bytes.to_le_bytes());
    for n in 0..samples {
        let phase = std::f32::consts::TAU * hertz * n as f32 / rate as f32;
        out.extend(((phase.sin() * 8_000.0) as i16).to_le_bytes());
    }
    out
}

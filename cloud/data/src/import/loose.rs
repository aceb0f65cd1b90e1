//! Files of any kind as samples without a label, each as it is.

use super::tree::{Tree, failed};
use crate::bounds::{LOOSE_BYTES, LOOSE_SAMPLES};
use crate::error::{Error, Result};
use crate::sample_file::SampleFileWriter;
use flotilla_protocol::limits;
use std::io::Read;
use std::path::Path;

/// Writes every file of a source (a file, a folder, a zip) into one file of samples, in the order of their names. Gives
/// their number and bytes.
pub(crate) fn collect(source: &Path, to: &Path) -> Result<(u64, u64)> {
    let mut tree = Tree::open(source, LOOSE_BYTES)?;
    // What is called like the upload says more to people than where it lies on the server.
    tree.name = source.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if let Some((file, problem)) = tree.unreadable.first() {
        return Err(Error::format(file.clone(), problem.clone()));
    }
    let (files, name) = (tree.files.clone(), tree.name.clone());
    if files.is_empty() {
        return Err(Error::NoSamples { from: name });
    }
    if files.len() > LOOSE_SAMPLES {
        let (what, size) = (format!("sample files in {name}"), files.len() as u64);
        return Err(Error::TooLarge { what, size, bound: LOOSE_SAMPLES as u64 });
    }
    let mut writer = SampleFileWriter::create(to)?;
    let (mut sample, mut bytes) = (Vec::new(), 0);
    for file in &files {
        sample.clear();
        let reader = tree.open_at(file)?;
        let read = reader.take(limits::PREDICT_INPUT as u64 + 1).read_to_end(&mut sample);
        read.map_err(|error| failed(&name, file.path.as_ref(), error))?;
        bytes += sample.len() as u64;
        if bytes > LOOSE_BYTES {
            return Err(Error::TooLarge {
                what: format!("the samples in {name}"),
                size: bytes,
                bound: LOOSE_BYTES,
            });
        }
        writer.add(&flotilla_protocol::Truth::Class(0), &sample)?;
    }
    writer.finish()?;
    Ok((files.len() as u64, bytes))
}

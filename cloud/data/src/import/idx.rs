//! IDX files, as of MNIST and Fashion-MNIST: pictures in one file, labels in another.
//!
//! Format: a magic number that names type and dimensions, the dimensions as big-endian u32, then the bytes.

use super::collector::{Collector, Place, Shape};
use super::grey_png;
use super::tree::{Tree, TreeFile, read_up_to};
use crate::bounds::SAMPLES_MAX;
use crate::dataset::Split;
use crate::error::{Error, Result};
use flotilla_protocol::limits;
use std::io::Read;

/// Unsigned bytes in three dimensions.
const IMAGES_MAGIC: u32 = 0x0803;
/// Unsigned bytes in one dimension.
const LABELS_MAGIC: u32 = 0x0801;

/// Whether a file is called like the pictures of a pair.
pub(super) fn is_images(file: &TreeFile) -> bool {
    let name = file.plain_name();
    name.contains("images") && (name.contains("idx3") || name.ends_with("ubyte") || name.ends_with(".idx"))
}

fn labels_of(tree: &Tree, images: &TreeFile) -> Option<TreeFile> {
    let folder = |path: &str| path.rsplit_once('/').map(|(folder, _)| folder.to_owned());
    let wanted = images.plain_name().replace("images", "labels").replace("idx3", "idx1");
    let matches =
        |file: &&TreeFile| file.plain_name() == wanted && folder(&file.path) == folder(&images.path);
    tree.files.iter().find(matches).cloned()
}

/// The split that a pair is named after: `train-...` or `t10k-...`.
fn split_of(file: &TreeFile) -> Option<Split> {
    let name = file.plain_name();
    [("train", Split::Train), ("t10k", Split::Test), ("test", Split::Test), ("val", Split::Validation)]
        .into_iter()
        .find(|(prefix, _)| name.starts_with(prefix))
        .map(|(_, split)| split)
}

/// Reads all pairs.
pub(super) fn read(tree: &mut Tree, collector: &mut Collector) -> Result<()> {
    let files = tree.files.clone();
    let images: Vec<&TreeFile> = files.iter().filter(|file| is_images(file)).collect();
    if images.is_empty() {
        return Err(Error::format(&tree.name, "it holds no IDX pictures (*images-idx3-ubyte)"));
    }
    for images in images {
        let labels = labels_of(tree, images)
            .ok_or_else(|| Error::format(&images.path, "the file with its labels (idx1) is not beside it"))?;
        read_pair(tree, images, &labels, collector)?;
    }
    Ok(())
}

fn read_pair(
    tree: &mut Tree,
    images: &TreeFile,
    labels_file: &TreeFile,
    collector: &mut Collector,
) -> Result<()> {
    let labels = read_labels(tree, labels_file)?;
    let source = tree.name.clone();
    let failed = |e| super::tree::failed(&source, images.path.as_ref(), e);
    let mut reader = tree.open_at(images)?;
    let [magic, count, height, width] = header(&mut *reader, &images.path).map_err(failed)??;
    if magic != IMAGES_MAGIC {
        return Err(Error::format(&images.path, "it is not an IDX file of grey pictures"));
    }
    let pixels = u64::from(width) * u64::from(height);
    if pixels == 0 || pixels > limits::PREDICT_INPUT as u64 {
        let problem = format!("pictures of {width} x {height} are not possible");
        return Err(Error::format(&images.path, problem));
    }
    collector.expect(u64::from(count));
    let mut grey = vec![0; pixels as usize];
    let shape = Shape { width, height, grey: true };
    let split = split_of(images);
    for number in 0..u64::from(count) {
        let at = Place { file: &images.path, line: Some(number + 1) };
        let left = u64::from(count) - number;
        match read_up_to(&mut *reader, &mut grey) {
            Ok(read) if read == grey.len() => {}
            Ok(_) => return collector.skip_many(at, left, format!("the file ends here; {left} are missing")),
            Err(error) => match failed(error) {
                Error::Format { problem, .. } => {
                    return collector.skip_many(at, left, format!("{problem}; {left} are missing"));
                }
                other => return Err(other),
            },
        }
        let Some(label) = labels.get(number as usize) else {
            let reason = format!("{} ends before; {left} have no label", labels_file.path);
            return collector.skip_many(at, left, reason);
        };
        match grey_png::encode(&grey, width, height) {
            Ok(png) => collector.picture(at, &png, shape, &label.to_string(), split)?,
            Err(reason) => collector.skip(at, reason)?,
        }
    }
    Ok(())
}

/// The labels; fewer than announced where the file is cut off.
fn read_labels(tree: &mut Tree, file: &TreeFile) -> Result<Vec<u8>> {
    let source = tree.name.clone();
    let failed = |e| super::tree::failed(&source, file.path.as_ref(), e);
    let mut reader = tree.open_at(file)?;
    let [magic, count] = header(&mut *reader, &file.path).map_err(failed)??;
    if magic != LABELS_MAGIC {
        return Err(Error::format(&file.path, "it is not an IDX file of labels"));
    }
    if u64::from(count) > SAMPLES_MAX {
        let what = format!("labels in {}", file.path);
        return Err(Error::TooLarge { what, size: u64::from(count), bound: SAMPLES_MAX });
    }
    let mut labels = Vec::new();
    reader.take(u64::from(count)).read_to_end(&mut labels).map_err(failed)?;
    Ok(labels)
}

/// The big-endian numbers at the start. The outer failure is the disk's, the inner one the file's.
fn header<const N: usize>(reader: &mut dyn Read, file: &str) -> std::io::Result<Result<[u32; N]>> {
    let mut bytes = vec![0; 4 * N];
    if read_up_to(reader, &mut bytes)? < bytes.len() {
        return Ok(Err(Error::format(file, "it ends within its header")));
    }
    let mut numbers = [0; N];
    for (number, bytes) in numbers.iter_mut().zip(bytes.chunks_exact(4)) {
        *number = bytes.iter().fold(0, |value, &byte| value << 8 | u32::from(byte));
    }
    Ok(Ok(numbers))
}

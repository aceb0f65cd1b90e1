//! Finds out which format a source has.

use super::image_csv::{ROWS, first_rows, looks_like_pictures, sample};
use super::read::TreeCsv;
use super::tree::{Tree, TreeFile};
use super::{Format, class_folders, coco, idx, voc};
use crate::error::{Error, Result};

/// Extensions of tables.
const TABLE_EXTENSIONS: [&str; 3] = ["csv", "tsv", "tab"];

/// The format of a source.
pub(super) fn detect(tree: &mut Tree) -> Result<Format> {
    if tree.files.iter().any(idx::is_images) {
        return Ok(Format::Idx);
    }
    if tree.files.iter().any(class_folders::is_picture) {
        return Ok(if coco::is_in(tree)? {
            Format::Coco
        } else if voc::is_in(tree)? {
            Format::Voc
        } else {
            Format::ImageFolders
        });
    }
    if tree.files.iter().any(class_folders::is_recording) {
        return Ok(Format::SoundFolders);
    }
    let file = csv_file(tree)?;
    let mut csv = TreeCsv::new(tree, file);
    let (delimiter, sample) = sample(&mut csv)?;
    let pictures = looks_like_pictures(&first_rows(delimiter, &sample, ROWS));
    Ok(if pictures { Format::ImageCsv } else { Format::Table })
}

/// The one csv of a source.
pub(super) fn csv_file(tree: &Tree) -> Result<TreeFile> {
    if let [only] = tree.files.as_slice()
        && !tree.is_archive_or_folder()
    {
        let known = TABLE_EXTENSIONS.contains(&only.extension().as_str());
        return if known {
            Ok(only.clone())
        } else {
            Err(Error::format(
                &tree.name,
                "its format is not recognised (a table's name ends in .csv or .tsv)",
            ))
        };
    }
    let is_table = |file: &&TreeFile| TABLE_EXTENSIONS.contains(&file.extension().as_str());
    let mut tables = tree.files.iter().filter(is_table);
    match (tables.next(), tables.next()) {
        (Some(table), None) => Ok(table.clone()),
        (None, _) => Err(Error::format(&tree.name, "nothing in it is recognised")),
        (Some(_), Some(_)) => Err(Error::format(&tree.name, "it holds several tables: import one of them")),
    }
}

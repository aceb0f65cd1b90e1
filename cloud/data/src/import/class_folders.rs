//! Pictures in folders: `CLASS/picture` or `SPLIT/CLASS/picture`, below any common folder.

use super::collector::{Collector, Place};
use super::picture;
use super::tree::{Tree, TreeFile};
use crate::dataset::Split;
use crate::error::{Error, Result};
use flotilla_protocol::limits;
use std::collections::BTreeSet;
use std::io::Read;

/// What a picture's path says.
#[derive(Debug, PartialEq, Eq)]
struct Meaning {
    class: String,
    split: Option<Split>,
}

/// Whether a file is called like a picture that is read.
pub(super) fn is_picture(file: &TreeFile) -> bool {
    picture::EXTENSIONS.contains(&file.extension().as_str())
}

/// Reads all pictures.
pub(super) fn read(tree: &mut Tree, collector: &mut Collector) -> Result<()> {
    let files = tree.files.clone();
    let (pictures, others): (Vec<_>, Vec<_>) = files.iter().partition(|file| is_picture(file));
    for file in others {
        let other = picture::OTHER_EXTENSIONS.contains(&file.extension().as_str());
        let reason =
            if other { "pictures of this format are not read: only png and jpeg" } else { "not a picture" };
        collector.skip(at(file), reason)?;
    }
    let layout = Layout::of(pictures.iter().map(|file| file.path.as_str()));
    collector.expect(pictures.len() as u64);
    let source = tree.name.clone();
    let mut bytes = Vec::new();
    for file in pictures {
        match layout.meaning(&file.path) {
            None => collector.skip(at(file), "it stands in no class folder")?,
            Some(meaning) => read_picture(tree, &source, file, &meaning, &mut bytes, collector)?,
        }
    }
    Ok(())
}

fn at(file: &TreeFile) -> Place<'_> {
    Place { file: &file.path, line: None }
}

fn read_picture(
    tree: &mut Tree,
    source: &str,
    file: &TreeFile,
    meaning: &Meaning,
    bytes: &mut Vec<u8>,
    collector: &mut Collector,
) -> Result<()> {
    bytes.clear();
    let read = tree.open_at(file).and_then(|reader| {
        let read = reader.take(limits::PREDICT_INPUT as u64 + 1).read_to_end(bytes);
        read.map_err(|error| super::tree::failed(source, file.path.as_ref(), error))
    });
    match read {
        // One file that cannot be read is a bad sample; an archive that lies about itself is no source.
        Err(Error::Format { problem, .. }) => return collector.skip(at(file), problem),
        Err(Error::Io { source, .. }) => {
            return collector.skip(at(file), format!("it cannot be read: {source}"));
        }
        read => read?,
    };
    if bytes.len() > limits::PREDICT_INPUT {
        let reason = format!("it has more than {} bytes", limits::PREDICT_INPUT);
        return collector.skip(at(file), reason);
    }
    match picture::check(bytes) {
        Ok(shape) => collector.picture(at(file), bytes, shape, &meaning.class, meaning.split),
        Err(reason) => collector.skip(at(file), reason),
    }
}

/// How folders are read.
#[derive(Debug)]
struct Layout {
    /// Folders that all pictures have in common.
    common: usize,
    /// Whether the first folder below them is a split.
    splits: bool,
}

impl Layout {
    fn of<'a>(paths: impl Iterator<Item = &'a str>) -> Self {
        let folders: BTreeSet<Vec<&str>> = paths.map(folders_of).collect();
        let Some(first) = folders.first() else { return Self { common: 0, splits: false } };
        let shared = |path: &Vec<&str>| first.iter().zip(path).take_while(|(a, b)| a == b).count();
        let mut common = folders.iter().map(shared).min().unwrap_or(0);
        // With a single class its own folder is common too.
        if folders.iter().any(|path| path.len() == common) && folders.len() == 1 {
            common = common.saturating_sub(1);
        }
        let splits = folders.iter().all(|path| path.len() >= common + 2 && split_of(path[common]).is_some());
        Self { common, splits }
    }

    fn meaning(&self, path: &str) -> Option<Meaning> {
        let folders = folders_of(path);
        let below = folders.get(self.common..)?;
        let (split, class) = match below {
            [split, class, ..] if self.splits => (split_of(split), class),
            [class, ..] => (None, class),
            [] => return None,
        };
        Some(Meaning { class: (*class).to_owned(), split })
    }
}

fn folders_of(path: &str) -> Vec<&str> {
    let mut parts: Vec<&str> = path.split('/').collect();
    parts.pop();
    parts
}

/// The split that a folder is named after.
fn split_of(folder: &str) -> Option<Split> {
    match folder.to_ascii_lowercase().as_str() {
        "train" | "training" => Some(Split::Train),
        "val" | "valid" | "validation" | "dev" => Some(Split::Validation),
        "test" | "testing" => Some(Split::Test),
        _ => None,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;

    fn meanings(paths: &[&str]) -> Vec<(String, Option<Split>)> {
        let layout = Layout::of(paths.iter().copied());
        paths.iter().map(|path| layout.meaning(path).unwrap()).map(|m| (m.class, m.split)).collect()
    }

    #[test]
    fn classes_are_the_first_folders_below_the_common_ones() {
        let found = meanings(&["data/set/cat/1.png", "data/set/dog/1.png", "data/set/dog/young/2.png"]);
        assert_eq!(found, [("cat".into(), None), ("dog".into(), None), ("dog".into(), None)]);
    }

    #[test]
    fn splits_are_read_where_every_first_folder_is_one() {
        let found = meanings(&["x/train/cat/1.png", "x/Test/cat/1.png", "x/val/dog/1.png"]);
        let splits: Vec<_> = found.into_iter().map(|(class, split)| (class, split.unwrap())).collect();
        assert_eq!(
            splits,
            [("cat".into(), Split::Train), ("cat".into(), Split::Test), ("dog".into(), Split::Validation)]
        );
    }

    #[test]
    fn a_class_may_be_called_like_a_split() {
        let found = meanings(&["train/1.png", "bus/1.png"]);
        assert_eq!(found, [("train".into(), None), ("bus".into(), None)]);
        let found = meanings(&["train/a/1.png", "bus/a/1.png"]);
        assert_eq!(found, [("train".into(), None), ("bus".into(), None)]);
    }

    #[test]
    fn a_lone_class_keeps_its_name_and_loose_pictures_have_none() {
        assert_eq!(meanings(&["x/cat/1.png", "x/cat/2.png"]), [("cat".into(), None), ("cat".into(), None)]);
        let layout = Layout::of(["1.png", "cat/2.png"].into_iter());
        assert_eq!(layout.meaning("1.png"), None);
        assert_eq!(layout.meaning("cat/2.png").unwrap().class, "cat");
    }
}

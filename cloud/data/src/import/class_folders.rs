//! Pictures or recordings in folders: `CLASS/file` or `SPLIT/CLASS/file`, below any common folder.

use super::collector::{Collector, Place};
use super::tree::{Tree, TreeFile};
use super::{picture, recording};
use crate::dataset::Split;
use crate::error::{Error, Result};
use flotilla_protocol::limits;
use std::collections::BTreeSet;
use std::io::Read;

/// What the files are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Medium {
    Pictures,
    Recordings,
}

/// What a file's path says.
#[derive(Debug, PartialEq, Eq)]
struct Meaning {
    class: String,
    split: Option<Split>,
}

/// Whether a file is called like a picture that is read.
pub(super) fn is_picture(file: &TreeFile) -> bool {
    picture::EXTENSIONS.contains(&file.extension().as_str())
}

/// Whether a file is called like a recording that is read.
pub(super) fn is_recording(file: &TreeFile) -> bool {
    recording::EXTENSIONS.contains(&file.extension().as_str())
}

impl Medium {
    fn is(self, file: &TreeFile) -> bool {
        match self {
            Medium::Pictures => is_picture(file),
            Medium::Recordings => is_recording(file),
        }
    }

    /// Why a file is none.
    fn other(self, file: &TreeFile) -> &'static str {
        let known: &[&str] = match self {
            Medium::Pictures => &picture::OTHER_EXTENSIONS,
            Medium::Recordings => &recording::OTHER_EXTENSIONS,
        };
        match (self, known.contains(&file.extension().as_str())) {
            (Medium::Pictures, true) => "pictures of this format are not read: only png and jpeg",
            (Medium::Pictures, false) => "not a picture",
            (Medium::Recordings, true) => {
                "recordings of this format are not read: only wav, which every device reads"
            }
            (Medium::Recordings, false) => "not a recording",
        }
    }
}

/// Reads all files.
pub(super) fn read(tree: &mut Tree, medium: Medium, collector: &mut Collector) -> Result<()> {
    let all = tree.files.clone();
    let (files, others): (Vec<_>, Vec<_>) = all.iter().partition(|file| medium.is(file));
    for file in others {
        collector.skip(at(file), medium.other(file))?;
    }
    let layout = Layout::of(files.iter().map(|file| file.path.as_str()));
    collector.expect(files.len() as u64);
    let mut bytes = Vec::new();
    for file in files {
        let Some(Meaning { class, split }) = layout.meaning(&file.path) else {
            collector.skip(at(file), "it stands in no class folder")?;
            continue;
        };
        if let Some(reason) = read_into(tree, file, &mut bytes)? {
            collector.skip(at(file), reason)?;
            continue;
        }
        match medium {
            Medium::Pictures => match picture::check(&bytes) {
                Ok(shape) => collector.picture(at(file), &bytes, shape, &class, split)?,
                Err(reason) => collector.skip(at(file), reason)?,
            },
            Medium::Recordings => match recording::check(&bytes) {
                Ok(facts) => collector.sound(at(file), &bytes, facts, &class, split)?,
                Err(reason) => collector.skip(at(file), reason)?,
            },
        }
    }
    Ok(())
}

pub(super) fn at(file: &TreeFile) -> Place<'_> {
    Place { file: &file.path, line: None }
}

/// Reads a file whole, or says why it cannot be a sample.
pub(super) fn read_into(tree: &mut Tree, file: &TreeFile, bytes: &mut Vec<u8>) -> Result<Option<String>> {
    bytes.clear();
    let source = tree.name.clone();
    let read = tree.open_at(file).and_then(|reader| {
        let read = reader.take(limits::PREDICT_INPUT as u64 + 1).read_to_end(bytes);
        read.map_err(|error| super::tree::failed(&source, file.path.as_ref(), error))
    });
    match read {
        // One file that cannot be read is a bad sample; an archive that lies about itself is no source.
        Err(Error::Format { problem, .. }) => return Ok(Some(problem)),
        Err(Error::Io { source, .. }) => return Ok(Some(format!("it cannot be read: {source}"))),
        read => read?,
    };
    if bytes.len() > limits::PREDICT_INPUT {
        return Ok(Some(format!("it has more than {} bytes", limits::PREDICT_INPUT)));
    }
    Ok(None)
}

/// How folders are read.
#[derive(Debug)]
struct Layout {
    /// Folders that all files have in common.
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
pub(super) fn split_of(folder: &str) -> Option<Split> {
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

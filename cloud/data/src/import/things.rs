//! What the importers of pictures with boxes have in common: which picture is meant, and which boxes can be.

use super::class_folders::{at, is_picture, read_into, split_of};
use super::collector::{Collector, NamedBox};
use super::picture;
use super::tree::{Tree, TreeFile};
use crate::bounds::BOXES;
use crate::dataset::Split;
use crate::error::{Error, Result};
use std::collections::HashMap;
use std::io::Read;

/// Bytes at the beginning of a file that say what it is.
const SAMPLE: u64 = 4 * 1024;

/// The pictures of a source by their names.
pub(super) struct Pictures {
    by_name: HashMap<String, Vec<TreeFile>>,
}

impl Pictures {
    pub(super) fn of(tree: &Tree) -> Self {
        let mut by_name: HashMap<String, Vec<TreeFile>> = HashMap::new();
        for file in tree.files.iter().filter(|file| is_picture(file)) {
            let name = file.path.rsplit('/').next().unwrap_or_default().to_owned();
            by_name.entry(name).or_default().push(file.clone());
        }
        Self { by_name }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.by_name.values().map(Vec::len).sum()
    }

    /// Takes the picture that a file of boxes means: the one whose path ends so; of several the one that lies nearest to that
    /// file, or in a folder of the same split.
    pub(super) fn take(&mut self, wanted: &str, named_by: &str, split: Option<Split>) -> Option<TreeFile> {
        let wanted = wanted.replace('\\', "/");
        let name = wanted.rsplit('/').next()?;
        let candidates = self.by_name.get_mut(name)?;
        let ends = |file: &TreeFile| {
            file.path == wanted || file.path.strip_suffix(&wanted).is_some_and(|rest| rest.ends_with('/'))
        };
        let common = |file: &TreeFile| {
            let pairs = file.path.split('/').zip(named_by.split('/'));
            pairs.take_while(|(a, b)| a == b).count()
        };
        let rank =
            |file: &TreeFile| (ends(file), split.is_some() && split_in(&file.path) == split, common(file));
        let best = (0..candidates.len()).max_by_key(|&index| rank(&candidates[index]))?;
        Some(candidates.swap_remove(best))
    }

    /// What no file of boxes has named.
    pub(super) fn left(self) -> Vec<TreeFile> {
        let mut left: Vec<TreeFile> = self.by_name.into_values().flatten().collect();
        left.sort_by(|a, b| a.path.cmp(&b.path));
        left
    }
}

/// The split that a path speaks of: a folder of its name, or a file name with it, such as `instances_train2017.json`.
pub(super) fn split_in(path: &str) -> Option<Split> {
    let of_part = |part: &str| {
        let stem = part.rsplit_once('.').map_or(part, |(stem, _)| stem);
        let stem = stem.trim_end_matches(|c: char| c.is_ascii_digit());
        split_of(stem).or_else(|| stem.split(['_', '-', '.']).rev().find_map(split_of))
    };
    path.rsplit('/').find_map(of_part)
}

/// Reads a picture and takes it with its boxes. Those without an area are told and left out.
pub(super) fn take(
    tree: &mut Tree,
    file: &TreeFile,
    boxes: Vec<NamedBox>,
    split: Option<Split>,
    bytes: &mut Vec<u8>,
    collector: &mut Collector,
) -> Result<()> {
    if let Some(reason) = read_into(tree, file, bytes)? {
        return collector.skip(at(file), reason);
    }
    let shape = match picture::check(bytes) {
        Ok(shape) => shape,
        Err(reason) => return collector.skip(at(file), reason),
    };
    if boxes.len() > BOXES {
        return collector.skip(at(file), format!("it has {} boxes; {BOXES} are possible", boxes.len()));
    }
    let (width, height) = (shape.width as f32, shape.height as f32);
    let mut kept = Vec::with_capacity(boxes.len());
    for NamedBox { label, area: [left, top, right, bottom], ignored } in boxes {
        // What reaches beyond the picture is cut at its edge.
        let area = [left.max(0.0), top.max(0.0), right.min(width), bottom.min(height)];
        let finite = [left, top, right, bottom].iter().all(|edge| edge.is_finite());
        if finite && area[0] < area[2] && area[1] < area[3] {
            kept.push(NamedBox { label, area, ignored });
        } else {
            let [left, top, right, bottom] = [left, top, right, bottom].map(|edge| edge.to_string());
            let reason = format!(
                "its box of {label:?} from {left}, {top} to {right}, {bottom} has no area in the picture; the picture is kept \
                 without it"
            );
            collector.skip(at(file), reason)?;
        }
    }
    collector.boxes(at(file), bytes, shape, &kept, split)
}

/// How a file begins.
pub(super) fn beginning(tree: &mut Tree, file: &TreeFile) -> Result<String> {
    let source = tree.name.clone();
    let mut bytes = Vec::new();
    let read = tree.open_at(file)?.take(SAMPLE).read_to_end(&mut bytes);
    read.map_err(|error| super::tree::failed(&source, file.path.as_ref(), error))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A whole file with boxes, up to a bound.
pub(super) fn whole(tree: &mut Tree, file: &TreeFile, bound: usize) -> Result<Vec<u8>> {
    let source = tree.name.clone();
    let mut bytes = Vec::new();
    let read = tree.open_at(file)?.take(bound as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|error| super::tree::failed(&source, file.path.as_ref(), error))?;
    if bytes.len() > bound {
        let (what, size) = (format!("the bytes of {}", file.path), bytes.len() as u64);
        return Err(Error::TooLarge { what, size, bound: bound as u64 });
    }
    Ok(bytes)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_path_speaks_of_a_split_by_a_folder_or_a_file_name() {
        for (path, split) in [
            ("annotations/instances_train2017.json", Some(Split::Train)),
            ("annotations/instances_val.json", Some(Split::Validation)),
            ("test/_annotations.coco.json", Some(Split::Test)),
            ("ImageSets/Main/trainval.txt", None),
            ("annotations/instances_default.json", None),
        ] {
            assert_eq!(split_in(path), split, "{path}");
        }
    }

    #[test]
    fn of_several_pictures_the_nearest_one_is_meant() {
        let folder = tempfile::tempdir().unwrap();
        for path in ["train/a.png", "test/a.png", "images/deep/a.png"] {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, b"x").unwrap();
        }
        let tree = Tree::open(folder.path(), 1 << 20).unwrap();
        let mut pictures = Pictures::of(&tree);
        let mut take = |wanted: &str, by: &str| pictures.take(wanted, by, split_in(by)).map(|file| file.path);
        assert_eq!(take("deep/a.png", "train/x.json").as_deref(), Some("images/deep/a.png"));
        assert_eq!(take("a.png", "test/x.json").as_deref(), Some("test/a.png"));
        assert_eq!(take("a.png", "labels/train.json").as_deref(), Some("train/a.png"));
        assert_eq!(take("a.png", "x.json"), None, "each is meant once");
    }
}

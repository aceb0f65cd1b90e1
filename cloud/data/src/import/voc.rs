//! Pictures and Pascal VOC XML: one file a picture, with an `object` and its `bndbox` a thing.

use super::class_folders::at;
use super::collector::{Collector, NamedBox};
use super::things::{Pictures, beginning, split_in, take, whole};
use super::tree::{Tree, TreeFile};
use super::xml::{self, Element};
use crate::bounds::BOXES_OF_ONE;
use crate::dataset::Split;
use crate::error::{Error, Result};
use std::collections::HashMap;

fn files(tree: &Tree) -> Vec<TreeFile> {
    tree.files.iter().filter(|file| file.extension() == "xml").cloned().collect()
}

/// Whether a source with pictures has such a file.
pub(super) fn is_in(tree: &mut Tree) -> Result<bool> {
    for file in files(tree) {
        if beginning(tree, &file)?.contains("<annotation") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Reads all pictures that are named.
pub(super) fn read(tree: &mut Tree, collector: &mut Collector) -> Result<()> {
    let annotations = files(tree);
    if annotations.is_empty() {
        return Err(Error::format(&tree.name, "it has no VOC XML"));
    }
    let mut pictures = Pictures::of(tree);
    let splits = splits(tree)?;
    collector.expect(pictures.len() as u64);
    let mut bytes = Vec::new();
    for file in annotations {
        let read = match whole(tree, &file, BOXES_OF_ONE) {
            // One file that is too large is a bad sample; an archive that lies about itself is no source.
            Err(error @ Error::TooLarge { .. }) => Err(error.to_string()),
            text => Annotation::read(&text?),
        };
        let annotation = match read {
            Ok(annotation) => annotation,
            Err(problem) => {
                collector.skip(at(&file), problem)?;
                continue;
            }
        };
        let stem = stem(&file.path).to_owned();
        let split = splits.get(&stem).copied().or_else(|| split_in(&file.path));
        // Programs that rename pictures rename the file of boxes with them, and not what stands in it.
        let named =
            ["jpg", "jpeg", "png", "JPG", "JPEG", "PNG"].map(|extension| format!("{stem}.{extension}"));
        let names = named.iter().chain(annotation.picture.as_ref());
        let found = names.into_iter().find_map(|name| pictures.take(name, &file.path, split));
        match found {
            Some(picture) => take(tree, &picture, annotation.boxes, split, &mut bytes, collector)?,
            None => {
                let name = annotation.picture.unwrap_or(stem);
                collector.skip(at(&file), format!("its picture {name:?} is not there"))?;
            }
        }
    }
    for picture in pictures.left() {
        collector.skip(at(&picture), "no VOC XML says what is in it")?;
    }
    Ok(())
}

fn stem(path: &str) -> &str {
    let name = path.rsplit('/').next().unwrap_or_default();
    name.rsplit_once('.').map_or(name, |(stem, _)| stem)
}

/// The splits of `ImageSets/Main/{train,val,test}.txt`, by the names of pictures without extension.
fn splits(tree: &mut Tree) -> Result<HashMap<String, Split>> {
    let mut splits = HashMap::new();
    let lists: Vec<TreeFile> =
        tree.files.iter().filter(|file| file.path.contains("ImageSets/Main/")).cloned().collect();
    for list in lists {
        let split = match stem(&list.path) {
            "train" => Split::Train,
            "val" => Split::Validation,
            "test" => Split::Test,
            _ => continue,
        };
        let text = whole(tree, &list, crate::bounds::BOXES_FILE)?;
        for line in String::from_utf8_lossy(&text).lines() {
            if let Some(name) = line.split_whitespace().next() {
                // What two lists name is held out.
                let held = splits.entry(name.to_owned()).or_insert(split);
                *held = (*held).max(split);
            }
        }
    }
    Ok(splits)
}

/// What one file says.
#[derive(Debug, PartialEq)]
struct Annotation {
    picture: Option<String>,
    boxes: Vec<NamedBox>,
}

impl Annotation {
    fn read(text: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(text).map_err(|_| "it is not UTF-8".to_owned())?;
        let root = xml::read(text)?;
        if root.name != "annotation" {
            return Err(format!("it begins with <{}>, and not with <annotation>", root.name));
        }
        let boxes = root.children("object").filter_map(named_box).collect::<Result<_, String>>()?;
        Ok(Self { picture: root.text("filename").map(str::to_owned), boxes })
    }
}

/// The box of an object; none where it marks something else, such as a polygon.
fn named_box(object: &Element) -> Option<Result<NamedBox, String>> {
    let place = object.child("bndbox")?;
    let read = || {
        let label = object.text("name").ok_or("an <object> has no <name>")?.to_owned();
        let edge = |name: &str| {
            let text = place.text(name).ok_or_else(|| format!("the box of {label:?} has no <{name}>"))?;
            text.parse::<f32>().map_err(|_| format!("the <{name}> of {label:?} is no number"))
        };
        let [left, top, right, bottom] = [edge("xmin")?, edge("ymin")?, edge("xmax")?, edge("ymax")?];
        // Pixels count from 1, and the last one belongs to the box; what has one alone is a slip of the mouse, though.
        let slip = left >= right || top >= bottom;
        let area = if slip { [left, top, right, bottom] } else { [left - 1.0, top - 1.0, right, bottom] };
        let ignored = object.text("difficult").is_some_and(|text| text != "0");
        Ok(NamedBox { label, area, ignored })
    };
    Some(read())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;

    #[test]
    fn boxes_are_read_with_their_edges_between_pixels() {
        let text =
            b"<?xml version=\"1.0\"?>\n<!-- by hand -->\n<annotation><filename>a &amp; b.jpg</filename>\
            <object><name>cell</name><part><name>x</name></part><difficult>1</difficult>\
            <bndbox><xmin>1</xmin><ymin>2.5</ymin><xmax>10</xmax><ymax>20</ymax></bndbox></object>\
            <object><name>polygon</name><polygon/></object></annotation>";
        let annotation = Annotation::read(text).unwrap();
        assert_eq!(annotation.picture.as_deref(), Some("a & b.jpg"));
        let area = [0.0, 1.5, 10.0, 20.0];
        assert_eq!(annotation.boxes, [NamedBox { label: "cell".into(), area, ignored: true }]);
    }

    #[test]
    fn what_is_no_such_file_says_why() {
        for (text, why) in [
            ("<html></html>", "<html>"),
            ("<annotation><object><bndbox><xmin>1</xmin></bndbox></object></annotation>", "<name>"),
            (
                "<annotation><object><name>a</name><bndbox><xmin>x</xmin></bndbox></object></annotation>",
                "number",
            ),
            ("<annotation><object></annotation>", "not open"),
            ("", "element"),
        ] {
            let problem = Annotation::read(text.as_bytes()).unwrap_err();
            assert!(problem.contains(why), "{text}: {problem}");
        }
    }
}

//! Pictures and COCO JSON: `images`, `categories`, and `annotations` with a `bbox` each.

use super::collector::{Collector, NamedBox, Place};
use super::things::{Pictures, beginning, split_in, take, whole};
use super::tree::{Tree, TreeFile};
use crate::bounds::BOXES_FILE;
use crate::error::{Error, Result};
use serde::Deserialize;
use std::collections::HashMap;

#[derive(Deserialize)]
struct Coco {
    images: Vec<Image>,
    #[serde(default)]
    annotations: Vec<Annotation>,
    categories: Vec<Category>,
}

#[derive(Deserialize)]
struct Image {
    id: i64,
    file_name: String,
}

#[derive(Deserialize)]
struct Annotation {
    image_id: i64,
    category_id: i64,
    /// Left, top, width, height. Annotations without one mark something else.
    #[serde(default)]
    bbox: Option<Vec<f32>>,
    #[serde(default)]
    iscrowd: f32,
}

#[derive(Deserialize)]
struct Category {
    id: i64,
    name: String,
}

fn files(tree: &Tree) -> Vec<TreeFile> {
    tree.files.iter().filter(|file| file.extension() == "json").cloned().collect()
}

/// Whether a source with pictures has such a file.
pub(super) fn is_in(tree: &mut Tree) -> Result<bool> {
    for file in files(tree) {
        let start = beginning(tree, &file)?;
        let keys = ["\"images\"", "\"annotations\"", "\"categories\"", "\"licenses\""];
        if start.trim_start().starts_with('{') && keys.iter().any(|key| start.contains(key)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Reads all pictures that are named.
pub(super) fn read(tree: &mut Tree, collector: &mut Collector) -> Result<()> {
    let mut pictures = Pictures::of(tree);
    collector.expect(pictures.len() as u64);
    let (mut bytes, mut any) = (Vec::new(), false);
    for file in files(tree) {
        let coco: Coco = match serde_json::from_slice(&whole(tree, &file, BOXES_FILE)?) {
            Ok(coco) => coco,
            Err(error) => {
                let place = Place { file: &file.path, line: Some(error.line() as u64) };
                collector.skip(place, format!("it is no COCO JSON with boxes: {error}"))?;
                continue;
            }
        };
        any = true;
        let split = split_in(&file.path);
        let mut boxes = coco.boxes();
        for image in coco.images {
            let named = boxes.remove(&image.id).unwrap_or_default();
            match pictures.take(&image.file_name, &file.path, split) {
                Some(picture) => take(tree, &picture, named, split, &mut bytes, collector)?,
                None => {
                    let place = Place { file: &image.file_name, line: None };
                    collector.skip(place, format!("{} names it, and it is not there", file.path))?;
                }
            }
        }
    }
    if !any {
        return Err(Error::format(&tree.name, "it has no COCO JSON"));
    }
    for picture in pictures.left() {
        collector.skip(super::class_folders::at(&picture), "no COCO JSON says what is in it")?;
    }
    Ok(())
}

impl Coco {
    /// The boxes by picture. What names an unknown category or has no four numbers is a box without area, which is told.
    fn boxes(&self) -> HashMap<i64, Vec<NamedBox>> {
        let names: HashMap<i64, &str> =
            self.categories.iter().map(|category| (category.id, category.name.as_str())).collect();
        let mut boxes: HashMap<i64, Vec<NamedBox>> = HashMap::new();
        for Annotation { image_id, category_id, bbox, iscrowd } in &self.annotations {
            let Some(bbox) = bbox.as_ref().filter(|bbox| !bbox.is_empty()) else { continue };
            let label =
                names.get(category_id).map_or_else(|| format!("category {category_id}"), |n| (*n).to_owned());
            let area = match (bbox[..].try_into(), names.contains_key(category_id)) {
                (Ok::<[f32; 4], _>([left, top, width, height]), true) => {
                    [left, top, left + width, top + height]
                }
                _ => [f32::NAN; 4],
            };
            boxes.entry(*image_id).or_default().push(NamedBox { label, area, ignored: *iscrowd != 0.0 });
        }
        boxes
    }
}

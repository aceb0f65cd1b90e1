//! Pictures with boxes: COCO and Pascal VOC.

use crate::support::{House, jpeg, request, zip};
use flotilla_data::{Format, Kind, SampleFile, Split};
use flotilla_protocol::{ErrorCode, TrueBox, Truth};
use serde_json::json;

fn coco(count: u32) -> serde_json::Value {
    let mut images: Vec<_> =
        (0..count).map(|n| json!({ "id": n, "file_name": format!("{n}.jpg"), "width": 48 })).collect();
    images.push(json!({ "id": 999, "file_name": "gone.jpg" }));
    let mut annotations: Vec<_> = (0..count)
        .filter(|n| n % 5 != 0)
        .map(|n| json!({ "id": n, "image_id": n, "category_id": 7 + n % 2, "bbox": [1, 2.5, 10, 20], "iscrowd": 0 }))
        .collect();
    annotations
        .push(json!({ "id": 100, "image_id": 1, "category_id": 7, "bbox": [40, 40, 30, 30], "iscrowd": 1 }));
    annotations.push(json!({ "id": 101, "image_id": 2, "category_id": 7, "bbox": [5, 5, 0, 10] }));
    annotations.push(json!({ "id": 102, "image_id": 2, "category_id": 99, "bbox": [5, 5, 5, 10] }));
    annotations.push(json!({ "id": 103, "image_id": 2, "category_id": 7, "segmentation": [[1, 2, 3]] }));
    let categories = json!([{ "id": 8, "name": "dog" }, { "id": 7, "name": "cat" }]);
    json!({ "images": images, "annotations": annotations, "categories": categories })
}

#[tokio::test]
async fn coco_says_what_is_in_pictures_and_what_does_not_fit_is_told() {
    let house = House::new();
    let names: Vec<String> = (0..21).map(|n| format!("data/{n}.jpg")).collect();
    let mut entries: Vec<(&str, Vec<u8>)> =
        names.iter().zip(0..).map(|(name, n)| (name.as_str(), jpeg(n))).collect();
    entries.push(("annotations/instances_default.json", coco(20).to_string().into_bytes()));
    let report = house.import(request("pets", &house.file("pets.zip", zip(&entries)))).await.unwrap();
    let version = &report.version;
    assert_eq!((version.kind, version.source.format), (Kind::ObjectDetection, Format::Coco));
    assert_eq!(version.classes, ["cat", "dog"]);
    assert_eq!((report.imported, report.skipped_total), (20, 4), "{:?}", report.skipped);
    let reason = |file: &str| {
        let found = report.skipped.iter().filter(|s| s.file == file);
        found.map(|s| s.reason.clone()).collect::<Vec<_>>().join("; ")
    };
    assert!(reason("gone.jpg").contains("not there"));
    assert!(reason("data/20.jpg").contains("no COCO JSON says"));
    assert!(
        reason("data/2.jpg").contains("\"cat\" from 5, 5 to 5, 15 has no area"),
        "{}",
        reason("data/2.jpg")
    );
    assert!(reason("data/2.jpg").contains("category 99"));

    let samples = house.datasets.samples(version, None).await.unwrap();
    let of = |n: u32| {
        let digest = flotilla_protocol::Digest::of(&jpeg(n));
        samples.iter().find(|sample| sample.digest == digest).unwrap().truth.clone()
    };
    let thing = |label, area, ignored| TrueBox { label, area, ignored };
    assert_eq!(of(0), Truth::Boxes(vec![]), "a picture of nothing is a sample, too");
    let crowd = thing(0, [40.0, 40.0, 48.0, 48.0], true);
    assert_eq!(of(1), Truth::Boxes(vec![thing(1, [1.0, 2.5, 11.0, 22.5], false), crowd]));

    let path = house.path("test");
    let written = house.datasets.write_split(version, Split::Test, &path).await.unwrap();
    let read: Vec<_> = SampleFile::open(&path).unwrap().map(Result::unwrap).collect();
    assert_eq!(read.len() as u64, written);
    assert!(read.iter().all(|(truth, _)| matches!(truth, Truth::Boxes(_))));
    let again = house.import(request("pets", &house.path("pets.zip"))).await.unwrap();
    assert!(again.existing, "the same pictures and boxes are the same version");
}

fn voc(name: &str, boxes: &[(&str, [i32; 4])]) -> String {
    let object = |(name, [xmin, ymin, xmax, ymax]): &(&str, [i32; 4])| {
        format!(
            "<object><name>{name}</name><pose>Unspecified</pose><difficult>0</difficult><bndbox><xmin>{xmin}</xmin>\
             <ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax></bndbox></object>"
        )
    };
    let objects: String = boxes.iter().map(object).collect();
    format!("<annotation><folder>JPEGImages</folder><filename>{name}</filename>{objects}</annotation>")
}

#[tokio::test]
async fn voc_says_what_is_in_pictures_and_its_lists_say_the_splits() {
    let house = House::new();
    for n in 0..20 {
        house.file(&format!("set/JPEGImages/{n}.jpg"), jpeg(n));
        house
            .file(&format!("set/Annotations/{n}.xml"), voc(&format!("{n}.jpg"), &[("cell", [1, 1, 12, 48])]));
    }
    house.file("set/Annotations/3.xml", "<annotation><object>");
    house.file("set/Annotations/renamed.xml", voc("30.jpg", &[("cell", [1, 1, 2, 2])]));
    let list = |range: std::ops::Range<u32>| range.map(|n| format!("{n}\n")).collect::<String>();
    house.file("set/ImageSets/Main/train.txt", list(0..10));
    house.file("set/ImageSets/Main/val.txt", list(10..14));
    house.file("set/ImageSets/Main/test.txt", list(14..20));
    house.file("set/ImageSets/Main/trainval.txt", list(0..14));
    let report = house.import(request("cells", &house.path("set"))).await.unwrap();
    let version = &report.version;
    assert_eq!((version.kind, version.source.format), (Kind::ObjectDetection, Format::Voc));
    assert_eq!(version.classes, ["cell"], "one class is enough to be found");
    assert_eq!((version.splits.train, version.splits.validation, version.splits.test), (9, 4, 6));
    assert_eq!(report.skipped_total, 3, "{:?}", report.skipped);
    let samples = house.datasets.samples(version, Some(Split::Test)).await.unwrap();
    let area = [0.0, 0.0, 12.0, 48.0];
    assert_eq!(samples[0].truth, Truth::Boxes(vec![TrueBox { label: 0, area, ignored: false }]));
}

#[tokio::test]
async fn a_file_of_boxes_that_is_broken_leaves_nothing_behind() {
    let house = House::new();
    let entries = [("a.jpg", jpeg(1)), ("instances.json", b"{\"images\": [{\"id\": 1".to_vec())];
    let error = house.import(request("pets", &house.file("pets.zip", zip(&entries)))).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::DatasetFormat, "{error}");
    assert_eq!(house.left().await, (0, 0));
}

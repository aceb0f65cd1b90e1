//! Pictures in folders, zips and IDX files.

use crate::entries;
use crate::support::{House, jpeg, png, request, two_classes, zip};
use flate2::Compression;
use flate2::write::GzEncoder;
use flotilla_data::{Format, SKIPPED_LISTED, Split, SplitCounts};
use flotilla_protocol::{Digest, ErrorCode};
use std::collections::BTreeSet;
use std::io::Write;

#[tokio::test]
async fn a_folder_and_a_zip_of_the_same_pictures_are_the_same_dataset() {
    let house = House::new();
    let mut pictures = two_classes("");
    pictures.push(("cat/colour.jpg".into(), jpeg(1)));
    for (name, content) in &pictures {
        house.file(&format!("pets/{name}"), content);
    }
    let zipped: Vec<_> = pictures.iter().rev().map(|(n, c)| (format!("top/{n}"), c.clone())).collect();
    let zipped = house.file("pets.zip", zip(&entries(&zipped)));

    let folder = house.import(request("pets", &house.path("pets"))).await.unwrap();
    assert_eq!(folder.version.classes, ["cat", "dog"]);
    assert_eq!((folder.imported, folder.skipped_total), (21, 0));
    assert_eq!(folder.version.source.format, Format::ImageFolders);
    let facts = folder.version.images.unwrap();
    assert_eq!((facts.min_width, facts.max_width, facts.grey), (4, 48, false));
    let zip = house.import(request("pets", &zipped)).await.unwrap();
    assert!(zip.existing, "the order of files and the folder around them do not matter");
}

#[tokio::test]
async fn splits_of_the_source_are_kept_and_duplicates_stay_on_one_side() {
    let house = House::new();
    let mut all = two_classes("set/train/");
    all.push(("set/test/cat/again.png".into(), png(0)));
    all.push(("set/test/dog/new.png".into(), png(100)));
    all.push(("set/test/cat/new.png".into(), png(101)));
    let report = house.import(request("pets", &house.file("p.zip", zip(&entries(&all))))).await.unwrap();
    assert_eq!((report.imported, report.duplicates), (22, 1));
    assert_eq!(report.version.splits.test, 3, "the picture in both counts as held out");
    assert!(report.version.splits.validation > 0, "validation is cut from the training part");
    let test = house.datasets.samples(&report.version, Some(Split::Test)).await.unwrap();
    let expected: BTreeSet<_> = [0, 100, 101].map(|n| Digest::of(&png(n))).into();
    assert_eq!(test.iter().map(|s| s.digest).collect::<BTreeSet<_>>(), expected);
}

#[tokio::test]
async fn bad_pictures_are_listed_and_the_rest_is_imported() {
    let house = House::new();
    let mut all = two_classes("");
    let whole = jpeg(1);
    all.push(("cat/cut.jpg".into(), whole[..whole.len() / 2].to_vec()));
    all.push(("cat/text.png".into(), b"not a picture".to_vec()));
    all.push(("cat/empty.png".into(), Vec::new()));
    all.push(("dog/old.gif".into(), b"GIF89a".to_vec()));
    all.push(("notes.txt".into(), b"hello".to_vec()));
    all.push(("loose.png".into(), png(200)));
    all.push(("dog/as-cat.png".into(), png(0)));
    all.push((".hidden/x.png".into(), b"x".to_vec()));
    let report = house.import(request("pets", &house.file("p.zip", zip(&entries(&all))))).await.unwrap();
    assert_eq!((report.imported, report.skipped_total, report.version.skipped), (20, 7, 7));
    let reason = |file: &str| report.skipped.iter().find(|s| s.file == file).unwrap().reason.clone();
    assert!(reason("cat/cut.jpg").contains("cut off"));
    assert!(reason("cat/text.png").contains("neither png nor jpeg"));
    assert!(reason("cat/empty.png").contains("neither png nor jpeg"));
    assert!(reason("dog/old.gif").contains("only png and jpeg"));
    assert!(reason("notes.txt").contains("not a picture"));
    assert!(reason("loose.png").contains("no class folder"));
    assert!(reason("dog/as-cat.png").contains("label \"cat\" before"));
}

#[tokio::test]
async fn the_list_of_bad_samples_is_bounded_and_their_number_is_not() {
    let house = House::new();
    let mut all = two_classes("");
    all.extend((0..150).map(|n| (format!("cat/bad-{n}.png"), vec![0; 3])));
    let report = house.import(request("pets", &house.file("p.zip", zip(&entries(&all))))).await.unwrap();
    assert_eq!((report.skipped.len(), report.skipped_total), (SKIPPED_LISTED, 150));
}

fn idx(dimensions: &[u32], data: &[u8]) -> Vec<u8> {
    let mut out = vec![0, 0, 8, dimensions.len() as u8];
    dimensions.iter().for_each(|d| out.extend(d.to_be_bytes()));
    out.extend_from_slice(data);
    out
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = GzEncoder::new(Vec::new(), Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

/// `count` pictures of 2x2 and their labels 0 and 1.
fn pair(first: u8, count: u8) -> (Vec<u8>, Vec<u8>) {
    let pixels: Vec<u8> = (0..count).flat_map(|n| [first + n, 1, 2, n]).collect();
    let labels: Vec<u8> = (0..count).map(|n| n % 2).collect();
    (idx(&[u32::from(count), 2, 2], &pixels), idx(&[u32::from(count)], &labels))
}

#[tokio::test]
async fn idx_pairs_are_read_from_a_folder_or_zip_and_keep_their_splits() {
    let house = House::new();
    let (train, train_labels) = pair(0, 40);
    let (test, test_labels) = pair(100, 10);
    let files = [
        ("train-images-idx3-ubyte.gz", gzip(&train)),
        ("train-labels-idx1-ubyte.gz", gzip(&train_labels)),
        ("t10k-images-idx3-ubyte", test),
        ("t10k-labels-idx1-ubyte", test_labels),
    ];
    for (name, content) in &files {
        house.file(&format!("mnist/{name}"), content);
    }
    let report = house.import(request("mnist", &house.path("mnist"))).await.unwrap();
    assert_eq!(report.version.splits, SplitCounts { train: 34, validation: 6, test: 10 });
    assert_eq!(report.version.classes, ["0", "1"]);
    let zipped = house.import(request("mnist", &house.file("m.zip", zip(&files)))).await.unwrap();
    assert!(zipped.existing);
}

#[tokio::test]
async fn a_cut_idx_file_gives_what_it_holds_and_lists_the_rest() {
    let house = House::new();
    let (images, labels) = pair(0, 40);
    house.file("set/train-images-idx3-ubyte", &images[..images.len() - 18]);
    house.file("set/train-labels-idx1-ubyte", &labels);
    let report = house.import(request("set", &house.path("set"))).await.unwrap();
    assert_eq!((report.imported, report.skipped_total), (35, 5));
    assert_eq!((report.skipped.len(), report.skipped[0].line), (1, Some(36)));
    assert!(report.skipped[0].reason.contains("5 are missing"));

    house.file("no-labels/train-images-idx3-ubyte", &images);
    let error = house.import(request("x", &house.path("no-labels"))).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::DatasetFormat);
    house.file("wrong/train-images-idx3-ubyte", b"not an idx file at all");
    house.file("wrong/train-labels-idx1-ubyte", &labels);
    let error = house.import(request("x", &house.path("wrong"))).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::DatasetFormat);
}

#[tokio::test]
async fn class_names_that_are_too_many_for_a_record_come_back_whole() {
    let house = House::new();
    let class = |n: u32| format!("{n:04}-{}", "x".repeat(60));
    let all: Vec<_> = (0..600).map(|n| (format!("{}/{n}.png", class(n / 3)), png(n))).collect();
    let report = house.import(request("many", &house.file("m.zip", zip(&entries(&all))))).await.unwrap();
    let expected: Vec<_> = (0..200).map(class).collect();
    assert_eq!(report.version.classes, expected);
    let read = house.datasets.version(&report.version.dataset, None).await.unwrap();
    assert_eq!(read, report.version);
    let again = house.import(request("many", &house.path("m.zip"))).await.unwrap();
    assert!(again.existing && again.version == read);
}

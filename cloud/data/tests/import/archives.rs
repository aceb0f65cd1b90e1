//! Archives that are out to harm, or damaged.

use crate::entries;
use crate::support::{House, png, request, two_classes, zip};
use flate2::Compression;
use flate2::write::GzEncoder;
use flotilla_protocol::ErrorCode;
use std::io::Write;

#[tokio::test]
async fn an_archive_with_a_dangerous_path_is_refused_and_leaves_nothing() {
    let house = House::new();
    for name in ["../evil.png", "a/../../evil.png", "/etc/evil.png", "C:/evil.png", "a\\..\\evil.png"] {
        let mut all = two_classes("");
        all.push((name.into(), png(300)));
        let error = house.import(request("x", &house.file("x.zip", zip(&entries(&all))))).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::ArchivePath, "{name}");
        assert!(error.to_string().contains("nothing of it was imported"), "{error}");
        assert_eq!(house.left().await, (0, 0));
    }
    assert!(!house.path("../evil.png").exists());
}

#[tokio::test]
async fn an_archive_with_a_symbolic_link_is_refused() {
    let house = House::new();
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default();
    zip.add_symlink("cat/1.png", "/etc/passwd", options).unwrap();
    let file = house.file("x.zip", zip.finish().unwrap().into_inner());
    let error = house.import(request("x", &file)).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::ArchivePath);
    assert_eq!(house.left().await, (0, 0));
}

#[tokio::test]
async fn links_in_a_folder_are_not_followed() {
    let house = House::new();
    for (name, content) in two_classes("pets/") {
        house.file(&name, content);
    }
    let outside = house.file("outside.png", png(400));
    std::os::unix::fs::symlink(&outside, house.path("pets/cat/link.png")).unwrap();
    std::os::unix::fs::symlink(house.path("pets"), house.path("pets/cat/loop")).unwrap();
    let report = house.import(request("pets", &house.path("pets"))).await.unwrap();
    assert_eq!((report.imported, report.skipped_total), (20, 2));
    assert!(report.skipped.iter().all(|s| s.reason.contains("link")));
}

#[tokio::test]
async fn archives_that_unpack_without_measure_are_refused_and_leave_nothing() {
    let house = House::new();
    // 256 MiB of zeros: first as an honest zip, then as gzip, whose size nobody announces.
    let zeros = vec![0; 1 << 20];
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    zip.start_file("cat/1.png", zip::write::SimpleFileOptions::default()).unwrap();
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    gzip.write_all(b"a,label\n").unwrap();
    for _ in 0..256 {
        zip.write_all(&zeros).unwrap();
        gzip.write_all(&zeros).unwrap();
    }
    let zip = house.file("x.zip", zip.finish().unwrap().into_inner());
    let gzip = house.file("x.csv.gz", gzip.finish().unwrap());
    for bomb in [zip, gzip] {
        let error = house.import(request("x", &bomb)).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::ArchiveBomb, "{error}");
        assert_eq!(house.left().await, (0, 0));
    }
}

#[tokio::test]
async fn a_damaged_zip_is_a_format_error() {
    let house = House::new();
    let all = two_classes("");
    let whole = zip(&entries(&all));
    let error =
        house.import(request("x", &house.file("x.zip", &whole[..whole.len() - 40]))).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::DatasetFormat);
    // One flipped byte in the data of an entry costs that entry only.
    let mut flipped = whole.clone();
    flipped[45] ^= 0xff;
    let report = house.import(request("x", &house.file("y.zip", flipped))).await.unwrap();
    assert_eq!((report.imported, report.skipped_total), (19, 1));
}

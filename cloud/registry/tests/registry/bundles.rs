//! Releases that are carried, and refused when anything about them is wrong.

use crate::support::{NOW, model, onnx, open, released, request};
use bytes::Bytes;
use flotilla_identity::Actor;
use flotilla_protocol::{Digest, ErrorCode};
use flotilla_registry::Bundle;

#[tokio::test]
async fn a_bundle_brings_a_release_back_after_the_records_are_lost() {
    let dir = tempfile::tempdir().unwrap();
    let installation = open(dir.path()).await;
    let release = released(&installation).await;
    let zip = installation.registry.export(&release.digest).await.unwrap();
    assert_eq!(
        zip,
        installation.registry.export(&release.digest).await.unwrap(),
        "the same bytes every time"
    );
    let admin = Actor::administrator();
    let same = installation.registry.import_bundle(&admin, zip.clone(), NOW).await.unwrap();
    assert_eq!(same, release, "importing what is there changes nothing");
    installation.records.close().await.unwrap();
    drop(installation);

    std::fs::remove_dir_all(dir.path().join("records")).unwrap();
    std::fs::remove_dir_all(dir.path().join("objects")).unwrap();
    let installation = open(dir.path()).await;
    let imported = installation.registry.import_bundle(&admin, zip, NOW + 9).await.unwrap();
    assert_eq!((imported.digest, imported.counter), (release.digest, release.counter));
    let version = installation.registry.version(&model(), release.version).await.unwrap();
    assert_eq!(version.onnx, Digest::of(&onnx(1.0)));
    assert_eq!(version.metrics.accuracy, 0.9);
    let next = installation.registry.release(&admin, request(), NOW + 10).await.unwrap();
    assert_eq!(next.counter, release.counter + 1, "counters go on behind the imported release");
}

#[tokio::test]
async fn a_bundle_signed_by_another_key_is_refused() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (ours, theirs) = (open(ours.path()).await, open(theirs.path()).await);
    let release = released(&theirs).await;
    let zip = theirs.registry.export(&release.digest).await.unwrap();
    let refused = ours.registry.import_bundle(&Actor::administrator(), zip, NOW).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::SignatureInvalid);
    assert!(ours.registry.models(None, 10).await.unwrap().is_empty(), "nothing of it stays");
    assert_eq!(ours.objects.list(None, 10).await.unwrap().len(), 1, "only the trust file is stored");
}

#[tokio::test]
async fn a_bundle_that_was_changed_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let installation = open(dir.path()).await;
    let release = released(&installation).await;
    let zip = installation.registry.export(&release.digest).await.unwrap();
    let good = Bundle::from_zip(&zip).unwrap();
    let import = async |bundle: &Bundle| {
        let zip = bundle.to_zip().unwrap();
        installation.registry.import_bundle(&Actor::administrator(), zip.into(), NOW).await
    };
    import(&good).await.unwrap();

    let mut flipped = good.clone();
    let mut model = flipped.files["model.onnx"].to_vec();
    let middle = model.len() / 2;
    model[middle] ^= 1;
    flipped.files.insert("model.onnx".into(), model.into());
    assert_eq!(import(&flipped).await.unwrap_err().code(), ErrorCode::DigestMismatch);

    let mut missing = good.clone();
    missing.files.remove("golden.cbor");
    assert_eq!(import(&missing).await.unwrap_err().code(), ErrorCode::Malformed);

    let mut more = good.clone();
    more.files.insert("extra.bin".into(), Bytes::from_static(b"x"));
    assert_eq!(import(&more).await.unwrap_err().code(), ErrorCode::Malformed);

    let mut signed = good.envelope.to_vec();
    let middle = signed.len() / 2;
    signed[middle] ^= 1;
    let changed = Bundle { envelope: signed.into(), ..good.clone() };
    let code = import(&changed).await.unwrap_err().code();
    assert!([ErrorCode::SignatureInvalid, ErrorCode::Malformed].contains(&code), "{code}");
}

#[test]
fn paths_that_leave_a_bundle_are_refused() {
    use std::io::{Cursor, Write};
    for path in [
        "../x",
        "files/../../x",
        "/etc/passwd",
        "files/.hidden",
        "files/a/b",
        "files/",
        "other",
        "files/a\\b",
    ] {
        let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
        zip.start_file(path, zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(b"x").unwrap();
        let bytes = zip.finish().unwrap().into_inner();
        assert_eq!(Bundle::from_zip(&bytes).unwrap_err().code(), ErrorCode::ArchivePath, "{path}");
    }
}

#[test]
fn a_bundle_that_unpacks_to_too_much_is_refused() {
    let bomb =
        Bundle { envelope: vec![0; 10 << 20].into(), files: Default::default(), patches: Default::default() };
    let zip = bomb.to_zip().unwrap();
    assert!(zip.len() < 100_000);
    assert_eq!(Bundle::from_zip(&zip).unwrap_err().code(), ErrorCode::TooLarge);
}

proptest::proptest! {
    #[test]
    fn arbitrary_and_damaged_zip_files_never_panic(
        noise in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200),
        at in 0_usize..400,
        value: u8,
    ) {
        let _ = Bundle::from_zip(&noise);
        let files = [("a.bin".to_owned(), Bytes::from_static(b"0123456789"))].into();
        let mut zip = Bundle { envelope: Bytes::from_static(b"envelope"), files, patches: Default::default() }.to_zip().unwrap();
        let at = at % zip.len();
        zip[at] = value;
        let _ = Bundle::from_zip(&zip);
    }
}

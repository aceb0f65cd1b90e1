//! Releases in folders and in memory.

use crate::support::{halves, halves_pipeline, label};
use flotilla_protocol::manifest::{
    Constraints, ENGINE_TRACT, FileEntry, Lineage, Metrics, ReleaseKind, Variant,
};
use flotilla_protocol::{ErrorCode, ReleaseManifest, codec};
use flotilla_runtime::{Bundle, Error, Input, Model, check_golden, make_golden};
use std::collections::BTreeMap;

/// A release with one variant for boards named "small" and its files.
fn release() -> (ReleaseManifest, BTreeMap<String, Vec<u8>>) {
    let onnx = halves("N");
    let mut model = Model::load(&halves_pipeline(), &onnx).unwrap();
    let golden = make_golden(&mut model, [[1, 2, 3, 4], [200, 0, 0, 0]], 1e-6).unwrap();
    let files: BTreeMap<String, Vec<u8>> =
        [("model.onnx".to_owned(), onnx), ("golden.cbor".to_owned(), codec::encode(&golden))].into();
    let manifest = ReleaseManifest {
        format: 1,
        kind: ReleaseKind::Model,
        project: "default".parse().unwrap(),
        model: "halves".parse().unwrap(),
        version: 1,
        counter: 1,
        created_at_ms: 0,
        expires_at_ms: None,
        variants: vec![Variant {
            engine: ENGINE_TRACT.into(),
            boards: vec!["small".into()],
            model: "model.onnx".into(),
        }],
        files: files.iter().map(|(name, content)| FileEntry::of(name, content)).collect(),
        pipeline: halves_pipeline(),
        golden: "golden.cbor".into(),
        metrics: Metrics::default(),
        lineage: Lineage::default(),
        constraints: Constraints::default(),
        agent: None,
        baseline: None,
    };
    (manifest, files)
}

fn folder(files: &BTreeMap<String, Vec<u8>>) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        std::fs::write(folder.path().join(name), content).unwrap();
    }
    folder
}

#[test]
fn a_release_loads_and_passes_its_golden_vectors_from_folder_and_memory() {
    let (manifest, files) = release();
    let folder = folder(&files);
    let on_disk = Bundle::open(folder.path(), manifest.clone()).unwrap();
    for bundle in [on_disk, Bundle::from_files(manifest, files).unwrap()] {
        let mut model = Model::from_bundle(&bundle, "small", ENGINE_TRACT).unwrap();
        assert_eq!(label(&model.predict(Input::Raw(&[0, 200, 0, 0])).unwrap()), "right");
        assert_eq!(check_golden(&mut model, &bundle.golden().unwrap()).unwrap().max_abs_error, 0.0);
    }
}

#[test]
fn every_changed_missing_shortened_or_lengthened_file_is_found() {
    let (manifest, files) = release();
    for name in ["model.onnx", "golden.cbor"] {
        let changes: [fn(&mut Vec<u8>); 3] = [|c| c[7] ^= 1, |c| c.truncate(c.len() - 1), |c| c.push(0)];
        for change in changes {
            let mut files = files.clone();
            change(files.get_mut(name).unwrap());
            let folder = folder(&files);
            for result in
                [Bundle::open(folder.path(), manifest.clone()), Bundle::from_files(manifest.clone(), files)]
            {
                let error = result.unwrap_err();
                assert!(matches!(&error, Error::Damaged { name: n, .. } if n == name), "{error}");
                assert_eq!(error.code(), ErrorCode::DigestMismatch);
            }
        }
        let mut files = files.clone();
        files.remove(name);
        let folder = folder(&files);
        assert_eq!(Bundle::open(folder.path(), manifest.clone()).unwrap_err().code(), ErrorCode::NotFound);
        assert_eq!(Bundle::from_files(manifest.clone(), files).unwrap_err().code(), ErrorCode::NotFound);
    }
}

#[test]
fn a_file_that_changes_after_opening_is_not_used() {
    let (manifest, files) = release();
    let folder = folder(&files);
    let bundle = Bundle::open(folder.path(), manifest).unwrap();
    std::fs::write(folder.path().join("model.onnx"), halves(1)).unwrap();
    let error = Model::from_bundle(&bundle, "small", ENGINE_TRACT).unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
}

#[test]
fn other_boards_and_engines_are_refused() {
    let (manifest, files) = release();
    let bundle = Bundle::from_files(manifest, files).unwrap();
    assert_eq!(
        Model::from_bundle(&bundle, "large", ENGINE_TRACT).unwrap_err().code(),
        ErrorCode::BoardMismatch
    );
    assert_eq!(Model::from_bundle(&bundle, "small", "other").unwrap_err().code(), ErrorCode::Unsupported);
}

#[test]
fn a_golden_file_that_is_none_is_a_typed_error() {
    let (mut manifest, mut files) = release();
    files.insert("golden.cbor".into(), b"not CBOR".to_vec());
    manifest.files = files.iter().map(|(name, content)| FileEntry::of(name, content)).collect();
    let error = Bundle::from_files(manifest, files).unwrap().golden().unwrap_err();
    assert!(matches!(error, Error::Golden(_)), "{error}");
}

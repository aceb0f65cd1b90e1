//! ModelArts model packages, and archives made to do harm.

use flotilla_import::{Error, Format, Options, inspect};
use flotilla_protocol::ErrorCode;

use crate::support::{classifier, tar, zip};

const CONFIG: &str = r#"{
    "model_type": "ONNX", "model_algorithm": "image_classification", "runtime": "python3.7",
    "metrics": {"f1": 0.93, "recall": "0.9", "precision": 0.95, "accuracy": 0.94},
    "apis": [{"url": "/", "method": "post", "request": {"Content-type": "multipart/form-data"}, "response": {}}],
    "dependencies": [{"installer": "pip", "packages": [{"package_name": "numpy"}]}],
    "labels": ["ant", "bee", "cat"]
}"#;

#[test]
fn a_package_gives_its_model_and_what_it_says_of_it() {
    let model = classifier().build().unwrap().write();
    let files: [(&str, &[u8]); 3] = [
        ("net/model/config.json", CONFIG.as_bytes()),
        ("net/model/net.onnx", &model),
        ("net/model/customize_service.py", b"import os; os.remove('/')"),
    ];
    let mut zipped = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    std::io::Write::write_all(&mut zipped, &tar(&files)).unwrap();
    for archive in [zip(&files), tar(&files), zipped.finish().unwrap()] {
        let report = inspect(&archive, &Options::default()).unwrap().report;
        let package = report.package.as_ref().unwrap();
        assert_eq!(report.format, Format::Package);
        assert_eq!(package.model, "net/model/net.onnx");
        assert_eq!(package.algorithm.as_deref(), Some("image_classification"));
        assert_eq!((package.metrics.recall, package.metrics.accuracy), (Some(0.9), Some(0.94)));
        assert_eq!((package.apis.as_slice(), package.has_code), (["POST /".to_owned()].as_slice(), true));
        assert_eq!(report.labels, ["ant", "bee", "cat"]);
        assert!(report.warnings.iter().any(|warning| warning.contains("not run")), "{:?}", report.warnings);
    }
}

#[test]
fn labels_beside_the_model_are_taken() {
    let model = classifier().build().unwrap().write();
    for (name, content) in
        [("labels.txt", "ant\nbee\n\ncat\n"), ("index.json", r#"{"1": "bee", "0": "ant", "2": "cat"}"#)]
    {
        let archive = zip(&[("m/net.onnx", &model), (&format!("m/{name}"), content.as_bytes())]);
        assert_eq!(
            inspect(&archive, &Options::default()).unwrap().report.labels,
            ["ant", "bee", "cat"],
            "{name}"
        );
    }
}

#[test]
fn labels_that_do_not_match_the_outputs_are_an_error() {
    let model = classifier().build().unwrap().write();
    let with = |labels: &[&str]| {
        let labels = labels.iter().map(|label| (*label).to_owned()).collect();
        inspect(&model, &Options { labels: Some(labels), ..Options::default() })
    };
    assert_eq!(with(&["a", "b", "c"]).unwrap().report.labels.len(), 3);
    let error = with(&["a", "b"]).unwrap_err();
    assert!(matches!(error, Error::Labels { labels: 2, outputs: 3, .. }), "{error}");
    assert_eq!(error.code(), ErrorCode::InvalidInput);
    assert!(matches!(with(&["a", "b", "a"]), Err(Error::Label { .. })));
    assert!(matches!(with(&["a", " ", "c"]), Err(Error::Label { .. })));
    let archive = zip(&[("net.onnx", &model), ("labels.txt", b"ant\nbee")]);
    assert!(matches!(
        inspect(&archive, &Options::default()),
        Err(Error::Labels { source_of: "the package", .. })
    ));
}

#[test]
fn packages_that_are_not_usable_say_why() {
    let model = classifier().build().unwrap().write();
    let cases: [(Vec<u8>, &str); 5] = [
        (zip(&[("model/config.json", CONFIG.as_bytes())]), "no .onnx file"),
        (zip(&[("a.onnx", &model), ("b.onnx", &model)]), "2 .onnx files"),
        (zip(&[("a.onnx", &model), ("config.json", b"{")]), "config.json cannot be read"),
        (
            zip(&[("a.onnx", &model), ("config.json", br#"{"model_type": "TensorFlow"}"#)]),
            "model_type is TensorFlow",
        ),
        (zip(&[("a.onnx", &model), ("labels.txt", b"\xff\xfe")]), "labels.txt cannot be read"),
    ];
    for (archive, problem) in cases {
        let error = inspect(&archive, &Options::default()).unwrap_err();
        assert!(matches!(error, Error::Package { .. }) && error.to_string().contains(problem), "{error}");
    }
}

#[test]
fn bombs_and_paths_that_leave_the_archive_are_refused() {
    let code = |bytes: &[u8]| inspect(bytes, &Options::default()).unwrap_err().code();
    let zeros = vec![0; 20 << 20];
    assert_eq!(code(&zip(&[("model.onnx", &zeros)])), ErrorCode::ArchiveBomb);
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::Write::write_all(&mut packed, &tar(&[("model.onnx", &zeros)])).unwrap();
    assert_eq!(code(&packed.finish().unwrap()), ErrorCode::ArchiveBomb);
    let names: Vec<String> = (0..5000).map(|n| format!("{n}.txt")).collect();
    let many: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &b""[..])).collect();
    assert_eq!(code(&zip(&many)), ErrorCode::ArchiveBomb);
    assert_eq!(code(&tar(&many)), ErrorCode::ArchiveBomb);
    for path in ["../model.onnx", "/etc/model.onnx", "a/../../model.onnx"] {
        assert_eq!(code(&tar(&[(path, b"x")])), ErrorCode::ArchivePath, "{path}");
        assert_eq!(code(&zip(&[(path, b"x")])), ErrorCode::ArchivePath, "{path}");
    }
}

#[test]
fn archives_cut_anywhere_are_refused_or_whole() {
    let model = classifier().build().unwrap().write();
    let files: [(&str, &[u8]); 2] = [("m/net.onnx", &model), ("m/config.json", CONFIG.as_bytes())];
    for archive in [zip(&files), tar(&files)] {
        for end in (0..archive.len()).step_by(97) {
            if let Ok(import) = inspect(&archive[..end], &Options::default()) {
                assert!(import.report.runs);
            }
        }
    }
}

//! The same file and recipe give the same bytes: now, after a trip through JSON, and in later versions.

use std::path::Path;

use flotilla_compress::{Budget, Options, Recipe};
use flotilla_onnx::Model;

use crate::support::{fragile, squeeze};

#[test]
fn the_recipe_of_a_report_makes_the_same_file_again() {
    let compressed = squeeze(&Options::default(), &Budget::default()).unwrap();
    let report = serde_json::to_string(&compressed.report).unwrap();
    let report: flotilla_compress::Report = serde_json::from_str(&report).unwrap();
    // Times may change in their last digit on the way through text; what is replayed may not.
    assert_eq!(report.recipe, compressed.report.recipe);
    assert_eq!(report.layers.len(), compressed.report.layers.len());
    assert!(!report.recipe.int8_weights.keep_float.is_empty(), "the fallback is part of the recipe");
    assert_eq!(report.recipe.apply(&fragile().write()).unwrap(), compressed.onnx);
    assert_eq!(report.output, flotilla_protocol::Digest::of(&compressed.onnx));
    assert_eq!(report.source, flotilla_protocol::Digest::of(&fragile().write()));
}

#[test]
fn a_recipe_is_readable_and_strict() {
    let recipe: Recipe = serde_json::from_str(r#"{"format":1,"int8_weights":{"min_elements":9}}"#).unwrap();
    assert_eq!(recipe.int8_weights.min_elements, 9);
    assert_eq!(recipe.int8_weights.clip_percent, Recipe::default().int8_weights.clip_percent);
    assert_eq!(recipe.to_string(), "int8 weights per channel");
    for unknown in [r#"{"format":1,"prune":{}}"#, r#"{"format":1,"int8_weights":{"bits":4}}"#, "{}"] {
        assert!(serde_json::from_str::<Recipe>(unknown).is_err(), "{unknown}");
    }
}

/// The files under `golden/` are never changed: another version of this crate must still make the second of the first.
/// `FLOTILLA_BLESS=1` writes them where they are missing.
#[test]
fn the_bytes_stay_the_same_over_versions() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let (float, int8) = (folder.join("small.onnx"), folder.join("small-int8.onnx"));
    if std::env::var_os("FLOTILLA_BLESS").is_some() && !float.exists() {
        let onnx = crate::support::every_form().write();
        std::fs::write(&int8, Recipe::default().apply(&onnx).unwrap()).unwrap();
        std::fs::write(&float, onnx).unwrap();
    }
    let (float, int8) = (std::fs::read(float).unwrap(), std::fs::read(int8).unwrap());
    assert!(Recipe::default().apply(&float).unwrap() == int8, "the recipe now makes other bytes");
    assert_eq!(Model::read(&int8).unwrap().tensor_i8("int8_0").unwrap().dims, [32, 1, 3, 3]);
}

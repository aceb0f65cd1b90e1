//! The same file and recipe give the same bytes: now, after a trip through JSON, and in later versions.

use std::path::Path;

use flotilla_compress::{Budget, Clip, Form, Options, Recipe, Step, Weights};
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
    assert!(report.recipe.steps.len() >= 5, "{}", report.recipe);
    assert_eq!(report.recipe.apply(&fragile().write()).unwrap(), compressed.onnx);
    assert_eq!(report.output, flotilla_protocol::Digest::of(&compressed.onnx));
    assert_eq!(report.source, flotilla_protocol::Digest::of(&fragile().write()));
}

#[test]
fn a_recipe_is_readable_and_strict() {
    let text = r#"{"format":2,"steps":[{"do":"fold"},{"do":"weights","form":"int4","only":["mix"]},
        {"do":"weights","form":"int8","clip":{"percentile":9990}},{"do":"correct_bias","by":"norms"},{"do":"tidy"}]}"#;
    let recipe: Recipe = serde_json::from_str(text).unwrap();
    let Step::Weights(weights) = &recipe.steps[1] else { panic!("{recipe:?}") };
    assert_eq!(*weights, Weights { only: vec!["mix".into()], ..Weights::new(Form::Int4) });
    assert_eq!(recipe.to_string(), "folded, int4 weights for 1, int8 weights, biases corrected");
    let again: Recipe = serde_json::from_str(&serde_json::to_string(&recipe).unwrap()).unwrap();
    assert_eq!(again, recipe);
    for unknown in [
        "{}",
        r#"{"format":3,"steps":[]}"#,
        r#"{"format":2}"#,
        r#"{"format":2,"steps":[],"int8_weights":{}}"#,
        r#"{"format":2,"steps":[{"do":"prune"}]}"#,
        r#"{"format":2,"steps":[{"do":"fold","twice":true}]}"#,
        r#"{"format":2,"steps":[{"do":"weights","form":"int8","bits":4}]}"#,
    ] {
        assert!(serde_json::from_str::<Recipe>(unknown).is_err(), "{unknown}");
    }
}

#[test]
fn recipes_of_the_first_version_are_read_and_make_the_same_bytes() {
    let old = r#"{"format":1,"strip_notes":true,"int8_weights":{"min_elements":9,"clip_percent":[100],"keep_float":["mix"]}}"#;
    let recipe: Recipe = serde_json::from_str(old).unwrap();
    let weights = Weights {
        min_elements: 9,
        clip: Clip::Mse(vec![100]),
        except: vec!["mix".into()],
        ..Weights::new(Form::Int8)
    };
    assert_eq!(recipe.steps, [Step::StripNotes { everywhere: false }, Step::Weights(weights)]);
    let plain: Recipe = serde_json::from_str(r#"{"format":1}"#).unwrap();
    assert_eq!(plain, Recipe::default(), "which the files under `golden/` were made with");
    for unknown in [
        r#"{"format":1,"prune":{}}"#,
        r#"{"format":1,"int8_weights":{"bits":4}}"#,
        r#"{"format":1,"steps":[]}"#,
    ] {
        assert!(serde_json::from_str::<Recipe>(unknown).is_err(), "{unknown}");
    }
}

#[test]
fn reports_of_the_first_version_are_read() {
    let report = squeeze(&Options::default(), &Budget::default()).unwrap().report;
    let mut json = serde_json::to_value(&report).unwrap();
    let fields = json.as_object_mut().unwrap();
    for (new, old) in
        [("value_before", "accuracy_before"), ("value_after", "accuracy_after"), ("drop", "accuracy_drop")]
    {
        let value = fields.remove(new).unwrap();
        fields.insert(old.into(), value);
    }
    for new in ["metric", "drop_interval", "macs_before", "peak_bytes_before", "chosen", "warnings"] {
        fields.remove(new).unwrap();
    }
    fields["recipe"] = serde_json::json!({"format": 1});
    fields["measured"] = serde_json::json!([{
        "kept_float": ["mix"], "bytes": 9, "accuracy": 0.5, "drop": 0.1, "latency": {"p50_ms": 1.0, "p95_ms": 1.0}
    }]);
    let old: flotilla_compress::Report = serde_json::from_value(json).unwrap();
    assert_eq!((old.value_before, old.measured[0].value, old.chosen), (report.value_before, 0.5, None));
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

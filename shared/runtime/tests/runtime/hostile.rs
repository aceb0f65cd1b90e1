//! Bytes that nobody meant well: typed errors, never a panic, never a hang.

use crate::support::{engine, grey, halves, halves_pipeline, jpeg, png, run};
use flotilla_onnx::{GraphBuilder, Node, Value};
use flotilla_protocol::ErrorCode;
use flotilla_protocol::pipeline::Resize;
use flotilla_runtime::{Input, Model, preprocess};
use proptest::prelude::*;

#[test]
fn files_that_are_no_models_are_invalid() {
    for bytes in [&b""[..], b"garbage", &[0xff; 64], &png(image::GrayImage::new(2, 2)), &[0x3a, 0x7f]] {
        let error = Model::load(&halves_pipeline(), bytes).unwrap_err();
        assert_eq!(error.code(), ErrorCode::ModelInvalid, "{}", error.detail());
    }
    let whole = halves("N");
    for length in 0..whole.len() {
        // Some prefixes are models in their own right; none may panic, and none may be taken for this one.
        if let Ok(mut engine) = engine(&whole[..length], &[1, 1, 2, 2]) {
            let _ = run(&mut engine, &[1.0; 4]);
        }
    }
}

#[test]
fn a_panic_inside_the_engine_is_an_error_of_the_model() {
    let no_inputs: [&str; 0] = [];
    let model = GraphBuilder::new("flatten of nothing")
        .input(Value::f32("x", [1_usize, 1, 2, 2]))
        .output(Value::f32("y", [1_usize, 4]))
        .node(Node::new("Flatten", no_inputs, ["y"]))
        .build()
        .unwrap();
    let error = engine(&model.write(), &[1, 1, 2, 2]).unwrap_err();
    assert_eq!(error.code(), ErrorCode::ModelUnsupported, "{}", error.detail());
    assert!(error.detail().contains("panicked"), "{}", error.detail());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn arbitrary_bytes_are_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        let pipeline = grey(4, 4, Resize::Stretch, &["a"]);
        let _ = preprocess(&pipeline, Input::Encoded(&bytes));
        let _ = preprocess(&pipeline, Input::Unsaid(&bytes));
        prop_assert!(engine(&bytes, &[1, 1, 2, 2]).is_err());
    }

    #[test]
    fn damaged_pictures_are_never_a_panic(
        hits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let picture = image::RgbImage::from_fn(17, 13, |x, y| [x as u8 * 9, y as u8 * 9, 77].into());
        let pipeline = grey(4, 4, Resize::Stretch, &["a"]);
        for mut bytes in [png(picture.clone()), jpeg(picture)] {
            for (at, value) in &hits {
                let at = at.index(bytes.len());
                bytes[at] = *value;
            }
            let _ = preprocess(&pipeline, Input::Encoded(&bytes));
            let _ = preprocess(&pipeline, Input::Encoded(&bytes[..cut.index(bytes.len())]));
        }
    }

    #[test]
    fn damaged_models_are_never_a_panic(
        hits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = halves("N");
        for (at, value) in &hits {
            let at = at.index(bytes.len());
            bytes[at] = *value;
        }
        if let Ok(mut engine) = engine(&bytes, &[1, 1, 2, 2]) {
            let _ = run(&mut engine, &[1.0; 4]);
        }
    }
}

//! Broken and hostile model files: typed errors, no panic, and never a result that is itself broken.

use flotilla_compress::{Budget, Error, Options, Recipe, RuntimeEvaluator};
use flotilla_onnx::{Model, tensor_f32};
use flotilla_protocol::ErrorCode;
use proptest::prelude::*;

use crate::support::{Noise, every_form, fragile, pictures, pipeline, quietly};

/// Applies the default recipe; whatever comes out must be a whole model.
fn apply(bytes: &[u8]) -> Result<(), Error> {
    let onnx = Recipe::default().apply(bytes)?;
    Model::read(&onnx).unwrap().check_order().unwrap();
    Ok(())
}

#[test]
fn a_weight_that_is_no_number_is_named() {
    for bad in [f32::NAN, f32::INFINITY] {
        let mut model = fragile();
        let mut mix = model.tensor_f32("mix").unwrap();
        mix.data[77] = bad;
        model.replace_initializer(tensor_f32("mix", &mix)).unwrap();
        let error = apply(&model.write()).unwrap_err();
        assert!(matches!(&error, Error::NonFinite { tensor, element: 77 } if tensor == "mix"), "{error}");
        assert_eq!(error.code(), ErrorCode::ModelInvalid);
    }
}

#[test]
fn a_file_that_ends_early_is_an_error_wherever_it_ends() {
    let onnx = every_form().write();
    for end in (0..onnx.len()).step_by(61).chain(onnx.len() - 40..onnx.len()) {
        let error = apply(&onnx[..end]).unwrap_err();
        assert!(matches!(error, Error::Model(_) | Error::NothingToCompress { .. }), "{end}: {error}");
    }
    apply(&onnx).unwrap();
}

#[test]
fn damaged_files_never_panic_and_never_ship_unmeasured() {
    let pipeline = pipeline(2);
    let onnx = fragile().write();
    // Names, nodes and shapes fill much less of the file than weights; half of the damage goes there.
    let weights: Vec<u8> =
        fragile().tensor_f32("sums").unwrap().data.iter().flat_map(|v| v.to_le_bytes()).collect();
    let start = onnx.windows(weights.len()).position(|window| window == weights).unwrap();
    let structure: Vec<usize> = (0..start).chain(start + weights.len()..onnx.len()).collect();
    let mut noise = Noise(11);
    let (mut refused, mut fine) = (0, 0);
    for _ in 0..120 {
        let mut bytes = onnx.clone();
        for _ in 0..=noise.bits() % 3 {
            let any = noise.bits() as usize % bytes.len();
            let place = if noise.bits().is_multiple_of(2) { any } else { structure[any % structure.len()] };
            bytes[place] ^= 1 << (noise.bits() % 8);
        }
        let (samples, labels) = pictures(2);
        let mut evaluator = RuntimeEvaluator::new(&pipeline, samples, labels).unwrap();
        match quietly(&bytes, &Options::default(), &Budget::default(), &mut evaluator) {
            Ok(compressed) => {
                fine += 1;
                assert!(compressed.report.drop <= 0.01);
            }
            Err(error) => {
                refused += 1;
                assert_ne!(error.code(), ErrorCode::Internal, "{error}");
            }
        }
    }
    assert!(refused > 10 && fine > 10, "{refused} refused, {fine} fine: the damage must reach both");
}

#[test]
fn a_model_that_the_runtime_cannot_load_is_told_apart() {
    // The pipeline knows three labels and the model two.
    let pipeline = pipeline(3);
    let (samples, labels) = pictures(2);
    let mut evaluator = RuntimeEvaluator::new(&pipeline, samples, labels).unwrap();
    let onnx = fragile().write();
    let error = quietly(&onnx, &Options::default(), &Budget::default(), &mut evaluator).unwrap_err();
    assert!(matches!(error, Error::Runtime(flotilla_runtime::Error::Labels { .. })), "{error}");
    assert_eq!(error.code(), ErrorCode::ModelInvalid);
}

#[test]
fn a_sample_that_cannot_be_read_is_named() {
    let pipeline = pipeline(2);
    let (mut samples, labels) = pictures(4);
    samples[2].truncate(100);
    let mut evaluator = RuntimeEvaluator::new(&pipeline, samples, labels).unwrap();
    let onnx = fragile().write();
    let error = quietly(&onnx, &Options::default(), &Budget::default(), &mut evaluator).unwrap_err();
    assert!(matches!(error, Error::Runtime(flotilla_runtime::Error::Sample { index: 2, .. })), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = apply(&bytes);
    }

    #[test]
    fn bytes_put_anywhere_never_panic(
        start in any::<prop::sample::Index>(),
        patch in prop::collection::vec(any::<u8>(), 1..12),
    ) {
        let mut onnx = every_form().write();
        let start = start.index(onnx.len());
        let end = onnx.len().min(start + patch.len());
        onnx[start..end].copy_from_slice(&patch[..end - start]);
        let _ = apply(&onnx);
    }
}

//! Dense networks on rows of numbers, judged by their files in the engine of the devices.

use flotilla_train::{Aims, Algorithm, Config, Error, Loss, Rows, Silent, train, train_rows};
use tract_onnx::prelude::*;

/// Numbers that look like chance and are the same everywhere.
fn chance(seed: u64) -> impl FnMut() -> f32 {
    let mut state = seed;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
    }
}

fn rows(count: usize, seed: u64, aims: impl Fn(&[[f32; 2]]) -> Aims) -> Rows {
    let mut next = chance(seed);
    let points: Vec<[f32; 2]> = (0..count).map(|_| [next(), next()]).collect();
    Rows { width: 2, values: points.concat(), aims: aims(&points) }
}

/// What a file gives for rows.
fn run(onnx: &[u8], rows: &Rows) -> Vec<Vec<f32>> {
    let model = tract_onnx::onnx().with_ignore_output_shapes(true).with_ignore_value_info(true);
    let model = model.model_for_read(&mut &*onnx).unwrap();
    let model = model.with_input_fact(0, f32::fact([1, rows.width]).into()).unwrap();
    let model = model.into_optimized().unwrap().into_runnable().unwrap();
    let one = |row: &[f32]| {
        let out = model.run(tvec!(Tensor::from_shape(&[1, row.len()], row).unwrap().into())).unwrap();
        out[0].to_plain_array_view::<f32>().unwrap().iter().copied().collect()
    };
    rows.values.chunks_exact(rows.width).map(one).collect()
}

fn config() -> Config {
    Config { epochs: 60, threads: 1, seed: 3, ..Config::of(Algorithm::Mlp) }
}

#[test]
fn classes_that_no_line_parts_are_learnt() {
    let names = vec!["same".to_owned(), "other".to_owned()];
    let of = |points: &[[f32; 2]]| Aims::Classes {
        names: names.clone(),
        labels: points.iter().map(|[x, y]| u32::from((*x > 0.0) != (*y > 0.0))).collect(),
    };
    let (train, validation, test) = (rows(600, 1, of), rows(100, 2, of), rows(300, 3, of));
    let trained = train_rows(&config(), &train, &validation, &mut Silent).unwrap();
    assert!(trained.history.iter().all(|epoch| epoch.validation_accuracy.is_some()));
    let Aims::Classes { labels, .. } = &test.aims else { unreachable!() };
    let given = run(&trained.onnx, &test);
    assert!(given.iter().all(|row| (row.iter().sum::<f32>() - 1.0).abs() < 1e-5), "probabilities");
    let right = given.iter().zip(labels).filter(|(row, label)| u32::from(row[1] > row[0]) == **label).count();
    assert!(right > 280, "{right} of 300");
    let again = train_rows(&config(), &train, &validation, &mut Silent).unwrap();
    assert_eq!(again.onnx, trained.onnx, "the same seed gives the same file");
}

#[test]
fn numbers_are_learnt_and_given_in_their_own_unit() {
    let names = vec!["large".to_owned(), "small".to_owned()];
    let of = |points: &[[f32; 2]]| Aims::Values {
        names: names.clone(),
        values: points
            .iter()
            .flat_map(|[x, y]| [5_000.0 + f64::from(1_000.0 * x * y), f64::from(0.001 * (x - y).abs())])
            .collect(),
    };
    let (train, validation, test) = (rows(600, 1, of), rows(100, 2, of), rows(300, 3, of));
    for loss in [Loss::Mse, Loss::Huber] {
        let config = Config { loss, ..config() };
        let trained = train_rows(&config, &train, &validation, &mut Silent).unwrap();
        let best = &trained.history[trained.best_epoch as usize - 1];
        assert!(best.validation_r2.unwrap() > 0.95, "{loss:?} {best:?}");
        let Aims::Values { values, .. } = &test.aims else { unreachable!() };
        let given = run(&trained.onnx, &test);
        for (target, size) in [(0, 1_000.0), (1, 0.001)] {
            let errors = given.iter().zip(values.chunks_exact(2));
            let error: f64 =
                errors.map(|(row, true_)| (f64::from(row[target]) - true_[target]).abs()).sum::<f64>()
                    / 300.0;
            assert!(error < 0.06 * size, "{loss:?} target {target}: {error}");
        }
    }
}

#[test]
fn what_is_unlike_all_rows_is_not_given_again() {
    // Two values that are always equal: what is more or less than nothing says both.
    let equal = |count, seed| {
        let mut next = chance(seed);
        let values = (0..count).map(|_| next()).flat_map(|x| [x, x]).collect();
        Rows { width: 2, values, aims: Aims::Themselves }
    };
    let config = Config { hidden: vec![8, 2, 8], ..config() };
    let trained = train_rows(&config, &equal(400, 1), &equal(100, 2), &mut Silent).unwrap();
    let worst = |rows: &Rows| {
        let errors = run(&trained.onnx, rows).into_iter().zip(rows.values.chunks_exact(2));
        errors
            .map(|(given, row)| (given[0] - row[0]).powi(2) + (given[1] - row[1]).powi(2))
            .fold(0.0, f32::max)
    };
    let strange = Rows { width: 2, values: vec![0.8, -0.8], aims: Aims::Themselves };
    assert!(worst(&strange) > 4.0 * worst(&equal(100, 3)), "{} {}", worst(&strange), worst(&equal(100, 3)));
}

#[test]
fn what_cannot_be_trained_on_is_refused_with_a_reason() {
    let classes = |labels: &[u32], values: &[f32]| Rows {
        width: 1,
        values: values.to_vec(),
        aims: Aims::Classes { names: vec!["a".into(), "b".into()], labels: labels.to_vec() },
    };
    let good = classes(&[0, 1], &[0.0, 1.0]);
    let refused = |config: &Config, train: &Rows, validation: &Rows| {
        train_rows(config, train, validation, &mut Silent).unwrap_err()
    };
    assert!(matches!(refused(&config(), &classes(&[0, 0], &[0.0, 1.0]), &good), Error::OneClass { .. }));
    assert!(matches!(refused(&config(), &classes(&[0, 2], &[0.0, 1.0]), &good), Error::Mismatch { .. }));
    assert!(matches!(
        refused(&config(), &classes(&[0, 1], &[0.0, f32::NAN]), &good),
        Error::NotFinite { .. }
    ));
    assert!(matches!(refused(&config(), &good, &classes(&[], &[])), Error::NoSamples { .. }));
    let other = Rows { width: 2, values: vec![0.0; 2], aims: good.aims.clone() };
    assert!(matches!(refused(&config(), &good, &other), Error::Mismatch { .. }));
    let pictures = Config::of(Algorithm::DscnnS);
    assert!(matches!(refused(&pictures, &good, &good), Error::Setting { setting: "algorithm", .. }));
    let digits = crate::support::digits(0);
    let mlp = train(&config(), &digits.train, &digits.validation, &mut Silent).unwrap_err();
    assert!(matches!(mlp, Error::Setting { setting: "algorithm", .. }), "{mlp}");
}

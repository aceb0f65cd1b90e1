//! Golden vectors: inputs with the scores that a release gave when it was made. A device that gets the same
//! scores runs the same model.

use crate::{Error, GOLDEN_VECTORS, Input, Latency, Model, Result};
use flotilla_protocol::manifest::{Golden, GoldenVector};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// Fewer runs say little about latency: the vectors are run again until there are as many …
const RUNS: usize = 32;
/// … or this much time has passed.
const RUN_TIME: Duration = Duration::from_secs(2);

/// What a model did on golden vectors that it passed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct GoldenReport {
    /// Vectors run.
    pub vectors: usize,
    /// Largest absolute difference of a score from the recorded one.
    pub max_abs_error: f32,
    /// Median time of a prediction in milliseconds.
    pub p50_ms: f64,
    /// 95th percentile in milliseconds.
    pub p95_ms: f64,
}

/// Records what `model` answers to `inputs`, each a PNG, a JPEG or raw pixels ([`Input::Unsaid`]).
pub fn make_golden<B: AsRef<[u8]>>(
    model: &mut Model,
    inputs: impl IntoIterator<Item = B>,
    tolerance: f32,
) -> Result<Golden> {
    let record = |input: B| {
        let input = input.as_ref();
        Ok(GoldenVector { input: input.to_vec(), scores: model.predict(Input::Unsaid(input))?.scores })
    };
    let golden = Golden { tolerance, vectors: inputs.into_iter().map(record).collect::<Result<_>>()? };
    check_bounds(&golden)?;
    Ok(golden)
}

/// Runs every vector and compares. Anything beyond the tolerance is an error, and so is a set of vectors that
/// proves nothing.
pub fn check_golden(model: &mut Model, golden: &Golden) -> Result<GoldenReport> {
    check_bounds(golden)?;
    // The first run pays for memory that later ones find ready.
    if let Some(first) = golden.vectors.first() {
        model.predict(Input::Unsaid(&first.input))?;
    }

    let mut max_abs_error = 0.0;
    let mut times = Vec::new();
    let started = Instant::now();
    for (index, vector) in golden.vectors.iter().enumerate().cycle() {
        let enough = times.len() >= RUNS || started.elapsed() >= RUN_TIME;
        if times.len() >= golden.vectors.len() && enough {
            break;
        }
        let run = Instant::now();
        let scores = model.predict(Input::Unsaid(&vector.input))?.scores;
        times.push(run.elapsed());
        max_abs_error = f32::max(max_abs_error, compare(index, &scores, vector, golden.tolerance)?);
    }
    let Latency { p50_ms, p95_ms } = Latency::of(&times);
    Ok(GoldenReport { vectors: golden.vectors.len(), max_abs_error, p50_ms, p95_ms })
}

/// The largest difference, if it is acceptable. What is not a number never is.
fn compare(vector: usize, scores: &[f32], golden: &GoldenVector, tolerance: f32) -> Result<f32> {
    let mut error = if scores.len() == golden.scores.len() { 0.0 } else { f32::INFINITY };
    for (score, recorded) in scores.iter().zip(&golden.scores) {
        let difference = (score - recorded).abs();
        error = if difference.is_nan() { f32::INFINITY } else { f32::max(error, difference) };
    }
    if error <= tolerance { Ok(error) } else { Err(Error::GoldenMismatch { vector, error, tolerance }) }
}

fn check_bounds(golden: &Golden) -> Result<()> {
    let vectors = golden.vectors.len();
    if vectors == 0 || vectors > GOLDEN_VECTORS {
        return Err(Error::Golden(format!("{vectors} vectors; 1 to {GOLDEN_VECTORS} are possible")));
    }
    if !(golden.tolerance.is_finite() && golden.tolerance >= 0.0) {
        return Err(Error::Golden(format!("a tolerance of {} proves nothing", golden.tolerance)));
    }
    Ok(())
}

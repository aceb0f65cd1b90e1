//! A table and what devices say of it, together.

use flotilla_protocol::Pipeline;
use flotilla_runtime::engine::Operator;
use flotilla_runtime::{Result, operators};
use serde::{Deserialize, Serialize};

use crate::correct::Correction;
use crate::table::{CostTable, Prediction};

/// Fewer reports say too little of how far they are apart: the table's own interval stays.
const ENOUGH: usize = 5;
/// No interval is narrower: devices of one board differ by as much.
const LEAST: f64 = 1.05;

/// What predicts for one board.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Predictor {
    /// What operators cost there.
    pub table: CostTable,
    /// By how much devices differ from that.
    pub correction: Correction,
}

impl Predictor {
    /// How long a network of this pipeline takes.
    pub fn predict(&self, pipeline: &Pipeline, onnx: &[u8]) -> Result<Prediction> {
        Ok(self.of(&operators(pipeline, onnx)?))
    }

    /// How long a network of these operators takes.
    pub fn of(&self, operators: &[Operator]) -> Prediction {
        let Prediction { ms, low_ms, high_ms, unknown } = self.table.predict(operators);
        let Correction { scale, reports, spread, .. } = self.correction;
        let ms = ms * scale;
        match spread {
            Some(spread) if reports >= ENOUGH => {
                let spread = spread.max(LEAST);
                Prediction { ms, low_ms: ms / spread, high_ms: ms * spread, unknown }
            }
            _ => Prediction { ms, low_ms: low_ms * scale, high_ms: high_ms * scale, unknown },
        }
    }

    /// The same for one device, which took so long for these operators.
    #[must_use]
    pub fn on_device(mut self, operators: &[Operator], took_ms: f64) -> Self {
        let alone = self.table.predict(operators).ms;
        if alone > 0.0 && took_ms > 0.0 && took_ms.is_finite() {
            let spread = None;
            self.correction = Correction { scale: took_ms / alone, reports: 1, median_error: None, spread };
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Pair, correct, reference};

    #[test]
    fn devices_that_agree_move_a_prediction_and_narrow_its_interval_and_one_that_measured_has_its_own() {
        let pad = Operator { kind: "Pad".into(), loops: 100, written: 10_000, ..Operator::default() };
        let operators = vec![pad; 20];
        let table = CostTable { spread: 2.5, ..reference() };
        let alone = table.predict(&operators);
        let said = |count, factor: f64| {
            correct((0..count).map(|_| Pair { predicted_ms: alone.ms, reported_ms: alone.ms * factor }))
        };
        let nobody = Predictor { table: table.clone(), correction: Correction::NONE };
        assert_eq!(nobody.of(&operators), alone);
        let many = Predictor { table, correction: said(100, 3.0) }.of(&operators);
        assert!((many.ms / alone.ms - 3.0).abs() < 0.1, "{many:?} {alone:?}");
        assert!(many.high_ms / many.low_ms < alone.high_ms / alone.low_ms);
        let device = nobody.on_device(&operators, alone.ms * 7.0).of(&operators);
        assert!((device.ms / alone.ms - 7.0).abs() < 1e-9);
    }
}

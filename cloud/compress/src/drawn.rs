//! Inputs drawn by chance, for models of which there is no sample at all.

use flotilla_protocol::pipeline::TensorKind;
use flotilla_runtime::{Port, Values};

/// The same inputs in each run.
const SEED: u64 = 0x5eed;
/// How much of a value is that of its neighbour, so that inputs have shapes as pictures and sounds do.
const SMOOTH: f64 = 0.9;

/// So many inputs: floats around 0 as pre-processing gives them, each input with a mean and a spread of its own, and
/// small numbers elsewhere.
pub(crate) fn drawn(ports: &[Port], count: usize) -> Vec<Vec<Values>> {
    let mut chance = Chance(SEED);
    (0..count).map(|_| ports.iter().map(|port| tensor(port, &mut chance)).collect()).collect()
}

fn tensor(port: &Port, chance: &mut Chance) -> Values {
    let floats = matches!(port.kind, TensorKind::Fp32 | TensorKind::Fp64);
    let (mean, spread) = (0.5 * chance.normal(), 0.3 + chance.uniform());
    let mut last = chance.normal();
    let numbers: Vec<f64> = (0..port.values())
        .map(|_| {
            if !floats {
                return chance.uniform().round();
            }
            last = SMOOTH * last + (1.0 - SMOOTH * SMOOTH).sqrt() * chance.normal();
            mean + spread * last
        })
        .collect();
    Values::from_f64(port.kind, &numbers).unwrap_or_else(|| Values::zeros(port.kind, numbers.len()))
}

/// Numbers by chance: splitmix64.
struct Chance(u64);

impl Chance {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Normal, as the sum of twelve uniform numbers nearly is.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }
}

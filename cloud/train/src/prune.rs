//! Taking whole channels out of a network: what is left is a smaller network of the same stages.

use crate::plan::NetworkPlan;
use crate::size::{Frame, Measure};
use crate::weights::{UnitWeights, Weights};
use crate::wiring::Wiring;

/// Channels that a space keeps at least.
pub(crate) const LEAST_WIDTH: usize = 4;
/// Of so many channels of a space one stays in any one cut: what the others were worth is known only after learning.
const KEPT_OF: usize = 2;

/// The channels of each space that stay, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kept(pub(crate) Vec<Vec<usize>>);

/// Chooses the channels that stay: the least important go, each weighed by what it saves, until a goal is met or nothing
/// more can go.
pub(crate) fn choose(
    plan: &NetworkPlan,
    frame: Frame,
    scores: &[Vec<f64>],
    measure: Measure,
    goal: u64,
) -> Kept {
    let mut widths = Wiring::new(plan).widths;
    let least: Vec<usize> =
        widths.iter().map(|&width| LEAST_WIDTH.max(width.div_ceil(KEPT_OF)).min(width)).collect();
    let size = |widths: &[usize]| frame.measure(measure, &plan.with_widths(widths));
    let before = size(&widths);
    let mut candidates = Vec::new();
    for (space, scores) in scores.iter().enumerate().skip(1) {
        widths[space] -= 1;
        let saved = before.saturating_sub(size(&widths)).max(1) as f64;
        widths[space] += 1;
        candidates.extend(scores.iter().enumerate().map(|(channel, score)| (score / saved, space, channel)));
    }
    candidates.sort_by(|a, b| a.0.total_cmp(&b.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    let mut kept: Vec<Vec<bool>> = widths.iter().map(|&width| vec![true; width]).collect();
    for (_, space, channel) in candidates {
        if size(&widths) <= goal {
            break;
        }
        if widths[space] > least[space] {
            widths[space] -= 1;
            kept[space][channel] = false;
        }
    }
    let places =
        |kept: Vec<bool>| kept.iter().enumerate().filter(|(_, kept)| **kept).map(|(n, _)| n).collect();
    Kept(kept.into_iter().map(places).collect())
}

/// The network with the channels that stay.
pub(crate) fn narrow(plan: &NetworkPlan, weights: &Weights, kept: &Kept) -> (NetworkPlan, Weights) {
    let wiring = Wiring::new(plan);
    let Kept(kept) = kept;
    let widths: Vec<usize> = kept.iter().map(Vec::len).collect();
    let units = wiring.units.iter().zip(&weights.units).map(|(unit, numbers)| {
        let only = [0];
        let inputs: &[usize] = if unit.depthwise { &only } else { &kept[unit.from] };
        cut(numbers, &kept[unit.to], inputs, unit.depthwise)
    });
    let head = kept[wiring.last]
        .iter()
        .flat_map(|&feature| &weights.head[feature * plan.classes..(feature + 1) * plan.classes]);
    let narrowed =
        Weights { units: units.collect(), head: head.copied().collect(), bias: weights.bias.clone() };
    (plan.with_widths(&widths), narrowed)
}

fn cut(unit: &UnitWeights, outputs: &[usize], inputs: &[usize], depthwise: bool) -> UnitWeights {
    let [_, all, height, width] = unit.dims;
    let square = height * width;
    let mut weight = Vec::with_capacity(outputs.len() * inputs.len() * square);
    for output in outputs {
        for input in inputs {
            weight.extend_from_slice(&unit.weight[(output * all + input) * square..][..square]);
        }
    }
    let pick = |values: &[f32]| outputs.iter().map(|&channel| values[channel]).collect();
    UnitWeights {
        dims: [outputs.len(), inputs.len(), height, width],
        weight,
        gamma: pick(&unit.gamma),
        beta: pick(&unit.beta),
        mean: pick(&unit.mean),
        variance: pick(&unit.variance),
        epsilon: unit.epsilon,
        stride: unit.stride,
        groups: if depthwise { outputs.len() } else { 1 },
    }
}

//! Simulated devices for the tests of gates and comparisons: what they are like, and what a release does to them.

use crate::change::Change;
use crate::gate::Health;
use crate::metric::Metric;
use rand::Rng;
use rand::rngs::StdRng;
use std::collections::BTreeMap;

/// What a release does to a device, and what devices are like.
#[derive(Clone, Copy)]
pub(crate) struct World {
    /// Added to the share of failed predictions.
    pub(crate) errors: f64,
    /// Factor on latency.
    pub(crate) latency: f64,
    /// From this window of the first wave on, counted over the whole rollout.
    pub(crate) from: u32,
    /// Share of updated devices that lie: to the release's disadvantage, or to its favour.
    pub(crate) liars: f64,
    /// What they add to the share of failed predictions.
    pub(crate) lie: f64,
}

pub(crate) const GOOD: World = World { errors: 0.0, latency: 1.0, from: 0, liars: 0.0, lie: 0.0 };

fn noise(random: &mut StdRng) -> f64 {
    // Sum of uniform numbers: near to normal, standard deviation 1.
    (0..12).map(|_| random.random::<f64>()).sum::<f64>() - 6.0
}

/// The figures of one device before and after. `day` moves all devices alike.
pub(crate) fn device(
    random: &mut StdRng,
    world: Option<World>,
    window: u32,
    day: f64,
) -> BTreeMap<Metric, Change> {
    let (own, fast) = (random.random_range(0.0..0.03), random.random_range(500.0..5_000.0));
    let acts = world.filter(|world| window >= world.from);
    let lies = world.filter(|world| random.random_bool(world.liars));
    let errors = |extra: f64, random: &mut StdRng| (own + extra + 0.01 * noise(random)).clamp(0.0, 1.0);
    let latency = |factor: f64, random: &mut StdRng| fast * factor * (0.1 * noise(random)).exp();
    let before = errors(0.0, random);
    let mut after = errors(day * 0.05 + acts.map_or(0.0, |world| world.errors), random);
    if let Some(world) = lies {
        after = (after + world.lie).clamp(0.0, 1.0);
    }
    let slow = latency(1.0, random);
    let factor = (1.0 + day) * acts.map_or(1.0, |world| world.latency);
    let later = latency(factor, random);
    BTreeMap::from([
        (Metric::Errors, Change { before, after }),
        (Metric::LatencyP95, Change { before: slow, after: later }),
    ])
}

pub(crate) fn health() -> Health {
    let metrics = [Metric::Errors, Metric::LatencyP95].map(|metric| (metric, metric.default_bounds()));
    Health { metrics: metrics.into(), ..Health::default() }
}

//! Who is struck by a fault: drawn by the seed, exact in number, and the same each time.

use crate::options::{Options, Share};
use flotilla_protocol::Digest;
use std::time::Duration;

/// What chance made of one device.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Nature {
    /// It goes away and comes back.
    pub(crate) leaves: bool,
    /// What its link carries, in bytes a second.
    pub(crate) bytes_per_s: Option<u64>,
    /// Its inputs drift from this moment of its life on.
    pub(crate) drifts_after: Option<Duration>,
    /// A release that does worse does so here.
    pub(crate) suffers: bool,
    /// It crashes.
    pub(crate) crashes: bool,
    /// It floods.
    pub(crate) floods: bool,
    /// It lies.
    pub(crate) lies: bool,
    /// Mean latency of its predictions, in microseconds.
    pub(crate) latency_us: f64,
    /// Mean confidence of its predictions.
    pub(crate) confidence: f64,
}

/// The nature of every device.
pub(crate) fn natures(options: &Options) -> Vec<Nature> {
    let (faults, seed, n) = (&options.faults, options.seed, options.devices);
    let of = |what: &str, share: Share| chosen(seed, what, share, n);
    let leaves = of("offline", faults.offline);
    let slow = of("slow", faults.slow);
    let drifts = of("drift", faults.drifting);
    let suffers = of("worse", faults.worse);
    let crashes = of("crash", faults.crashing);
    let floods = of("flood", faults.flooding);
    let lies = of("lie", faults.lying);
    let nature = |index: usize| Nature {
        leaves: leaves[index],
        bytes_per_s: slow[index].then_some(faults.slow_bytes_per_s),
        drifts_after: drifts[index].then_some(faults.drift_after),
        suffers: suffers[index],
        crashes: crashes[index],
        floods: floods[index],
        lies: lies[index],
        latency_us: 8_000.0 * (0.8 + 0.5 * draw(seed, "latency", index as u32)),
        confidence: 0.88 + 0.06 * draw(seed, "confidence", index as u32),
    };
    (0..n as usize).map(nature).collect()
}

/// Exactly so many of `devices`: those with the lowest draws.
pub(crate) fn chosen(seed: u64, what: &str, share: Share, devices: u32) -> Vec<bool> {
    let mut chosen = vec![false; devices as usize];
    let count = share.of(devices) as usize;
    if count == 0 {
        return chosen;
    }
    let mut order: Vec<(f64, u32)> = (0..devices).map(|index| (draw(seed, what, index), index)).collect();
    order.sort_by(|a, b| a.0.total_cmp(&b.0));
    order.iter().take(count).for_each(|(_, index)| chosen[*index as usize] = true);
    chosen
}

/// A number from 0 to 1 that seed, purpose and device decide.
pub(crate) fn draw(seed: u64, what: &str, index: u32) -> f64 {
    let digest = Digest::of(format!("{seed}/{what}/{index}").as_bytes());
    let mut bits = [0; 8];
    bits.copy_from_slice(&digest.as_bytes()[..8]);
    (u64::from_be_bytes(bits) >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::tests::options;

    #[test]
    fn a_share_strikes_exactly_so_many_and_the_same_ones_each_time() {
        let share: Share = "10%".parse().unwrap_or_default();
        let first = chosen(7, "offline", share, 50);
        assert_eq!(first.iter().filter(|struck| **struck).count(), 5);
        assert_eq!(first, chosen(7, "offline", share, 50));
        assert_ne!(first, chosen(8, "offline", share, 50), "another seed strikes others");
        assert_ne!(first, chosen(7, "lie", share, 50), "faults strike independently of each other");
    }

    #[test]
    fn without_faults_every_device_is_sound() {
        let natures = natures(&options());
        assert_eq!(natures.len(), 10);
        let sound = |nature: &Nature| {
            !(nature.leaves || nature.suffers || nature.crashes || nature.floods || nature.lies)
                && nature.bytes_per_s.is_none()
                && nature.drifts_after.is_none()
        };
        assert!(natures.iter().all(sound));
    }
}

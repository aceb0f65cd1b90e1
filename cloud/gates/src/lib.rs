//! Whether a new release does worse than the one before: tests that may be looked at at any time, over devices that
//! do not all tell the truth. Pure: no clock, no storage.
//!
//! - [`evidence`]: wealth of a bettor against "it is not worse", which is evidence once it is large.
//! - [`change`]: what a device gives to it: how it changed, against how a device changed that was not updated.
//! - [`metric`]: what is compared, in which direction, what is tolerated.
//! - [`gate`]: all metrics of a wave together: go on, stop, or wait.
//! - [`versus`]: two releases on two halves of a fleet, each held against the other.
//!
//! The unit is the device, however many predictions it makes. What one device adds to the evidence is bounded by
//! [`evidence::INFLUENCE`], so that a few that lie neither stop a rollout nor let a bad one pass.
//!
//! # What is guaranteed
//!
//! Let `alpha` be the share of good rollouts that a gate may stop. It is divided over all pairs of metric and wave, and
//! within a pair over the windows of time that devices are measured in ([`gate::Spending`]). Within a window each pair of
//! an updated and a waiting device gives one number in [-1, 1], whose mean is at most 0 if the release is not worse by more
//! than the tolerance: which device of a pair is updated is decided by a hash that knows nothing of them, and both are
//! measured over the same times, so their difference is symmetric around the release's effect. The wealth of each bet is
//! then a test supermartingale, and by Ville's inequality (J. Ville, *Étude critique de la notion de collectif*, 1939) it ever reaches `1/a` with a
//! probability of at most `a`, whenever and however often one looks. Windows of the same devices depend on each other; the
//! bound over them is the sum.
//!
//! It does not hold where nobody waits any more: there a worse figure is a reason to ask, and not to stop. Devices that give no figures
//! are in no pair; a wave passes on evidence only if most of its devices gave some.
//!
//! Sources: I. Waudby-Smith and A. Ramdas, *Estimating means of bounded random variables by betting*, Journal of the Royal
//! Statistical Society B 86(1), 2024, for the bets; V. Vovk and R. Wang, *E-values: calibration, combination and
//! applications*, Annals of Statistics 49(3), 2021, for the mixture; J. D. Angrist and J.-S. Pischke, *Mostly Harmless
//! Econometrics*, 2009, chapter 5, for difference-in-differences.

pub mod change;
pub mod evidence;
pub mod gate;
pub mod metric;
#[cfg(test)]
mod simulated;
pub mod versus;

//! The fleet in figures: how many devices stand where, and which have drifted most.

use super::Row;
use crate::devices::DECOMMISSIONED;
use flotilla_protocol::DeviceId;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A fleet in figures.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Devices, revoked ones with them, but not those that have been decommissioned.
    pub total: usize,
    /// Devices that are connected.
    pub online: usize,
    /// Devices by where they stand, in a word.
    pub states: BTreeMap<&'static str, usize>,
    /// Another number than before says that a device has changed.
    pub changes: u64,
    /// Devices whose models have drifted most, the farthest first; those of which no drift is known come last, by id.
    pub drifted: Vec<DeviceId>,
}

impl Census {
    /// Counts rows, which come by id. So many devices are named as drifted at most.
    pub(crate) fn of(rows: &[Arc<Row>], changes: u64, most: usize) -> Self {
        let mut census = Self { changes, ..Self::default() };
        let in_service = || rows.iter().filter(|row| row.state != DECOMMISSIONED);
        for row in in_service() {
            census.total += 1;
            census.online += usize::from(row.online());
            *census.states.entry(row.state).or_default() += 1;
        }
        let drift = |row: &Row| row.models.iter().filter_map(|model| model.drift).max();
        let mut order: Vec<_> = in_service().map(|row| (Reverse(drift(row)), &row.id)).collect();
        if most < order.len() {
            order.select_nth_unstable(most);
            order.truncate(most);
        }
        order.sort_unstable();
        census.drifted = order.into_iter().map(|(_, id)| id.clone()).collect();
        census
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::super::testing::{bare_row, full_row};
    use super::*;

    fn row(id: &str, drift: Option<u32>) -> Arc<Row> {
        let mut row = if drift.is_some() { full_row(1_000_000) } else { bare_row(1_000_000) };
        row.id = id.parse().unwrap();
        row.models.iter_mut().for_each(|model| model.drift = drift);
        Arc::new(row)
    }

    #[test]
    fn devices_are_counted_by_state_and_the_farthest_off_are_named() {
        let rows = [row("a", None), row("b", Some(90)), row("c", Some(400)), row("d", None)];
        let census = Census::of(&rows, 7, 3);
        assert_eq!((census.total, census.online, census.changes), (4, 0, 7));
        assert_eq!(census.states, [("failed", 2), ("idle", 2)].into());
        let named =
            |most| Census::of(&rows, 7, most).drifted.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(named(3), ["c", "b", "a"]);
        assert_eq!(named(9), ["c", "b", "a", "d"]);
        assert_eq!(Census::of(&[], 0, 3), Census::default());
        let mut gone = full_row(1_000_000);
        gone.state = DECOMMISSIONED;
        assert_eq!(
            Census::of(&[Arc::new(gone)], 0, 3),
            Census::default(),
            "who is out of service is not counted"
        );
    }
}

//! Tables that come with the platform.

use flotilla_protocol::board::{BoardProfile, Hardware};

use crate::table::{Cost, CostTable};

/// The table of the machine that the platform is built and tested on, measured with `flotilla board measure`.
const REFERENCE: &str = include_str!("reference.toml");
/// Its clock, in MHz, as its kernel says it.
const CLOCK_MHZ: f64 = 2_100.0;
/// Multiplications with an addition of 32-bit floats that one of its cores begins in a cycle: two units of 512 bits.
const MACS_PER_CYCLE: f64 = 32.0;
/// What is no arithmetic takes so many more cycles on the small cores of boards.
const SMALL_CORE: f64 = 1.5;
/// By which factor a table may be off that follows from documents alone.
const SPREAD: f64 = 2.5;

/// The table of the machine that the platform is built and tested on.
///
/// # Panics
/// Never: a test reads it.
pub fn reference() -> CostTable {
    CostTable::parse(REFERENCE).expect("the reference table can be read")
}

/// What follows for a board of which documents say the clock and the width of its arithmetic units; none where its profile
/// does not say them.
pub fn derived(profile: &BoardProfile) -> Option<CostTable> {
    let Hardware { clock_mhz, macs_per_cycle, .. } = profile.hardware;
    let (clock, width) = (f64::from(clock_mhz?), f64::from(macs_per_cycle?));
    let slower = CLOCK_MHZ / clock;
    let (arithmetic, other) = (slower * MACS_PER_CYCLE / width, slower * SMALL_CORE);
    let scale = |cost: &Cost| {
        let [once, mac, each_loop, scattered, read, written, constant_byte] = cost.weights();
        let rest = [each_loop, scattered, read, written, constant_byte].map(|cost| cost * other);
        let [each_loop, scattered, read, written, constant_byte] = rest;
        Cost::of([once * other, mac * arithmetic, each_loop, scattered, read, written, constant_byte])
    };
    let reference = reference();
    Some(CostTable {
        board: profile.name.clone(),
        measured: false,
        spread: SPREAD,
        run: scale(&reference.run),
        kinds: reference.kinds.iter().map(|(kind, cost)| (kind.clone(), scale(cost))).collect(),
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;
    use flotilla_protocol::board::{BUILT_IN, built_in};
    use flotilla_runtime::engine::Operator;

    #[test]
    fn every_board_whose_documents_say_enough_has_a_table_that_says_that_it_is_a_guess() {
        let product = Operator { kind: "OptMatMul".into(), macs: 1_000_000, ..Operator::default() };
        let took = |table: &CostTable| table.predict(std::slice::from_ref(&product));
        let here = took(&reference());
        let mut boards = 0;
        for (name, _) in BUILT_IN {
            let Some(table) = derived(&built_in(name).unwrap()) else { continue };
            boards += 1;
            table.check().unwrap();
            let there = took(&table);
            assert!(!table.measured && there.ms > here.ms, "{name} is slower than {here:?}: {there:?}");
            assert!(there.high_ms / there.low_ms > 4.0, "{name}: {there:?}");
        }
        assert!(boards >= 5, "{boards}");
        let ms = |name: &str| took(&derived(&built_in(name).unwrap()).unwrap()).ms;
        assert!(ms("raspberry-pi-4") > ms("raspberry-pi-5"));
    }
}

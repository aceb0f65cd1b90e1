#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use super::*;
use crate::reference;
use proptest::prelude::*;

fn operator(kind: &str, macs: u64, written: u64) -> Operator {
    Operator { kind: kind.into(), macs, loops: written / 10, read: written, written, ..Operator::default() }
}

fn kinds() -> impl Strategy<Value = String> {
    let known: Vec<String> = reference().kinds.into_keys().chain(["Novelty".to_owned()]).collect();
    prop::sample::select(known)
}

proptest! {
    #[test]
    fn more_work_never_takes_less_time_and_a_prediction_is_a_number_within_its_interval(
        kind in kinds(), macs in any::<u64>(), written in any::<u64>(), more in any::<u64>(),
    ) {
        let table = reference();
        let less = table.predict(&[operator(&kind, macs, written)]);
        let much = table.predict(&[operator(&kind, macs.saturating_add(more), written)]);
        prop_assert!(much.ms >= less.ms, "{less:?} {much:?}");
        for Prediction { ms, low_ms, high_ms, unknown } in [less, much] {
            prop_assert!(ms.is_finite() && low_ms > 0.0 && low_ms <= ms && ms <= high_ms && high_ms.is_finite());
            prop_assert!((0.0..=1.0).contains(&unknown));
        }
    }

    #[test]
    fn whatever_text_comes_is_a_table_within_its_bounds_or_refused(text in "[a-z \\[\\]=.0-9\n\"-]{0,200}") {
        if let Ok(table) = CostTable::parse(&text) {
            prop_assert!(table.check().is_ok());
        }
    }
}

#[test]
fn what_a_table_does_not_know_widens_its_interval() {
    let table = reference();
    let ratio = |kind: &str| {
        let prediction = table.predict(&[operator(kind, 0, 1_000_000)]);
        (prediction.high_ms / prediction.ms, prediction.unknown)
    };
    let (known, of_known) = ratio("Pad");
    let (unknown, of_unknown) = ratio("Novelty");
    assert!(of_known == 0.0 && of_unknown > 0.5, "{of_known} {of_unknown}");
    assert!(unknown > known * 1.5, "{unknown} {known}");
    let (kernel, of_kernel) = ratio("OptMatMul a_kernel_of_another_machine");
    assert!((kernel, of_kernel) == (known, 0.0), "another kernel is the same kind");
}

/// Files that operators have made stay readable.
#[test]
fn the_golden_table_is_read_and_written_as_it_was() {
    let golden = include_str!("../tests/golden/table.toml");
    let table = CostTable::parse(golden).unwrap();
    assert_eq!(table.to_text().unwrap(), golden);
    let prediction = table.predict(&[operator("Conv", 1_000_000, 1_000), operator("Novelty", 0, 10)]);
    assert_eq!((prediction.ms * 1e6).round(), 500.0 + 2.0 * 50.0 + 1_000.0 + 20_000.0 + 2_000.0 + 5.0);
}

#[test]
fn bad_tables_are_refused_with_what_is_possible() {
    let good = CostTable::parse(include_str!("../tests/golden/table.toml")).unwrap();
    let refused = |change: fn(&mut CostTable)| {
        let mut table = good.clone();
        change(&mut table);
        CostTable::parse(&table.to_text().unwrap()).unwrap_err().to_string()
    };
    assert!(refused(|table| table.spread = 0.5).contains("1 to 100"));
    assert!(refused(|table| table.run.once = -1.0).contains("run costs -1 ns"));
    assert!(refused(|table| table.run.mac = f64::NAN).contains("NaN"));
    assert!(refused(|table| table.kinds.clear()).contains("0 kinds"));
    let long = format!("# {}", "x".repeat(TABLE));
    assert!(CostTable::parse(&long).unwrap_err().to_string().contains("are possible"));
}

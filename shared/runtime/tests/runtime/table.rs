//! Tables as people send them; scaling and codes against scikit-learn, of which `tests/golden/table.py` made the values.

use crate::support::recording;
use flotilla_protocol::pipeline::table::{
    Boolean, Bounds, Category, Column, ColumnKind, Date, DatePart, Encoding, MissingDate, Number, Part,
    PartForm, Scaling, TableInput, Unknown,
};
use flotilla_runtime::table::{Table, TableEncoder, fit};
use proptest::prelude::*;

pub(crate) fn column(name: &str, kind: ColumnKind) -> Column {
    Column { name: name.to_owned(), kind }
}

pub(crate) fn number(missing: Option<f64>) -> ColumnKind {
    ColumnKind::Number(Number { missing, clip: None, mean: 0.0, std: 1.0 })
}

pub(crate) fn category(values: &[&str], encoding: Encoding, unknown: Unknown) -> ColumnKind {
    let values = values.iter().map(|&value| value.to_owned()).collect();
    ColumnKind::Category(Category { values, encoding, unknown, missing: None })
}

pub(crate) fn date(parts: &[DatePart]) -> ColumnKind {
    ColumnKind::Date(Date { parts: parts.to_vec(), missing: MissingDate::Error })
}

pub(crate) fn plain(part: Part) -> DatePart {
    DatePart { part, form: PartForm::Number(Scaling { mean: 0.0, std: 1.0 }) }
}

pub(crate) fn encoder(columns: Vec<Column>) -> TableEncoder {
    TableEncoder::new(&TableInput { columns }).unwrap()
}

fn tensor(encoder: &TableEncoder, text: &str) -> Vec<f32> {
    encoder.tensor(text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {}", error.detail()))
}

#[track_caller]
fn agree(name: &str, tensors: &[Vec<f32>]) {
    let bytes = recording(&format!("{name}.f32"));
    let expected: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let got = tensors.concat();
    assert_eq!(got.len(), expected.len(), "{name}");
    for (index, (a, b)) in got.iter().zip(&expected).enumerate() {
        assert!((a - b).abs() <= 1e-6 * b.abs().max(1.0), "{name}: value {index} is {a}, not {b}");
    }
}

#[test]
fn what_is_learnt_is_what_scikit_learn_learns() {
    let file = recording("table.csv");
    let table = Table::read(&file).unwrap();
    let input = fit(&table, &["fault"]).unwrap();
    let encoder = TableEncoder::new(&input).unwrap();
    assert_eq!(encoder.shape(), [1, 16]);
    let tensors = encoder.rows(&file).unwrap();
    agree("table_learnt", &tensors);
    assert_eq!(encoder.table(&table).unwrap(), tensors);
    assert_eq!(table.column("fault").unwrap().filter(|cell| cell.boolean() == Some(true)).count(), 10);
    // What a file says of it is enough.
    let text = serde_json::to_string(&input).unwrap();
    let again: TableInput = serde_json::from_str(&text).unwrap();
    agree("table_learnt", &TableEncoder::new(&again).unwrap().rows(&file).unwrap());
    assert!(
        text.contains(r#""unknown":"zeros""#) && text.contains(r#"{"part":"month","form":"cycle"}"#),
        "{text}"
    );
    // Only where a value was missing it may be missing later.
    let line = |temperature: &str, pressure: &str| {
        format!("{temperature},{pressure},0.1,open,3,2020-01-01T00:00:00,yes")
    };
    assert_eq!(tensor(&encoder, &line("", "98000"))[0], 0.0);
    let error = encoder.tensor(line("1", "").as_bytes()).unwrap_err();
    assert!(error.detail().contains("row 1, column \"pressure\" of the table: it is missing"), "{error}");
}

#[test]
fn codes_and_parts_are_those_of_scikit_learn_and_of_the_calendar() {
    let file = recording("table.csv");
    let pressure = Number {
        missing: None,
        clip: Some(Bounds { low: 99_000.0, high: 101_000.0 }),
        mean: 0.0,
        std: 1000.0,
    };
    let cycle = |part| DatePart { part, form: PartForm::Cycle };
    let parts = [
        plain(Part::Month),
        plain(Part::Day),
        plain(Part::Weekday),
        plain(Part::Hour),
        plain(Part::DayOfYear),
        cycle(Part::Day),
        cycle(Part::DayOfYear),
    ];
    let coded = encoder(vec![
        column("valve", category(&["shut", "open"], Encoding::Ordinal, Unknown::Index(-1))),
        column("code", category(&["100", "20", "3"], Encoding::Ordinal, Unknown::Error)),
        column("pressure", ColumnKind::Number(pressure)),
        column("made", date(&parts)),
    ]);
    agree("table_coded", &coded.rows(&file).unwrap());
    let zeros = encoder(vec![column("valve", category(&["shut", "open"], Encoding::OneHot, Unknown::Zeros))]);
    agree("table_zeros", &zeros.rows(&file).unwrap());
}

#[test]
fn a_row_is_the_same_in_every_form() {
    let encoder = encoder(vec![
        column("size", number(Some(-1.0))),
        column("kind", category(&["a", "b, c"], Encoding::OneHot, Unknown::Index(2))),
        column("old", ColumnKind::Boolean(Boolean { missing: Some(true) })),
    ]);
    let forms = [
        r#"{"size": 2.5, "kind": "b, c", "old": false}"#,
        r#"{"id": {"deep": [1, {}]}, "old": 0, "kind": "b, c", "size": "2.5"}"#,
        r#"[2.5, "b, c", false]"#,
        r#"[[2.5, " b, c ", "no"]]"#,
        r#"[{"size": 2.5, "kind": "b, c", "old": "False"}]"#,
        "2.5,\"b, c\",false",
        "2.5 ,\"b, c\" , F\r\n",
        "size,kind,old\n2.5,\"b, c\",0\n",
        "\u{feff}old,id,kind,size\r\nfalse,x,\"b, c\",2.50\r\n\r\n",
    ];
    for form in forms {
        assert_eq!(tensor(&encoder, form), [2.5, 0.0, 1.0, 0.0, 0.0], "{form}");
        assert_eq!(encoder.rows(form.as_bytes()).unwrap(), [[2.5, 0.0, 1.0, 0.0, 0.0]], "{form}");
    }
    for form in ["null,,NaN", r#"[null, "", "NA"]"#, r#"{"size": "n/a", "kind": null, "old": null}"#] {
        let form = form.replace("null,,", "NULL,,");
        assert_eq!(tensor(&encoder, &form), [-1.0, 0.0, 0.0, 1.0, 1.0], "{form}");
    }
    let many = [
        "[[1, \"a\", true], {\"size\": 2, \"kind\": \"x\", \"old\": true}]",
        "[1, \"a\", true]\n\n{\"size\": 2, \"kind\": \"x\", \"old\": true}\n",
        "1,a,true\n2,x,true",
        "size,old,kind\n1,1,a\n2,1,x\n",
    ];
    for form in many {
        let rows = encoder.rows(form.as_bytes()).unwrap();
        assert_eq!(rows, [[1.0, 1.0, 0.0, 0.0, 1.0], [2.0, 0.0, 0.0, 1.0, 1.0]], "{form}");
    }
    assert!(encoder.rows(b"[]").unwrap().is_empty());
}

#[test]
fn texts_that_mean_missing_are_values_where_the_category_has_them() {
    let mut kind = category(&["NA", "EU", "1", "none"], Encoding::Ordinal, Unknown::Error);
    let ColumnKind::Category(inner) = &mut kind else { unreachable!() };
    inner.missing = Some("none".to_owned());
    let encoder = encoder(vec![column("region", kind)]);
    for (row, code) in
        [("[\"NA\"]", 0.0), ("[1]", 2.0), ("[1.0]", 2.0), ("1.00", 2.0), ("[null]", 3.0), ("None", 3.0)]
    {
        assert_eq!(tensor(&encoder, row), [code], "{row}");
    }
    let error = encoder.tensor(b"[\"na\"]").unwrap_err().detail();
    assert!(error.ends_with("\"na\" is none of NA, EU, 1, none"), "{error}");
}

#[test]
fn dates_are_read_as_written_and_seconds_in_utc() {
    let parts = [Part::Year, Part::Month, Part::Day, Part::Weekday, Part::Hour, Part::DayOfYear];
    let encoder = encoder(vec![
        column("parts", date(&parts.map(plain))),
        // Floats of 32 bits do not hold today's seconds: what is scaled is exact.
        column(
            "since",
            date(&[DatePart {
                part: Part::UnixSeconds,
                form: PartForm::Number(Scaling { mean: 1_709_251_199.0, std: 0.5 }),
            }]),
        ),
    ]);
    let leap = [2024.0, 2.0, 29.0, 3.0, 23.0, 60.0];
    for (text, since) in [
        ("\"2024-02-29T23:59:59\"", 0.0),
        ("\"2024-02-29 23:59:59Z\"", 0.0),
        ("\"2024-02-29T23:59:59.5+00:00\"", 1.0),
        ("\"2024-02-29T23:59:59-0030\"", 3600.0),
        ("\"2024-02-29T23:59+01\"", -7318.0),
        ("1709251199", 0.0),
        ("\"1709251199.5\"", 1.0),
    ] {
        let got = tensor(&encoder, &format!("[{text}, {text}]"));
        assert_eq!(got, [leap.as_slice(), &[since]].concat(), "{text}");
    }
    for text in [
        "2023-02-29",
        "2024-13-01",
        "2024-00-01",
        "2024-04-31",
        "2024-4-1",
        "24-04-01",
        "2024-04-01T",
        "2024-04-01T24:00",
        "2024-04-01T12",
        "2024-04-01T12:60",
        "2024-04-01T12:00:60",
        "2024-04-01T12:00:00.",
        "2024-04-01T12:00+1",
        "2024-04-01T12:00Zx",
        "2024-04-01x",
        "01/02/2024",
        "20240501",
        "1709251199000",
        "true",
        "0000-01-01",
        "２０２４-01-01",
        "2024-04-01T12:00+é1",
        "-62167219201",
        "1e300",
    ] {
        let error = encoder.tensor(format!("[{text:?}, 0]").as_bytes()).unwrap_err().detail();
        assert!(error.starts_with("row 1, column \"parts\""), "{text}: {error}");
    }
}

proptest! {
    #[test]
    fn dates_agree_with_a_calendar(seconds in -62_135_596_800_i64..253_402_300_799, ahead in -23..24_i32) {
        let offset = jiff::tz::Offset::from_hours(ahead as i8).unwrap();
        let Ok(moment) = jiff::Timestamp::from_second(seconds) else { return Ok(()) };
        let there = offset.to_datetime(moment);
        prop_assume!((1..=9999).contains(&there.year()) && !(10_000_000..100_000_000).contains(&seconds));
        let parts = [Part::Year, Part::Month, Part::Day, Part::Weekday, Part::Hour, Part::DayOfYear];
        let encoder = encoder(vec![
            column("parts", date(&parts.map(plain))),
            column("since", date(&[DatePart {
                part: Part::UnixSeconds,
                form: PartForm::Number(Scaling { mean: seconds as f64, std: 1.0 }),
            }])),
        ]);
        let expected = |t: jiff::civil::DateTime| [
            t.year() as f32, f32::from(t.month()), f32::from(t.day()), f32::from(t.weekday().to_monday_zero_offset()),
            f32::from(t.hour()), f32::from(t.day_of_year()), 0.0,
        ];
        let sign = if ahead < 0 { '-' } else { '+' };
        let text = format!("{there}{sign}{:02}:00", ahead.abs());
        prop_assert_eq!(encoder.tensor(format!("{text},{text}").as_bytes()).unwrap(), expected(there), "{}", text);
        let utc = jiff::tz::Offset::UTC.to_datetime(moment);
        prop_assert_eq!(encoder.tensor(format!("{seconds},{seconds}").as_bytes()).unwrap(), expected(utc));
    }

    #[test]
    fn numbers_that_were_learnt_from_have_mean_0_and_deviation_1(
        numbers in prop::collection::vec(prop::option::weighted(0.9, -1e6..1e6_f64), 2..60)
    ) {
        prop_assume!(numbers.iter().flatten().count() > 1);
        let file = numbers.iter().fold("x,y\n".to_owned(), |file, number| {
            file + &number.map_or(",1\n".to_owned(), |number| format!("{number},1\n"))
        });
        let table = Table::read(file.as_bytes()).unwrap();
        let input = fit(&table, &["y"]).unwrap();
        let scaled: Vec<f64> =
            TableEncoder::new(&input).unwrap().rows(file.as_bytes()).unwrap().iter().map(|row| f64::from(row[0])).collect();
        let known = numbers.iter().flatten().count() as f64;
        let mean = scaled.iter().sum::<f64>() / known;
        let square = scaled.iter().map(|value| value * value).sum::<f64>() / known;
        prop_assert!(mean.abs() < 1e-3 && (square - 1.0).abs() < 1e-3, "{mean} {square}");
        for (number, value) in numbers.iter().zip(&scaled) {
            prop_assert!(number.is_some() || value.abs() < 1e-6);
        }
    }
}

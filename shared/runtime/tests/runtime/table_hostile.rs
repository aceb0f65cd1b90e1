//! Tables that are broken, too large or not what the model takes: errors say the row, the column and what to do.

use crate::support::recording;
use crate::table::{category, column, date, encoder, number, plain};
use flotilla_protocol::pipeline::table::{
    Boolean, Bounds, Column, ColumnKind, DatePart, Encoding, Number, Part, PartForm, TableInput, Unknown,
};
use flotilla_protocol::{ErrorCode, limits};
use flotilla_runtime::table::{Table, TableEncoder, fit};
use proptest::prelude::*;

fn two() -> TableEncoder {
    encoder(vec![
        column("size", number(None)),
        column("kind", category(&["a", "b"], Encoding::OneHot, Unknown::Error)),
    ])
}

#[test]
fn errors_name_row_and_column() {
    use ErrorCode::{InvalidInput, SampleInvalid, TooLarge};
    let long = format!("[1, {:?}]", "x".repeat(limits::TABLE_CELL + 1));
    let long_csv = format!("1,{}", "x".repeat(limits::TABLE_CELL + 1));
    let cases: &[(&[u8], ErrorCode, &str)] = &[
        (b"", SampleInvalid, "it is empty"),
        (b" \n\t", SampleInvalid, "it is empty"),
        (b"{", SampleInvalid, "EOF while parsing"),
        (b"[1, \"a\"", SampleInvalid, "EOF while parsing"),
        (b"[1, \"a\"] x", SampleInvalid, "expected value"),
        (b"[1, \"a\"] 7", SampleInvalid, "a row is an object or an array"),
        (b"[[1, \"a\"], 7]", SampleInvalid, "a row is an object or an array"),
        (
            b"[[1, \"a\"], [2, \"c\"]]",
            InvalidInput,
            "row 2, column \"kind\" of the table: \"c\" is none of a, b",
        ),
        (b"[[1, \"a\"], [null, \"a\"]]", InvalidInput, "row 2, column \"size\" of the table: it is missing"),
        (b"[[1, \"a\"], [1]]", InvalidInput, "row 2 of the table has fewer values than the 2 columns"),
        (
            b"[[1, \"a\", 3]]",
            InvalidInput,
            "row 1 of the table has more values than the 2 columns that are needed: size, kind",
        ),
        (b"[1, \"a\", {}]", InvalidInput, "row 1 of the table has more values"),
        (b"[[1, [2]]]", InvalidInput, "row 1, column \"kind\" of the table: an array"),
        (b"[1, {\"a\": [2]}]", InvalidInput, "row 1, column \"kind\" of the table: an object"),
        (b"{\"size\": {}, \"kind\": \"a\"}", InvalidInput, "row 1, column \"size\" of the table: an object"),
        (b"{\"size\": 1}", InvalidInput, "row 1 of the table has no column \"kind\""),
        (b"{\"size\": 1, \"kind\": \"a\", \"size\": 2}", InvalidInput, "has column \"size\" twice"),
        (b"[[[1, 2]]]", InvalidInput, "row 1, column \"size\" of the table: an array"),
        (b"big,a", InvalidInput, "row 1, column \"size\" of the table: \"big\" is no number"),
        (b"size,kind\n1,a\ninf,a", InvalidInput, "row 2, column \"size\" of the table: \"inf\" is no number"),
        (b"1e39,a", InvalidInput, "\"1e39\" is too large once it is scaled"),
        (b"1e400,a", InvalidInput, "\"1e400\" is no number"),
        (b"1;a", InvalidInput, "row 1 of the table has fewer values"),
        (b"size,kind\n1,a,2", InvalidInput, "row 1 of the table has 3 values, but the header 2"),
        (b"size,king\n1,a", SampleInvalid, "its header has no column \"kind\""),
        (b"size,kind,size\n1,a,1", SampleInvalid, "its header has \"size\" twice"),
        (b"1,\xff\xfe", InvalidInput, "row 1, column \"kind\" of the table: its text is not UTF-8"),
        (b"[1, \"\xff\"]", SampleInvalid, "invalid unicode"),
        (b"1,\"a\n1,a\n", InvalidInput, "is none of a, b"),
        (long.as_bytes(), InvalidInput, "row 1, column \"kind\" of the table: 1025 bytes; 1024 are possible"),
        (
            long_csv.as_bytes(),
            InvalidInput,
            "row 1, column \"kind\" of the table: 1025 bytes; 1024 are possible",
        ),
        (&[b','; 5000], TooLarge, "more than 1024 columns"),
        (&[b'"'; 1_000_001], TooLarge, "more than 262144 bytes in a row"),
        (&[b'['; 100_000], SampleInvalid, "EOF while parsing"),
    ];
    for (bytes, code, problem) in cases {
        let start = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
        let error = two().rows(bytes).unwrap_err();
        assert_eq!(error.code(), *code, "{start}: {}", error.detail());
        assert!(error.detail().contains(problem), "{start}: {}", error.detail());
        assert_eq!(error.is_bad_input(), *code != InvalidInput, "{start}");
        assert!(two().tensor(bytes).is_err(), "{start}");
    }
    for (bytes, got) in
        [(b"[]".as_slice(), 0), (b"size,kind\n", 0), (b"1,a\n2,a", 2), (b"[[1,\"a\"],[1,\"b\"]]", 2)]
    {
        let error = two().tensor(bytes).unwrap_err();
        assert_eq!(error.code(), InvalidInput);
        assert!(error.detail().contains(&format!("has {got} rows; exactly one")), "{}", error.detail());
    }
}

#[test]
fn tables_over_the_bounds_are_refused_on_the_way() {
    let one = encoder(vec![column("x", number(None))]);
    let too_large = |result: flotilla_runtime::Result<Vec<Vec<f32>>>, what: &str| {
        let error = result.unwrap_err();
        assert_eq!(error.code(), ErrorCode::TooLarge, "{}", error.detail());
        assert!(error.detail().contains(what), "{}", error.detail());
    };
    too_large(one.rows(&vec![b' '; limits::TABLE + 1]), "bytes");
    too_large(one.rows("1\n".repeat(limits::TABLE_ROWS + 1).as_bytes()), "1048576 rows");
    let values: Vec<String> = (0..4096).map(|value| value.to_string()).collect();
    let values: Vec<&str> = values.iter().map(String::as_str).collect();
    let wide: Vec<Column> = ["a", "b", "c", "d"]
        .map(|name| column(name, category(&values, Encoding::OneHot, Unknown::Zeros)))
        .to_vec();
    too_large(encoder(wide).rows("1,2,3,4\n".repeat(1025).as_bytes()), "16777216 values");
    // Everything that is not needed may be large, and is not kept.
    let deep = format!("{{\"other\": [{}1], \"x\": 5}}", "[1],".repeat(1_000_000));
    assert_eq!(one.tensor(deep.as_bytes()).unwrap(), [5.0]);
}

#[test]
fn inputs_over_the_bounds_are_not_executed() {
    let refused = |columns: Vec<Column>, problem: &str| {
        let error = TableEncoder::new(&TableInput { columns }).unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidInput);
        assert!(error.detail().contains(problem), "{problem}: {}", error.detail());
    };
    let scaled = |mean, std, missing, clip| ColumnKind::Number(Number { missing, clip, mean, std });
    let x = |kind| vec![column("x", kind)];
    refused(vec![], "0 columns");
    refused((0..1025).map(|i| column(&i.to_string(), number(None))).collect(), "1025 columns");
    refused(vec![column("", number(None))], "0 bytes");
    refused(vec![column(" x", number(None))], "starts or ends with a space");
    refused(vec![column("x", number(None)), column("x", number(None))], "\"x\" is there twice");
    refused(x(scaled(f64::NAN, 1.0, None, None)), "column \"x\": a finite number");
    refused(x(scaled(0.0, 0.0, None, None)), "other than zero");
    refused(x(scaled(0.0, 1.0, Some(f64::INFINITY), None)), "table.number.missing");
    refused(x(scaled(0.0, 1.0, None, Some(Bounds { low: 2.0, high: 1.0 }))), "table.number.clip");
    refused(x(scaled(0.0, 1.0, None, Some(Bounds { low: f64::NAN, high: 1.0 }))), "table.number.clip");
    refused(x(category(&[], Encoding::OneHot, Unknown::Zeros)), "0 values");
    refused(x(category(&["a", "a"], Encoding::OneHot, Unknown::Zeros)), "\"a\" is there twice");
    refused(x(category(&["a"], Encoding::Ordinal, Unknown::Zeros)), "choose an index");
    refused(x(category(&["a"], Encoding::OneHot, Unknown::Index(2))), "0 to 1 are possible");
    refused(x(category(&["a"], Encoding::OneHot, Unknown::Index(-1))), "0 to 1 are possible");
    refused(x(category(&["a"], Encoding::Ordinal, Unknown::Index(i32::MIN))), "too large");
    let mut lacking = category(&["a"], Encoding::OneHot, Unknown::Zeros);
    if let ColumnKind::Category(category) = &mut lacking {
        category.missing = Some("b".to_owned());
    }
    refused(x(lacking), "none of the values");
    refused(x(date(&[])), "0 parts");
    refused(x(date(&[DatePart { part: Part::Year, form: PartForm::Cycle }])), "does not come back");
    refused(x(date(&[plain(Part::Year); 15])), "15 parts");
}

#[test]
fn what_cannot_be_learnt_from_is_named() {
    let names = (0..30).fold("name,x\n".to_owned(), |file, row| format!("{file}n{row},{}\n", row % 2));
    let cases: &[(&str, &[&str], &str)] = &[
        (&names, &[], "column \"name\" of the table cannot be learnt from: every row has another text"),
        ("a,b\n,1\nNA,2\n", &[], "column \"a\" of the table cannot be learnt from: no row has a value"),
        ("a,b\n1e300,1\n-1e300,2\n", &[], "too large to be scaled"),
        ("a,b\n1,2\n", &["c"], "no column \"c\" to leave out"),
        ("a,b\n1,2\n", &["a", "b"], "0 columns"),
        ("a,b\n", &[], "no rows to learn from"),
    ];
    for (file, leave_out, problem) in cases {
        let table = Table::read(file.as_bytes()).unwrap();
        let error = fit(&table, leave_out).unwrap_err();
        assert!(error.detail().contains(problem), "{problem}: {}", error.detail());
    }
    let cases = [
        ("1,2\n3,4\n", "its first line is no header"),
        ("a,a\n3,4\n", "two columns have the name \"a\""),
        ("[[1, 2]]", "name the columns"),
        ("[", "EOF"),
        (
            "{\"a\": 1}\n{\"a\": 1, \"b\": 2}",
            "row 2 of the table has a column \"b\" that the first row lacks",
        ),
        ("{\"a\": 1, \"b\": 1}\n{\"a\": 1}", "row 2 of the table has no column \"b\""),
    ];
    for (file, problem) in cases {
        let error = Table::read(file.as_bytes()).unwrap_err();
        assert!(error.detail().contains(problem), "{problem}: {}", error.detail());
    }
    let named = Table::read_named(b"1,yes\n2,", vec!["a".to_owned(), "b".to_owned()]).unwrap();
    let input = fit(&named, &[]).unwrap();
    assert_eq!(input.columns[1].kind, ColumnKind::Boolean(Boolean { missing: Some(true) }));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn mutated_tables_give_rows_or_a_typed_error(
        json in any::<bool>(),
        cut in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
    ) {
        let good = recording("table.csv");
        let input = fit(&Table::read(&good).unwrap(), &["fault"]).unwrap();
        let encoder = TableEncoder::new(&input).unwrap();
        let mut file = if json {
            br#"[{"temperature": 1, "pressure": 2, "constant": 3, "valve": "open", "code": 3, "made": "2020-02-29", "loud": true}]"#.to_vec()
        } else {
            good
        };
        if cut.index(3) == 0 {
            file.truncate(cut.index(file.len()));
        }
        for (at, value) in changes {
            if !file.is_empty() {
                let at = at.index(file.len());
                file[at] = value;
            }
        }
        match encoder.rows(&file) {
            Ok(rows) => prop_assert!(rows.iter().all(|row| row.len() == 16 && row.iter().all(|v| v.is_finite()))),
            Err(error) => prop_assert!(
                matches!(error.code(), ErrorCode::SampleInvalid | ErrorCode::InvalidInput | ErrorCode::TooLarge),
                "{}", error.detail()
            ),
        }
        if let Ok(table) = Table::read(&file) {
            let _ = fit(&table, &[]);
        }
    }

    #[test]
    fn anything_gives_rows_or_a_typed_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(rows) = two().rows(&bytes) {
            prop_assert!(rows.iter().all(|row| row.len() == 3));
        }
    }
}

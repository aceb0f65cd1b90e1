//! Csv: tables, and pictures a line.

use crate::support::{House, request};
use flotilla_data::{ColumnKind, Format, Kind, SampleFile, SplitCounts};
use flotilla_protocol::{ErrorCode, Truth};
use serde_json::json;

#[tokio::test]
async fn a_broken_csv_line_is_listed_with_its_number() {
    let house = House::new();
    let mut csv = String::new();
    for n in 0..30 {
        let pixel = |i: u32| if i == 0 { n / 17 } else { (n * i) % 17 };
        let pixels: Vec<String> = (0..16).map(|i| pixel(i).to_string()).collect();
        csv += &format!("{},{}\n", pixels.join(","), n % 2);
    }
    let mut lines: Vec<&str> = csv.lines().collect();
    lines[3] = "1,2,3";
    lines[9] = "x,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,0";
    lines[17] = "\"1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,0";
    lines[20] = "999,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,0";
    let file = house.file("own.csv", lines.join("\n"));
    let report = house.import(request("own", &file)).await.unwrap();
    assert_eq!(report.version.source.format, Format::ImageCsv);
    assert_eq!(report.imported, 26);
    let told: Vec<_> = report.skipped.iter().map(|s| (s.file.as_str(), s.line.unwrap())).collect();
    assert_eq!(told, [("own.csv", 4), ("own.csv", 10), ("own.csv", 18), ("own.csv", 21)]);
    assert!(report.skipped[0].reason.contains("3 fields, 17 are expected"));
    assert!(report.skipped[1].reason.contains("\"x\""));
    assert!(report.skipped[2].reason.contains("quote"));
    assert!(report.skipped[3].reason.contains("999"));
    assert_eq!(report.version.images.unwrap().max_width, 4);
}

#[tokio::test]
async fn a_csv_of_pictures_is_one_wherever_its_broken_lines_are() {
    let house = House::new();
    let pixel = |n: u32, i: u32| if i == 0 { n / 17 } else { (n * i) % 17 };
    let good = |n: u32| -> Vec<String> {
        (0..16).map(|i| pixel(n, i)).chain([n % 2]).map(|value| value.to_string()).collect()
    };
    for broken in [vec![1], vec![2], vec![1, 2, 3], vec![6, 7]] {
        let mut csv = String::new();
        for line in 1..=30 {
            let mut fields = good(line);
            if broken.contains(&line) {
                fields[5] = format!("x{line}");
            }
            csv += &format!("{}\n", fields.join(","));
        }
        let file = house.file("own.csv", csv);
        let name = format!("own-{}-{}", broken[0], broken.len());
        let report = house.import(request(&name, &file)).await.unwrap();
        assert_eq!(report.version.source.format, Format::ImageCsv, "{broken:?}");
        let told: Vec<_> = report.skipped.iter().map(|s| s.line.unwrap() as u32).collect();
        assert_eq!(told, broken, "{:?}", report.skipped);
        assert_eq!(report.imported, 30 - broken.len() as u64);
    }
}

#[tokio::test]
async fn a_csv_of_pictures_may_have_a_header_and_its_label_in_front() {
    let house = House::new();
    let mut csv = format!("label,{}\n", (0..16).map(|i| format!("pixel{i}")).collect::<Vec<_>>().join(","));
    for n in 0..20 {
        let pixels: Vec<String> = (0..16).map(|i| ((n * 31 + i * 3) % 256).to_string()).collect();
        csv += &format!("{},{}\n", n % 2 + 3, pixels.join(","));
    }
    let report = house.import(request("own", &house.file("own.csv", csv))).await.unwrap();
    assert_eq!(report.version.classes, ["3", "4"]);
    let sample = house.datasets.samples(&report.version, None).await.unwrap().swap_remove(1);
    let bytes = house.datasets.sample_bytes(&sample).await.unwrap();
    assert_eq!(image::load_from_memory(&bytes).unwrap().into_luma8().into_raw()[..3], [31, 34, 37]);
}

pub(crate) const TABLE: &str = "Age;Job;Height;Bought\n\
    30;\"blue; collar\";1.8;no\n31;admin;?;yes\n32;admin;1.7;no\n33;;1.6;yes\n34;chef;1.5;no\n35;chef;1.4;yes\n\
    36;admin;1.8;no\n37;admin;1.8;yes\n38;admin;1.8;no\n39;admin;1.8;yes\n40;admin;1.8\n41;admin;1.8;\n\
    30;\"blue; collar\";1.8;no\n";

#[tokio::test]
async fn a_table_gets_typed_columns_and_its_rows_as_samples() {
    let house = House::new();
    let mut table = request("bank", &house.file("bank.csv", TABLE));
    table.options.label_column = Some("Bought".into());
    let report = house.import(table).await.unwrap();
    let version = &report.version;
    assert_eq!((version.kind, version.source.format), (Kind::Table, Format::Table));
    assert_eq!(version.classes, ["no", "yes"]);
    assert_eq!((version.samples, report.duplicates, report.skipped_total), (11, 1, 2));
    let lines: Vec<_> = report.skipped.iter().map(|s| s.line.unwrap()).collect();
    assert_eq!(lines, [12, 13]);
    let columns = house.datasets.columns(version).await.unwrap();
    let told: Vec<_> = columns.iter().map(|c| (c.name.as_str(), c.kind, c.missing)).collect();
    assert_eq!(
        told,
        [
            ("Age", ColumnKind::Integer, 0),
            ("Job", ColumnKind::Text, 1),
            ("Height", ColumnKind::Number, 1),
            ("Bought", ColumnKind::Text, 0)
        ]
    );
    let samples = house.datasets.samples(version, None).await.unwrap();
    let bytes = house.datasets.sample_bytes(&samples[0]).await.unwrap();
    let row: Vec<String> = serde_json::from_slice(&bytes).unwrap();
    assert_eq!((row, samples[0].copies), (["30", "blue; collar", "1.8", "no"].map(String::from).to_vec(), 2));
    let path = house.path("split");
    let written = house.datasets.write_split(version, samples[0].split, &path).await.unwrap();
    assert_eq!(written, version.splits.of(samples[0].split), "a row that is there twice is written twice");
    // A model gets a row as applications send it: by name, without what it is to say.
    let (truth, input) = SampleFile::open(&path).unwrap().next().unwrap().unwrap();
    assert_eq!(truth, Truth::Class(0));
    let input: serde_json::Value = serde_json::from_slice(&input).unwrap();
    assert_eq!(input, json!({ "Age": "30", "Job": "blue; collar", "Height": "1.8" }));
    let form = house.datasets.input_form(version).await.unwrap();
    let gap = form.input(house.datasets.sample_bytes(&samples[1]).await.unwrap()).unwrap();
    let gap: serde_json::Value = serde_json::from_slice(&gap).unwrap();
    assert_eq!(gap, json!({ "Age": "31", "Job": "admin", "Height": null }));
}

#[tokio::test]
async fn a_table_without_a_known_label_column_says_which_columns_there_are() {
    let house = House::new();
    let file = house.file("bank.csv", TABLE);
    let mut wrong = request("bank", &file);
    wrong.options.label_column = Some("bought".into());
    for request in [request("bank", &file), wrong] {
        let error = house.import(request).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidInput);
        assert!(error.to_string().contains("Age, Job, Height, Bought"), "{error}");
    }
}

#[tokio::test]
async fn a_fine_numeric_label_is_a_target_and_not_classes() {
    let house = House::new();
    let rows: Vec<String> = (0..100).map(|n| format!("{n},{}.5", n * 2)).collect();
    let file = house.file("t.csv", format!("x,target\n{}\n", rows.join("\n")));
    let version = house.import(request("t", &file)).await.unwrap().version;
    assert!(version.classes.is_empty() && version.table.as_ref().unwrap().numeric_label);
    assert_eq!(version.splits, SplitCounts { train: 70, validation: 10, test: 20 });
    let samples = house.datasets.samples(&version, None).await.unwrap();
    assert_eq!(samples[3].truth, Truth::Values(vec![6.5]));
}

#[tokio::test]
async fn a_target_is_a_number_if_it_is_said_to_be_one() {
    let house = House::new();
    let rows: Vec<String> = (0..100).map(|n| format!("{n},{}", n % 3)).collect();
    let file = house.file("t.csv", format!("x,y\n{}\n7,much\n", rows.join("\n")));
    let mut classes = request("classes", &file);
    classes.options.label_column = Some("y".into());
    let mut numbers = request("numbers", &file);
    (numbers.options.label_column, numbers.options.numeric_label) = (Some("y".into()), Some(true));
    assert_eq!(house.import(classes).await.unwrap().version.classes, ["0", "1", "2", "much"]);
    let report = house.import(numbers).await.unwrap();
    assert_eq!((report.skipped_total, report.skipped[0].line), (1, Some(102)));
    assert!(report.skipped[0].reason.contains("no finite number"), "{}", report.skipped[0].reason);
    let samples = house.datasets.samples(&report.version, None).await.unwrap();
    assert_eq!(samples[4].truth, Truth::Values(vec![1.0]));
}

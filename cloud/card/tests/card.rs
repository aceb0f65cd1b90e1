//! Cards in every form: golden files, hostile names, and what is not known.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use flotilla_card::{Block, Card, Data, DataFacts, FORMAT, File, Origin, Release, Step};
use flotilla_protocol::manifest::Metrics;
use flotilla_protocol::pipeline::{
    Activation, Classification, Colour, ImageInput, Input, Output, Regression, Target,
};
use flotilla_protocol::{Digest, Pipeline};
use flotilla_runtime::Latency;
use flotilla_runtime::quality::{AnomalyOutcome, ClassOutcome, Outcomes, Trial, ValuesOutcome};
use serde_json::json;
use std::path::PathBuf;

const NOON: u64 = 1_764_331_200_000;

fn file(content: &str) -> File {
    File { digest: Digest::of(content.as_bytes()), bytes: 10_000 + content.len() as u64 }
}

fn classifier(labels: &[&str]) -> Pipeline {
    let labels: Vec<String> = labels.iter().map(|label| (*label).to_owned()).collect();
    let image = ImageInput { width: 8, height: 8, colour: Colour::Grey, ..ImageInput::none() };
    Pipeline::new(
        Input::Image(image),
        Output::Classification(Classification::new(labels, Activation::Softmax)),
    )
}

/// A trial of 60 samples a class, of which every ninth is taken for the next class.
fn trial(pipeline: &Pipeline) -> Trial {
    let count = pipeline.labels().len();
    let outcome = |index: usize| {
        let truth = index % count;
        let predicted = if index.is_multiple_of(9) { (truth + 1) % count } else { truth };
        ClassOutcome { truth, predicted, score: 0.55 + 0.4 * (index % 10) as f32 / 10.0 }
    };
    Trial {
        gives: pipeline.output.clone(),
        outcomes: Outcomes::Classes((0..60 * count).map(outcome).collect()),
        latency: Latency { p50_ms: 0.125, p95_ms: 0.25 },
    }
}

/// A version that was trained on a dataset and compressed once.
fn compressed(model: &str, labels: &[&str]) -> Card {
    let pipeline = classifier(labels);
    let quality = trial(&pipeline).quality();
    let metrics = quality.metrics();
    let trained = Origin::Trained { job: "job-7".into() };
    let origin = Origin::Compressed { from_version: 1, recipe: "int8 per channel".into() };
    let point = |name: &str, bytes: u64, drop: f64, pareto: bool| {
        json!({ "name": name, "kept_float": [], "bytes": bytes, "metric": "accuracy", "value": 0.9 - drop, "drop": drop,
            "drop_interval": [drop - 0.01, drop + 0.01], "latency": { "p50_ms": 0.12, "p95_ms": 0.2 }, "pareto": pareto })
    };
    let report = json!({
        "recipe": { "format": 2, "steps": [] }, "source": file("before").digest, "output": file("after").digest,
        "bytes_before": 40_000, "bytes_after": 10_005, "samples": 180, "metric": "accuracy", "value_before": 0.9,
        "value_after": 0.895, "drop": 0.005, "drop_interval": [-0.004, 0.015],
        "latency_before": { "p50_ms": 0.2, "p95_ms": 0.3 }, "latency_after": { "p50_ms": 0.12, "p95_ms": 0.2 },
        "layers": [{ "name": "conv1", "op": "Conv", "nodes": ["c"], "precision": "int8", "elements": 900,
            "bytes_before": 3600, "bytes_after": 960, "weight_sqnr_db": 40.0, "output_error": 0.012 }],
        "skipped": [], "measured": [point("int8", 10_005, 0.005, true), point("f16", 20_000, 0.006, false)], "chosen": 0,
        "warnings": ["no_labels"],
    });
    Card {
        format: FORMAT,
        model: model.into(),
        version: 2,
        created_at_ms: NOON,
        created_by: "system".into(),
        file: file("after"),
        pipeline,
        origin: origin.clone(),
        settings: flotilla_card::settings(
            &json!({ "algorithm": "dscnn-s", "epochs": 12, "augment": { "shift_px": 1.0 } }),
        ),
        licence: None,
        data: Some(Data {
            dataset: "shapes".into(),
            version: 3,
            facts: Some(DataFacts {
                kind: "image_classification".into(),
                splits: [800, 100, 180],
                classes: labels.len() as u64,
                bytes: 123_456,
                digest: Digest::of(b"data"),
                source: "shapes.zip".into(),
                licence: Some("CC-BY-4.0".into()),
            }),
        }),
        metrics: metrics.clone(),
        quality: Some(quality),
        compression: Some(serde_json::from_value(report).unwrap()),
        lineage: vec![
            Step { version: 2, origin, file: file("after"), metrics: metrics.clone(), created_at_ms: NOON },
            Step {
                version: 1,
                origin: trained,
                file: file("before"),
                metrics,
                created_at_ms: NOON - 600_000,
            },
        ],
        releases: vec![Release {
            counter: 1,
            digest: Digest::of(b"envelope"),
            key: "0123456789abcdef".into(),
            trusted: true,
            files: vec![("model.onnx".into(), file("after"))],
            created_at_ms: NOON + 60_000,
            expires_at_ms: None,
        }],
    }
}

/// Compares with a golden file; `FLOTILLA_GOLDEN=write` writes it anew, for eyes to see what has changed.
fn golden(name: &str, text: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var("FLOTILLA_GOLDEN").as_deref() == Ok("write") {
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    let differs = text.lines().zip(expected.lines()).position(|(a, b)| a != b);
    if let Some(line) = differs {
        let (got, wanted) = (text.lines().nth(line).unwrap(), expected.lines().nth(line).unwrap());
        panic!("{name}, line {}: {got}\nis not: {wanted}", line + 1);
    }
    assert_eq!(text.lines().count(), expected.lines().count(), "{name}");
}

#[test]
fn a_card_reads_as_recorded() {
    let card = compressed("shapes", &["circle", "square", "triangle"]);
    golden("shapes.md", &card.markdown());
    golden("shapes.html", &card.html());
    let text = serde_json::to_string(&card).unwrap();
    let again: Card = serde_json::from_str(&text).unwrap();
    assert_eq!(again.html(), card.html(), "the JSON form holds everything");
}

#[test]
fn hostile_names_stay_names() {
    let labels = ["<script>alert(1)</script>", "a|b", "\"onload='x", "`c`\n# d", "[e](javascript:alert(1))"];
    let mut card = compressed("shapes", &labels);
    let evil = "</style><img src=x onerror=alert(1)>| \n---\nlicense: mit";
    card.licence = Some(evil.into());
    card.settings.push((evil.into(), evil.into()));
    if let Some(data) = &mut card.data {
        data.dataset = evil.into();
        data.facts.as_mut().unwrap().source = evil.into();
    }
    card.lineage[0].origin = Origin::Imported { from: evil.into() };
    card.compression.as_mut().unwrap().layers[0].name = evil.into();
    card.compression.as_mut().unwrap().measured[0].name = evil.into();
    card.releases[0].files[0].0 = evil.into();

    let html = card.html();
    for tag in ["<script", "<img", "</style><"] {
        assert!(!html.contains(tag), "{tag}");
    }
    assert_eq!(html.matches("</style>").count(), 1);
    assert!(html.contains("&lt;script&gt;alert(1)&lt;/script&gt;") && html.contains("&quot;onload=&#39;x"));
    // Every opened quote of an attribute is closed: no text of anybody's is in one unescaped.
    for line in html.lines().filter(|line| line.contains('<')) {
        assert!(line.matches('"').count().is_multiple_of(2), "{line}");
    }

    let markdown = card.markdown();
    assert!(!markdown.contains("<script") && !markdown.contains("<img") && !markdown.contains("\n# d"));
    let head = markdown.strip_prefix("---\n").unwrap();
    let (head, body) = head.split_once("\n---\n").unwrap();
    assert!(head.contains("license: other") && !head.contains("\nlicense: mit"), "{head}");
    assert!(!body.contains("\n---\n"), "a name begins no second block");
    for table in body.split("\n\n").filter(|block| block.starts_with('|')) {
        let cells = |line: &str| line.replace("\\|", "").matches('|').count();
        let mut lines = table.lines();
        let columns = cells(lines.next().unwrap());
        assert!(lines.all(|line| cells(line) == columns), "{table}");
    }
}

#[test]
fn what_is_not_known_is_said_to_be() {
    let mut card = compressed("shapes", &["a", "b"]);
    (card.quality, card.compression, card.data, card.releases) = (None, None, None, Vec::new());
    card.metrics = Metrics::default();
    let markdown = card.markdown();
    for said in [
        "license: unknown",
        "How good this version is has not been measured here.",
        "What it was trained on is not known here.",
        "This version has no signed release",
        "- **Of the model**: not stated",
    ] {
        assert!(markdown.contains(said), "{said} is not in\n{markdown}");
    }
    assert!(!markdown.contains("model-index"));
    // A version of an earlier release has counts and no more.
    card.metrics = Metrics { samples: 200, correct: 150, accuracy: 0.75, ..Metrics::default() };
    let html = card.html();
    assert!(html.contains("<dt>Accuracy</dt><dd>75.00 %</dd>"), "{html}");
}

#[test]
fn many_classes_stay_a_page() {
    let names: Vec<String> = (0..700).map(|class| format!("class {class}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let card = compressed("many", &names);
    let page = card.page();
    let section = |id: &str| page.sections.iter().find(|section| section.id == id).unwrap();
    let Block::Table(classes) = &section("classes").blocks[0] else { panic!("{:?}", section("classes")) };
    assert_eq!((classes.rows.len(), classes.more), (200, 500));
    assert!(
        matches!(&section("confusion").blocks[..], [Block::Table(_)]),
        "no picture, the most frequent only"
    );
    assert!(card.html().len() < 200_000);
    assert_eq!(card.quality.unwrap().metrics().samples, 60 * 700);
}

#[test]
fn other_kinds_of_models_have_their_own_figures() {
    let mut card = compressed("others", &["a"]);
    card.compression = None;
    let latency = Latency::default();
    let targets = vec![Target { name: "width".into(), unit: "mm".into(), mean: 0.0, std: 1.0 }];
    let gives = Output::Regression(Regression { targets, output: None });
    let value = |index: i32| ValuesOutcome {
        truth: vec![f64::from(index)],
        predicted: vec![f64::from(index) + f64::from(index % 3 - 1)],
    };
    let outcomes = Outcomes::Values((0..50).map(value).collect());
    card.pipeline.output = gives.clone();
    card.quality = Some(Trial { gives, outcomes, latency }.quality());
    let markdown = card.markdown();
    assert!(markdown.contains("| width | mm | 0.99"), "{markdown}");
    assert!(markdown.contains("- type: r_squared"), "{markdown}");

    let spec = flotilla_protocol::pipeline::Anomaly {
        score: flotilla_protocol::pipeline::AnomalyScore::Direct,
        threshold: 0.5,
        output: None,
    };
    let gives = Output::Anomaly(spec);
    let anomaly = |index: u16| AnomalyOutcome {
        truth: index < 10,
        predicted: index < 12,
        score: 1.0 - f32::from(index) / 50.0,
    };
    let outcomes = Outcomes::Anomalies((0..50).map(anomaly).collect());
    card.quality = Some(Trial { gives, outcomes, latency }.quality());
    let markdown = card.markdown();
    assert!(markdown.contains("**False alarms**: 2 of 40 normal samples"), "{markdown}");
    assert!(markdown.contains("**AUC**: 100.00 %"), "{markdown}");
}

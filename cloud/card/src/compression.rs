//! What compression did.

use crate::page::{Block, Cell, Fact, Section, Table};
use crate::text::{NONE, bytes, of};
use flotilla_compress::{Point, Report};

pub(crate) fn section(report: &Report) -> Section {
    let metric = report.metric;
    let signed =
        |value: f64| if metric.is_share() { format!("{:.2}", value * 100.0) } else { format!("{value:.4}") };
    let unit = if metric.is_share() { " percentage points" } else { "" };
    let lost = match report.drop_interval {
        Some([low, high]) => format!(
            "{}{unit} (paired 95 % interval {} to {})",
            signed(report.drop),
            signed(low),
            signed(high)
        ),
        None => format!("{}{unit}", signed(report.drop)),
    };
    let facts = vec![
        Fact::new("Recipe", report.recipe.to_string()),
        Fact::new(
            "Size",
            format!("{} before, {} after", bytes(report.bytes_before), bytes(report.bytes_after)),
        ),
        Fact::new(
            capital(metric.name()),
            format!("{} before, {} after", of(metric, report.value_before), of(metric, report.value_after)),
        ),
        Fact::new("Lost", lost),
        Fact::new(
            "Time of a prediction",
            format!(
                "{:.3} ms before, {:.3} ms after, at the median, on the computer that compressed",
                report.latency_before.p50_ms, report.latency_after.p50_ms
            ),
        ),
        Fact::new("Digest of the file before", Cell::Code(report.source.to_string())),
    ];
    let mut blocks = vec![Block::Facts(facts)];
    blocks.extend(report.warnings.iter().map(|warning| Block::Text(format!("Note: {warning}."))));
    let row = |(place, point): (usize, &Point)| {
        let name = if point.name.is_empty() { NONE } else { &point.name };
        let interval =
            point.drop_interval.map(|[low, high]| format!(" ({} to {})", signed(low), signed(high)));
        let marks = [(report.chosen == Some(place), "chosen"), (point.pareto, "best of its size")];
        let marks: Vec<&str> = marks.into_iter().filter(|(is, _)| *is).map(|(_, mark)| mark).collect();
        vec![
            Cell::from(name),
            point.bytes.into(),
            of(metric, point.value).into(),
            format!("{}{}", signed(point.drop), interval.unwrap_or_default()).into(),
            format!("{:.3}", point.latency.p50_ms).into(),
            marks.join(", ").into(),
        ]
    };
    let metric_column = format!("#{}", capital(metric.name()));
    let columns = ["Candidate", "#Bytes", &metric_column, "#Lost", "#p50, ms", "Mark"];
    let table = Table::new(
        "Candidates that were measured",
        &columns,
        report.measured.iter().enumerate().map(row).collect(),
    );
    blocks.push(Block::Picture {
        svg: report.pareto_svg(),
        caption: "What is lost over the size of the file; filled: no other candidate is better".to_owned(),
        table: Some(table),
    });
    let mut layers: Vec<_> = report.layers.iter().collect();
    layers.sort_by(|a, b| b.output_error.total_cmp(&a.output_error));
    let rows: Vec<Vec<Cell>> = layers
        .into_iter()
        .map(|layer| {
            let precision = serde_json::to_value(layer.precision).ok();
            let precision = precision.as_ref().and_then(serde_json::Value::as_str).unwrap_or(NONE).to_owned();
            vec![
                Cell::Code(layer.name.clone()),
                precision.into(),
                layer.bytes_before.into(),
                layer.bytes_after.into(),
                format!("{:.1e}", layer.output_error).into(),
            ]
        })
        .collect();
    if !rows.is_empty() {
        let columns = ["Layer", "Form", "#Bytes before", "#Bytes after", "#Output error"];
        blocks.push(Block::Table(Table::new("Layers, the most sensitive first", &columns, rows)));
    }
    Section::new("compression", "Compression", blocks)
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    // "mAP" and "AUC" stay as they are.
    match letters.next() {
        Some(first) if letters.clone().all(|letter| !letter.is_uppercase()) => {
            first.to_uppercase().chain(letters).collect()
        }
        _ => text.to_owned(),
    }
}

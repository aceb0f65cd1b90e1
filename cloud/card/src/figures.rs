//! How good the model is.

use crate::page::{Block, Cell, Fact, Section, Table};
use crate::plot;
use crate::text::{NONE, count, number, percent, ranged, share, told};
use flotilla_runtime::Quality;
use flotilla_runtime::quality::{
    Calibration, Class, Classification, Detection, Figures, MultiLabel, Regression,
};

/// Classes of a confusion matrix that is written as a table at most.
const TABLE_CLASSES: usize = 20;
/// Confusions that a page names.
const CONFUSIONS: usize = 10;

pub(crate) fn sections(quality: &Quality) -> Vec<Section> {
    let mut facts = vec![
        Fact::new(headline_name(quality), told(quality.metric, quality.headline)),
        Fact::new("Samples judged", quality.samples),
    ];
    let mut sections = Vec::new();
    match &quality.figures {
        Figures::Classification(figures) => classification(figures, &mut facts, &mut sections),
        Figures::MultiLabel(figures) => multi_label(figures, &mut facts, &mut sections),
        Figures::Detection(figures) => detection(figures, &mut facts, &mut sections),
        Figures::Regression(figures) => regression(figures, &mut sections),
        Figures::Anomaly(figures) => facts.extend([
            Fact::new("Threshold", number(f64::from(figures.threshold))),
            Fact::new("Anomalies found", format!("{} of {}", count(figures.found), count(figures.anomalies))),
            Fact::new(
                "False alarms",
                format!("{} of {} normal samples", count(figures.false_alarms), count(figures.normal)),
            ),
            Fact::new("Recall, %", share(figures.recall)),
            Fact::new("Precision, %", share(figures.precision)),
            Fact::new("False alarm rate, %", share(figures.false_alarm_rate)),
        ]),
    }
    let latency = quality.latency;
    facts.push(Fact::new(
        "Time of a prediction",
        format!(
            "{:.3} ms at the median, {:.3} ms at the 95th percentile, on the computer that judged",
            latency.p50_ms, latency.p95_ms
        ),
    ));
    let method = "Measured on the test split by the runtime that devices run, on the very file. Intervals are of 95 %: \
                  Wilson's for shares, else a bootstrap over samples.";
    sections.insert(
        0,
        Section::new("metrics", "Metrics", vec![Block::Facts(facts), Block::Text(method.to_owned())]),
    );
    sections
}

fn headline_name(quality: &Quality) -> String {
    match &quality.figures {
        Figures::Classification(_) => "Accuracy".to_owned(),
        Figures::MultiLabel(_) => "Mean average precision of the labels".to_owned(),
        Figures::Detection(_) => "Mean average precision at an overlap of one half".to_owned(),
        Figures::Regression(_) => "R2, the share of the variance that is explained".to_owned(),
        Figures::Anomaly(_) => "AUC".to_owned(),
    }
}

fn some(value: Option<f64>, shown: impl Fn(f64) -> String) -> String {
    value.map_or_else(|| NONE.to_owned(), shown)
}

fn class_rows(classes: &[Class]) -> Vec<Vec<Cell>> {
    let row = |class: &Class| {
        let mut row: Vec<Cell> = vec![
            class.label.as_str().into(),
            class.support.into(),
            share(class.precision).into(),
            share(class.recall).into(),
            share(class.f1).into(),
        ];
        row.extend(class.average_precision.map(|value| Cell::from(format!("{:.1}", value * 100.0))));
        row
    };
    classes.iter().map(row).collect()
}

fn classification(figures: &Classification, facts: &mut Vec<Fact>, sections: &mut Vec<Section>) {
    facts.push(Fact::new("Right", figures.correct));
    facts.push(Fact::new("Macro F1", some(figures.macro_f1, percent)));
    if let Some(Calibration { ece, .. }) = &figures.calibration {
        facts.push(Fact::new("Expected calibration error", percent(*ece)));
    }
    let columns = ["Class", "#Samples", "#Precision, %", "#Recall, %", "#F1, %"];
    let caption = "By class, with 95 % intervals";
    let table = Table::new(caption, &columns, class_rows(&figures.classes));
    sections.push(Section::new("classes", "Classes", vec![Block::Table(table)]));
    sections.push(Section::new("confusion", "Confusion", confusion(figures)));
    let blocks = match &figures.calibration {
        Some(calibration) => calibrated(calibration),
        None => vec![Block::Text(
            "The scores of this model are no probabilities, so they do not say how sure it is.".to_owned(),
        )],
    };
    sections.push(Section::new("calibration", "Calibration", blocks));
}

fn confusion(figures: &Classification) -> Vec<Block> {
    let mut blocks = Vec::new();
    let classes = &figures.classes;
    let matrix = figures.confusion.as_deref().unwrap_or_default();
    if let Some(svg) = plot::heat_map(classes, matrix) {
        let table = (classes.len() <= TABLE_CLASSES).then(|| {
            let names = classes.iter().map(|class| format!("#{}", class.label));
            let columns: Vec<String> = std::iter::once("True class".to_owned()).chain(names).collect();
            let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
            let row = |(class, counts): (&Class, &Vec<u64>)| {
                std::iter::once(Cell::from(class.label.as_str()))
                    .chain(counts.iter().map(|samples| Cell::from(*samples)))
                    .collect()
            };
            Table::new("Samples by predicted class", &columns, classes.iter().zip(matrix).map(row).collect())
        });
        let caption =
            "A row a true class, a column a predicted one; the stronger the larger the part of the row";
        blocks.push(Block::Picture { svg, caption: caption.to_owned(), table });
    }
    let label = |place: usize| classes.get(place).map_or("", |class| class.label.as_str());
    let rows: Vec<Vec<Cell>> = figures
        .confused
        .iter()
        .take(CONFUSIONS)
        .map(|one| vec![label(one.truth).into(), label(one.predicted).into(), one.samples.into()])
        .collect();
    if rows.is_empty() {
        blocks.push(Block::Text("No sample was taken for one of another class.".to_owned()));
    } else {
        let columns = ["True class", "Taken for", "#Samples"];
        blocks.push(Block::Table(Table::new("What is mistaken most often", &columns, rows)));
    }
    blocks
}

fn calibrated(calibration: &Calibration) -> Vec<Block> {
    let filled = calibration.bins.iter().filter(|bin| bin.samples > 0);
    let row = |bin: &flotilla_runtime::metrics::scores::Bin| {
        vec![bin.samples.into(), percent(bin.confidence).into(), percent(bin.accuracy).into()]
    };
    let columns = ["#Samples", "#Mean confidence", "#Right"];
    let table = Table::new("By confidence", &columns, filled.map(row).collect());
    let caption = "Bars on the dashed line: the model is right as often as it claims";
    vec![
        Block::Text(format!(
            "What the model claims is off by {} on average (expected calibration error over {} bins of confidence).",
            percent(calibration.ece),
            calibration.bins.len()
        )),
        Block::Picture {
            svg: plot::reliability(&calibration.bins),
            caption: caption.to_owned(),
            table: Some(table),
        },
    ]
}

fn multi_label(figures: &MultiLabel, facts: &mut Vec<Fact>, sections: &mut Vec<Section>) {
    facts.push(Fact::new("Samples with exactly the right labels, %", share(figures.exact)));
    facts.push(Fact::new("Macro F1", some(figures.macro_f1, percent)));
    let with_precision = |label: &Class| {
        let mut row = class_rows(std::slice::from_ref(label)).remove(0);
        row.resize(6, Cell::from(NONE));
        row
    };
    let columns = ["Label", "#Samples", "#Precision, %", "#Recall, %", "#F1, %", "#Average precision, %"];
    let rows = figures.labels.iter().map(with_precision).collect();
    let table = Table::new("By label, at the model's thresholds, with 95 % intervals", &columns, rows);
    sections.push(Section::new("classes", "Labels", vec![Block::Table(table)]));
}

fn detection(figures: &Detection, facts: &mut Vec<Fact>, sections: &mut Vec<Section>) {
    facts.push(Fact::new("The same over overlaps of 0.50 to 0.95 (COCO)", some(figures.coco, percent)));
    facts.push(Fact::new(
        "Lowest score of a box",
        format!("{:.2}: what the model leaves out counts as not found", figures.score),
    ));
    let in_hundred = |value: Option<f64>| Cell::from(some(value, |value| format!("{:.1}", value * 100.0)));
    let row = |one: &flotilla_runtime::quality::Found| {
        vec![
            one.label.as_str().into(),
            one.there.into(),
            one.found.into(),
            in_hundred(one.half),
            in_hundred(one.coco),
        ]
    };
    let columns = ["Label", "#Boxes there", "#Boxes found", "#AP at 0.5, %", "#AP 0.50 to 0.95, %"];
    let table = Table::new("Average precision by label", &columns, figures.labels.iter().map(row).collect());
    sections.push(Section::new("classes", "Labels", vec![Block::Table(table)]));
}

fn regression(figures: &Regression, sections: &mut Vec<Section>) {
    let row = |target: &flotilla_runtime::quality::Target| {
        let unit = if target.unit.is_empty() { NONE } else { &target.unit };
        vec![
            target.name.as_str().into(),
            unit.into(),
            ranged(target.r2).into(),
            ranged(target.mae).into(),
            some(target.rmse, number).into(),
        ]
    };
    let columns = ["Target", "Unit", "#R2", "#Mean absolute error", "#RMSE"];
    let table =
        Table::new("By target, with 95 % intervals", &columns, figures.targets.iter().map(row).collect());
    sections.push(Section::new("classes", "Targets", vec![Block::Table(table)]));
}

//! What the version is, and where it comes from.

use crate::page::{Block, Cell, Fact, Page, Section, Table};
use crate::text::{NONE, bytes, count, cut, moment, number, percent};
use crate::{Card, Data, DataFacts, Origin, Release, Step, compression, figures};
use flotilla_protocol::manifest::Metrics;
use flotilla_protocol::pipeline::{Input, Output};
use serde_json::Value;

/// Settings that a card names at most.
const SETTINGS: usize = 60;
/// Characters of one setting.
const SETTING: usize = 200;
/// What stands where nobody says a licence.
const NO_LICENCE: &str = "not stated";

impl Card {
    /// The card in words, tables and pictures.
    #[must_use]
    pub fn page(&self) -> Page {
        let mut sections = vec![self.summary()];
        match &self.quality {
            Some(quality) => sections.extend(figures::sections(quality)),
            None => sections.push(unmeasured(&self.metrics)),
        }
        sections.push(data(self.data.as_ref()));
        sections.extend(self.settings());
        sections.extend(self.compression.as_ref().map(compression::section));
        sections.push(self.lineage());
        sections.push(self.licences());
        sections.push(self.signatures());
        Page { title: self.title(), sections }
    }

    /// Its name.
    pub(crate) fn title(&self) -> String {
        format!("{} v{}", self.model, self.version)
    }

    fn summary(&self) -> Section {
        let facts = vec![
            Fact::new("Model", self.model.as_str()),
            Fact::new("Version", format!("v{}", self.version)),
            Fact::new("Takes", takes(&self.pipeline.input)),
            Fact::new("Gives", gives(&self.pipeline.output)),
            Fact::new("Origin", told(&self.origin)),
            Fact::new("File", format!("ONNX, {}", bytes(self.file.bytes))),
            Fact::new("SHA-256 of the file", Cell::Code(self.file.digest.to_string())),
            Fact::new("Licence", self.licence.as_deref().unwrap_or(NO_LICENCE)),
            Fact::new("Made", format!("{} by {}", moment(self.created_at_ms), self.created_by)),
        ];
        Section::new("summary", "What it is", vec![Block::Facts(facts)])
    }

    fn settings(&self) -> Option<Section> {
        let facts: Vec<Fact> =
            self.settings.iter().map(|(name, value)| Fact::new(name.as_str(), value.as_str())).collect();
        let (id, title) = match self.origin {
            Origin::Imported { .. } => ("import", "What the import found"),
            Origin::Trained { .. } | Origin::Compressed { .. } => ("training", "Training"),
        };
        (!facts.is_empty()).then(|| Section::new(id, title, vec![Block::Facts(facts)]))
    }

    fn lineage(&self) -> Section {
        let row = |step: &Step| {
            vec![
                format!("{} v{}", self.model, step.version).into(),
                told(&step.origin).into(),
                measured(&step.metrics).into(),
                step.file.bytes.into(),
                Cell::Code(step.file.digest.short()),
                moment(step.created_at_ms).into(),
            ]
        };
        let mut rows: Vec<Vec<Cell>> = self.lineage.iter().map(row).collect();
        if let Some(data) = &self.data {
            let digest = data.facts.as_ref().map_or(NONE.to_owned(), |facts| facts.digest.short());
            let size = data.facts.as_ref().map_or(Cell::from(NONE), |facts| facts.bytes.into());
            rows.push(vec![
                format!("data set {} v{}", data.dataset, data.version).into(),
                data.facts.as_ref().map_or("not in this installation", |facts| facts.source.as_str()).into(),
                NONE.into(),
                size,
                Cell::Code(digest),
                NONE.into(),
            ]);
        }
        let columns = ["What", "How it came about", "Measured", "#Bytes", "Digest", "When"];
        let caption = "Each was made of the one below it";
        Section::new("lineage", "Lineage", vec![Block::Table(Table::new(caption, &columns, rows))])
    }

    fn licences(&self) -> Section {
        let of_data = |data: &Data| data.facts.as_ref().and_then(|facts| facts.licence.clone());
        let mut facts = vec![Fact::new("Of the model", self.licence.as_deref().unwrap_or(NO_LICENCE))];
        facts.extend(self.data.as_ref().map(|data| {
            let licence = of_data(data).unwrap_or_else(|| NO_LICENCE.to_owned());
            Fact::new(format!("Of the data set {}", data.dataset), licence)
        }));
        Section::new("licence", "Licence", vec![Block::Facts(facts)])
    }

    fn signatures(&self) -> Section {
        if self.releases.is_empty() {
            let none = "This version has no signed release, so no device runs it.".to_owned();
            return Section::new("signatures", "Signed releases", vec![Block::Text(none)]);
        }
        let row = |release: &Release| {
            let expires = release.expires_at_ms.map_or_else(|| "never".to_owned(), moment);
            vec![
                release.counter.into(),
                Cell::Code(release.digest.to_string()),
                Cell::Code(release.key.clone()),
                if release.trusted { "yes" } else { "no" }.into(),
                moment(release.created_at_ms).into(),
                expires.into(),
            ]
        };
        let columns = ["#Release", "Digest", "Key", "Believed by devices", "Signed", "Expires"];
        let releases = Table::new("The newest first", &columns, self.releases.iter().map(row).collect());
        let mut blocks = vec![Block::Table(releases)];
        if let Some(newest) = self.releases.first() {
            let rows = newest.files.iter().map(|(name, file)| {
                vec![Cell::Code(name.clone()), file.bytes.into(), Cell::Code(file.digest.to_string())]
            });
            let caption = format!("Files of release {}", newest.counter);
            blocks.push(Block::Table(Table::new(&caption, &["File", "#Bytes", "SHA-256"], rows.collect())));
        }
        Section::new("signatures", "Signed releases", blocks)
    }
}

fn unmeasured(metrics: &Metrics) -> Section {
    let mut blocks = Vec::new();
    if metrics.samples > 0 {
        blocks.push(Block::Facts(vec![
            Fact::new("Accuracy", percent(metrics.accuracy)),
            Fact::new("Samples judged", metrics.samples),
        ]));
    }
    if !metrics.other.is_empty() {
        let facts = metrics.other.iter().map(|(name, value)| Fact::new(name.as_str(), number(*value)));
        blocks.push(Block::Facts(facts.collect()));
    }
    let known = if blocks.is_empty() {
        "How good this version is has not been measured here."
    } else {
        "Nothing more was measured when this version was made."
    };
    blocks.push(Block::Text(known.to_owned()));
    Section::new("metrics", "Metrics", blocks)
}

fn data(data: Option<&Data>) -> Section {
    let blocks = match data {
        None => vec![Block::Text("What it was trained on is not known here.".to_owned())],
        Some(Data { dataset, version, facts: None }) => vec![Block::Text(format!(
            "Trained on the data set {dataset} v{version}, which this installation does not have."
        ))],
        Some(Data { dataset, version, facts: Some(facts) }) => {
            vec![Block::Facts(data_facts(dataset, *version, facts))]
        }
    };
    Section::new("data", "Data", blocks)
}

fn data_facts(dataset: &str, version: u32, facts: &DataFacts) -> Vec<Fact> {
    let [train, validation, test] = facts.splits.map(count);
    let mut all = vec![
        Fact::new("Data set", format!("{dataset} v{version}")),
        Fact::new("Kind", facts.kind.replace('_', " ")),
        Fact::new("Samples", format!("{train} to train, {validation} to choose, {test} to judge by")),
    ];
    if facts.classes > 0 {
        all.push(Fact::new("Classes", facts.classes));
    }
    all.extend([
        Fact::new("Size", bytes(facts.bytes)),
        Fact::new("Source", facts.source.as_str()),
        Fact::new("Licence", facts.licence.as_deref().unwrap_or(NO_LICENCE)),
        Fact::new("Digest of the content", Cell::Code(facts.digest.to_string())),
    ]);
    all
}

fn told(origin: &Origin) -> String {
    match origin {
        Origin::Trained { job } => format!("trained by {job}"),
        Origin::Compressed { from_version, recipe } => format!("compressed from v{from_version}: {recipe}"),
        Origin::Imported { from } => format!("imported: {from}"),
    }
}

/// The one figure of a version that a line has room for.
fn measured(metrics: &Metrics) -> String {
    match metrics.other.first_key_value() {
        _ if metrics.samples > 0 => format!("accuracy {}", percent(metrics.accuracy)),
        Some((name, value)) => format!("{name} {}", number(*value)),
        None => NONE.to_owned(),
    }
}

fn takes(input: &Input) -> String {
    match input {
        Input::Image(image) => {
            let colour = serde_json::to_value(image.colour).ok();
            let colour = colour.as_ref().and_then(Value::as_str).unwrap_or_default().to_uppercase();
            let colour = if colour == "GREY" { "grey".to_owned() } else { colour };
            format!("a picture, brought to {} x {} pixels, {colour}", image.width, image.height)
        }
        Input::Sound(_) => "a recording".to_owned(),
        Input::Table(_) => "a row of a table".to_owned(),
        Input::Tensors(_) => "tensors as they are".to_owned(),
    }
}

fn gives(output: &Output) -> String {
    match output {
        Output::Classification(spec) => format!("one of {} classes", spec.labels.len()),
        Output::MultiLabel(spec) => format!("any of {} labels", spec.labels.len()),
        Output::Detection(spec) => format!("boxes of {} labels", spec.labels.len()),
        Output::Regression(spec) => {
            let names: Vec<&str> = spec.targets.iter().map(|target| target.name.as_str()).collect();
            format!("numbers: {}", cut(&names.join(", "), SETTING))
        }
        Output::Anomaly(_) => "how unusual an input is".to_owned(),
        Output::Embedding(_) => "a vector that is near those of similar inputs".to_owned(),
        Output::Tensors(_) => "tensors as they are".to_owned(),
    }
}

/// Settings out of JSON: names of nested ones are joined by dots; what is empty is left out, and what is long is cut.
#[must_use]
pub fn settings(value: &Value) -> Vec<(String, String)> {
    let mut all = Vec::new();
    flatten("", value, &mut all);
    all
}

fn flatten(name: &str, value: &Value, all: &mut Vec<(String, String)>) {
    if all.len() >= SETTINGS {
        return;
    }
    let plain = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(match number.as_f64() {
            // What was a float of 32 bits has digits that say nothing.
            Some(float) if number.is_f64() => format!("{}", float as f32),
            _ => number.to_string(),
        }),
        Value::Bool(yes) => Some(if *yes { "yes" } else { "no" }.to_owned()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    };
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
                flatten(&name, value, all);
            }
        }
        Value::Array(items) => {
            let texts: Option<Vec<String>> = items.iter().map(plain).collect();
            match texts {
                Some(texts) if !texts.is_empty() => {
                    all.push((name.to_owned(), cut(&texts.join(", "), SETTING)));
                }
                Some(_) => {}
                None => all.push((name.to_owned(), count(items.len() as u64))),
            }
        }
        value => all.extend(plain(value).map(|text| (name.to_owned(), cut(&text, SETTING)))),
    }
}

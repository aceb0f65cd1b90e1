//! Takes samples one by one: packs them, finds duplicates, interns labels, lists what is bad.

use super::{ImportProgress, ImportStage, Skipped};
use crate::bounds::{NUMBER_CLASSES, PACK_BYTES, PACKS, SKIPPED_LISTED};
use crate::dataset::{Column, ImageFacts, Kind, SoundFacts, Split, TableFacts};
use crate::error::{Error, Result};
use flotilla_protocol::{Digest, TrueBox, Truth, limits};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use tokio::sync::mpsc;

/// Samples between two reports of progress.
const PROGRESS_EVERY: u64 = 64;

/// What the blocking side tells the async side.
#[derive(Debug)]
pub(crate) enum Step {
    /// A pack to store, in order.
    Pack(Vec<u8>),
    /// How far reading is.
    Progress(ImportProgress),
}

/// A sample that was taken.
#[derive(Clone, Debug)]
pub(crate) struct Taken {
    pub(crate) digest: Digest,
    pub(crate) truth: Truth,
    pub(crate) given: Option<Split>,
    pub(crate) copies: u32,
    pub(crate) pack: u32,
    pub(crate) offset: u32,
    pub(crate) len: u32,
}

/// Everything that was read.
#[derive(Debug)]
pub(crate) struct Collected {
    pub(crate) kind: Kind,
    pub(crate) format: super::Format,
    pub(crate) samples: Vec<Taken>,
    pub(crate) classes: Vec<String>,
    pub(crate) bytes: u64,
    pub(crate) images: Option<ImageFacts>,
    pub(crate) sounds: Option<SoundFacts>,
    pub(crate) table: Option<(TableFacts, Vec<Column>)>,
    pub(crate) skipped: Vec<Skipped>,
    pub(crate) skipped_total: u64,
    pub(crate) duplicates: u64,
}

/// Where a sample stands in the source.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) file: &'a str,
    pub(super) line: Option<u64>,
}

/// The collector.
pub(super) struct Collector {
    kind: Kind,
    out: mpsc::Sender<Step>,
    max_samples: u64,
    total: Option<u64>,
    pack: Vec<u8>,
    packs: u32,
    seen: HashMap<Digest, usize>,
    samples: Vec<Taken>,
    labels: Labels,
    /// Whether the label of a row is a number to predict; found out when nothing is said.
    numeric: Option<bool>,
    /// The number that each row's label is, if it is one.
    targets: Vec<f64>,
    bytes: u64,
    images: Option<ImageFacts>,
    sounds: Option<SoundFacts>,
    skipped: Vec<Skipped>,
    skipped_total: u64,
    duplicates: u64,
    handled: u64,
}

impl Collector {
    pub(super) fn new(kind: Kind, out: mpsc::Sender<Step>, max_samples: u64) -> Self {
        Self {
            kind,
            out,
            max_samples,
            total: None,
            pack: Vec::new(),
            packs: 0,
            seen: HashMap::new(),
            samples: Vec::new(),
            labels: Labels::default(),
            numeric: None,
            targets: Vec::new(),
            bytes: 0,
            images: None,
            sounds: None,
            skipped: Vec::new(),
            skipped_total: 0,
            duplicates: 0,
            handled: 0,
        }
    }

    /// Says how many samples there will be.
    pub(super) fn expect(&mut self, samples: u64) {
        self.total = Some(self.total.unwrap_or(0) + samples);
    }

    /// Says whether the labels of rows are numbers to predict, instead of finding it out.
    pub(super) fn numeric(&mut self, numeric: Option<bool>) {
        self.numeric = numeric;
    }

    /// Takes a picture of a class.
    pub(super) fn picture(
        &mut self,
        at: Place<'_>,
        bytes: &[u8],
        shape: Shape,
        label: &str,
        given: Option<Split>,
    ) -> Result<()> {
        if self.labelled(at, bytes, label, given)? {
            self.shape(shape);
        }
        Ok(())
    }

    /// Takes a recording of a class.
    pub(super) fn sound(
        &mut self,
        at: Place<'_>,
        bytes: &[u8],
        recording: SoundFacts,
        label: &str,
        given: Option<Split>,
    ) -> Result<()> {
        if self.labelled(at, bytes, label, given)? {
            let facts = self.sounds.get_or_insert(recording);
            facts.min_ms = facts.min_ms.min(recording.min_ms);
            facts.max_ms = facts.max_ms.max(recording.max_ms);
            facts.min_rate = facts.min_rate.min(recording.min_rate);
            facts.max_rate = facts.max_rate.max(recording.max_rate);
        }
        Ok(())
    }

    /// Takes a picture and what is in it.
    pub(super) fn boxes(
        &mut self,
        at: Place<'_>,
        bytes: &[u8],
        shape: Shape,
        boxes: &[NamedBox],
        given: Option<Split>,
    ) -> Result<()> {
        let mut truths = Vec::with_capacity(boxes.len());
        for NamedBox { label, area, ignored } in boxes {
            match self.label(label) {
                Ok(label) => truths.push(TrueBox { label, area: *area, ignored: *ignored }),
                Err(reason) => return self.skip(at, reason),
            }
        }
        if self.sample(at, bytes, Truth::Boxes(truths), given)? {
            self.shape(shape);
        }
        Ok(())
    }

    /// Takes a row of a table.
    pub(super) fn row(&mut self, at: Place<'_>, bytes: &[u8], label: &str) -> Result<()> {
        let target = label.parse().ok().filter(|value: &f64| value.is_finite());
        let new = match (self.numeric, target) {
            (Some(true), None) => {
                return self.skip(at, format!("its target {label:?} is no finite number"));
            }
            (Some(true), Some(target)) => self.sample(at, bytes, Truth::Values(vec![target]), None)?,
            _ => self.labelled(at, bytes, label, None)?,
        };
        if new {
            self.targets.push(target.unwrap_or(f64::NAN));
        }
        Ok(())
    }

    fn shape(&mut self, Shape { width, height, grey }: Shape) {
        let facts = self.images.get_or_insert(ImageFacts {
            min_width: width,
            max_width: width,
            min_height: height,
            max_height: height,
            grey,
        });
        facts.min_width = facts.min_width.min(width);
        facts.max_width = facts.max_width.max(width);
        facts.min_height = facts.min_height.min(height);
        facts.max_height = facts.max_height.max(height);
        facts.grey &= grey;
    }

    /// Lists a sample that cannot be used.
    pub(super) fn skip(&mut self, at: Place<'_>, reason: impl Into<String>) -> Result<()> {
        self.skip_many(at, 1, reason)
    }

    /// Lists several of them that have one reason.
    pub(super) fn skip_many(&mut self, at: Place<'_>, count: u64, reason: impl Into<String>) -> Result<()> {
        if self.skipped.len() < SKIPPED_LISTED {
            let mut reason = reason.into();
            cut(&mut reason, limits::LABEL);
            let mut file = at.file.to_owned();
            cut(&mut file, limits::TEXT);
            self.skipped.push(Skipped { file, line: at.line, reason });
        }
        self.skipped_total += count;
        self.tell(count)
    }

    /// The number of a label, or why it can be none.
    fn label(&mut self, label: &str) -> Result<u32, String> {
        if label.is_empty() || label.len() > limits::LABEL {
            return Err(format!("its label has {} bytes; 1 to {} are possible", label.len(), limits::LABEL));
        }
        Ok(self.labels.intern(label))
    }

    /// Takes a sample of a class. Says whether it is new.
    fn labelled(&mut self, at: Place<'_>, bytes: &[u8], label: &str, given: Option<Split>) -> Result<bool> {
        match self.label(label) {
            Ok(label) => self.sample(at, bytes, Truth::Class(label), given),
            Err(reason) => self.skip(at, reason).map(|()| false),
        }
    }

    /// Takes a sample. Says whether it is new.
    fn sample(&mut self, at: Place<'_>, bytes: &[u8], truth: Truth, given: Option<Split>) -> Result<bool> {
        let digest = Digest::of(bytes);
        let index = match self.seen.entry(digest) {
            Entry::Vacant(free) => {
                free.insert(self.samples.len());
                None
            }
            Entry::Occupied(taken) => Some(*taken.get()),
        };
        if let Some(index) = index {
            self.again(at, index, &truth, given)?;
            return Ok(false);
        }
        if self.samples.len() as u64 == self.max_samples {
            let what = "the samples of one version (option max_samples)".to_owned();
            return Err(Error::TooLarge { what, size: self.max_samples + 1, bound: self.max_samples });
        }
        if !self.pack.is_empty() && self.pack.len() + bytes.len() > PACK_BYTES {
            self.send_pack()?;
        }
        let len = u32::try_from(bytes.len()).map_err(|_| Error::TooLarge {
            what: format!("the sample {}", at.file),
            size: bytes.len() as u64,
            bound: limits::PREDICT_INPUT as u64,
        })?;
        let offset = self.pack.len() as u32;
        self.pack.extend_from_slice(bytes);
        self.bytes += u64::from(len);
        self.samples.push(Taken { digest, truth, given, copies: 1, pack: self.packs, offset, len });
        self.tell(1)?;
        Ok(true)
    }

    /// The same content once more.
    fn again(&mut self, at: Place<'_>, index: usize, truth: &Truth, given: Option<Split>) -> Result<()> {
        let first = &mut self.samples[index];
        // A row holds its label, so that equal ones agree.
        if first.truth != *truth && self.kind != Kind::Table {
            let reason = match first.truth {
                Truth::Class(label) => {
                    let what = if self.kind == Kind::SoundClassification { "recording" } else { "picture" };
                    let label = self.labels.name(label);
                    format!("the same {what} was given the label {label:?} before; the first label stays")
                }
                _ => "the same picture was there before with other boxes; the first ones stay".to_owned(),
            };
            return self.skip(at, reason);
        }
        self.duplicates += 1;
        // What is held out once is held out: a measured sample must not be trained on.
        first.given = first.given.max(given);
        if self.kind == Kind::Table {
            first.copies = first.copies.saturating_add(1);
        }
        self.tell(1)
    }

    fn send_pack(&mut self) -> Result<()> {
        if self.packs as usize == PACKS {
            let bound = (PACKS * PACK_BYTES) as u64;
            return Err(Error::TooLarge { what: "bytes of one version".into(), size: self.bytes, bound });
        }
        let pack = std::mem::take(&mut self.pack);
        self.packs += 1;
        self.out.blocking_send(Step::Pack(pack)).map_err(|_| Error::Cancelled)
    }

    fn tell(&mut self, count: u64) -> Result<()> {
        let before = self.handled / PROGRESS_EVERY;
        self.handled += count;
        if self.handled / PROGRESS_EVERY == before {
            return Ok(());
        }
        let progress = ImportProgress { stage: ImportStage::Reading, done: self.handled, total: self.total };
        // A report that finds the channel full is followed by newer ones.
        match self.out.try_send(Step::Progress(progress)) {
            Err(mpsc::error::TrySendError::Closed(_)) => Err(Error::Cancelled),
            _ => Ok(()),
        }
    }

    /// Everything that was taken. `table` gives the shape of a table, its label not yet decided on.
    pub(super) fn finish(
        mut self,
        format: super::Format,
        table: Option<(TableFacts, Vec<Column>)>,
    ) -> Result<Collected> {
        if !self.pack.is_empty() {
            self.send_pack()?;
        }
        let numeric = self.kind == Kind::Table && self.numeric.unwrap_or_else(|| self.labels.is_target());
        let (classes, order) = if numeric { (Vec::new(), Vec::new()) } else { self.labels.sorted()? };
        if numeric {
            for (sample, target) in self.samples.iter_mut().zip(&self.targets) {
                sample.truth = Truth::Values(vec![*target]);
            }
        }
        let place = |label: &mut u32| *label = order.get(*label as usize).copied().unwrap_or(0);
        for sample in &mut self.samples {
            match &mut sample.truth {
                Truth::Class(label) => place(label),
                Truth::Labels(labels) => labels.iter_mut().for_each(place),
                Truth::Boxes(boxes) => boxes.iter_mut().map(|thing| &mut thing.label).for_each(place),
                Truth::Values(_) | Truth::Anomalous(_) => {}
            }
        }
        let table = table.map(|(facts, columns)| (TableFacts { numeric_label: numeric, ..facts }, columns));
        Ok(Collected {
            kind: self.kind,
            format,
            samples: self.samples,
            classes,
            bytes: self.bytes,
            images: self.images,
            sounds: self.sounds,
            table,
            skipped: self.skipped,
            skipped_total: self.skipped_total,
            duplicates: self.duplicates,
        })
    }
}

/// Something in a picture, as its source names it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct NamedBox {
    pub(super) label: String,
    /// Left, top, right and bottom edge in pixels.
    pub(super) area: [f32; 4],
    pub(super) ignored: bool,
}

/// What a picture looks like from outside.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) grey: bool,
}

/// Labels by number, in the order in which they came.
#[derive(Default)]
struct Labels {
    names: Vec<String>,
    numbers: HashMap<String, u32>,
    /// More than the bound have come.
    overflow: bool,
    /// A label has come that is no number.
    text: bool,
    /// A label has come that is no whole number.
    fraction: bool,
}

impl Labels {
    fn intern(&mut self, label: &str) -> u32 {
        if let Some(&number) = self.numbers.get(label) {
            return number;
        }
        self.text |= label.parse::<f64>().map_or(true, |value| !value.is_finite());
        self.fraction |= label.parse::<i64>().is_err();
        if self.names.len() == limits::LABELS {
            self.overflow = true;
            return 0;
        }
        let number = self.names.len() as u32;
        self.names.push(label.to_owned());
        self.numbers.insert(label.to_owned(), number);
        number
    }

    fn name(&self, number: u32) -> &str {
        self.names.get(number as usize).map_or("", String::as_str)
    }

    /// Whether a table's labels are numbers to predict: too many, or too fine, to be names.
    fn is_target(&self) -> bool {
        !self.text && (self.fraction || self.overflow || self.names.len() > NUMBER_CLASSES)
    }

    /// The class names in order (numbers as numbers), and the place of each number in it.
    fn sorted(&self) -> Result<(Vec<String>, Vec<u32>)> {
        if self.overflow {
            let bound = limits::LABELS as u64;
            return Err(Error::TooLarge { what: "different labels".into(), size: bound + 1, bound });
        }
        let mut numbers: Vec<u32> = (0..self.names.len() as u32).collect();
        numbers.sort_by_key(|&number| {
            let name = self.name(number);
            (name.parse::<i64>().ok().filter(|_| !self.fraction), name)
        });
        let mut order = vec![0; numbers.len()];
        for (place, &number) in numbers.iter().enumerate() {
            order[number as usize] = place as u32;
        }
        Ok((numbers.iter().map(|&number| self.name(number).to_owned()).collect(), order))
    }
}

/// Cuts a text to a bound, at a character.
fn cut(text: &mut String, bound: usize) {
    if text.len() > bound {
        text.truncate(text.floor_char_boundary(bound));
    }
}

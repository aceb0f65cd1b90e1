//! Takes samples one by one: packs them, finds duplicates, interns labels, lists what is bad.

use super::{ImportProgress, ImportStage, Skipped};
use crate::bounds::{NUMBER_CLASSES, PACK_BYTES, PACKS, SKIPPED_LISTED};
use crate::dataset::{Column, ImageFacts, Kind, Split, TableFacts};
use crate::error::{Error, Result};
use flotilla_protocol::{Digest, limits};
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
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taken {
    pub(crate) digest: Digest,
    pub(crate) label: u32,
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
    bytes: u64,
    images: Option<ImageFacts>,
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
            bytes: 0,
            images: None,
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

    /// Takes a picture.
    pub(super) fn picture(
        &mut self,
        at: Place<'_>,
        bytes: &[u8],
        shape: Shape,
        label: &str,
        given: Option<Split>,
    ) -> Result<()> {
        if self.sample(at, bytes, label, given)? {
            let Shape { width, height, grey } = shape;
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
        Ok(())
    }

    /// Takes a row of a table.
    pub(super) fn row(&mut self, at: Place<'_>, bytes: &[u8], label: &str) -> Result<()> {
        self.sample(at, bytes, label, None)?;
        Ok(())
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

    /// Takes a sample. Says whether it is new.
    fn sample(&mut self, at: Place<'_>, bytes: &[u8], label: &str, given: Option<Split>) -> Result<bool> {
        if label.is_empty() || label.len() > limits::LABEL {
            let reason = format!("its label has {} bytes; 1 to {} are possible", label.len(), limits::LABEL);
            self.skip(at, reason)?;
            return Ok(false);
        }
        let label = self.labels.intern(label);
        let digest = Digest::of(bytes);
        let index = match self.seen.entry(digest) {
            Entry::Vacant(free) => {
                free.insert(self.samples.len());
                None
            }
            Entry::Occupied(taken) => Some(*taken.get()),
        };
        if let Some(index) = index {
            self.again(at, index, label, given)?;
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
        self.samples.push(Taken { digest, label, given, copies: 1, pack: self.packs, offset, len });
        self.tell(1)?;
        Ok(true)
    }

    /// The same content once more.
    fn again(&mut self, at: Place<'_>, index: usize, label: u32, given: Option<Split>) -> Result<()> {
        let first = &mut self.samples[index];
        if first.label != label && self.kind == Kind::ImageClassification {
            let reason = format!(
                "the same picture was given the label {:?} before; the first label stays",
                self.labels.name(first.label)
            );
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
        let numeric = self.kind == Kind::Table && self.labels.is_target();
        let (classes, order) = if numeric { (Vec::new(), Vec::new()) } else { self.labels.sorted()? };
        for sample in &mut self.samples {
            sample.label = order.get(sample.label as usize).copied().unwrap_or(0);
        }
        let table = table.map(|(facts, columns)| (TableFacts { numeric_label: numeric, ..facts }, columns));
        Ok(Collected {
            kind: self.kind,
            format,
            samples: self.samples,
            classes,
            bytes: self.bytes,
            images: self.images,
            table,
            skipped: self.skipped,
            skipped_total: self.skipped_total,
            duplicates: self.duplicates,
        })
    }
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

//! From what was read to a version: split it, check that it is enough, list its samples.

use crate::bounds::SAMPLES_MIN;
use crate::dataset::{DatasetVersion, Kind, SourceFacts, Split, SplitCounts};
use crate::digits;
use crate::error::{Error, Result};
use crate::import::{Collected, ImportReport, ImportRequest, Skipped, Source};
use crate::sample_list::{self, Listed};
use crate::split::{self, Item};
use flotilla_identity::Actor;
use flotilla_protocol::{Digest, Truth, codec, limits};

/// A version before its commit.
pub(crate) struct Draft {
    pub(crate) version: DatasetVersion,
    skipped: Vec<Skipped>,
}

impl Draft {
    pub(crate) fn report(self, version: DatasetVersion, existing: bool) -> ImportReport {
        ImportReport {
            imported: version.samples,
            existing,
            skipped: self.skipped,
            skipped_total: self.version.skipped,
            duplicates: self.version.duplicates,
            version,
        }
    }
}

/// Splits what was read, and writes the sample list. Number, author and time come with the commit.
pub(crate) fn draft(
    request: &ImportRequest,
    read: Collected,
    packs: Vec<Digest>,
) -> Result<(Draft, Vec<u8>)> {
    let options = &request.options;
    let items: Vec<Item> = read
        .samples
        .iter()
        .map(|s| Item { digest: s.digest, label: class(&s.truth), copies: s.copies, given: s.given })
        .collect();
    let splits = split::assign(&items, options.ratios, options.seed);
    let counts = split::count(&items, &splits);
    check_size(request, &read, counts)?;
    let digest = content_digest(&read, &splits);
    let (table, columns) = read.table.unzip();
    let listed = read.samples.iter().zip(&splits).map(|(s, &split)| Listed {
        digest: s.digest,
        truth: &s.truth,
        split,
        copies: s.copies,
        pack: s.pack,
        offset: s.offset,
        len: s.len,
    });
    let list = sample_list::encode(packs, columns.unwrap_or_default(), listed)
        .map_err(|e| Error::unreadable(&digest, e))?;
    let bound = flotilla_storage::OBJECT_IN_MEMORY;
    if list.len() as u64 > bound {
        let what = format!("the sample list of {}", request.name);
        return Err(Error::TooLarge { what, size: list.len() as u64, bound });
    }
    let version = DatasetVersion {
        dataset: request.name.clone(),
        version: 0,
        kind: read.kind,
        created_at_ms: 0,
        created_by: Actor::system().id,
        samples: Split::ALL.iter().map(|&split| counts.of(split)).sum(),
        splits: counts,
        classes: read.classes,
        classes_object: None,
        bytes: read.bytes,
        images: read.images,
        sounds: read.sounds,
        table,
        source: SourceFacts {
            description: describe(&request.source),
            format: read.format,
            licence: licence(&request.source),
        },
        seed: options.seed,
        ratios: options.ratios,
        skipped: read.skipped_total,
        duplicates: read.duplicates,
        digest,
        list: Digest::of(&list),
        unlabelled: None,
    };
    Ok((Draft { version, skipped: read.skipped }, list))
}

/// The class by which splits are even; all samples that have none count as one.
fn class(truth: &Truth) -> u32 {
    match truth {
        Truth::Class(class) => *class,
        _ => 0,
    }
}

fn describe(source: &Source) -> String {
    match source {
        Source::BundledDigits => digits::DESCRIPTION.to_owned(),
        Source::Path(path) => path.display().to_string().chars().take(limits::TEXT).collect(),
    }
}

fn licence(source: &Source) -> Option<String> {
    match source {
        Source::BundledDigits => Some(digits::LICENCE.to_owned()),
        Source::Path(_) => None,
    }
}

fn check_size(request: &ImportRequest, read: &Collected, counts: SplitCounts) -> Result<()> {
    let refuse = |problem: String| Err(Error::TooSmall { dataset: request.name.clone(), problem });
    let skipped = read.skipped_total;
    let first = read.skipped.first().map_or(String::new(), |first| {
        let line = first.line.map_or(String::new(), |line| format!(", line {line}"));
        format!(" ({skipped} were skipped, the first: {}{line}: {})", first.file, first.reason)
    });
    let samples: u64 = Split::ALL.iter().map(|&split| counts.of(split)).sum();
    if samples < SAMPLES_MIN {
        return refuse(format!("{samples} samples, {SAMPLES_MIN} are needed{first}"));
    }
    let numeric = read.table.as_ref().is_some_and(|(facts, _)| facts.numeric_label);
    match read.classes.len() {
        0 if read.kind == Kind::ObjectDetection => return refuse(format!("no box in any picture{first}")),
        classes @ 0..2 if !numeric && read.kind != Kind::ObjectDetection => {
            return refuse(format!("{classes} class, two are needed{first}"));
        }
        _ => {}
    }
    let ratios = request.options.ratios;
    for (split, share) in
        [(Split::Validation, ratios.validation), (Split::Test, ratios.test), (Split::Train, 1.0)]
    {
        if share > 0.0 && counts.of(split) == 0 {
            return refuse(format!("no sample for the split {}{first}", split.as_str()));
        }
    }
    Ok(())
}

/// What a version means, whatever order and packs it came in.
fn content_digest(read: &Collected, splits: &[Split]) -> Digest {
    let mut order: Vec<usize> = (0..splits.len()).collect();
    order.sort_by_key(|&index| read.samples[index].digest);
    let mut hasher = Digest::hasher();
    let mut text = |text: &str| {
        hasher.update(&(text.len() as u64).to_be_bytes());
        hasher.update(text.as_bytes());
    };
    text(read.kind.as_str());
    if let Some((facts, columns)) = &read.table {
        text(&facts.label_name);
        columns.iter().for_each(|column| text(&column.name));
    }
    read.classes.iter().for_each(|class| text(class));
    for index in order {
        let sample = &read.samples[index];
        hasher.update(sample.digest.as_bytes());
        match &sample.truth {
            Truth::Class(class) => hasher.update(&class.to_be_bytes()),
            // A row holds its own target.
            Truth::Values(_) => hasher.update(&0_u32.to_be_bytes()),
            other => hasher.update(&codec::encode(other)),
        }
        hasher.update(&sample.copies.to_be_bytes());
        hasher.update(splits[index].as_str().as_bytes());
    }
    hasher.finish()
}

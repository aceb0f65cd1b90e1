//! The service: imports datasets and reads them.

use crate::bounds::{CLASSES_IN_RECORD, PACK_BYTES, UNLABELLED_MAX};
use crate::dataset::{Column, Dataset, DatasetVersion, SampleRef, Split};
use crate::draft::draft;
use crate::error::{Error, Result};
use crate::import::{self, Collected, ImportProgress, ImportReport, ImportRequest, ImportStage, Step};
use crate::input::InputForm;
use crate::quarantine::Medium;
use crate::sample_file::SampleFileWriter;
use crate::sample_list::SampleList;
use crate::sample_set::SampleSet;
use crate::staging::Staging;
use crate::unlabelled::{self, UnlabelledRef};
use bytes::Bytes;
use flotilla_identity::{Actor, Permission, audit};
use flotilla_protocol::{DatasetName, Digest};
use flotilla_storage::{Batch, Collection, Objects, PAGE_ENTITIES, Records};
use serde_json::json;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::{Mutex, mpsc};

/// Packs that wait between reading and storing.
const PACKS_AHEAD: usize = 2;
/// How often a commit is tried again because somebody else made a version in between.
const ATTEMPTS: usize = 5;

/// The datasets of a project. Clones share it.
#[derive(Clone)]
pub struct Datasets {
    pub(crate) records: Arc<dyn Records>,
    pub(crate) objects: Objects,
    datasets: Collection<Dataset>,
    versions: Collection<DatasetVersion>,
    pub(crate) sample_sets: Collection<SampleSet>,
    /// Held by the import that runs: see [`Staging`].
    importing: Arc<Mutex<()>>,
}

impl std::fmt::Debug for Datasets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Datasets").finish_non_exhaustive()
    }
}

impl Datasets {
    /// The datasets kept in these records and objects.
    pub fn new(records: Arc<dyn Records>, objects: Objects) -> Self {
        Self {
            datasets: Collection::new(Arc::clone(&records)),
            versions: Collection::new(Arc::clone(&records)),
            sample_sets: Collection::new(Arc::clone(&records)),
            records,
            objects,
            importing: Arc::default(),
        }
    }

    /// Removes what an import left that was killed. Once, before the first import.
    pub async fn tidy(&self) -> Result<()> {
        let _turn = self.importing.lock().await;
        Staging::begin(&*self.records, &self.objects).await.map(drop)
    }

    /// Imports data as a new version. Content that the dataset holds already, with the same split, gives the
    /// version that holds it. One import runs at a time; a failed one leaves nothing behind.
    pub async fn import(
        &self,
        actor: &Actor,
        request: ImportRequest,
        progress: &mut (dyn FnMut(ImportProgress) + Send),
        now_ms: u64,
    ) -> Result<ImportReport> {
        request.options.check()?;
        let _turn = self.importing.lock().await;
        let mut staging = Staging::begin(&*self.records, &self.objects).await?;
        let result = self.import_staged(actor, request, progress, now_ms, &mut staging).await;
        // Content that was there before may have come in other packs.
        if !result.as_ref().is_ok_and(|report| !report.existing) {
            staging.discard().await;
        }
        let report = result?;
        let samples = report.imported;
        progress(ImportProgress { stage: ImportStage::Done, done: samples, total: Some(samples) });
        Ok(report)
    }

    async fn import_staged(
        &self,
        actor: &Actor,
        request: ImportRequest,
        progress: &mut (dyn FnMut(ImportProgress) + Send),
        now_ms: u64,
        staging: &mut Staging<'_>,
    ) -> Result<ImportReport> {
        let request = Arc::new(request);
        let (packs, collected) = self.read(&request, progress, staging).await?;
        let samples = collected.samples.len() as u64;
        progress(ImportProgress { stage: ImportStage::Finishing, done: 0, total: Some(samples) });
        let finishing = Arc::clone(&request);
        let (mut made, list) = blocking(move || draft(&finishing, collected, packs)).await??;
        let list = Bytes::from(list);
        self.carry_unlabelled(&mut made.version, &list, staging).await?;
        if let Some(version) = self.find_content(&request.name, &made.version.digest).await? {
            return Ok(made.report(version, true));
        }
        made.version.list = staging.put(list).await?;
        made.version.created_by = actor.id.clone();
        made.version.created_at_ms = now_ms;
        let mut stored = made.version.clone();
        let classes = serde_json::to_vec(&stored.classes).map_err(|e| Error::unreadable(&stored.list, e))?;
        if classes.len() > CLASSES_IN_RECORD {
            stored.classes_object = Some(staging.put(classes.into()).await?);
            stored.classes = Vec::new();
        }
        for _ in 0..ATTEMPTS {
            let committed = self.commit(actor, &mut stored, staging, now_ms).await;
            match committed {
                Err(Error::Storage(flotilla_storage::Error::PreconditionFailed { .. })) => {
                    if let Some(version) = self.find_content(&request.name, &stored.digest).await? {
                        return Ok(made.report(version, true));
                    }
                }
                committed => {
                    committed?;
                    let classes = std::mem::take(&mut made.version.classes);
                    return Ok(made.report(DatasetVersion { classes, ..stored }, false));
                }
            }
        }
        Err(Error::Contended { dataset: request.name.clone() })
    }

    /// Reads the source on a blocking thread and stores its packs as they come.
    async fn read(
        &self,
        request: &Arc<ImportRequest>,
        progress: &mut (dyn FnMut(ImportProgress) + Send),
        staging: &mut Staging<'_>,
    ) -> Result<(Vec<Digest>, Collected)> {
        let (out, mut steps) = mpsc::channel(PACKS_AHEAD);
        let reading = Arc::clone(request);
        let reader = tokio::task::spawn_blocking(move || import::read(&reading, out));
        let mut packs = Vec::new();
        while let Some(step) = steps.recv().await {
            match step {
                Step::Progress(report) => progress(report),
                // On a failure the channel closes, which stops the reader.
                Step::Pack(pack) => packs.push(staging.put(pack.into()).await?),
            }
        }
        Ok((packs, joined(reader.await)??))
    }

    /// Commits a version under the next number, with its audit record, or nothing.
    async fn commit(
        &self,
        actor: &Actor,
        version: &mut DatasetVersion,
        staging: &mut Staging<'_>,
        now_ms: u64,
    ) -> Result<()> {
        let mut batch = Batch::new();
        let name = &version.dataset;
        let held = self.datasets.get(name.as_str()).await?;
        version.version = held.as_ref().map_or(0, |held| held.value.latest_version) + 1;
        match held {
            Some(held) if held.value.kind != version.kind => {
                let (held, given) = (held.value.kind.as_str(), version.kind.as_str());
                return Err(Error::KindDiffers { dataset: name.clone(), held, given });
            }
            Some(held) => {
                let latest_version = version.version;
                self.datasets.update(&mut batch, &held, &Dataset { latest_version, ..held.value.clone() })?;
            }
            None => self.datasets.insert(
                &mut batch,
                &Dataset {
                    name: name.clone(),
                    kind: version.kind,
                    created_at_ms: now_ms,
                    created_by: actor.id.clone(),
                    latest_version: version.version,
                },
            )?,
        }
        self.versions.insert(&mut batch, version)?;
        let subject = format!("dataset/{name}/{}", version.version);
        let detail = json!({
            "digest": version.digest, "samples": version.samples, "skipped": version.skipped,
            "source": version.source.description,
        });
        let action = Permission::DatasetImport.as_str();
        audit::record(&mut batch, actor, action, &subject, detail, now_ms)?;
        staging.settle(batch).await
    }

    /// What nobody has labelled yet in the newest version goes on into the next, as far as that has it without a label.
    async fn carry_unlabelled(
        &self,
        made: &mut DatasetVersion,
        list: &Bytes,
        staging: &mut Staging<'_>,
    ) -> Result<()> {
        let Some(dataset) = self.datasets.get(made.dataset.as_str()).await? else { return Ok(()) };
        let latest = self.version(&made.dataset, Some(dataset.value.latest_version)).await?;
        let mut samples = self.unlabelled(&latest).await?;
        if samples.is_empty() {
            return Ok(());
        }
        let (digest, list) = (made.list, list.clone());
        let labelled: HashSet<Digest> = blocking(move || {
            let list = SampleList::open(digest, list)?;
            list.samples().map(|sample| sample.map(|sample| sample.digest)).collect::<Result<_>>()
        })
        .await??;
        samples.retain(|sample| !labelled.contains(&sample.digest));
        self.put_unlabelled(made, &samples, staging).await
    }

    async fn put_unlabelled(
        &self,
        version: &mut DatasetVersion,
        samples: &[UnlabelledRef],
        staging: &mut Staging<'_>,
    ) -> Result<()> {
        let list = unlabelled::encode(samples).map_err(|e| Error::unreadable(&version.digest, e))?;
        let list = if samples.is_empty() { Digest::of(&list) } else { staging.put(list.into()).await? };
        version.set_unlabelled(samples, list);
        Ok(())
    }

    /// Adds samples without a label to the newest version of a dataset, as a new version; those that it has already are
    /// left out, and without any other there is no new version. `settle` adds to the batch that makes the version, whose
    /// number it is told. `read` gives the bytes of a sample. An import can take an hour, so this never waits for one.
    pub(crate) async fn add_unlabelled(
        &self,
        actor: &Actor,
        name: &DatasetName,
        new: &[(Digest, Medium)],
        read: impl Fn(&Digest) -> Result<Vec<u8>> + Clone + Send + 'static,
        settle: impl FnOnce(&mut Batch, u32) -> Result<()> + Send,
        now_ms: u64,
    ) -> Result<u32> {
        let _turn = self.importing.try_lock().map_err(|_| Error::Importing)?;
        let mut staging = Staging::begin(&*self.records, &self.objects).await?;
        let added = self.add_unlabelled_staged(actor, name, new, read, settle, now_ms, &mut staging).await;
        if added.is_err() {
            staging.discard().await;
        }
        added
    }

    #[expect(clippy::too_many_arguments, reason = "one caller, which passes its own on")]
    async fn add_unlabelled_staged(
        &self,
        actor: &Actor,
        name: &DatasetName,
        new: &[(Digest, Medium)],
        read: impl Fn(&Digest) -> Result<Vec<u8>> + Clone + Send + 'static,
        settle: impl FnOnce(&mut Batch, u32) -> Result<()> + Send,
        now_ms: u64,
        staging: &mut Staging<'_>,
    ) -> Result<u32> {
        let missing = || Error::NotFound { what: format!("the dataset {name}") };
        let dataset = self.datasets.get(name.as_str()).await?.ok_or_else(missing)?;
        if let Some((_, other)) = new.iter().find(|(_, medium)| !medium.fits(dataset.value.kind)) {
            let (held, given) = (dataset.value.kind.as_str(), other.as_str());
            return Err(Error::KindDiffers { dataset: name.clone(), held, given });
        }
        let number = dataset.value.latest_version;
        let mut version =
            self.versions.get(DatasetVersion::id_of(name, number)).await?.ok_or_else(missing)?.value;
        let mut samples = self.unlabelled(&version).await?;
        let mut known: HashSet<Digest> = samples.iter().map(|sample| sample.digest).collect();
        known.extend(self.samples(&version, None).await?.iter().map(|sample| sample.digest));
        let new: Vec<Digest> =
            new.iter().map(|(digest, _)| *digest).filter(|digest| known.insert(*digest)).collect();
        let mut batch = Batch::new();
        if new.is_empty() {
            settle(&mut batch, number)?;
            staging.settle(batch).await?;
            return Ok(number);
        }
        let size = samples.len() as u64 + new.len() as u64;
        if size > UNLABELLED_MAX {
            let what = format!("the unlabelled samples of {name}");
            return Err(Error::TooLarge { what, size, bound: UNLABELLED_MAX });
        }
        let (mut pack, mut places) = (Vec::new(), Vec::new());
        for (index, digest) in new.iter().enumerate() {
            let (read, digest) = (read.clone(), *digest);
            let bytes = blocking(move || read(&digest)).await??;
            places.push((digest, pack.len() as u32, bytes.len() as u32));
            pack.extend(bytes);
            if pack.len() >= PACK_BYTES || index + 1 == new.len() {
                let pack = staging.put(std::mem::take(&mut pack).into()).await?;
                let place = |(digest, offset, len)| UnlabelledRef { digest, pack, offset, len };
                samples.extend(places.drain(..).map(place));
            }
        }
        self.put_unlabelled(&mut version, &samples, staging).await?;
        version.version = number + 1;
        (version.created_by, version.created_at_ms) = (actor.id.clone(), now_ms);
        let latest = Dataset { latest_version: version.version, ..dataset.value.clone() };
        self.datasets.update(&mut batch, &dataset, &latest)?;
        self.versions.insert(&mut batch, &version)?;
        settle(&mut batch, version.version)?;
        staging.settle(batch).await?;
        Ok(version.version)
    }

    /// The samples of a version that have no label, in the order in which they are stored.
    pub async fn unlabelled(&self, version: &DatasetVersion) -> Result<Vec<UnlabelledRef>> {
        let Some(unlabelled) = version.unlabelled else { return Ok(Vec::new()) };
        let bytes = self.objects.get(&unlabelled.list).await?;
        blocking(move || unlabelled::decode(&unlabelled.list, &bytes)).await?
    }

    /// The bytes of a sample without a label, checked: an encoded picture, a recording, or a row as a JSON object.
    pub async fn unlabelled_bytes(&self, version: &DatasetVersion, digest: &Digest) -> Result<Bytes> {
        let found = self.unlabelled(version).await?.into_iter().find(|sample| sample.digest == *digest);
        let what = || format!("the sample {digest} of {}/{}", version.dataset, version.version);
        let sample = found.ok_or_else(|| Error::NotFound { what: what() })?;
        let bytes =
            self.objects.read_range(&sample.pack, u64::from(sample.offset), sample.len as usize).await?;
        check_bytes(&sample.digest, &sample.pack, &bytes)?;
        Ok(bytes)
    }

    async fn find_content(&self, name: &DatasetName, digest: &Digest) -> Result<Option<DatasetVersion>> {
        let content = DatasetVersion::content_of(name, digest);
        match self.versions.find_unique("content", content).await? {
            Some(found) => Ok(Some(self.with_classes(found.value).await?)),
            None => Ok(None),
        }
    }

    /// Datasets in the order of their names, behind `after`; at most 500.
    pub async fn list(&self, after: Option<&DatasetName>, limit: usize) -> Result<Vec<Dataset>> {
        let after = after.map(|name| name.as_str().as_bytes());
        let page = self.datasets.list(after, limit).await?;
        Ok(page.items.into_iter().map(|item| item.value).collect())
    }

    /// One dataset.
    pub async fn get(&self, name: &DatasetName) -> Result<Dataset> {
        let found = self.datasets.get(name.as_str()).await?;
        found.map(|found| found.value).ok_or_else(|| Error::NotFound { what: format!("the dataset {name}") })
    }

    /// The newest versions of a dataset, oldest first; at most 500. Class names that are too many for a record
    /// are left out here.
    pub async fn versions(&self, name: &DatasetName) -> Result<Vec<DatasetVersion>> {
        self.get(name).await?;
        let prefix = DatasetVersion::ids_of(name);
        let mut all = std::collections::VecDeque::new();
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = self.versions.list_prefix(&prefix, after.as_deref(), PAGE_ENTITIES).await?;
            all.extend(page.items.into_iter().map(|item| item.value));
            while all.len() > PAGE_ENTITIES {
                all.pop_front();
            }
            match page.next {
                None => return Ok(all.into()),
                next => after = next,
            }
        }
    }

    /// One version; the newest when no number is given.
    pub async fn version(&self, name: &DatasetName, version: Option<u32>) -> Result<DatasetVersion> {
        let number = match version {
            Some(number) => number,
            None => self.get(name).await?.latest_version,
        };
        let found = self.versions.get(DatasetVersion::id_of(name, number)).await?;
        let missing = || Error::NotFound { what: format!("version {number} of the dataset {name}") };
        self.with_classes(found.ok_or_else(missing)?.value).await
    }

    /// The samples of a version, or of one of its splits, in the order in which they are stored.
    pub async fn samples(&self, version: &DatasetVersion, split: Option<Split>) -> Result<Vec<SampleRef>> {
        let list = self.sample_list(version).await?;
        blocking(move || {
            let wanted = |sample: &Result<SampleRef>| {
                sample.as_ref().map_or(true, |sample| split.is_none_or(|split| sample.split == split))
            };
            list.samples().filter(wanted).collect()
        })
        .await?
    }

    /// The sample with this digest.
    pub async fn sample(&self, version: &DatasetVersion, digest: &Digest) -> Result<SampleRef> {
        let digest = *digest;
        let list = self.sample_list(version).await?;
        let found = blocking(move || {
            list.samples().find(|sample| sample.as_ref().map_or(true, |sample| sample.digest == digest))
        });
        let what = || format!("the sample {digest} of {}/{}", version.dataset, version.version);
        found.await?.unwrap_or_else(|| Err(Error::NotFound { what: what() }))
    }

    /// The bytes of a sample, checked: an encoded picture, or the cells of a row as a JSON array.
    pub async fn sample_bytes(&self, sample: &SampleRef) -> Result<Bytes> {
        let bytes =
            self.objects.read_range(&sample.pack, u64::from(sample.offset), sample.len as usize).await?;
        check_sample(sample, &bytes)?;
        Ok(bytes)
    }

    /// Passes the bytes of many samples, checked. Quick for samples in the order of [`Datasets::samples`]:
    /// each pack is read once.
    pub async fn read_samples(
        &self,
        samples: &[SampleRef],
        mut take: impl FnMut(&SampleRef, Bytes) -> Result<()>,
    ) -> Result<()> {
        let mut pack: Option<(Digest, Bytes)> = None;
        for sample in samples {
            let bytes = match &pack {
                Some((digest, bytes)) if *digest == sample.pack => bytes.clone(),
                _ => {
                    let bytes = self.objects.get(&sample.pack).await?;
                    pack = Some((sample.pack, bytes.clone()));
                    bytes
                }
            };
            let start = sample.offset as usize;
            let end = start.saturating_add(sample.len as usize).min(bytes.len());
            let bytes = bytes.slice(start.min(end)..end);
            check_sample(sample, &bytes)?;
            take(sample, bytes)?;
        }
        Ok(())
    }

    /// Writes a split as one file, as models get it, for [`crate::SampleFile`] to read. Rows that a table has more than once are
    /// written as often. Returns the number of samples.
    pub async fn write_split(&self, version: &DatasetVersion, split: Split, path: &Path) -> Result<u64> {
        let samples = self.samples(version, Some(split)).await?;
        let form = self.input_form(version).await?;
        let target: PathBuf = path.to_path_buf();
        let mut file = blocking(move || SampleFileWriter::create(&target)).await??;
        let mut written = 0;
        self.read_samples(&samples, |sample, bytes| {
            let (truth, input) = (form.truth(&sample.truth, &bytes)?, form.input(bytes)?);
            for _ in 0..sample.copies {
                file.add(&truth, &input)?;
                written += 1;
            }
            Ok(())
        })
        .await?;
        blocking(move || file.finish()).await??;
        Ok(written)
    }

    /// How the samples of a version become inputs of models.
    pub async fn input_form(&self, version: &DatasetVersion) -> Result<InputForm> {
        let columns = if version.table.is_some() { self.columns(version).await? } else { Vec::new() };
        Ok(InputForm::new(version, &columns))
    }

    /// The columns of a table; none for pictures.
    pub async fn columns(&self, version: &DatasetVersion) -> Result<Vec<Column>> {
        Ok(self.sample_list(version).await?.into_columns())
    }

    async fn sample_list(&self, version: &DatasetVersion) -> Result<SampleList> {
        SampleList::open(version.list, self.objects.get(&version.list).await?)
    }

    async fn with_classes(&self, mut version: DatasetVersion) -> Result<DatasetVersion> {
        if let Some(digest) = version.classes_object {
            let bytes = self.objects.get(&digest).await?;
            version.classes = serde_json::from_slice(&bytes).map_err(|e| Error::unreadable(&digest, e))?;
        }
        Ok(version)
    }
}

fn check_sample(sample: &SampleRef, bytes: &Bytes) -> Result<()> {
    check_bytes(&sample.digest, &sample.pack, bytes)
}

fn check_bytes(digest: &Digest, pack: &Digest, bytes: &Bytes) -> Result<()> {
    if Digest::of(bytes) == *digest {
        return Ok(());
    }
    let problem = format!("its bytes in the pack {pack} are others");
    Err(Error::Damaged { what: "sample", digest: *digest, problem })
}

pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    joined(tokio::task::spawn_blocking(work).await)
}

pub(crate) fn joined<T>(result: Result<T, tokio::task::JoinError>) -> Result<T> {
    match result {
        Ok(value) => Ok(value),
        Err(failed) if failed.is_panic() => std::panic::resume_unwind(failed.into_panic()),
        Err(_) => Err(Error::Cancelled),
    }
}

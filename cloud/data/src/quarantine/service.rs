//! Takes hard examples in, lists them, and does what an operator decides.

use super::example::{ExampleState, Quarantined, Received};
use super::files::Files;
use crate::bounds::{QUARANTINE_BYTES, QUARANTINE_DECIDE, QUARANTINE_RECORDS, REMEMBERED_MS};
use crate::datasets::{Datasets, blocking};
use crate::error::{Error, Result};
use crate::import::look_into;
use bytes::Bytes;
use flotilla_identity::{Actor, Permission, audit};
use flotilla_protocol::message::{HardExample, HardExamples, Upload};
use flotilla_protocol::{DatasetName, DeviceId, Digest};
use flotilla_storage::{Batch, Collection, PAGE_ENTITIES, Records, RecordsConfig};
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::{Mutex, Semaphore};

/// Days of a device may begin at another time than here, so two of its days may fall into one of ours.
const DAYS_AT_ONCE: u64 = 2;
const DAY_MS: u64 = 24 * 3_600 * 1_000;

/// Hard examples of the whole fleet. Clones share it.
#[derive(Clone)]
pub struct Quarantine {
    records: Arc<dyn Records>,
    examples: Collection<Quarantined>,
    received: Collection<Received>,
    datasets: Datasets,
    files: Files,
    /// How much there is.
    held: Arc<Mutex<Held>>,
    /// A picture can take much memory while it is looked into.
    looking: Arc<Semaphore>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Held {
    /// Records, whatever their state.
    records: usize,
    /// Bytes of pictures that nobody has decided on.
    bytes: u64,
}

/// What became of a decision.
#[derive(Clone, Debug, PartialEq)]
pub struct Decided {
    /// The examples that were decided on.
    pub examples: Vec<Quarantined>,
    /// The version of the dataset that has them, if they were accepted.
    pub version: Option<u32>,
}

impl std::fmt::Debug for Quarantine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Quarantine").finish_non_exhaustive()
    }
}

impl Quarantine {
    /// Opens the quarantine in this folder, after removing what a kill left behind.
    pub async fn open(
        records: Arc<dyn Records>,
        datasets: Datasets,
        folder: PathBuf,
        now_ms: u64,
    ) -> Result<Self> {
        let files = blocking(move || Files::open(folder)).await??;
        let quarantine = Self {
            examples: Collection::new(Arc::clone(&records)),
            received: Collection::new(Arc::clone(&records)),
            records,
            datasets,
            files,
            held: Arc::default(),
            looking: Arc::new(Semaphore::new(1)),
        };
        quarantine.tidy(now_ms).await?;
        Ok(quarantine)
    }

    /// Counts what is there, forgets decisions of long ago, and removes files that belong to nothing.
    async fn tidy(&self, now_ms: u64) -> Result<()> {
        let mut held = self.held.lock().await;
        *held = Held::default();
        let mut kept = std::collections::HashSet::new();
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = self.examples.list(after.as_deref(), PAGE_ENTITIES).await?;
            let mut batch = Batch::new();
            for item in &page.items {
                match item.value.state.decided_ms() {
                    Some(at_ms) if at_ms.saturating_add(REMEMBERED_MS) < now_ms => {
                        self.examples.delete(&mut batch, item)?;
                        continue;
                    }
                    Some(_) => {}
                    None => {
                        held.bytes += item.value.bytes;
                        kept.insert(item.value.digest);
                    }
                }
                held.records += 1;
            }
            if !batch.is_empty() {
                self.records.commit(batch).await?;
            }
            match page.next {
                None => break,
                next => after = next,
            }
        }
        let files = self.files.clone();
        blocking(move || files.tidy(|digest| kept.contains(digest))).await?
    }

    // === what devices send ===

    /// A device offers an example. Says how many bytes of it are here durably: all, if it needs to send none.
    pub async fn offer(
        &self,
        device: &DeviceId,
        example: &HardExample,
        policy: &HardExamples,
        (digest, total): (Digest, u64),
        now_ms: u64,
    ) -> Result<u64> {
        if self.examples.get(digest.as_bytes()).await?.is_some() {
            return Ok(total);
        }
        let held = *self.held.lock().await;
        if held.records >= QUARANTINE_RECORDS || held.bytes.saturating_add(total) > QUARANTINE_BYTES {
            return Err(Error::QuarantineFull);
        }
        let (files, of) = (self.files.clone(), device.clone());
        let received = blocking(move || files.received(&of, &digest)).await??;
        if received < total {
            return Ok(received);
        }
        // Whole and yet not taken in: a kill came in between.
        match self.take_in(device, digest, example, policy, now_ms).await {
            Ok(()) => Ok(total),
            // What was not acknowledged may be torn: it begins anew.
            Err(Error::DigestDiffers { .. }) => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// A piece of an example that was offered came. Says how many bytes are here durably; the example is taken in when
    /// that is all of it.
    pub async fn receive(
        &self,
        device: &DeviceId,
        example: &HardExample,
        policy: &HardExamples,
        upload: Upload,
        now_ms: u64,
    ) -> Result<u64> {
        let (digest, total, end) = (upload.digest, upload.total, upload.offset + upload.data.len() as u64);
        let (files, of) = (self.files.clone(), device.clone());
        let received = blocking(move || files.received(&of, &digest)).await??;
        if received != upload.offset {
            return Ok(received.min(total.saturating_sub(1)));
        }
        self.count(device, example, policy, upload.data.len() as u64, now_ms).await?;
        let (files, of) = (self.files.clone(), device.clone());
        blocking(move || {
            let free = flotilla_storage::free_bytes(files.root())?;
            if free < RecordsConfig::default().reserve_bytes.saturating_add(upload.data.len() as u64) {
                return Err(Error::QuarantineFull);
            }
            files.append(&of, &digest, &upload.data)
        })
        .await??;
        if end == total {
            self.take_in(device, digest, example, policy, now_ms).await?;
        }
        Ok(end)
    }

    /// Counts bytes that came before they are kept, within twice the budget that the device has.
    async fn count(
        &self,
        device: &DeviceId,
        example: &HardExample,
        policy: &HardExamples,
        bytes: u64,
        now_ms: u64,
    ) -> Result<()> {
        let day = now_ms / DAY_MS;
        let found = self.received.get(Received::id_of(device, &example.model)).await?;
        let before =
            found.as_ref().filter(|found| found.value.day == day).map_or(0, |found| found.value.bytes);
        let bytes = before.saturating_add(bytes);
        if bytes > policy.daily_bytes.saturating_mul(DAYS_AT_ONCE) {
            return Err(Error::OverDailyBytes { device: device.clone(), bound: policy.daily_bytes });
        }
        let (device, model) = (device.clone(), example.model.clone());
        let (received, mut batch) = (Received { device, model, day, bytes }, Batch::new());
        match &found {
            Some(found) => self.received.update(&mut batch, found, &received)?,
            None => self.received.insert(&mut batch, &received)?,
        }
        self.records.commit(batch).await?;
        Ok(())
    }

    /// Checks a complete upload and records it. One that is not what it should be is thrown away.
    async fn take_in(
        &self,
        device: &DeviceId,
        digest: Digest,
        example: &HardExample,
        policy: &HardExamples,
        now_ms: u64,
    ) -> Result<()> {
        let (files, of) = (self.files.clone(), device.clone());
        let looked = blocking(move || {
            let bytes = files.read_part(&of, &digest)?;
            let problem = match look_into(&bytes) {
                _ if Digest::of(&bytes) != digest => Error::DigestDiffers { digest },
                Ok((width, height)) => return Ok((bytes.len() as u64, width, height)),
                Err(problem) => Error::NoPicture { digest, problem },
            };
            files.remove_part(&of, &digest)?;
            Err(problem)
        });
        let (bytes, width, height) = {
            let _turn = self.looking.acquire().await.map_err(|_| Error::Cancelled)?;
            looked.await??
        };
        let mut held = self.held.lock().await;
        let (files, of) = (self.files.clone(), device.clone());
        if self.examples.get(digest.as_bytes()).await?.is_some() {
            // Another device was faster.
            return blocking(move || files.remove_part(&of, &digest)).await?;
        }
        blocking(move || files.settle(&of, &digest)).await??;
        let taken = Quarantined {
            digest,
            bytes,
            width,
            height,
            device: device.clone(),
            example: example.clone(),
            dataset: policy.dataset.clone(),
            received_at_ms: now_ms,
            state: ExampleState::Quarantined,
        };
        let mut batch = Batch::new();
        self.examples.insert(&mut batch, &taken)?;
        self.records.commit(batch).await?;
        held.records += 1;
        held.bytes += bytes;
        Ok(())
    }

    // === what people see and decide ===

    /// A page of the examples in this state, or of all, behind `after`, in the order of their digests; and where the
    /// next page goes on.
    pub async fn list(
        &self,
        state: Option<&str>,
        after: Option<&Digest>,
        limit: usize,
    ) -> Result<(Vec<Quarantined>, Option<Digest>)> {
        let after = after.map(|digest| &digest.as_bytes()[..]);
        let page = match state {
            Some(state) => self.examples.lookup("state", state, after, limit).await?,
            None => self.examples.list(after, limit).await?,
        };
        let next = page.next.and_then(|id| <[u8; 32]>::try_from(&id[..]).ok()).map(Digest::from_bytes);
        Ok((page.items.into_iter().map(|item| item.value).collect(), next))
    }

    /// One example.
    pub async fn get(&self, digest: &Digest) -> Result<Quarantined> {
        let found = self.examples.get(digest.as_bytes()).await?;
        found.map(|found| found.value).ok_or_else(|| missing(digest))
    }

    /// The picture of an example that nobody has decided on.
    pub async fn picture(&self, digest: &Digest) -> Result<Bytes> {
        self.undecided(&[*digest]).await?;
        let (files, digest) = (self.files.clone(), *digest);
        Ok(blocking(move || files.read_picture(&digest)).await??.into())
    }

    /// Makes examples unlabelled samples of a dataset: of the one that is named, or of the one that their device's policy
    /// named. All of them in one new version, or none.
    pub async fn accept(
        &self,
        actor: &Actor,
        digests: &[Digest],
        dataset: Option<&DatasetName>,
        now_ms: u64,
    ) -> Result<Decided> {
        let found = self.undecided(digests).await?;
        let dataset = match dataset {
            Some(dataset) => dataset.clone(),
            None => {
                let mut named = found.iter().map(|found| found.value.dataset.as_ref());
                let first = named.next().flatten().cloned();
                let first = first.filter(|first| named.all(|other| other == Some(first)));
                first.ok_or(Error::Option {
                    option: "dataset",
                    problem: "the policies of these examples do not name one: name it".into(),
                })?
            }
        };
        let (files, mut examples) = (self.files.clone(), Vec::with_capacity(found.len()));
        let read = move |digest: &Digest| files.read_picture(digest);
        let settle = |batch: &mut Batch, version: u32| {
            for found in &found {
                let state = ExampleState::Accepted {
                    dataset: dataset.clone(),
                    version,
                    at_ms: now_ms,
                    by: actor.id.clone(),
                };
                let accepted = Quarantined { state, ..found.value.clone() };
                self.examples.update(batch, found, &accepted)?;
                examples.push(accepted);
            }
            let detail = json!({ "accepted": found.len(), "dataset": dataset, "version": version });
            let subject = format!("dataset/{dataset}/{version}");
            audit::record(batch, actor, Permission::ExampleReview.as_str(), &subject, detail, now_ms)?;
            Ok(())
        };
        let pictures: Vec<Digest> = found.iter().map(|found| found.value.digest).collect();
        let version = self.datasets.add_unlabelled(actor, &dataset, &pictures, read, settle, now_ms).await?;
        self.let_go(&examples).await;
        Ok(Decided { examples, version: Some(version) })
    }

    /// Deletes the bytes of examples; their digests are remembered.
    pub async fn reject(&self, actor: &Actor, digests: &[Digest], now_ms: u64) -> Result<Decided> {
        let found = self.undecided(digests).await?;
        let (mut batch, mut examples) = (Batch::new(), Vec::with_capacity(found.len()));
        for found in &found {
            let state = ExampleState::Rejected { at_ms: now_ms, by: actor.id.clone() };
            let rejected = Quarantined { state, ..found.value.clone() };
            self.examples.update(&mut batch, found, &rejected)?;
            examples.push(rejected);
        }
        let detail = json!({ "rejected": examples.len() });
        let action = Permission::ExampleReview.as_str();
        audit::record(&mut batch, actor, action, "hard-examples", detail, now_ms)?;
        self.records.commit(batch).await?;
        self.let_go(&examples).await;
        Ok(Decided { examples, version: None })
    }

    /// Removes the bytes of examples that were decided on. What cannot be removed now goes with the next start.
    async fn let_go(&self, examples: &[Quarantined]) {
        let mut held = self.held.lock().await;
        for example in examples {
            held.bytes = held.bytes.saturating_sub(example.bytes);
            let (files, digest) = (self.files.clone(), example.digest);
            if let Err(error) = blocking(move || files.remove_picture(&digest)).await.flatten() {
                tracing::warn!(%digest, %error, "a decided example stays on the disk until the next start");
            }
        }
    }

    /// The records of examples that nobody has decided on.
    async fn undecided(&self, digests: &[Digest]) -> Result<Vec<flotilla_storage::Versioned<Quarantined>>> {
        if digests.is_empty() || digests.len() > QUARANTINE_DECIDE {
            let problem =
                format!("1 to {QUARANTINE_DECIDE} can be decided on at once, not {}", digests.len());
            return Err(Error::Option { option: "examples", problem });
        }
        let mut all: Vec<flotilla_storage::Versioned<Quarantined>> = Vec::with_capacity(digests.len());
        for digest in digests {
            let found = self.examples.get(digest.as_bytes()).await?.ok_or_else(|| missing(digest))?;
            let state = found.value.state.as_str();
            if found.value.state != ExampleState::Quarantined {
                return Err(Error::AlreadyDecided { digest: *digest, state });
            }
            // Named twice it is still one.
            if all.iter().all(|known| known.value.digest != *digest) {
                all.push(found);
            }
        }
        Ok(all)
    }
}

fn missing(digest: &Digest) -> Error {
    Error::NoExample { digest: *digest }
}

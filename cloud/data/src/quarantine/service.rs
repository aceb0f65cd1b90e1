//! Takes hard examples in, and forgets what is over.

use super::example::{ExampleState, Quarantined, Received};
use super::files::{Files, Found};
use super::held::{Bounds, Held, Part};
use super::medium::{Looked, look};
use crate::bounds::REMEMBERED_MS;
use crate::datasets::{Datasets, blocking};
use crate::error::{Error, Result};
use flotilla_protocol::message::{HardExample, HardExamples, Upload};
use flotilla_protocol::{DeviceId, Digest, limits};
use flotilla_storage::{Batch, Collection, PAGE_ENTITIES, Records};
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::{Mutex, Semaphore};

/// Days of a device may begin at another time than here, so two of its days may fall into one of ours.
const DAYS_AT_ONCE: u64 = 2;
const DAY_MS: u64 = 24 * 3_600 * 1_000;
/// Pictures that are looked into at a time: each can take much memory.
const LOOKS: usize = 2;
/// When there are too many decisions, this share of what may be remembered goes as well, so that the next time is far.
const DECISIONS_SPARE: usize = 10;

/// Hard examples of the whole fleet. Clones share it.
#[derive(Clone)]
pub struct Quarantine {
    pub(super) records: Arc<dyn Records>,
    pub(super) examples: Collection<Quarantined>,
    received: Collection<Received>,
    pub(super) datasets: Datasets,
    pub(super) files: Files,
    bounds: Bounds,
    /// Held while files or records change on which it depends what there is.
    pub(super) held: Arc<Mutex<Held>>,
    /// Held by the decision that is being made: a second one sees what the first has done.
    pub(super) deciding: Arc<Mutex<()>>,
    tidying: Arc<Mutex<()>>,
    looking: Arc<Semaphore>,
}

/// What the records say at one time.
struct Census {
    waiting: HashSet<Digest>,
    bytes: u64,
    /// When each decision was made.
    decisions: Vec<(u64, Digest)>,
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
        Self::open_within(Bounds::default(), records, datasets, folder, now_ms).await
    }

    pub(super) async fn open_within(
        bounds: Bounds,
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
            bounds,
            held: Arc::new(Mutex::new(Held::new(bounds, 0, 0, 0))),
            deciding: Arc::default(),
            tidying: Arc::default(),
            looking: Arc::new(Semaphore::new(LOOKS)),
        };
        let census = quarantine.census().await?;
        let mut held = Held::new(bounds, census.waiting.len(), census.bytes, census.decisions.len());
        let files = quarantine.files.clone();
        let found = blocking(move || {
            let of_device = |device| files.parts_of(&device);
            files.senders()?.into_iter().map(of_device).collect::<Result<Vec<_>>>()
        });
        for Found { part, bytes, at_ms } in found.await??.into_iter().flatten() {
            if bytes <= limits::HARD_EXAMPLE as u64 {
                held.found(part, bytes, at_ms);
            }
        }
        *quarantine.held.lock().await = held;
        quarantine.clean(census, now_ms).await?;
        Ok(quarantine)
    }

    // === what is over ===

    /// Forgets decisions that are old or too many and uploads that do not go on, and removes files that belong to
    /// nothing. To be done once a day.
    pub async fn tidy(&self, now_ms: u64) -> Result<()> {
        let _turn = self.tidying.lock().await;
        let census = self.census().await?;
        self.clean(census, now_ms).await
    }

    async fn census(&self) -> Result<Census> {
        let mut census = Census { waiting: HashSet::new(), bytes: 0, decisions: Vec::new() };
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = self.examples.list(after.as_deref(), PAGE_ENTITIES).await?;
            for Quarantined { digest, bytes, state, .. } in page.items.into_iter().map(|item| item.value) {
                match state.decided_ms() {
                    Some(at_ms) => census.decisions.push((at_ms, digest)),
                    None => {
                        census.bytes += bytes;
                        census.waiting.insert(digest);
                    }
                }
            }
            match page.next {
                None => return Ok(census),
                next => after = next,
            }
        }
    }

    async fn clean(&self, census: Census, now_ms: u64) -> Result<()> {
        self.forget_decisions(census.decisions, now_ms).await?;
        let files = self.files.clone();
        for digest in blocking(move || files.every_picture()).await?? {
            if !census.waiting.contains(&digest) {
                self.remove_orphan(digest).await?;
            }
        }
        let mut held = self.held.lock().await;
        // Their files are the parts that nobody expects any more.
        held.take_stale(now_ms);
        drop(held);
        let files = self.files.clone();
        for device in blocking(move || files.senders()).await?? {
            self.remove_unexpected(device).await?;
        }
        Ok(())
    }

    async fn forget_decisions(&self, mut decisions: Vec<(u64, Digest)>, now_ms: u64) -> Result<()> {
        decisions.sort_unstable();
        let bound = self.bounds.decisions;
        let too_many = match decisions.len() {
            all if all > bound => all - (bound - bound / DECISIONS_SPARE),
            _ => 0,
        };
        let old = decisions.partition_point(|(at_ms, _)| at_ms.saturating_add(REMEMBERED_MS) < now_ms);
        decisions.truncate(too_many.max(old));
        for decisions in decisions.chunks(PAGE_ENTITIES) {
            let (mut batch, mut forgotten) = (Batch::new(), 0);
            for (_, digest) in decisions {
                if let Some(found) = self.examples.get(digest.as_bytes()).await? {
                    self.examples.delete(&mut batch, &found)?;
                    forgotten += 1;
                }
            }
            self.records.commit(batch).await?;
            self.held.lock().await.forgot(forgotten);
        }
        Ok(())
    }

    /// Removes a picture unless an example came or was taken up since somebody looked.
    async fn remove_orphan(&self, digest: Digest) -> Result<()> {
        let _held = self.held.lock().await;
        let found = self.examples.get(digest.as_bytes()).await?;
        if found.is_some_and(|found| found.value.state == ExampleState::Quarantined) {
            return Ok(());
        }
        let files = self.files.clone();
        blocking(move || files.remove_picture(&digest)).await?
    }

    async fn remove_unexpected(&self, device: DeviceId) -> Result<()> {
        let held = self.held.lock().await;
        let (files, of) = (self.files.clone(), device.clone());
        if !held.expects_of(&device) {
            return blocking(move || files.remove_parts(&of)).await?;
        }
        for found in blocking(move || files.parts_of(&of)).await?? {
            if !held.expects(&found.part) {
                self.remove_part(found.part).await?;
            }
        }
        Ok(())
    }

    async fn remove_part(&self, part: Part) -> Result<()> {
        let files = self.files.clone();
        blocking(move || files.remove_part(&part)).await?
    }

    /// The devices of which something is on its way.
    pub async fn senders(&self) -> Vec<DeviceId> {
        self.held.lock().await.senders()
    }

    /// Deletes what is on its way of a device that may not send it any more. What has been taken in stays.
    pub async fn give_up(&self, device: &DeviceId) -> Result<()> {
        let mut held = self.held.lock().await;
        held.forget(device);
        let (files, device) = (self.files.clone(), device.clone());
        blocking(move || files.remove_parts(&device)).await?
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
        let part = (device.clone(), digest);
        let mut held = self.held.lock().await;
        if self.examples.get(digest.as_bytes()).await?.is_some() {
            held.release(&part);
            self.remove_part(part).await?;
            return Ok(total);
        }
        let (reserved, gone) = held.reserve(&part, total, now_ms);
        for part in gone {
            self.remove_part(part).await?;
        }
        drop(held);
        reserved?;
        let (files, of) = (self.files.clone(), part.clone());
        let received = blocking(move || files.received(&of)).await??;
        if received < total {
            return Ok(received);
        }
        // Whole and yet not taken in: a kill came in between.
        match self.take_in(part, example, policy, now_ms).await {
            Ok(()) => Ok(total),
            // What was not acknowledged may be torn: it begins anew.
            Err(Error::DigestDiffers { .. }) => {
                self.held.lock().await.reserve(&(device.clone(), digest), total, now_ms).0?;
                Ok(0)
            }
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
        let (part, total) = ((device.clone(), upload.digest), upload.total);
        let end = upload.offset + upload.data.len() as u64;
        self.held.lock().await.go_on(&part, total, now_ms)?;
        let (files, of) = (self.files.clone(), part.clone());
        let received = blocking(move || files.received(&of)).await??;
        if received != upload.offset {
            return Ok(received.min(total.saturating_sub(1)));
        }
        self.count(device, example, policy, upload.data.len() as u64, now_ms).await?;
        let (files, of, reserve) = (self.files.clone(), part.clone(), self.bounds.reserve_bytes);
        blocking(move || {
            let free = flotilla_storage::free_bytes(files.root())?;
            if free < reserve.saturating_add(upload.data.len() as u64) {
                return Err(Error::QuarantineFull);
            }
            files.append(&of, &upload.data)
        })
        .await??;
        let held = self.held.lock().await;
        if !held.expects(&part) {
            // Its device lost its consent or its right meanwhile.
            self.remove_part(part).await?;
            return Err(Error::NotOffered { digest: upload.digest });
        }
        drop(held);
        if end == total {
            self.take_in(part, example, policy, now_ms).await?;
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
        part: Part,
        example: &HardExample,
        policy: &HardExamples,
        now_ms: u64,
    ) -> Result<()> {
        let digest = part.1;
        let looked = {
            let _turn = self.looking.acquire().await.map_err(|_| Error::Cancelled)?;
            let (files, of) = (self.files.clone(), part.clone());
            blocking(move || {
                let bytes = files.read_part(&of)?;
                if Digest::of(&bytes) != digest {
                    return Err(Error::DigestDiffers { digest });
                }
                let looked = look(&bytes).map_err(|problem| Error::NoExampleData { digest, problem })?;
                Ok((bytes.len() as u64, looked))
            })
            .await?
        };
        let mut held = self.held.lock().await;
        let (bytes, Looked { medium, width, height, milliseconds }) = match looked {
            Ok(looked) => looked,
            Err(error) => {
                if matches!(error, Error::DigestDiffers { .. } | Error::NoExampleData { .. }) {
                    held.release(&part);
                    self.remove_part(part).await?;
                }
                return Err(error);
            }
        };
        if !held.expects(&part) {
            return Err(Error::NotOffered { digest });
        }
        if self.examples.get(digest.as_bytes()).await?.is_some() {
            // Another device was faster.
            held.release(&part);
            return self.remove_part(part).await;
        }
        let taken = Quarantined {
            digest,
            bytes,
            medium,
            width,
            height,
            milliseconds,
            device: part.0.clone(),
            example: example.clone(),
            dataset: policy.dataset.clone(),
            received_at_ms: now_ms,
            state: ExampleState::Quarantined,
        };
        let (files, of) = (self.files.clone(), part.clone());
        blocking(move || files.settle(&of)).await??;
        if let Err(error) = self.record(&taken).await {
            // It is a part again, for the next offer to take in. In doubt it stays, so that there is no record without
            // a picture; its room stays reserved.
            if is_nothing_done(&error) {
                let files = self.files.clone();
                blocking(move || files.unsettle(&part)).await??;
            }
            return Err(error.into());
        }
        held.take_in(&part, bytes);
        Ok(())
    }

    async fn record(&self, taken: &Quarantined) -> flotilla_storage::Result<()> {
        let mut batch = Batch::new();
        self.examples.insert(&mut batch, taken)?;
        self.records.commit(batch).await.map(drop)
    }
}

/// Whether a failed commit surely has not happened.
fn is_nothing_done(error: &flotilla_storage::Error) -> bool {
    use flotilla_storage::Error::{DiskFull, PreconditionFailed, TooLarge};
    matches!(error, PreconditionFailed { .. } | TooLarge { .. } | DiskFull { .. })
}

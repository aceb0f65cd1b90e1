//! The one task that stores hard examples and sends them upward, when nothing else is to be said.

use super::files::Files;
use super::{Found, Outlet, Wanted};
use crate::clock::Clock;
use crate::config::Config;
use crate::disk::DiskError;
use crate::fetch::Fetcher;
use crate::folder::Folder;
use crate::intake::blocking;
use crate::slot::disk_fault;
use flotilla_device::Fault;
use flotilla_device::budget::{Budget, LOOK_MS};
use flotilla_device::hard::ledger::{self, Ledger};
use flotilla_device::hard::shelf::{Admission, Kept, Key, Shelf};
use flotilla_device::hard::stored::StoredExample;
use flotilla_device::upload::{self, Next, Outcome, Uploader};
use flotilla_protocol::message::{HardExample, Reply, ReplyBody};
use flotilla_protocol::topic::Up;
use flotilla_protocol::{Digest, ErrorCode, ModelName, codec, limits};
use std::collections::BTreeSet;
use tokio_util::sync::CancellationToken;

/// Of all that the agent may store, the part that hard examples may take.
const STORAGE_PART: u64 = 16;
/// What could not be deleted, or looked through, is tried again after so long.
const FORGET_AGAIN_MS: u64 = 5_000;

/// Stores and sends.
pub(crate) struct Worker {
    outlet: Outlet,
    files: Files,
    clock: Clock,
    /// Gives numbers to questions.
    fetcher: Fetcher,
    storage_bytes: u64,
    disk_reserve_bytes: u64,
    wanted: Wanted,
    shelf: Shelf,
    ledger: Ledger,
    uploader: Uploader<HardExample>,
    /// The picture on its way.
    picture: Vec<u8>,
    budget: Budget,
    /// Models of which something may still lie on the disk.
    forgetting: BTreeSet<ModelName>,
    /// Whether what an earlier run left has been looked through.
    stocked: bool,
}

impl Worker {
    pub(crate) fn new(
        outlet: Outlet,
        folder: Folder,
        config: &Config,
        clock: Clock,
        fetcher: Fetcher,
    ) -> Self {
        Self {
            outlet,
            files: Files(folder),
            clock,
            fetcher,
            storage_bytes: config.storage_beside_log(),
            disk_reserve_bytes: config.disk_reserve_bytes,
            wanted: Wanted::default(),
            shelf: Shelf::new(config.storage_beside_log() / STORAGE_PART),
            ledger: Ledger::default(),
            uploader: Uploader::default(),
            picture: Vec::new(),
            budget: Budget::default(),
            forgetting: BTreeSet::new(),
            stocked: false,
        }
    }

    /// Works until `shutdown`. Before the first desired document nothing is kept, sent or deleted.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let working = async {
            if self.outlet.wanted.wait_for(Option::is_some).await.is_err() {
                return;
            }
            self.configure().await;
            loop {
                let due_ms = self.send().await;
                self.show();
                let due = self.clock.instant(due_ms);
                tokio::select! {
                    biased;
                    changed = self.outlet.wanted.changed() => match changed {
                        Ok(()) => self.configure().await,
                        Err(_) => return,
                    },
                    _ = self.outlet.link.changed() => self.uploader.reconnected(),
                    Some(reply) = self.outlet.replies.recv() => self.on_reply(&reply).await,
                    Some(found) = self.outlet.found.recv() => self.keep(found).await,
                    () = tokio::time::sleep_until(due) => {}
                }
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = working => {}
        }
    }

    fn today(&self) -> Option<u64> {
        self.clock.believed_wall_ms().map(ledger::day)
    }

    /// The example whose picture is on its way.
    fn on_its_way(&self) -> Option<Key> {
        self.uploader.current().map(|(digest, example)| (example.model.clone(), *digest))
    }

    /// Gives what was lost with a damaged ledger its day, once that is known.
    async fn date_ledger(&mut self) {
        if !self.today().is_some_and(|today| self.ledger.date(today)) {
            return;
        }
        let ledger = self.ledger.clone();
        if let Err(error) = self.disk(move |files| files.store_ledger(&ledger)).await {
            // The damaged one is still there: it is found so, and dated, after the next start.
            tracing::warn!(%error, "what was sent of hard examples is not noted");
        }
    }

    /// Disk work, where it holds nobody up.
    async fn disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Files) -> Result<T, DiskError> + Send + 'static,
    ) -> Result<T, Fault> {
        let files = self.files.clone();
        blocking(move || work(&files).map_err(disk_fault)).await
    }

    /// Finds what an earlier run left, and deletes what has no consent any more.
    async fn take_stock(&mut self) {
        let (policies, today) = (self.wanted.policies.clone(), self.today());
        let stock = self.disk(move |files| {
            let ledger = files.ledger(today);
            files.take_stock(|model| policies.contains_key(model)).map(|stock| (ledger, stock))
        });
        match stock.await {
            Ok((ledger, (kept, damaged))) => {
                self.stocked = true;
                self.ledger = ledger;
                self.outlet.shared.figures().damaged += damaged;
                for kept in kept {
                    self.admit(kept).await;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "what is kept of hard examples cannot be looked through yet");
            }
        }
    }

    async fn configure(&mut self) {
        let wanted = self.outlet.wanted.borrow_and_update().clone().unwrap_or_default();
        let withdrawn = self.wanted.policies.keys().filter(|model| !wanted.policies.contains_key(*model));
        self.forgetting.extend(withdrawn.cloned());
        self.budget.configure(&wanted.settings);
        self.wanted = wanted;
        self.forget().await;
    }

    /// Deletes what is kept of models whose consent is gone.
    async fn forget(&mut self) {
        for model in std::mem::take(&mut self.forgetting) {
            self.shelf.forget(&model);
            if self.uploader.current().is_some_and(|(_, example)| example.model == model) {
                self.stop_upload();
            }
            let name = model.clone();
            match self.disk(move |files| files.forget(&name)).await {
                Ok(()) => tracing::info!(%model, "no hard examples of it are kept any more"),
                Err(error) => {
                    tracing::error!(%model, %error, "hard examples are not deleted yet");
                    self.forgetting.insert(model);
                }
            }
        }
    }

    fn stop_upload(&mut self) {
        self.uploader.cancel();
        self.picture = Vec::new();
    }

    /// Stores an example, if it is still wanted and there is room.
    async fn keep(&mut self, mut found: Found) {
        let model = found.example.model.clone();
        // A consent may have gone since; and what waits to be deleted must not come back.
        let Some(policy) = self.wanted.policies.get(&model).cloned() else { return };
        if self.forgetting.contains(&model) || !self.stocked {
            return self.drop_one();
        }
        found.example.at_ms = self.clock.wall_ms();
        let example = found.example.clone();
        let (reason, at_ms) = (example.reason, example.at_ms);
        let made = blocking(move || {
            let picture =
                found.kept().map_err(|e| Fault::lasting(ErrorCode::SampleInvalid, e.to_string()))?;
            let digest = Digest::of(&picture);
            Ok((digest, picture.len(), StoredExample { example, picture }.to_bytes()))
        });
        let (digest, size, bytes) = match made.await {
            Ok(made) => made,
            Err(error) => {
                tracing::debug!(%model, %error, "an example cannot be kept");
                return self.drop_one();
            }
        };
        let (today, len) = (self.today(), bytes.len() as u64);
        if size > limits::HARD_EXAMPLE || self.ledger.may_keep(&model, &policy, today) < len {
            return self.drop_one();
        }
        let room = (self.storage_bytes, self.disk_reserve_bytes);
        let fits = self.disk(move |files| {
            let stored = files.0.used_bytes().saturating_add(len) <= room.0;
            Ok(stored && files.0.free_bytes()? >= room.1.saturating_add(len))
        });
        if !fits.await.unwrap_or(false) {
            return self.drop_one();
        }
        let kept = Kept { digest, model: model.clone(), reason, at_ms, bytes: len };
        if !self.admit(kept).await {
            return;
        }
        self.ledger.keep(&model, today, len);
        let (ledger, of) = (self.ledger.clone(), model.clone());
        let written = self.disk(move |files| {
            files.store_ledger(&ledger)?;
            files.write(&of, &digest, &bytes)
        });
        if let Err(error) = written.await {
            tracing::warn!(%model, %error, "a hard example is not kept");
            self.shelf.remove(&(model, digest));
            self.drop_one();
        }
    }

    fn drop_one(&self) {
        self.outlet.shared.figures().dropped += 1;
    }

    /// Takes one onto the shelf; the files of those that give way go.
    async fn admit(&mut self, kept: Kept) -> bool {
        let pinned = self.on_its_way();
        let before = self.shelf.dropped();
        let admission = self.shelf.admit(kept, pinned.as_ref());
        self.outlet.shared.figures().dropped += self.shelf.dropped() - before;
        let Admission::Taken { evicted } = admission else { return false };
        for gone in evicted {
            self.delete(&gone).await;
        }
        true
    }

    async fn delete(&self, gone: &Kept) {
        let (model, digest) = (gone.model.clone(), gone.digest);
        if let Err(error) = self.disk(move |files| files.remove(&model, &digest)).await {
            // It is found, and counts again, after the next start.
            tracing::warn!(model = %gone.model, %error, "a hard example stays on the disk");
        }
    }

    /// Says what there is to say now; returns when to look again.
    async fn send(&mut self) -> u64 {
        let now_ms = self.clock.now_ms();
        if !self.stocked {
            self.take_stock().await;
            if !self.stocked {
                return now_ms + FORGET_AGAIN_MS;
            }
        }
        if !self.forgetting.is_empty() {
            self.forget().await;
            if !self.forgetting.is_empty() {
                return now_ms + FORGET_AGAIN_MS;
            }
        }
        self.date_ledger().await;
        loop {
            let Some(link) = self.outlet.link.borrow().clone() else { return u64::MAX };
            if self.uploader.current().is_none() && !self.take_next().await {
                return if self.shelf.is_empty() { u64::MAX } else { now_ms + LOOK_MS };
            }
            let Some((_, HardExample { model, .. })) = self.uploader.current() else { continue };
            let Some(policy) = self.wanted.policies.get(model) else { return u64::MAX };
            if let Err(until_ms) = self.budget.allows(1, now_ms, self.clock.believed_wall_ms()) {
                return until_ms;
            }
            let (model, today) = (model.clone(), self.today());
            let left = self.ledger.may_send(&model, policy, today);
            match self.uploader.next(self.fetcher.next_id(), left, now_ms, rand::random()) {
                Next::Idle => return u64::MAX,
                Next::Wait { until_ms } => return until_ms,
                // Others may have something left; this one goes on tomorrow where it stands.
                Next::Spent => self.stop_upload(),
                Next::Send { mut upload, len, cost } => {
                    // Counted before it is sent, so that a kill in between gives nothing away.
                    self.ledger.send(&model, today, cost);
                    let ledger = self.ledger.clone();
                    let counted = self.disk(move |files| files.store_ledger(&ledger)).await;
                    let start = upload.offset as usize;
                    upload.data = self.picture.get(start..start + len).unwrap_or_default().to_vec();
                    self.budget.spend(cost);
                    if let Err(error) = &counted {
                        tracing::warn!(%error, "no hard example is sent: it could not be counted");
                    }
                    if counted.is_err() || !link.publish(Up::Upload, codec::encode(&*upload)) {
                        self.uploader.unsent(now_ms, rand::random());
                    }
                }
            }
        }
    }

    /// Begins with the next one that may be sent. False if there is none.
    async fn take_next(&mut self) -> bool {
        let today = self.today();
        loop {
            let (policies, ledger) = (&self.wanted.policies, &self.ledger);
            let may_send = |model: &ModelName| {
                policies.get(model).is_some_and(|p| ledger.may_send(model, p, today) >= upload::LEAST)
            };
            let Some(next) = self.shelf.next(may_send).cloned() else { return false };
            let (model, digest) = (next.model.clone(), next.digest);
            let found = self.disk(move |files| Ok(files.read(&model, &digest))).await;
            if let Ok(Some((stored, _))) = found {
                self.uploader.begin(stored.example, digest, stored.picture.len() as u64);
                self.picture = stored.picture;
                return true;
            }
            self.outlet.shared.figures().damaged += 1;
            self.shelf.remove(&next.key());
            self.delete(&next).await;
        }
    }

    async fn on_reply(&mut self, reply: &Reply) {
        let (now_ms, random) = (self.clock.now_ms(), rand::random());
        let Some(key) = self.on_its_way() else { return };
        let outcome = match &reply.body {
            ReplyBody::Stored { bytes } => self.uploader.stored(reply.id, *bytes, now_ms, random),
            ReplyBody::Error { code, detail } => {
                let outcome = self.uploader.refused(reply.id, *code, now_ms, random);
                if outcome != Outcome::Foreign {
                    tracing::info!(%code, detail, "the cloud does not take a hard example");
                }
                outcome
            }
            _ => return,
        };
        match outcome {
            Outcome::Foreign | Outcome::Onward => return,
            Outcome::Complete(_) => self.outlet.shared.figures().sent += 1,
            Outcome::Hopeless(_) => self.outlet.shared.figures().refused += 1,
        }
        self.picture = Vec::new();
        if let Some(gone) = self.shelf.settled(key) {
            self.delete(&gone).await;
        }
    }

    fn show(&self) {
        let mut figures = self.outlet.shared.figures();
        (figures.kept, figures.bytes) = (self.shelf.len() as u64, self.shelf.bytes());
    }
}

//! What people see of hard examples, and what they decide.

use super::example::{ExampleState, Quarantined};
use super::medium::Medium;
use super::service::Quarantine;
use crate::bounds::QUARANTINE_DECIDE;
use crate::datasets::{blocking, joined};
use crate::error::{Error, Result};
use bytes::Bytes;
use flotilla_identity::{Actor, Permission, audit};
use flotilla_protocol::{DatasetName, Digest};
use flotilla_storage::{Batch, Versioned};
use serde_json::json;
use std::collections::{BTreeSet, HashSet};

/// Datasets that an error names.
const NAMED: usize = 5;

/// What became of a decision.
#[derive(Clone, Debug, PartialEq)]
pub struct Decided {
    /// The examples that were decided on.
    pub examples: Vec<Quarantined>,
    /// The version of the dataset that has them, if they were accepted.
    pub version: Option<u32>,
}

impl Quarantine {
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

    /// The bytes of an example that nobody has decided on.
    pub async fn picture(&self, digest: &Digest) -> Result<Bytes> {
        self.undecided(&[*digest]).await?;
        let (files, digest) = (self.files.clone(), *digest);
        Ok(blocking(move || files.read_picture(&digest)).await??.into())
    }

    /// Makes examples unlabelled samples of a dataset: of the one that is named, or of the one that their device's policy
    /// named. All of them in one new version, or none. Refused while an import runs. Goes on when nobody waits for it any
    /// more.
    pub async fn accept(
        &self,
        actor: &Actor,
        digests: &[Digest],
        dataset: Option<&DatasetName>,
        now_ms: u64,
    ) -> Result<Decided> {
        let (this, actor, digests) = (self.clone(), actor.clone(), digests.to_vec());
        let dataset = dataset.cloned();
        let accepting = async move { this.accept_all(&actor, &digests, dataset, now_ms).await };
        joined(tokio::spawn(accepting).await)?
    }

    async fn accept_all(
        &self,
        actor: &Actor,
        digests: &[Digest],
        dataset: Option<DatasetName>,
        now_ms: u64,
    ) -> Result<Decided> {
        let _turn = self.deciding.lock().await;
        let found = self.undecided(digests).await?;
        let dataset = dataset.map_or_else(|| named(&found), Ok)?;
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
        let new: Vec<(Digest, Medium)> =
            found.iter().map(|found| (found.value.digest, found.value.medium)).collect();
        let version = self.datasets.add_unlabelled(actor, &dataset, &new, read, settle, now_ms).await?;
        self.let_go(&examples, now_ms).await;
        Ok(Decided { examples, version: Some(version) })
    }

    /// Deletes the bytes of examples; their digests are remembered. Goes on when nobody waits for it any more.
    pub async fn reject(&self, actor: &Actor, digests: &[Digest], now_ms: u64) -> Result<Decided> {
        let (this, actor, digests) = (self.clone(), actor.clone(), digests.to_vec());
        let rejecting = async move { this.reject_all(&actor, &digests, now_ms).await };
        joined(tokio::spawn(rejecting).await)?
    }

    async fn reject_all(&self, actor: &Actor, digests: &[Digest], now_ms: u64) -> Result<Decided> {
        let _turn = self.deciding.lock().await;
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
        self.let_go(&examples, now_ms).await;
        Ok(Decided { examples, version: None })
    }

    /// Removes the bytes of examples that were decided on. What cannot be removed now goes when it is tidied up.
    async fn let_go(&self, examples: &[Quarantined], now_ms: u64) {
        let mut held = self.held.lock().await;
        for example in examples {
            let (files, digest) = (self.files.clone(), example.digest);
            if let Err(error) = blocking(move || files.remove_picture(&digest)).await.flatten() {
                tracing::warn!(%digest, %error, "a decided example stays on the disk until the next day");
            }
        }
        held.decided(examples.len(), examples.iter().map(|example| example.bytes).sum());
        let over = held.is_over_decisions();
        drop(held);
        if over && let Err(error) = self.tidy(now_ms).await {
            tracing::error!(%error, "decisions on hard examples that are too many cannot be forgotten now");
        }
    }

    /// The records of examples that nobody has decided on.
    async fn undecided(&self, digests: &[Digest]) -> Result<Vec<Versioned<Quarantined>>> {
        if digests.is_empty() || digests.len() > QUARANTINE_DECIDE {
            let problem =
                format!("1 to {QUARANTINE_DECIDE} can be decided on at once, not {}", digests.len());
            return Err(Error::Option { option: "examples", problem });
        }
        let (mut all, mut seen) = (Vec::with_capacity(digests.len()), HashSet::new());
        for digest in digests {
            let found = self.examples.get(digest.as_bytes()).await?.ok_or_else(|| missing(digest))?;
            let state = found.value.state.as_str();
            if found.value.state != ExampleState::Quarantined {
                return Err(Error::AlreadyDecided { digest: *digest, state });
            }
            // Named twice it is still one.
            if seen.insert(*digest) {
                all.push(found);
            }
        }
        Ok(all)
    }
}

/// The one dataset that the policies of these examples name.
fn named(examples: &[Versioned<Quarantined>]) -> Result<DatasetName> {
    let unusable = |problem: String| Error::Option { option: "dataset", problem };
    let without = examples.iter().filter(|example| example.value.dataset.is_none()).count();
    if without > 0 {
        let all = examples.len();
        let problem =
            format!("the policies of {without} of these {all} examples name none: name it (`--dataset`)");
        return Err(unusable(problem));
    }
    let names: BTreeSet<&DatasetName> = examples.iter().flat_map(|example| &example.value.dataset).collect();
    match names.first() {
        Some(only) if names.len() == 1 => Ok((*only).clone()),
        _ => {
            let mut shown: Vec<&str> = names.iter().take(NAMED).map(|name| name.as_str()).collect();
            if names.len() > NAMED {
                shown.push("…");
            }
            let shown = shown.join(", ");
            let problem =
                format!("they name several datasets: {shown}; decide one dataset at a time (`--model`)");
            Err(unusable(problem))
        }
    }
}

fn missing(digest: &Digest) -> Error {
    Error::NoExample { digest: *digest }
}

//! The audit trail: who did what to what, and when.
//!
//! [`record`] adds to the batch of the change itself, so neither is durable without the other.

use crate::actor::Actor;
use crate::error::{Error, Result};
use crate::stored;
use flotilla_protocol::limits;
use flotilla_storage::{Batch, Expect, Key, Range, Records, Table};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU32, Ordering};

const AUDIT: Table = Table::new("audit");
/// Largest detail, as JSON.
pub const AUDIT_DETAIL: usize = 8 * limits::KIB;
/// Most records of one page.
pub const AUDIT_PAGE: usize = 500;

/// One thing that was done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// Its place in the trail.
    pub id: AuditId,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// Who did it.
    pub actor: Actor,
    /// What was done, named like a permission: `dataset:import`.
    pub action: String,
    /// What it was done to: `dataset/digits/1`.
    pub subject: String,
    /// More about it; never a secret.
    pub detail: Value,
}

/// The place of a record in the trail: ordered by time. Text form: 32 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AuditId([u8; 16]);

impl AuditId {
    /// A new place at this time. Records of one millisecond keep the order in which one process made them;
    /// the random part keeps processes apart.
    fn new(at_ms: u64) -> Self {
        static SEQUENCE: AtomicU32 = AtomicU32::new(0);
        let mut id = [0; 16];
        id[..8].copy_from_slice(&at_ms.to_be_bytes());
        id[8..12].copy_from_slice(&SEQUENCE.fetch_add(1, Ordering::Relaxed).to_be_bytes());
        id[12..].copy_from_slice(&rand::random::<[u8; 4]>());
        Self(id)
    }
}

impl fmt::Display for AuditId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl FromStr for AuditId {
    type Err = hex::FromHexError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut id = [0; 16];
        hex::decode_to_slice(text, &mut id)?;
        Ok(Self(id))
    }
}

impl Serialize for AuditId {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for AuditId {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// In which direction the trail is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// From the first record on.
    OldestFirst,
    /// From the last record back.
    NewestFirst,
}

/// Adds what is done to the batch that does it.
pub fn record(
    batch: &mut Batch,
    actor: &Actor,
    action: &str,
    subject: &str,
    detail: Value,
    now_ms: u64,
) -> Result<AuditId> {
    within("an audit action", action.len(), limits::ID)?;
    within("an audit subject", subject.len(), limits::TEXT)?;
    within("an audit detail", detail.to_string().len(), AUDIT_DETAIL)?;
    let id = AuditId::new(now_ms);
    let entry = AuditRecord {
        id,
        at_ms: now_ms,
        actor: actor.clone(),
        action: action.to_owned(),
        subject: subject.to_owned(),
        detail,
    };
    batch.put_if(Key::new(AUDIT, id.0), stored::encode(&AUDIT, &entry)?, Expect::Absent);
    Ok(id)
}

/// One page of the trail: up to `limit` (at most [`AUDIT_PAGE`]) records behind `after`.
pub async fn list(
    records: &dyn Records,
    order: Order,
    after: Option<AuditId>,
    limit: usize,
) -> Result<Vec<AuditRecord>> {
    let mut range = Range::table(AUDIT).limit(limit.min(AUDIT_PAGE));
    if let Some(after) = after {
        range = range.after(after.0);
    }
    if order == Order::NewestFirst {
        range = range.backwards();
    }
    let page = records.range(&range).await?;
    page.iter().map(|(key, record)| stored::decode(key, record)).collect()
}

fn within(what: &'static str, size: usize, bound: usize) -> Result<()> {
    if size <= bound { Ok(()) } else { Err(Error::TooLarge { what, size, bound }) }
}

//! Console sessions: a random cookie, kept as its hash, that stands for an actor until it expires.

use crate::actor::Actor;
use crate::audit;
use crate::error::{Error, Result};
use crate::secret::{Secret, presented};
use crate::stored;
use flotilla_protocol::Digest;
use flotilla_storage::{Batch, Expect, Key, Range, Records, Table};
use serde::{Deserialize, Serialize};

const SESSIONS: Table = Table::new("sessions");
/// How long a session lasts.
pub const SESSION_TTL_MS: u64 = 7 * 24 * 60 * 60 * 1000;
/// Sessions that may be open; one more ends the one that expires first.
const OPEN_SESSIONS: usize = 256;

/// A new session, for the one answer that sets its cookie.
#[derive(Debug)]
pub struct Session {
    /// The cookie's value.
    pub cookie: Secret,
    /// Who it stands for.
    pub actor: Actor,
    /// When it ends, in milliseconds since 1970.
    pub expires_at_ms: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Stored {
    actor: Actor,
    /// Hash of the administrator token under which the session began: a new token ends it.
    credential: Digest,
    expires_at_ms: u64,
}

/// The record's name is the hash of the cookie: looking one up compares nothing secret byte by byte.
fn key(hash: &Digest) -> Key {
    Key::new(SESSIONS, hash.as_bytes())
}

/// Begins a session, and clears away those that have ended.
pub(crate) async fn begin(
    records: &dyn Records,
    actor: Actor,
    credential: Digest,
    now_ms: u64,
) -> Result<Session> {
    let cookie = Secret::random("fls-");
    let expires_at_ms = now_ms + SESSION_TTL_MS;
    let mut batch = Batch::new();
    end_outdated(records, &mut batch, &credential, now_ms).await?;
    let stored = Stored { actor: actor.clone(), credential, expires_at_ms };
    batch.put_if(key(&cookie.hash()), stored::encode(&SESSIONS, &stored)?, Expect::Absent);
    audit::record(&mut batch, &actor, "session:begin", "session", serde_json::Value::Null, now_ms)?;
    records.commit(batch).await?;
    Ok(Session { cookie, actor, expires_at_ms })
}

/// Who the session stands for.
pub(crate) async fn find(
    records: &dyn Records,
    cookie: &str,
    credential: &Digest,
    now_ms: u64,
) -> Result<Actor> {
    let key = key(&presented(cookie).ok_or(Error::Session)?);
    let record = records.get(&key).await?.ok_or(Error::Session)?;
    let stored: Stored = stored::decode(&key, &record)?;
    if is_over(&stored, credential, now_ms) { Err(Error::Session) } else { Ok(stored.actor) }
}

/// Ends a session; that it has ended already is fine.
pub(crate) async fn end(records: &dyn Records, cookie: &str, now_ms: u64) -> Result<()> {
    let Some(hash) = presented(cookie) else { return Ok(()) };
    let key = key(&hash);
    let Some(record) = records.get(&key).await? else { return Ok(()) };
    let stored: Stored = stored::decode(&key, &record)?;
    let mut batch = Batch::new();
    batch.delete(key);
    audit::record(&mut batch, &stored.actor, "session:end", "session", serde_json::Value::Null, now_ms)?;
    records.commit(batch).await?;
    Ok(())
}

fn is_over(stored: &Stored, credential: &Digest, now_ms: u64) -> bool {
    stored.expires_at_ms <= now_ms || stored.credential != *credential
}

/// Removes the sessions that are over, and those over the bound.
async fn end_outdated(
    records: &dyn Records,
    batch: &mut Batch,
    credential: &Digest,
    now_ms: u64,
) -> Result<()> {
    let mut open = Vec::new();
    for (key, record) in records.range(&Range::table(SESSIONS)).await? {
        let stored: Stored = stored::decode(&key, &record)?;
        if is_over(&stored, credential, now_ms) {
            batch.delete(key);
        } else {
            open.push((stored.expires_at_ms, key));
        }
    }
    open.sort();
    let surplus = (open.len() + 1).saturating_sub(OPEN_SESSIONS);
    for (_, key) in open.into_iter().take(surplus) {
        batch.delete(key);
    }
    Ok(())
}

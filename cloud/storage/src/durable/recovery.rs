//! Opening: which snapshot, which journal, and whether the index may be trusted.

use super::encoding::{self, Operation};
use super::index::Index;
use super::{RecordsConfig, snapshot};
use crate::batch::BATCH_BYTES;
use crate::error::{Error, IoContext, Result};
use crate::folder::{Folder, TEMPORARY, create_dir_durably, read_small, remove_if_there, write_small};
use crate::log::{Log, LogConfig};
use std::path::Path;
use std::sync::Arc;

/// The largest frame of the journal or a snapshot: a batch with the lengths in front of its parts.
pub(super) const FRAME_BYTES: usize = 2 * BATCH_BYTES;
const JOURNAL: &str = "journal";
const CLEAN: &str = "CLEAN";
const INDEX: &str = "index-";
/// Operations applied at once when the index is made anew.
const REBUILD_PAGE: usize = 1000;

/// An opened store.
pub(super) struct Recovered {
    pub(super) log: Log,
    pub(super) index: Index,
    /// The size of the newest snapshot; 0 for none.
    pub(super) snapshot_bytes: u64,
}

/// What a folder held when it was listed.
struct Found {
    snapshots: Vec<u64>,
    indexes: Vec<u64>,
}

/// Opens what is in the folder. Everything acknowledged is there afterwards.
pub(super) fn open(folder: &Folder, config: &RecordsConfig) -> Result<Recovered> {
    let fs = &folder.fs;
    let found = look(folder)?;
    let base = found.snapshots.last().copied();
    // A killed process may have named the snapshot without making the name durable; what the snapshot
    // replaces is removed below.
    fs.sync_dir(&folder.path).at("sync", &folder.path)?;
    let journal = folder.join(JOURNAL);
    create_dir_durably(&**fs, &journal, &folder.path)?;
    let log_config = LogConfig {
        segment_bytes: config.segment_bytes,
        grow_bytes: config.grow_bytes,
        frame_bytes: FRAME_BYTES,
    };
    let first_needed = base.unwrap_or(0) + 1;
    let mut log = Log::open(Arc::clone(fs), &journal, log_config, first_needed)?;
    if log.first() > first_needed || log.next() < first_needed {
        return Err(Error::corrupt(
            &journal,
            format!("it holds commits {} to {}, needed is {first_needed} on", log.first(), log.next() - 1),
        ));
    }
    let (index, snapshot_bytes) = match take_clean(folder, &journal, log.next() - 1)? {
        Some(name) => match open_clean(folder, config, &name, log.next() - 1) {
            Some(index) => (index, snapshot_size(folder, base)?),
            None => rebuild(folder, config, base, &log, &found)?,
        },
        None => rebuild(folder, config, base, &log, &found)?,
    };
    for &old in &found.indexes {
        let path = folder.join(&index_name(old));
        if path != index.path()
            && let Err(error) = fs.remove_dir_all(&path)
        {
            tracing::warn!(path = %path.display(), %error, "an old index could not be removed");
        }
    }
    remove_snapshots_before(folder, base.unwrap_or(0))?;
    log.remove_before(first_needed)?;
    Ok(Recovered { log, index, snapshot_bytes })
}

/// Makes a broken index anew in place, from what is durable. No snapshot may be under way. Returns the size of the
/// newest snapshot.
pub(super) fn renew(folder: &Folder, config: &RecordsConfig, log: &Log, index: &Index) -> Result<u64> {
    let found = look(folder)?;
    let base = found.snapshots.last().copied();
    let name = index_name(found.indexes.last().map_or(1, |n| n + 1));
    let (fresh, snapshot_bytes) = rebuild(folder, config, base, log, &found).inspect_err(|_| {
        // Half an index takes room on what may be a full disk.
        drop(folder.fs.remove_dir_all(&folder.join(&name)));
    })?;
    let old = index.replace(fresh);
    let removed =
        super::index::wait_until_free(&old).and_then(|()| folder.fs.remove_dir_all(&old).at("remove", &old));
    if let Err(error) = removed {
        tracing::warn!(path = %old.display(), %error, "a broken index stays until the next start");
    }
    Ok(snapshot_bytes)
}

/// Closes the index and notes that it may be trusted, if it may.
pub(super) fn close(folder: &Folder, index: &Index, last_commit: u64) -> Result<()> {
    index.close(&*folder.fs)?;
    let path = index.path();
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return Ok(()) };
    // The entry of the index folder itself is made durable with CLEAN's.
    write_small(&*folder.fs, &folder.path, CLEAN, format!("{last_commit} {name}\n").as_bytes())
}

/// Removes the snapshots that a newer one has made useless.
pub(super) fn remove_snapshots_before(folder: &Folder, keep: u64) -> Result<()> {
    for entry in folder.fs.list(&folder.path).at("list", &folder.path)? {
        if snapshot::number(&entry.name).is_some_and(|number| number < keep) {
            remove_if_there(&*folder.fs, &folder.join(&entry.name))?;
        }
    }
    Ok(())
}

fn index_name(number: u64) -> String {
    format!("{INDEX}{number}")
}

fn look(folder: &Folder) -> Result<Found> {
    let mut found = Found { snapshots: Vec::new(), indexes: Vec::new() };
    for entry in folder.fs.list(&folder.path).at("list", &folder.path)? {
        if entry.name.ends_with(TEMPORARY) {
            remove_if_there(&*folder.fs, &folder.join(&entry.name))?;
        } else if let Some(number) = snapshot::number(&entry.name) {
            found.snapshots.push(number);
        } else if let Some(number) = entry.name.strip_prefix(INDEX).and_then(|n| n.parse().ok()) {
            found.indexes.push(number);
        }
    }
    found.snapshots.sort_unstable();
    found.indexes.sort_unstable();
    Ok(found)
}

/// The index folder that CLEAN vouches for as of `last_commit`. CLEAN is durably gone afterwards.
fn take_clean(folder: &Folder, journal: &Path, last_commit: u64) -> Result<Option<String>> {
    let path = folder.join(CLEAN);
    let Some(content) = read_small(&*folder.fs, &path)? else { return Ok(None) };
    let content = String::from_utf8_lossy(&content);
    let parts = content.trim_end().split_once(' ').and_then(|(n, name)| Some((n.parse::<u64>().ok()?, name)));
    let Some((commit, name)) = parts else {
        return Err(Error::corrupt(&path, "it does not name a commit and an index"));
    };
    if commit > last_commit {
        return Err(Error::corrupt(
            journal,
            format!("commit {last_commit} is the last that can be read, commit {commit} was acknowledged"),
        ));
    }
    remove_if_there(&*folder.fs, &path)?;
    folder.fs.sync_dir(&folder.path).at("sync", &folder.path)?;
    Ok((commit == last_commit && name.starts_with(INDEX) && !name.contains('/')).then(|| name.to_owned()))
}

/// Opens an index that was closed cleanly; none if it is not what it should be.
fn open_clean(folder: &Folder, config: &RecordsConfig, name: &str, last_commit: u64) -> Option<Index> {
    let path = folder.join(name);
    if !path.is_dir() {
        return None;
    }
    folder.fs.hand_over(&path);
    let opened = Index::open(&path, config.cache_bytes).and_then(|index| Ok((index.applied()?, index)));
    match opened {
        Ok((applied, index)) if applied == last_commit => Some(index),
        Ok((applied, index)) => {
            tracing::warn!(applied, last_commit, "the index is not at the last commit and is made anew");
            index.discard();
            None
        }
        Err(error) => {
            tracing::warn!(%error, cause = ?error, "the index cannot be opened and is made anew");
            None
        }
    }
}

fn snapshot_size(folder: &Folder, base: Option<u64>) -> Result<u64> {
    let Some(base) = base else { return Ok(0) };
    let path = snapshot::path(&folder.path, base);
    let file = folder.fs.open_read(&path).at("open", &path)?;
    file.size().at("read", &path)
}

/// Makes the index anew from the newest snapshot and the journal.
fn rebuild(
    folder: &Folder,
    config: &RecordsConfig,
    base: Option<u64>,
    log: &Log,
    found: &Found,
) -> Result<(Index, u64)> {
    let fs = &folder.fs;
    let path = folder.join(&index_name(found.indexes.last().map_or(1, |n| n + 1)));
    fs.create_dir(&path).at("create", &path)?;
    fs.hand_over(&path);
    let index = Index::open(&path, config.cache_bytes)?;
    let mut snapshot_bytes = 0;
    if let Some(base) = base {
        snapshot_bytes = snapshot::read(&**fs, &folder.path, base, |page| index.apply(page, base))?;
    }
    let journal = folder.join(JOURNAL);
    let mut waiting: Vec<Operation> = Vec::new();
    log.replay(base.unwrap_or(0) + 1, |number, frame| {
        let operations = encoding::decode(&frame)
            .ok_or_else(|| Error::corrupt(&journal, format!("commit {number} does not decode")))?;
        waiting.extend(operations);
        if waiting.len() >= REBUILD_PAGE {
            index.apply(&waiting, number)?;
            waiting.clear();
        }
        Ok(())
    })?;
    index.apply(&waiting, log.next() - 1)?;
    Ok((index, snapshot_bytes))
}

//! Snapshots: all records in one file, so that the journal before it can go.
//!
//! The file has the form of one log segment: pages of operations, then a last frame that says how many
//! operations there are. It gets its name when it is durable, so what has the name is whole.

use super::encoding::{self, Operation};
use super::index::Index;
use super::{RecordsConfig, recovery};
use crate::error::{Error, IoContext, Result};
use crate::folder::{TEMPORARY, remove_if_there};
use crate::fs::Fs;
use crate::log;
use std::path::{Path, PathBuf};

/// Records of one frame: with the largest records it stays under [`recovery::FRAME_BYTES`].
const PAGE: usize = 256;
const PREFIX: &str = "snapshot-";
/// Starts the last frame; no operation does.
const END: u8 = 0;

/// The path of the snapshot as of commit `number`.
pub(super) fn path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{PREFIX}{number:020}"))
}

/// The commit of the snapshot with this file name.
pub(super) fn number(name: &str) -> Option<u64> {
    name.strip_prefix(PREFIX).filter(|digits| digits.len() == 20)?.parse().ok()
}

/// Writes the snapshot as of `number` while commits go on. Returns its size.
pub(super) fn write(
    fs: &dyn Fs,
    folder: &Path,
    config: &RecordsConfig,
    index: &Index,
    number: u64,
) -> Result<u64> {
    let target = path(folder, number);
    let temporary = target.with_extension(&TEMPORARY[1..]);
    let written = write_pages(fs, folder, config, index, number, &temporary);
    match written {
        Ok(bytes) => {
            fs.rename(&temporary, &target).at("rename", &temporary)?;
            fs.sync_dir(folder).at("sync", folder)?;
            Ok(bytes)
        }
        Err(failed) => {
            remove_if_there(fs, &temporary)?;
            Err(failed)
        }
    }
}

fn write_pages(
    fs: &dyn Fs,
    folder: &Path,
    config: &RecordsConfig,
    index: &Index,
    number: u64,
    temporary: &Path,
) -> Result<u64> {
    remove_if_there(fs, temporary)?;
    let file = fs.create(temporary).at("create", temporary)?;
    let (mut out, mut chain) = log::segment_header(number);
    let (mut at, mut count) = (0, 0_u64);
    let mut after = Index::BEFORE_TABLES.to_vec();
    loop {
        let page = index.all_after(&after, PAGE)?;
        let mut frame = Vec::new();
        for operation in &page {
            encoding::encode(&mut frame, operation);
        }
        count += page.len() as u64;
        match page.last() {
            Some(last) => after.clone_from(&last.key),
            None => {
                frame.push(END);
                frame.extend_from_slice(&count.to_le_bytes());
            }
        }
        chain = log::encode(&mut out, chain, &frame);
        // Half of the reserve is for the index, which must not fail.
        let free = fs.free_bytes(folder).at("measure", folder)?;
        if free < config.reserve_bytes / 2 + out.len() as u64 {
            return Err(Error::DiskFull {
                action: "write a snapshot in",
                path: folder.to_path_buf(),
                source: None,
            });
        }
        file.write_all_at(&out, at).at("write", temporary)?;
        at += out.len() as u64;
        out.clear();
        if page.is_empty() {
            file.sync().at("sync", temporary)?;
            return Ok(at);
        }
    }
}

/// Calls `visit` with every page of the snapshot. Returns its size.
pub(super) fn read(
    fs: &dyn Fs,
    folder: &Path,
    number: u64,
    mut visit: impl FnMut(&[Operation]) -> Result<()>,
) -> Result<u64> {
    let path = path(folder, number);
    let mut scan = log::Scan::open(fs, &path, number, recovery::FRAME_BYTES)?;
    let mut count = 0_u64;
    while let Some((_, frame)) = scan.read()? {
        if let Some((&END, end)) = frame.split_first() {
            if end == count.to_le_bytes() {
                return Ok(scan.position());
            }
            return Err(Error::corrupt(&path, format!("it ends after {count} records, which are not all")));
        }
        let operations = encoding::decode(&frame)
            .ok_or_else(|| Error::corrupt(&path, format!("what follows record {count} is not a record")))?;
        count += operations.len() as u64;
        visit(&operations)?;
    }
    Err(Error::corrupt(&path, format!("its checksums are wrong after record {count}")))
}

//! What devices' logs say, where an operator asked for it: taken in piece by piece, for open commands only, and kept as the
//! last ones of each device.

mod files;

use crate::devices::{self, PulledLog};
use crate::error::{Error, Result};
use crate::store::Store;
use files::Files;
use flotilla_identity::now_ms;
use flotilla_protocol::message::{CommandKind, LogOffer, Upload};
use flotilla_protocol::{DeviceId, Digest};
use flotilla_storage::RecordsConfig;
use std::path::PathBuf;
use std::sync::Arc;

/// The logs of the whole fleet.
pub(crate) struct Logs {
    store: Arc<Store>,
    files: Files,
}

impl Logs {
    pub(crate) async fn open(folder: PathBuf, store: Arc<Store>) -> Result<Self> {
        let files = blocking(move || Files::open(folder)).await?;
        Ok(Self { store, files })
    }

    /// A device offers lines. Says how many bytes of them are here durably: all, if it needs to send none.
    pub(crate) async fn offer(
        &self,
        device: &DeviceId,
        log: LogOffer,
        (digest, total): (Digest, u64),
        now_ms: u64,
    ) -> Result<u64> {
        if !self.is_wanted(device, log, (digest, total), now_ms).await? {
            return Ok(total);
        }
        let (files, of) = (self.files.clone(), device.clone());
        let received = blocking(move || files.received(&of, log.command, &digest)).await?;
        if received < total {
            return Ok(received);
        }
        // Whole and yet not taken in: a kill came in between.
        Ok(if self.take_in(device, log, (digest, total)).await? { total } else { 0 })
    }

    /// A piece of lines that were offered. Says how many bytes are here durably: none, if it turns out that what came is
    /// not what was offered.
    pub(crate) async fn receive(
        &self,
        device: &DeviceId,
        log: LogOffer,
        upload: Upload,
        now_ms: u64,
    ) -> Result<u64> {
        let (digest, total, end) = (upload.digest, upload.total, upload.offset + upload.data.len() as u64);
        if !self.is_wanted(device, log, (digest, total), now_ms).await? {
            return Ok(total);
        }
        let (files, of) = (self.files.clone(), device.clone());
        let received = blocking(move || files.received(&of, log.command, &digest)).await?;
        if received != upload.offset {
            return Ok(received.min(total.saturating_sub(1)));
        }
        let (files, of) = (self.files.clone(), device.clone());
        blocking(move || {
            let root = files.root();
            let free = flotilla_storage::free_bytes(root)?;
            if free < RecordsConfig::default().reserve_bytes.saturating_add(upload.data.len() as u64) {
                let (action, path) = ("store a device's log in", root.to_owned());
                return Err(flotilla_storage::Error::DiskFull { action, path, source: None }.into());
            }
            files.append(&of, log.command, &digest, &upload.data)
        })
        .await?;
        if end < total {
            return Ok(end);
        }
        Ok(if self.take_in(device, log, (digest, total)).await? { total } else { 0 })
    }

    /// Whether an open command asked for these lines; `false` if they are here already.
    async fn is_wanted(
        &self,
        device: &DeviceId,
        log: LogOffer,
        (digest, total): (Digest, u64),
        now_ms: u64,
    ) -> Result<bool> {
        let known = devices::pulled(&self.store, device, log.command).await?;
        if known.is_some_and(|known| known.digest == digest) {
            return Ok(false);
        }
        let missing = || Error::LogMissing { device: device.clone(), command: log.command };
        let twin = self.store.twins.get(device.as_str()).await?.ok_or_else(missing)?.value;
        let asked = twin.open_commands(now_ms).find_map(|command| match command.kind {
            CommandKind::LogPull(query) if command.id == log.command => Some(query),
            _ => None,
        });
        match asked {
            None => Err(missing()),
            Some(query) if total > u64::from(query.max_bytes) => {
                Err(Error::LogTooLarge { device: device.clone(), bytes: total, bound: query.max_bytes })
            }
            Some(_) => Ok(true),
        }
    }

    /// First the file, then the record, then what has to give way: a kill in between leaves a file too many, which goes
    /// with the next log.
    async fn take_in(
        &self,
        device: &DeviceId,
        log: LogOffer,
        (digest, bytes): (Digest, u64),
    ) -> Result<bool> {
        let (files, of) = (self.files.clone(), device.clone());
        if !blocking(move || files.settle(&of, log.command, &digest)).await? {
            tracing::warn!(%device, command = log.command, "a log did not come as it was offered");
            return Ok(false);
        }
        let pulled = PulledLog { digest, bytes, left_out: log.left_out };
        let keep = devices::keep_log(&self.store, device, log.command, pulled, now_ms()).await?;
        let (files, of) = (self.files.clone(), device.clone());
        blocking(move || files.tidy(&of, &keep)).await?;
        Ok(true)
    }

    /// The lines that a device sent for a command.
    pub(crate) async fn read(&self, device: &DeviceId, command: u64) -> Result<Vec<u8>> {
        let missing = || Error::LogMissing { device: device.clone(), command };
        let pulled = devices::pulled(&self.store, device, command).await?.ok_or_else(missing)?;
        let (files, of) = (self.files.clone(), device.clone());
        let bytes = blocking(move || files.read(&of, command)).await?;
        if Digest::of(&bytes) == pulled.digest {
            Ok(bytes)
        } else {
            Err(Error::LogDamaged { device: device.clone(), command })
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Error::Invalid(format!("work on a device's log ended badly: {error}"))))
}

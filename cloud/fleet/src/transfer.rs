//! Model bytes for devices: pulled by digest, a window of chunks at a time.
//!
//! A device may fetch what its own desired document reaches and nothing else: the signed envelopes named there, those of
//! commands to measure among them, and the files that those envelopes name. All chunks on their way from the disk into the broker share one budget; a waiting
//! device holds none of it, and those that wait are served in turn.

use crate::broker::{self, Downlink};
use crate::connections::Connection;
use crate::error::Result;
use crate::store::Store;
use bytes::Bytes;
use flotilla_identity::now_ms;
use flotilla_protocol::message::{Chunk, CommandKind, Fetch, Reply, ReplyBody};
use flotilla_protocol::topic::Down;
use flotilla_protocol::{DeviceId, Digest, ErrorCode, ProjectId, codec, limits};
use flotilla_registry::Registry;
use flotilla_storage::Objects;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Why a fetch is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) code: ErrorCode,
    pub(crate) detail: String,
}

impl Refused {
    fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into() }
    }

    /// The refusal as a message.
    pub(crate) fn reply(&self, id: u64) -> Reply {
        Reply { id, body: ReplyBody::Error { code: self.code, detail: self.detail.clone() } }
    }
}

/// How serving a fetch ended without a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Served {
    /// Every chunk of the window is with the broker.
    All,
    /// The device went away; it asks again when it is back.
    Gone,
}

/// Serves fetches of all devices.
pub(crate) struct Transfers {
    project: ProjectId,
    store: Arc<Store>,
    registry: Arc<Registry>,
    objects: Objects,
    room: Semaphore,
}

impl Transfers {
    pub(crate) fn new(
        project: ProjectId,
        store: Arc<Store>,
        registry: Arc<Registry>,
        objects: Objects,
    ) -> Self {
        Self { project, store, registry, objects, room: Semaphore::new(limits::TRANSFER_IN_FLIGHT) }
    }

    /// Answers one fetch of a device.
    pub(crate) async fn serve(
        &self,
        downlink: &dyn Downlink,
        device: &DeviceId,
        connection: &Connection,
        fetch: &Fetch,
    ) -> Result<Served, Refused> {
        fetch
            .check()
            .map_err(|code| Refused::new(code, "a fetch begins at a chunk and asks for 1 to 16 of them"))?;
        if !self.may_fetch(device, &fetch.digest).await? {
            return Err(Refused::new(
                ErrorCode::FetchDenied,
                format!("{} is not part of what this device should run", fetch.digest.short()),
            ));
        }
        let total = self.objects.len(&fetch.digest).await.map_err(storage)?;
        if fetch.offset > total || (fetch.offset == total && total > 0) {
            return Err(Refused::new(ErrorCode::InvalidInput, format!("the file has {total} bytes only")));
        }
        let last = fetch.offset.saturating_add(u64::from(fetch.chunks) * limits::CHUNK as u64).min(total);
        let mut offset = fetch.offset;
        loop {
            let bytes = (last - offset).min(limits::CHUNK as u64) as usize;
            // Held until the broker has the chunk; from there on the broker's own budget counts it.
            let _room = self.room.acquire_many(bytes as u32).await.map_err(|_| internal())?;
            let data = self.objects.read_range(&fetch.digest, offset, bytes).await.map_err(storage)?;
            let chunk = Chunk { digest: fetch.digest, offset, total, data: data.into() };
            let payload = Bytes::from(codec::encode(&chunk));
            let size = payload.len();
            match downlink.publish(&self.project, device, Down::Chunk, payload).await {
                Ok(()) => {}
                Err(broker::Error::NotConnected { .. }) => return Ok(Served::Gone),
                // The connection goes on, and so does the device once it knows that the rest does not come.
                Err(error) => return Err(Refused::new(error.code(), error.to_string())),
            }
            connection.sent(size);
            offset += bytes as u64;
            if offset >= last {
                return Ok(Served::All);
            }
        }
    }

    /// Whether the device's own desired document reaches this digest.
    async fn may_fetch(&self, device: &DeviceId, digest: &Digest) -> Result<bool, Refused> {
        let Some(twin) = self.store.twins.get(device.as_str()).await.map_err(storage)? else {
            return Ok(false);
        };
        let shadows = twin.value.shadows.values().map(|shadow| shadow.release);
        for release in twin.value.models.values().map(|model| model.release).chain(shadows) {
            if release == *digest {
                return Ok(true);
            }
            match self.registry.reachable(&release).await {
                Ok(reachable) if reachable.contains(digest) => return Ok(true),
                Ok(_) | Err(flotilla_registry::Error::ReleaseMissing(_)) => {}
                Err(error) => {
                    tracing::error!(%device, %error, "what a device may fetch cannot be read");
                    return Err(internal());
                }
            }
        }
        for command in twin.value.open_commands(now_ms()) {
            let CommandKind::Measure(wanted) = &command.kind else { continue };
            match self.registry.measurable(wanted).await {
                Ok(reachable) if reachable.contains(digest) => return Ok(true),
                Ok(_) => {}
                Err(error) => {
                    tracing::error!(%device, %error, "what a device may fetch to measure cannot be read");
                    return Err(internal());
                }
            }
        }
        Ok(false)
    }
}

/// The device learns the code; what and where stands in our own log.
fn storage(error: flotilla_storage::Error) -> Refused {
    tracing::error!(%error, "a file of a release cannot be read");
    Refused::new(error.code(), "the file cannot be read now")
}

fn internal() -> Refused {
    Refused::new(ErrorCode::Internal, "the request cannot be answered now")
}

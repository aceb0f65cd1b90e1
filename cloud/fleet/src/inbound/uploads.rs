//! What one device uploads over one connection, beside its conversation: a picture that takes long to look into, or that
//! waits for those of other devices, holds up neither reports nor telemetry.

use super::Core;
use super::examples::Examples;
use super::logs::Pulled;
use crate::connections::Connection;
use crate::text::bounded;
use crate::transfer::Refused;
use flotilla_identity::now_ms;
use flotilla_protocol::message::{Reply, ReplyBody, Upload};
use flotilla_protocol::topic::Down;
use flotilla_protocol::{DeviceId, codec, limits};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Messages of one device that may wait. It sends one of an example and one of its log, and waits for the answers.
const WAITING: usize = 8;

/// A message, and its share of the room for waiting ones.
type Waiting = (Upload, OwnedSemaphorePermit);

/// Takes the uploads of one connection, one after the other.
pub(super) struct Uploads {
    queue: mpsc::Sender<Waiting>,
    task: JoinHandle<()>,
    stop: CancellationToken,
}

impl Uploads {
    pub(super) fn start(
        core: Arc<Core>,
        device: DeviceId,
        connection: Arc<Connection>,
        stop: CancellationToken,
    ) -> Self {
        let (queue, mut waiting) = mpsc::channel::<Waiting>(WAITING);
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let (mut examples, mut pulled) = (Examples::default(), Pulled::default());
            loop {
                let received = tokio::select! {
                    () = stopped.cancelled() => return,
                    received = waiting.recv() => received,
                };
                let Some((upload, _room)) = received else { return };
                // What has begun is finished: storing is never cut off half-way.
                let reply = take(&core, &device, &mut examples, &mut pulled, upload).await;
                let reply = codec::encode(&reply);
                let size = reply.len();
                tokio::select! {
                    () = stopped.cancelled() => return,
                    published = core.downlink.publish(&core.project, &device, Down::Reply, reply.into()) => {
                        if published.is_ok() {
                            connection.sent(size);
                        }
                    }
                }
            }
        });
        Self { queue, task, stop }
    }

    /// Whether it takes nothing any more.
    pub(super) fn is_over(&self) -> bool {
        self.queue.is_closed()
    }

    /// Puts a message into the queue. False if the queue is full.
    pub(super) fn push(&self, upload: Upload, room: OwnedSemaphorePermit) -> bool {
        self.queue.try_send((upload, room)).is_ok()
    }

    /// Ends after what is under way.
    pub(super) async fn stop(self) {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the uploads of a device died");
        }
    }
}

async fn take(
    core: &Core,
    device: &DeviceId,
    examples: &mut Examples,
    pulled: &mut Pulled,
    upload: Upload,
) -> Reply {
    let id = upload.id;
    let taken = match pulled.is_of(&upload) {
        true => pulled.take(core, device, upload, now_ms()).await,
        false => examples.take(core, device, upload, now_ms()).await,
    };
    match taken {
        Ok(bytes) => Reply { id, body: ReplyBody::Stored { bytes } },
        Err(Refused { code, detail }) => Refused { code, detail: bounded(&detail, limits::TEXT) }.reply(id),
    }
}

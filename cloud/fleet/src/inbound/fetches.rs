//! The model bytes of one device, beside its conversation: a slow download holds up neither reports nor telemetry.

use super::Core;
use crate::broker;
use crate::connections::Connection;
use crate::transfer::Served;
use flotilla_protocol::message::Fetch;
use flotilla_protocol::topic::Down;
use flotilla_protocol::{DeviceId, codec};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Fetches of one device that may wait. A device asks for a window and waits for it.
const WAITING: usize = 16;

/// Serves the fetches of one connection, one after the other.
pub(super) struct Fetches {
    queue: mpsc::Sender<Fetch>,
    task: JoinHandle<()>,
}

impl Fetches {
    pub(super) fn start(
        core: Arc<Core>,
        device: DeviceId,
        connection: Arc<Connection>,
        stop: CancellationToken,
    ) -> Self {
        let (queue, mut waiting) = mpsc::channel::<Fetch>(WAITING);
        let task = tokio::spawn(async move {
            let serving = async {
                while let Some(fetch) = waiting.recv().await {
                    if serve(&core, &device, &connection, &fetch).await == Served::Gone {
                        break;
                    }
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = serving => {}
            }
        });
        Self { queue, task }
    }

    /// Whether it serves nothing any more.
    pub(super) fn is_over(&self) -> bool {
        self.queue.is_closed()
    }

    /// Puts a fetch into the queue, or gives it back if the queue is full.
    pub(super) fn push(&self, fetch: Fetch) -> Result<(), Fetch> {
        self.queue.try_send(fetch).map_err(|error| error.into_inner())
    }

    /// Ends what is under way.
    pub(super) async fn stop(self) {
        self.task.abort();
        // That it was aborted is what was asked for.
        let _ = self.task.await;
    }
}

async fn serve(core: &Core, device: &DeviceId, connection: &Connection, fetch: &Fetch) -> Served {
    let downlink = &*core.downlink;
    let refused = match core.transfers.serve(downlink, device, connection, fetch).await {
        Ok(served) => return served,
        Err(refused) => refused,
    };
    tracing::debug!(%device, code = %refused.code, detail = refused.detail, "a fetch is refused");
    let reply = codec::encode(&refused.reply(fetch.id));
    let size = reply.len();
    match downlink.publish(&core.project, device, Down::Reply, reply.into()).await {
        Ok(()) => {
            connection.sent(size);
            Served::All
        }
        Err(broker::Error::NotConnected { .. }) => Served::Gone,
        Err(error) => {
            // The device waits in vain for this one and asks again; others may fare better.
            tracing::debug!(%device, %error, "a refusal does not reach its device");
            Served::All
        }
    }
}

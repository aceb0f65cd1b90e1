//! From the broker's one channel to a task a connection.

use super::Core;
use super::worker::{Mail, Worker};
use crate::broker::{Inbound, PeerIdentity};
use flotilla_identity::now_ms;
use flotilla_protocol::{DeviceId, limits};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Messages of one device that may wait.
const MAILBOX: usize = 64;
/// Bytes of all devices' messages that may wait.
const WAITING_BYTES: usize = 256 * limits::MIB;
/// Ended conversations that are remembered before those that are over are forgotten.
const ENDING: usize = 256;

/// A conversation that is under way.
struct Conversation {
    number: u64,
    mailbox: mpsc::Sender<Mail>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// Gives every connection a conversation of its own.
pub(crate) struct Dispatcher {
    core: Arc<Core>,
    current: HashMap<DeviceId, Conversation>,
    /// Conversations of devices that have gone, on their last words.
    ending: HashMap<DeviceId, JoinHandle<()>>,
    waiting: Arc<Semaphore>,
}

impl Dispatcher {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self {
            core,
            current: HashMap::new(),
            ending: HashMap::new(),
            waiting: Arc::new(Semaphore::new(WAITING_BYTES)),
        }
    }

    /// Dispatches until stopped or until the broker has gone, then waits for all conversations to end.
    pub(crate) async fn run(mut self, mut inbound: mpsc::Receiver<Inbound>, stop: CancellationToken) {
        loop {
            let event = tokio::select! {
                () = stop.cancelled() => break,
                event = inbound.recv() => event,
            };
            let Some(event) = event else { break };
            self.dispatch(event, &stop);
        }
        let ending = self.ending.into_values();
        let current = self.current.into_values().map(|conversation| {
            conversation.stop.cancel();
            conversation.task
        });
        for task in ending.chain(current).collect::<Vec<_>>() {
            joined(task.await);
        }
    }

    fn dispatch(&mut self, event: Inbound, stop: &CancellationToken) {
        match event {
            Inbound::Connected { peer, connection, .. } => self.connected(&peer, connection, stop),
            Inbound::Disconnected { peer, connection } => self.gone(&peer.device, connection),
            Inbound::Message { peer, connection, channel, payload } => {
                let Some(conversation) = self.current.get(&peer.device) else { return };
                if conversation.number != connection {
                    return;
                }
                let bytes = payload.len().max(1) as u32;
                let room = Arc::clone(&self.waiting).try_acquire_many_owned(bytes).ok();
                let sent = room.is_some_and(|room| {
                    conversation.mailbox.try_send(Mail { channel, payload, room }).is_ok()
                });
                if !sent {
                    tracing::warn!(device = %peer.device, "a device that sends faster than it is heard is cut off");
                    self.core.downlink.disconnect(&peer.project, &peer.device);
                    // What comes after the message that is lost would be out of order.
                    self.gone(&peer.device, connection);
                }
            }
        }
    }

    /// Begins a conversation. It starts once the device's last one is over: what one device says has one order.
    fn connected(&mut self, peer: &PeerIdentity, number: u64, stop: &CancellationToken) {
        let device = &peer.device;
        let replaced = match self.current.get(device) {
            Some(current) if current.number >= number => return,
            Some(_) => self.current.remove(device).map(|old| {
                old.stop.cancel();
                old.task
            }),
            None => self.ending.remove(device),
        };
        let (mailbox, mail) = mpsc::channel(MAILBOX);
        let stop = stop.child_token();
        let connection = self.core.connections.begin(device, number, now_ms());
        let worker = Worker::new(Arc::clone(&self.core), peer.clone(), connection, stop.clone());
        let task = tokio::spawn(async move {
            if let Some(replaced) = replaced {
                joined(replaced.await);
            }
            worker.run(mail).await;
        });
        self.current.insert(device.clone(), Conversation { number, mailbox, stop, task });
    }

    /// A connection is over: its conversation ends with what has come so far.
    fn gone(&mut self, device: &DeviceId, connection: u64) {
        let is_current = |c: &Conversation| c.number == connection;
        if self.current.get(device).is_some_and(is_current)
            && let Some(conversation) = self.current.remove(device)
        {
            self.end(device.clone(), conversation.task);
        }
    }

    fn end(&mut self, device: DeviceId, task: JoinHandle<()>) {
        if self.ending.len() >= ENDING {
            self.ending.retain(|_, task| !task.is_finished());
        }
        self.ending.insert(device, task);
    }
}

fn joined(result: Result<(), tokio::task::JoinError>) {
    if let Err(error) = result {
        tracing::error!(%error, "a device's conversation died");
    }
}

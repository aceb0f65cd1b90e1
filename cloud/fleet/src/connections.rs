//! The devices that are connected now.

use crate::devices::Traffic;
use flotilla_protocol::DeviceId;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// A connection of a device.
#[derive(Debug)]
pub(crate) struct Connection {
    /// Grows with every connection.
    pub(crate) number: u64,
    /// Told when the device's desired document has changed.
    pub(crate) desired: Notify,
    since_ms: u64,
    last_seen_ms: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
    messages: AtomicU64,
    /// The part of the traffic that stands in the device's record already.
    counted: Mutex<Traffic>,
}

impl Connection {
    pub(crate) fn since_ms(&self) -> u64 {
        self.since_ms
    }

    pub(crate) fn last_seen_ms(&self) -> u64 {
        self.last_seen_ms.load(Ordering::Relaxed)
    }

    /// A message of this size came.
    pub(crate) fn received(&self, bytes: usize, now_ms: u64) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
        self.messages.fetch_add(1, Ordering::Relaxed);
        self.last_seen_ms.fetch_max(now_ms, Ordering::Relaxed);
    }

    /// A message of this size went out.
    pub(crate) fn sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
        self.messages.fetch_add(1, Ordering::Relaxed);
    }

    /// So much of the traffic stands in the device's record now.
    pub(crate) fn counted(&self, traffic: Traffic) {
        *self.counted.lock().unwrap_or_else(PoisonError::into_inner) = traffic;
    }

    /// The traffic that does not stand in the device's record yet, and all of it at the same moment.
    pub(crate) fn uncounted(&self) -> (Traffic, Traffic) {
        let traffic = self.traffic();
        (traffic.minus(*self.counted.lock().unwrap_or_else(PoisonError::into_inner)), traffic)
    }

    pub(crate) fn traffic(&self) -> Traffic {
        Traffic { sent: self.sent.load(Ordering::Relaxed), received: self.received.load(Ordering::Relaxed) }
    }
}

/// The current connection of each device, and the traffic of all that have ended.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    current: HashMap<DeviceId, Arc<Connection>>,
    ended: Traffic,
    ended_messages: u64,
}

impl Connections {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Every change is a single insertion or removal: the table is valid even after a panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a connection the device's current one.
    pub(crate) fn begin(&self, device: &DeviceId, number: u64, now_ms: u64) -> Arc<Connection> {
        let connection = Arc::new(Connection {
            number,
            desired: Notify::new(),
            since_ms: now_ms,
            last_seen_ms: AtomicU64::new(now_ms),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            messages: AtomicU64::new(0),
            counted: Mutex::default(),
        });
        self.inner().current.insert(device.clone(), Arc::clone(&connection));
        connection
    }

    /// Forgets a connection, unless a later one has replaced it, and counts its traffic in.
    pub(crate) fn end(&self, device: &DeviceId, connection: &Connection) {
        let mut inner = self.inner();
        inner.ended = inner.ended.plus(connection.traffic());
        inner.ended_messages += connection.messages.load(Ordering::Relaxed);
        if inner.current.get(device).is_some_and(|current| current.number == connection.number) {
            inner.current.remove(device);
        }
    }

    pub(crate) fn get(&self, device: &DeviceId) -> Option<Arc<Connection>> {
        self.inner().current.get(device).cloned()
    }

    /// The devices that are connected.
    pub(crate) fn devices(&self) -> Vec<DeviceId> {
        self.inner().current.keys().cloned().collect()
    }

    /// Makes the device's connection send the desired document. One that is not connected gets it after its hello.
    pub(crate) fn desired_changed(&self, device: &DeviceId) {
        if let Some(connection) = self.get(device) {
            connection.desired.notify_one();
        }
    }

    /// All payload since the start.
    pub(crate) fn traffic(&self) -> Traffic {
        let inner = self.inner();
        inner.current.values().fold(inner.ended, |sum, connection| sum.plus(connection.traffic()))
    }

    /// Messages in both directions since the start.
    pub(crate) fn messages(&self) -> u64 {
        let inner = self.inner();
        let current = inner.current.values().map(|connection| connection.messages.load(Ordering::Relaxed));
        inner.ended_messages + current.sum::<u64>()
    }

    pub(crate) fn len(&self) -> usize {
        self.inner().current.len()
    }
}

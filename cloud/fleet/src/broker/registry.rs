//! All connections, by device.

use super::link::Link;
use super::{Bounds, PeerIdentity};
use flotilla_protocol::{DeviceId, ProjectId};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// The connections of the broker.
pub(super) struct Registry {
    bounds: Bounds,
    all: Arc<Semaphore>,
    stop: CancellationToken,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    last: u64,
    devices: HashMap<(ProjectId, DeviceId), Vec<Arc<Link>>>,
}

impl Registry {
    /// An empty registry; cancelling `stop` cuts every connection, present and to come.
    pub(super) fn new(bounds: Bounds, stop: CancellationToken) -> Self {
        let all = Arc::new(Semaphore::new(bounds.queued_bytes));
        Self { bounds, all, stop, inner: Mutex::default() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new connection, or `None` if its device has too many.
    ///
    /// It is entered before the authority is asked: whoever revokes a device and then disconnects it also reaches the
    /// connections that were allowed a moment before the revocation.
    pub(super) fn enter(&self, peer: PeerIdentity, remote: SocketAddr) -> Option<Arc<Link>> {
        let mut inner = self.inner();
        let key = (peer.project.clone(), peer.device.clone());
        if inner.devices.get(&key).is_some_and(|links| links.len() >= self.bounds.connections_per_device) {
            return None;
        }
        inner.last += 1;
        let (all, cut) = (self.all.clone(), self.stop.child_token());
        let link = Arc::new(Link::new(inner.last, peer, remote, &self.bounds, all, cut));
        inner.devices.entry(key).or_default().push(link.clone());
        Some(link)
    }

    /// Makes a connection the device's current one, and cuts those it had before.
    pub(super) fn admit(&self, link: &Arc<Link>) -> bool {
        let inner = self.inner();
        if !link.admit() {
            return false;
        }
        let key = (link.peer().project.clone(), link.peer().device.clone());
        for other in inner.devices.get(&key).into_iter().flatten() {
            if other.number() != link.number() && other.is_admitted() {
                other.cut.cancel();
            }
        }
        true
    }

    /// Forgets a connection.
    pub(super) fn leave(&self, link: &Link) {
        let mut inner = self.inner();
        let key = (link.peer().project.clone(), link.peer().device.clone());
        if let Some(links) = inner.devices.get_mut(&key) {
            links.retain(|other| other.number() != link.number());
            if links.is_empty() {
                inner.devices.remove(&key);
            }
        }
    }

    /// The device's current connection.
    pub(super) fn current(&self, project: &ProjectId, device: &DeviceId) -> Option<Arc<Link>> {
        let inner = self.inner();
        let links = inner.devices.get(&(project.clone(), device.clone()))?;
        links.iter().rev().find(|link| link.is_live()).cloned()
    }

    /// Cuts every connection of a device.
    pub(super) fn cut(&self, project: &ProjectId, device: &DeviceId) {
        for link in self.inner().devices.get(&(project.clone(), device.clone())).into_iter().flatten() {
            link.cut.cancel();
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;
    use crate::ca::Serial;
    use flotilla_protocol::topic::Down;

    fn peer(project: &str) -> PeerIdentity {
        PeerIdentity {
            project: ProjectId::new(project).unwrap(),
            device: DeviceId::new("gate-7").unwrap(),
            serial: Serial::random().unwrap(),
        }
    }

    fn remote() -> SocketAddr {
        ([127, 0, 0, 1], 1).into()
    }

    fn live(registry: &Registry, project: &str) -> Arc<Link> {
        let link = registry.enter(peer(project), remote()).unwrap();
        assert!(registry.admit(&link));
        assert!(link.go_live());
        link
    }

    #[test]
    fn the_later_connection_of_a_device_wins_and_other_projects_are_untouched() {
        let registry = Registry::new(Bounds::default(), CancellationToken::new());
        let first = live(&registry, "shop");
        let namesake = live(&registry, "other");
        let second = live(&registry, "shop");
        assert!(!first.is_live());
        assert!(second.is_live() && namesake.is_live());
        let current = registry.current(&second.peer().project, &second.peer().device).unwrap();
        assert_eq!(current.number(), second.number());
    }

    #[test]
    fn a_connection_that_is_not_admitted_displaces_nobody() {
        let registry = Registry::new(Bounds::default(), CancellationToken::new());
        let current = live(&registry, "shop");
        registry.enter(peer("shop"), remote()).unwrap();
        assert!(current.is_live());
    }

    #[test]
    fn disconnecting_reaches_connections_that_still_wait_for_the_authority() {
        let registry = Registry::new(Bounds::default(), CancellationToken::new());
        let waiting = registry.enter(peer("shop"), remote()).unwrap();
        registry.cut(&waiting.peer().project, &waiting.peer().device);
        assert!(!registry.admit(&waiting));
    }

    #[test]
    fn one_device_cannot_take_all_connections() {
        let registry = Registry::new(
            Bounds { connections_per_device: 2, ..Bounds::default() },
            CancellationToken::new(),
        );
        let first = registry.enter(peer("shop"), remote()).unwrap();
        registry.enter(peer("shop"), remote()).unwrap();
        assert!(registry.enter(peer("shop"), remote()).is_none());
        assert!(registry.enter(peer("other"), remote()).is_some());
        registry.leave(&first);
        assert!(registry.enter(peer("shop"), remote()).is_some());
    }

    #[test]
    fn what_has_ended_is_forgotten() {
        let registry = Registry::new(Bounds::default(), CancellationToken::new());
        let link = live(&registry, "shop");
        link.subscribed(Down::Desired);
        assert!(link.is_subscribed(Down::Desired) && !link.is_subscribed(Down::Ack));
        assert!(link.close(), "it was live: its end must be reported");
        assert!(!link.close(), "once");
        registry.leave(&link);
        assert!(registry.inner().devices.is_empty());
        assert!(registry.current(&link.peer().project, &link.peer().device).is_none());
    }
}

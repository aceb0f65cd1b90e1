//! What devices say: one task a connection, so that a slow or hostile device holds up nobody but itself.
//!
//! - `dispatch`: takes events from the broker and never waits; a device whose messages pile up is cut off and starts
//!   over, which loses nothing because everything it sends is repeated until it is acknowledged.
//! - `worker`: the conversation with one device.
//! - `examples`: the hard examples of one device.
//! - `logs`: lines of the log of one device.
//! - `pace`: how fast those are answered who say hello.
//! - `fetches`, `uploads`: the model bytes of one device, and what it uploads, beside its conversation.

mod dispatch;
mod examples;
mod fetches;
mod logs;
mod pace;
#[cfg(test)]
mod tests;
mod uploads;
mod worker;

pub(crate) use dispatch::Dispatcher;
pub(crate) use pace::Pace;

use crate::broker::Downlink;
use crate::ca::CertificateAuthority;
use crate::changes::Changes;
use crate::connections::Connections;
use crate::ingest::Ingest;
use crate::logs::Logs;
use crate::rollout::Rollouts;
use crate::store::Store;
use crate::transfer::Transfers;
use flotilla_data::Quarantine;
use flotilla_protocol::ProjectId;
use flotilla_registry::Registry;
use std::sync::Arc;

/// What every conversation needs.
pub(crate) struct Core {
    pub(crate) project: ProjectId,
    pub(crate) store: Arc<Store>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) authority: Arc<CertificateAuthority>,
    pub(crate) connections: Arc<Connections>,
    pub(crate) ingest: Arc<Ingest>,
    pub(crate) transfers: Arc<Transfers>,
    pub(crate) quarantine: Quarantine,
    pub(crate) logs: Arc<Logs>,
    pub(crate) rollouts: Arc<Rollouts>,
    pub(crate) changes: Changes,
    pub(crate) downlink: Arc<dyn Downlink>,
    pub(crate) pace: Pace,
}

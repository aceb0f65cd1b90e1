//! Who may connect: devices that are known and neither revoked nor out of service, with a certificate that has not been taken from them.

use crate::broker::{Authority, Decision, PeerIdentity, Refusal};
use crate::cloned;
use crate::store::Store;
use async_trait::async_trait;
use flotilla_identity::now_ms;
use flotilla_protocol::ProjectId;
use std::sync::Arc;

/// Answers the broker from the device records.
pub(crate) struct DeviceAuthority {
    pub(crate) project: ProjectId,
    pub(crate) store: Arc<Store>,
}

#[async_trait]
impl Authority for DeviceAuthority {
    async fn connect(&self, peer: &PeerIdentity) -> Decision {
        if peer.project != self.project {
            return Decision::Refuse(Refusal::Unknown);
        }
        match self.store.devices.get(peer.device.as_str()).await {
            Ok(None) => Decision::Refuse(Refusal::Unknown),
            Ok(Some(device)) if !device.value.may_connect() => Decision::Refuse(Refusal::Disabled),
            Ok(Some(device)) if !device.value.accepts(&peer.serial) => {
                if let Err(error) = cloned::shown(&self.store, &peer.device, &peer.serial, now_ms()).await {
                    tracing::error!(device = %peer.device, %error, "a retired certificate was shown; that is not noted");
                }
                Decision::Refuse(Refusal::Revoked)
            }
            Ok(Some(_)) => Decision::Allow,
            Err(error) => {
                tracing::error!(device = %peer.device, %error, "whether a device may connect cannot be read");
                Decision::Refuse(Refusal::Unavailable)
            }
        }
    }
}

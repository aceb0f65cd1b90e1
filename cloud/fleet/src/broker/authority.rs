//! Who decides whether a device may connect.

use super::PeerIdentity;
use async_trait::async_trait;

/// Knows the devices and the revoked certificates. Asked once per connection, before the broker lets it in.
#[async_trait]
pub trait Authority: Send + Sync + 'static {
    /// May the holder of this certificate connect now? The chain, the certificate's purpose and the client id have been
    /// checked; whether the device still exists and the serial still counts has not.
    async fn connect(&self, peer: &PeerIdentity) -> Decision;
}

/// The answer to a connection attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Let it in.
    Allow,
    /// Send it away.
    Refuse(Refusal),
}

/// Why a connection is refused. The device sees "not authorized", except for `Unavailable`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No such device.
    Unknown,
    /// The certificate's serial number is revoked or superseded.
    Revoked,
    /// The device exists but is switched off.
    Disabled,
    /// The question cannot be answered now; the device should try again.
    Unavailable,
}

//! The lines of its log that one device sends over one connection.

use super::Core;
use crate::error::Error;
use crate::transfer::Refused;
use flotilla_protocol::message::{LogOffer, Upload};
use flotilla_protocol::{DeviceId, Digest, ErrorCode};

/// What the device has offered on this connection and may send.
#[derive(Default)]
pub(super) struct Pulled {
    offered: Option<(Digest, LogOffer)>,
}

impl Pulled {
    /// Whether this is about a log: an offer of one, or a piece of what was offered last.
    pub(super) fn is_of(&self, upload: &Upload) -> bool {
        let piece = || self.offered.as_ref().is_some_and(|(digest, _)| *digest == upload.digest);
        upload.log.is_some() || (upload.example.is_none() && piece())
    }

    /// Takes an offer or a piece. Says how many bytes of the whole are here durably.
    pub(super) async fn take(
        &mut self,
        core: &Core,
        device: &DeviceId,
        upload: Upload,
        now_ms: u64,
    ) -> Result<u64, Refused> {
        if let Err(code) = upload.check() {
            let detail = "the upload is over its bounds, or neither an offer nor a piece of one";
            return Err(Refused { code, detail: detail.to_owned() });
        }
        let whole = (upload.digest, upload.total);
        let taken = match (upload.log, self.offered) {
            (Some(log), _) => {
                self.offered = Some((upload.digest, log));
                core.logs.offer(device, log, whole, now_ms).await
            }
            (None, Some((_, log))) => core.logs.receive(device, log, upload, now_ms).await,
            (None, None) => {
                let detail = "this was not offered on this connection".to_owned();
                return Err(Refused { code: ErrorCode::WrongState, detail });
            }
        };
        taken.map_err(|error| {
            tracing::info!(%device, code = %error.code(), %error, "lines of a log are not taken");
            // What its cloud's disk has to say is none of a device's business.
            let detail = match &error {
                Error::Storage(_) | Error::Io { .. } => "it cannot be kept now".to_owned(),
                error => error.to_string(),
            };
            Refused { code: error.code(), detail }
        })
    }
}

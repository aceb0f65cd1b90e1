//! The hard examples that one device sends over one connection: taken only of models for which there is a consent.

use super::Core;
use crate::devices;
use crate::error::{Error, Result};
use crate::text::bounded;
use crate::transfer::Refused;
use flotilla_protocol::message::{HardExample, HardExamples, Upload};
use flotilla_protocol::{DeviceId, Digest, ErrorCode, ModelName, limits};

/// What the device has offered on this connection and may send.
#[derive(Default)]
pub(super) struct Examples {
    offered: Option<(Digest, HardExample)>,
}

impl Examples {
    /// Takes an offer or a piece. Says how many bytes of the whole are here durably.
    pub(super) async fn take(
        &mut self,
        core: &Core,
        device: &DeviceId,
        upload: Upload,
        now_ms: u64,
    ) -> std::result::Result<u64, Refused> {
        let refused = |code, detail: &str| Err(Refused { code, detail: detail.to_owned() });
        if let Err(code) = upload.check() {
            return refused(code, "the upload is over its bounds, or neither an offer nor a piece of one");
        }
        let known = match &upload.example {
            Some(example) => {
                let label = bounded(&example.label, limits::LABEL);
                let example = HardExample { label, ..example.clone() };
                self.offered = Some((upload.digest, example.clone()));
                Some(example)
            }
            None => {
                self.offered.as_ref().filter(|(digest, _)| *digest == upload.digest).map(|(_, e)| e.clone())
            }
        };
        // A piece from before this connection's offer; the device begins with an offer again.
        let Some(example) = known else {
            return refused(ErrorCode::WrongState, "this was not offered on this connection");
        };
        let policy = match consent(core, device, &example.model).await {
            Ok(policy) => policy,
            Err(error) => return Err(of(&error)),
        };
        let Some(policy) = policy else {
            return refused(
                ErrorCode::PermissionDenied,
                "there is no consent to hard examples of this model",
            );
        };
        let total = upload.total;
        let taken = match upload.example {
            Some(_) => {
                let whole = (upload.digest, total);
                core.quarantine.offer(device, &example, &policy, whole, now_ms).await
            }
            None => core.quarantine.receive(device, &example, &policy, upload, now_ms).await,
        };
        if matches!(taken, Ok(bytes) if bytes == total) {
            // The console shows it.
            core.changes.device(device);
        }
        taken.map_err(|error| {
            let error = Error::from(error);
            tracing::info!(%device, code = %error.code(), %error, "a hard example is not taken");
            of(&error)
        })
    }
}

/// What a device is told; what its cloud's disk has to say is none of its business.
fn of(error: &Error) -> Refused {
    let detail = match error {
        Error::Storage(_)
        | Error::Data(flotilla_data::Error::Io { .. } | flotilla_data::Error::Storage(_)) => {
            "it cannot be kept now".to_owned()
        }
        error => error.to_string(),
    };
    Refused { code: error.code(), detail }
}

/// The policy by which a device may send examples of a model.
async fn consent(core: &Core, device: &DeviceId, model: &ModelName) -> Result<Option<HardExamples>> {
    Ok(devices::senders_consents(&core.store, device).await?.remove(model))
}

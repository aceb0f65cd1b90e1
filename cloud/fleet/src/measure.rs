//! Models measured on a device: signed, asked for as a command, waited for.

use crate::devices::{Asked, Order, Stage};
use crate::error::{Error, Result};
use crate::fleet::Fleet;
use flotilla_identity::{Actor, now_ms};
use flotilla_protocol::DeviceId;
use flotilla_protocol::message::{CommandState, Measured};
use flotilla_registry::ToMeasure;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;

/// A change that was missed is noticed after so long.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

impl Fleet {
    /// Signs a model to be measured and asks a device to do so; returns the number of the command.
    pub async fn ask_to_measure(
        &self,
        actor: &Actor,
        id: &DeviceId,
        wanted: ToMeasure,
        patience_ms: Option<u64>,
    ) -> Result<u64> {
        // Nothing is signed and stored for a device that is not there.
        self.device(id).await?;
        let measurement = self.inner.parts.registry.to_measure(wanted, now_ms()).await?;
        self.command(actor, id, &Order::Measure(measurement), patience_ms).await
    }

    /// The same, and waits for what the device reports, for as long as the command is good.
    pub async fn measure(
        &self,
        actor: &Actor,
        id: &DeviceId,
        wanted: ToMeasure,
        patience_ms: u64,
    ) -> Result<Measured> {
        let mut changes = self.watch();
        let command = self.ask_to_measure(actor, id, wanted, Some(patience_ms)).await?;
        loop {
            if let Some(outcome) = self.measured(id, command).await? {
                return outcome;
            }
            // Which device has changed does not matter: few do while one measures.
            match tokio::time::timeout(LOOK_AGAIN, changes.recv()).await {
                Ok(Err(RecvError::Closed)) => return Err(Error::Stopping),
                Ok(Ok(_) | Err(RecvError::Lagged(_))) | Err(_) => {}
            }
        }
    }

    /// What became of a measurement; none as long as it is open.
    async fn measured(&self, id: &DeviceId, command: u64) -> Result<Option<Result<Measured>>> {
        let all = self.commands(id).await?;
        let failed = |code, detail: String| Error::NotMeasured { device: id.clone(), code, detail };
        let Some((Asked { outcome, measured, .. }, stage)) =
            all.into_iter().find(|(one, _)| one.id == command)
        else {
            return Err(Error::Contended(format!("the commands of {id}")));
        };
        Ok(match (outcome, measured, stage) {
            (Some(CommandState::Done), Some(measured), _) => Some(Ok(measured)),
            (Some(CommandState::Done), None, _) => {
                let detail = "it says that it is done, and no figures".to_owned();
                Some(Err(failed(flotilla_protocol::ErrorCode::Malformed, detail)))
            }
            (Some(CommandState::Failed { code, detail }), ..) => Some(Err(failed(code, detail))),
            (None, _, Stage::Expired) => {
                let detail = "it did not answer before the deadline".to_owned();
                Some(Err(failed(flotilla_protocol::ErrorCode::Expired, detail)))
            }
            (None, ..) => None,
        })
    }
}

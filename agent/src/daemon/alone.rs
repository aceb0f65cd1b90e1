//! A device whose identity or trust cannot be read, nor put back: nobody can be believed, and nobody reached. What is
//! confirmed serves all the same, the local endpoint says what is wrong and what to do, and once the files are good
//! again everything goes on.

use super::heat::Heat;
use super::{Options, announce, journals, records, state, upgrade};
use crate::Error;
use crate::api::Address;
use crate::clock::Clock;
use crate::folder::{ENDPOINT, Folder, MODELS};
use crate::host::ModelHost;
use crate::identity::{self, Identity};
use crate::sensors::Sensors;
use crate::supervisor::Supervisor;
use flotilla_device::launch::SETTLED_MS;
use flotilla_device::update::{Confirmed, UpdateJournal};
use flotilla_protocol::{ModelName, TrustFile};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// How often it is looked whether the files are good again.
const LOOK: Duration = Duration::from_secs(2);

/// What a device without an identity runs on.
pub(super) struct Alone<'a> {
    pub(super) options: &'a Options,
    pub(super) clock: &'a Clock,
    pub(super) host: &'a Arc<ModelHost>,
    pub(super) status: &'a Mutex<Value>,
    pub(super) endpoint: &'a Address,
    pub(super) sensors: &'a mut Sensors,
    pub(super) heat: &'a mut Heat,
}

/// Whether there is anything to serve.
pub(super) fn has_models(folder: &Folder) -> bool {
    folder.disk().folders(MODELS.as_ref()).is_ok_and(|models| !models.is_empty())
}

impl Alone<'_> {
    /// Serves what is confirmed until identity and trust can be read, or until `shutdown`.
    pub(super) async fn serve(
        &mut self,
        error: Error,
        damage: &mut state::Damage,
        shutdown: &CancellationToken,
    ) -> Option<(Identity, TrustFile)> {
        tracing::error!(%error, "this device can reach nobody; it serves what is confirmed");
        let folder = &self.options.folder;
        if let Err(error) = announce(folder, self.endpoint) {
            tracing::warn!(%error, "the endpoint's address cannot be written down");
        }
        self.show(&error);
        let (own, host, board) = (folder.clone(), Arc::clone(self.host), self.options.config.board.clone());
        let loaded = tokio::task::spawn_blocking(move || load_all(&own, &host, &board)).await;
        if let Err(error) = loaded {
            tracing::error!(%error, "loading ended badly");
        }
        self.show(&error);
        let mut supervisor = Supervisor::new();
        supervisor.ready();
        let (since, mut settles) = (Instant::now(), self.options.launched);
        loop {
            supervisor.live(self.clock.now_ms());
            if shutdown.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_none() {
                let _ = folder.disk().remove(ENDPOINT.as_ref());
                return None;
            }
            // It has no report to go into; the log has it.
            let _ = self.heat.feel(self.clock.now_ms(), self.sensors, self.host);
            if since.elapsed() >= Duration::from_millis(SETTLED_MS)
                && let Some(place) = settles.take()
            {
                upgrade::settle(folder, place);
            }
            match identity::establish(folder, self.clock, damage) {
                Ok(bonds) => {
                    damage.push(format!("for a while this device could reach nobody: {error}"));
                    return Some(bonds);
                }
                Err(now) => self.show(&now),
            }
        }
    }

    fn show(&self, error: &Error) {
        let document = json!({
            "agent": env!("CARGO_PKG_VERSION"),
            "endpoint": self.endpoint.to_string(),
            "connected": false,
            "connection_problem": { "code": error.code(), "detail": error.to_string() },
            "models": {},
            "serving": records::serving(self.host),
            "pid": std::process::id(),
        });
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = document;
    }
}

fn load_all(folder: &Folder, host: &ModelHost, board: &str) {
    for name in journals::models(folder).unwrap_or_default() {
        let Ok(Some(UpdateJournal { confirmed, previous, .. })) = journals::read(folder, &name) else {
            continue;
        };
        let served = [confirmed, previous]
            .into_iter()
            .flatten()
            .any(|release| load(folder, host, board, &name, &release));
        if !served {
            tracing::error!(model = %name, "nothing confirmed can be loaded");
        }
    }
}

fn load(folder: &Folder, host: &ModelHost, board: &str, name: &ModelName, release: &Confirmed) -> bool {
    let _noted = host.notes().of(name).at_work();
    let model = folder.slot(name, release.slot).load(release.release, board);
    let installed = model.map_err(|fault| fault.to_string()).and_then(|model| {
        host.install(name.clone(), release.release, release.slot, model).map_err(|e| e.to_string())
    });
    installed.inspect_err(|problem| tracing::error!(model = %name, problem, "not loaded")).is_ok()
}

//! What is done once a day: things go whose time is over.

use crate::claims;
use crate::devices;
use crate::error::Result;
use crate::store::Store;
use flotilla_data::Quarantine;
use flotilla_identity::now_ms;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often.
const SWEEP: Duration = Duration::from_secs(24 * 60 * 60);

/// Sweeps now and every day.
pub(crate) async fn run(store: Arc<Store>, quarantine: Quarantine, stop: CancellationToken) {
    let mut rounds = tokio::time::interval(SWEEP);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = rounds.tick() => {}
        }
        if let Err(error) = claims::sweep(&store, now_ms()).await {
            tracing::error!(%error, "ended claims cannot be swept now");
        }
        if let Err(error) = give_up_uploads(&store, &quarantine).await {
            tracing::error!(%error, "uploads without consent cannot be swept now");
        }
        if let Err(error) = quarantine.tidy(now_ms()).await {
            tracing::error!(%error, "the quarantine of hard examples cannot be tidied up now");
        }
    }
}

/// A kill can come between the end of a consent and that of what was on its way.
async fn give_up_uploads(store: &Store, quarantine: &Quarantine) -> Result<()> {
    for device in quarantine.senders().await {
        if devices::senders_consents(store, &device).await?.is_empty()
            && let Err(error) = quarantine.give_up(&device).await
        {
            tracing::error!(%device, %error, "what was on its way stays until the next round");
        }
    }
    Ok(())
}

//! The service manager above the agent, as `sd_notify(3)` describes it: it hears when the agent is ready, that it lives,
//! and when it stops for good. Without one nothing is said.

use sd_notify::{NotifyState, notify};

/// Signs of life in the time after which the manager takes the agent for dead.
const SIGNS: u32 = 3;

/// What the service manager is told.
#[derive(Debug)]
pub(crate) struct Supervisor {
    interval_ms: Option<u64>,
    due_ms: u64,
}

impl Supervisor {
    /// As the environment says.
    pub(crate) fn new() -> Self {
        let watched = sd_notify::watchdog_enabled();
        let interval_ms =
            watched.map(|time| u64::try_from((time / SIGNS).as_millis()).unwrap_or(u64::MAX).max(1));
        Self { interval_ms, due_ms: 0 }
    }

    /// The local endpoint listens, and what is confirmed is being loaded.
    pub(crate) fn ready(&self) {
        tell(&[NotifyState::Ready]);
    }

    /// The agent was told to stop. One that makes way for another one must not say so: systemd would stop the whole service
    /// when its time for that is over, whatever the next agent says.
    pub(crate) fn stopping(&self) {
        tell(&[NotifyState::Stopping]);
    }

    /// Gives the sign of life if it is due.
    pub(crate) fn live(&mut self, now_ms: u64) {
        let Some(interval_ms) = self.interval_ms.filter(|_| now_ms >= self.due_ms) else { return };
        tell(&[NotifyState::Watchdog]);
        self.due_ms = now_ms + interval_ms;
    }

    /// When it is due.
    pub(crate) fn due_ms(&self) -> Option<u64> {
        self.interval_ms.map(|_| self.due_ms)
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = notify(state) {
        tracing::debug!(%error, "the service manager does not hear");
    }
}

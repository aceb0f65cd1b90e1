//! How a device comes into quarantine by itself: it fails one update after the other.

use super::device::{Device, Quarantine};
use crate::text::bounded;
use flotilla_identity::Actor;
use flotilla_protocol::{ErrorCode, ModelName, limits};

/// Updates in a row that a device may fail.
const FAILURES: u32 = 3;

impl Device {
    /// Takes note of the end of an update: why it failed, or that it did not. Says whether that brings the device into
    /// quarantine.
    pub(crate) fn updated(
        &mut self,
        failure: Option<(ErrorCode, &str)>,
        model: &ModelName,
        now_ms: u64,
    ) -> bool {
        let Some((code, detail)) = failure else {
            self.failed_updates = 0;
            return false;
        };
        self.failed_updates = self.failed_updates.saturating_add(1);
        let is_new = self.failed_updates >= FAILURES && self.quarantine.is_none();
        if is_new {
            let reason = format!(
                "{} updates in a row failed, the last one of model {model}: {detail} [{code}]",
                self.failed_updates
            );
            let by = Actor::system().id;
            self.quarantine = Some(Quarantine { at_ms: now_ms, by, reason: bounded(&reason, limits::TEXT) });
        }
        is_new
    }
}

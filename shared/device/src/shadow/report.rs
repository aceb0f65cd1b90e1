//! What a device says of a shadow.

use super::ShadowStep;
use super::machine::{Shadow, Wanted, Work};
use flotilla_protocol::message::{Failure, ShadowPhase, ShadowReport};

impl Shadow {
    /// The state to report; `None` if none is wanted.
    pub fn report(&self) -> Option<ShadowReport> {
        let Wanted::Release(wanted) = &self.wanted else { return None };
        let journal = &self.journal;
        let failed = journal.failed.as_ref().map(|failed| Failure {
            release: failed.release,
            code: failed.code,
            detail: failed.detail.clone(),
        });
        Some(ShadowReport {
            release: wanted.release,
            phase: self.phase(),
            attempt: wanted.attempt,
            bytes_done: self.bytes_done,
            bytes_total: self.bytes_total,
            bytes_reused: self.bytes_reused,
            failure: self.hindrance.clone().or(failed),
        })
    }

    fn phase(&self) -> ShadowPhase {
        if self.promoted {
            return ShadowPhase::Promoted;
        }
        let Some(held) = &self.journal.held else {
            let failed = self.journal.failed.is_some();
            return if failed { ShadowPhase::Failed } else { ShadowPhase::Downloading };
        };
        match (self.work, held.step) {
            (Work::Running { .. }, _) => ShadowPhase::Running,
            (Work::Starting { .. }, _) => ShadowPhase::Starting,
            (Work::Probing, _) => ShadowPhase::Probing,
            (Work::Verifying, _) => ShadowPhase::Verifying,
            (_, ShadowStep::Filling) => ShadowPhase::Downloading,
            (_, ShadowStep::Staged | ShadowStep::Passed) => ShadowPhase::Staged,
        }
    }
}

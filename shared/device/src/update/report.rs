//! What a device says of one model.

use super::machine::{Serving, Update, Wanted, Work};
use super::{Confirmed, Step};
use flotilla_protocol::Digest;
use flotilla_protocol::message::{Failure, ModelReport, Phase, SlotName};

impl Update {
    /// The state to report.
    pub fn report(&self) -> ModelReport {
        let journal = &self.journal;
        let failed = journal.failed.as_ref().map(|failed| Failure {
            release: failed.release,
            code: failed.code,
            detail: failed.detail.clone(),
        });
        let failure = self.hindrance.clone().or_else(|| self.trouble.clone()).or(failed);
        let probe = match (&journal.candidate, &journal.confirmed) {
            (Some(candidate), _) if candidate.probe.is_some() => candidate.probe.clone(),
            (_, Some(confirmed)) => confirmed.probe.clone(),
            _ => None,
        };
        ModelReport {
            phase: self.phase(),
            confirmed: journal.confirmed.as_ref().map(|c| c.release),
            candidate: journal.candidate.as_ref().map(|c| c.release),
            attempt: self.attempt(),
            slot: self.serving_slot(),
            bytes_done: self.bytes_done,
            bytes_total: self.bytes_total,
            bytes_reused: self.bytes_reused,
            bytes_rebuilt: self.bytes_rebuilt,
            bytes_patches: self.bytes_patches,
            probe,
            failure,
        }
    }

    /// The phase.
    pub fn phase(&self) -> Phase {
        if let Some(candidate) = &self.journal.candidate {
            return match (candidate.step, self.work) {
                (Step::Filling, Work::Verifying) => Phase::Verifying,
                (Step::Filling, _) => Phase::Downloading,
                (Step::Staged, Work::Probing) => Phase::Probing,
                (Step::Staged, _) => Phase::Staged,
                (Step::Trial, _) if matches!(self.serving, Serving::On { .. }) => Phase::Probation,
                (Step::Trial, _) => Phase::Switching,
            };
        }
        if self.reverting {
            Phase::Reverting
        } else if self.journal.failed.is_some() || self.trouble.is_some() {
            Phase::Failed
        } else if self.journal.confirmed.is_some() {
            Phase::Confirmed
        } else {
            Phase::Idle
        }
    }

    /// The confirmed release while it serves and no other is being tried.
    pub fn at_rest(&self) -> Option<&Confirmed> {
        let confirmed = self.journal.confirmed.as_ref()?;
        let serves = matches!(self.serving, Serving::On { release, .. } if release == confirmed.release);
        let tried = self.journal.candidate.as_ref().is_some_and(|candidate| candidate.step != Step::Filling);
        (serves && !tried).then_some(confirmed)
    }

    /// The release on its way in.
    pub fn coming(&self) -> Option<Digest> {
        self.journal.candidate.as_ref().map(|candidate| candidate.release)
    }

    /// The slot that serves.
    pub fn serving_slot(&self) -> Option<SlotName> {
        match self.serving {
            Serving::On { slot, .. } => Some(slot),
            Serving::Loading { before, .. } => before,
            Serving::Off | Serving::Broken { .. } => None,
        }
    }

    fn attempt(&self) -> u32 {
        let journal = &self.journal;
        if let Some(candidate) = &journal.candidate {
            return candidate.attempt;
        }
        if let Some(failed) = &journal.failed {
            return failed.attempt;
        }
        match (&self.wanted, &journal.confirmed) {
            (Wanted::Release(wanted), Some(confirmed)) if wanted.release == confirmed.release => {
                wanted.attempt
            }
            _ => 0,
        }
    }
}

//! What devices must not go back to: a release that was rolled back while something newer stood on them.

use super::state::Sent;
use flotilla_protocol::message::DesiredModel;
use flotilla_protocol::{DeviceId, Digest, ModelName};
use flotilla_storage::{Entity, Table, compound};
use serde::{Deserialize, Serialize};

/// Releases of one model that are remembered of a device, the newest ones.
const REMEMBERED: usize = 8;

/// The releases of a model that a device must not go back to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Withdrawn {
    device: DeviceId,
    model: ModelName,
    entries: Vec<Entry>,
}

/// One of them, as it stood in the device's document: an attempt names one placement of a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    release: Digest,
    attempt: u32,
    /// What stood there before.
    previous: Option<DesiredModel>,
}

impl Withdrawn {
    pub(super) fn new(device: DeviceId, model: ModelName) -> Self {
        Self { device, model, entries: Vec::new() }
    }

    pub(super) fn id_of(device: &DeviceId, model: &ModelName) -> Vec<u8> {
        compound([device.as_str(), model.as_str()])
    }

    /// A release goes back that stands on the device no more.
    pub(super) fn note(&mut self, release: Digest, sent: &Sent) {
        let (attempt, previous) = (sent.attempt, sent.previous.clone());
        if self.find(&release, attempt).is_none() {
            self.entries.push(Entry { release, attempt, previous });
        }
        let over = self.entries.len().saturating_sub(REMEMBERED);
        self.entries.drain(..over);
    }

    /// What to go back to instead of what was there before.
    pub(super) fn instead(&self, before: Option<DesiredModel>) -> Option<DesiredModel> {
        let mut before = before;
        // Each step goes back in time, and no entry is met twice.
        for _ in 0..self.entries.len() {
            let Some(entry) = before.as_ref().and_then(|to| self.find(&to.release, to.attempt)) else {
                break;
            };
            before = entry.previous.clone();
        }
        before
    }

    fn find(&self, release: &Digest, attempt: u32) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.release == *release && entry.attempt == attempt)
    }
}

impl Entity for Withdrawn {
    const TABLE: Table = Table::new("withdrawn");

    fn id(&self) -> Vec<u8> {
        Self::id_of(&self.device, &self.model)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::super::testing::{device, model};
    use super::*;

    fn placed(release: u8, attempt: u32) -> DesiredModel {
        DesiredModel { release: Digest::of(&[release]), envelope_bytes: 1, attempt }
    }

    fn sent(attempt: u32, previous: Option<DesiredModel>) -> Sent {
        Sent { desired_version: 1, attempt, at_ms: 1, previous }
    }

    #[test]
    fn one_goes_back_past_everything_that_was_withdrawn() {
        let mut withdrawn = Withdrawn::new(device(1), model());
        withdrawn.note(Digest::of(&[2]), &sent(2, Some(placed(1, 1))));
        withdrawn.note(Digest::of(&[3]), &sent(3, Some(placed(2, 2))));
        assert_eq!(withdrawn.instead(Some(placed(3, 3))), Some(placed(1, 1)));
        assert_eq!(withdrawn.instead(Some(placed(3, 9))), Some(placed(3, 9)), "it was placed again since");
        assert_eq!(withdrawn.instead(None), None);
        let again = withdrawn.clone();
        withdrawn.note(Digest::of(&[3]), &sent(3, Some(placed(2, 2))));
        assert_eq!(withdrawn, again);
    }

    #[test]
    fn few_are_remembered_and_a_circle_ends() {
        let mut withdrawn = Withdrawn::new(device(1), model());
        (0..20).for_each(|n| withdrawn.note(Digest::of(&[n]), &sent(n.into(), None)));
        assert_eq!(withdrawn.entries.len(), REMEMBERED);
        withdrawn.entries = vec![
            Entry { release: Digest::of(&[1]), attempt: 1, previous: Some(placed(2, 2)) },
            Entry { release: Digest::of(&[2]), attempt: 2, previous: Some(placed(1, 1)) },
        ];
        assert!(withdrawn.instead(Some(placed(1, 1))).unwrap().attempt <= 2);
    }
}

//! Messages that cannot be used. Whoever sends many of them must not fill the outbox: each kind is said once in a while,
//! and how many there were since.

use super::Daemon;
use flotilla_protocol::message::EventKind;
use flotilla_protocol::topic::Down;
use flotilla_protocol::{ErrorCode, codec, limits};
use std::collections::BTreeMap;

/// One event of a kind in so long.
const INTERVAL_MS: u64 = 10 * 60 * 1_000;

/// When each kind may be said again, and how many were not said.
#[derive(Default)]
pub(super) struct Unusable(BTreeMap<(Down, ErrorCode), Said>);

struct Said {
    again_ms: u64,
    since: u64,
}

impl Unusable {
    /// Counts a message. Gives the number of those that were not said before it, if it is to be said.
    fn count(&mut self, down: Down, code: ErrorCode, now_ms: u64) -> Option<u64> {
        let said = self.0.entry((down, code)).or_insert(Said { again_ms: 0, since: 0 });
        if now_ms < said.again_ms {
            said.since = said.since.saturating_add(1);
            return None;
        }
        said.again_ms = now_ms.saturating_add(INTERVAL_MS);
        Some(std::mem::take(&mut said.since))
    }
}

impl Daemon {
    /// Decodes a message; one that cannot be read has no effect.
    pub(super) fn decode<T: serde::de::DeserializeOwned>(&mut self, down: Down, payload: &[u8]) -> Option<T> {
        match codec::decode(payload, limits::MQTT_PAYLOAD) {
            Ok(message) => Some(message),
            Err(error) => {
                self.unusable(down, error.code(), error.to_string());
                None
            }
        }
    }

    /// Says that a message cannot be used.
    pub(super) fn unusable(&mut self, down: Down, code: ErrorCode, problem: String) {
        let channel = down.as_str();
        tracing::debug!(channel, %code, problem, "a message cannot be used");
        let Some(since) = self.unusable.count(down, code, self.clock.now_ms()) else { return };
        let more = match since {
            0 => String::new(),
            n => format!("; {n} more since the last time"),
        };
        self.event(EventKind::Failed, Some(code), format!("{channel}: {problem}{more}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_said_once_in_a_while_with_its_number() {
        let mut unusable = Unusable::default();
        let (chunk, malformed) = (Down::Chunk, ErrorCode::Malformed);
        assert_eq!(unusable.count(chunk, malformed, 5), Some(0));
        for n in 0..1_000 {
            assert_eq!(unusable.count(chunk, malformed, 5 + n), None);
        }
        assert_eq!(unusable.count(chunk, ErrorCode::TooLarge, 6), Some(0), "another kind");
        assert_eq!(unusable.count(Down::Ack, malformed, 6), Some(0), "another channel");
        assert_eq!(unusable.count(chunk, malformed, 5 + INTERVAL_MS), Some(1_000));
        assert_eq!(unusable.count(chunk, malformed, 6 + INTERVAL_MS), None);
    }
}

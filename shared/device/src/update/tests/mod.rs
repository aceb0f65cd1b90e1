//! One update at a time: what the device does, in order.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod probation;
mod road;
mod way_back;

use super::*;
use crate::fault::Fault;
use flotilla_protocol::message::{DesiredModel, EventKind, Phase, ProbeReport, SlotName};
use flotilla_protocol::{Digest, ErrorCode};

const PROBATION_MS: u64 = 60_000;

fn ctx(now_ms: u64) -> Context {
    Context {
        now_ms,
        trusted_now_ms: 1_000,
        floor: 0,
        probation_ms: PROBATION_MS,
        probation_error_per_mille: 50,
        memory_bytes: 1_000,
        temperature_c: 90,
        random: 0,
    }
}

fn release(name: &str) -> Digest {
    Digest::of(name.as_bytes())
}

fn wanted(name: &str) -> Event {
    wanted_attempt(name, 0)
}

fn wanted_attempt(name: &str, attempt: u32) -> Event {
    Event::Desired(Some(DesiredModel { release: release(name), envelope_bytes: 900, attempt }))
}

fn facts(counter: u64) -> ReleaseFacts {
    ReleaseFacts { counter, expires_at_ms: Some(2_000), total_bytes: 100, promise: Promise::default() }
}

fn served(predictions: u64, failures: u64) -> Health {
    Health { predictions, failures, ..Health::default() }
}

fn probe_report() -> ProbeReport {
    ProbeReport { vectors: 8, max_abs_error: 0.0, p50_ms: 1.0, p95_ms: 2.0, peak_rss_bytes: 3 }
}

/// A machine and the last effects; answers the open effect with what the test says.
struct Desk {
    update: Update,
    effects: Vec<Effect>,
    now_ms: u64,
}

impl Desk {
    fn new(journal: UpdateJournal) -> Self {
        Self::started(journal, false)
    }

    fn started(journal: UpdateJournal, crashed: bool) -> Self {
        let mut desk =
            Self { update: Update::new("digits".parse().unwrap(), journal), effects: Vec::new(), now_ms: 0 };
        desk.give(Event::Started { crashed });
        desk
    }

    fn give(&mut self, event: Event) -> &[Effect] {
        let (next, effects) = self.update.step(event, &ctx(self.now_ms));
        (self.update, self.effects) = (next, effects);
        &self.effects
    }

    fn ticket(&self) -> u64 {
        let of = |effect: &Effect| match effect {
            Effect::FetchRelease { ticket, .. }
            | Effect::FetchFiles { ticket, .. }
            | Effect::VerifyFiles { ticket, .. }
            | Effect::Probe { ticket, .. }
            | Effect::Activate { ticket, .. } => Some(*ticket),
            _ => None,
        };
        self.effects
            .iter()
            .rev()
            .find_map(of)
            .unwrap_or_else(|| panic!("nothing to answer in {:?}", self.effects))
    }

    fn reach_files(&mut self, name: &str, counter: u64) {
        self.give(wanted(name));
        let ticket = self.ticket();
        self.give(Event::EnvelopeFetched { ticket, result: Ok(facts(counter)) });
    }

    fn reach_probe(&mut self, name: &str, counter: u64) {
        self.reach_files(name, counter);
        let ticket = self.ticket();
        self.give(Event::FilesComplete { ticket, result: Ok(()) });
        self.give(Event::FilesVerified { ticket, result: Ok(()) });
    }

    fn reach_switch(&mut self, name: &str, counter: u64) {
        self.reach_probe(name, counter);
        let ticket = self.ticket();
        self.give(Event::ProbeDone { ticket, result: Ok(probe_report()) });
    }

    fn reach_probation(&mut self, name: &str, counter: u64) {
        self.reach_switch(name, counter);
        let ticket = self.ticket();
        self.give(Event::SwitchDone { ticket });
        assert_eq!(self.update.phase(), Phase::Probation);
    }

    fn reach_confirmed(&mut self, name: &str, counter: u64) {
        self.reach_probation(name, counter);
        self.now_ms += PROBATION_MS;
        self.give(Event::Tick { health: served(10, 0) });
        assert_eq!(self.update.phase(), Phase::Confirmed);
    }

    fn persisted(&self) -> &UpdateJournal {
        match self.effects.first() {
            Some(Effect::PersistJournal(journal)) => journal,
            other => panic!("no journal write, but {other:?}"),
        }
    }

    fn failure(&self) -> Option<ErrorCode> {
        self.update.report().failure.map(|failure| failure.code)
    }

    fn events(&self) -> Vec<(EventKind, Option<ErrorCode>)> {
        let of = |effect: &Effect| match effect {
            Effect::EmitEvent(event) => Some((event.kind, event.code)),
            _ => None,
        };
        self.effects.iter().filter_map(of).collect()
    }

    fn activated(&self) -> Option<(SlotName, Digest)> {
        self.effects.iter().find_map(|effect| match effect {
            Effect::Activate { slot, release, .. } => Some((*slot, *release)),
            _ => None,
        })
    }
}

fn fresh() -> Desk {
    Desk::new(UpdateJournal::default())
}

//! What is different for the agent's own release.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use super::*;
use crate::fault::Fault;
use flotilla_protocol::message::{DesiredModel, Phase, ProbeReport, SlotName};
use flotilla_protocol::{Digest, ErrorCode};

const PROBATION_MS: u64 = 60_000;

fn release(name: &str) -> Digest {
    Digest::of(name.as_bytes())
}

/// The agent's machine, whose launcher does what it is told.
struct Agent {
    update: Update,
    effects: Vec<Effect>,
    now_ms: u64,
}

impl Agent {
    fn new(journal: UpdateJournal) -> Self {
        let mut agent = Self { update: Update::of_agent(journal), effects: Vec::new(), now_ms: 0 };
        agent.give(Event::Started { crashed: false });
        agent
    }

    fn give(&mut self, event: Event) {
        let ctx = Context {
            now_ms: self.now_ms,
            trusted_now_ms: 1_000,
            floor: 0,
            probation_ms: PROBATION_MS,
            probation_error_per_mille: 50,
            memory_bytes: 1_000,
            temperature_c: 90,
            random: 0,
        };
        (self.update, self.effects) = self.update.step(event, &ctx);
    }

    fn want(&mut self, name: &str, attempt: u32) {
        self.give(Event::Desired(Some(DesiredModel { release: release(name), envelope_bytes: 9, attempt })));
    }

    fn ticket(&self) -> u64 {
        let of = |effect: &Effect| match effect {
            Effect::FetchRelease { ticket, .. }
            | Effect::FetchFiles { ticket, .. }
            | Effect::Activate { ticket, .. } => Some(*ticket),
            _ => None,
        };
        self.effects
            .iter()
            .rev()
            .find_map(of)
            .unwrap_or_else(|| panic!("nothing is open in {:?}", self.effects))
    }

    fn activated(&self) -> Option<Digest> {
        self.effects.iter().rev().find_map(|effect| match effect {
            Effect::Activate { release, .. } => Some(*release),
            _ => None,
        })
    }

    /// What was just begun is fetched, verified and probed, and is to be activated.
    fn reach_switch(&mut self) {
        let promise = Promise::default();
        let facts = ReleaseFacts { counter: 1, expires_at_ms: None, total_bytes: 1, promise };
        let ticket = self.ticket();
        self.give(Event::EnvelopeFetched { ticket, result: Ok(facts) });
        let ticket = self.ticket();
        self.give(Event::FilesComplete { ticket, result: Ok(()) });
        self.give(Event::FilesVerified { ticket, result: Ok(()) });
        let report =
            ProbeReport { vectors: 1, max_abs_error: 0.0, p50_ms: 1.0, p95_ms: 1.0, peak_rss_bytes: 1 };
        self.give(Event::ProbeDone { ticket, result: Ok(report) });
        assert_eq!(self.update.phase(), Phase::Switching);
    }

    fn runs(&mut self) {
        let ticket = self.ticket();
        self.give(Event::SwitchDone { ticket });
    }

    fn does_not_run(&mut self, fault: Fault) {
        let ticket = self.ticket();
        self.give(Event::LoadFailed { ticket, fault });
    }

    fn tick(&mut self, ms: u64, unready: Option<Unready>) {
        self.now_ms += ms;
        self.give(Event::Tick { health: Health { unready, ..Health::default() } });
    }

    fn failure(&self) -> Option<ErrorCode> {
        self.update.journal().failed.as_ref().map(|failed| failed.code)
    }
}

/// An agent whose release `one` is confirmed.
fn settled() -> Agent {
    let mut agent = Agent::new(UpdateJournal::default());
    agent.want("one", 0);
    agent.reach_switch();
    agent.runs();
    agent.tick(0, None);
    agent.tick(PROBATION_MS, None);
    assert_eq!(agent.update.phase(), Phase::Confirmed);
    agent
}

fn offline() -> Fault {
    Fault::transient(ErrorCode::AgentUnhealthy, "no session")
}

#[test]
fn a_full_disk_at_the_switch_is_waited_for_however_long_and_however_often_the_agent_starts() {
    let mut agent = settled();
    agent.want("two", 0);
    agent.reach_switch();
    for round in 0..30 {
        agent.does_not_run(Fault::transient(ErrorCode::StorageIo, "full"));
        assert_eq!((agent.failure(), agent.update.phase()), (None, Phase::Switching), "round {round}");
        assert_eq!(
            agent.update.report().failure.unwrap().code,
            ErrorCode::StorageIo,
            "what holds it up is said"
        );
        if round % 3 == 0 {
            agent = Agent::new(agent.update.journal().clone());
        } else {
            agent.tick(600_000, None);
        }
        assert_eq!(agent.activated(), Some(release("two")));
    }
    agent.runs();
    assert_eq!((agent.update.phase(), agent.update.report().failure), (Phase::Probation, None));
}

#[test]
fn an_agent_that_cannot_go_back_at_once_tries_again_and_forgets_nothing() {
    let mut agent = settled();
    agent.want("two", 0);
    agent.reach_switch();
    agent.runs();
    agent.want("one", 1);
    for _ in 0..3 {
        assert_eq!(agent.activated(), Some(release("one")));
        agent.does_not_run(Fault::transient(ErrorCode::StorageIo, "full"));
        assert!(!agent.effects.contains(&Effect::Deactivate), "what is confirmed stays so");
        agent.tick(600_000, None);
    }
    agent.runs();
    assert_eq!((agent.update.phase(), agent.update.report().failure), (Phase::Confirmed, None));
}

#[test]
fn a_binary_that_changed_before_it_was_handed_over_is_fetched_anew() {
    let mut agent = settled();
    agent.want("two", 0);
    agent.reach_switch();
    agent.does_not_run(Fault::transient(ErrorCode::StorageCorrupt, "changed on the disk"));
    assert_eq!((agent.failure(), agent.update.phase()), (None, Phase::Downloading));
    assert_eq!(agent.activated(), Some(release("one")), "what is confirmed runs");
}

#[test]
fn taking_an_upgrade_back_leaves_what_was_confirmed_at_every_step() {
    // Before anything is confirmed.
    let mut agent = Agent::new(UpdateJournal::default());
    agent.want("one", 0);
    agent.give(Event::Desired(None));
    assert!(agent.effects.contains(&Effect::Cancel), "{:?}", agent.effects);
    assert!(agent.update.journal().is_empty());
    agent.want("one", 0);
    agent.reach_switch();
    agent.give(Event::Desired(None));
    assert!(agent.effects.contains(&Effect::Deactivate), "back to the installed one");
    assert!(agent.update.journal().is_empty());

    let mut agent = settled();
    let confirmed = agent.update.journal().clone();
    for _ in 0..2 {
        agent.give(Event::Desired(None));
        assert_eq!(agent.effects.first(), None, "an agent is never removed");
    }
    agent.want("two", 0);
    agent.give(Event::Desired(None));
    assert_eq!(agent.update.journal(), &confirmed);
    agent.want("two", 0);
    agent.reach_switch();
    agent.runs();
    agent.give(Event::Desired(None));
    assert_eq!((agent.activated(), agent.update.journal()), (Some(release("one")), &confirmed));
    assert!(!agent.effects.contains(&Effect::Deactivate));
}

#[test]
fn an_agent_needs_a_session_where_the_one_before_it_had_one_and_must_never_be_refused() {
    let of = Unready::of_link;
    let (network, timeout, tls) = (Some(ErrorCode::Network), Some(ErrorCode::Timeout), Some(ErrorCode::Tls));
    for online in [false, true] {
        assert_eq!(of(true, tls, online), None);
        assert_eq!(of(false, None, online), Some(Unready::Offline), "nothing is known yet");
        assert_eq!(of(false, tls, online), Some(Unready::Refused));
        assert_eq!(of(false, Some(ErrorCode::PermissionDenied), online), Some(Unready::Refused));
        let offline = online.then_some(Unready::Offline);
        assert_eq!((of(false, network, online), of(false, timeout, online)), (offline, offline));
        assert_eq!(of(false, Some(ErrorCode::Busy), online), offline);
    }
}

#[test]
fn an_agent_must_still_be_healthy_at_the_end_of_its_probation() {
    for (why, again) in [(Unready::Silent, None), (Unready::Refused, None), (Unready::Offline, Some(0))] {
        let mut agent = settled();
        agent.want("two", 0);
        agent.reach_switch();
        agent.runs();
        agent.tick(0, None);
        agent.tick(PROBATION_MS, Some(why));
        assert_eq!(agent.update.phase(), Phase::Probation, "not confirmed");
        let next = agent.effects.iter().find_map(|e| match e {
            Effect::ScheduleTick { at_ms } => Some(*at_ms),
            _ => None,
        });
        assert!(next.unwrap() > agent.now_ms, "and not asked without a pause");
        agent.tick(59_000, Some(why));
        assert_eq!(agent.update.phase(), Phase::Probation);
        let mut recovers = Agent { update: agent.update.clone(), effects: Vec::new(), ..agent };
        recovers.tick(1_000, None);
        assert_eq!(recovers.update.journal().confirmed.as_ref().unwrap().release, release("two"));
        agent.tick(1_000, Some(why));
        assert_eq!(agent.failure(), Some(ErrorCode::AgentUnhealthy));
        assert_eq!(agent.update.journal().failed.as_ref().unwrap().again, again);
        assert_eq!(agent.activated(), Some(release("one")));
    }
}

#[test]
fn an_agent_that_got_no_session_is_tried_again_a_few_times_once_the_one_before_has_one() {
    let mut agent = settled();
    agent.want("two", 0);
    for round in 0..=SESSION_TRIES {
        agent.reach_switch();
        agent.does_not_run(offline());
        assert_eq!(agent.failure(), Some(ErrorCode::AgentUnhealthy));
        // The agent from before is started, without a network at first.
        agent = Agent::new(agent.update.journal().clone());
        agent.runs();
        agent.want("two", 0);
        assert_eq!((agent.update.phase(), agent.failure()), (Phase::Failed, Some(ErrorCode::AgentUnhealthy)));
        agent.give(Event::Online);
        assert_eq!(agent.failure().is_none(), round < SESSION_TRIES, "round {round}");
    }
    assert_eq!(agent.update.phase(), Phase::Failed, "in the end it is the release");
    agent.want("two", 1);
    assert_eq!(agent.update.journal().candidate.as_ref().unwrap().again, 0, "an operator has the last word");
    // What failed for another reason is not taken up again.
    let mut agent = settled();
    agent.want("two", 0);
    agent.reach_switch();
    agent.does_not_run(Fault::lasting(ErrorCode::AgentUnhealthy, "refused"));
    agent.runs();
    agent.give(Event::Online);
    assert_eq!(agent.update.phase(), Phase::Failed);
    assert_eq!(agent.update.journal().idle_slot(), SlotName::B);
}

//! Where experiments go: through all states, whatever is cut off, and never against an operator.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use super::machine::{Effect, Event, Part, Seen, step};
use super::request::{ExperimentRequest, Members};
use super::state::{Experiment, ExperimentState as State, Half, Winner, halves};
use crate::error::Error;
use crate::rollout::{RolloutControl, RolloutState, Wanted};
use flotilla_gates::change::{Change, Pair};
use flotilla_gates::metric::Metric;
use flotilla_gates::versus::{Comparison, Side};
use flotilla_protocol::{ActorId, DeviceId, Digest, ExperimentId, ModelName};
use proptest::prelude::*;
use std::collections::BTreeMap;

const SOAK_MS: u64 = 60_000;
/// Devices of each half.
const HALF: usize = 60;

fn experiment(winner: Winner) -> Experiment {
    let id = ExperimentId::new("experiment-1").unwrap();
    let mut watch = ExperimentRequest::of(Digest::of(b"a"), Digest::of(b"b")).check().unwrap();
    (watch.soak_ms, watch.max_soak_ms) = (SOAK_MS, 4 * SOAK_MS);
    let half = |part: &str| Half {
        wanted: Wanted { release: Digest::of(part.as_bytes()), envelope_bytes: 100, version: 1, counter: 1 },
        devices: HALF as u32,
        rollout: Some(Experiment::rollout_id(&id, part, 0)),
    };
    Experiment {
        a: half("a"),
        b: half("b"),
        id: id.clone(),
        name: String::new(),
        model: ModelName::new("digits").unwrap(),
        share: 50,
        members: Members::All,
        left_out: BTreeMap::new(),
        watch,
        winner,
        state: State::Running,
        reason: String::new(),
        compared: None,
        decision: None,
        promotion: None,
        goes_back: false,
        created_by: admin(),
        created_at_ms: 0,
        finished_at_ms: None,
    }
}

fn admin() -> ActorId {
    ActorId::new("administrator").unwrap()
}

/// What the halves say of each other if B fails by so much more often.
fn comparison(experiment: &Experiment, worse: f64) -> Comparison {
    let pair = Pair {
        updated: Change { before: 0.1, after: 0.1 + worse },
        waiting: Some(Change { before: 0.1, after: 0.1 }),
    };
    let pairs = BTreeMap::from([(Metric::Errors, vec![pair; HALF])]);
    Comparison::new(&experiment.watch.health, 0, &pairs)
}

/// An experiment, its rollouts, and what its devices would say.
struct World {
    experiment: Experiment,
    rollouts: BTreeMap<Part, RolloutState>,
    /// How often each part was really started.
    started: BTreeMap<Part, u32>,
    says: Option<f64>,
    now_ms: u64,
}

impl World {
    fn new(winner: Winner, says: Option<f64>) -> Self {
        let rollouts = BTreeMap::new();
        Self { experiment: experiment(winner), rollouts, started: BTreeMap::new(), says, now_ms: 0 }
    }

    fn seen(&self) -> Seen {
        let of = |part| self.rollouts.get(&part).copied();
        Seen { a: of(A), b: of(B), promotion: of(Part::Promotion) }
    }

    /// One round of the service, which is killed before its commit, before the effect, or not.
    fn round(&mut self, killed: u8) {
        let (next, effects) = step(&self.experiment, &Event::Seen(self.seen()), self.now_ms).unwrap();
        if killed == 1 {
            return;
        }
        if next != self.experiment {
            self.experiment = next;
            return;
        }
        for effect in effects {
            if killed == 2 {
                return;
            }
            self.perform(effect);
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Start(part) => {
                let started = &mut self.started;
                self.rollouts.entry(part).or_insert_with(|| {
                    *started.entry(part).or_insert(0) += 1;
                    RolloutState::Running
                });
            }
            Effect::Control(part, RolloutControl::Rollback) => {
                self.rollouts.insert(part, RolloutState::Stopping);
            }
            Effect::Control(part, control) => {
                assert_eq!(control, RolloutControl::Abort);
                self.rollouts.insert(part, RolloutState::Aborted);
            }
            Effect::Compare => {
                let silent = Comparison::default();
                let said = self.says.map_or(silent, |worse| comparison(&self.experiment, worse));
                self.tell(&Event::Compared(said)).unwrap();
            }
        }
    }

    fn tell(&mut self, event: &Event) -> Result<(), Error> {
        let (next, effects) = step(&self.experiment, event, self.now_ms)?;
        assert_eq!(effects, []);
        self.experiment = next;
        Ok(())
    }

    /// Rounds until nothing happens any more; rollouts come to their ends meanwhile.
    fn run(&mut self, mut killed: impl FnMut() -> u8) {
        for _ in 0..400 {
            self.round(killed());
            for state in self.rollouts.values_mut() {
                *state = match *state {
                    RolloutState::Running => RolloutState::Succeeded,
                    RolloutState::Stopping => RolloutState::RolledBack,
                    other => other,
                };
            }
            self.now_ms += SOAK_MS / 10;
        }
    }

    fn come_to(winner: Winner, says: Option<f64>) -> Self {
        let mut world = Self::new(winner, says);
        world.run(|| 0);
        world
    }

    fn winner(&self) -> Option<Side> {
        self.experiment.decision.as_ref().unwrap().winner
    }
}

const A: Part = Part::Half(Side::A);
const B: Part = Part::Half(Side::B);

#[test]
fn the_better_release_is_promoted_where_evidence_decides() {
    for (says, winner, why) in [
        (0.1, Side::A, "b does worse"),
        (-0.1, Side::B, "a does worse"),
        (0.0, Side::A, "no difference that matters"),
    ] {
        let world = World::come_to(Winner::Auto, Some(says));
        assert_eq!((world.experiment.state, world.winner()), (State::Succeeded, Some(winner)), "{says}");
        assert!(world.experiment.decision.as_ref().unwrap().reason.contains(why), "{says}");
        assert_eq!(world.experiment.promotion.as_ref().unwrap().side, winner);
        assert!(world.experiment.finished_at_ms.is_some());
        assert_eq!(world.started, BTreeMap::from([(A, 1), (B, 1), (Part::Promotion, 1)]));
    }
}

#[test]
fn an_operator_is_asked_who_wants_to_be_or_where_nothing_is_certain() {
    let mut asked = World::come_to(Winner::Ask, Some(0.1));
    assert_eq!((asked.experiment.state, asked.winner()), (State::Decided, Some(Side::A)));
    // The operator knows better.
    asked.tell(&Event::Promote { actor: admin(), side: Some(Side::B), to_all: false }).unwrap();
    asked.tell(&Event::Promote { actor: admin(), side: Some(Side::B), to_all: false }).unwrap();
    let other = asked.tell(&Event::Promote { actor: admin(), side: Some(Side::A), to_all: false });
    assert!(matches!(other, Err(Error::ExperimentState { state: "promoting", .. })));
    asked.run(|| 0);
    assert_eq!(asked.experiment.state, State::Succeeded);
    assert_eq!(asked.experiment.promotion.as_ref().unwrap().side, Side::B);

    let mut silent = World::come_to(Winner::Auto, None);
    assert_eq!((silent.experiment.state, silent.winner()), (State::Decided, None));
    assert!(silent.experiment.reason.contains("the time is up"));
    assert_eq!(silent.experiment.compared.as_ref().unwrap().b.windows, 3, "1 + 2 + what was left of 4");
    let which = silent.tell(&Event::Promote { actor: admin(), side: None, to_all: false });
    assert!(matches!(which, Err(Error::Invalid(_))));
}

#[test]
fn a_half_that_comes_to_nothing_leaves_the_other_by_default() {
    for (lost, left) in [(A, Side::B), (B, Side::A)] {
        let mut world = World::new(Winner::Auto, Some(0.0));
        world.round(0);
        // Not while the other one is still under way.
        world.rollouts.insert(lost, RolloutState::RolledBack);
        world.round(0);
        assert_eq!(world.experiment.state, State::Running);
        world.run(|| 0);
        assert_eq!((world.experiment.state, world.winner()), (State::Succeeded, Some(left)));
        assert!(world.experiment.decision.as_ref().unwrap().reason.contains("by default"));
    }
    let mut both = World::new(Winner::Auto, Some(0.0));
    both.round(0);
    both.rollouts = BTreeMap::from([(A, RolloutState::RolledBack), (B, RolloutState::Aborted)]);
    both.run(|| 0);
    assert_eq!(both.experiment.state, State::Failed);
    assert!(both.experiment.finished_at_ms.is_some());
}

#[test]
fn a_stop_leaves_devices_as_they_are_or_takes_both_halves_back() {
    for back in [false, true] {
        for rounds in 0..6 {
            let mut world = World::new(Winner::Ask, Some(0.1));
            (0..rounds).for_each(|_| {
                world.round(0);
                world.now_ms += SOAK_MS;
            });
            world.tell(&Event::Stop { actor: admin(), back }).unwrap();
            let stopped = world.experiment.clone();
            world.tell(&Event::Stop { actor: admin(), back }).unwrap();
            assert_eq!(world.experiment, stopped, "again, it changes nothing");
            world.run(|| 0);
            assert_eq!(world.experiment.state, State::Stopped);
            assert!(world.experiment.finished_at_ms.is_some());
            let end = if back { RolloutState::RolledBack } else { RolloutState::Aborted };
            assert!(
                world.rollouts.values().all(|state| *state == end),
                "{back} {rounds} {:?}",
                world.rollouts
            );
            let late = world.tell(&Event::Promote { actor: admin(), side: Some(Side::A), to_all: false });
            assert!(matches!(late, Err(Error::ExperimentState { state: "stopped", .. })));
        }
    }
}

#[test]
fn what_cannot_be_started_ends_it_with_the_reason() {
    let mut world = World::new(Winner::Auto, Some(0.0));
    world.rollouts.insert(A, RolloutState::Running);
    world.tell(&Event::Refused(B, "nobody is left".into())).unwrap();
    world.run(|| 0);
    assert_eq!(world.experiment.state, State::Failed);
    assert!(world.experiment.reason.contains("half b cannot be rolled out: nobody is left"));
}

#[test]
fn a_clock_that_was_ahead_ends_no_window_early() {
    let mut world = World::new(Winner::Auto, Some(0.1));
    world.rollouts = BTreeMap::from([(A, RolloutState::Succeeded), (B, RolloutState::Succeeded)]);
    world.now_ms = 10 * SOAK_MS;
    world.round(0);
    assert_eq!(world.experiment.state, State::Comparing);
    world.now_ms = SOAK_MS;
    world.round(0);
    world.round(0);
    assert_eq!(world.experiment.state, State::Comparing);
    assert_eq!(world.experiment.compared.as_ref().unwrap().b.window_ms, SOAK_MS);
}

proptest! {
    #[test]
    fn kills_change_nothing(
        kills in proptest::collection::vec(0u8..3, 1..60),
        says in prop_oneof![Just(None), Just(Some(0.1)), Just(Some(-0.1)), Just(Some(0.0))],
        auto in any::<bool>(),
    ) {
        let winner = if auto { Winner::Auto } else { Winner::Ask };
        let undisturbed = World::come_to(winner, says);
        let mut killed = World::new(winner, says);
        let mut kills = kills.into_iter();
        killed.run(|| kills.next().unwrap_or(0));
        prop_assert_eq!(killed.experiment.state, undisturbed.experiment.state);
        prop_assert_eq!(&killed.experiment.decision, &undisturbed.experiment.decision);
        prop_assert_eq!(&killed.started, &undisturbed.started);
        prop_assert_eq!(&killed.rollouts, &undisturbed.rollouts);
    }

    #[test]
    fn halves_are_stable_and_as_large_as_asked(devices in 2usize..300, share in 1u8..100) {
        let id = ExperimentId::new("experiment-1").unwrap();
        let all: Vec<DeviceId> = (0..devices).map(|n| DeviceId::new(format!("d{n}")).unwrap()).collect();
        let (a, b) = halves(&id, all.clone(), share);
        prop_assert_eq!(a.len() + b.len(), devices);
        prop_assert_eq!(b.len(), devices * usize::from(share) / 100);
        let reversed = all.into_iter().rev().collect();
        prop_assert_eq!(halves(&id, reversed, share), (a, b), "whatever order they come in");
    }
}

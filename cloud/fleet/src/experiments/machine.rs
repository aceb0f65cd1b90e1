//! Where an experiment goes from where it stands: pure, and whole in this file.
//!
//! ```text
//! running -> comparing -> decided -> promoting -> succeeded
//!    |           |           |           |
//!    +-----------+-----------+-----------+-> stopped (an operator), failed (nothing left to compare or promote)
//! ```
//!
//! What is to be done follows from what is stored and seen alone, again and again until it is seen to be done: an effect
//! that was cut off, or done twice, is all the same.

use super::state::{Contest, Decision, Experiment, ExperimentState as State, Promotion, Winner};
use crate::error::{Error, Result};
use crate::rollout::{RolloutControl, RolloutState, Watched};
use flotilla_gates::gate::Look;
use flotilla_gates::versus::{Comparison, Outcome, Side};
use flotilla_protocol::ActorId;

/// A rollout of an experiment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Part {
    /// That of a half.
    Half(Side),
    /// That of the winner to the others.
    Promotion,
}

/// Where the rollouts stand; none where there is none of that id yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) a: Option<RolloutState>,
    pub(super) b: Option<RolloutState>,
    pub(super) promotion: Option<RolloutState>,
}

/// What happens to an experiment.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// Somebody has looked.
    Seen(Seen),
    /// The halves were compared at the end of a window.
    Compared(Comparison),
    /// A rollout cannot be started, and never will be.
    Refused(Part, String),
    /// An operator ends it.
    Stop { actor: ActorId, back: bool },
    /// An operator chooses.
    Promote { actor: ActorId, side: Option<Side>, to_all: bool },
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Start a rollout, under the id that it has.
    Start(Part),
    /// Do this with a rollout.
    Control(Part, RolloutControl),
    /// Compare the halves.
    Compare,
}

/// What the experiment is after an event, and what is to be done then.
pub(super) fn step(experiment: &Experiment, event: &Event, now_ms: u64) -> Result<(Experiment, Vec<Effect>)> {
    let mut next = experiment.clone();
    let effects = match event {
        Event::Seen(seen) => next.see(*seen, now_ms),
        Event::Compared(comparison) => {
            next.compared(comparison, now_ms);
            Vec::new()
        }
        Event::Refused(part, why) => {
            if next.is_active() {
                next.refused(*part, why);
            }
            Vec::new()
        }
        Event::Stop { actor, back } => {
            next.stop(actor, *back)?;
            Vec::new()
        }
        Event::Promote { actor, side, to_all } => {
            next.chosen(actor, *side, *to_all, now_ms)?;
            Vec::new()
        }
    };
    Ok((next, effects))
}

impl Seen {
    /// Where the rollout of a half stands. A half that needed none has what it should.
    fn half(&self, experiment: &Experiment, side: Side) -> Option<RolloutState> {
        let seen = match side {
            Side::A => self.a,
            Side::B => self.b,
        };
        if experiment.half(side).rollout.is_some() { seen } else { Some(RolloutState::Succeeded) }
    }
}

/// Whether a rollout has come to nothing.
fn is_lost(state: RolloutState) -> bool {
    matches!(state, RolloutState::Failed | RolloutState::RolledBack | RolloutState::Aborted)
}

impl Experiment {
    fn see(&mut self, seen: Seen, now_ms: u64) -> Vec<Effect> {
        match self.state {
            State::Running => self.see_halves(seen, now_ms),
            State::Comparing => {
                if self.lose(seen, now_ms) {
                    return Vec::new();
                }
                let Some(compared) = &mut self.compared else { return Vec::new() };
                if now_ms < compared.b.window_ms {
                    // A clock that was ahead is right again.
                    compared.a.begin_window(now_ms);
                    compared.b.begin_window(now_ms);
                    return Vec::new();
                }
                if compared.b.is_due(&self.watch, now_ms) { vec![Effect::Compare] } else { Vec::new() }
            }
            State::Decided | State::Succeeded => Vec::new(),
            State::Promoting => match seen.promotion {
                None => vec![Effect::Start(Part::Promotion)],
                Some(RolloutState::Succeeded) => {
                    self.end(State::Succeeded, "the winner is promoted".into(), now_ms);
                    Vec::new()
                }
                Some(state) if is_lost(state) => {
                    self.turn(State::Failed, format!("the promotion has ended as {}", state.as_str()));
                    Vec::new()
                }
                Some(_) => Vec::new(),
            },
            State::Stopped | State::Failed => self.wind_up(seen, now_ms),
        }
    }

    fn see_halves(&mut self, seen: Seen, now_ms: u64) -> Vec<Effect> {
        let missing = Side::BOTH.into_iter().filter(|side| seen.half(self, *side).is_none());
        let missing: Vec<Effect> = missing.map(|side| Effect::Start(Part::Half(side))).collect();
        if missing.is_empty() && !self.lose(seen, now_ms) {
            let done = |side| seen.half(self, side) == Some(RolloutState::Succeeded);
            if Side::BOTH.into_iter().all(done) {
                self.turn(State::Comparing, "both halves run what they should".into());
                self.compared = Some(Contest { a: Watched::from(now_ms), b: Watched::from(now_ms) });
            }
        }
        missing
    }

    /// A half that has come to nothing ends the comparison: the other one is left over, if it has confirmed its release.
    fn lose(&mut self, seen: Seen, now_ms: u64) -> bool {
        let [a, b] = Side::BOTH.map(|side| seen.half(self, side));
        let lost = |state: Option<RolloutState>| state.filter(|state| is_lost(*state));
        match (lost(a), lost(b)) {
            (Some(_), Some(_)) => {
                self.turn(State::Failed, "the rollouts of both halves have come to nothing".into());
            }
            (Some(state), None) if b == Some(RolloutState::Succeeded) => {
                self.left_over(Side::B, state, now_ms);
            }
            (None, Some(state)) if a == Some(RolloutState::Succeeded) => {
                self.left_over(Side::A, state, now_ms);
            }
            _ => return false,
        }
        true
    }

    fn left_over(&mut self, side: Side, other: RolloutState, now_ms: u64) {
        let reason = format!(
            "{} by default: the rollout of {} has ended as {}",
            side.as_str(),
            side.other().as_str(),
            other.as_str()
        );
        self.decide(Some(side), reason, now_ms);
    }

    /// The winner rule, beside that of [`Comparison::outcome`]: the incumbent stays where there is no difference that
    /// matters; where each is worse in something, or nothing is certain when the time is up, people are asked.
    fn compared(&mut self, comparison: &Comparison, now_ms: u64) {
        let (health, pairs) = (self.watch.health.clone(), self.pairs());
        let Some(compared) = self.compared.as_mut().filter(|_| self.state == State::Comparing) else {
            return;
        };
        let is_last = compared.b.is_last(&self.watch, now_ms);
        compared.a.close_window(comparison.a.clone(), now_ms);
        compared.b.close_window(comparison.b.clone(), now_ms);
        match comparison.outcome(&health, pairs) {
            Outcome::Better(side) => {
                let reason = format!(
                    "{} does worse: {}",
                    side.other().as_str(),
                    worst(comparison.against(side.other()))
                );
                self.decide(Some(side), reason, now_ms);
            }
            Outcome::Same => {
                let reason = "there is no difference that matters: a stays".into();
                self.decide(Some(Side::A), reason, now_ms);
            }
            Outcome::Torn => {
                let of = |side| worst(comparison.against(side));
                let reason = format!(
                    "each does worse in something (a: {}; b: {}): choose with promote a or b, or stop",
                    of(Side::A),
                    of(Side::B)
                );
                self.decide(None, reason, now_ms);
            }
            Outcome::Open if is_last => {
                let reason =
                    "the time is up, and nothing is certain: choose with promote a or b, or stop".into();
                self.decide(None, reason, now_ms);
            }
            Outcome::Open => self.reason = "nothing is certain yet: the next window is twice as long".into(),
        }
    }

    fn decide(&mut self, winner: Option<Side>, reason: String, now_ms: u64) {
        self.decision = Some(Decision { winner, reason: reason.clone() });
        match winner.filter(|_| self.winner == Winner::Auto) {
            Some(side) => self.promote(side, false, reason, now_ms),
            None => self.turn(State::Decided, reason),
        }
    }

    fn promote(&mut self, side: Side, to_all: bool, reason: String, now_ms: u64) {
        let rollout = Self::rollout_id(&self.id, "promotion", now_ms);
        self.promotion = Some(Promotion { side, rollout, to_all });
        self.turn(State::Promoting, reason);
    }

    /// An operator's choice; again, it changes nothing.
    fn chosen(&mut self, actor: &ActorId, side: Option<Side>, to_all: bool, now_ms: u64) -> Result<()> {
        if let (State::Promoting, Some(promotion)) = (self.state, &self.promotion)
            && side.is_none_or(|side| side == promotion.side)
            && to_all == promotion.to_all
        {
            return Ok(());
        }
        if self.state != State::Decided {
            return Err(self.refusal("promoted"));
        }
        let winner = self.decision.as_ref().and_then(|decision| decision.winner);
        let side = side.or(winner).ok_or_else(|| {
            Error::Invalid(format!("experiment {} has no winner: say which one is promoted, a or b", self.id))
        })?;
        self.promote(side, to_all, format!("{actor} promoted {}", side.as_str()), now_ms);
        Ok(())
    }

    fn stop(&mut self, actor: &ActorId, back: bool) -> Result<()> {
        match self.state {
            State::Stopped if self.goes_back || !back => return Ok(()),
            State::Stopped if self.is_active() => {}
            State::Running | State::Comparing | State::Decided => {}
            State::Promoting if !back => {}
            _ => return Err(self.refusal(if back { "taken back" } else { "stopped" })),
        }
        let what = if back { "stopped it, and both halves go back" } else { "stopped it" };
        self.goes_back = back;
        self.turn(State::Stopped, format!("{actor} {what}"));
        Ok(())
    }

    fn refused(&mut self, part: Part, why: &str) {
        let what = match part {
            Part::Half(side) => format!("half {}", side.as_str()),
            Part::Promotion => "the winner".into(),
        };
        self.turn(State::Failed, format!("{what} cannot be rolled out: {why}"));
    }

    /// What is under way ends, and goes back if that was asked; then there is nothing left to do.
    fn wind_up(&mut self, seen: Seen, now_ms: u64) -> Vec<Effect> {
        if !self.is_active() {
            return Vec::new();
        }
        let halves = [(Part::Half(Side::A), seen.a), (Part::Half(Side::B), seen.b)];
        let parts = halves.into_iter().chain([(Part::Promotion, seen.promotion)]);
        let (mut effects, mut waits) = (Vec::new(), false);
        for (part, state) in parts {
            let Some(state) = state else { continue };
            let goes_back = self.goes_back && part != Part::Promotion;
            match state {
                RolloutState::RolledBack => {}
                RolloutState::Stopping => waits = true,
                RolloutState::Succeeded
                | RolloutState::Failed
                | RolloutState::Aborted
                | RolloutState::Running
                | RolloutState::Paused
                    if goes_back =>
                {
                    effects.push(Effect::Control(part, RolloutControl::Rollback));
                }
                RolloutState::Succeeded | RolloutState::Failed | RolloutState::Aborted => {}
                _ => effects.push(Effect::Control(part, RolloutControl::Abort)),
            }
        }
        if effects.is_empty() && !waits {
            self.finished_at_ms = Some(now_ms);
        }
        effects
    }

    fn turn(&mut self, state: State, reason: String) {
        self.state = state;
        self.reason = reason;
    }

    fn end(&mut self, state: State, reason: String, now_ms: u64) {
        self.turn(state, reason);
        self.finished_at_ms = Some(now_ms);
    }

    fn refusal(&self, action: &'static str) -> Error {
        Error::ExperimentState { experiment: self.id.clone(), state: self.state.as_str(), action }
    }
}

/// The metric that is worst, in words.
fn worst(look: &Look) -> String {
    let words = look.worse().map(|finding| {
        format!(
            "{} on {} pairs of devices, evidence {:.1}, needed {:.1}",
            finding.metric.describe(finding.worsening),
            finding.pairs,
            finding.against,
            finding.against_needed
        )
    });
    words.unwrap_or_default()
}

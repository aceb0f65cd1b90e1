//! Performs experiments. A step is one commit of the experiment and its audit record, under the version that it was decided
//! from; what is to be done is done after it, and again after a kill.

use super::compare::{Said, pairs};
use super::machine::{Effect, Event, Part, Seen, step};
use super::request::{ExperimentRequest, Members};
use super::state::{Experiment, ExperimentDevice, ExperimentState, Half, halves};
use crate::error::{Error, Result};
use crate::rollout::{self, RolloutRequest, RolloutState, Rollouts, WaveSpec, figures};
use crate::roster::{Query, Roster};
use crate::store::{self, ATTEMPTS, Store};
use flotilla_gates::versus::{Comparison, Side};
use flotilla_identity::{Actor, ActorKind, audit, now_ms};
use flotilla_protocol::manifest::agent_name;
use flotilla_protocol::{ActorId, DeviceId, ErrorCode, ExperimentId, ModelName, RolloutId};
use flotilla_registry::Release;
use flotilla_storage::{Batch, Versioned};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, Notify};
use tokio_util::sync::CancellationToken;

/// Experiments at the same time that are not over.
const ACTIVE: usize = 32;
/// Devices that are written in one commit.
const COMMIT_DEVICES: usize = 1_000;
/// How often rollouts and windows are looked at.
const TICK: Duration = Duration::from_secs(1);

/// Starts, performs and controls experiments.
pub(crate) struct Experiments {
    store: Arc<Store>,
    rollouts: Arc<Rollouts>,
    roster: Arc<Roster>,
    /// Told when there may be something to do.
    wake: Notify,
    /// Held by whoever takes a step and does what follows: an operator's word falls between two of them.
    turn: Mutex<()>,
}

impl Experiments {
    pub(crate) fn new(rollouts: Arc<Rollouts>, roster: Arc<Roster>) -> Self {
        let store = rollouts.store.clone();
        Self { store, rollouts, roster, wake: Notify::new(), turn: Mutex::new(()) }
    }

    // === operators ===

    /// Starts an experiment. Who is in which half is decided now: one that comes later takes no part.
    pub(crate) async fn start(
        &self,
        actor: &Actor,
        request: ExperimentRequest,
        now_ms: u64,
    ) -> Result<Experiment> {
        let watch = request.check()?;
        let (a, b) = self.releases(&request).await?;
        let _turn = self.turn.lock().await;
        self.is_possible(&a.model).await?;
        let (members, left_out) = self.members(&request.members, [&a, &b], now_ms).await?;
        let id = new_id(now_ms);
        let (of_a, of_b) = halves(&id, members, request.share);
        if of_a.is_empty() || of_b.is_empty() {
            let out: Vec<String> = left_out.iter().map(|(code, count)| format!("{count} {code}")).collect();
            let out = if out.is_empty() {
                "none are left out".into()
            } else {
                format!("left out: {}", out.join(", "))
            };
            return Err(Error::Invalid(format!(
                "there are {} devices for a and {} for b, and each needs one at least; {out}",
                of_a.len(),
                of_b.len()
            )));
        }
        let a = self.half(&id, Side::A, &a, of_a, now_ms).await?;
        let b = self.half(&id, Side::B, &b, of_b, now_ms).await?;
        let experiment = Experiment {
            id,
            name: request.name,
            model: a.1,
            a: a.0,
            b: b.0,
            share: request.share,
            members: request.members,
            left_out,
            watch,
            winner: request.winner,
            state: ExperimentState::Running,
            reason: "both halves get what they try".into(),
            compared: None,
            decision: None,
            promotion: None,
            goes_back: false,
            created_by: actor.id.clone(),
            created_at_ms: now_ms,
            finished_at_ms: None,
        };
        // The experiment exists once its own record does, which comes last: a start that is cut off has started nothing.
        let mut batch = Batch::new();
        self.store.experiments.insert(&mut batch, &experiment)?;
        let detail = json!({
            "name": experiment.name, "model": experiment.model, "a": experiment.a, "b": experiment.b,
            "left_out": experiment.left_out, "members": experiment.members, "watch": experiment.watch,
            "winner": experiment.winner,
        });
        audit::record(&mut batch, actor, "experiment:create", &subject(&experiment.id), detail, now_ms)?;
        self.store.commit(batch).await?;
        tracing::info!(experiment = %experiment.id, model = %experiment.model, "an experiment begins");
        self.wake.notify_one();
        Ok(experiment)
    }

    /// Ends an experiment. Again, it changes nothing.
    pub(crate) async fn stop(
        &self,
        actor: &Actor,
        id: &ExperimentId,
        back: bool,
        now_ms: u64,
    ) -> Result<Experiment> {
        self.control(actor, id, &Event::Stop { actor: actor.id.clone(), back }, now_ms).await
    }

    /// Promotes one of the releases. Again, it changes nothing.
    pub(crate) async fn promote(
        &self,
        actor: &Actor,
        id: &ExperimentId,
        side: Option<Side>,
        to_all: bool,
        now_ms: u64,
    ) -> Result<Experiment> {
        if to_all && matches!(self.get(id).await?.members, Members::Where(_)) {
            return Err(Error::Invalid(
                "this experiment is on devices that an expression found, not on a group: promote to the other half, and \
                 roll the release out to whoever else should have it"
                    .into(),
            ));
        }
        self.control(actor, id, &Event::Promote { actor: actor.id.clone(), side, to_all }, now_ms).await
    }

    async fn control(
        &self,
        actor: &Actor,
        id: &ExperimentId,
        event: &Event,
        now_ms: u64,
    ) -> Result<Experiment> {
        let _turn = self.turn.lock().await;
        for _ in 0..ATTEMPTS {
            let found = self.store.experiments.get(id.as_str()).await?;
            let found = found.ok_or_else(|| Error::ExperimentMissing(id.clone()))?;
            let (next, _) = step(&found.value, event, now_ms)?;
            if next == found.value || self.commit(actor, "experiment:control", &found, &next, now_ms).await? {
                self.wake.notify_one();
                return Ok(next);
            }
        }
        Err(Error::Contended(format!("experiment {id}")))
    }

    /// Both releases, of one model, none of which devices refuse.
    async fn releases(&self, request: &ExperimentRequest) -> Result<(Release, Release)> {
        let registry = &self.rollouts.registry;
        let model = registry.find_release(&request.a).await?.model;
        if model == agent_name() {
            return Err(Error::Invalid(format!("{model} is the agent itself and no model that predicts")));
        }
        let a = rollout::release(registry, &model, Some(&request.a)).await?;
        let b = rollout::release(registry, &model, Some(&request.b)).await?;
        Ok((a, b))
    }

    async fn is_possible(&self, model: &ModelName) -> Result<()> {
        let active = self.active().await?;
        if let Some(other) = active.iter().find(|other| other.value.model == *model) {
            return Err(Error::ExperimentExists { model: model.clone(), experiment: other.value.id.clone() });
        }
        if active.len() >= ACTIVE {
            return Err(Error::Busy { what: "experiments that are not over", bound: ACTIVE });
        }
        Ok(())
    }

    /// Who takes part, and how many do not because something is in the way of one of the releases.
    async fn members(
        &self,
        members: &Members,
        releases: [&Release; 2],
        now_ms: u64,
    ) -> Result<(Vec<DeviceId>, BTreeMap<String, u32>)> {
        let groups = &self.rollouts.groups;
        let mut devices = match members {
            Members::Group(group) => groups.members(group).await?,
            Members::Where(filter) => {
                let query = Query { filter: Some(filter.clone()), ..Query::default() };
                let found = groups.matching(&query).await?;
                self.roster.taking_rollouts(found.into_iter().collect()).await?
            }
            Members::All => {
                let found = groups.matching(&Query::default()).await?;
                self.roster.taking_rollouts(found.into_iter().collect()).await?
            }
        };
        if devices.len() > rollout::ROLLOUT_DEVICES {
            return Err(Error::Busy {
                what: "the devices of one experiment",
                bound: rollout::ROLLOUT_DEVICES,
            });
        }
        let mut out: BTreeMap<DeviceId, ErrorCode> = BTreeMap::new();
        for release in releases {
            for obstacle in self.rollouts.obstacles(&release.digest, devices.iter(), now_ms).await? {
                out.entry(obstacle.device).or_insert(obstacle.code);
            }
        }
        devices.retain(|device| !out.contains_key(device));
        let mut left_out = BTreeMap::new();
        out.into_values().for_each(|code| *left_out.entry(code.as_str().to_owned()).or_insert(0) += 1);
        Ok((devices, left_out))
    }

    /// Writes the devices of a half, with what they say of the model before they are told anything.
    async fn half(
        &self,
        id: &ExperimentId,
        side: Side,
        release: &Release,
        devices: Vec<DeviceId>,
        now_ms: u64,
    ) -> Result<(Half, ModelName)> {
        let mut all_have_it = true;
        let count = u32::try_from(devices.len()).unwrap_or(u32::MAX);
        let mut places = 0..;
        for page in devices.chunks(COMMIT_DEVICES) {
            let mut batch = Batch::new();
            for (device, place) in page.iter().zip(places.by_ref()) {
                let before = figures::last(&self.store, device, &release.model).await?;
                let twin = self.store.twins.get(device.as_str()).await?;
                let desired = twin.and_then(|twin| twin.value.models.get(&release.model).cloned());
                let has_it = desired.is_some_and(|desired| desired.release == release.digest);
                all_have_it &= has_it;
                let member = ExperimentDevice {
                    experiment: id.clone(),
                    side,
                    place,
                    device: device.clone(),
                    before: before.map(Box::new),
                    has_it,
                };
                self.store.experiment_devices.insert(&mut batch, &member)?;
            }
            self.store.commit(batch).await?;
        }
        let rollout = (!all_have_it).then(|| Experiment::rollout_id(id, side.as_str(), now_ms));
        let wanted = rollout::Wanted {
            release: release.digest,
            envelope_bytes: release.envelope_bytes,
            version: release.version,
            counter: release.counter,
        };
        Ok((Half { wanted, devices: count, rollout }, release.model.clone()))
    }

    // === questions ===

    /// A page of the experiments before `after`, newest first.
    pub(crate) async fn list(&self, after: Option<&ExperimentId>, limit: usize) -> Result<Vec<Experiment>> {
        let after = after.map(|id| id.as_str().as_bytes());
        let page = self.store.experiments.list_backwards(after, limit).await?;
        Ok(page.items.into_iter().map(|experiment| experiment.value).collect())
    }

    /// An experiment.
    pub(crate) async fn get(&self, id: &ExperimentId) -> Result<Experiment> {
        let found = self.store.experiments.get(id.as_str()).await?;
        found.map(|found| found.value).ok_or_else(|| Error::ExperimentMissing(id.clone()))
    }

    /// Every experiment that may have something to do; there are at most [`ACTIVE`].
    async fn active(&self) -> Result<Vec<Versioned<Experiment>>> {
        let (by, active) = (Experiment::BY_STATE, Experiment::ACTIVE);
        Ok(self.store.experiments.lookup(by, active, None, ACTIVE).await?.items)
    }

    // === the reconciler ===

    /// Performs experiments until stopped.
    pub(crate) async fn run(&self, stop: CancellationToken) {
        loop {
            if let Err(error) = self.reconcile(&stop).await {
                tracing::error!(%error, "experiments cannot be performed now");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                _ = tokio::time::timeout(TICK, self.wake.notified()) => {}
            }
        }
    }

    async fn reconcile(&self, stop: &CancellationToken) -> Result<()> {
        for experiment in self.active().await? {
            let id = experiment.value.id;
            // One that cannot be performed holds up no other.
            while !stop.is_cancelled() {
                match self.advance(&id, now_ms()).await {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) => {
                        tracing::error!(experiment = %id, %error, "an experiment cannot be performed now");
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes an experiment one step further; `false` if there is nothing to do now.
    async fn advance(&self, id: &ExperimentId, now_ms: u64) -> Result<bool> {
        let _turn = self.turn.lock().await;
        let Some(found) = self.store.experiments.get(id.as_str()).await? else { return Ok(false) };
        let seen = self.seen(&found.value).await?;
        let (next, effects) = step(&found.value, &Event::Seen(seen), now_ms)?;
        if next != found.value {
            return self.commit(&Actor::system(), "experiment:progress", &found, &next, now_ms).await;
        }
        for effect in effects {
            let event = match self.perform(&next, effect, now_ms).await {
                Ok(None) => continue,
                Ok(Some(event)) => event,
                // Nothing that passes by itself: trying again would say the same for ever.
                Err((part, error)) if is_final(&error) => Event::Refused(part, error.to_string()),
                Err((_, error)) => return Err(error),
            };
            let (next, _) = step(&found.value, &event, now_ms)?;
            return self.commit(&Actor::system(), "experiment:progress", &found, &next, now_ms).await;
        }
        Ok(false)
    }

    async fn seen(&self, experiment: &Experiment) -> Result<Seen> {
        let promotion = experiment.promotion.as_ref().map(|promotion| &promotion.rollout);
        Ok(Seen {
            a: self.state_of(experiment.a.rollout.as_ref()).await?,
            b: self.state_of(experiment.b.rollout.as_ref()).await?,
            promotion: self.state_of(promotion).await?,
        })
    }

    async fn state_of(&self, rollout: Option<&RolloutId>) -> Result<Option<RolloutState>> {
        let Some(rollout) = rollout else { return Ok(None) };
        Ok(self.store.rollouts.get(rollout.as_str()).await?.map(|rollout| rollout.value.state))
    }

    async fn perform(
        &self,
        experiment: &Experiment,
        effect: Effect,
        now_ms: u64,
    ) -> Result<Option<Event>, (Part, Error)> {
        match effect {
            Effect::Start(part) => {
                self.roll_out(experiment, part, now_ms).await.map_err(|error| (part, error))?;
                Ok(None)
            }
            Effect::Control(part, control) => {
                let Some(rollout) = rollout_of(experiment, part) else { return Ok(None) };
                let actor = actor(&experiment.id);
                match self.rollouts.control(&actor, rollout, control, now_ms).await {
                    // It has come to its end meanwhile: that is seen the next time.
                    Ok(_) | Err(Error::RolloutState { .. }) => Ok(None),
                    Err(error) => Err((part, error)),
                }
            }
            Effect::Compare => {
                let compared = self.compare(experiment).await;
                Ok(Some(Event::Compared(compared.map_err(|error| (Part::Promotion, error))?)))
            }
        }
    }

    /// Starts a rollout of the experiment, unless it has begun.
    async fn roll_out(&self, experiment: &Experiment, part: Part, now_ms: u64) -> Result<()> {
        let Some(rollout) = rollout_of(experiment, part) else { return Ok(()) };
        let promotion = experiment.promotion.as_ref();
        let to_all = part == Part::Promotion && promotion.is_some_and(|promotion| promotion.to_all);
        let (release, half) = match part {
            Part::Half(side) => (side, side),
            Part::Promotion => {
                let side = promotion.map_or(Side::A, |promotion| promotion.side);
                (side, side.other())
            }
        };
        let mut request = RolloutRequest {
            release: Some(experiment.half(release).wanted.release),
            ..RolloutRequest::newest(experiment.model.clone())
        };
        if to_all {
            request.group = experiment.group().cloned();
        } else {
            let members = self.devices(&experiment.id, half).await?;
            let wanted = members.into_iter().filter(|member| part == Part::Promotion || !member.has_it);
            let wanted: BTreeSet<DeviceId> = wanted.map(|member| member.device).collect();
            request.devices = Some(self.roster.taking_rollouts(wanted).await?);
            // What is compared is watched by the experiment itself.
            request.waves = Some(vec![WaveSpec::Devices(1), WaveSpec::Rest]);
            request.soak_s = Some(0);
        }
        self.rollouts.start_once(rollout.clone(), &actor(&experiment.id), request, now_ms).await?;
        Ok(())
    }

    async fn devices(&self, id: &ExperimentId, side: Side) -> Result<Vec<ExperimentDevice>> {
        let prefix = ExperimentDevice::prefix(id, side);
        let found = store::all(&self.store.experiment_devices, &prefix).await?;
        Ok(found.into_iter().map(|device| device.value).collect())
    }

    async fn compare(&self, experiment: &Experiment) -> Result<Comparison> {
        let Some(compared) = &experiment.compared else { return Ok(Comparison::default()) };
        let (a, b) = (self.said(experiment, Side::A).await?, self.said(experiment, Side::B).await?);
        let releases = (&experiment.a.wanted.release, &experiment.b.wanted.release);
        let pairs = pairs(&a, &b, releases, compared.b.window_ms);
        Ok(Comparison::new(&experiment.watch.health, compared.b.windows, &pairs))
    }

    async fn said(&self, experiment: &Experiment, side: Side) -> Result<Vec<Said>> {
        let mut said = Vec::new();
        for device in self.devices(&experiment.id, side).await? {
            let now = figures::last(&self.store, &device.device, &experiment.model).await?;
            said.push(Said { device, now });
        }
        Ok(said)
    }

    /// Writes a step; `false` if another change came first.
    async fn commit(
        &self,
        actor: &Actor,
        action: &str,
        found: &Versioned<Experiment>,
        next: &Experiment,
        now_ms: u64,
    ) -> Result<bool> {
        let mut batch = Batch::new();
        self.store.experiments.update(&mut batch, found, next)?;
        audit::record(&mut batch, actor, action, &subject(&next.id), detail(next), now_ms)?;
        let done = self.store.try_commit(batch).await?;
        if done {
            tracing::info!(experiment = %next.id, state = next.state.as_str(), "an experiment goes on");
        }
        Ok(done)
    }
}

/// What the audit trail says of a step.
fn detail(experiment: &Experiment) -> Value {
    let looks = experiment.compared.as_ref().map(|of| json!({ "a": of.a.look, "b": of.b.look }));
    json!({
        "state": experiment.state, "reason": experiment.reason, "decision": experiment.decision,
        "promotion": experiment.promotion, "goes_back": experiment.goes_back, "compared": looks,
    })
}

fn rollout_of(experiment: &Experiment, part: Part) -> Option<&RolloutId> {
    match part {
        Part::Half(side) => experiment.half(side).rollout.as_ref(),
        Part::Promotion => experiment.promotion.as_ref().map(|promotion| &promotion.rollout),
    }
}

/// Whether trying again would not help.
fn is_final(error: &Error) -> bool {
    matches!(
        error.code(),
        ErrorCode::InvalidInput | ErrorCode::NotFound | ErrorCode::WrongState | ErrorCode::Revoked
    )
}

/// The experiment as the one who starts its rollouts.
fn actor(id: &ExperimentId) -> Actor {
    let id = ActorId::new(id.as_str()).expect("ids share one alphabet");
    Actor { id, kind: ActorKind::System }
}

fn new_id(now_ms: u64) -> ExperimentId {
    ExperimentId::new(format!("experiment-{now_ms:012x}-{:08x}", rand::random::<u32>()))
        .expect("hex digits and dashes make an id")
}

fn subject(id: &ExperimentId) -> String {
    format!("experiment/{id}")
}

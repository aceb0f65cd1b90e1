//! What is said over the connection: performs what the session and command machines decide, and takes in what comes.

use super::{Device, Managed};
use bytes::Bytes;
use flotilla_agent::link::LinkEvent;
use flotilla_device::command;
use flotilla_device::desired::{Accepted, accept};
use flotilla_device::session::{Effect, Event};
use flotilla_device::update;
use flotilla_protocol::message::{
    Ack, AgentReport, Chunk, Command, CommandKind, CommandState, Desired, EventKind, Failure, Hello,
    ModelReport, Phase, Reply, ReplyBody, Reported, Request, RequestBody,
};
use flotilla_protocol::topic::{Down, Up};
use flotilla_protocol::{Envelope, ErrorCode, codec, limits};
use rand::Rng;
use serde::de::DeserializeOwned;
use std::sync::atomic::Ordering;

/// What was said less than so long before a connection ended may be lost.
const UNDER_WAY_MS: u64 = 2_000;

impl Device {
    /// One step of the session machine.
    pub(super) fn session(&mut self, event: Event) {
        let was_up = self.run.session.is_up();
        let (next, effects) = self.run.session.step(event, self.clock.now_ms(), self.rng.random());
        self.run.session = next;
        if was_up && !self.run.session.is_up() {
            self.world.figures.disconnected();
        }
        for effect in effects {
            match effect {
                Effect::Connect => {
                    let keepalive_s = self.world.options.keepalive_s;
                    self.wire.open(&self.identity.names, &self.credential, keepalive_s);
                }
                Effect::Close => {
                    self.world.figures.lost(ErrorCode::Timeout);
                    self.drop_link();
                }
                Effect::Subscribe => self.wire.subscribe(),
                Effect::SaveCounter(counter) => self.disk.counter = counter,
                Effect::SendHello { counter } => self.say_hello(counter),
                Effect::SendReported { version } => self.send_reported(version),
                Effect::Ask(body) => {
                    self.ask(body);
                }
                Effect::ScheduleTick { at_ms } => self.run.session_tick_ms = Some(at_ms),
            }
        }
    }

    /// The connection ends, on purpose or not.
    fn drop_link(&mut self) {
        // What was said last may not have come through.
        let recent = |told_ms: &mut u64| self.clock.now_ms().saturating_sub(*told_ms) < UNDER_WAY_MS;
        if self.told_ms.take_if(recent).is_some() {
            self.world.told.fetch_sub(1, Ordering::Relaxed);
        }
        self.wire.cut();
        self.turn = None;
        self.run.trust_questions.clear();
        self.run.pace.window.reconnected();
        self.download_lost_link();
        self.disk.records.disconnected();
    }

    /// Chance ends the connection: the machine hears of it, or is gone, too.
    pub(super) fn lose_link(&mut self) {
        if self.run.session.is_up() {
            self.session(Event::Lost);
        }
        self.drop_link();
    }

    pub(super) fn on_link(&mut self, number: u64, event: LinkEvent) {
        if !self.wire.is_current(number) {
            return;
        }
        match event {
            LinkEvent::Connected => self.session(Event::Connected),
            LinkEvent::Subscribed => {
                self.session(Event::Subscribed);
                if self.run.session.is_up() {
                    self.turn = None;
                    let first = !std::mem::replace(&mut self.had_session, true);
                    self.world.figures.connected(first);
                    self.disk.records.connected();
                }
            }
            LinkEvent::Message { down, payload } => {
                self.world.figures.received(payload.len());
                let now_ms = self.clock.now_ms();
                for (down, payload) in self.wire.arrived(down, payload, now_ms, &mut self.rng) {
                    self.on_message(down, &payload);
                }
            }
            LinkEvent::Lost { code, detail, .. } => {
                tracing::debug!(device = %self.identity.names.device, %code, detail, "not connected");
                self.world.figures.lost(code);
                self.drop_link();
                self.session(Event::Lost);
            }
        }
    }

    pub(super) fn on_message(&mut self, down: Down, payload: &Bytes) {
        match down {
            Down::Desired => self.on_desired(payload),
            Down::Chunk => {
                if let Some(chunk) = self.decode::<Chunk>(payload) {
                    self.on_chunk(&chunk);
                }
            }
            Down::Reply => {
                let Some(reply) = self.decode::<Reply>(payload) else { return };
                if self.run.trust_questions.remove(&reply.id) {
                    self.on_trust(reply.body);
                } else {
                    self.on_refused(&reply);
                }
            }
            Down::Ack => {
                let Some(ack) = self.decode::<Ack>(payload) else { return };
                if let Some(stored) = ack.reported {
                    self.session(Event::ReportStored(stored));
                }
                self.disk.records.ack(&ack);
            }
        }
    }

    fn decode<T: DeserializeOwned>(&mut self, payload: &[u8]) -> Option<T> {
        let decoded = codec::decode(payload, limits::MQTT_PAYLOAD);
        decoded.map_err(|error| self.event(EventKind::Failed, Some(error.code()), error.to_string())).ok()
    }

    pub(super) fn publish(&mut self, up: Up, payload: Vec<u8>) {
        // What finds no room is as lost as a message on its way; the machines say it again.
        for bytes in self.wire.publish(up, payload, self.clock.now_ms(), &mut self.rng) {
            self.world.figures.sent(bytes);
        }
    }

    pub(super) fn next_question(&mut self) -> u64 {
        self.run.questions += 1;
        self.run.questions
    }

    fn ask(&mut self, body: RequestBody) -> u64 {
        let id = self.next_question();
        self.publish(Up::Request, codec::encode(&Request { id, body }));
        id
    }

    /// A part of a flood: questions that the control plane answers.
    pub(super) fn flood(&mut self) {
        if !self.run.session.is_up() {
            return;
        }
        let messages = u64::from(self.world.options.faults.flood_per_s) * super::FLOOD_MS / 1_000;
        for _ in 0..messages.max(1) {
            self.ask(RequestBody::Trust { have: self.disk.trust.version });
        }
    }

    fn say_hello(&mut self, counter: u64) {
        let hello = Hello {
            protocol: 1,
            agent: env!("CARGO_PKG_VERSION").to_owned(),
            counter,
            epoch: self.disk.records.epoch(),
            desired_version: self.disk.desired.as_ref().map_or(0, |desired| desired.version),
            trust_version: self.disk.trust.version,
            board: crate::identities::facts(&self.world.options.board),
        };
        self.publish(Up::Hello, codec::encode(&hello));
        self.ask_for_trust();
    }

    fn ask_for_trust(&mut self) {
        let id = self.ask(RequestBody::Trust { have: self.disk.trust.version });
        self.run.trust_questions.insert(id);
    }

    /// The answer to a question for the trust file. After a newer one the next is asked for.
    fn on_trust(&mut self, body: ReplyBody) {
        let ReplyBody::Trust(bytes) = body else { return };
        let next = Envelope::from_bytes(&bytes).map_err(|e| (e.code(), e.to_string())).and_then(|envelope| {
            self.disk.trust.accept_next(&envelope).map_err(|e| (e.code(), e.to_string()))
        });
        match next {
            Ok(next) => {
                self.clock.observe_signed(next.issued_at_ms);
                self.disk.trust = next;
                self.ask_for_trust();
                if self.run.refusal.take() == Some(ErrorCode::SignatureInvalid) {
                    self.ask(RequestBody::Desired);
                }
            }
            Err((code, problem)) => self.event(EventKind::Failed, Some(code), problem),
        }
    }

    // === the desired document ===

    fn believe(&self, bytes: &[u8]) -> Result<Accepted, (ErrorCode, String)> {
        let envelope = Envelope::from_bytes(bytes).map_err(|e| (e.code(), e.to_string()))?;
        let accepted = self.disk.desired.as_ref().map_or(0, |desired| desired.version);
        accept(&envelope, &self.disk.trust, &self.identity.names.device, accepted)
            .map_err(|e| (e.code(), e.to_string()))
    }

    fn on_desired(&mut self, bytes: &[u8]) {
        let accepted = match self.believe(bytes) {
            Ok(accepted) => accepted,
            Err((code, problem)) => return self.refuse_desired(code, problem),
        };
        self.run.refusal = None;
        let signed_ms = accepted.desired.issued_at_ms;
        self.clock.observe_signed(signed_ms);
        self.clock.observe_present(signed_ms);
        if accepted.newer || self.disk.desired.is_none() {
            for (model, wanted) in &accepted.desired.models {
                self.world.figures.wanted(self.index, model, wanted.release, signed_ms);
            }
            self.disk.desired = Some(accepted.desired);
            self.apply();
        } else {
            self.do_commands();
        }
        self.session(Event::DesiredSeen);
    }

    /// A refused document changes nothing. The same reason is recorded once until a good document comes.
    fn refuse_desired(&mut self, code: ErrorCode, problem: String) {
        if self.run.refusal.replace(code) == Some(code) {
            return;
        }
        self.event(EventKind::Failed, Some(code), problem);
        if code == ErrorCode::SignatureInvalid {
            self.ask_for_trust();
        }
    }

    /// Takes the accepted document, if there is one, for what is wanted.
    pub(super) fn apply(&mut self) {
        let Some(settings) = self.disk.desired.as_ref().map(|desired| desired.settings.clone()) else {
            return;
        };
        self.run.pace.budget.configure(&settings);
        self.want_models();
        self.do_commands();
        self.session(Event::ReportChanged);
    }

    fn send_reported(&mut self, version: u64) {
        let desired = self.disk.desired.as_ref();
        let models = match desired {
            Some(desired) if self.nature.lies => lies(desired),
            _ => self.run.models.iter().map(|(name, model)| (name.clone(), model.update.report())).collect(),
        };
        let reported = Reported {
            version,
            desired_version: desired.map_or(0, |desired| desired.version),
            models,
            commands: self.run.commands.reports().to_vec(),
            agent: Some(AgentReport {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                slot: None,
                upgrade: desired.map_or_else(ModelReport::default, no_upgrade),
            }),
            shadows: Default::default(),
        };
        self.publish(Up::Reported, codec::encode(&reported));
        self.tell();
    }

    /// Whoever waits for a release hears that the report has gone out which says that this device runs it.
    fn tell(&mut self) {
        let Some(release) = self.world.options.until else { return };
        let runs = |managed: &Managed| {
            let confirmed = managed.update.journal().confirmed.as_ref();
            confirmed.is_some_and(|confirmed| confirmed.release == release)
        };
        let runs = self.run.models.values().any(runs);
        let told = self.told_ms.is_some();
        if runs && !told {
            self.world.told.fetch_add(1, Ordering::Relaxed);
        } else if told && !runs {
            self.world.told.fetch_sub(1, Ordering::Relaxed);
        }
        self.told_ms = runs.then(|| self.clock.now_ms());
    }

    // === commands ===

    fn do_commands(&mut self) {
        let open = self.disk.desired.as_ref().map(|desired| desired.commands.clone()).unwrap_or_default();
        self.command(command::Event::Wanted(open));
    }

    fn command(&mut self, event: command::Event) {
        let Some(present_ms) = self.clock.present_ms() else { return };
        let (next, effects) = self.run.commands.step(event, present_ms);
        self.run.commands = next;
        for effect in effects {
            match effect {
                command::Effect::Keep => {
                    self.disk.ended = self.run.commands.reports().to_vec();
                    self.session(Event::ReportChanged);
                }
                command::Effect::Begin(command) => self.begin(command),
            }
        }
    }

    fn begin(&mut self, Command { id, kind, .. }: Command) {
        let state = match kind {
            CommandKind::Ping => CommandState::Done,
            CommandKind::RestartModel { model } if self.run.models.contains_key(&model) => {
                self.run.news.push_back((model, update::Event::Reload));
                CommandState::Done
            }
            CommandKind::RestartModel { model } => {
                let detail = format!("there is no model {model} on this device");
                CommandState::Failed { code: ErrorCode::NotFound, detail }
            }
            _ => {
                let detail = "a simulated device cannot do it".to_owned();
                CommandState::Failed { code: ErrorCode::Unsupported, detail }
            }
        };
        self.command(command::Event::Ended { id, state, diagnosis: None });
    }

    /// When commands are looked at next, by the clock that only runs.
    pub(super) fn commands_due_ms(&self) -> Option<u64> {
        let left_ms = self.run.commands.due_ms()?.saturating_sub(self.clock.present_ms()?);
        Some(self.clock.now_ms().saturating_add(left_ms))
    }

    pub(super) fn look_at_commands(&mut self) {
        let present_ms = self.clock.present_ms();
        if self.run.commands.due_ms().is_some_and(|at| present_ms.is_some_and(|present| present >= at)) {
            self.command(command::Event::Tick);
        }
    }
}

/// What a lying device says: that it runs what is wanted.
fn lies(desired: &Desired) -> std::collections::BTreeMap<flotilla_protocol::ModelName, ModelReport> {
    let lie = |wanted: &flotilla_protocol::message::DesiredModel| ModelReport {
        phase: Phase::Confirmed,
        confirmed: Some(wanted.release),
        attempt: wanted.attempt,
        slot: Some(flotilla_protocol::message::SlotName::A),
        ..ModelReport::default()
    };
    desired.models.iter().map(|(name, wanted)| (name.clone(), lie(wanted))).collect()
}

/// There is no agent to be upgraded.
fn no_upgrade(desired: &Desired) -> ModelReport {
    let Some(wanted) = &desired.agent else { return ModelReport::default() };
    ModelReport {
        phase: Phase::Failed,
        attempt: wanted.attempt,
        failure: Some(Failure {
            release: wanted.release,
            code: ErrorCode::Unsupported,
            detail: "a simulated device has no agent to be upgraded".to_owned(),
        }),
        ..ModelReport::default()
    }
}

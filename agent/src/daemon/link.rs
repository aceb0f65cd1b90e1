//! The session: performs what its machine says, and takes in what comes over the link.

use super::{Daemon, state};
use crate::link::{Link, LinkEvent};
use flotilla_device::renewal::{self, Loss};
use flotilla_device::session::{Effect, Event};
use flotilla_device::update;
use flotilla_protocol::codec;
use flotilla_protocol::message::{Ack, Chunk, Hello, Reply, Reported, Request, RequestBody};
use flotilla_protocol::topic::{Down, Up};

impl Daemon {
    /// One step of the session machine.
    pub(super) fn session(&mut self, event: Event) {
        let (next, effects) = self.session.step(event, self.clock.now_ms(), rand::random());
        self.session = next;
        for effect in effects {
            match effect {
                Effect::Connect => self.connect(),
                Effect::Close => {
                    self.drop_link();
                    self.renewal(renewal::Event::Lost { pair: self.link_pair, loss: Loss::Network });
                }
                Effect::Subscribe => {
                    // A connection without room for its first message is lost by its deadline.
                    self.link.as_ref().map(Link::subscribe);
                }
                Effect::SaveCounter(counter) => {
                    if let Err(error) = state::store_counter(&self.options.folder, counter) {
                        tracing::error!(%error, "the hello counter cannot be stored, so no hello is said");
                        return self.lose_link();
                    }
                }
                Effect::SendHello { counter } => self.say_hello(counter),
                Effect::SendReported { version } => self.send_reported(version),
                Effect::Ask(body) => {
                    self.ask(body);
                }
                Effect::ScheduleTick { at_ms } => self.session_tick_ms = Some(at_ms),
            }
        }
    }

    fn connect(&mut self) {
        self.link_number += 1;
        let (keepalive_s, events) = (self.options.config.keepalive_s, self.link_events.clone());
        self.link_pair = self.renewal.pair();
        let tls = self.identity.tls(self.link_pair);
        self.link = Some(Link::open(&self.identity.names, tls, keepalive_s, self.link_number, events));
    }

    pub(super) fn drop_link(&mut self) {
        self.link = None;
        self.fetcher.link(None);
        self.hard.link(None);
        self.trust_questions.clear();
        self.certificate_question = None;
        self.status_stale = true;
        if let Some(outbox) = &mut self.outbox {
            outbox.disconnected();
        }
    }

    pub(super) fn lose_link(&mut self) {
        self.drop_link();
        self.renewal(renewal::Event::Lost { pair: self.link_pair, loss: Loss::Network });
        self.session(Event::Lost);
    }

    /// Hard examples go up once this connection has said for what there is consent.
    pub(super) fn link_hard_examples(&mut self) {
        self.hard.link(self.link.as_ref().map(|link| link.sender().clone()));
    }

    /// An event of a connection; those of an earlier one are of no interest.
    pub(super) fn on_link(&mut self, number: u64, event: LinkEvent) {
        if number != self.link_number || self.link.is_none() {
            return;
        }
        match event {
            LinkEvent::Connected => self.session(Event::Connected),
            LinkEvent::Subscribed => {
                self.session(Event::Subscribed);
                if self.session.is_up() {
                    tracing::info!("connected");
                    self.link_problem = None;
                    self.status_stale = true;
                    let sender = self.link.as_ref().map(|link| link.sender().clone());
                    self.fetcher.link(sender);
                    self.log_pull.reconnected();
                    if let Some(outbox) = &mut self.outbox {
                        outbox.connected();
                    }
                    self.give_upgrade(update::Event::Online);
                }
            }
            LinkEvent::Message { down, payload } => self.on_message(down, &payload),
            LinkEvent::Lost { code, detail, loss } => {
                tracing::warn!(%code, %detail, "not connected");
                self.link_problem = Some((code, detail));
                self.drop_link();
                self.renewal(renewal::Event::Lost { pair: self.link_pair, loss });
                self.session(Event::Lost);
            }
        }
    }

    fn on_message(&mut self, down: Down, payload: &[u8]) {
        match down {
            Down::Desired => self.on_desired(payload),
            Down::Chunk => {
                if let Some(chunk) = self.decode::<Chunk>(down, payload) {
                    self.fetcher.chunk(chunk);
                }
            }
            Down::Reply => {
                let Some(reply) = self.decode::<Reply>(down, payload) else { return };
                if self.trust_questions.remove(&reply.id) {
                    self.on_trust(reply.body);
                } else if self.certificate_question == Some(reply.id) {
                    self.certificate_question = None;
                    self.on_certificate(reply.body);
                } else if !self.on_log_reply(&reply) {
                    self.hard.reply(&reply);
                    self.fetcher.refused(reply);
                }
            }
            Down::Ack => {
                let Some(ack) = self.decode::<Ack>(down, payload) else { return };
                self.status_stale = true;
                if let Some(stored) = ack.reported {
                    self.session(Event::ReportStored(stored));
                }
                if let Some(Err(error)) = self.outbox.as_mut().map(|outbox| outbox.ack(&ack)) {
                    self.outbox_failed(&error);
                }
            }
        }
    }

    pub(super) fn publish(&self, up: Up, payload: Vec<u8>) -> bool {
        let sent = self.link.as_ref().is_some_and(|link| link.sender().publish(up, payload));
        if !sent {
            tracing::warn!(channel = up.as_str(), "a message was not sent; it will be said again");
        }
        sent
    }

    pub(super) fn publish_records(&self, up: Up, payload: Vec<u8>) {
        self.publish(up, payload);
    }

    /// Asks the cloud; returns the question's number if it got out.
    pub(super) fn ask(&mut self, body: RequestBody) -> Option<u64> {
        let id = self.fetcher.next_id();
        self.publish(Up::Request, codec::encode(&Request { id, body })).then_some(id)
    }

    fn say_hello(&mut self, counter: u64) {
        let hello = Hello {
            protocol: 1,
            agent: env!("CARGO_PKG_VERSION").to_owned(),
            counter,
            epoch: self.outbox.as_ref().map_or(flotilla_protocol::message::Epoch(0), |outbox| outbox.epoch()),
            desired_version: self.accepted_version,
            trust_version: self.trust.version,
            board: self.sensors.board(&self.options.config.board),
        };
        self.publish(Up::Hello, codec::encode(&hello));
        self.ask_for_trust();
    }

    fn send_reported(&mut self, version: u64) {
        let models = self.models.iter().map(|(name, model)| (name.clone(), model.update.report())).collect();
        let reported = Reported {
            version,
            desired_version: self.desired.as_ref().map_or(0, |desired| desired.version),
            models,
            commands: self.commands.reports().to_vec(),
            agent: Some(self.agent_report()),
            shadows: self.shadow_reports(),
        };
        self.publish(Up::Reported, codec::encode(&reported));
        self.status_stale = true;
    }
}

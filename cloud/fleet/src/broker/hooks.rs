//! The decisions that rmqtt asks us for. Every hook that can deny does deny unless it finds the link and the link may;
//! rmqtt takes "no answer" for yes.

use super::acl::{self, Denied};
use super::event::Inbound;
use super::link::Link;
use super::registry::Registry;
use async_trait::async_trait;
use bytes::Bytes;
use flotilla_protocol::topic::{Channel, Topic, Up};
use rmqtt::codec::types::QoS;
use rmqtt::codec::v5::SubscribeAckReason;
use rmqtt::hook::{Handler, HookManager, HookResult, Parameter, ReturnType, Type};
use rmqtt::types::{
    AuthResult, ConnectInfo, From, FromType, Id, Publish, PublishAclResult, Subscribe, SubscribeAclResult,
};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::sync::mpsc;

/// What the hooks and the gate share. Holds nothing of rmqtt's, whose context never ends because it refers to itself.
pub(super) struct Shared {
    pub(super) registry: Registry,
    inbound: Mutex<Option<mpsc::Sender<Inbound>>>,
}

impl Shared {
    pub(super) fn new(registry: Registry, inbound: mpsc::Sender<Inbound>) -> Self {
        Self { registry, inbound: Mutex::new(Some(inbound)) }
    }

    /// Lets the receiver of the events see their end.
    pub(super) fn close(&self) {
        self.inbound.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Hands over an event; waits for room. False if nobody receives any more.
    async fn report(&self, event: Inbound) -> bool {
        let inbound = self.inbound.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match inbound {
            Some(inbound) => inbound.send(event).await.is_ok(),
            None => false,
        }
    }

    fn link(&self, id: &Id) -> Option<Arc<Link>> {
        self.registry.by_number(id.username_ref().parse().ok()?)
    }

    async fn message(&self, link: &Link, channel: Up, payload: &Bytes) -> bool {
        let message = Inbound::Message {
            peer: link.peer().clone(),
            connection: link.number(),
            channel,
            payload: payload.clone(),
        };
        self.report(message).await
    }

    fn authenticate(&self, info: &ConnectInfo) -> AuthResult {
        let password = info.password().map_or(&[][..], |password| password);
        match self.link(info.id()) {
            Some(link) if link.session() == info.client_id() && link.authenticate(password) => {
                AuthResult::Allow(false, None)
            }
            _ => AuthResult::NotAuthorized,
        }
    }

    async fn connected(&self, id: &Id) {
        if let Some(link) = self.link(id).filter(|link| link.go_live()) {
            let peer = link.peer().clone();
            self.report(Inbound::Connected { peer, connection: link.number(), remote: link.remote() }).await;
        }
    }

    async fn disconnected(&self, id: &Id) {
        if let Some(link) = self.link(id) {
            self.ended(&link).await;
            link.finished.cancel();
        }
    }

    /// Reports the end of a session whose begin was reported, once.
    pub(super) async fn ended(&self, link: &Link) {
        if link.owes_end() {
            let peer = link.peer().clone();
            self.report(Inbound::Disconnected { peer, connection: link.number() }).await;
        }
    }

    async fn publish(&self, id: &Id, publish: &Publish) -> Result<(), Denied> {
        let link = self.link(id).filter(|link| link.is_live()).ok_or(Denied::Closing)?;
        let bytes = publish.payload.len();
        let allowed = acl::publish(link.peer(), &publish.topic, publish.qos, publish.retain, bytes)
            .and_then(|channel| link.received(bytes, Instant::now()).map(|()| channel));
        let channel = allowed.inspect_err(|denied| {
            let topic: &str = &publish.topic;
            tracing::warn!(device = %link.peer(), topic, %denied, "a device's message is refused; its connection ends");
        })?;
        tokio::select! {
            biased;
            () = link.cut.cancelled() => Err(Denied::Closing),
            taken = self.message(&link, channel, &publish.payload) => if taken { Ok(()) } else { Err(Denied::Closing) },
        }
    }

    /// rmqtt publishes a will past its access control; the gate has checked this one when the device connected.
    async fn will(&self, id: &Id, publish: &Publish) {
        let Some(link) = self.link(id) else { return };
        let topic: &str = &publish.topic;
        if acl::will(link.peer(), topic, publish.qos, publish.retain, publish.payload.len()).is_ok() {
            self.message(&link, Up::Event, &publish.payload).await;
        }
    }

    fn subscribe(&self, id: &Id, wanted: &Subscribe) -> SubscribeAclResult {
        let refusal = SubscribeAclResult::new_failure(SubscribeAckReason::NotAuthorized);
        let Some(link) = self.link(id).filter(|link| link.is_live()) else { return refusal };
        let filter: &str = &wanted.topic_filter;
        match acl::subscribe(link.peer(), filter, wanted.opts.qos()) {
            Ok(_) => SubscribeAclResult::new_success(QoS::AtLeastOnce, None),
            Err(denied) => {
                tracing::warn!(device = %link.peer(), filter, %denied, "a device's subscription is refused");
                link.refused();
                refusal
            }
        }
    }

    fn subscription(&self, id: &Id, filter: &str, there: bool) {
        let channel = filter.parse::<Topic>().map(|topic| topic.channel);
        if let (Some(link), Ok(Channel::Down(channel))) = (self.link(id), channel) {
            if there { link.subscribed(channel) } else { link.unsubscribed(channel) }
        }
    }

    fn delivered(&self, to: &Id, from: &From, publish: &Publish) {
        if from.is_system()
            && let Some(link) = self.link(to)
        {
            link.budget.give_back(publish.payload.len());
        }
    }
}

/// The hooks we answer.
const ANSWERED: [Type; 10] = [
    Type::ClientAuthenticate,
    Type::ClientConnected,
    Type::ClientDisconnected,
    Type::ClientSubscribeCheckAcl,
    Type::SessionSubscribed,
    Type::SessionUnsubscribed,
    Type::MessagePublishCheckAcl,
    Type::MessagePublish,
    Type::MessageAcked,
    Type::MessageDropped,
];

/// Answers rmqtt's hooks from now on.
pub(super) async fn register(manager: &dyn HookManager, shared: &Arc<Shared>) {
    let register = manager.register();
    for hook in ANSWERED {
        register.add(hook, Box::new(Hooks(shared.clone()))).await;
    }
    register.start().await;
}

struct Hooks(Arc<Shared>);

#[async_trait]
impl Handler for Hooks {
    async fn hook(&self, parameter: &Parameter, before: Option<HookResult>) -> ReturnType {
        let shared = &self.0;
        match parameter {
            Parameter::ClientAuthenticate(info) => {
                return (false, Some(HookResult::AuthResult(shared.authenticate(info))));
            }
            Parameter::ClientSubscribeCheckAcl(session, wanted) => {
                return (false, Some(HookResult::SubscribeAclResult(shared.subscribe(&session.id, wanted))));
            }
            Parameter::MessagePublishCheckAcl(session, publish) => {
                let result = match shared.publish(&session.id, publish).await {
                    Ok(()) => PublishAclResult::allow(),
                    Err(denied) => PublishAclResult::rejected(true, Some(denied.to_string().into())),
                };
                return (false, Some(HookResult::PublishAclResult(result)));
            }
            Parameter::ClientConnected(session) => shared.connected(&session.id).await,
            Parameter::ClientDisconnected(session, _) => shared.disconnected(&session.id).await,
            Parameter::SessionSubscribed(session, now) => {
                shared.subscription(&session.id, &now.topic_filter, true);
            }
            Parameter::SessionUnsubscribed(session, past) => {
                shared.subscription(&session.id, &past.topic_filter, false);
            }
            Parameter::MessagePublish(_, from, publish) if matches!(from.typ(), FromType::LastWill) => {
                shared.will(&from.id, publish).await;
            }
            Parameter::MessageAcked(session, from, publish) => shared.delivered(&session.id, from, publish),
            Parameter::MessageDropped(Some(to), from, publish, _) => shared.delivered(to, from, publish),
            _ => {}
        }
        (true, before)
    }
}

//! Sessions under any order of events: what a device gets, and that the room for it comes back.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use super::*;
use crate::broker::budget::Budget;
use crate::ca::Serial;
use flotilla_protocol::{DeviceId, ProjectId};
use proptest::prelude::*;
use std::collections::HashSet;
use tokio::sync::Semaphore;

const SECOND: Duration = Duration::from_secs(1);

fn peer() -> Arc<PeerIdentity> {
    Arc::new(PeerIdentity {
        project: ProjectId::new("shop").unwrap(),
        device: DeviceId::new("gate-7").unwrap(),
        serial: Serial::random().unwrap(),
    })
}

fn session(window: u16, now: Instant) -> Session {
    let bounds = Bounds {
        in_flight: NonZeroU16::new(window).unwrap(),
        ack_timeout: 60 * SECOND,
        messages_per_second: 1,
        messages_burst: 1_000,
        ..Bounds::default()
    };
    Session::new(peer(), &bounds, 40, Some("gone".into()), now)
}

fn publish(channel: &str, id: u16) -> Event {
    let topic = format!("flotilla/v1/shop/gate-7/{channel}");
    let qos = if id == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce };
    Event::Packet(Received::Publish { topic, qos, retain: false, id, payload: "up".into() })
}

fn closed(effects: &[Effect]) -> Option<&Reason> {
    effects.iter().find_map(|effect| match effect {
        Effect::Close(reason) => Some(reason),
        _ => None,
    })
}

#[test]
fn a_message_is_acknowledged_after_it_was_handed_over_and_nothing_is_read_meanwhile() {
    let now = Instant::now();
    let mut session = session(4, now);
    let effects = session.step(publish("telemetry", 7), now);
    assert_eq!(effects, [Effect::HandOver(Up::Telemetry, "up".into())]);
    assert!(!session.listens());
    assert_eq!(session.due(), None, "nobody is late while we do not listen");
    let later = now + 3600 * SECOND;
    assert_eq!(session.step(Event::Time, later), []);
    assert_eq!(session.step(Event::HandedOver, later), [Effect::Send(Sent::PubAck(7))]);
    assert!(session.listens());
    session.step(Event::Wrote { all: true }, later);
    assert_eq!(session.due(), Some(later + 60 * SECOND), "from now on, one and a half keep-alives");

    session.step(publish("event", 0), later);
    assert_eq!(session.step(Event::HandedOver, later), [], "nobody waits for an answer");
}

#[test]
fn a_silent_device_is_gone_after_one_and_a_half_keep_alives() {
    let now = Instant::now();
    let mut session = session(4, now);
    let pong = session.step(Event::Packet(Received::Ping), now + 50 * SECOND);
    assert_eq!(pong, [Effect::Send(Sent::Pong)]);
    session.step(Event::Wrote { all: true }, now + 50 * SECOND);
    session.step(Event::Heard, now + 100 * SECOND);
    assert_eq!(session.step(Event::Time, now + 159 * SECOND), [], "a part of a packet counts");
    let effects = session.step(Event::Time, now + 160 * SECOND);
    assert_eq!(closed(&effects), Some(&Reason::Silent));
    assert_eq!(session.into_will(), Some("gone".into()));
}

#[test]
fn a_device_that_owes_acknowledgements_or_takes_no_bytes_is_cut_off() {
    let now = Instant::now();
    let mut owing = session(4, now);
    let later = now + 50 * SECOND;
    owing.step(Event::Heard, later);
    owing.step(Event::Deliver(Down::Chunk, "down".into()), later);
    owing.step(Event::Room, later);
    owing.step(Event::Wrote { all: true }, later);
    owing.step(Event::Heard, later + 59 * SECOND);
    assert_eq!(owing.step(Event::Time, later + 59 * SECOND), [], "an idle device owes nothing");
    assert_eq!(closed(&owing.step(Event::Time, later + 60 * SECOND)), Some(&Reason::Unacknowledged));

    let mut stuck = session(4, now);
    stuck.step(Event::Packet(Received::Ping), now);
    stuck.step(Event::Wrote { all: false }, now + 30 * SECOND);
    stuck.step(Event::Heard, now + 80 * SECOND);
    assert_eq!(stuck.step(Event::Time, now + 89 * SECOND), []);
    assert_eq!(closed(&stuck.step(Event::Time, now + 90 * SECOND)), Some(&Reason::Stuck));
}

#[test]
fn what_may_not_be_said_ends_the_session_and_nothing_comes_after() {
    let now = Instant::now();
    let qos_2 = |session: &mut Session| {
        let topic = "flotilla/v1/shop/gate-7/event".to_owned();
        let packet =
            Received::Publish { topic, qos: QoS::ExactlyOnce, retain: false, id: 1, payload: "up".into() };
        session.step(Event::Packet(packet), now)
    };
    let mut of_qos_2 = session(4, now);
    assert!(matches!(closed(&qos_2(&mut of_qos_2)), Some(Reason::Denied { denied: Denied::Qos, .. })));
    assert_eq!(of_qos_2.step(publish("event", 2), now), []);
    assert!(!of_qos_2.listens() && of_qos_2.due().is_none());

    let mut foreign = session(4, now);
    let denied = foreign.step(publish("desired", 1), now);
    assert!(matches!(closed(&denied), Some(Reason::Denied { denied: Denied::Topic, .. })));

    let mut broken = session(4, now);
    let effects = broken.step(Event::Malformed(Malformed::TooLarge), now);
    assert_eq!(closed(&effects), Some(&Reason::Protocol(Malformed::TooLarge)));

    let mut flood = session(4, now);
    let mut passed = 0;
    let end = loop {
        let effects = flood.step(publish("event", 0), now);
        if let Some(reason) = closed(&effects) {
            break reason.clone();
        }
        passed += 1;
        flood.step(Event::HandedOver, now);
    };
    assert!(matches!(end, Reason::Denied { denied: Denied::Rate, .. }));
    assert_eq!(passed, 1_000);
}

#[test]
fn a_good_bye_voids_the_will() {
    let now = Instant::now();
    let mut session = session(4, now);
    let effects = session.step(Event::Packet(Received::Disconnect), now);
    assert_eq!(closed(&effects), Some(&Reason::Goodbye));
    assert_eq!(session.into_will(), None);
}

#[test]
fn subscriptions_stand_before_they_are_granted_and_only_own_ones_go() {
    let now = Instant::now();
    let mut session = session(4, now);
    let id = NonZeroU16::new(9).unwrap();
    let own = "flotilla/v1/shop/gate-7/desired".to_owned();
    let foreign = "flotilla/v1/shop/gate-8/desired".to_owned();
    let filters = vec![(own.clone(), QoS::ExactlyOnce), (foreign.clone(), QoS::AtLeastOnce)];
    let effects = session.step(Event::Packet(Received::Subscribe { id, filters }), now);
    assert_eq!(
        effects,
        [
            Effect::Subscribed(Down::Desired),
            Effect::Refused { filter: foreign.clone(), denied: Denied::Topic },
            Effect::Send(Sent::SubAck { id, granted: vec![true, false] }),
        ]
    );
    let filters = vec![foreign.clone(), own];
    let effects = session.step(Event::Packet(Received::Unsubscribe { id, filters }), now);
    assert_eq!(effects, [Effect::Unsubscribed(Down::Desired), Effect::Send(Sent::UnsubAck(id))]);

    let filters = vec![(foreign, QoS::AtLeastOnce); REFUSALS as usize + 5];
    let effects = session.step(Event::Packet(Received::Subscribe { id, filters }), now);
    assert_eq!(closed(&effects), Some(&Reason::Refusals));
}

/// What may happen to a session, in any order.
#[derive(Clone, Debug)]
enum Happening {
    Deliver(usize),
    Room,
    /// The device acknowledges the message that is on its way at this place.
    Acknowledge(usize),
    /// … or any other id.
    Strange(u16),
    Say(bool),
    HandedOver,
    Ping,
    Wrote(bool),
    Pass(u32),
    Goodbye,
    Nonsense,
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        8 => (0_usize..5_000).prop_map(Happening::Deliver),
        8 => Just(Happening::Room),
        8 => (0_usize..8).prop_map(Happening::Acknowledge),
        1 => any::<u16>().prop_map(Happening::Strange),
        2 => any::<bool>().prop_map(Happening::Say),
        3 => Just(Happening::HandedOver),
        1 => Just(Happening::Ping),
        2 => any::<bool>().prop_map(Happening::Wrote),
        1 => (0_u32..20).prop_map(Happening::Pass),
        1 => prop_oneof![20 => Just(Happening::Ping), 1 => Just(Happening::Goodbye), 1 => Just(Happening::Nonsense)],
    ]
}

proptest! {
    #[test]
    fn messages_arrive_in_order_within_the_window_and_their_room_comes_back(
        window in 1_u16..6,
        // So that ids also wrap, and meet those that are still on their way.
        last_id in prop_oneof![Just(0), (u16::MAX - 8)..=u16::MAX],
        happenings in proptest::collection::vec(happening(), 1..400),
    ) {
        const ALL: usize = 10_000_000;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let all = Arc::new(Semaphore::new(ALL));
        let budget = Budget::new(ALL, all.clone());
        let mut now = Instant::now();
        let mut session = session(window, now);
        session.last_id = last_id;

        let (mut delivered, mut got) = (vec![], 0_usize);
        let mut on_way: Vec<(u16, usize)> = vec![];
        let (mut owed, mut taken) = (0_usize, 0_usize);
        let mut over = false;
        for happening in happenings {
            let event = match happening {
                Happening::Deliver(bytes) => {
                    let payload = Bytes::from(vec![delivered.len() as u8; bytes]);
                    runtime.block_on(budget.take(bytes, Duration::ZERO)).unwrap();
                    taken += bytes + 1024;
                    delivered.push(payload.clone());
                    Event::Deliver(Down::Chunk, payload)
                }
                Happening::Room => Event::Room,
                Happening::Acknowledge(at) if session.listens() && at < on_way.len() => {
                    Event::Packet(Received::PubAck(on_way[at].0))
                }
                Happening::Strange(id) if session.listens() && on_way.iter().all(|(other, _)| *other != id) => {
                    Event::Packet(Received::PubAck(id))
                }
                Happening::Say(wants_answer) if session.listens() => publish("event", u16::from(wants_answer)),
                Happening::Ping if session.listens() => Event::Packet(Received::Ping),
                Happening::Goodbye if session.listens() => Event::Packet(Received::Disconnect),
                Happening::Nonsense if session.listens() => Event::Malformed(Malformed::TooLarge),
                Happening::HandedOver if session.handing.is_some() => Event::HandedOver,
                Happening::Wrote(all) => Event::Wrote { all },
                Happening::Pass(seconds) => {
                    now += SECOND * seconds;
                    Event::Time
                }
                _ => continue,
            };
            for effect in session.step(event, now) {
                prop_assert!(!over, "nothing comes after the end");
                match effect {
                    Effect::Send(Sent::Publish { id, payload, .. }) => {
                        prop_assert_eq!(&payload, &delivered[got], "in order, each once");
                        got += 1;
                        on_way.push((id.get(), payload.len()));
                        let ids: HashSet<_> = on_way.iter().map(|(id, _)| *id).collect();
                        prop_assert_eq!(ids.len(), on_way.len(), "no id twice");
                        prop_assert!(on_way.len() <= usize::from(window));
                    }
                    Effect::GiveBack(bytes) => {
                        let at = on_way.iter().position(|(_, other)| *other == bytes);
                        prop_assert!(at.is_some(), "only what is on its way");
                        budget.give_back(bytes);
                        taken -= bytes + 1024;
                    }
                    Effect::HandOver(..) => owed += 1,
                    Effect::Close(_) => over = true,
                    _ => {}
                }
            }
            on_way.retain(|(id, _)| session.in_flight.iter().any(|(other, _)| other.get() == *id));
            prop_assert_eq!(ALL - all.available_permits(), taken);
            prop_assert!(session.handing.is_none() || owed > 0);
        }
        // A device that takes everything gets everything.
        if session.handing.is_some() {
            session.step(Event::HandedOver, now);
        }
        while !over && (session.has_news() || !on_way.is_empty()) {
            for effect in session.step(Event::Room, now) {
                if let Effect::Send(Sent::Publish { id, payload, .. }) = effect {
                    prop_assert_eq!(&payload, &delivered[got]);
                    got += 1;
                    on_way.push((id.get(), payload.len()));
                }
            }
            let (id, _) = on_way.remove(0);
            for effect in session.step(Event::Packet(Received::PubAck(id)), now) {
                if let Effect::GiveBack(bytes) = effect {
                    budget.give_back(bytes);
                }
            }
        }
        if !over {
            prop_assert_eq!(got, delivered.len());
            prop_assert_eq!(all.available_permits(), ALL, "all room is there without an end");
        }
        budget.close();
        prop_assert_eq!(all.available_permits(), ALL, "however it ended");
        budget.give_back(100);
        prop_assert_eq!(all.available_permits(), ALL, "and not twice");
    }
}

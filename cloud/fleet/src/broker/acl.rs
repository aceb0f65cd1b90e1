//! What a connection may do. Pure decisions over the certificate's identity; everything not named here is denied.

use super::PeerIdentity;
use super::packet::QoS;
use flotilla_protocol::limits;
use flotilla_protocol::topic::{Channel, Down, Topic, Up};

/// Why something is denied. Texts go to the log, never to the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Denied {
    #[error("the topic is not one of the device's own")]
    Topic,
    #[error("devices may not retain messages")]
    Retained,
    #[error("the quality of service is not supported here")]
    Qos,
    #[error("the payload is larger than allowed")]
    TooLarge,
    #[error("the device sends more than its rate bound")]
    Rate,
}

fn own(peer: &PeerIdentity, topic: &str) -> Result<Channel, Denied> {
    // Ids hold no '+', '#', '$' or '/', so wildcards, shared subscriptions and system topics do not even parse.
    let topic: Topic = topic.parse().map_err(|_| Denied::Topic)?;
    if topic.project == peer.project && topic.device == peer.device {
        Ok(topic.channel)
    } else {
        Err(Denied::Topic)
    }
}

/// May the peer publish this?
pub(super) fn publish(
    peer: &PeerIdentity,
    topic: &str,
    qos: QoS,
    retain: bool,
    bytes: usize,
) -> Result<Up, Denied> {
    let Channel::Up(channel) = own(peer, topic)? else { return Err(Denied::Topic) };
    match (qos, retain) {
        (_, true) => Err(Denied::Retained),
        (QoS::ExactlyOnce, _) => Err(Denied::Qos),
        _ if bytes > limits::MQTT_PAYLOAD => Err(Denied::TooLarge),
        _ => Ok(channel),
    }
}

/// May the peer subscribe to this? QoS 0 is denied: what the cloud sends is counted until it is acknowledged.
pub(super) fn subscribe(peer: &PeerIdentity, filter: &str, qos: QoS) -> Result<Down, Denied> {
    let Channel::Down(channel) = own(peer, filter)? else { return Err(Denied::Topic) };
    if qos == QoS::AtMostOnce { Err(Denied::Qos) } else { Ok(channel) }
}

/// May the peer leave this will? Asked when it connects; what passes is handed over unseen when it has gone.
pub(super) fn will(
    peer: &PeerIdentity,
    topic: &str,
    qos: QoS,
    retain: bool,
    bytes: usize,
) -> Result<(), Denied> {
    match publish(peer, topic, qos, retain, bytes)? {
        Up::Event => Ok(()),
        _ => Err(Denied::Topic),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;
    use crate::ca::Serial;
    use flotilla_protocol::{DeviceId, ProjectId};
    use proptest::prelude::*;

    fn peer() -> PeerIdentity {
        PeerIdentity {
            project: ProjectId::new("shop").unwrap(),
            device: DeviceId::new("gate-7").unwrap(),
            serial: Serial::random().unwrap(),
        }
    }

    fn topic(channel: &str) -> String {
        format!("flotilla/v1/shop/gate-7/{channel}")
    }

    #[test]
    fn a_device_publishes_to_its_up_topics_and_subscribes_to_its_down_topics_only() {
        for up in Up::ALL {
            let topic = topic(up.as_str());
            assert_eq!(publish(&peer(), &topic, QoS::AtLeastOnce, false, 0), Ok(*up));
            assert_eq!(subscribe(&peer(), &topic, QoS::AtLeastOnce), Err(Denied::Topic));
        }
        for down in Down::ALL {
            let topic = topic(down.as_str());
            assert_eq!(subscribe(&peer(), &topic, QoS::AtLeastOnce), Ok(*down));
            assert_eq!(publish(&peer(), &topic, QoS::AtLeastOnce, false, 0), Err(Denied::Topic));
        }
    }

    #[test]
    fn nothing_foreign_wild_shared_or_hidden_is_reachable() {
        for text in [
            "flotilla/v1/shop/gate-8/desired",
            "flotilla/v1/other/gate-7/desired",
            "flotilla/v1/shop/gate-7/+",
            "flotilla/v1/shop/gate-7/#",
            "flotilla/v1/shop/+/desired",
            "flotilla/#",
            "#",
            "+/+/+/+/+",
            "$share/g/flotilla/v1/shop/gate-7/desired",
            "$SYS/brokers",
            "$delayed/1/flotilla/v1/shop/gate-7/hello",
            "$exclusive/flotilla/v1/shop/gate-7/desired",
            "/flotilla/v1/shop/gate-7/desired",
            "flotilla/v1/shop/gate-7/desired/",
            "flotilla/v1/shop/gate-7/Desired",
            "",
        ] {
            assert_eq!(subscribe(&peer(), text, QoS::AtLeastOnce), Err(Denied::Topic), "{text}");
            assert_eq!(publish(&peer(), text, QoS::AtLeastOnce, false, 0), Err(Denied::Topic), "{text}");
            assert_eq!(will(&peer(), text, QoS::AtLeastOnce, false, 0), Err(Denied::Topic), "{text}");
        }
    }

    #[test]
    fn retained_oversized_and_unsupported_messages_are_denied() {
        let hello = topic("hello");
        assert_eq!(publish(&peer(), &hello, QoS::AtLeastOnce, true, 0), Err(Denied::Retained));
        assert_eq!(publish(&peer(), &hello, QoS::ExactlyOnce, false, 0), Err(Denied::Qos));
        assert_eq!(publish(&peer(), &hello, QoS::AtMostOnce, false, limits::MQTT_PAYLOAD), Ok(Up::Hello));
        let larger = limits::MQTT_PAYLOAD + 1;
        assert_eq!(publish(&peer(), &hello, QoS::AtLeastOnce, false, larger), Err(Denied::TooLarge));
        assert_eq!(subscribe(&peer(), &topic("desired"), QoS::AtMostOnce), Err(Denied::Qos));
    }

    #[test]
    fn a_will_stands_on_the_event_topic_or_nowhere() {
        assert_eq!(will(&peer(), &topic("event"), QoS::AtLeastOnce, false, 10), Ok(()));
        assert_eq!(will(&peer(), &topic("event"), QoS::AtLeastOnce, true, 10), Err(Denied::Retained));
        assert_eq!(will(&peer(), &topic("hello"), QoS::AtLeastOnce, false, 10), Err(Denied::Topic));
    }

    proptest! {
        #[test]
        fn no_other_text_is_ever_allowed(text in "\\PC{0,80}") {
            let allowed = Up::ALL.iter().map(|up| up.as_str()).chain(Down::ALL.iter().map(|down| down.as_str()));
            prop_assume!(!allowed.map(topic).any(|own| own == text));
            prop_assert_eq!(publish(&peer(), &text, QoS::AtLeastOnce, false, 0), Err(Denied::Topic));
            prop_assert_eq!(subscribe(&peer(), &text, QoS::AtLeastOnce), Err(Denied::Topic));
        }
    }
}

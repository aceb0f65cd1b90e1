//! MQTT 3.1.1 packets, as bytes. The codec is the one of the client library that the agent uses; here stands what a
//! server must be strict about: bounds before anything is kept, fixed flags, and who may send what.

use super::config::{CONTROL, PACKET};
use bytes::{Bytes, BytesMut};
use rumqttc::mqttbytes::{Error, PacketType, check};
use std::num::NonZeroU16;

pub(super) use rumqttc::mqttbytes::QoS;
pub(super) use rumqttc::mqttbytes::v4::{Connect, ConnectReturnCode};

use rumqttc::mqttbytes::v4::{
    self, ConnAck, Packet, PingResp, PubAck, Publish, SubAck, SubscribeReasonCode, UnsubAck,
};

/// What a device says once it is connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// A message; with an id if it is to be acknowledged.
    Publish { topic: String, qos: QoS, retain: bool, id: u16, payload: Bytes },
    /// It has taken the message with this id.
    PubAck(u16),
    /// It wants messages.
    Subscribe { id: NonZeroU16, filters: Vec<(String, QoS)> },
    /// It wants no more of them.
    Unsubscribe { id: NonZeroU16, filters: Vec<String> },
    /// It wants to know whether we are there.
    Ping,
    /// It goes, and its will is void.
    Disconnect,
}

/// What is sent to a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// The answer to its CONNECT packet.
    ConnAck(ConnectReturnCode),
    /// A message, with QoS 1.
    Publish { topic: String, id: NonZeroU16, payload: Bytes },
    /// Its message with this id is taken.
    PubAck(u16),
    /// For each filter, whether it is subscribed with QoS 1.
    SubAck { id: NonZeroU16, granted: Vec<bool> },
    /// The filters are gone.
    UnsubAck(NonZeroU16),
    /// We are there.
    Pong,
}

/// Why what a device sends is not MQTT as we speak it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("it is not MQTT 3.1.1")]
    Version,
    #[error("a packet is larger than allowed")]
    TooLarge,
    #[error("a {0:?} packet is not expected here")]
    Unexpected(PacketType),
    #[error("a packet cannot be read: {0}")]
    Unreadable(String),
}

impl From<Error> for Malformed {
    fn from(error: Error) -> Self {
        match error {
            Error::PayloadSizeLimitExceeded(_) => Self::TooLarge,
            error => Self::Unreadable(error.to_string()),
        }
    }
}

fn unreadable(what: &str) -> Malformed {
    Malformed::Unreadable(what.to_owned())
}

/// Whether a whole packet stands at the beginning of the buffer: its type, checked against its size and fixed flags.
fn framed(buffer: &[u8]) -> Result<Option<(PacketType, usize)>, Malformed> {
    let Some(head) = buffer.first() else { return Ok(None) };
    let largest = if head >> 4 == PacketType::Publish as u8 { PACKET } else { CONTROL };
    let header = match check(buffer.iter(), largest) {
        Ok(header) => header,
        Err(Error::InsufficientBytes(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let kind = header.packet_type()?;
    let flags = match kind {
        PacketType::Publish => head & 0x0f,
        PacketType::PubRel | PacketType::Subscribe | PacketType::Unsubscribe => 2,
        _ => 0,
    };
    let sized = match kind {
        PacketType::PubAck => header.frame_length() == 4,
        PacketType::PingReq | PacketType::Disconnect => header.frame_length() == 2,
        _ => true,
    };
    if head & 0x0f != flags || !sized {
        return Err(unreadable("its fixed header is wrong"));
    }
    Ok(Some((kind, header.frame_length())))
}

/// Takes the CONNECT packet from the buffer, once it is there as a whole.
pub(super) fn connect(buffer: &mut BytesMut) -> Result<Option<Connect>, Malformed> {
    // Anything else might read as the head of a long packet, whose rest would be waited for.
    if buffer.first().is_some_and(|head| *head != (PacketType::Connect as u8) << 4) {
        return Err(unreadable("it is no CONNECT packet"));
    }
    let Some((_, length)) = framed(buffer)? else { return Ok(None) };
    // The version is looked at first: what follows it means something else in another one.
    let frame = &buffer[..length];
    let start = 1 + frame[1..].iter().take_while(|byte| *byte & 0x80 != 0).count() + 1;
    match frame[start..].strip_prefix(b"\0\x04MQTT") {
        Some([4, flags, ..]) if flags & 1 == 0 => {}
        Some([4, ..]) => return Err(unreadable("a reserved flag is set")),
        Some([_, ..]) => return Err(Malformed::Version),
        _ => return Err(unreadable("it names another protocol")),
    }
    match Packet::read(buffer, CONTROL)? {
        Packet::Connect(connect) => Ok(Some(connect)),
        _ => Err(Malformed::Unexpected(PacketType::Connect)),
    }
}

/// Takes the next packet of a connected device from the buffer, once it is there as a whole.
pub(super) fn read(buffer: &mut BytesMut) -> Result<Option<Received>, Malformed> {
    let Some((kind, _)) = framed(buffer)? else { return Ok(None) };
    let named = |id| NonZeroU16::new(id).ok_or_else(|| unreadable("its packet id is zero"));
    let received = match kind {
        PacketType::Publish
        | PacketType::PubAck
        | PacketType::Subscribe
        | PacketType::Unsubscribe
        | PacketType::PingReq
        | PacketType::Disconnect => match Packet::read(buffer, PACKET)? {
            Packet::Publish(Publish { topic, qos, retain, pkid: id, payload, .. }) => {
                Received::Publish { topic, qos, retain, id, payload }
            }
            Packet::PubAck(PubAck { pkid }) => Received::PubAck(pkid),
            Packet::Subscribe(v4::Subscribe { pkid, filters }) => {
                let filters = filters.into_iter().map(|filter| (filter.path, filter.qos)).collect();
                Received::Subscribe { id: named(pkid)?, filters }
            }
            Packet::Unsubscribe(v4::Unsubscribe { pkid, topics }) => {
                Received::Unsubscribe { id: named(pkid)?, filters: topics }
            }
            Packet::PingReq => Received::Ping,
            Packet::Disconnect => Received::Disconnect,
            _ => return Err(Malformed::Unexpected(kind)),
        },
        // What only a server says, a second CONNECT, and the exchanges of QoS 2.
        _ => return Err(Malformed::Unexpected(kind)),
    };
    Ok(Some(received))
}

impl Sent {
    /// Appends the packet to a buffer.
    pub(super) fn write(self, buffer: &mut BytesMut) -> Result<(), Malformed> {
        match self {
            Self::ConnAck(code) => ConnAck::new(code, false).write(buffer)?,
            Self::Publish { topic, id, payload } => {
                let publish = Publish {
                    dup: false,
                    qos: QoS::AtLeastOnce,
                    retain: false,
                    topic,
                    pkid: id.get(),
                    payload,
                };
                buffer.reserve(publish.size());
                publish.write(buffer)?
            }
            Self::PubAck(id) => PubAck::new(id).write(buffer)?,
            Self::SubAck { id, granted } => {
                let code = |granted| match granted {
                    true => SubscribeReasonCode::Success(QoS::AtLeastOnce),
                    false => SubscribeReasonCode::Failure,
                };
                SubAck::new(id.get(), granted.into_iter().map(code).collect()).write(buffer)?
            }
            Self::UnsubAck(id) => UnsubAck { pkid: id.get() }.write(buffer)?,
            Self::Pong => PingResp.write(buffer)?,
        };
        Ok(())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(bytes: &[u8]) -> Result<Option<Received>, Malformed> {
        read(&mut BytesMut::from(bytes))
    }

    #[test]
    fn what_a_device_says_is_read_to_the_byte() {
        let all = b"\x32\x08\0\x01t\x12\x34abc\x40\x02\x12\x34\x82\x06\0\x07\0\x01t\x01\xa2\x05\0\x08\0\x01t\xc0\0\xe0\0";
        let mut buffer = BytesMut::from(&all[..]);
        let mut next = || read(&mut buffer).unwrap();
        let payload = Bytes::from_static(b"abc");
        let (topic, qos) = ("t".to_owned(), QoS::AtLeastOnce);
        let publish = Received::Publish { topic, qos, retain: false, id: 0x1234, payload };
        assert_eq!(next(), Some(publish));
        assert_eq!(next(), Some(Received::PubAck(0x1234)));
        let id = |id| NonZeroU16::new(id).unwrap();
        assert_eq!(next(), Some(Received::Subscribe { id: id(7), filters: vec![("t".into(), qos)] }));
        assert_eq!(next(), Some(Received::Unsubscribe { id: id(8), filters: vec!["t".into()] }));
        assert_eq!(next(), Some(Received::Ping));
        assert_eq!(next(), Some(Received::Disconnect));
        assert_eq!(next(), None);
    }

    #[test]
    fn a_part_of_a_packet_is_waited_for_and_an_oversized_one_is_not() {
        let whole = b"\x32\x08\0\x01t\x12\x34abc";
        for end in 0..whole.len() {
            assert_eq!(of(&whole[..end]), Ok(None));
        }
        assert_eq!(of(b"\x30\xff\xff\xff\x7f"), Err(Malformed::TooLarge), "before any of it is kept");
        assert_eq!(of(b"\x82\x81\x80\x01"), Err(Malformed::TooLarge), "only messages may be large");
        assert!(matches!(of(b"\x30\xff\xff\xff\xff\x7f"), Err(Malformed::Unreadable(_))));
    }

    #[test]
    fn what_no_device_may_send_is_an_error() {
        for (bytes, kind) in [
            (&b"\x20\x02\0\0"[..], PacketType::ConnAck),
            (b"\x10\x0c\0\x04MQTT\x04\x02\0\x3c\0\0", PacketType::Connect),
            (b"\x50\x02\0\x01", PacketType::PubRec),
            (b"\x62\x02\0\x01", PacketType::PubRel),
            (b"\x70\x02\0\x01", PacketType::PubComp),
            (b"\x90\x03\0\x01\x01", PacketType::SubAck),
            (b"\xb0\x02\0\x01", PacketType::UnsubAck),
            (b"\xd0\0", PacketType::PingResp),
        ] {
            assert_eq!(of(bytes), Err(Malformed::Unexpected(kind)));
        }
        for bytes in [
            &b"\0\0"[..],
            b"\xf0\0",
            b"\x82\0",
            b"\x80\x06\0\x07\0\x01t\x01",
            b"\x82\x06\0\0\0\x01t\x01",
            b"\x82\x06\0\x07\0\x01t\x03",
            b"\x82\x02\0\x07",
            b"\x32\x05\0\x01t\0\0",
            b"\x36\x05\0\x01t\0\x01",
            b"\xa2\x01\0",
            b"\xc1\0",
            b"\xc0\x01\0",
            b"\x40\x03\0\x01\0",
        ] {
            assert!(matches!(of(bytes), Err(Malformed::Unreadable(_))), "{bytes:x?}");
        }
    }

    #[test]
    fn another_version_is_told_apart_from_another_protocol() {
        let of = |bytes: &[u8]| connect(&mut BytesMut::from(bytes));
        assert!(of(b"\x10\x0c\0\x04MQTT\x04\x02\0\x3c\0\0").unwrap().is_some());
        assert_eq!(of(b"\x10\x13\0\x04MQTT\x05\x02\0\x3c\x05\x11\0\0\0\x01\0\0"), Ok(None));
        assert_eq!(
            of(b"\x10\x12\0\x04MQTT\x05\x02\0\x3c\x05\x11\0\0\0\x01\0\0"),
            Err(Malformed::Version),
            "though its properties stand where 3.1.1 has the client id"
        );
        assert!(matches!(of(b"\x10\x0c\0\x04MQTT\x04\x03\0\x3c\0\0"), Err(Malformed::Unreadable(_))));
        assert!(matches!(of(b"\x10\x04\0\x02MQ"), Err(Malformed::Unreadable(_))));
        assert!(matches!(of(b"GET"), Err(Malformed::Unreadable(_))));
    }

    proptest! {
        /// Whatever comes: an answer, progress, and never more than what came.
        #[test]
        fn no_bytes_bring_the_reader_down(
            head in prop_oneof![any::<u8>(), (1_u8..15).prop_map(|kind| kind << 4), Just(0x32), Just(0x82), Just(0xa2)],
            rest in proptest::collection::vec(any::<u8>(), 0..64),
            framed in any::<bool>(),
        ) {
            let mut bytes = vec![head];
            if framed {
                bytes.push(rest.len() as u8);
            }
            bytes.extend(&rest);
            let mut buffer = BytesMut::from(&bytes[..]);
            let mut before = buffer.len() + 1;
            while let Ok(Some(_)) = read(&mut buffer) {
                prop_assert!(buffer.len() < before);
                before = buffer.len();
            }
            let _ = connect(&mut BytesMut::from(&bytes[..]));
            let hello = [b"\x10\x20\0\x04MQTT".as_slice(), &rest].concat();
            let _ = connect(&mut BytesMut::from(&hello[..]));
        }
    }
}

//! Round trips, the exit to another CBOR library, and arbitrary bytes.

use crate::messages::{hello, reported, telemetry};
use crate::models::{manifest, trust};
use flotilla_protocol::envelope::EnvelopeKind;
use flotilla_protocol::manifest::{Golden, ReleaseManifest};
use flotilla_protocol::message::*;
use flotilla_protocol::signature::SigningKey;
use flotilla_protocol::{Digest, Envelope, ErrorCode, TrustFile, codec, limits};
use proptest::prelude::*;
use serde::de::DeserializeOwned;

#[test]
fn bytes_over_the_bound_or_after_the_end_are_refused() {
    let mut bytes = codec::encode(&hello());
    assert_eq!(codec::decode::<Hello>(&bytes, bytes.len() - 1).unwrap_err().code(), ErrorCode::TooLarge);
    bytes.push(0);
    assert_eq!(codec::decode::<Hello>(&bytes, 4096).unwrap_err().code(), ErrorCode::Malformed);
    let nested = vec![0x81; 200_000];
    assert_eq!(codec::decode::<Hello>(&nested, 1 << 20).unwrap_err().code(), ErrorCode::Malformed);
}

#[test]
fn error_codes_are_distinct_and_read_back() {
    let texts: std::collections::BTreeSet<_> = ErrorCode::ALL.iter().map(|c| c.as_str()).collect();
    assert_eq!(texts.len(), ErrorCode::ALL.len());
    for code in ErrorCode::ALL {
        assert_eq!(ErrorCode::from_text(code.as_str()), *code);
    }
}

fn reads_without_panic<T: DeserializeOwned>(bytes: &[u8]) {
    drop(codec::decode::<T>(bytes, limits::ENVELOPE));
}

fn try_every_decoder(bytes: &[u8]) {
    reads_without_panic::<Hello>(bytes);
    reads_without_panic::<Desired>(bytes);
    reads_without_panic::<Reported>(bytes);
    reads_without_panic::<Fetch>(bytes);
    reads_without_panic::<Chunk>(bytes);
    reads_without_panic::<Request>(bytes);
    reads_without_panic::<Reply>(bytes);
    reads_without_panic::<Upload>(bytes);
    reads_without_panic::<Ack>(bytes);
    reads_without_panic::<Golden>(bytes);
    if let Ok(batch) = codec::decode::<TelemetryBatch>(bytes, limits::ENVELOPE) {
        _ = batch.check();
        for record in batch.records {
            if let RecordBody::Sample(sample) = record.body {
                sample.models.values().for_each(|m| _ = m.latency.quantile_us(0.95));
            }
        }
    }
    if let Ok(envelope) = Envelope::from_bytes(bytes) {
        drop(TrustFile::accept_first(&envelope));
        drop(ReleaseManifest::open(&envelope, &trust(), 0));
    }
    if let Ok(manifest) = codec::decode::<ReleaseManifest>(bytes, limits::ENVELOPE) {
        drop(manifest.check());
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        try_every_decoder(&bytes);
    }

    #[test]
    fn damaged_messages_never_panic(which in 0usize..6, at in any::<prop::sample::Index>(), to in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let key = SigningKey::from_seed(&[1; 32]);
        let mut bytes = match which {
            0 => codec::encode(&hello()),
            1 => codec::encode(&reported()),
            2 => codec::encode(&telemetry()),
            3 => codec::encode(&manifest()),
            4 => Envelope::seal(EnvelopeKind::Trust, &trust(), &[&key]).to_bytes(),
            _ => Envelope::seal(EnvelopeKind::Release, &manifest(), &[&key]).to_bytes(),
        };
        let index = at.index(bytes.len());
        bytes[index] = to;
        try_every_decoder(&bytes);
        bytes.truncate(cut.index(bytes.len()));
        try_every_decoder(&bytes);
    }

    #[test]
    fn digests_round_trip(bytes in any::<[u8; 32]>()) {
        let digest = Digest::from_bytes(bytes);
        prop_assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
        prop_assert_eq!(codec::decode::<Digest>(&codec::encode(&digest), 64).unwrap(), digest);
        let json = serde_json::to_string(&digest).unwrap();
        prop_assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), digest);
    }

    #[test]
    fn histogram_quantiles_bound_the_values(mut values in prop::collection::vec(1u64..1_000_000_000, 1..200), q in 0.0f64..1.0) {
        let mut histogram = Histogram::default();
        values.iter().for_each(|v| histogram.record(*v));
        values.sort_unstable();
        let rank = ((values.len() as f64 * q).ceil() as usize).clamp(1, values.len());
        let exact = values[rank - 1];
        let bound = histogram.quantile_us(q).unwrap();
        prop_assert!(bound >= exact && bound < exact * 2 + 1, "{} for {}", bound, exact);
        prop_assert_eq!(histogram.count(), values.len() as u64);
    }
}

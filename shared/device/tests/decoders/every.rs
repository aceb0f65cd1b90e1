//! Every decoder that bytes from outside come to, on either side. Shared by the property test and the fuzz target.

use flotilla_device::frame::{self, Kind};
use flotilla_device::hard::ledger::Ledger;
use flotilla_device::hard::stored::StoredExample;
use flotilla_device::hard::{ledger, stored};
use flotilla_device::inbox::Stamp;
use flotilla_device::launch::{LaunchJournal, Place};
use flotilla_device::multipart::{self, Multipart};
use flotilla_device::outbox::{Outbox, StreamState};
use flotilla_device::release::{Board, examine, examine_agent};
use flotilla_device::shadow::ShadowJournal;
use flotilla_device::update::UpdateJournal;
use flotilla_device::{Fault, desired};
use flotilla_protocol::enrol::{ClaimCode, EnrolAnswer, EnrolRequest};
use flotilla_protocol::manifest::Golden;
use flotilla_protocol::message::{
    Ack, Chunk, Command, CommandKind, CommandReport, Desired, Diagnosis, Epoch, Fetch, Hello, ModelReport,
    RecordBody, Reply, ReplyBody, Reported, Request, ShadowRelease, ShadowReport, TelemetryBatch, Upload,
};
use flotilla_protocol::signature::SigningKey;
use flotilla_protocol::topic::Topic;
use flotilla_protocol::trust::KeySet;
use flotilla_protocol::{
    Baseline, Digest, Envelope, ErrorCode, Pipeline, ReleaseManifest, TrustFile, codec, limits,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// A device that trusts keys which signed nothing of what comes.
static TRUST: LazyLock<TrustFile> = LazyLock::new(|| TrustFile {
    version: 1,
    project: "default".parse().expect("a name"),
    ca: Digest::of(b"ca"),
    release_keys: KeySet::single(SigningKey::from_seed(&[201; 32]).public()),
    control_keys: KeySet::single(SigningKey::from_seed(&[202; 32]).public()),
    min_release: BTreeMap::new(),
    issued_at_ms: 1,
});

const SHADOW: Kind = Kind { name: *b"FSJ", version: 1 };
const LAUNCH: Kind = Kind { name: *b"FLJ", version: 1 };

/// The journals' frame; every small file of a device has one.
const FRAMES: [Kind; 9] = [
    Kind { name: *b"FUJ", version: 1 },
    Kind { name: *b"FTR", version: 1 },
    Kind { name: *b"FAC", version: 1 },
    Kind { name: *b"FHC", version: 1 },
    Kind { name: *b"FCM", version: 1 },
    ledger::KIND,
    stored::KIND,
    LAUNCH,
    SHADOW,
];

/// Gives the bytes to every decoder. None may panic or take more than its bound; what one accepts must come through
/// writing and reading again; and nothing unsigned may be believed.
pub(crate) fn decode_everything(bytes: &[u8]) {
    up(bytes);
    down(bytes);
    documents(bytes);
    stored(bytes);
    camera(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        texts(text);
    }
}

/// Reads a message within the bound of MQTT, as both sides do.
fn read<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let value: T = match codec::decode(bytes, limits::MQTT_PAYLOAD) {
        Ok(value) => value,
        Err(error) => {
            assert!(matches!(error.code(), ErrorCode::Malformed | ErrorCode::TooLarge));
            return None;
        }
    };
    let once = codec::encode(&value);
    let again: T = codec::decode(&once, usize::MAX).expect("what was written reads");
    assert!(codec::encode(&again) == once, "it reads as something else");
    Some(value)
}

/// What the cloud reads.
fn up(bytes: &[u8]) {
    read::<Hello>(bytes);
    if let Some(reported) = read::<Reported>(bytes) {
        for diagnosis in reported.commands.into_iter().filter_map(|report| report.diagnosis) {
            let bounded = diagnosis.bounded();
            assert!(bounded.findings.len() <= limits::DIAGNOSIS_FINDINGS);
        }
    }
    read::<ModelReport>(bytes);
    read::<ShadowReport>(bytes);
    read::<CommandReport>(bytes);
    read::<Diagnosis>(bytes).map(Diagnosis::bounded);
    if let Some(batch) = read::<TelemetryBatch>(bytes)
        && batch.check().is_ok()
    {
        assert!(batch.records.len() <= limits::TELEMETRY_BATCH);
        for record in batch.records {
            if let RecordBody::Sample(sample) = record.body {
                for model in sample.models.values() {
                    _ = model.latency.quantile_us(0.95);
                    _ = model.drift.map(|drift| (drift.cause(), drift.shift()));
                }
                sample.shadows.values().for_each(|s| _ = s.shadow.mean_confidence(s.compared));
            }
        }
    }
    read::<Fetch>(bytes).map(|fetch| fetch.check());
    read::<Request>(bytes);
    if let Some(upload) = read::<Upload>(bytes)
        && upload.check().is_ok()
    {
        assert!(upload.offset + upload.data.len() as u64 <= limits::HARD_EXAMPLE as u64);
    }
}

/// What a device reads.
fn down(bytes: &[u8]) {
    read::<Chunk>(bytes);
    if let Some(Reply { body: ReplyBody::Trust(envelope), .. }) = read::<Reply>(bytes) {
        trust(&envelope);
    }
    if let Some(ack) = read::<Ack>(bytes) {
        let stream = StreamState { acked: 3, first: 4, next: 9, bytes: 500 };
        let mut outbox = Outbox::new(Epoch(7), stream, stream, stream);
        let freed = outbox.ack(&Ack { epoch: Epoch(7), ..ack });
        assert!(freed.is_none_or(|freed| freed.first == 4 && freed.last <= 8), "only what was sent is freed");
        outbox.ack(&ack);
    }
    if let Some(Command { kind: CommandKind::LogPull(query), .. }) = read::<Command>(bytes) {
        _ = query.check();
    }
    read::<ShadowRelease>(bytes);
    if let Some(wanted) = read::<Desired>(bytes) {
        _ = wanted.check();
        wanted.hard_examples.values().for_each(|policy| _ = policy.check());
    }
}

fn trust(bytes: &[u8]) {
    let Ok(envelope) = Envelope::from_bytes(bytes) else { return };
    assert!(TRUST.accept_next(&envelope).is_err(), "an unsigned trust file is believed");
    drop(TrustFile::accept_first(&envelope));
}

/// Signed documents.
fn documents(bytes: &[u8]) {
    trust(bytes);
    if let Ok(envelope) = Envelope::from_bytes(bytes) {
        let device = "gate-7".parse().expect("a name");
        assert!(
            desired::accept(&envelope, &TRUST, &device, 0).is_err(),
            "an unsigned desired document is believed"
        );
        assert!(ReleaseManifest::open(&envelope, &TRUST, 0).is_err(), "an unsigned release is believed");
        // What a signed one could hold.
        documents_inside(&envelope.payload);
    }
    let board = Board {
        name: "generic".into(),
        model_bytes: u64::MAX,
        disk_free_bytes: u64::MAX,
        disk_reserve_bytes: 0,
        storage_left_bytes: u64::MAX,
        memory_bytes: 0,
    };
    let model = "digits".parse().expect("a name");
    let examined: Result<_, Fault> = examine(bytes, Digest::of(bytes), &model, &TRUST, 0, &board, |_| 0);
    assert!(examined.is_err(), "an unsigned release is let in");
    let platform = ("linux", "x86_64");
    let examined: Result<_, Fault> =
        examine_agent(bytes, Digest::of(bytes), &TRUST, 0, &board, platform, |_| 0);
    assert!(examined.is_err(), "an unsigned agent is let in");
    documents_inside(bytes);
}

fn documents_inside(bytes: &[u8]) {
    if let Some(manifest) = read::<ReleaseManifest>(bytes)
        && manifest.check().is_ok()
    {
        _ = manifest.total_bytes();
        drop(manifest.variant_for("generic", "tract"));
        drop(manifest.part_for("generic", "agent-linux-x86_64"));
    }
    read::<TrustFile>(bytes);
    read::<Pipeline>(bytes);
    read::<Golden>(bytes);
    if let Some(baseline) = read::<Baseline>(bytes)
        && baseline.check().is_ok()
    {
        assert!(baseline.features.iter().all(|feature| feature.counts.len() == feature.edges.len() + 1));
    }
}

/// Files on a device's disk.
fn stored(bytes: &[u8]) {
    for kind in FRAMES {
        if let Ok((version, payload)) = frame::open(kind, bytes) {
            assert!(version == kind.version && payload.len() < bytes.len());
        }
    }
    if let Ok(journal) = UpdateJournal::from_bytes(bytes) {
        assert!(
            UpdateJournal::from_bytes(&journal.to_bytes())
                .is_ok_and(|again| again.to_bytes() == journal.to_bytes())
        );
    }
    // The content behind a right checksum.
    drop(UpdateJournal::from_bytes(&frame::seal(FRAMES[0], bytes)));
    for file in [bytes.to_vec(), frame::seal(ledger::KIND, bytes), frame::seal(stored::KIND, bytes)] {
        if let Ok(ledger) = Ledger::from_bytes(&file) {
            assert!(Ledger::from_bytes(&ledger.to_bytes()) == Ok(ledger));
        }
        if let Ok(kept) = StoredExample::from_bytes(&file) {
            assert!(kept.picture.len() <= limits::HARD_EXAMPLE);
            assert!(StoredExample::from_bytes(&kept.to_bytes()).is_ok());
        }
    }
    for shadow in [bytes.to_vec(), frame::seal(SHADOW, bytes)] {
        let Ok(journal) = ShadowJournal::from_bytes(&shadow) else { continue };
        let again = ShadowJournal::from_bytes(&journal.to_bytes()).expect("what was written reads");
        assert!(again == journal);
    }
    for launch in [bytes.to_vec(), frame::seal(LAUNCH, bytes)] {
        let Ok(journal) = LaunchJournal::from_bytes(&launch) else { continue };
        let again = LaunchJournal::from_bytes(&journal.to_bytes()).expect("what was written reads");
        assert!(again == journal);
        for binary in journal.binaries() {
            assert!(journal.at(Place::Slot(binary.slot)) == Some(binary), "each slot holds one binary");
            assert!(!binary.file.contains('/') && !binary.file.starts_with('.'), "a file leaves its slot");
        }
        _ = journal.retire();
    }
}

/// What a camera sends; the first line says what it announces.
fn camera(bytes: &[u8]) {
    const MAX: usize = 1_000;
    let line = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let (announced, body) = bytes.split_at(line);
    let announced = String::from_utf8_lossy(announced);
    for content_type in [&announced, "multipart/x-mixed-replace; boundary=frame"] {
        let Ok(mut decoder) = Multipart::new(content_type, MAX) else { continue };
        let mut again = decoder.clone();
        let parts = decoder.push(body);
        assert!(decoder.waiting() <= MAX + multipart::HEAD + multipart::GAP + multipart::PIECE);
        if let Ok(parts) = parts {
            assert!(parts.iter().all(|part| part.body.len() <= MAX), "a part is over its bound");
            let cut: Vec<_> = body
                .iter()
                .flat_map(|byte| again.push(&[*byte]).expect("the same bytes are good again"))
                .collect();
            assert!(cut == parts, "the parts depend on how the bytes came");
        }
    }
}

/// Topics, claim codes and what travels as JSON.
fn texts(text: &str) {
    if let Ok(topic) = text.parse::<Topic>() {
        assert!(topic.to_string() == text);
    }
    if let Ok(claim) = text.parse::<ClaimCode>() {
        assert!(claim.to_text().parse::<ClaimCode>().is_ok_and(|again| again == claim));
    }
    if let Ok(stamp) = text.parse::<Stamp>() {
        assert!(stamp.to_string().parse() == Ok(stamp));
    }
    drop(serde_json::from_str::<EnrolRequest>(text));
    drop(serde_json::from_str::<EnrolAnswer>(text));
    assert!(ErrorCode::from_text(text) == ErrorCode::Unknown || ErrorCode::from_text(text).as_str() == text);
}

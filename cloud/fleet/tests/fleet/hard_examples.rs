//! Hard examples over real connections: taken by consent, once, and from where the last connection ended.

use crate::support::{Device, Installation, device, model};
use flotilla_data::Quarantined;
use flotilla_protocol::message::{HardExample, HardExamples, HardReason, ReplyBody, Upload};
use flotilla_protocol::topic::Up;
use flotilla_protocol::{Digest, ErrorCode, limits};

/// A picture of two pieces: a PNG of one grey pixel (RFC 2083), and bytes behind its end.
fn picture() -> Vec<u8> {
    let png = "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55\
               0000000a49444154789c636000000002000148afa4710000000049454e44ae426082";
    let digits: Vec<u8> = png.bytes().filter(u8::is_ascii_hexdigit).collect();
    let mut bytes: Vec<u8> = digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect();
    bytes.resize(limits::CHUNK + 100, 7);
    bytes
}

fn offer(picture: &[u8], name: &str) -> Upload {
    let example = HardExample {
        model: model(name),
        release: Digest::of(b"release"),
        reason: HardReason::Margin,
        label: "cat".into(),
        label_index: 1,
        score: 0.5,
        margin: 0.125,
        at_ms: 5,
    };
    let total = picture.len() as u64;
    Upload {
        id: 3,
        digest: Digest::of(picture),
        offset: 0,
        total,
        data: vec![],
        example: Some(example),
        log: None,
    }
}

fn piece(picture: &[u8], from: usize, to: usize) -> Upload {
    let data = picture[from..to].to_vec();
    Upload { offset: from as u64, data, example: None, ..offer(picture, "m") }
}

async fn ask(device: &mut Device, upload: &Upload) -> Result<u64, ErrorCode> {
    device.send(Up::Upload, upload).await;
    let reply = device.reply().await;
    assert_eq!(reply.id, upload.id);
    match reply.body {
        ReplyBody::Stored { bytes } => Ok(bytes),
        ReplyBody::Error { code, .. } => Err(code),
        other => panic!("{other:?}"),
    }
}

async fn quarantined(installation: &Installation) -> Vec<Quarantined> {
    installation.quarantine.list(Some("quarantined"), None, 10).await.unwrap().0
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_was_consented_to_is_taken_and_a_broken_upload_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let installation = Installation::open(folder.path()).await;
    let credentials = installation.enrol("gate-7").await;
    let mut gate = installation.connect(&credentials, 1).await;
    assert!(gate.desired().await.hard_examples.is_empty(), "off by default");
    let picture = picture();
    assert_eq!(ask(&mut gate, &offer(&picture, "m")).await, Err(ErrorCode::PermissionDenied));
    assert_eq!(ask(&mut gate, &piece(&picture, 0, 10)).await, Err(ErrorCode::PermissionDenied));

    let policy =
        |daily_bytes| HardExamples { audit_per_million: 1_000_000, daily_bytes, ..HardExamples::default() };
    installation.release("m", 1.0).await;
    let (fleet, admin, gate_7) = (&installation.fleet, &installation.admin, vec![device("gate-7")]);
    let consent = async |policy: Option<&HardExamples>| {
        let ordered = match policy {
            Some(policy) => fleet.consent(admin, Some(gate_7.clone()), &model("m"), policy).await?,
            None => fleet.withdraw_consent(admin, Some(gate_7.clone()), &model("m")).await?,
        };
        assert_eq!(ordered.len(), 1);
        ordered.into_iter().try_for_each(|one| one.outcome.map(drop))
    };
    let bad = HardExamples { audit_per_million: 1_000_001, ..policy(1) };
    assert_eq!(consent(Some(&bad)).await.unwrap_err().code(), ErrorCode::InvalidInput);
    consent(Some(&policy(0))).await.unwrap();
    assert_eq!(gate.desired().await.hard_examples, [(model("m"), policy(0))].into());
    assert_eq!(ask(&mut gate, &offer(&picture, "m")).await, Err(ErrorCode::PermissionDenied), "no budget");
    consent(Some(&policy(1_000_000))).await.unwrap();
    assert_eq!(gate.desired().await.hard_examples[&model("m")].daily_bytes, 1_000_000);
    assert_eq!(ask(&mut gate, &offer(&picture, "other")).await, Err(ErrorCode::PermissionDenied));
    assert_eq!(ask(&mut gate, &offer(&picture, "m")).await, Ok(0));
    assert_eq!(ask(&mut gate, &piece(&picture, 0, limits::CHUNK)).await, Ok(limits::CHUNK as u64));
    drop(gate);

    let mut gate = installation.connect(&credentials, 2).await;
    let rest = piece(&picture, limits::CHUNK, picture.len());
    assert_eq!(ask(&mut gate, &rest).await, Err(ErrorCode::WrongState), "it offers first");
    assert_eq!(ask(&mut gate, &offer(&picture, "m")).await, Ok(limits::CHUNK as u64));
    assert!(quarantined(&installation).await.is_empty());
    assert_eq!(ask(&mut gate, &rest).await, Ok(picture.len() as u64));
    let all = quarantined(&installation).await;
    assert_eq!((all.len(), all[0].digest, all[0].device.as_str()), (1, Digest::of(&picture), "gate-7"));
    assert_eq!(ask(&mut gate, &offer(&picture, "m")).await, Ok(picture.len() as u64), "known");

    consent(None).await.unwrap();
    assert_eq!(ask(&mut gate, &offer(&picture, "m")).await, Err(ErrorCode::PermissionDenied));
    assert_eq!(quarantined(&installation).await.len(), 1, "what came by consent waits for its decision");
    installation.close().await;
}

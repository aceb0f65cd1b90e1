//! Hard examples over real connections: taken by consent, once, and from where the last connection ended.

use crate::support::{Device, Installation, device, model, soon};
use flotilla_data::Quarantined;
use flotilla_protocol::message::{
    HardExample, HardExamples, HardReason, ReplyBody, Request, RequestBody, Upload,
};
use flotilla_protocol::topic::Up;
use flotilla_protocol::{Digest, ErrorCode, limits};
use image::{ExtendedColorType, ImageEncoder, codecs::png::PngEncoder};
use std::time::Duration;

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
    let consent = async |policy: Option<&HardExamples>| consent(&installation, "gate-7", policy).await;
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

/// Lets a device send inputs of the model `m`, or takes that back.
async fn consent(
    installation: &Installation,
    name: &str,
    policy: Option<&HardExamples>,
) -> flotilla_fleet::Result<()> {
    let (fleet, admin, named) = (&installation.fleet, &installation.admin, Some(vec![device(name)]));
    let ordered = match policy {
        Some(policy) => fleet.consent(admin, named, &model("m"), policy).await?,
        None => fleet.withdraw_consent(admin, named, &model("m")).await?,
    };
    assert_eq!(ordered.len(), 1);
    ordered.into_iter().try_for_each(|one| one.outcome.map(drop))
}

fn send_all() -> HardExamples {
    HardExamples { audit_per_million: 1_000_000, daily_bytes: 1_000_000, ..HardExamples::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_on_its_way_goes_with_its_consent_and_with_the_right_of_its_device() {
    let folder = tempfile::tempdir().unwrap();
    let installation = Installation::open(folder.path()).await;
    let (fleet, admin, gate_7) = (&installation.fleet, &installation.admin, device("gate-7"));
    installation.release("m", 1.0).await;
    let mut gate = installation.device("gate-7").await;
    let picture = picture();
    let part = folder.path().join("hard/incoming/gate-7").join(Digest::of(&picture).to_string());
    let mut begin = async |policy: &HardExamples| {
        consent(&installation, "gate-7", Some(policy)).await.unwrap();
        assert_eq!(ask(&mut gate, &offer(&picture, "m")).await, Ok(0));
        assert_eq!(ask(&mut gate, &piece(&picture, 0, 100)).await, Ok(100));
        assert!(part.exists());
    };
    begin(&send_all()).await;
    consent(&installation, "gate-7", Some(&HardExamples::default())).await.unwrap();
    assert!(!part.exists(), "a budget of zero is no consent");
    begin(&send_all()).await;
    consent(&installation, "gate-7", None).await.unwrap();
    assert!(!part.exists());
    begin(&send_all()).await;
    fleet.revoke(admin, &gate_7, "sold").await.unwrap();
    assert!(!part.exists());
    installation.close().await;
}

/// As if a kill had come between the end of the consent and that of what was on its way.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_kill_left_without_consent_is_deleted_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let installation = Installation::open(folder.path()).await;
    installation.release("m", 1.0).await;
    let mut parts = Vec::new();
    for name in ["gate-7", "gate-8"] {
        installation.enrol(name).await;
        let part = folder.path().join("hard/incoming").join(name).join(Digest::of(b"x").to_string());
        std::fs::create_dir_all(part.parent().unwrap()).unwrap();
        std::fs::write(&part, b"a picture, half").unwrap();
        parts.push(part);
    }
    consent(&installation, "gate-8", Some(&send_all())).await.unwrap();
    installation.close().await;
    let installation = Installation::open(folder.path()).await;
    soon(async {
        while parts[0].exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert!(parts[1].exists(), "by consent");
    installation.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_label_commands_no_terminal_and_a_picture_that_takes_long_holds_up_no_conversation() {
    let folder = tempfile::tempdir().unwrap();
    let installation = Installation::open(folder.path()).await;
    let mut gate = installation.device("gate-7").await;
    installation.release("m", 1.0).await;
    consent(&installation, "gate-7", Some(&send_all())).await.unwrap();
    let mut large = Vec::new();
    let black = vec![0; 4096 * 4096 * 6];
    PngEncoder::new(&mut large).write_image(&black, 4096, 4096, ExtendedColorType::Rgb16).unwrap();
    let mut offered = offer(&large, "m");
    offered.example.as_mut().unwrap().label = "cat\u{1b}[2J\u{9b}\n".into();
    assert_eq!(ask(&mut gate, &offered).await, Ok(0));
    for from in (0..large.len()).step_by(limits::CHUNK) {
        gate.post(Up::Upload, &piece(&large, from, large.len().min(from + limits::CHUNK)));
    }
    gate.post(Up::Request, &Request { id: 77, body: RequestBody::Desired });
    let mut replies = Vec::new();
    while replies.last() != Some(&ReplyBody::Stored { bytes: large.len() as u64 }) {
        replies.push(gate.reply().await.body);
    }
    assert!(replies.contains(&ReplyBody::Ok), "asked last, answered first: {replies:?}");
    let all = quarantined(&installation).await;
    assert_eq!(all[0].example.label, "cat [2J  ");
    installation.close().await;
}

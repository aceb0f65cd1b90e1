//! What must not come to run, and what a folder is not for. The confirmed release goes on serving.

use crate::cloud::{Cloud, State, control_key};
use crate::device::Device;
use crate::releases::{Plan, SLOW, largest_object, letters};
use crate::updates::{confirmed, phase, report, settled, settled_with, want};
use flotilla_protocol::message::{DesiredModel, EventKind, Phase};
use flotilla_protocol::signature::SigningKey;
use flotilla_protocol::{Digest, ErrorCode};
use std::collections::BTreeMap;

#[tokio::test(flavor = "multi_thread")]
async fn releases_that_must_not_run_are_refused_with_their_reason_while_the_confirmed_one_serves() {
    let (mut cloud, device, _) = settled_with("model_bytes = 1000000").await;
    let floors = BTreeMap::from([(letters(), 10)]);
    cloud.state().trust = Some(cloud.trust(2, floors).to_bytes());
    // A new connection asks for newer trust.
    cloud.stop().await;
    cloud.resume().await;
    cloud.until("newer trust", |s| s.trust.is_none().then_some(())).await;

    let stranger = SigningKey::from_seed(&[99; 32]);
    let cases = [
        (ErrorCode::SignatureInvalid, Plan { key: stranger, ..Plan::good(1) }),
        (ErrorCode::BelowFloor, Plan::changed(1, |m| m.counter = 9)),
        (ErrorCode::Expired, Plan::changed(1, |m| m.expires_at_ms = Some(1_600_000_000_000))),
        (ErrorCode::WrongProject, Plan::changed(1, |m| m.project = "elsewhere".parse().unwrap())),
        (ErrorCode::BoardMismatch, Plan::changed(1, |m| m.variants[0].boards = vec!["pi-5".into()])),
        (ErrorCode::BoardMismatch, Plan::changed(1, |m| m.variants[0].engine = "ascend".into())),
        (ErrorCode::NoRoom, Plan::changed(1, |m| m.constraints.memory_bytes = u64::MAX)),
        (ErrorCode::ProbeMismatch, Plan { golden_label: 2, ..Plan::good(1) }),
        (ErrorCode::ProbeTooSlow, Plan { toil: SLOW, ..Plan::changed(1, |m| m.constraints.latency_us = 50) }),
        (
            ErrorCode::ProbeMemory,
            Plan { toil: 100_000_000, ..Plan::changed(1, |m| m.constraints.memory_bytes = 1) },
        ),
        (ErrorCode::TooLarge, Plan { ballast_chunks: 16, ..Plan::good(1) }),
    ];
    for (code, plan) in cases {
        let bad = plan.publish(&cloud);
        want(&mut cloud, &bad);
        let failure =
            cloud.until(code.as_str(), |s| report(s)?.failure.filter(|f| f.release == bad.release)).await;
        assert_eq!(failure.code, code, "{}", failure.detail);
        assert_eq!(device.label().await, "a", "after {code}");
    }
    let counts = cloud.state().events().filter(|event| event.kind == EventKind::Switched).count();
    assert_eq!(counts, 1, "only the first release ever served");

    // None of them is in the way of a good one.
    let good = Plan::good(2).publish(&cloud);
    want(&mut cloud, &good);
    confirmed(&cloud, good.release).await;
    assert_eq!(device.label().await, "c");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_is_missing_or_truncated_comes_when_it_is_whole() {
    let (mut cloud, device, _) = settled().await;
    let second = Plan { ballast_chunks: 2, ..Plan::good(1) }.publish(&cloud);
    let ballast = largest_object(&cloud);
    let take = |digest| cloud.state().objects.remove(&digest).unwrap();
    let (envelope, content) = (take(second.release), take(ballast));
    let asked_again = |digest: Digest, times: usize| {
        move |s: &State| s.asked.get(&digest).filter(|asked| asked.len() >= times).map(drop)
    };

    want(&mut cloud, &second);
    cloud.until("a question for a missing release", asked_again(second.release, 1)).await;
    cloud.state().objects.insert(second.release, envelope[..envelope.len() / 2].to_vec());
    let before = cloud.state().asked[&second.release].len();
    cloud.until("a question for a truncated release", asked_again(second.release, before + 1)).await;
    assert_eq!(device.label().await, "a");

    cloud.state().objects.insert(second.release, envelope);
    cloud.state().objects.insert(ballast, content[..content.len() - 1].to_vec());
    cloud.until("questions for a truncated file", asked_again(ballast, 2)).await;
    assert_eq!(device.label().await, "a");
    cloud.state().objects.insert(ballast, content);
    confirmed(&cloud, second.release).await;
    assert_eq!(device.label().await, "b");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_over_the_bound_is_not_even_asked_for() {
    let (mut cloud, device, _) = settled().await;
    let mut second = Plan::good(1).publish(&cloud);
    second.envelope_bytes = u32::MAX;
    want(&mut cloud, &second);
    let failure =
        cloud.until("a refusal", |s| report(s)?.failure.filter(|f| f.release == second.release)).await;
    assert_eq!(failure.code, ErrorCode::TooLarge);
    assert!(!cloud.state().asked.contains_key(&second.release));
    assert_eq!(device.label().await, "a");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_another_authority_is_told_nothing_and_the_right_one_is_found_again() {
    let (mut cloud, device, _) = settled().await;
    let mut other = Cloud::start().await;
    cloud.stop().await;
    other.impersonate(&cloud).await;
    let refused = async |d: &Device| (d.status().await["connection_problem"]["code"] == "tls").then_some(());
    device.until("the refusal", refused).await;
    assert_eq!(device.label().await, "a");
    assert!(other.state().hellos.is_empty() && other.state().records.is_empty());
    other.stop().await;
    cloud.resume().await;
    let second = Plan::good(1).publish(&cloud);
    want(&mut cloud, &second);
    confirmed(&cloud, second.release).await;
    assert_eq!(device.label().await, "b");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_document_with_one_changed_byte_never_runs() {
    let (mut cloud, device, first) = settled().await;
    let second = Plan::good(1).publish(&cloud);
    let right = cloud.state().objects[&second.release].clone();

    // Changed on the way: it is not what was asked for, and is asked for again.
    cloud.state().spoil.insert(second.release, u32::MAX);
    want(&mut cloud, &second);
    cloud.until("changed documents", |s| (s.spoiled.len() >= 3).then_some(())).await;
    assert!(cloud.state().spoiled.iter().all(|(digest, _)| *digest == second.release));
    assert_eq!(phase(&cloud, Phase::Downloading).await.confirmed, Some(first.release));
    assert_eq!(device.label().await, "a");

    // Changed before the desired document named it: signature or encoding say so.
    let payload = right.len() / 2;
    let places = [payload, right.len() - 1].into_iter().chain((0..right.len()).step_by(right.len() / 12));
    for place in places {
        let mut changed = right.clone();
        changed[place] ^= 1;
        let bad = DesiredModel { release: cloud.put(changed), ..second.clone() };
        want(&mut cloud, &bad);
        let failure =
            cloud.until("a refusal", |s| report(s)?.failure.filter(|f| f.release == bad.release)).await;
        let typed = match place {
            _ if place == payload || place == right.len() - 1 => failure.code == ErrorCode::SignatureInvalid,
            _ => matches!(failure.code, ErrorCode::SignatureInvalid | ErrorCode::Malformed),
        };
        assert!(typed, "byte {place} of {}: {} ({})", right.len(), failure.detail, failure.code);
        let now = report(&cloud.state()).unwrap();
        assert_eq!((now.confirmed, now.phase), (Some(first.release), Phase::Failed), "byte {place}");
        assert_eq!(device.label().await, "a", "byte {place}");
    }
    let switched = |cloud: &Cloud| cloud.state().events().filter(|e| e.kind == EventKind::Switched).count();
    assert_eq!(switched(&cloud), 1, "only the first release ever served");

    // The document as it was signed is taken.
    cloud.state().spoil.clear();
    want(&mut cloud, &second);
    confirmed(&cloud, second.release).await;
    assert_eq!(device.label().await, "b");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trust_file_that_would_lock_the_device_out_is_refused() {
    let (mut cloud, mut device, _) = settled().await;
    let other = cloud.trust_of(Digest::of(b"another CA"), 2, BTreeMap::new());
    cloud.state().trust = Some(other.to_bytes());
    cloud.stop().await;
    cloud.resume().await;
    let said = |s: &State| s.events().any(|e| e.code == Some(ErrorCode::CaMismatch)).then_some(());
    cloud.until("an event about it", said).await;
    assert!(device.terminate().await.success());
    device.start().await;
    device.until("an answer", async |device| device.predict(&[1, 2, 3, 4]).await.ok()).await;
    cloud.until("the old trust", |s| s.hellos.last().filter(|h| h.trust_version == 1).map(drop)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_or_forged_desired_document_is_ignored_and_said() {
    let (mut cloud, device, first) = settled().await;
    let old = cloud.state().desired.clone().unwrap();
    let second = Plan::good(1).publish(&cloud);
    want(&mut cloud, &second);
    confirmed(&cloud, second.release).await;

    cloud.send_desired(old);
    let event =
        cloud.until("a replay event", |s| s.events().find(|e| e.code == Some(ErrorCode::Replayed)).cloned());
    assert_eq!(event.await.kind, EventKind::Failed);
    cloud.models.insert(letters(), first.clone());
    let forged = cloud.document(1_000, &SigningKey::from_seed(&[99; 32]));
    cloud.send_desired(forged);
    let said = |code| move |s: &State| s.events().any(|e| e.code == Some(code)).then_some(());
    cloud.until("a forgery event", said(ErrorCode::SignatureInvalid)).await;
    assert_eq!(device.label().await, "b");

    // The right way back is a newer document.
    let newer = cloud.document(2_000, &control_key());
    cloud.send_desired(newer);
    confirmed(&cloud, first.release).await;
    assert_eq!(device.label().await, "a");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_release_is_tried_again_only_with_a_new_attempt() {
    let (mut cloud, device, _) = settled().await;
    let mut bad = Plan { golden_label: 2, ..Plan::good(1) }.publish(&cloud);
    want(&mut cloud, &bad);
    phase(&cloud, Phase::Failed).await;
    let failures =
        |cloud: &Cloud| cloud.state().events().filter(|e| e.code == Some(ErrorCode::ProbeMismatch)).count();
    cloud.until_event(EventKind::Failed).await;
    cloud.want();
    let version = cloud.until("the newer version", |s| {
        s.reported.as_ref().filter(|r| r.desired_version == 3).map(|r| r.desired_version)
    });
    version.await;
    assert_eq!(failures(&cloud), 1);
    bad.attempt = 1;
    want(&mut cloud, &bad);
    cloud
        .until("a second failure", |s| {
            (s.events().filter(|e| e.code == Some(ErrorCode::ProbeMismatch)).count() == 2).then_some(())
        })
        .await;
    cloud.until("the attempt", |s| report(s).filter(|r| r.phase == Phase::Failed && r.attempt == 1)).await;
    assert_eq!(device.label().await, "a");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_fails_under_load_is_reverted() {
    let (mut cloud, device, first) = settled().await;
    cloud.settings.probation_s = 3_600;
    let second = Plan { fragile: true, ..Plan::good(1) }.publish(&cloud);
    want(&mut cloud, &second);
    phase(&cloud, Phase::Probation).await;
    assert_eq!(device.label().await, "b");
    for _ in 0..30 {
        match device.predict(&[255, 2, 3, 4]).await {
            Err(error) => assert!(error.contains("not a finite number"), "{error}"),
            // It is taken back while they are asked.
            Ok(answer) => assert_eq!(answer["label"], "a"),
        }
    }
    let failed = phase(&cloud, Phase::Failed).await;
    assert_eq!(
        failed.failure.map(|f| (f.release, f.code)),
        Some((second.release, ErrorCode::ProbationFailed))
    );
    assert_eq!((failed.confirmed, device.label().await.as_str()), (Some(first.release), "a"));
    cloud.until_event(EventKind::Reverted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_neither_picture_nor_pixels_takes_no_good_release_back() {
    let (mut cloud, device, _) = settled().await;
    cloud.settings.probation_s = 3;
    let second = Plan::good(1).publish(&cloud);
    want(&mut cloud, &second);
    phase(&cloud, Phase::Probation).await;
    // As `curl --data-binary @notes.txt` sends it.
    let notes = async |device: &Device| device.ask("application/x-www-form-urlencoded", b"Buy milk").await;
    for _ in 0..30 {
        let (status, answer) = device.until("an answer", notes).await;
        assert_eq!(status, 400, "{answer}");
        let detail = answer["detail"].as_str().unwrap();
        assert!(detail.contains("neither a PNG nor JPEG picture, nor 4 bytes"), "{detail}");
    }
    confirmed(&cloud, second.release).await;
    assert_eq!(device.label().await, "b");
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_at_the_command_line_are_answered_with_what_to_do_and_a_code() {
    let (_cloud, device, _) = settled().await;
    let error = |output: std::process::Output| {
        (output.status.code(), String::from_utf8(output.stderr).unwrap().trim().to_owned())
    };
    let (code, text) = error(device.command(&["run"]).await);
    assert!(code == Some(6) && text.contains("[storage_in_use]") && !text.contains('\n'), "{code:?} {text}");
    let missing = device.path("none");
    let (code, text) = error(device.command(&["enrol", "--claim", missing.to_str().unwrap()]).await);
    assert!(code == Some(4) && text.contains("[claim_invalid]"), "{code:?} {text}");
    let empty = tempfile::tempdir().unwrap();
    let agent = |args: &'static [&'static str]| {
        std::process::Command::new(env!("CARGO_BIN_EXE_flotilla-agent"))
            .args(args)
            .arg("--dir")
            .arg(empty.path())
            .output()
            .unwrap()
    };
    let (code, text) = error(agent(&["run"]));
    assert!(code == Some(3) && text.contains("[wrong_state]") && text.contains("enrol"), "{code:?} {text}");
    let (code, text) = error(agent(&["status"]));
    assert!(code == Some(3) && text.contains("[wrong_state]"), "{code:?} {text}");
    std::fs::write(empty.path().join("agent.toml"), "lissten = 1").unwrap();
    let (code, text) = error(agent(&["run"]));
    assert!(code == Some(3) && text.contains("lissten"), "{code:?} {text}");
}

//! Inputs that a model was not sure of go to the cloud, if the desired document consents, and nothing else ever does.

use crate::cloud::{Cloud, PATIENCE, State};
use crate::device::Device;
use crate::releases::letters;
use crate::side_by_side::{both, faces, labels, other, want_other};
use crate::updates::{confirmed, settled};
use flotilla_agent::http_client::Ask;
use flotilla_device::upload::PIECE;
use flotilla_protocol::Digest;
use flotilla_protocol::message::{HardExamples, HardReason};
use std::path::PathBuf;

/// Every answer is below this.
fn all(daily_bytes: u64) -> HardExamples {
    HardExamples { confidence_below_per_mille: Some(1_000), daily_bytes, ..HardExamples::default() }
}

fn consent(cloud: &mut Cloud, policy: Option<HardExamples>) {
    cloud.hard_examples = policy.map(|policy| (letters(), policy)).into_iter().collect();
    cloud.want();
}

/// A picture of the model's size with much behind it.
fn large_picture() -> Vec<u8> {
    let mut out = Vec::new();
    let encoder = image::codecs::png::PngEncoder::new(&mut out);
    let pixels = [9, 8, 7, 6];
    image::ImageEncoder::write_image(encoder, &pixels, 2, 2, image::ExtendedColorType::L8).unwrap();
    out.extend((0..5 * PIECE).map(|i| (i / 7 % 251) as u8));
    out
}

fn kept(device: &Device) -> Vec<PathBuf> {
    let folder = std::fs::read_dir(device.path("hard/letters"));
    folder.into_iter().flatten().map(|entry| entry.unwrap().path()).collect()
}

/// Waits until the agent acts on the document that was sent last.
async fn heard(cloud: &Cloud, device: &Device) {
    let version = cloud.version();
    let what = "the document is accepted";
    device.until(what, async |d| (d.status().await["desired_version"] == version).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_consent_or_a_budget_nothing_is_kept_or_sent() {
    let (mut cloud, device, _) = settled().await;
    assert_eq!(device.label().await, "a");
    consent(&mut cloud, Some(all(0)));
    heard(&cloud, &device).await;
    assert_eq!(device.label().await, "a");
    // The way is open for whoever consents, so what came before it was let pass.
    consent(&mut cloud, Some(all(1_000_000)));
    heard(&cloud, &device).await;
    device.predict(&[5, 5, 5, 5]).await.unwrap();
    cloud.until("one upload", |state| (state.uploads.len() == 1).then_some(())).await;
    device.until("it is settled", async |device| kept(device).is_empty().then_some(())).await;
    {
        let state = cloud.state();
        let picture = state.uploads.values().next().unwrap();
        let pixels = image::load_from_memory(picture).unwrap().into_luma8();
        assert_eq!((pixels.dimensions(), pixels.into_raw()), ((2, 2), vec![5, 5, 5, 5]));
        let [example] = &state.examples[..] else { panic!("{:?}", state.examples) };
        assert_eq!((example.label.as_str(), example.reason), ("a", HardReason::Confidence));
        assert_eq!(example.model, letters());
    }

    // Tensors go as the picture that they stand for.
    let host = std::fs::read_to_string(device.path("run/endpoint")).unwrap();
    let body = r#"{"inputs":[{"name":"x","shape":[1,1,2,2],"datatype":"FP32","data":[0.0,0.2,0.4,1.0]}]}"#;
    let ask = Ask {
        host: host.trim(),
        method: http::Method::POST,
        path: "/v2/models/letters/infer",
        content_type: "application/json",
        body: body.into(),
        max_answer: 1 << 20,
        timeout: PATIENCE,
    };
    let stream = tokio::net::TcpStream::connect(host.trim()).await.unwrap();
    let (status, answer) = flotilla_agent::http_client::ask(stream, ask).await.unwrap();
    assert!(status.is_success(), "{}", String::from_utf8_lossy(&answer));
    let pixels = |state: &State| {
        let decoded = state.uploads.values().filter_map(|picture| image::load_from_memory(picture).ok());
        decoded.map(|picture| picture.into_luma8().into_raw()).find(|pixels| *pixels == [0, 51, 102, 255])
    };
    cloud.until("the tensor's picture", pixels).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_in_the_middle_of_an_upload_resumes_without_sending_again_what_was_acknowledged() {
    let (mut cloud, mut device, first) = settled().await;
    let picture = large_picture();
    let digest = Digest::of(&picture);
    cloud.state().uploads_left = Some(3);
    consent(&mut cloud, Some(all(10_000_000)));
    heard(&cloud, &device).await;
    device.predict(&picture).await.unwrap();
    cloud.until("a piece that is not answered", |s| (s.upload_pieces.len() == 4).then_some(())).await;
    device.kill().await;
    {
        let mut state = cloud.state();
        assert_eq!(state.uploads[&digest].len(), 2 * PIECE);
        state.uploads_left = None;
        state.upload_pieces.clear();
    }
    device.start().await;
    confirmed(&cloud, first.release).await;
    let whole = |s: &State| (s.uploads[&digest].len() == picture.len()).then_some(());
    cloud.until("the whole upload", whole).await;
    {
        let state = cloud.state();
        assert_eq!(state.uploads[&digest], picture);
        assert_eq!(state.upload_pieces[0], (digest, 0, 0), "it is offered again");
        let pieces: Vec<u64> = state.upload_pieces[1..].iter().map(|(_, offset, _)| *offset).collect();
        let rest: Vec<u64> = (2..6).map(|piece| (piece * PIECE) as u64).collect();
        assert_eq!(pieces, rest, "what the cloud had is not sent again, and nothing twice");
    }
    device.until("it is settled", async |device| kept(device).is_empty().then_some(())).await;
    // The same again costs no bytes.
    device.predict(&picture).await.unwrap();
    let before = cloud.state().upload_pieces.len();
    device.predict(&[1, 1, 1, 1]).await.unwrap();
    cloud.until("another one", |state| (state.uploads.len() == 2).then_some(())).await;
    assert!(cloud.state().upload_pieces[before..].iter().all(|(of, _, bytes)| *of != digest || *bytes == 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn models_that_see_the_same_picture_each_tell_what_they_said_of_it() {
    let (mut cloud, device, letters_one) = settled().await;
    let faces_one = other(1).publish(&cloud);
    want_other(&mut cloud, &faces_one);
    both(&cloud, letters_one.release, faces_one.release).await;
    cloud.hard_examples = [letters(), faces()].map(|model| (model, all(1_000_000))).into();
    cloud.want();
    heard(&cloud, &device).await;
    assert_eq!(labels(&device).await, ("a".into(), "b".into()));
    let told = |state: &State| {
        let of = |model| state.examples.iter().find(|example| example.model == model);
        Some((of(letters())?.label.clone(), of(faces())?.label.clone()))
    };
    assert_eq!(cloud.until("both are offered", told).await, ("a".into(), "b".into()));
    assert_eq!(cloud.state().uploads.len(), 1, "it is one picture, sent once");
    let settled = async |device: &Device| {
        let figures = device.status().await["hard_examples"].clone();
        let none = ["kept", "dropped", "refused"].iter().all(|figure| figures[figure] == 0);
        (figures["sent"] == 2 && none).then_some(())
    };
    device.until("both are settled", settled).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consent_that_is_withdrawn_deletes_what_is_kept() {
    let (mut cloud, mut device, _) = settled().await;
    cloud.state().uploads_left = Some(0);
    consent(&mut cloud, Some(all(10_000_000)));
    heard(&cloud, &device).await;
    for pixel in 0..3 {
        device.predict(&[pixel, 2, 3, 4]).await.unwrap();
    }
    device.until("three are kept", async |device| (kept(device).len() == 3).then_some(())).await;
    consent(&mut cloud, None);
    let gone = async |device: &Device| (!device.path("hard/letters").exists()).then_some(());
    device.until("nothing is kept", gone).await;
    assert_eq!(device.label().await, "a", "the model serves on");

    // The same if it was withdrawn while the agent was away.
    consent(&mut cloud, Some(all(10_000_000)));
    heard(&cloud, &device).await;
    device.predict(&[7, 2, 3, 4]).await.unwrap();
    device.until("one is kept", async |device| (kept(device).len() == 1).then_some(())).await;
    // What a power cut may leave of it is no harm.
    std::fs::write(&kept(&device)[0], b"torn").unwrap();
    std::fs::write(device.path("hard/letters/.x.tmp"), b"half").unwrap();
    device.kill().await;
    consent(&mut cloud, None);
    cloud.state().uploads_left = None;
    device.start().await;
    device.until("nothing is kept", gone).await;
    assert!(cloud.state().uploads.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_days_budget_holds_over_restarts_and_what_is_damaged_is_thrown_away() {
    const BUDGET: u64 = 8_000;
    let (mut cloud, mut device, first) = settled().await;
    consent(&mut cloud, Some(all(BUDGET)));
    heard(&cloud, &device).await;
    for pixel in 0..40 {
        device.predict(&[pixel, 2, 3, 4]).await.unwrap();
    }
    let nearly = |s: &State| (s.upload_bytes + 3_000 > BUDGET).then_some(());
    cloud.until("the budget is nearly spent", nearly).await;
    device.until("the rest is kept", async |d| (kept(d).len() > 3).then_some(())).await;
    device.kill().await;
    let victim = kept(&device).pop().unwrap();
    let mut bytes = std::fs::read(&victim).unwrap();
    bytes.truncate(bytes.len() / 2);
    std::fs::write(&victim, bytes).unwrap();
    device.start().await;
    confirmed(&cloud, first.release).await;
    device
        .until("the damage is found", async |d| {
            let figures = d.status().await["hard_examples"].clone();
            (figures["damaged"] == 1 && figures["kept"].as_u64() > Some(2)).then_some(())
        })
        .await;
    assert!(!victim.exists());
    // More of them after the start wake whatever would send.
    for pixel in 50..60 {
        device.predict(&[pixel, 2, 3, 4]).await.unwrap();
    }
    let more = |figures: &serde_json::Value| figures["kept"].as_u64() > Some(8);
    device.until("more are kept", async |d| more(&d.status().await["hard_examples"]).then_some(())).await;
    let sent = cloud.state().upload_bytes;
    assert!(sent <= BUDGET, "{sent} of {BUDGET} bytes");
}

//! Cameras: a server of Motion-JPEG in the test, which disappears, comes back and means no good; the agent as its own
//! process.

use crate::device::Device;
use crate::pictures::{get, jpeg, jpeg_of_claimed_size, peak_memory, png_of_claimed_size, predict};
use crate::releases::Plan;
use crate::updates::{confirmed, settled_with, want};
use flotilla_protocol::message::EventKind;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const TYPE: &str = "HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n";
/// So much more than before a hostile camera may the agent take.
const MEMORY: u64 = 64 << 20;

/// What a camera does with each connection.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Manner {
    /// Frames every few milliseconds.
    Good,
    /// The same without lengths.
    WithoutLengths,
    /// Closes in the middle of the second frame.
    EndsMidFrame,
    /// Accepts, and closes at once.
    Closes,
    /// Accepts, and says nothing.
    Silent,
    /// Header lines of the answer without end.
    EndlessHeaders,
    /// Header lines of a part without end.
    EndlessPartHead,
    /// Bytes without a boundary, without end.
    NoBoundary,
    /// One frame without end.
    GiantFrame,
    /// One frame that says it is giant.
    ClaimedGiant,
    /// A page.
    Page,
    /// Not there.
    Missing,
    /// Pictures of 100 megapixels.
    Bombs,
    /// Frames that are no pictures.
    Garbage,
}

/// A camera; its manner may change at any time.
struct Camera {
    address: String,
    manner: Arc<Mutex<Manner>>,
}

impl Camera {
    async fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let manner = Arc::new(Mutex::new(manner));
        let shared = Arc::clone(&manner);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // A client that goes away ends it, which is all there is to say.
                tokio::spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Self { address, manner }
    }

    fn becomes(&self, manner: Manner) {
        *self.manner.lock().unwrap() = manner;
    }

    fn config(&self, more: &str) -> String {
        let url = format!("http://{}/video?user=admin&pwd=s3cret", self.address);
        format!(
            "[[stream]]\nname = \"door\"\nmodel = \"letters\"\nrate = 50\nsilence_s = 2\nurl = {url:?}\n{more}\n"
        )
    }
}

fn part(body: &[u8], length: bool) -> Vec<u8> {
    let length = if length { format!("Content-Length: {}\r\n", body.len()) } else { String::new() };
    let head = format!("--frame\r\nContent-Type: image/jpeg\r\n{length}\r\n");
    [head.as_bytes(), body, b"\r\n"].concat()
}

async fn serve(mut stream: TcpStream, shared: Arc<Mutex<Manner>>) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    assert!(
        request.starts_with(b"GET /video?user=admin&pwd=s3cret HTTP/1.1\r\n"),
        "{}",
        request.escape_ascii()
    );
    let manner = *shared.lock().unwrap();
    let started = match manner {
        Manner::Closes => return Ok(()),
        Manner::Silent => "",
        Manner::EndlessHeaders => "HTTP/1.1 200 OK\r\n",
        Manner::Page => "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html>",
        Manner::Missing => "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        Manner::EndlessPartHead => &format!("{TYPE}--frame\r\n"),
        Manner::GiantFrame => &format!("{TYPE}--frame\r\n\r\n"),
        Manner::ClaimedGiant => &format!("{TYPE}--frame\r\nContent-Length: 99999999999\r\n\r\n"),
        _ => TYPE,
    };
    stream.write_all(started.as_bytes()).await?;
    let picture = jpeg();
    let more = match manner {
        Manner::Good | Manner::EndsMidFrame => part(&picture, true),
        Manner::WithoutLengths => part(&picture, false),
        Manner::Bombs => [
            part(&jpeg_of_claimed_size(10_000, 10_000), true),
            part(&png_of_claimed_size(10_000, 10_000), true),
        ]
        .concat(),
        Manner::Garbage => part(b"neither jpeg nor anything", true),
        Manner::EndlessHeaders | Manner::EndlessPartHead => b"X-Header: and another one\r\n".repeat(500),
        Manner::NoBoundary | Manner::GiantFrame => vec![7; 16 << 10],
        Manner::ClaimedGiant | Manner::Silent | Manner::Page | Manner::Missing | Manner::Closes => Vec::new(),
    };
    if manner == Manner::EndsMidFrame {
        stream.write_all(&more).await?;
        return stream.write_all(&more[..more.len() / 2]).await;
    }
    let pace = if more.len() > 1 << 12 { Duration::ZERO } else { Duration::from_millis(5) };
    // Until the camera changes its manner.
    while *shared.lock().unwrap() == manner {
        stream.write_all(&more).await?;
        tokio::time::sleep(pace).await;
    }
    Ok(())
}

async fn door(device: &Device) -> Value {
    get(device, "/streams/door").await
}

async fn until(device: &Device, what: &str, check: impl Fn(&Value) -> bool) -> Value {
    device.until(what, async |d| Some(door(d).await).filter(|door| check(door))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_are_predicted_the_newest_first_and_a_camera_that_disappears_is_found_again() {
    let camera = Camera::start(Manner::Good).await;
    let output = tempfile::tempdir().unwrap();
    let path = output.path().join("door.jsonl");
    let more = format!("output = {path:?}");
    let (cloud, device, first) = settled_with(&camera.config(&more).replace("rate = 50", "rate = 20")).await;
    let live = until(&device, "results", |door| door["predicted"].as_u64() > Some(10)).await;
    let latest = &live["latest"];
    assert_eq!((&latest["label"], &latest["release"]), (&"a".into(), &first.release.to_string().into()));
    assert_eq!((&latest["stream"], &latest["top"][0]["label"]), (&"door".into(), &"a".into()));
    assert!(live["live"] == true && live["problem"].is_null(), "{live}");
    // It sends ten times as many as are wanted.
    let (frames, dropped) = (live["frames"].as_u64().unwrap(), live["dropped"].as_u64().unwrap());
    assert!(dropped > 0 && dropped < frames, "{live}");
    assert_eq!(get(&device, "/streams").await.as_object().unwrap().len(), 1);

    camera.becomes(Manner::EndsMidFrame);
    let lost = until(&device, "an outage", |door| door["live"] == false && door["problem"].is_object()).await;
    assert_eq!(lost["problem"]["code"], "network", "{lost}");
    let event = cloud.until_event(EventKind::Failed).await;
    assert!(event.detail.starts_with("stream door: ") && event.model.is_none(), "{event:?}");
    camera.becomes(Manner::Closes);
    until(&device, "more tries", |door| {
        door["problem"]["detail"].as_str().is_some_and(|d| d.contains("no answer"))
    })
    .await;
    let said = String::from_utf8_lossy(&device.command(&["doctor"]).await.stdout).into_owned();
    assert!(said.contains("stream door: "), "{said}");
    assert_eq!(device.label().await, "a", "a model does not mind");
    camera.becomes(Manner::WithoutLengths);
    let before = lost["predicted"].as_u64();
    until(&device, "frames again", |door| door["live"] == true && door["predicted"].as_u64() > before).await;
    let outages = cloud.state().events().filter(|event| event.kind == EventKind::Failed).count();
    assert_eq!(outages, 1, "said once");

    let lines = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<Value> = lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert!(lines.len() > 10 && lines.iter().all(|line| line["label"] == "a"), "{lines:?}");
    let numbers: Vec<u64> = lines.iter().map(|line| line["frame"].as_u64().unwrap()).collect();
    assert!(numbers.is_sorted(), "frames are never predicted out of their order: {numbers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_camera_means_so_badly_that_anything_else_suffers() {
    let camera = Camera::start(Manner::Good).await;
    let (cloud, device, _) = settled_with(&camera.config("")).await;
    until(&device, "frames", |door| door["live"] == true).await;
    let before = peak_memory(&device).await;
    let mut faults = Vec::new();
    for (manner, code) in [
        (Manner::Silent, "timeout"),
        (Manner::EndlessHeaders, "network"),
        (Manner::EndlessPartHead, "malformed"),
        (Manner::NoBoundary, "malformed"),
        (Manner::GiantFrame, "too_large"),
        (Manner::ClaimedGiant, "too_large"),
        (Manner::Page, "unsupported"),
        (Manner::Missing, "unsupported"),
    ] {
        camera.becomes(manner);
        let why = until(&device, &format!("{manner:?}"), |door| door["problem"]["code"] == code).await;
        assert_eq!(why["live"], false, "{manner:?}: {why}");
        faults.push(why.to_string());
        let (status, answer) = predict(&device, "application/octet-stream", vec![1, 2, 3, 4]).await;
        assert_eq!((status, &answer["label"]), (200, &json!("a")), "{manner:?}");
        camera.becomes(Manner::Good);
        until(&device, "frames again", |door| door["live"] == true && door["problem"].is_null()).await;
    }
    for (manner, code) in [(Manner::Bombs, "too_large"), (Manner::Garbage, "sample_invalid")] {
        camera.becomes(manner);
        let why = until(&device, &format!("{manner:?}"), |door| door["latest"]["code"] == code).await;
        assert!(why["live"] == true && why["refused"].as_u64() > Some(0), "{manner:?}: {why}");
    }
    let grown = peak_memory(&device).await.saturating_sub(before);
    assert!(grown < MEMORY, "{grown} bytes more");
    assert_eq!(
        cloud.state().events().filter(|event| event.kind == EventKind::Failed).count(),
        1,
        "all said in one"
    );
    let health = get(&device, "/status").await;
    assert_eq!(
        health["models"]["letters"]["phase"], "confirmed",
        "pictures that nobody can read are not the model's fault"
    );
    let told: Vec<String> = cloud.state().events().map(|event| event.detail.clone()).collect();
    for said in [device.log(), told.join("\n"), faults.join("\n"), health.to_string()] {
        assert!(!said.contains("s3cret") && !said.contains("admin"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swap_under_a_stream_fails_no_frame_and_a_missing_camera_is_a_clear_state() {
    let camera = Camera::start(Manner::Good).await;
    let more = "[[stream]]\nname = \"usb\"\nmodel = \"letters\"\nrate = 1\ndevice = \"/dev/video-none\"\n";
    let (mut cloud, device, first) = settled_with(&camera.config(more)).await;
    until(&device, "frames", |door| door["predicted"].as_u64() > Some(0)).await;
    let second = Plan::good(1).publish(&cloud);
    for (release, label) in [(&second, "b"), (&first, "a"), (&second, "b")] {
        want(&mut cloud, release);
        confirmed(&cloud, release.release).await;
        until(&device, "the new label", |door| door["latest"]["label"] == label).await;
    }
    let door = door(&device).await;
    assert_eq!(
        (&door["refused"], &door["outages"], &door["result_problem"]),
        (&0.into(), &0.into(), &Value::Null),
        "{door}"
    );
    let usb = get(&device, "/streams/usb").await;
    assert_eq!((&usb["problem"]["code"], &usb["live"]), (&json!("not_found"), &json!(false)), "{usb}");
    assert!(usb["problem"]["detail"].as_str().unwrap().contains("/dev/video-none"), "{usb}");
}

#[tokio::test(flavor = "multi_thread")]
async fn feeds_that_never_rest_leave_a_place_for_whoever_asks_and_say_so_in_the_status() {
    let camera = Camera::start(Manner::Good).await;
    let folders: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
    let mut config = camera.config("");
    for (number, folder) in folders.iter().enumerate() {
        for file in 0..200 {
            std::fs::write(folder.path().join(format!("{file}.png")), crate::pictures::png(2, 2)).unwrap();
        }
        let path = folder.path();
        config += &format!("[[folder]]\nname = \"f{number}\"\nmodel = \"letters\"\npath = {path:?}\n");
    }
    let mut cloud = crate::cloud::Cloud::start().await;
    // A prediction takes a moment.
    let release = Plan { toil: crate::releases::SLOW, ..Plan::good(0) }.publish(&cloud);
    want(&mut cloud, &release);
    let mut device = Device::new(&cloud);
    std::fs::write(device.path("agent.toml"), config).unwrap();
    device.start().await;
    confirmed(&cloud, release.release).await;
    for _ in 0..10 {
        let (status, answer) = predict(&device, "application/octet-stream", vec![1, 2, 3, 4]).await;
        assert_eq!(status, 200, "{answer}");
    }
    let status = get(&device, "/status").await;
    let waiting: u64 = (0..3).filter_map(|n| status["folders"][format!("f{n}")]["waiting"].as_u64()).sum();
    assert!(
        waiting > 0 && status["streams"]["door"]["predicted"].as_u64() > Some(0),
        "all were at work: {status}"
    );
    let said = String::from_utf8(device.command(&["status"]).await.stdout).unwrap();
    assert!(said.contains("folder    f0: ") && said.contains("stream    door: live, "), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pictures_of_a_hundred_megapixels_are_refused_before_they_take_memory() {
    let (_cloud, device, _) = settled_with("").await;
    predict(&device, "image/png", crate::pictures::png(2, 2)).await;
    let before = peak_memory(&device).await;
    for round in 0..4 {
        for (content_type, body) in [
            ("image/png", png_of_claimed_size(10_000, 10_000)),
            ("image/jpeg", jpeg_of_claimed_size(10_000, 10_000)),
            ("image/png", png_of_claimed_size(u32::MAX >> 1, u32::MAX >> 1)),
            ("image/jpeg", jpeg_of_claimed_size(65_535, 65_535)),
        ] {
            let (status, answer) = predict(&device, content_type, body).await;
            assert_eq!((status, &answer["code"]), (413, &json!("too_large")), "{round}: {answer}");
        }
    }
    let grown = peak_memory(&device).await.saturating_sub(before);
    assert!(grown < 32 << 20, "{grown} bytes more");
    assert_eq!(device.label().await, "a");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mistake_in_a_feed_ends_the_agent_before_anything_starts() {
    let (_cloud, mut device, _) = settled_with("").await;
    assert!(device.terminate().await.success());
    for (config, words) in [
        ("[[folder]]\nname = \"in\"\npath = \"/in\"\nmodel = \"m\"\nsettle = 3", "settle"),
        (
            "[[stream]]\nname = \"door\"\nmodel = \"m\"\nrate = 0\nurl = \"http://c/\"",
            "0.001 to 60 frames a second",
        ),
        ("[[stream]]\nname = \"door\"\nmodel = \"m\"\nrate = 1", "exactly one of url and device"),
    ] {
        std::fs::write(device.path("agent.toml"), config).unwrap();
        let output = device.command(&["run"]).await;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            output.status.code() == Some(3) && said.contains(words) && said.contains("agent.toml"),
            "{said}"
        );
    }
}

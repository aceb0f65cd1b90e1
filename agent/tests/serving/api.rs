//! The local endpoint over real sockets.

use crate::endpoint::{Reply, start};
use crate::support::{model, name, release};
use flotilla_agent::api::{self, Address, ApiError};
use flotilla_agent::host::QUEUE;
use flotilla_protocol::message::SlotName;
use flotilla_protocol::{ErrorCode, limits};
use flotilla_runtime::Input;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PIXELS: &[u8] = &[1, 2, 3, 4];

const RAW: &str = "content-type: application/octet-stream\r\n";

fn png(width: u32, height: u32) -> Vec<u8> {
    let mut out = std::io::Cursor::new(Vec::new());
    image::GrayImage::new(width, height).write_to(&mut out, image::ImageFormat::Png).unwrap();
    out.into_inner()
}

#[tokio::test]
async fn a_prediction_comes_back_with_its_release() {
    let endpoint = start().await;
    let picture = png(2, 2);
    for (headers, body) in [
        (RAW, PIXELS),
        ("", PIXELS),
        ("content-type: application/x-www-form-urlencoded\r\n", &picture),
        ("content-type: image/png\r\n", &picture),
    ] {
        let reply = endpoint.predict("letters", headers, body).await;
        assert_eq!(reply.status, 200, "{headers}: {}", String::from_utf8_lossy(&reply.body));
        let document = reply.json();
        assert_eq!(document["model"], "letters");
        assert_eq!(document["release"], release("r0").to_string());
        assert_eq!(
            (&document["slot"], &document["label"], &document["label_index"]),
            (&json!("a"), &json!("a"), &json!(0))
        );
        assert_eq!(document["scores"].as_array().unwrap().len(), 3);
        assert_eq!(document["score"], document["scores"][0]);
        assert!(document["latency_us"].is_u64());
    }
}

#[tokio::test]
async fn health_and_status_are_documents() {
    let endpoint = start().await;
    let health = endpoint.get("/healthz").await;
    assert_eq!((health.status, health.json()), (200, json!({"status": "ok"})));
    let status = endpoint.get("/status").await;
    assert_eq!((status.status, status.json()), (200, json!({"phase": "confirmed"})));
    assert!(status.head.contains("cache-control: no-store"));
}

#[tokio::test]
async fn every_refusal_is_a_problem_with_a_stable_code() {
    let endpoint = start().await;
    let cases = [
        (endpoint.predict("numbers", RAW, PIXELS).await, 404, ErrorCode::NotFound),
        (endpoint.predict("NOT%20A%20NAME", RAW, PIXELS).await, 404, ErrorCode::NotFound),
        (endpoint.predict("letters", RAW, &PIXELS[..3]).await, 400, ErrorCode::InvalidInput),
        (
            endpoint.predict("letters", "content-type: image/png\r\n", b"no picture").await,
            400,
            ErrorCode::SampleInvalid,
        ),
        (
            endpoint.predict("letters", "content-type: image/png\r\n", &png(3, 2)).await,
            400,
            ErrorCode::InvalidInput,
        ),
        (
            endpoint.predict("letters", "content-type: text/html\r\n", PIXELS).await,
            415,
            ErrorCode::Unsupported,
        ),
        (endpoint.get("/predict/letters").await, 405, ErrorCode::InvalidInput),
        (endpoint.predict("../status", RAW, PIXELS).await, 404, ErrorCode::NotFound),
        (endpoint.get("/elsewhere").await, 404, ErrorCode::NotFound),
    ];
    for (index, (reply, status, code)) in cases.into_iter().enumerate() {
        assert_eq!((reply.status, reply.problem()), (status, code), "case {index}");
    }
}

#[tokio::test]
async fn other_hosts_and_origins_are_refused() {
    let endpoint = start().await;
    for headers in ["host: evil.test\r\n", "host: localhost\r\norigin: http://evil.test\r\n"] {
        let request = format!("GET /status HTTP/1.1\r\nconnection: close\r\n{headers}\r\n");
        let reply = endpoint.send(request.as_bytes()).await;
        assert_eq!((reply.status, reply.problem()), (403, ErrorCode::PermissionDenied), "{headers}");
    }
    let own = format!("origin: http://{}\r\n", endpoint.address);
    assert_eq!(endpoint.predict("letters", &own, PIXELS).await.status, 200);
}

#[tokio::test]
async fn bodies_over_the_bound_are_refused_announced_or_not() {
    let endpoint = start().await;
    let announced = format!(
        "POST /predict/letters HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        limits::PREDICT_INPUT + 1
    );
    let reply = endpoint.send(announced.as_bytes()).await;
    assert_eq!((reply.status, reply.problem()), (413, ErrorCode::TooLarge));

    let mut chunked = b"POST /predict/letters HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    let chunk = [format!("{:x}\r\n", limits::MIB).as_bytes(), &vec![0; limits::MIB], b"\r\n"].concat();
    chunked.extend(chunk.repeat(limits::PREDICT_INPUT / limits::MIB));
    // One byte more than the bound, and no end: the answer may not depend on it.
    chunked.extend(b"1\r\n0\r\n");
    let reply = endpoint.send(&chunked).await;
    assert_eq!((reply.status, reply.problem()), (413, ErrorCode::TooLarge));
}

#[tokio::test]
async fn a_full_queue_is_429_with_a_hint_when_to_come_back() {
    let endpoint = start().await;
    let tickets: Vec<_> = (0..QUEUE).map(|_| endpoint.host.admit(&name("letters")).unwrap()).collect();
    let reply = endpoint.predict("letters", RAW, PIXELS).await;
    assert_eq!((reply.status, reply.problem()), (429, ErrorCode::Busy));
    assert!(reply.head.contains("retry-after: 1"), "{}", reply.head);
    drop(tickets);
    assert_eq!(endpoint.predict("letters", RAW, PIXELS).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swaps_under_load_fail_no_request() {
    let endpoint = Arc::new(start().await);
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (endpoint, stop) = (Arc::clone(&endpoint), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut answered = 0;
                // Each client sees at least one answer, however fast the swaps are.
                while answered == 0 || !stop.load(Ordering::Relaxed) {
                    let reply = endpoint.predict("letters", RAW, PIXELS).await;
                    assert_eq!(reply.status, 200, "{}", String::from_utf8_lossy(&reply.body));
                    let document = reply.json();
                    let made_by = release(&format!("r{}", document["label_index"]));
                    assert_eq!(document["release"], made_by.to_string());
                    answered += 1;
                }
            })
        })
        .collect();
    for round in 1..=60 {
        let (label, slot) = (round % 3, [SlotName::A, SlotName::B][round % 2]);
        let release = release(&format!("r{label}"));
        endpoint.host.install(name("letters"), release, slot, model(label)).unwrap();
        tokio::task::yield_now().await;
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
}

#[tokio::test]
async fn a_request_in_progress_ends_well_when_the_endpoint_closes() {
    let endpoint = start().await;
    let mut stream = TcpStream::connect(endpoint.address).await.unwrap();
    let head = "POST /predict/letters HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut go_on = [0; 25];
    stream.read_exact(&mut go_on).await.unwrap();
    assert!(go_on.starts_with(b"HTTP/1.1 100 Continue"), "the endpoint waits for the body");

    endpoint.shutdown.cancel();
    while TcpStream::connect(endpoint.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    stream.write_all(PIXELS).await.unwrap();
    assert_eq!(Reply::read(&mut stream).await.status, 200);
    endpoint.task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_nothing_is_disconnected() {
    let endpoint = start().await;
    for said in [
        &b""[..],
        b"GET /healthz HTTP/1.1\r\nhost: local",
        b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(endpoint.address).await.unwrap();
        stream.write_all(said).await.unwrap();
        let mut answer = Vec::new();
        // The paused clock jumps to the nearest time bound: that must be the server's and not this one.
        let end = tokio::time::timeout(10 * api::HEADER_TIME, stream.read_to_end(&mut answer)).await;
        assert!(end.is_ok(), "still connected after {:?}", String::from_utf8_lossy(said));
    }
}

#[tokio::test]
async fn only_loopback_addresses_are_bound_and_a_taken_port_is_named() {
    let error = api::bind(&Address::Tcp("0.0.0.0:0".parse().unwrap()), 0).await.unwrap_err();
    assert!(matches!(error, ApiError::NotLoopback(_)));
    let endpoint = start().await;
    let error = api::bind(&Address::Tcp(endpoint.address), 0).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::PortInUse);
    assert!(error.to_string().contains(&endpoint.address.to_string()));
}

#[tokio::test]
async fn what_the_endpoint_answers_is_what_the_host_answers() {
    let endpoint = start().await;
    let direct = endpoint.host.predict(&name("letters"), Input::Raw(PIXELS)).unwrap();
    let over_http = endpoint.predict("letters", RAW, PIXELS).await.json();
    let scores: Vec<f32> = serde_json::from_value(over_http["scores"].clone()).unwrap();
    assert_eq!(scores, direct.prediction.scores, "not a bit is lost on the way");
    assert_eq!(endpoint.host.telemetry()[&name("letters")].predictions, 2);
}

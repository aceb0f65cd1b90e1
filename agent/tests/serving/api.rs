//! The local endpoint over real sockets.

use crate::endpoint::{Reply, start, start_on};
use crate::support::{model, name, png, release};
use flotilla_agent::api::{self, Address, ApiError};
use flotilla_agent::host::{ModelHost, QUEUE};
use flotilla_protocol::message::SlotName;
use flotilla_protocol::{ErrorCode, limits};
use flotilla_runtime::Input;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PIXELS: &[u8] = &[1, 2, 3, 4];

/// How often a client asks again that found the queue full.
const TRIES: usize = 100;

/// How long a test waits for what must happen. It bounds a broken run and measures nothing.
const PATIENCE: Duration = Duration::from_secs(60);

const RAW: &str = "content-type: application/octet-stream\r\n";

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
async fn a_body_that_is_neither_picture_nor_pixels_is_told_what_the_model_takes_and_is_not_the_releases_fault()
 {
    let endpoint = start().await;
    let notes = b"Buy milk";
    for headers in ["", "content-type: application/x-www-form-urlencoded\r\n", RAW] {
        let reply = endpoint.predict("letters", headers, notes).await;
        assert_eq!((reply.status, reply.problem()), (400, ErrorCode::InvalidInput), "{headers}");
        let detail = reply.json()["detail"].as_str().unwrap().to_owned();
        let words =
            if headers == RAW { "takes exactly 4" } else { "neither a PNG nor JPEG picture, nor 4 bytes" };
        assert!(detail.contains(words) && detail.contains("8 bytes"), "{detail}");
    }
    assert_eq!(endpoint.predict("letters", "content-type: image/png\r\n", &png(3, 2)).await.status, 400);
    let health = endpoint.host.health(&name("letters")).unwrap();
    assert_eq!((health.predictions, health.failures), (0, 0));
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

/// As many threads for work that blocks as predict, and one.
#[test]
fn a_busy_model_holds_up_no_other_no_swap_and_no_other_work() {
    const THREADS: u32 = 2;
    let threads = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(THREADS as usize + 1)
        .enable_all()
        .build()
        .unwrap();
    threads.block_on(async {
        let endpoint = Arc::new(start_on(ModelHost::new().with_threads(THREADS)).await);
        let (letters, numbers) = (name("letters"), name("numbers"));
        endpoint.host.install(numbers.clone(), release("n0"), SlotName::A, model(2)).unwrap();
        // A prediction of letters that takes as long as this test wants.
        let slow = endpoint.host.admit(&letters).unwrap().turn().await;
        let (done, ended) = tokio::sync::oneshot::channel::<()>();
        let at_work = tokio::task::spawn_blocking(move || {
            ended.blocking_recv().map(|()| slow.predict(Input::Raw(PIXELS)))
        });
        let ask = || {
            let endpoint = Arc::clone(&endpoint);
            tokio::spawn(async move {
                // The look below, whether the queue is full, takes a place itself for a moment.
                let mut tries = 0..TRIES;
                loop {
                    let reply = endpoint.predict("letters", RAW, PIXELS).await;
                    if reply.status != 429 || tries.next().is_none() {
                        return reply;
                    }
                }
            })
        };
        let waiting: Vec<_> = (1..QUEUE).map(|_| ask()).collect();
        let full = async {
            while endpoint.host.admit(&letters).is_ok() {
                assert!(waiting.iter().all(|waiting| !waiting.is_finished()), "nobody has an answer yet");
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, full).await.expect("everybody has a place");
        let busy = endpoint.predict("letters", RAW, PIXELS).await;
        assert_eq!((busy.status, busy.problem()), (429, ErrorCode::Busy));

        let in_time = async {
            for _ in 0..50 {
                let answer = endpoint.predict("numbers", RAW, PIXELS).await.json();
                assert_eq!(answer["label"], "c");
            }
            // Loads are such work, and a release is put in place of the busy one.
            let loaded = tokio::task::spawn_blocking(|| model(1)).await.unwrap();
            endpoint.host.install(letters.clone(), release("r1"), SlotName::B, loaded).unwrap();
        };
        tokio::time::timeout(PATIENCE, in_time).await.expect("others do not wait for letters");
        assert!(waiting.iter().all(|waiting| !waiting.is_finished()));

        done.send(()).unwrap();
        at_work.await.unwrap().unwrap().unwrap();
        for waiting in waiting {
            let reply = waiting.await.unwrap();
            assert_eq!(
                (reply.status, &reply.json()["label"]),
                (200, &json!("a")),
                "admitted before the swap"
            );
        }
        assert_eq!(endpoint.predict("letters", RAW, PIXELS).await.json()["label"], "b");
    });
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

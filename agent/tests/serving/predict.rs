//! The raw thing in every form that `/predict` takes, and in many that it does not.

use crate::endpoint::{Endpoint, start};
use crate::support::{LABELS, name};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flotilla_protocol::ErrorCode;
use serde_json::{Value, json};

const JSON: &str = "content-type: application/json; charset=utf-8\r\n";

fn picture(format: image::ImageFormat) -> Vec<u8> {
    let mut out = std::io::Cursor::new(Vec::new());
    image::GrayImage::new(2, 2).write_to(&mut out, format).unwrap();
    out.into_inner()
}

async fn ask(endpoint: &Endpoint, document: &Value) -> Value {
    let reply = endpoint.predict("letters", JSON, document.to_string().as_bytes()).await;
    assert_eq!(reply.status, 200, "{document}: {}", String::from_utf8_lossy(&reply.body));
    reply.json()
}

#[tokio::test]
async fn a_picture_or_its_pixels_as_json_get_the_same_answer_as_the_bytes_themselves() {
    let endpoint = start().await;
    let raw = endpoint.predict("letters", "content-type: application/octet-stream\r\n", &[0; 4]).await.json();
    for document in [
        json!({ "image": STANDARD.encode(picture(image::ImageFormat::Png)) }),
        json!({ "image": STANDARD.encode(picture(image::ImageFormat::Jpeg)) }),
        json!({ "image": format!("data:image/png;base64,{}", STANDARD.encode(picture(image::ImageFormat::Png))) }),
        json!({ "pixels": [[0, 0], [0, 0]] }),
        json!({ "pixels": [[[0], [0]], [[0], [0]]] }),
        json!([[0, 0], [0, 0]]),
    ] {
        let answer = ask(&endpoint, &document).await;
        assert_eq!((&answer["label"], &answer["scores"]), (&raw["label"], &raw["scores"]), "{document}");
    }
    let health = endpoint.host.health(&name("letters")).unwrap();
    assert_eq!((health.predictions, health.failures), (7, 0));
}

#[tokio::test]
async fn the_best_labels_come_with_their_scores_as_many_as_are_asked_for() {
    let endpoint = start().await;
    let body = b"[[0,0],[0,0]]";
    let all = endpoint.predict("letters", JSON, body).await.json();
    let top = all["top"].as_array().unwrap();
    assert_eq!(top.len(), LABELS.len());
    assert_eq!(top[0], json!({ "label": all["label"], "score": all["score"] }));
    let scores: Vec<f64> = top.iter().map(|one| one["score"].as_f64().unwrap()).collect();
    assert!(scores.is_sorted_by(|a, b| a >= b), "{scores:?}");
    for one in top {
        let index = LABELS.iter().position(|label| one["label"] == *label).unwrap();
        assert_eq!(one["score"], all["scores"][index]);
    }
    let two = endpoint.predict("letters?top=2", JSON, body).await.json();
    assert_eq!(two["top"].as_array().unwrap(), &top[..2]);
    for wrong in ["0", "x", "-1", "4097", ""] {
        let reply = endpoint.predict(&format!("letters?top={wrong}"), JSON, body).await;
        assert_eq!((reply.status, reply.problem()), (400, ErrorCode::InvalidInput), "{wrong}");
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_document_is_said_with_what_the_model_takes() {
    let endpoint = start().await;
    for (body, words) in [
        ("{\"age\": 31}", "there is no \"age\""),
        ("[[0,0],[0,0],[0,0]]", "pixels has the shape [3, 2], expected [2, 2, 1]"),
        ("[[0,0],[0]]", "one list of pixels has 1 elements, another 2"),
        ("[[0,0],[0,256]]", "from 0 to 255"),
        ("{\"image\": \"%%%\"}", "not base64"),
        ("{\"image\": [1]}", "not usable"),
        ("\u{feff}", "not usable"),
        ("", "not usable"),
    ] {
        let reply = endpoint.predict("letters", JSON, body.as_bytes()).await;
        assert_eq!((reply.status, reply.problem()), (400, ErrorCode::InvalidInput), "{body}");
        let detail = reply.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(words) && detail.contains("2 x 2 x 1"), "{body}: {detail}");
    }
    let no_picture = json!({ "image": STANDARD.encode(b"no picture") }).to_string();
    let reply = endpoint.predict("letters", JSON, no_picture.as_bytes()).await;
    assert_eq!((reply.status, reply.problem()), (400, ErrorCode::SampleInvalid));
    let deep = "[".repeat(100_000);
    let reply = endpoint.predict("letters", JSON, deep.as_bytes()).await;
    assert_eq!((reply.status, reply.problem()), (400, ErrorCode::InvalidInput));
    let health = endpoint.host.health(&name("letters")).unwrap();
    assert_eq!((health.predictions, health.failures), (0, 0), "none of it says anything about the release");
}

#[tokio::test]
async fn other_types_and_codings_are_415_and_say_what_is_taken() {
    let endpoint = start().await;
    for headers in [
        "content-type: text/html\r\n",
        "content-type: image/svg+xml\r\n",
        "content-type: multipart/form-data; boundary=x\r\n",
        "content-type: application/json\r\ncontent-encoding: gzip\r\n",
        "content-type: image/png\r\ncontent-encoding: br\r\n",
    ] {
        let reply = endpoint.predict("letters", headers, b"[[0,0],[0,0]]").await;
        assert_eq!((reply.status, reply.problem()), (415, ErrorCode::Unsupported), "{headers}");
    }
    let reply = endpoint.predict("letters", "content-type: image/tiff\r\n", b"II").await;
    let detail = reply.json()["detail"].as_str().unwrap().to_owned();
    assert!(
        detail.contains("image/tiff") && detail.contains("image/png") && detail.contains("application/json"),
        "{detail}"
    );
}

#[tokio::test]
async fn streams_are_shown_as_the_status_has_them() {
    let endpoint = start().await;
    assert_eq!(endpoint.get("/streams").await.json(), json!({}));
    let reply = endpoint.get("/streams/door").await;
    assert_eq!((reply.status, reply.problem()), (404, ErrorCode::NotFound));
    assert_eq!(endpoint.post("/streams", JSON, b"{}").await.status, 405);
}

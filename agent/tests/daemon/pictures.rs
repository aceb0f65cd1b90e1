//! Pictures, good ones and such as lie about themselves; and looking at the agent from outside.

use crate::device::Device;
use flotilla_agent::http_client::{Ask, ask};
use serde_json::Value;
use std::time::Duration;

fn encoded(width: u32, height: u32, format: image::ImageFormat) -> Vec<u8> {
    let mut out = std::io::Cursor::new(Vec::new());
    image::GrayImage::new(width, height).write_to(&mut out, format).unwrap();
    out.into_inner()
}

pub(crate) fn png(width: u32, height: u32) -> Vec<u8> {
    encoded(width, height, image::ImageFormat::Png)
}

pub(crate) fn jpeg() -> Vec<u8> {
    encoded(2, 2, image::ImageFormat::Jpeg)
}

/// A few bytes whose header says that they are this large.
pub(crate) fn png_of_claimed_size(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = png(2, 2);
    // Signature, length and type of the first chunk stand before its content (PNG 11.2.1).
    bytes[16..20].copy_from_slice(&width.to_be_bytes());
    bytes[20..24].copy_from_slice(&height.to_be_bytes());
    let crc = crc32fast::hash(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&crc.to_be_bytes());
    bytes
}

/// The same as a JPEG.
pub(crate) fn jpeg_of_claimed_size(width: u16, height: u16) -> Vec<u8> {
    let mut bytes = jpeg();
    let frame = bytes.windows(2).position(|two| two == [0xff, 0xc0]).unwrap();
    bytes[frame + 5..frame + 7].copy_from_slice(&height.to_be_bytes());
    bytes[frame + 7..frame + 9].copy_from_slice(&width.to_be_bytes());
    bytes
}

async fn request(
    device: &Device,
    method: http::Method,
    path: &str,
    content_type: &str,
    body: Vec<u8>,
) -> (u16, Value) {
    let text = std::fs::read_to_string(device.path("run/endpoint")).unwrap();
    let host = text.trim();
    let stream = tokio::net::TcpStream::connect(host).await.unwrap();
    let asked =
        Ask { host, method, path, content_type, body, max_answer: 1 << 20, timeout: Duration::from_secs(60) };
    let (status, body) = ask(stream, asked).await.unwrap();
    (status.as_u16(), serde_json::from_slice(&body).unwrap())
}

/// A document of the local endpoint.
pub(crate) async fn get(device: &Device, path: &str) -> Value {
    request(device, http::Method::GET, path, "", Vec::new()).await.1
}

/// Status and document of an answer.
pub(crate) async fn predict(device: &Device, content_type: &str, body: Vec<u8>) -> (u16, Value) {
    request(device, http::Method::POST, "/predict/letters", content_type, body).await
}

/// The most memory that the agent ever had, in bytes.
pub(crate) async fn peak_memory(device: &Device) -> u64 {
    let pid = get(device, "/status").await["pid"].as_u64().unwrap();
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix("kB").unwrap().trim().parse::<u64>().unwrap() << 10
}

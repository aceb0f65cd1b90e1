//! What the agent costs the box, printed beside the goals and what others publish: `cargo bench -p flotilla-agent --bench work`.
//!
//! The agent that is measured is the one named by `FLOTILLA_AGENT`, as `deploy/build-agent` leaves it; without the
//! variable it is the bench profile's own. Everything is real: its process, TLS and MQTT to the small control plane of
//! the tests, through a relay that counts. Traffic is what both directions carry, TLS records and the headers of IP and
//! TCP included (40 bytes a segment and 12 for the timestamp option); the segments are counted by the kernel, as `ss` tells.
//!
//! `FLOTILLA_IDLE_S` says how long the idle agent is watched (60 s; an hour, 3600, is what the monthly figure needs: a
//! sample is sent every 15 minutes). The model is ResNet-8 of MLPerf Tiny from `FLOTILLA_TEST_DATA`.
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot measure ends")]

#[path = "../tests/daemon/cloud.rs"]
#[expect(dead_code, reason = "the tests use more of it")]
mod cloud;
#[path = "../tests/daemon/device.rs"]
#[expect(dead_code, reason = "the tests use more of it")]
mod device;
#[path = "../tests/daemon/releases.rs"]
#[expect(dead_code, reason = "the tests use more of it")]
mod releases;

use cloud::Cloud;
use device::Device;
use flotilla_protocol::manifest::FileEntry;
use flotilla_protocol::message::{DesiredModel, Phase};
use flotilla_protocol::pipeline::{
    Activation, Classification, Colour, ImageInput, Input, Layout, Output, Resize,
};
use flotilla_protocol::{ModelName, Pipeline, codec};
use flotilla_runtime::{Model, make_golden};
use releases::Plan;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;

/// Requests to the local endpoint.
const REQUESTS: usize = 2_000;
/// Starts of an agent with its model in the slot.
const STARTS: usize = 9;
/// Pixels of ResNet-8: 32 x 32 RGB.
const PIXELS: usize = 32 * 32 * 3;
const MONTH_S: f64 = 30.0 * 24.0 * 3_600.0;
/// Headers of IPv4 and TCP with the timestamp option.
const HEADERS: u64 = 20 + 20 + 12;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(figures());
}

async fn figures() {
    let idle = Duration::from_secs(std::env::var("FLOTILLA_IDLE_S").map_or(60, |text| text.parse().unwrap()));
    println!("{:<62} {:>12}   {:<12} elsewhere", "", "measured", "goal");
    let program = device::agent();
    let size = std::fs::metadata(&program).unwrap().len();
    show("the program on the disk", mb(size), "12 MB", "Mender's client about 7 MB");

    let mut cloud = Cloud::start().await;
    cloud.want();
    let mut device = Device::new(&cloud);
    let relay = Relay::before(&device).await;
    device.start().await;
    connected(&cloud).await;
    settle().await;
    let (cpu, wire, started) = (cpu_time(&device), relay.wire(), Instant::now());
    tokio::time::sleep(idle).await;
    let (seconds, cpu) = (started.elapsed().as_secs_f64(), cpu_time(&device) - cpu);
    let wire = relay.wire() - wire;
    show(
        "PSS, connected and idle, no model",
        mb(pss(&device)),
        "12 MB",
        "Greengrass lite 12-16 MB, thin-edge 8 MB",
    );
    show("processor time of that", format!("{:.3} %", cpu / seconds * 100.0), "0.3 %", "");
    show(
        &format!("traffic of that a month, from {wire} bytes in {seconds:.0} s"),
        mb((wire as f64 / seconds * MONTH_S) as u64),
        "5 MB",
        "balena 1-28 MB",
    );

    let Some(resnet) = resnet(&cloud) else {
        println!("FLOTILLA_TEST_DATA is not set: the figures with a model are left out");
        return;
    };
    let name: ModelName = "resnet8".parse().unwrap();
    cloud.models.insert(name.clone(), resnet.clone());
    cloud.want();
    cloud
        .until("confirmation", |state| {
            let report = state.reported.as_ref()?.models.get(&name)?;
            (report.phase == Phase::Confirmed).then_some(())
        })
        .await;
    settle().await;
    show("PSS, with ResNet-8", mb(pss(&device)), "20 MB", "KubeEdge's EdgeCore 70 MB");

    let mut starts: Vec<Duration> = Vec::new();
    for _ in 0..STARTS {
        device.kill().await;
        let started = Instant::now();
        device.spawn();
        while Endpoint::of(&device).and_then(|mut e| e.predict()).is_none() {
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
        starts.push(started.elapsed());
    }
    starts.sort_unstable();
    show("from start to the first prediction, model in the slot", ms(starts[STARTS / 2]), "150 ms", "");

    let mut endpoint = Endpoint::of(&device).unwrap();
    let mut overhead: Vec<Duration> = Vec::new();
    let mut engine: Vec<Duration> = Vec::new();
    for _ in 0..REQUESTS {
        let asked = Instant::now();
        let inside = endpoint.predict().unwrap();
        overhead.push(asked.elapsed().saturating_sub(inside));
        engine.push(inside);
    }
    overhead.sort_unstable();
    engine.sort_unstable();
    let what = format!(
        "the local endpoint's share of a request, p50 of {REQUESTS} (engine {})",
        ms(engine[REQUESTS / 2])
    );
    show(&what, ms(overhead[REQUESTS / 2]), "0.3 ms", "");
    settle().await;
    show("PSS, after these requests", mb(pss(&device)), "20 MB", "");
}

fn show(what: &str, measured: String, goal: &str, elsewhere: &str) {
    println!("{what:<62} {measured:>12}   {goal:<12} {elsewhere}");
}

fn mb(bytes: u64) -> String {
    format!("{:.2} MB", bytes as f64 / 1e6)
}

fn ms(time: Duration) -> String {
    format!("{:.3} ms", time.as_secs_f64() * 1e3)
}

/// ResNet-8 as a release.
fn resnet(cloud: &Cloud) -> Option<DesiredModel> {
    let data = PathBuf::from(std::env::var_os("FLOTILLA_TEST_DATA")?);
    let onnx = std::fs::read(data.join("models/mlperf-tiny/ic_resnet8_float.onnx")).unwrap();
    let labels = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];
    let pipeline = Pipeline::new(
        Input::Image(ImageInput {
            width: 32,
            height: 32,
            colour: Colour::Rgb,
            resize: Resize::Exact,
            layout: Layout::Nhwc,
            mean: vec![0.0; 3],
            // The model wants 0 to 255.
            std: vec![1.0 / 255.0; 3],
            ..ImageInput::none()
        }),
        Output::Classification(Classification::new(labels.map(ToOwned::to_owned).to_vec(), Activation::None)),
    );
    let picture = |salt: usize| (0..PIXELS).map(|i| (i * salt % 253) as u8).collect::<Vec<u8>>();
    let mut model = Model::load(&pipeline, &onnx).unwrap();
    let golden = codec::encode(&make_golden(&mut model, [picture(3), picture(7)], 1e-3).unwrap());
    let files = vec![FileEntry::of("model.onnx", &onnx), FileEntry::of("golden.cbor", &golden)];
    cloud.put(onnx);
    cloud.put(golden);
    let change = move |manifest: &mut flotilla_protocol::ReleaseManifest| {
        manifest.model = "resnet8".parse().unwrap();
        manifest.pipeline = pipeline.clone();
        manifest.files = files.clone();
    };
    Some(Plan::changed(0, change).publish(cloud))
}

async fn connected(cloud: &Cloud) {
    cloud.until("a report", |state| state.reported.as_ref().map(|_| ())).await;
}

/// What a start or a load ran is let go two seconds after it; nothing tells when that is done.
async fn settle() {
    tokio::time::sleep(Duration::from_secs(5)).await;
}

/// Proportional set size of the agent's process, in bytes.
fn pss(device: &Device) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", device.pid())).unwrap();
    let line = text.lines().find(|line| line.starts_with("Pss:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// Seconds of processor time that the agent's process took.
fn cpu_time(device: &Device) -> f64 {
    let threads = std::fs::read_dir(format!("/proc/{}/task", device.pid())).unwrap();
    let run_ns = |thread: std::fs::DirEntry| {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    };
    threads.flatten().filter_map(run_ns).sum::<u64>() as f64 / 1e9
}

/// Stands between the agent and the broker, and counts.
struct Relay {
    payload: Arc<AtomicU64>,
    port: u16,
}

impl Relay {
    /// Takes the broker's place in the device's identity.
    async fn before(device: &Device) -> Self {
        let file = device.path("identity/device.json");
        let mut names: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        let broker = names["mqtt"].as_str().unwrap().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        names["mqtt"] = address.to_string().into();
        std::fs::write(&file, names.to_string()).unwrap();
        let payload = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&payload);
        tokio::spawn(async move {
            while let Ok((from, _)) = listener.accept().await {
                let (broker, counted) = (broker.clone(), Arc::clone(&counted));
                tokio::spawn(async move {
                    let to = tokio::net::TcpStream::connect(&broker).await.unwrap();
                    let (from_read, from_write) = from.into_split();
                    let (to_read, to_write) = to.into_split();
                    tokio::join!(pump(from_read, to_write, &counted), pump(to_read, from_write, &counted));
                });
            }
        });
        Self { payload, port: address.port() }
    }

    /// Bytes that went over the agent's connection so far, both ways, headers included.
    fn wire(&self) -> u64 {
        self.payload.load(Ordering::Relaxed) + self.segments() * HEADERS
    }

    /// Segments of the open connection, both ways.
    fn segments(&self) -> u64 {
        let filter = format!("sport = :{}", self.port);
        let output = Command::new("ss").args(["-tinH", &filter]).output().expect("ss, of iproute2");
        let text = String::from_utf8(output.stdout).unwrap();
        let count = |word: &str| {
            word.strip_prefix("segs_out:").or(word.strip_prefix("segs_in:"))?.parse::<u64>().ok()
        };
        text.split_whitespace().filter_map(count).sum::<u64>()
    }
}

async fn pump(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    counted: &AtomicU64,
) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read) = from.read(&mut buffer).await {
        if read == 0 || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
        counted.fetch_add(read as u64, Ordering::Relaxed);
    }
}

/// A kept connection to the agent's local endpoint.
struct Endpoint {
    stream: BufReader<TcpStream>,
    host: String,
}

impl Endpoint {
    fn of(device: &Device) -> Option<Self> {
        let host = std::fs::read_to_string(device.path("run/endpoint")).ok()?.trim().to_owned();
        let stream = TcpStream::connect(&host).ok()?;
        stream.set_nodelay(true).ok()?;
        Some(Self { stream: BufReader::new(stream), host })
    }

    /// One prediction; the time that pre-processing and engine took inside.
    fn predict(&mut self) -> Option<Duration> {
        let head = format!(
            "POST /predict/resnet8 HTTP/1.1\r\nHost: {}\r\nContent-Type: application/octet-stream\r\nContent-Length: {PIXELS}\r\n\r\n",
            self.host
        );
        let mut request = head.into_bytes();
        request.resize(request.len() + PIXELS, 77);
        self.stream.get_mut().write_all(&request).ok()?;
        let (mut line, mut length) = (String::new(), 0);
        self.stream.read_line(&mut line).ok()?;
        if !line.starts_with("HTTP/1.1 200") {
            return None;
        }
        loop {
            line.clear();
            self.stream.read_line(&mut line).ok()?;
            let text = line.trim().to_ascii_lowercase();
            if text.is_empty() {
                break;
            }
            if let Some(value) = text.strip_prefix("content-length:") {
                length = value.trim().parse().ok()?;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).ok()?;
        let answer: serde_json::Value = serde_json::from_slice(&body).ok()?;
        answer["latency_us"].as_u64().map(Duration::from_micros)
    }
}

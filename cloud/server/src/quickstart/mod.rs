//! `flotilla quickstart`: the whole loop on real data, through the same HTTP API, job processes, broker and
//! agents that everything else uses.
//!
//! Every stage first asks the control plane whether its work is done already, so that a second run in the
//! same folder continues where the first one ended.

mod devices;
mod loop_stages;
mod predict;
mod report;

use crate::app::{App, AppConfig};
use crate::cli::client::{Client, ClientError};
use crate::cli::exit::Failure;
use crate::progress::Progress;
use crate::signals::Termination;
use devices::LocalDevice;
use flotilla_protocol::ErrorCode;
use flotilla_protocol::message::Settings;
use report::Report;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Name of the bundled dataset and of the model trained on it.
const NAME: &str = "digits";
/// Devices at most: every one is a process.
const DEVICES: usize = 32;
/// A demonstration reports more often than a fleet on a mobile network would.
fn settings() -> Settings {
    Settings {
        telemetry_interval_s: 2,
        probation_telemetry_interval_s: 1,
        probation_s: 3,
        ..Settings::default()
    }
}

/// What the command line asks for.
#[derive(Clone, Debug)]
pub struct Options {
    /// Folder of everything.
    pub dir: PathBuf,
    /// Number of devices.
    pub devices: usize,
    /// Print a report and end instead of staying up.
    pub once: bool,
    /// Address of the HTTP API.
    pub http: SocketAddr,
    /// Address of the MQTT broker.
    pub mqtt: SocketAddr,
}

/// Where the first run in a folder listened: its devices know these addresses.
#[derive(PartialEq, Serialize, Deserialize)]
struct Addresses {
    http: SocketAddr,
    mqtt: SocketAddr,
}

/// Holds [`Addresses`], within the folder.
const ADDRESSES: &str = "quickstart.json";

impl Addresses {
    fn asked(options: &Options) -> Self {
        Self { http: options.http, mqtt: options.mqtt }
    }

    /// The addresses that were asked for; where a free port was, that of the first run.
    fn of(options: &Options) -> Self {
        let text = std::fs::read(options.dir.join(ADDRESSES)).ok();
        let first: Option<Self> = text.and_then(|text| serde_json::from_slice(&text).ok());
        let keep = |asked: SocketAddr, first: Option<SocketAddr>| match first {
            Some(first) if asked.port() == 0 && asked.ip() == first.ip() => first,
            _ => asked,
        };
        Self {
            http: keep(options.http, first.as_ref().map(|a| a.http)),
            mqtt: keep(options.mqtt, first.as_ref().map(|a| a.mqtt)),
        }
    }

    fn remember(&self, dir: &Path) -> std::io::Result<()> {
        std::fs::write(dir.join(ADDRESSES), serde_json::to_vec(self)?)
    }
}

/// What the stages share.
pub(crate) struct Stages {
    client: Client,
    options: Options,
    progress: Progress,
    report: Report,
    /// The model version that this loop compressed.
    compressed: Option<u32>,
}

/// Why the quickstart ended early.
#[derive(Debug, thiserror::Error)]
#[error("stage {stage} failed: {detail}")]
pub struct StageError {
    /// The stage.
    pub stage: &'static str,
    /// The stable code.
    pub code: ErrorCode,
    /// What went wrong and what to do.
    pub detail: String,
}

impl StageError {
    fn new(stage: &'static str, code: ErrorCode, detail: impl ToString) -> Self {
        Self { stage, code, detail: detail.to_string() }
    }
}

/// Adds the stage's name to an error.
trait At<T> {
    /// The value, or the error as one of this stage.
    fn at(self, stage: &'static str) -> Result<T, StageError>;
}

impl<T> At<T> for Result<T, ClientError> {
    fn at(self, stage: &'static str) -> Result<T, StageError> {
        self.map_err(|e| StageError::new(stage, e.code(), e))
    }
}

fn io_code(error: &std::io::Error) -> ErrorCode {
    match error.kind() {
        std::io::ErrorKind::StorageFull => ErrorCode::StorageFull,
        std::io::ErrorKind::ReadOnlyFilesystem | std::io::ErrorKind::PermissionDenied => {
            ErrorCode::StorageReadOnly
        }
        _ => ErrorCode::StorageIo,
    }
}

/// Runs the quickstart to its end, or until Ctrl-C.
pub fn run(options: Options) -> Result<(), Failure> {
    if options.devices == 0 || options.devices > DEVICES {
        let detail = format!("--devices {}: 1 to {DEVICES} are possible", options.devices);
        return Err(Failure::new(ErrorCode::InvalidInput, detail));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::new(ErrorCode::Internal, format!("the async runtime does not start: {e}")))?;
    let started = Instant::now();
    let progress = Progress::new();
    progress.stage("start", "starting the control plane");
    let resumed = options.dir.join(flotilla_identity::ADMIN_TOKEN_FILE).exists();
    let addresses = Addresses::of(&options);
    let termination = {
        let _inside = runtime.enter();
        Termination::listen().map_err(|e| Failure::stage("start", io_code(&e), e))?
    };
    let start = |addresses: &Addresses| {
        runtime.block_on(App::start(AppConfig {
            dir: options.dir.clone(),
            http: addresses.http,
            mqtt: addresses.mqtt,
            // Its devices run on this machine.
            names: vec!["localhost".into()],
            settings: settings(),
            ..AppConfig::default()
        }))
    };
    let app = match start(&addresses) {
        // A port of the first run that somebody else uses now: the devices are told the new one.
        Err(e) if e.code() == ErrorCode::PortInUse && addresses != Addresses::asked(&options) => {
            progress.line("a port of the first run is taken; looking for a free one");
            start(&Addresses::asked(&options))
        }
        started => started,
    }
    .map_err(|e| Failure::stage("start", e.code(), crate::error_text::with_causes(&e)))?;
    Addresses { http: app.http_address(), mqtt: app.mqtt_address() }
        .remember(&options.dir)
        .map_err(|e| Failure::stage("start", io_code(&e), e))?;
    let outcome = drive(&app, options.clone(), progress.clone(), started, resumed);
    let (devices, outcome) = match outcome {
        Ok((devices, report)) => (devices, Ok(report)),
        Err((devices, error)) => (devices, Err(error)),
    };
    let finished = match outcome {
        Ok(report) if options.once => Ok(Some(report)),
        Ok(report) => {
            stay_up(&runtime, &app, &options, &progress, &report, termination);
            Ok(None)
        }
        Err(error) => Err(Failure::stage(error.stage, error.code, &error.detail)),
    };
    devices.into_iter().for_each(LocalDevice::stop);
    runtime.block_on(app.shutdown());
    runtime.shutdown_timeout(Duration::from_secs(5));
    if let Some(report) = finished? {
        println!("{}", report.to_json());
    }
    Ok(())
}

type Outcome = Result<(Vec<LocalDevice>, Report), (Vec<LocalDevice>, StageError)>;

fn drive(app: &App, options: Options, progress: Progress, started: Instant, resumed: bool) -> Outcome {
    let mut devices = Vec::new();
    match all_stages(app, options, progress, started, resumed, &mut devices) {
        Ok(report) => Ok((devices, report)),
        Err(error) => Err((devices, error)),
    }
}

fn all_stages(
    app: &App,
    options: Options,
    progress: Progress,
    started: Instant,
    resumed: bool,
    devices: &mut Vec<LocalDevice>,
) -> Result<Report, StageError> {
    let client = Client::of_folder(&options.dir).at("start")?;
    let where_ = if resumed { "continuing in" } else { "new folder" };
    progress.done(
        "start",
        &format!("{where_} {}; API {}, MQTT {}", options.dir.display(), client.base(), app.mqtt_address()),
    );
    let mqtt = app.mqtt_address().to_string();
    let mut stages = Stages { client, options, progress, report: Report::default(), compressed: None };
    stages.report.seconds.insert("start".into(), seconds(started));
    stages.timed("import", Stages::import)?;
    stages.timed("train", Stages::train)?;
    stages.timed("compress", Stages::compress)?;
    stages.timed("release", Stages::release)?;
    stages.timed("devices", |s| s.devices(&mqtt, devices))?;
    stages.timed("rollout", Stages::rollout)?;
    stages.timed("predict", |s| s.predict(devices))?;
    stages.timed("telemetry", Stages::telemetry)?;
    stages.report.seconds.insert("total".into(), seconds(started));
    Ok(stages.report)
}

fn seconds(since: Instant) -> f64 {
    (since.elapsed().as_secs_f64() * 1000.0).round() / 1000.0
}

impl Stages {
    fn timed(
        &mut self,
        stage: &'static str,
        work: impl FnOnce(&mut Self) -> Result<(), StageError>,
    ) -> Result<(), StageError> {
        let started = Instant::now();
        work(self)?;
        self.report.seconds.insert(stage.into(), seconds(started));
        Ok(())
    }
}

fn stay_up(
    runtime: &tokio::runtime::Runtime,
    app: &App,
    options: &Options,
    progress: &Progress,
    report: &Report,
    termination: Termination,
) {
    let url = app.login_url();
    progress.line("");
    progress.line(&format!(
        "  The loop is closed in {:.1} s. Open the console (once, within ten minutes):",
        report.total_seconds()
    ));
    progress.line(&format!("      {url}"));
    progress.line(&format!("  Another address later:  flotilla login --dir {}", options.dir.display()));
    progress.line("  Ctrl-C stops the control plane and the devices; the folder keeps everything.");
    runtime.block_on(termination.wait());
    progress.line("stopping…");
}

//! Models of other tools, looked at in a process of their own: reading, loading and running a file that nobody vouches for may
//! ask for any amount of memory, and may never end. The process has [`MEMORY`] of address space and is killed when it does
//! not get on for [`PATIENCE`]; whoever waits for it is told which of the two it was.
//!
//! The import job asks for a whole import (`crate::work::import`), the API for the report alone (`inspect` of an upload).

mod child;

pub(crate) use child::main as child_main;

use flotilla_jobs::JobFailure;
use flotilla_protocol::manifest::Metrics;
use flotilla_protocol::{ErrorCode, Pipeline, limits};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read};
use std::ops::ControlFlow;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};
use utoipa::ToSchema;

/// Address space of the process. The largest file that is taken needs a quarter of it.
pub(crate) const MEMORY: u64 = 4 * 1024 * limits::MIB as u64;
/// Time without progress after which it is killed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// How often it is looked whether somebody wants it to stop.
const LOOK: Duration = Duration::from_millis(200);
/// One line of what it says.
const LINE: u64 = 64 * limits::KIB as u64;
/// Bytes of what it complains about that are looked at.
const COMPLAINT: u64 = 4 * limits::KIB as u64;

/// What the allocator, the system and the engine say where there is no memory.
const WITHOUT_MEMORY: [&str; 4] =
    ["memory allocation of", "Cannot allocate memory", "failed to allocate", "!self.data.is_null()"];

/// The task, in the folder of inputs.
pub(crate) const TASK: &str = "task.json";
/// The file that was brought, in the folder of inputs.
pub(crate) const FILE: &str = "model.bin";
/// Samples to measure on, in the folder of inputs, if there are any.
pub(crate) const SAMPLES: &str = "test.samples";
/// The report, in the folder of outputs.
pub(crate) const REPORT: &str = "report.json";
/// The model to register, in the folder of outputs.
pub(crate) const MODEL: &str = "model.onnx";
/// How good the model is, in the folder of outputs, if that was measured.
pub(crate) const QUALITY: &str = "quality.json";
/// The pipeline to register, in the folder of outputs.
pub(crate) const PIPELINE: &str = "pipeline.json";

/// How a file is read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ReadOptions {
    /// What open dimensions become, by the symbol of the file; an open batch is 1.
    pub dimensions: BTreeMap<String, usize>,
    /// Inputs that always have the same value, as a sample rate.
    pub fixed: BTreeMap<String, f64>,
    /// Of a quantised model, clamp activations and do not round them: as fast as the float model, other numbers.
    pub float_activations: bool,
    /// Names of the classes, in the place of those that file or package name.
    pub labels: Option<Vec<String>>,
}

impl From<ReadOptions> for flotilla_import::Options {
    fn from(options: ReadOptions) -> Self {
        let mut read = Self { labels: options.labels, ..Self::default() };
        read.clean.dimensions = options.dimensions;
        read.clean.fixed = options.fixed;
        read.clean.float_activations = options.float_activations;
        read
    }
}

/// What the process is to do.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Task {
    pub(crate) options: ReadOptions,
    /// The rest of an import; none for the report alone.
    pub(crate) import: Option<ImportTask>,
}

/// What an import does beyond the report.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ImportTask {
    /// The pipeline that somebody confirmed.
    pub(crate) pipeline: Option<Pipeline>,
    /// Whether the proposed one is taken with all its guesses.
    pub(crate) accept_guesses: bool,
    /// Classes of the dataset that the samples are from.
    pub(crate) classes: Vec<String>,
    /// Inputs in the folder, `sample-0` and so on, that releases are to be checked with.
    pub(crate) samples: usize,
}

/// What came of it, beside the files.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Done {
    pub(crate) bytes: u64,
    pub(crate) parameters: u64,
    pub(crate) macs: Option<u64>,
    /// Who made the file, as it says itself.
    pub(crate) producer: String,
    /// Inputs that releases are checked with, as files in the folder of outputs.
    pub(crate) inputs: usize,
    /// Whether they were made up.
    pub(crate) generated: bool,
    /// What was measured on the test split.
    pub(crate) evaluation: Option<Metrics>,
    /// What whoever asked should know.
    pub(crate) notes: Vec<String>,
}

/// A line of what the process says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Said {
    Progress { done: u64, total: u64, stage: String },
    Done(Done),
    Failed { code: String, detail: String },
}

/// Name of an input that releases are checked with.
pub(crate) fn sample_name(number: usize) -> String {
    format!("sample-{number}")
}

/// Hears how far the process is: done, of how many, at what; or nothing new. Says whether it goes on.
type Watch<'a> = dyn FnMut(Option<(u64, u64, &str)>) -> ControlFlow<()> + 'a;

/// Runs the process on the task in `input` until it ends. `watch` hears of progress, and often enough, with nothing new, to
/// stop it.
pub(crate) fn examine(
    program: &Path,
    input: &Path,
    output: &Path,
    watch: &mut Watch<'_>,
) -> Result<Done, JobFailure> {
    let internal =
        |what: &str, error: io::Error| JobFailure::new(ErrorCode::Internal, format!("{what}: {error}"));
    let child = Command::new(program)
        .arg("examine-child")
        .args([input, output])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| internal("the process that looks at models cannot be started", e))?;
    let mut child = Reaped(child);
    let (lines, heard) = mpsc::channel();
    let stdout = child.0.stdout.take().map(BufReader::new);
    let stderr = child.0.stderr.take();
    std::thread::scope(|scope| {
        scope.spawn(move || listen(stdout, &lines));
        let complaint = scope.spawn(move || {
            let mut text = Vec::new();
            // The rest goes nowhere, but the process must be able to say it.
            if let Some(mut stderr) = stderr {
                let _ = stderr.by_ref().take(COMPLAINT).read_to_end(&mut text);
                let _ = io::copy(&mut stderr, &mut io::sink());
            }
            String::from_utf8_lossy(&text).into_owned()
        });
        let last = follow(&heard, watch);
        // Whatever holds its pipes ends with it.
        if last.is_err() {
            child.kill();
        }
        let status = child.0.wait().map_err(|e| internal("the process that looks at models is lost", e))?;
        let complaint = complaint.join().unwrap_or_default();
        match last? {
            Some(Said::Done(done)) if status.success() => Ok(done),
            Some(Said::Failed { code, detail }) => Err(JobFailure::new(ErrorCode::from_text(&code), detail)),
            _ => Err(died(status, &complaint)),
        }
    })
}

fn listen(stdout: Option<BufReader<impl Read>>, lines: &mpsc::Sender<Said>) {
    let Some(mut stdout) = stdout else { return };
    loop {
        let mut line = String::new();
        match stdout.by_ref().take(LINE).read_line(&mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        // What is no word of ours is the engine's, and of no interest.
        if let Ok(said) = serde_json::from_str(&line)
            && lines.send(said).is_err()
        {
            return;
        }
    }
}

/// What it said last; an error where it is to end now.
fn follow(heard: &mpsc::Receiver<Said>, watch: &mut Watch<'_>) -> Result<Option<Said>, JobFailure> {
    let (mut last, mut since) = (None, Instant::now());
    loop {
        let news = match heard.recv_timeout(LOOK) {
            Ok(Said::Progress { done, total, stage }) => {
                since = Instant::now();
                watch(Some((done, total, &stage)))
            }
            Ok(said) => {
                last = Some(said);
                ControlFlow::Continue(())
            }
            Err(RecvTimeoutError::Timeout) => watch(None),
            Err(RecvTimeoutError::Disconnected) => return Ok(last),
        };
        if news.is_break() {
            return Err(JobFailure::new(ErrorCode::Cancelled, "cancelled while the model was looked at"));
        }
        if since.elapsed() > PATIENCE {
            let detail = format!(
                "the engine has not got on with the model for {} s: it is too large for it, or made to hang; give its open \
                 dimensions smaller sizes, or use a smaller model",
                PATIENCE.as_secs()
            );
            return Err(JobFailure::new(ErrorCode::Timeout, detail));
        }
    }
}

/// Why a process ended without a word.
fn died(status: ExitStatus, complaint: &str) -> JobFailure {
    if WITHOUT_MEMORY.iter().any(|words| complaint.contains(words)) {
        let detail = format!(
            "the model needs more than {} MiB to be loaded and run: give its open dimensions smaller sizes, or use a \
             smaller model",
            MEMORY / limits::MIB as u64
        );
        return JobFailure::new(ErrorCode::JobMemory, detail);
    }
    let how = match status.signal() {
        Some(signal) => format!("signal {signal}"),
        None => status.to_string(),
    };
    let end: String = complaint.lines().last().unwrap_or_default().chars().take(200).collect();
    let detail = format!(
        "the model brings the engine down ({how}) {end}: the file is damaged or made to; export it again"
    );
    JobFailure::new(ErrorCode::ModelInvalid, detail)
}

/// A process that does not outlive whoever waits for it.
struct Reaped(Child);

impl Reaped {
    fn kill(&mut self) {
        // One that has ended already needs no signal.
        let _ = self.0.kill();
    }
}

impl Drop for Reaped {
    fn drop(&mut self) {
        self.kill();
        let _ = self.0.wait();
    }
}

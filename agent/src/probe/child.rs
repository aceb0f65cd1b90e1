//! The child's side: load, run, measure, say so in one line.

use super::{FILES_FOLDER, ProbeFailure, RELEASE_FILE, memory};
use flotilla_protocol::manifest::{ENGINE_TRACT, Golden};
use flotilla_protocol::message::{Measured, ProbeReport};
use flotilla_protocol::{Digest, Envelope, EnvelopeKind, ErrorCode, ReleaseManifest, codec, limits};
use flotilla_runtime::{Bundle, Input, Model, check_golden};
use serde::Serialize;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What the parent tells its child.
#[derive(Clone, Debug, clap::Args)]
pub struct ChildArgs {
    /// The slot with the candidate.
    #[arg(long)]
    pub dir: PathBuf,
    /// Name of this device's board profile.
    #[arg(long, default_value = "")]
    pub board: String,
    /// Private memory that this process may take, in bytes; 0 for no bound.
    #[arg(long, default_value_t = 0)]
    pub memory_bytes: u64,
    /// Say what it takes, whatever it answers, instead of whether it may serve.
    #[arg(long)]
    pub measure: bool,
    /// End when standard input does: with the parent, however that ends.
    #[arg(long)]
    pub until_stdin_closes: bool,
}

/// Probes the candidate in a slot. To be called first in a process that does nothing else.
pub fn child_main(args: &ChildArgs) -> ExitCode {
    if args.measure { answer(measure(args)) } else { answer(probe(args)) }
}

/// Says in one line what came out.
pub(crate) fn answer<T: Serialize>(result: Result<T, ProbeFailure>) -> ExitCode {
    let (line, code) = match result {
        Ok(report) => (serde_json::to_string(&report), ExitCode::SUCCESS),
        Err(failure) => (serde_json::to_string(&failure), ExitCode::FAILURE),
    };
    let written = line.map_err(io::Error::from).and_then(|line| {
        let mut out = io::stdout().lock();
        writeln!(out, "{line}")?;
        out.flush()
    });
    // A parent that does not listen any more has given up on this child.
    if written.is_ok() { code } else { ExitCode::FAILURE }
}

/// Bytes of stack for a thread that does nothing but read: the memory bound counts it.
const WATCH_STACK: usize = 64 * limits::KIB;

/// Ends this process when the parent's end of the pipe is closed, which the system does for a parent that was killed.
/// A probe that nobody waits for would take the time and memory of the next one.
pub(crate) fn end_with_parent() -> Result<(), ProbeFailure> {
    let watch = || {
        let mut byte = [0];
        loop {
            match io::stdin().read(&mut byte) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(1..) => {}
                Ok(0) | Err(_) => std::process::exit(1),
            }
        }
    };
    std::thread::Builder::new()
        .stack_size(WATCH_STACK)
        .spawn(watch)
        .map(drop)
        .map_err(|e| failure(ErrorCode::Internal, format!("the parent cannot be watched: {e}")))
}

/// The model in the slot, and what it is to be run on.
fn load(args: &ChildArgs) -> Result<(Model, Golden), ProbeFailure> {
    if args.until_stdin_closes {
        end_with_parent()?;
    }
    limit_memory(args.memory_bytes)?;
    let manifest = manifest(&args.dir)?;
    let bundle = Bundle::open(args.dir.join(FILES_FOLDER), manifest).map_err(refused)?;
    let model = Model::from_bundle(&bundle, &args.board, ENGINE_TRACT).map_err(refused)?;
    Ok((model, bundle.golden().map_err(refused)?))
}

fn measure(args: &ChildArgs) -> Result<Measured, ProbeFailure> {
    let (mut model, golden) = load(args)?;
    let mut hasher = Digest::hasher();
    for vector in &golden.vectors {
        let scores = model.predict(Input::Unsaid(&vector.input)).map_err(refused)?.scores;
        scores.iter().for_each(|score| hasher.update(&score.to_le_bytes()));
    }
    // Other kernels round in other ways: what is answered is reported and judges nothing.
    let report = check_golden(&mut model, &Golden { tolerance: f32::MAX, ..golden }).map_err(refused)?;
    let whole = |number: f64| number.ceil() as u64;
    Ok(Measured {
        vectors: u32::try_from(report.vectors).unwrap_or(u32::MAX),
        p50_us: whole(report.p50_ms * 1e3),
        p95_us: whole(report.p95_ms * 1e3),
        peak_bytes: peak_rss_bytes(),
        max_error_micro: whole(f64::from(report.max_abs_error) * 1e6),
        outputs: hasher.finish(),
    })
}

fn probe(args: &ChildArgs) -> Result<ProbeReport, ProbeFailure> {
    let (mut model, golden) = load(args)?;
    let report = check_golden(&mut model, &golden).map_err(refused)?;
    Ok(ProbeReport {
        vectors: u32::try_from(report.vectors).unwrap_or(u32::MAX),
        max_abs_error: report.max_abs_error,
        p50_ms: report.p50_ms,
        p95_ms: report.p95_ms,
        peak_rss_bytes: peak_rss_bytes(),
    })
}

/// Bounds the memory of this process; 0 for no bound.
pub(crate) fn limit_memory(bytes: u64) -> Result<(), ProbeFailure> {
    if bytes == 0 {
        return Ok(());
    }
    flotilla_launcher::child::limit_memory(bytes)
        .map_err(|e| failure(ErrorCode::Internal, format!("the memory bound cannot be set: {e}")))
}

/// The largest memory that this process had; 0 for unknown.
pub(crate) fn peak_rss_bytes() -> u64 {
    memory::peak_rss_bytes().unwrap_or(0)
}

/// The manifest in the slot. Its signature is not checked again: the parent, which has the trust file, did
/// that on the same bytes, and a child that could be fed others would already run in the parent's folder.
pub(crate) fn manifest(slot: &Path) -> Result<ReleaseManifest, ProbeFailure> {
    let path = slot.join(RELEASE_FILE);
    let mut bytes = Vec::new();
    std::fs::File::open(&path)
        .and_then(|file| file.take(limits::ENVELOPE as u64 + 1).read_to_end(&mut bytes))
        .map_err(|e| failure(ErrorCode::StorageIo, format!("{} cannot be read: {e}", path.display())))?;
    let envelope = Envelope::from_bytes(&bytes).map_err(|e| failure(e.code(), e.to_string()))?;
    if envelope.kind != EnvelopeKind::Release {
        return Err(failure(ErrorCode::Malformed, format!("{} is not a release", path.display())));
    }
    codec::decode(&envelope.payload, limits::ENVELOPE).map_err(|e| failure(e.code(), e.to_string()))
}

pub(crate) fn refused(error: flotilla_runtime::Error) -> ProbeFailure {
    let detail = error.detail();
    // The engine panics where it gets no memory, and the runtime reports that as a fault of the model.
    let code = if super::parent::tells_of_memory(&detail) { ErrorCode::ProbeMemory } else { error.code() };
    failure(code, detail)
}

fn failure(code: ErrorCode, detail: String) -> ProbeFailure {
    ProbeFailure { code, detail }
}

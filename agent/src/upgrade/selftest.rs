//! What a new agent tries before it is let in: whether it reads everything that the present one has stored. It writes
//! nothing, listens nowhere and connects to nobody; the present agent goes on while it runs.

use crate::clock::Clock;
use crate::config::Config;
use crate::folder::{AGENT_JOURNAL, Folder, MODELS, OUTBOX};
use crate::launcher::file::LaunchFile;
use crate::probe::{ProbeFailure, answer, end_with_parent, limit_memory, peak_rss_bytes};
use crate::{Error, daemon, disk, identity};
use flotilla_device::update::UpdateJournal;
use flotilla_protocol::message::ProbeReport;
use flotilla_protocol::{ErrorCode, ModelName, limits};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

/// What sled notes down of its format: the version in the one version table.
const OUTBOX_FORMAT: &str = "version: 0.34";
const JOURNAL: usize = 64 * limits::KIB;

/// What the present agent tells the new one.
#[derive(Clone, Debug, clap::Args)]
pub struct SelfTestArgs {
    /// The agent's folder.
    #[arg(long)]
    pub dir: PathBuf,
    /// Private memory that this process may take, in bytes; 0 for no bound.
    #[arg(long, default_value_t = 0)]
    pub memory_bytes: u64,
    /// End when standard input does: with the parent, however that ends.
    #[arg(long)]
    pub until_stdin_closes: bool,
}

/// Tries everything. To be called first in a process that does nothing else. What was tried is in the report's number
/// of vectors.
pub fn self_test_main(args: &SelfTestArgs) -> ExitCode {
    answer(self_test(args))
}

fn self_test(args: &SelfTestArgs) -> Result<ProbeReport, ProbeFailure> {
    let started = Instant::now();
    if args.until_stdin_closes {
        end_with_parent()?;
    }
    limit_memory(args.memory_bytes)?;
    let folder = Folder::open(&args.dir).map_err(|e| failure(e.code(), e.to_string()))?;
    let vectors = try_all(&folder)?;
    let ms = started.elapsed().as_secs_f64() * 1e3;
    let peak_rss_bytes = peak_rss_bytes();
    Ok(ProbeReport { vectors, max_abs_error: 0.0, p50_ms: ms, p95_ms: ms, peak_rss_bytes })
}

/// Reads every stored format; says how many files it was.
fn try_all(folder: &Folder) -> Result<u32, ProbeFailure> {
    let refused = |e: Error| failure(e.code(), e.to_string());
    Config::read(folder).map_err(refused)?;
    let identity = identity::read(folder, &Clock::new(0)).map_err(refused)?;
    identity::trust(folder, &identity.names.project).map_err(refused)?;
    let damage = daemon::unreadable(folder);
    if let Some(problem) = damage.into_iter().next() {
        return Err(failure(ErrorCode::StorageCorrupt, problem));
    }
    let mut tried = 6;
    let names = folder.disk().folders(MODELS.as_ref()).map_err(|e| failure(e.code(), e.to_string()))?;
    for name in names.iter().filter_map(|name| name.parse::<ModelName>().ok()) {
        let journal = read_journal(folder, &Folder::journal(&name))?;
        // The slot that is being filled may hold anything.
        if let Some(confirmed) = journal.and_then(|journal| journal.confirmed) {
            let place = folder.slot(&name, confirmed.slot);
            place.manifest(confirmed.release).map_err(|e| failure(e.code, e.detail))?;
            tried += 1;
        }
        tried += 1;
    }
    read_journal(folder, AGENT_JOURNAL.as_ref())?;
    if let (_, Some(problem)) = LaunchFile::new(folder.clone()).read() {
        return Err(failure(ErrorCode::StorageCorrupt, problem));
    }
    check_outbox(folder)?;
    Ok(tried + 3)
}

/// The outbox is in use and cannot be opened a second time; its format is noted down beside it.
fn check_outbox(folder: &Folder) -> Result<(), ProbeFailure> {
    let path = folder.path(OUTBOX).join("conf");
    let conf = disk::read(&path, 64 * limits::KIB).map_err(|e| failure(e.code(), e.to_string()))?;
    let Some(conf) = conf else { return Ok(()) };
    if String::from_utf8_lossy(&conf).lines().any(|line| line == OUTBOX_FORMAT) {
        return Ok(());
    }
    let detail = format!("{} is not of {OUTBOX_FORMAT}, which this agent reads", path.display());
    Err(failure(ErrorCode::StorageVersion, detail))
}

fn read_journal(folder: &Folder, path: &Path) -> Result<Option<UpdateJournal>, ProbeFailure> {
    let named = |code, problem: String| failure(code, format!("{}: {problem}", path.display()));
    let read = folder.disk().read(path, JOURNAL).map_err(|e| named(e.code(), e.to_string()))?;
    let Some(bytes) = read else { return Ok(None) };
    UpdateJournal::from_bytes(&bytes).map(Some).map_err(|e| named(e.code(), e.to_string()))
}

fn failure(code: ErrorCode, detail: String) -> ProbeFailure {
    ProbeFailure { code, detail }
}

//! What a new agent tries before it is let in: whether it reads everything that the present one has stored. It writes
//! nothing, listens nowhere and connects to nobody; the present agent goes on while it runs.

use crate::clock::Clock;
use crate::config::Config;
use crate::folder::{AGENT_JOURNAL, Folder, MODELS, OUTBOX};
use crate::probe::{ProbeFailure, answer, end_with_parent, limit_memory, peak_rss_bytes};
use crate::{Error, daemon, disk, identity};
use flotilla_device::Fault;
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
    /// What the present agent cannot read, either; may be given more than once.
    #[arg(long, value_name = "NAME")]
    pub damaged: Vec<String>,
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
    try_vital(&folder)?;
    let (tried, unreadable) = try_all(&folder)?;
    if let Some(refused) = unreadable.into_iter().find(|one| !args.damaged.contains(&one.name)) {
        return Err(refused.failure);
    }
    let ms = started.elapsed().as_secs_f64() * 1e3;
    let peak_rss_bytes = peak_rss_bytes();
    Ok(ProbeReport { vectors: tried, max_abs_error: 0.0, p50_ms: ms, p95_ms: ms, peak_rss_bytes })
}

/// Something stored that cannot be read.
struct Unreadable {
    /// Its path in the folder.
    name: String,
    failure: ProbeFailure,
}

/// What this agent itself cannot read, by name: a candidate need not, either. It is damaged, and every agent copes. What
/// no agent can run without says nothing about a candidate, and nothing can be tried before it is good again.
pub(crate) fn damaged(folder: &Folder) -> Result<Vec<String>, Fault> {
    let look = || {
        try_vital(folder)?;
        Ok(try_all(folder)?.1.into_iter().map(|one| one.name).collect())
    };
    look().map_err(|failure: ProbeFailure| Fault::transient(failure.code, failure.detail))
}

/// Reads what no agent can run without.
fn try_vital(folder: &Folder) -> Result<(), ProbeFailure> {
    let refused = |e: Error| failure(e.code(), e.to_string());
    Config::read_what_is_known(folder).map_err(refused)?;
    let identity = identity::read(folder, &Clock::new(0)).map_err(refused)?;
    identity::trust(folder, &identity.names.project).map_err(refused).map(drop)
}

/// Reads everything else that is stored. Says how many files it was with the vital ones, and which cannot be read.
fn try_all(folder: &Folder) -> Result<(u32, Vec<Unreadable>), ProbeFailure> {
    let mut unreadable = Vec::new();
    let mut keep = |name: String, failure| unreadable.push(Unreadable { name, failure });
    for (name, problem) in daemon::unreadable(folder) {
        keep(name.to_owned(), failure(ErrorCode::StorageCorrupt, problem));
    }
    let mut tried = 6;
    let names = folder.disk().folders(MODELS.as_ref()).map_err(|e| failure(e.code(), e.to_string()))?;
    for name in names.iter().filter_map(|name| name.parse::<ModelName>().ok()) {
        let path = Folder::journal(&name);
        let journal = read_journal(folder, &path).unwrap_or_else(|failure| {
            keep(path.display().to_string(), failure);
            None
        });
        // The slot that is being filled may hold anything.
        if let Some(confirmed) = journal.and_then(|journal| journal.confirmed) {
            if let Err(e) = folder.slot(&name, confirmed.slot).manifest(confirmed.release) {
                let path = Folder::model(&name).join(confirmed.slot.as_str());
                keep(path.display().to_string(), failure(e.code, e.detail));
            }
            tried += 1;
        }
        tried += 1;
    }
    if let Err(failure) = read_journal(folder, AGENT_JOURNAL.as_ref()) {
        keep(AGENT_JOURNAL.to_owned(), failure);
    }
    if let (_, Some(problem)) = folder.launch_file().read() {
        keep("launch".to_owned(), failure(ErrorCode::StorageCorrupt, problem));
    }
    if let Err(failure) = check_outbox(folder) {
        keep(OUTBOX.to_owned(), failure);
    }
    Ok((tried + 3, unreadable))
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

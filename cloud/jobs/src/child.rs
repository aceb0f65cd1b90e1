//! The child's side of a job: read the assignment, do the work, say how it goes.
//!
//! A child has its folder, its standard streams and nothing else. Frames leave through what was the standard
//! output; the standard output itself becomes the standard error, so that a stray `println!` ends in the log
//! and not between frames. When the standard input ends, the child is to stop. When the parent dies, the
//! system kills the child.

use crate::bounds::JOB_RESULT;
use crate::error::{JobFailure, presentable};
use crate::folder::{Assignment, JobFolder};
use crate::frame::{self, Frame};
use flotilla_protocol::{ErrorCode, JobId, limits};
use rustix::process::{Signal, set_parent_process_death_signal};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The function that does the work of one kind of job.
pub type Work = fn(&mut ChildContext) -> Result<Value, JobFailure>;

/// Exit code of a child that could not even begin.
const CANNOT_BEGIN: u8 = 70;

/// Does the work of the job in `folder`. The program calls this for its `job-child` command and exits with
/// what it returns.
pub fn run(folder: &Path, works: &[(&str, Work)]) -> ExitCode {
    match begin(folder) {
        Ok(mut context) => {
            let work = works.iter().find(|(kind, _)| *kind == context.assignment.kind);
            let result = match work {
                Some((_, work)) => work(&mut context).and_then(check_result),
                None => Err(unknown(&context.assignment.kind)),
            };
            let last = match result {
                Ok(result) => Frame::Done { result },
                Err(failure) => Frame::Failed(failure),
            };
            if context.send(&last) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("the job cannot begin: {error}");
            ExitCode::from(CANNOT_BEGIN)
        }
    }
}

fn begin(folder: &Path) -> io::Result<ChildContext> {
    // A parent that has died before this line shows itself by the end of the standard input.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let out: OwnedFd = io::stdout().as_fd().try_clone_to_owned()?;
    rustix::stdio::dup2_stdout(io::stderr())?;
    let folder = JobFolder::at(folder);
    let assignment = folder.assignment().map_err(io::Error::other)?;
    let cancelled = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&cancelled);
    std::thread::Builder::new().name("parent".into()).spawn(move || {
        let mut buffer = [0; 64];
        let mut input = io::stdin().lock();
        while !matches!(input.read(&mut buffer), Ok(0) | Err(_)) {}
        flag.store(true, Ordering::Release);
    })?;
    Ok(ChildContext { folder, assignment, out: Mutex::new(File::from(out)), cancelled })
}

fn unknown(kind: &str) -> JobFailure {
    JobFailure::new(
        ErrorCode::Unsupported,
        format!("this program does not know how to do jobs of kind {kind:?}"),
    )
}

fn check_result(result: Value) -> Result<Value, JobFailure> {
    let len = result.to_string().len();
    if len <= JOB_RESULT {
        return Ok(result);
    }
    let detail =
        format!("the result has {len} bytes, the bound is {JOB_RESULT}: write larger things to a file");
    Err(JobFailure::new(ErrorCode::TooLarge, detail))
}

/// What a child's work has at hand. What it says is sent at once; the parent decides what of it is stored.
#[derive(Debug)]
pub struct ChildContext {
    folder: JobFolder,
    assignment: Assignment,
    out: Mutex<File>,
    cancelled: Arc<AtomicBool>,
}

impl ChildContext {
    /// The job.
    pub fn id(&self) -> &JobId {
        &self.assignment.id
    }

    /// Which attempt this is, from 1.
    pub fn attempt(&self) -> u32 {
        self.assignment.attempt
    }

    /// What is to be done.
    pub fn spec<T: DeserializeOwned>(&self) -> Result<T, JobFailure> {
        let spec = self.assignment.spec.clone();
        serde_json::from_value(spec).map_err(|e| JobFailure::caused(ErrorCode::InvalidInput, &e))
    }

    /// A file that was prepared for this job.
    pub fn input(&self, name: &str) -> PathBuf {
        self.folder.input(name)
    }

    /// A file that this job makes.
    pub fn output(&self, name: &str) -> PathBuf {
        self.folder.output(name)
    }

    /// Says how far the work is.
    pub fn progress(&self, done: u64, total: Option<u64>, stage: &str) {
        self.send(&Frame::Progress { done, total, stage: presentable(stage, limits::LABEL) });
    }

    /// Says values at one step. Values that are no finite numbers are left out.
    pub fn metric(&self, step: u64, values: &[(&str, f64)]) {
        let finite = values.iter().filter(|(_, value)| value.is_finite());
        let values = finite.map(|(name, value)| ((*name).to_owned(), *value)).collect();
        self.send(&Frame::Metric { step, values });
    }

    /// Adds a line to the log.
    pub fn log(&self, line: &str) {
        self.send(&Frame::Log { line: presentable(line, 4 * limits::TEXT) });
    }

    /// Whether the work is to stop: somebody wants it, or the parent has gone.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    /// [`ChildContext::is_cancelled`] for code that cannot hold the context.
    pub fn cancel_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.cancelled)
    }

    /// Sends a frame. Says whether somebody received it.
    fn send(&self, frame: &Frame) -> bool {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = frame::encode(frame).and_then(|bytes| out.write_all(&bytes));
        if let Err(error) = &sent {
            eprintln!("the parent does not listen any more: {error}");
            self.cancelled.store(true, Ordering::Release);
        }
        sent.is_ok()
    }
}

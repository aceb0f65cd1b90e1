//! The agent's log: where it goes, and its level while it runs.

mod files;

pub(crate) use files::pull;

use crate::Error;
use crate::folder::{self, Folder};
use flotilla_protocol::message::LogLevel;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use tracing::Level;
use tracing_subscriber::filter::{ParseError, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{fmt, reload};

type Change = Box<dyn Fn(Targets) -> Result<(), String> + Send + Sync>;

/// How the level of the running log is changed; absent where a program that embeds the agent logs in its own way.
static CHANGE: OnceLock<Change> = OnceLock::new();
/// What is logged now, as a filter.
static NOW: Mutex<String> = Mutex::new(String::new());

/// Whether the log is kept on the disk, too.
static KEPT: AtomicBool = AtomicBool::new(false);

/// Starts the log: on standard error, and in `folder` within `bytes`, unless those are 0. `RUST_LOG` goes before the
/// configuration.
pub(crate) fn start(configured: &str, folder: &Folder, bytes: u64) -> Result<(), Error> {
    let wanted = std::env::var("RUST_LOG").unwrap_or_else(|_| configured.to_owned());
    let filter = parse(&wanted).map_err(|e| Error::Config {
        path: folder::CONFIG.into(),
        problem: format!("log filter {wanted:?}: {e}"),
    })?;
    let (filter, handle) = reload::Layer::new(filter);
    let seen = fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    let kept = (bytes > 0)
        .then(|| fmt::layer().with_writer(Mutex::new(files::Writer::new(folder, bytes))).with_ansi(false));
    KEPT.store(kept.is_some(), Ordering::Relaxed);
    let logger = tracing_subscriber::registry().with(filter).with(seen).with(kept);
    if tracing::subscriber::set_global_default(logger).is_ok() {
        let change: Change = Box::new(move |filter| handle.reload(filter).map_err(|e| e.to_string()));
        // Only the first log of a process is the global one.
        let _ = CHANGE.set(change);
        *NOW.lock().unwrap_or_else(PoisonError::into_inner) = wanted;
    }
    Ok(())
}

/// Whether there is a log to [`pull`].
pub(crate) fn is_kept() -> bool {
    CHANGE.get().is_some() && KEPT.load(Ordering::Relaxed)
}

/// Logs at this level from now on, until the next start.
pub(crate) fn set(level: LogLevel) -> Result<(), String> {
    let change = CHANGE.get().ok_or("the program that the agent is part of logs in its own way")?;
    let wanted = filter(level);
    let filter = parse(&wanted).map_err(|e| e.to_string())?;
    change(filter)?;
    tracing::info!(filter = wanted, "the log level is changed until the next start");
    *NOW.lock().unwrap_or_else(PoisonError::into_inner) = wanted;
    Ok(())
}

/// What is logged now, as a filter; empty where the agent does not know.
pub(crate) fn now() -> String {
    NOW.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Levels by target. An `EnvFilter` could also choose by spans, of which there are none, and brings regular
/// expressions for that: 0.2 MB.
fn parse(filter: &str) -> Result<Targets, ParseError> {
    let parts: Vec<&str> = filter.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
    if parts.is_empty() { Ok(Targets::new().with_default(Level::ERROR)) } else { parts.join(",").parse() }
}

/// The details of other people's libraries are not ours to vouch for: they may hold secrets.
fn filter(level: LogLevel) -> String {
    match level {
        LogLevel::Debug | LogLevel::Trace => {
            let level = level.as_str();
            format!("info,flotilla_agent={level},flotilla_device={level},flotilla_runtime={level}")
        }
        LogLevel::Error | LogLevel::Warn | LogLevel::Info | LogLevel::Unknown => level.as_str().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::{LogLevel, filter, parse};
    use tracing::Level;

    #[test]
    fn a_filter_names_levels_of_all_and_of_some() {
        let shows = |text: &str, target: &str, level: Level| {
            parse(text).is_ok_and(|filter| filter.would_enable(target, &level))
        };
        assert!(
            shows("", "sled", Level::ERROR) && !shows("", "sled", Level::WARN),
            "errors without a filter"
        );
        assert!(shows("info,", "sled", Level::INFO) && !shows("INFO", "sled", Level::DEBUG));
        let debug = filter(LogLevel::Debug);
        assert!(shows(&debug, "flotilla_agent::link", Level::DEBUG));
        assert!(shows(&debug, "rustls", Level::INFO) && !shows(&debug, "rustls", Level::DEBUG));
        assert!(shows("warn, flotilla_agent=off", "sled", Level::WARN));
        assert!(!shows("warn, flotilla_agent=off", "flotilla_agent", Level::ERROR));
        assert!(parse("flotilla_agent=loud").is_err());
    }
}

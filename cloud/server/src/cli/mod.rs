//! The command line. Commands for a running control plane go through [`client`] and HTTP only; `quickstart`,
//! `up`, `agent` and `job-child` run something themselves.

mod admission;
pub mod args;
mod board;
mod card;
pub mod client;
mod commands;
mod compress;
mod diagnose;
pub mod exit;
mod experiment;
pub(crate) mod follow;
mod groups;
mod hard;
mod import;
mod inspect;
mod lifetime;
mod order;
mod pipeline;
mod registrations;
mod rollout;
mod shadow;
mod simulate;
mod table;
mod telemetry;
mod top;
mod trust;
mod twin;
mod upload;

use args::{Cli, Command, Output};
use clap::Parser;
use exit::Failure;
use std::process::ExitCode;

/// The whole program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let json = cli.command.output() == Output::Json;
    let outcome = match cli.command {
        // The same library as `flotilla-agent`; its children come back through this branch.
        Command::Agent(arguments) => {
            return flotilla_agent::cli::main(
                arguments,
                flotilla_agent::cli::ExePrefix(vec!["agent".into()]),
            );
        }
        Command::JobChild { folder } => return crate::work::child_main(&folder),
        Command::ExamineChild { input, output } => return crate::examine::child_main(&input, &output),
        Command::Quickstart(options) => {
            start_logging("warn");
            crate::quickstart::run(crate::quickstart::Options {
                dir: options.dir,
                devices: options.devices,
                once: options.once,
                http: options.http,
                mqtt: options.mqtt,
            })
        }
        Command::Up(options) => {
            start_logging("info");
            crate::up::run(options)
        }
        Command::Simulate(options) => {
            start_logging("warn");
            simulate::run(*options, json)
        }
        command => {
            end_with_reader();
            commands::run(command, json)
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(json),
    }
}

/// A command whose output nobody reads any more (`… | head`) ends without a word, as others do.
#[expect(unsafe_code, reason = "there is no safe call for it; the argument stands inside")]
fn end_with_reader() {
    // SAFETY: signal(2) with the default action installs no handler; no other thread runs yet. Sockets are written to
    // with MSG_NOSIGNAL by the standard library, so that only standard output and error are concerned.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// Logs go to stderr; `FLOTILLA_LOG` filters them (`debug`, `flotilla_fleet=trace,warn` …).
fn start_logging(default: &str) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("FLOTILLA_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(default));
    let logging = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
    if let Err(error) = logging {
        eprintln!("logging does not start: {error}");
    }
}

/// Reads a file that the user named.
fn read_file(path: &std::path::Path) -> Result<std::fs::File, Failure> {
    std::fs::File::open(path).map_err(|e| {
        Failure::new(
            flotilla_protocol::ErrorCode::NotFound,
            format!("{} cannot be read: {e}", path.display()),
        )
    })
}

//! The command line, as a library: `flotilla-agent …` and `flotilla agent …` are the same code.

mod client;
mod commands;

use crate::api::Address;
use crate::config::Config;
use crate::daemon::Ended;
use crate::folder::Folder;
use crate::probe::{ChildArgs, child_main};
use crate::program;
use crate::shadow::{ShadowArgs, shadow_main};
use crate::upgrade::{self, SelfTestArgs, self_test_main};
use crate::{Error, clock, daemon, host, logging};
use clap::{Subcommand, ValueEnum};
use flotilla_device::launch::EXIT_SWITCH;
use flotilla_protocol::enrol::BoardSerial;
use flotilla_protocol::{DeviceId, ModelName};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

/// The exit codes, for the help text.
pub const EXIT_CODES: &str = "Exit codes:
  0  done
  1  failed for another reason
  2  the command line is wrong
  3  the folder or its configuration is not in a state for this (not enrolled, enrolled already, bad agent.toml)
  4  refused: claim code, certificate authority, or the server's answer
  5  not reachable: server, or no agent runs on the folder
  6  storage: in use, full, read-only or damaged
  7  the doctor found what does not work; warnings alone give 0
  10 flotilla-launcher is to start another binary of the agent

Errors are one line: what failed, where, what to do, and a stable code in brackets.";

/// Arguments with which this program becomes the agent: none for `flotilla-agent`, `agent` for `flotilla agent`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExePrefix(pub Vec<String>);

/// What the agent is to do.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Make this folder a device of a fleet.
    Enrol {
        /// File with the claim code; - for standard input.
        #[arg(long, value_name = "FILE")]
        claim: PathBuf,
        /// The agent's folder; created if need be.
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// The device id to ask for; the control plane decides.
        #[arg(long, value_name = "ID")]
        name: Option<DeviceId>,
        /// The serial number of the board, in place of what the configuration or the board itself says.
        #[arg(long, value_name = "SERIAL")]
        serial: Option<BoardSerial>,
        /// How to print the result.
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Run the agent until it is told to stop.
    Run {
        /// The agent's folder.
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// Address of the local endpoint, in place of the configured one; loopback only, port 0 for any.
        #[arg(long, value_name = "ADDRESS")]
        listen: Option<Address>,
        /// Also stop when standard input ends: with the program that started this one.
        #[arg(long)]
        until_stdin_closes: bool,
    },
    /// Show what the agent on this folder does.
    Status {
        /// The agent's folder.
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// How to print it.
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Examine the device: certificates, clock, disk, link, models and more, each with what to do.
    ///
    /// Changes nothing; works with or without a running agent.
    Doctor {
        /// The agent's folder.
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// How to print it.
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Predict one input with a model that serves here; the answer is JSON.
    Predict {
        /// The model.
        model: ModelName,
        /// A PNG or JPEG picture, or raw pixels.
        file: PathBuf,
        /// The agent's folder.
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
    },
    /// Print the default configuration with comments, for DIR/agent.toml.
    Config,
    /// Try the release in a slot; what the agent runs as a child.
    #[command(hide = true)]
    Probe(ChildArgs),
    /// Answer inputs beside the confirmed release; what the agent runs as a child.
    #[command(hide = true)]
    Shadow(ShadowArgs),
    /// Try whether this agent can take over the folder; what a running agent asks a new one.
    #[command(hide = true)]
    SelfTest(SelfTestArgs),
}

/// How a command prints its result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// One JSON document.
    Json,
}

/// Runs a command to its end.
pub fn main(args: Args, prefix: ExePrefix) -> ExitCode {
    program::within("flotilla", &prefix.0);
    let ended = match args.command {
        // These children do nothing else, and their memory is bounded: no runtime, no log.
        Command::Probe(args) => return child_main(&args),
        Command::Shadow(args) => return shadow_main(&args),
        Command::SelfTest(args) => return self_test_main(&args),
        Command::Run { dir, listen, until_stdin_closes } => start(&dir, listen, until_stdin_closes, prefix),
        Command::Enrol { claim, dir, name, serial, output } => {
            complete(commands::enrol(&claim, &dir, name, serial, output))
        }
        Command::Status { dir, output } => complete(commands::status(&dir, output)),
        Command::Doctor { dir, output } => complete(commands::doctor(&dir, output)),
        Command::Predict { model, file, dir } => complete(commands::predict(&model, &file, &dir)),
        Command::Config => {
            print!("{}", crate::config::DEFAULT);
            Ok(Ended::Stopped)
        }
    };
    match ended {
        Ok(Ended::Stopped) => ExitCode::SUCCESS,
        Ok(Ended::Switch) => ExitCode::from(EXIT_SWITCH),
        Err(error) => {
            eprintln!("error: {} [{}]", error.to_string().replace('\n', " "), error.code());
            ExitCode::from(error.exit_code())
        }
    }
}

/// Threads for work that blocks, beside those that predict: loads, slots, journals, feeds, names.
const BLOCKING: usize = 8;

/// `predicting` is how many threads may predict at the same time: they never take those that other work needs.
fn runtime(predicting: usize) -> Result<Runtime, Error> {
    // Two workers: one may write to the disk while the other serves.
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(predicting + BLOCKING)
        .enable_all()
        .build()
        .map_err(|e| Error::System { what: "starting the runtime", problem: e.to_string() })
}

fn complete(command: impl Future<Output = Result<(), Error>>) -> Result<Ended, Error> {
    runtime(0)?.block_on(command).map(|()| Ended::Stopped)
}

fn start(
    dir: &Path,
    listen: Option<Address>,
    until_stdin_closes: bool,
    prefix: ExePrefix,
) -> Result<Ended, Error> {
    let folder = Folder::open(dir)?;
    let mut config = config_of(&folder)?;
    config.listen = listen.unwrap_or(config.listen);
    // Before there are threads: each takes its level from the one that starts it.
    be_nice(config.nice);
    runtime(host::threads(config.threads))?.block_on(run(folder, config, until_stdin_closes, prefix))
}

async fn run(
    folder: Folder,
    config: Config,
    until_stdin_closes: bool,
    prefix: ExePrefix,
) -> Result<Ended, Error> {
    logging::start(&config.log, &folder, config.log_bytes)?;
    let exe = std::env::current_exe()
        .map_err(|e| Error::System { what: "finding this program's own file", problem: e.to_string() })?;
    let shutdown = CancellationToken::new();
    on_signal(shutdown.clone())?;
    if until_stdin_closes {
        on_stdin_end(shutdown.clone());
    }
    let (launched, wall) = (upgrade::launched(), clock::wall_ms);
    daemon::run(daemon::Options { folder, config, exe, prefix: prefix.0, launched, wall }, shutdown).await
}

/// The configuration; under a launcher without what this agent does not know.
fn config_of(folder: &Folder) -> Result<Config, Error> {
    if upgrade::launched().is_some() { Config::read_what_is_known(folder) } else { Config::read(folder) }
}

/// Gives other programs of the box their due. A level that this user may not have is no reason not to run.
fn be_nice(level: i32) {
    if level != 0 && rustix::process::setpriority_process(None, level).is_err() {
        eprintln!("warning: the nice level {level} is not permitted here; the agent runs without it");
    }
}

/// An agent that was told to stop and hangs ends by force after so long: before the launcher kills it, and also when there
/// is no launcher any more.
const STOP: Duration = Duration::from_secs(10);

/// A thread of its own: reading standard input cannot be given up, and the runtime would wait for it; and it must not
/// hang with the rest.
fn on_stdin_end(shutdown: CancellationToken) {
    std::thread::spawn(move || {
        // An error ends it as well as the end does.
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        shutdown.cancel();
        std::thread::sleep(STOP);
        eprintln!("error: the agent does not stop, so it is aborted");
        std::process::abort();
    });
}

fn on_signal(shutdown: CancellationToken) -> Result<(), Error> {
    use tokio::signal::unix::{SignalKind, signal};
    let listen = |kind| {
        signal(kind).map_err(|e| Error::System { what: "listening for signals", problem: e.to_string() })
    };
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        shutdown.cancel();
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[derive(clap::Parser)]
    struct Program {
        #[command(flatten)]
        _args: Args,
    }

    #[test]
    fn the_command_line_is_consistent() {
        Program::command().debug_assert();
    }

    #[test]
    fn a_claim_code_cannot_be_given_on_the_command_line() {
        let mut command = Program::command();
        let enrol = command.find_subcommand_mut("enrol").map(|enrol| enrol.render_long_help().to_string());
        let help = enrol.unwrap_or_default();
        assert!(help.contains("--claim <FILE>") && !help.contains("<CODE>"), "{help}");
    }
}

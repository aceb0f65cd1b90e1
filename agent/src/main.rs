//! `flotilla-agent`: the device daemon as its own lean program.

use clap::Parser;
use flotilla_agent::cli::{self, ExePrefix};
use std::process::ExitCode;

/// The Flotilla device agent: runs models that the control plane ships, and keeps a working one whatever happens.
#[derive(Parser)]
#[command(name = "flotilla-agent", version, after_long_help = cli::EXIT_CODES)]
struct Program {
    #[command(flatten)]
    args: cli::Args,
}

fn main() -> ExitCode {
    cli::main(Program::parse().args, ExePrefix::default())
}

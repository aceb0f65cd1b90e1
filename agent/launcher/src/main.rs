//! `flotilla-launcher`: starts the agent, and the right binary of it.

use flotilla_launcher::Options;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

const HELP: &str = "Starts the Flotilla device agent and keeps it running; an upgrade of the agent that does not work is taken back.

Usage: flotilla-launcher --dir DIR [--agent FILE] [-- ARGUMENTS]

  --dir DIR     the agent's folder, enrolled with `flotilla-agent enrol`
  --agent FILE  the agent that was installed with this device; flotilla-agent beside this program by default
  ARGUMENTS     passed on to `flotilla-agent run`

SIGTERM and SIGINT stop the agent and then the launcher.

Exit codes: 0 stopped, 1 failed, 2 the command line is wrong, 6 storage: in use, full, read-only or damaged";

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let options = match parse(&mut arguments) {
        Ok(Some(options)) => options,
        Ok(None) => return ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("error: {problem}\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    match flotilla_launcher::run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

/// The options; none if only a text was asked for, which is printed.
fn parse(arguments: &mut impl Iterator<Item = OsString>) -> Result<Option<Options>, String> {
    let (mut dir, mut installed, mut rest) = (None, None, Vec::new());
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().map(PathBuf::from);
        match argument.to_str() {
            Some("--dir") => dir = Some(value().ok_or("--dir needs a folder")?),
            Some("--agent") => installed = Some(value().ok_or("--agent needs a file")?),
            Some("--help" | "-h") => {
                println!("{HELP}");
                return Ok(None);
            }
            Some("--version" | "-V") => {
                println!("flotilla-launcher {}", env!("CARGO_PKG_VERSION"));
                return Ok(None);
            }
            Some("--") => rest = arguments.by_ref().collect(),
            _ => return Err(format!("{} is not known", argument.display())),
        }
    }
    let beside = || std::env::current_exe().ok().map(|own| own.with_file_name("flotilla-agent"));
    let dir = dir.ok_or("--dir is missing")?;
    let installed = installed.or_else(beside).ok_or("--agent is missing")?;
    Ok(Some(Options { dir, installed, arguments: rest }))
}

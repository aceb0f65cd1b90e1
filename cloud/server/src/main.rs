//! The binary `flotilla`.

use std::process::ExitCode;

fn main() -> ExitCode {
    flotilla_server::cli::main()
}

//! What people type to get this program, for the commands that its messages name.

use std::sync::OnceLock;

static NAME: OnceLock<String> = OnceLock::new();

/// `flotilla-agent`, or what a program that has the agent in it said first.
pub(crate) fn name() -> &'static str {
    NAME.get().map_or("flotilla-agent", String::as_str)
}

/// Another program takes these arguments to become the agent.
pub(crate) fn within(program: &str, arguments: &[String]) {
    if !arguments.is_empty() {
        // The first one holds.
        let _ = NAME.set(format!("{program} {}", arguments.join(" ")));
    }
}

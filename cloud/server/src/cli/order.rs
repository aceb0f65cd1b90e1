//! Commands for a device: asks, waits, and prints what became of it.

use super::args::{Order, Target};
use super::client::Client;
use super::commands::{Done, Out, encode};
use super::exit::Failure;
use super::table;
use crate::http::api::{CommandRequest, CommandView};
use flotilla_identity::now_ms;
use flotilla_protocol::ErrorCode;
use serde::Serialize;
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(300);

/// A request of this kind within its deadline.
pub(super) fn request(kind: &str, order: &Order) -> CommandRequest {
    CommandRequest {
        kind: kind.to_owned(),
        model: None,
        level: None,
        from_ms: None,
        to_ms: None,
        max_bytes: None,
        deadline_s: order.deadline,
    }
}

impl Order {
    pub(super) fn target(&self) -> &Target {
        &self.target
    }
}

/// Asks, and waits for the end unless it is not to.
pub(super) fn ask(
    client: &Client,
    id: &str,
    order: &Order,
    request: &CommandRequest,
) -> Result<CommandView, Failure> {
    let view = client.post(&format!("/api/v1/devices/{id}/commands"), request)?;
    follow(client, id, order, view)
}

/// Waits for the end of a command unless it is not to.
pub(super) fn follow(
    client: &Client,
    id: &str,
    order: &Order,
    mut view: CommandView,
) -> Result<CommandView, Failure> {
    let path = format!("/api/v1/devices/{id}/commands");
    let deadline = Instant::now().checked_add(Duration::from_secs(order.wait));
    while !order.detach && !view.is_over() {
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            let detail = format!(
                "{} did not end {} within {} s; it stays asked until its deadline, and `flotilla device commands {}` shows what becomes of it",
                order.id, view.kind, order.wait, order.id
            );
            return Err(Failure::new(ErrorCode::Timeout, detail));
        }
        std::thread::sleep(POLL);
        let all: Vec<CommandView> = client.get(&path)?;
        let number = view.number;
        let gone = || Failure::new(ErrorCode::NotFound, "the command is no longer on record");
        view = all.into_iter().find(|one| one.number == number).ok_or_else(gone)?;
    }
    Ok(view)
}

/// What the device could not do is the command's failure.
pub(super) fn verdict(id: &str, view: &CommandView) -> Result<(), Failure> {
    match &view.failure {
        Some(failure) => {
            let detail = format!("{} on {id}: {}", view.kind, failure.detail);
            Err(Failure::new(ErrorCode::from_text(&failure.code), detail))
        }
        None => Ok(()),
    }
}

/// Prints commands for people.
pub(super) fn print(all: &[CommandView]) {
    let row = |view: &CommandView| {
        let failure = view.failure.as_ref().map(|f| format!("{} [{}]", f.detail, f.code));
        vec![
            view.number.to_string(),
            view.kind.clone(),
            view.subject.clone().unwrap_or_default(),
            view.state.clone(),
            view.by.clone(),
            failure.unwrap_or_default(),
        ]
    };
    let rows: Vec<_> = all.iter().map(row).collect();
    table::print(&["number", "kind", "of", "state", "asked by", "why"], &rows);
}

/// Prints what a device measured.
pub(super) fn print_measured(view: &CommandView) {
    let Some(measured) = &view.measured else { return print(std::slice::from_ref(view)) };
    println!(
        "p50 {:.3} ms, p95 {:.3} ms, {:.1} MiB of memory at most, on {} inputs",
        measured.p50_ms,
        measured.p95_ms,
        measured.peak_bytes as f64 / f64::from(1 << 20),
        measured.vectors
    );
    println!(
        "scores differ from the control plane's by {} at most; their digest is {}",
        measured.max_error, measured.outputs
    );
}

/// What `flotilla device logs -o json` prints.
#[derive(Serialize)]
struct Log {
    command: CommandView,
    /// The lines; none before the command is done.
    text: Option<String>,
}

/// A question for the log of a span of time, by this machine's clock.
pub(super) fn of_log(
    request: CommandRequest,
    since: Option<Duration>,
    until: Option<Duration>,
    max_bytes: u32,
) -> CommandRequest {
    let now_ms = now_ms();
    let before = |ago: Duration| now_ms.saturating_sub(u64::try_from(ago.as_millis()).unwrap_or(u64::MAX));
    let (from_ms, to_ms) = (since.map(before), until.map(before));
    CommandRequest { from_ms, to_ms, max_bytes: Some(max_bytes), ..request }
}

/// Prints the lines that a command brought.
pub(super) fn show_log(client: &Client, asked: &Order, view: CommandView, out: &Out) -> Done {
    let text = match view.log_bytes {
        Some(_) => {
            let path = format!("/api/v1/devices/{}/commands/{}/log", encode(&asked.id), view.number);
            Some(table::printable(&String::from_utf8_lossy(&client.get_bytes(&path)?)))
        }
        None if view.state == "done" => Some(String::new()),
        None => None,
    };
    let log = Log { command: view, text };
    out.show(&log, |log| {
        match &log.text {
            Some(text) => print!("{text}"),
            None => print(std::slice::from_ref(&log.command)),
        }
        if let Some(left_out) = log.command.lines_left_out.filter(|lines| *lines > 0) {
            eprintln!("{left_out} older lines found no room: ask for more bytes, or for a shorter time");
        }
    })?;
    verdict(&asked.id, &log.command)
}

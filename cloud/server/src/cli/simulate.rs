//! `flotilla simulate`: a fleet of light devices against a running control plane.

use super::args::Simulate;
use super::exit::Failure;
use super::table;
use crate::progress::Progress;
use crate::signals::Termination;
use flotilla_protocol::ErrorCode;
use flotilla_simulator::figures::{Report, Snapshot};
use flotilla_simulator::{Error, Step};
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Without a terminal a line is printed so often.
const LINE: Duration = Duration::from_secs(10);

/// Runs it until it ends by itself, or Ctrl-C.
pub(super) fn run(arguments: Simulate, json: bool) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::new(ErrorCode::Internal, format!("the async runtime does not start: {e}")))?;
    let report = runtime.block_on(async {
        let stop = CancellationToken::new();
        let termination = Termination::listen().map_err(|e| Failure::new(ErrorCode::Internal, e))?;
        let stopping = stop.clone();
        tokio::spawn(async move {
            termination.wait().await;
            stopping.cancel();
        });
        let mut display = Display::new();
        let report = flotilla_simulator::run(arguments.options(), stop, |step| display.show(&step)).await;
        display.close();
        report.map_err(|error| Failure::new(error.code(), text(&error)))
    })?;
    if json {
        let line = serde_json::to_string(&report).map_err(|e| Failure::new(ErrorCode::Internal, e))?;
        println!("{line}");
    } else {
        print(&report);
    }
    Ok(())
}

fn text(error: &Error) -> String {
    crate::error_text::with_causes(error)
}

/// The live line on stderr: stdout stays free for the report.
struct Display {
    terminal: bool,
    enrolling: Option<Progress>,
    printed: Option<Instant>,
}

impl Display {
    fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), enrolling: None, printed: None }
    }

    fn show(&mut self, step: &Step<'_>) {
        match step {
            Step::Enrolled { done, of } => {
                let progress = self.enrolling.get_or_insert_with(|| {
                    let progress = Progress::new();
                    progress.stage("enrol", "devices");
                    progress
                });
                progress.update("enrol", *done as u64, Some(u64::from(*of)), "devices");
            }
            Step::Lives(snapshot) => self.lives(snapshot),
        }
    }

    fn lives(&mut self, snapshot: &Snapshot) {
        if self.enrolling.take().is_some() && self.terminal {
            eprintln!();
        }
        let due = self.terminal || self.printed.is_none_or(|at| at.elapsed() >= LINE);
        if !due {
            return;
        }
        self.printed = Some(Instant::now());
        let line = line(snapshot);
        if self.terminal {
            eprint!("\r\x1b[K{line}");
            // A terminal that cannot be written to is nobody's loss.
            let _ = std::io::stderr().flush();
        } else {
            eprintln!("{line}");
        }
    }

    fn close(&self) {
        if self.terminal {
            eprintln!();
        }
    }
}

fn line(snapshot: &Snapshot) -> String {
    let mut line =
        format!("{:7.1} s  {}/{} connected", snapshot.seconds, snapshot.connected, snapshot.devices);
    for release in &snapshot.releases {
        let short = release.release.get(..12).unwrap_or(&release.release);
        line += &format!("  {} {short}: {}/{} run it", release.model, release.running, release.wanted);
    }
    line += &counted("  ", &snapshot.under_way);
    line += &counted("  failures: ", &snapshot.failures);
    line + &counted("  connections lost: ", &snapshot.lost)
}

fn counted<N: std::fmt::Display>(title: &str, counts: &BTreeMap<&'static str, N>) -> String {
    if counts.is_empty() {
        return String::new();
    }
    let each: Vec<String> = counts.iter().map(|(name, count)| format!("{count} {name}")).collect();
    format!("{title}{}", each.join(", "))
}

fn print(report: &Report) {
    let (end, connect, traffic) = (&report.end, &report.connect, &report.traffic);
    println!("ended after {:.1} s ({})", end.seconds, report.ended);
    if report.enrolled > 0 {
        let rate = f64::from(report.enrolled) / report.enrol_s.max(0.001);
        println!("enrolled   {} devices in {:.1} s, {rate:.0} a second", report.enrolled, report.enrol_s);
    }
    println!(
        "connected  {} of {} at the end; {} had a session, the last after {:.1} s ({:.0} a second)",
        end.connected, end.devices, connect.devices, connect.seconds, connect.per_s
    );
    println!(
        "traffic    {} bytes in {} messages came, {} in {} went",
        traffic.received, traffic.messages_received, traffic.sent, traffic.messages_sent
    );
    for (title, counts) in [("failures   ", &end.failures), ("lost       ", &end.lost)] {
        if !counts.is_empty() {
            println!("{}", counted(title, counts));
        }
    }
    if end.releases.is_empty() {
        return;
    }
    let seconds = |s: Option<f64>| s.map_or_else(|| "-".to_owned(), |s| format!("{s:.1}"));
    let rows: Vec<Vec<String>> = end
        .releases
        .iter()
        .map(|release| {
            vec![
                release.model.clone(),
                release.release.get(..12).unwrap_or(&release.release).to_owned(),
                release.wanted.to_string(),
                release.running.to_string(),
                seconds(release.p50_s),
                seconds(release.p90_s),
                seconds(release.p99_s),
                seconds(release.seconds),
            ]
        })
        .collect();
    table::print(&["MODEL", "RELEASE", "WANTED", "RUN IT", "P50 s", "P90 s", "P99 s", "LAST s"], &rows);
}

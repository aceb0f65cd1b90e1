//! `flotilla device diagnose`: tells a device to examine itself, waits, and prints what it finds.

use super::client::Client;
use super::exit::Failure;
use crate::http::api::{DiagnosisAnswer, DiagnosisView, Json};
use flotilla_protocol::ErrorCode;
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(300);

/// Asks and waits at most `wait` for the answer.
pub(crate) fn ask(client: &Client, id: &str, wait: Duration) -> Result<DiagnosisView, Failure> {
    let deadline = Instant::now().checked_add(wait);
    let mut view: DiagnosisView = client.post(&format!("/api/v1/devices/{id}/diagnose"), &Json::Null)?;
    let Some(asked) = view.waiting else {
        return Err(Failure::new(ErrorCode::Internal, "the control plane did not pass the question on"));
    };
    while view.answer.as_ref().is_none_or(|answer| answer.number < asked) {
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            let link = if view.connected { "is connected" } else { "is offline" };
            let detail = format!(
                "{} {link} and did not answer within {} s; it stays asked, and `flotilla device diagnosis {id}` shows the answer when it comes",
                view.device,
                wait.as_secs()
            );
            return Err(Failure::new(ErrorCode::Timeout, detail));
        }
        std::thread::sleep(POLL);
        view = client.get(&format!("/api/v1/devices/{id}/diagnosis"))?;
    }
    Ok(view)
}

/// The last answer; it is an error if there is none.
pub(crate) fn last(client: &Client, id: &str) -> Result<DiagnosisView, Failure> {
    let view: DiagnosisView = client.get(&format!("/api/v1/devices/{id}/diagnosis"))?;
    if view.answer.is_none() {
        let detail = format!(
            "{} has not examined itself yet: ask it with `flotilla device diagnose {id}`",
            view.device
        );
        return Err(Failure::new(ErrorCode::NotFound, detail));
    }
    Ok(view)
}

/// Prints an answer for people.
pub(crate) fn print(view: &DiagnosisView) {
    let Some(answer) = &view.answer else { return };
    println!("device {}, agent {}", view.device, answer.agent);
    for finding in &answer.findings {
        let code = finding.code.as_ref().map(|code| format!(" [{code}]")).unwrap_or_default();
        println!("{:<5} {:<13} {}{code}", finding.verdict, finding.subject, finding.what);
        if !finding.remedy.is_empty() {
            println!("{:<5} {:<13} -> {}", "", "", finding.remedy);
        }
    }
    if answer.left_out > 0 {
        println!("{} more findings found no room", answer.left_out);
    }
}

/// What does not work on the device is the command's failure.
pub(crate) fn verdict(view: &DiagnosisView) -> Result<(), Failure> {
    let Some(DiagnosisAnswer { failure, findings, .. }) = &view.answer else { return Ok(()) };
    if let Some(failure) = failure {
        return Err(Failure::new(
            ErrorCode::from_text(&failure.code),
            format!("{} did not examine itself: {}", view.device, failure.detail),
        ));
    }
    match findings.iter().filter(|finding| finding.verdict == "fail").count() {
        0 => Ok(()),
        fails => {
            let detail =
                format!("{fails} checks fail on {}; what to do about each stands below it", view.device);
            Err(Failure::new(ErrorCode::WrongState, detail))
        }
    }
}

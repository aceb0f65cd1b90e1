//! The doctor: examines a device and says of each part how it is and what to do.
//!
//! [`gather`] reads, [`judge`] decides; the same for `flotilla-agent doctor` and for the control plane's command
//! `diagnostics`. It changes nothing, and works with or without an agent that runs on the folder. The broker is asked
//! to accept the device only where no agent runs: a second connection would end the agent's.

mod facts;
mod gather;
mod judge;
mod judge_models;
mod launcher;
mod link;
#[cfg(test)]
mod tests;

use crate::folder::Folder;
use flotilla_protocol::message::{Diagnosis, Verdict};

/// Examines the device in this folder, which exists.
pub async fn examine(folder: &Folder) -> Diagnosis {
    let facts = gather::gather(folder).await;
    let findings = judge::judge(&facts);
    let agent = env!("CARGO_PKG_VERSION").to_owned();
    Diagnosis { at_ms: facts.now_ms, agent, findings, left_out: 0 }.bounded()
}

/// The diagnosis for people: a line a finding, and under what is not well what to do.
pub fn text(diagnosis: &Diagnosis) -> String {
    let mut out = String::new();
    for finding in &diagnosis.findings {
        let code = finding.code.map(|code| format!(" [{code}]")).unwrap_or_default();
        let (verdict, subject) = (finding.verdict.as_str(), finding.subject.as_str());
        out += &format!("{verdict:<5} {subject:<13} {}{code}\n", finding.what);
        if !finding.remedy.is_empty() {
            out += &format!("{:<5} {:<13} -> {}\n", "", "", finding.remedy);
        }
    }
    if diagnosis.left_out > 0 {
        out += &format!("{} more findings have no room here\n", diagnosis.left_out);
    }
    let (fails, warns) = (diagnosis.count(Verdict::Fail), diagnosis.count(Verdict::Warn));
    out + &match (fails, warns) {
        (0, 0) => "everything is well\n".to_owned(),
        _ => format!("{fails} fail, {warns} warn\n"),
    }
}

//! `flotilla device history|decommission`: what ran on a device, and the end of its service.

use super::args::{DeviceDecommission, Target};
use super::commands::{Done, Out, client, encode};
use super::exit::Failure;
use super::{groups, table};
use crate::http::api::{DecommissionRequest, RanView};
use flotilla_protocol::ErrorCode;
use std::io::{BufRead, IsTerminal, Write};
use std::time::{Duration, SystemTime};

/// Devices that the question names; more are counted.
const NAMED: usize = 10;

/// What ran on a device.
pub(super) fn history(id: &str, target: &Target, out: &Out) -> Done {
    let path = format!("/api/v1/devices/{}/history", encode(id));
    let all: Vec<RanView> = client(target)?.get(&path)?;
    out.show(&all, |all| {
        let row = |ran: &RanView| {
            vec![
                when(ran.at_ms),
                ran.model.clone(),
                ran.release.get(..12).unwrap_or(&ran.release).to_owned(),
                ran.outcome.clone(),
                ran.code.clone().unwrap_or_default(),
                ran.rollout.clone().unwrap_or_default(),
            ]
        };
        let header = ["WHEN", "MODEL", "RELEASE", "OUTCOME", "WHY", "ROLLOUT"];
        table::print(&header, &all.iter().map(row).collect::<Vec<_>>());
    })
}

/// A moment, in UTC.
fn when(at_ms: u64) -> String {
    let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(at_ms));
    at.map(|at| humantime::format_rfc3339_seconds(at).to_string()).unwrap_or_default()
}

/// Takes devices out of service, after a question.
pub(super) fn decommission(asked: &DeviceDecommission, out: &Out) -> Done {
    if !asked.yes {
        confirm(&asked.ids)?;
    }
    let request = DecommissionRequest { devices: asked.ids.clone(), reason: asked.reason.clone() };
    groups::tag(client(&asked.target)?.post("/api/v1/device-decommission", &request)?, out)
}

/// Goes on with a yes only; where nobody can be asked, not at all.
fn confirm(ids: &[String]) -> Done {
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        let detail =
            "devices are taken out of service for good, and there is no terminal to ask on: say --yes";
        return Err(Failure::new(ErrorCode::InvalidInput, detail));
    }
    let named: Vec<String> = ids.iter().take(NAMED).map(|id| table::line(id)).collect();
    let more = ids.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    eprint!("take {}{more} out of service, for good? Type yes: ", named.join(", "));
    let mut answer = String::new();
    let read = std::io::stderr().flush().and_then(|()| std::io::stdin().lock().read_line(&mut answer));
    read.map_err(|e| Failure::new(ErrorCode::StorageIo, format!("the answer cannot be read: {e}")))?;
    match answer.trim() {
        "yes" => Ok(()),
        _ => Err(Failure::new(ErrorCode::Cancelled, "nothing was changed")),
    }
}

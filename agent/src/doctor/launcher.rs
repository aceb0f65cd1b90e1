//! What the launcher starts: its journal, the update journal of the agent's own releases, and the binaries in their slots.

use super::facts::{Facts, Launcher, Problem, Read};
use super::judge::{fail, ok, warn};
use crate::folder::{AGENT, AGENT_JOURNAL, Folder};
use flotilla_device::launch::Binary;
use flotilla_device::update::UpdateJournal;
use flotilla_protocol::ErrorCode;
use flotilla_protocol::limits;
use flotilla_protocol::message::{Finding, Subject};
use std::path::Path;

const JOURNAL: usize = 64 * limits::KIB;

/// Everything in `agent/`; `None` where no launcher was ever used.
pub(super) fn gather(folder: &Folder) -> Option<Launcher> {
    if !folder.path(AGENT).is_dir() {
        return None;
    }
    let (journal, damage) = folder.launch_file().read();
    let candidate = journal.candidate.as_ref().map(|trial| &trial.binary);
    let named =
        [("confirmed", journal.confirmed.as_ref()), ("spare", journal.spare.as_ref()), ("new", candidate)];
    let examined = |(role, binary): (&'static str, Option<&Binary>)| {
        let binary = binary?;
        Some((role, binary.clone(), examine(folder, binary)))
    };
    let binaries = named.into_iter().filter_map(examined).collect();
    let given_up = journal.given_up.map(|given_up| (given_up.release, given_up.detail));
    Some(Launcher { damage, update: update_journal(folder), binaries, given_up })
}

fn update_journal(folder: &Folder) -> Read<()> {
    match folder.disk().read(AGENT_JOURNAL.as_ref(), JOURNAL)? {
        Some(bytes) => UpdateJournal::from_bytes(&bytes).map(drop).map_err(|e| Problem::new(e.code(), e)),
        None => Ok(()),
    }
}

/// Whether the binary is what the manifest beside it says.
fn examine(folder: &Folder, binary: &Binary) -> Read<()> {
    let slot = folder.agent_slot(binary.slot);
    let manifest = slot.manifest(binary.release).map_err(|fault| Problem::new(fault.code, fault.detail))?;
    let file = Path::new(&binary.file).file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let entry = manifest.files.iter().find(|entry| entry.name == file);
    let foreign = || Problem::new(ErrorCode::StorageCorrupt, "its release does not name the binary");
    let checked = slot.check_file(entry.ok_or_else(foreign)?);
    checked.map_err(|fault| Problem::new(fault.code, fault.detail))
}

/// Judges it.
pub(super) fn judge(facts: &Facts, out: &mut Vec<Finding>) {
    use Subject::Agent as S;
    let Some(launcher) = &facts.launcher else { return };
    let before = out.len();
    if let Some(damage) = &launcher.damage {
        let remedy = "restart flotilla-launcher: it goes on with the other copy or, if both are damaged, with the \
                      installed agent; then check the disk";
        out.push(warn(S, ErrorCode::StorageCorrupt, damage, remedy));
    }
    if let Err(problem) = &launcher.update {
        let what = format!("{AGENT_JOURNAL}: {}", problem.text);
        let remedy =
            "restart flotilla-launcher: the agent takes this journal anew from the one of the launcher";
        out.push(fail(S, problem.code, what, remedy));
    }
    for (role, binary, state) in &launcher.binaries {
        let Err(problem) = state else { continue };
        let (version, slot) = (&binary.version, binary.slot.as_str());
        let what = format!("the {role} agent {version} in slot {slot}: {}", problem.text);
        let remedy = "restart flotilla-launcher with the control plane in reach: it starts an agent that is whole, which \
                      fetches the damaged one anew";
        out.push(fail(S, problem.code, what, remedy));
    }
    if let Some((release, detail)) = &launcher.given_up {
        let what = format!("release {} of the agent was given up: {detail}", release.short());
        let remedy = "the agent from before goes on; roll out a corrected release";
        out.push(warn(S, ErrorCode::WrongState, what, remedy));
    }
    if out.len() == before {
        let confirmed = launcher.binaries.iter().find(|(role, ..)| *role == "confirmed");
        out.push(ok(
            S,
            match confirmed {
                Some((_, binary, _)) => {
                    format!(
                        "flotilla-launcher starts agent {} from slot {}",
                        binary.version,
                        binary.slot.as_str()
                    )
                }
                None => "flotilla-launcher starts the installed agent".to_owned(),
            },
        ));
    }
}

//! What the facts mean, and what to do about them: journals, slots, the desired document and the outbox.

use super::facts::{Agent, Facts, ModelFacts, SlotFacts};
use super::judge::{fail, ok, warn};
use flotilla_device::update::{Step, UpdateJournal};
use flotilla_protocol::message::{Finding, SlotName, Subject};
use flotilla_protocol::{ErrorCode, ModelName, ReleaseManifest, limits};
use std::collections::BTreeMap;

const RESTART: &str = "restart the agent with the control plane in reach: it fetches what is damaged anew";
/// sled writes more than it holds.
const OUTBOX_FILES: u64 = 8 * limits::OUTBOX as u64;

/// What a slot is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    /// It holds the release that works.
    Confirmed,
    /// It holds a complete candidate.
    Candidate,
    /// It is being filled.
    Filling,
    /// It holds what served before.
    Earlier,
}

fn use_of(journal: Option<&UpdateJournal>, slot: SlotName) -> Use {
    let Some(journal) = journal else { return Use::Earlier };
    if journal.confirmed.as_ref().is_some_and(|confirmed| confirmed.slot == slot) {
        return Use::Confirmed;
    }
    match journal.candidate.as_ref().filter(|candidate| candidate.slot == slot) {
        Some(candidate) if candidate.step == Step::Filling => Use::Filling,
        Some(_) => Use::Candidate,
        None => Use::Earlier,
    }
}

fn journal_of(model: &ModelFacts) -> Option<&UpdateJournal> {
    model.journal.as_ref().ok().and_then(Option::as_ref)
}

/// The manifests of the releases that serve or are to serve.
pub(super) fn in_use(
    models: &BTreeMap<ModelName, ModelFacts>,
) -> impl Iterator<Item = (&ModelName, &ReleaseManifest)> {
    models.iter().flat_map(|(name, model)| {
        let used = |slot| matches!(use_of(journal_of(model), slot), Use::Confirmed | Use::Candidate);
        model
            .slots
            .iter()
            .filter(move |(slot, _)| used(**slot))
            .filter_map(move |(_, facts)| Some((name, &*facts.release.as_ref().ok()?.1)))
    })
}

pub(super) fn journals(facts: &Facts, out: &mut Vec<Finding>) {
    use Subject::Journal as S;
    let models = match &facts.models {
        Ok(models) => models,
        Err(problem) => {
            return out.push(fail(
                S,
                problem.code,
                &problem.text,
                "check the disk and the folder's permissions",
            ));
        }
    };
    let before = out.len();
    let mut good = 0;
    for (name, model) in models {
        match &model.journal {
            Ok(Some(journal)) => {
                good += 1;
                if let Some(failed) = &journal.failed {
                    let what =
                        format!("{name}: release {} failed: {}", failed.release.short(), failed.detail);
                    let remedy = "the device stays with its confirmed release; roll out a corrected release, or the same one again once the cause is gone";
                    out.push(warn(S, failed.code, what, remedy));
                }
            }
            Ok(None) if model.slots.is_empty() => {}
            Ok(None) => {
                let what = format!("{name}: there are files of a release, but no journal");
                out.push(warn(S, ErrorCode::NotFound, what, RESTART));
            }
            Err(problem) => {
                let what = format!("{name}: {}", problem.text);
                let remedy = "restart the agent: it takes a whole release from the slots and proves it again";
                out.push(fail(S, problem.code, what, remedy));
            }
        }
    }
    if out.len() == before {
        out.push(ok(
            S,
            match good {
                0 => "no model is installed".to_owned(),
                1 => "1 is whole".to_owned(),
                n => format!("{n} are whole"),
            },
        ));
    }
}

pub(super) fn slots(facts: &Facts, out: &mut Vec<Finding>) {
    let Ok(models) = &facts.models else { return };
    let before = out.len();
    let (mut releases, mut files) = (0, 0);
    for (name, model) in models {
        for (slot, held) in &model.slots {
            let of = use_of(journal_of(model), *slot);
            if of == Use::Filling {
                continue;
            }
            match slot_finding(name, *slot, held, of) {
                Some(finding) => out.push(finding),
                None => {
                    releases += 1;
                    files += held.good_files;
                }
            }
        }
        confirmed_is_there(name, model, out);
    }
    if out.len() == before {
        out.push(ok(Subject::Slots, format!("{files} files of {releases} releases have their digests")));
    }
}

fn slot_finding(name: &ModelName, slot: SlotName, held: &SlotFacts, of: Use) -> Option<Finding> {
    let (code, problem) = match (&held.release, held.bad_files.first()) {
        (Err(problem), _) => (problem.code, problem.text.clone()),
        (Ok(_), Some((file, problem))) => {
            let more = match held.bad_files.len() {
                1 => String::new(),
                n => format!(", and {} more", n - 1),
            };
            (problem.code, format!("{file}: {}{more}", problem.text))
        }
        (Ok(_), None) => return None,
    };
    let what = |which: &str| format!("{name}, slot {}, {which}: {problem}", slot.as_str());
    Some(match of {
        Use::Confirmed => fail(Subject::Slots, code, what("the confirmed release"), RESTART),
        Use::Candidate => warn(Subject::Slots, code, what("the candidate"), RESTART),
        Use::Earlier | Use::Filling => warn(
            Subject::Slots,
            code,
            what("an earlier release"),
            "nothing: it is not used, and replaced by the next update",
        ),
    })
}

/// The journal names a slot and a release: they must be there.
fn confirmed_is_there(name: &ModelName, model: &ModelFacts, out: &mut Vec<Finding>) {
    let Some(confirmed) = journal_of(model).and_then(|journal| journal.confirmed.as_ref()) else { return };
    let slot = confirmed.slot;
    let what = match model.slots.get(&slot).map(|held| &held.release) {
        None => format!("{name}: slot {} with the confirmed release is empty", slot.as_str()),
        Some(Ok((digest, _))) if *digest != confirmed.release => {
            format!("{name}: slot {} holds another release than the confirmed one", slot.as_str())
        }
        Some(_) => return,
    };
    out.push(fail(Subject::Slots, ErrorCode::StorageCorrupt, what, RESTART));
}

pub(super) fn desired(facts: &Facts, out: &mut Vec<Finding>) {
    use Subject::Desired as S;
    let before = out.len();
    for what in &facts.small.damage {
        let remedy = "nothing: it is written anew; if it comes again, check the disk";
        out.push(warn(S, ErrorCode::StorageCorrupt, format!("a small file is damaged: {what}"), remedy));
    }
    let resend = "nothing while the control plane is in reach: it sends the document again";
    let document = match &facts.desired {
        Ok(document) => document.as_ref(),
        Err(problem) => {
            return out.push(warn(S, problem.code, format!("desired.cbor: {}", problem.text), resend));
        }
    };
    if let (Some(document), Ok(Some(names))) = (document, &facts.identity.names)
        && (document.project != names.project || document.device != names.device.as_str())
    {
        let what = format!("desired.cbor is for {}/{}", document.project, document.device);
        out.push(warn(S, ErrorCode::WrongProject, what, resend));
    }
    if let Some(document) = document.filter(|document| document.version < facts.small.accepted) {
        let what = format!("version {} is stored, {} was accepted", document.version, facts.small.accepted);
        out.push(warn(S, ErrorCode::Replayed, what, resend));
    }
    if out.len() == before {
        out.push(ok(
            S,
            match document {
                Some(document) => {
                    format!("version {}, {} models wanted", document.version, document.models.len())
                }
                None => "none has come yet".to_owned(),
            },
        ));
    }
}

pub(super) fn outbox(facts: &Facts, out: &mut Vec<Finding>) {
    use Subject::Outbox as S;
    let outbox = &facts.outbox;
    let before = out.len();
    let running = match &facts.agent {
        Agent::Runs(running) => Some(running),
        Agent::Stopped | Agent::Gone | Agent::Silent => None,
    };
    if let Some(problem) = &outbox.problem {
        let remedy = "check the disk; an outbox that cannot be read is thrown away when the agent starts";
        out.push(fail(S, problem.code, &problem.text, remedy));
    }
    if outbox.opening && running.is_none() {
        let what = "the agent ended while it opened the outbox";
        let remedy =
            "start the agent; should that end it again and again, it throws this outbox away and says so";
        out.push(warn(S, ErrorCode::StorageCorrupt, what, remedy));
    }
    if outbox.bytes > OUTBOX_FILES {
        let what = format!("its files take {} MiB", outbox.bytes / limits::MIB as u64);
        out.push(warn(S, ErrorCode::TooLarge, what, "restart the agent, which tidies it up"));
    }
    if let Some(running) = running {
        if running.records_lost > 0 {
            let what = format!("{} records were lost since the agent's start", running.records_lost);
            let remedy = "see to the disk; the agent's log says why";
            out.push(warn(S, ErrorCode::StorageIo, what, remedy));
        } else if running.records_waiting.is_none() {
            let what = "records are not kept: the outbox could not be opened";
            out.push(fail(S, ErrorCode::StorageIo, what, "see to the disk, then restart the agent"));
        }
    }
    if out.len() == before {
        let what = match running.and_then(|running| running.records_waiting) {
            Some(waiting) => format!("{waiting} records wait for the control plane"),
            None if outbox.exists => format!("{} KiB on the disk", outbox.bytes / 1024),
            None => "empty".to_owned(),
        };
        out.push(ok(S, what));
    }
}

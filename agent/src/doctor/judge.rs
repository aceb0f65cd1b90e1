//! What the facts mean, and what to do about them: who the device is, its clock, disk, link and hardware.

use super::facts::{Agent, CertificateFacts, Facts, Link, NotSafe, Problem};
use super::{judge_models, launcher};
use crate::program;
use flotilla_protocol::ErrorCode;
use flotilla_protocol::limits::MIB;
use flotilla_protocol::manifest::ENGINE_TRACT;
use flotilla_protocol::message::{Finding, NpuHealth, NpuSample, Subject, Verdict};

const DAY_MS: u64 = 24 * 3_600 * 1_000;
/// A certificate with fewer days left than this is to be renewed.
pub(super) const RENEW_DAYS: u64 = 30;
/// A clock that is so far from the control plane's is worth a word.
pub(super) const SKEW_MS: u64 = 5 * 60 * 1_000;
/// The clock may be a little behind a proof of time that another clock gave.
const TOLERANCE_MS: u64 = 60 * 1_000;
/// Below this, not even a journal can be relied on to be written.
pub(super) const DISK_LEAST: u64 = 4 * MIB as u64;
/// Files that can still be made, below which updates will fail.
const FILES_LEAST: u64 = 64;
/// Share of memory that is still available, below which a model may not load, in percent.
const MEMORY_LEAST: u64 = 5;

const PUT_BACK: &str = "start the agent anew: it puts the file back from its copy";
const ENROL_ANEW: &str = "stop the agent, move the folder `identity` and trust.cbor away and enrol this device anew with a new claim code";

/// Judges everything.
pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let mut out = Vec::new();
    agent(facts, &mut out);
    launcher::judge(facts, &mut out);
    certificates(facts, &mut out);
    trust(facts, &mut out);
    clock(facts, &mut out);
    disk(facts, &mut out);
    link(facts, &mut out);
    board(facts, &mut out);
    judge_models::journals(facts, &mut out);
    judge_models::slots(facts, &mut out);
    judge_models::desired(facts, &mut out);
    judge_models::outbox(facts, &mut out);
    out
}

pub(super) fn ok(subject: Subject, what: impl Into<String>) -> Finding {
    Finding { subject, verdict: Verdict::Ok, code: None, what: what.into(), remedy: String::new() }
}

pub(super) fn warn(
    subject: Subject,
    code: ErrorCode,
    what: impl Into<String>,
    remedy: impl Into<String>,
) -> Finding {
    Finding { subject, verdict: Verdict::Warn, code: Some(code), what: what.into(), remedy: remedy.into() }
}

pub(super) fn fail(
    subject: Subject,
    code: ErrorCode,
    what: impl Into<String>,
    remedy: impl Into<String>,
) -> Finding {
    Finding { subject, verdict: Verdict::Fail, code: Some(code), what: what.into(), remedy: remedy.into() }
}

fn broken(subject: Subject, problem: &Problem, remedy: &str) -> Finding {
    fail(subject, problem.code, &problem.text, remedy)
}

fn agent(facts: &Facts, out: &mut Vec<Finding>) {
    let dir = facts.root.display();
    let start = match &facts.launcher {
        Some(_) => format!("`flotilla-launcher --dir {dir}`, or its service"),
        None => format!("`{} run --dir {dir}`, or its service", program::name()),
    };
    out.push(match &facts.agent {
        Agent::Runs(running) if running.serving.is_empty() => {
            ok(Subject::Agent, "it runs; no model serves yet")
        }
        Agent::Runs(running) => {
            ok(Subject::Agent, format!("it runs and serves {}", running.serving.join(", ")))
        }
        Agent::Stopped => warn(
            Subject::Agent,
            ErrorCode::WrongState,
            "no agent runs on this folder",
            format!("start it with {start}"),
        ),
        Agent::Gone => warn(
            Subject::Agent,
            ErrorCode::WrongState,
            "an agent ran on this folder and ended without taking leave",
            format!("look at its log, then start it again with {start}"),
        ),
        Agent::Silent => warn(
            Subject::Agent,
            ErrorCode::WrongState,
            "an agent holds this folder and does not answer: it starts, hangs, or cannot write down its address",
            format!("wait a minute; then look at its log and at the disk, stop it, and start it with {start}"),
        ),
    });
    if let Agent::Runs(running) = &facts.agent {
        for (feed, problem) in &running.feeds {
            let remedy = "check what it names, and its entry in agent.toml; it is tried again by itself";
            out.push(warn(Subject::Agent, problem.code, format!("{feed}: {}", problem.text), remedy));
        }
    }
    if let Err(problem) = &facts.config {
        out.push(broken(
            Subject::Agent,
            problem,
            &format!(
                "correct agent.toml; `{} config` prints one with every setting and its meaning",
                program::name()
            ),
        ));
    }
}

// === who the device is ===

fn certificates(facts: &Facts, out: &mut Vec<Finding>) {
    use Subject::Certificates as S;
    let identity = &facts.identity;
    let names = match &identity.names {
        Ok(Some(names)) => names,
        Ok(None) => {
            let remedy = format!(
                "make a claim code with `flotilla device claim FILE`, then run `{} enrol --claim FILE --dir {}`",
                program::name(),
                facts.root.display()
            );
            return out.push(fail(S, ErrorCode::WrongState, "this folder is not enrolled", remedy));
        }
        Err(problem) => return out.push(broken(S, problem, mend(facts))),
    };
    let before = out.len();
    for problem in [
        identity.key.as_ref().err(),
        identity.certificate.as_ref().err(),
        identity.ca.as_ref().err(),
        identity.chain.as_ref().err(),
    ]
    .into_iter()
    .flatten()
    {
        let what = if problem.code == ErrorCode::CaMismatch {
            format!("the device's certificate does not lead to the stored CA: {}", problem.text)
        } else {
            problem.text.clone()
        };
        out.push(fail(S, problem.code, what, mend(facts)));
    }
    if let (Ok(key), Ok(certificate)) = (&identity.key, &identity.certificate) {
        if key.public != certificate.public {
            let what = "key and certificate do not belong together";
            out.push(fail(S, ErrorCode::StorageCorrupt, what, mend(facts)));
        }
        if key.mode & 0o077 != 0 {
            let what = format!("the private key can be read by others (mode {:o})", key.mode);
            let remedy = format!("run `chmod 600 {}`", facts.root.join("identity/key.pem").display());
            out.push(warn(S, ErrorCode::PermissionDenied, what, remedy));
        }
    }
    if let Ok(certificate) = &identity.certificate {
        let expected = format!("flotilla:{}/{}", names.project, names.device);
        if let Some(uri) = certificate.uri.as_ref().filter(|uri| **uri != expected) {
            let what = format!("the certificate is of {uri}, device.json says {expected}");
            out.push(fail(S, ErrorCode::WrongProject, what, mend(facts)));
        }
        validity("the device's certificate", certificate, facts, out);
    }
    if let Ok(ca) = &identity.ca {
        validity("the CA", ca, facts, out);
    }
    if out.len() == before {
        let days =
            identity.certificate.as_ref().map_or(0, |c| c.not_after_ms.saturating_sub(now(facts)) / DAY_MS);
        let what =
            format!("device {} of project {}, valid for {days} more days", names.device, names.project);
        out.push(ok(S, what));
    }
}

fn validity(of: &str, certificate: &CertificateFacts, facts: &Facts, out: &mut Vec<Finding>) {
    use Subject::Certificates as S;
    let now = now(facts);
    if certificate.not_after_ms <= now {
        let days = (now - certificate.not_after_ms) / DAY_MS;
        let remedy = "check the clock first; if it is right, the certificate has to be renewed with the control plane's approval, or enrol this device anew";
        out.push(fail(S, ErrorCode::Expired, format!("{of} expired {days} days ago"), remedy));
    } else if certificate.not_after_ms - now < RENEW_DAYS * DAY_MS {
        let days = (certificate.not_after_ms - now) / DAY_MS;
        let remedy = "keep the device connected so that it can renew it; if it stays, enrol this device anew before it expires";
        out.push(warn(S, ErrorCode::Expired, format!("{of} is valid for {days} more days only"), remedy));
    } else if certificate.not_before_ms > now.saturating_add(TOLERANCE_MS) {
        let days = (certificate.not_before_ms - now) / DAY_MS;
        let remedy = "set the clock of this device";
        out.push(fail(S, ErrorCode::Expired, format!("{of} is valid only from {days} days ahead"), remedy));
    }
}

/// The trusted time: the clock, but not before what is proved.
fn now(facts: &Facts) -> u64 {
    facts.now_ms.max(proof(facts))
}

/// The latest moment of which there is proof.
fn proof(facts: &Facts) -> u64 {
    let trust = facts.trust.as_ref().map_or(0, |trust| trust.issued_at_ms);
    let desired =
        facts.desired.as_ref().ok().and_then(Option::as_ref).map_or(0, |desired| desired.issued_at_ms);
    [facts.build_ms, facts.small.proof_ms, trust, desired].into_iter().max().unwrap_or(0)
}

/// What to do about a damaged identity.
fn mend(facts: &Facts) -> &'static str {
    if facts.identity.has_copy { PUT_BACK } else { ENROL_ANEW }
}

fn trust(facts: &Facts, out: &mut Vec<Finding>) {
    if let Some(problem) = &facts.trust_copy {
        let what = format!("one of two copies cannot be used: {}", problem.text);
        out.push(warn(Subject::Trust, problem.code, what, PUT_BACK));
    }
    match &facts.trust {
        Ok(trust) => {
            let floors = match trust.floors.len() {
                0 => "no floors".to_owned(),
                n => format!("floors for {n} models"),
            };
            out.push(ok(Subject::Trust, format!("version {}, {floors}", trust.version)));
        }
        // Without an identity that is said already.
        Err(_) if !matches!(facts.identity.names, Ok(Some(_))) => {}
        Err(problem) => out.push(broken(Subject::Trust, problem, ENROL_ANEW)),
    }
}

// === the box ===

fn clock(facts: &Facts, out: &mut Vec<Finding>) {
    use Subject::Clock as S;
    let set = "set the clock: start a time service (chrony, systemd-timesyncd), and check the battery of the hardware clock";
    let behind = proof(facts).saturating_sub(facts.now_ms);
    let ahead = match &facts.agent {
        Agent::Runs(running) => running.clock_ahead_ms,
        _ => None,
    };
    if behind > TOLERANCE_MS {
        let what = if facts.now_ms + TOLERANCE_MS < facts.build_ms {
            format!(
                "the clock is {} behind the build time of this agent",
                duration(facts.build_ms - facts.now_ms)
            )
        } else {
            format!("the clock is {} behind the latest signed document", duration(behind))
        };
        let what = format!("{what}; expiry is checked against the later time");
        return out.push(fail(S, ErrorCode::WrongState, what, set));
    }
    match ahead {
        Some(ms) if ms.unsigned_abs() > SKEW_MS => {
            let side = if ms > 0 { "ahead of" } else { "behind" };
            let what = format!("the clock is {} {side} the control plane's", duration(ms.unsigned_abs()));
            out.push(warn(S, ErrorCode::WrongState, what, set));
        }
        Some(ms) => {
            let what = format!("within {} s of the control plane's", ms.unsigned_abs().div_ceil(1_000));
            out.push(ok(S, what));
        }
        None => out.push(ok(S, "not behind any time that is proved; the control plane's is not known here")),
    }
}

/// A time span for people.
fn duration(ms: u64) -> String {
    match ms / 1_000 {
        s if s < 120 => format!("{s} s"),
        s if s < 7_200 => format!("{} min", s / 60),
        s if s < 172_800 => format!("{} h", s / 3_600),
        s => format!("{} days", s / 86_400),
    }
}

fn size(bytes: u64) -> String {
    format!("{} MiB", bytes / MIB as u64)
}

fn disk(facts: &Facts, out: &mut Vec<Finding>) {
    use Subject::Disk as S;
    let disk = match &facts.disk {
        Ok(disk) => disk,
        Err(problem) => {
            return out.push(broken(
                S,
                problem,
                "check that the disk is mounted, and its cabling and health",
            ));
        }
    };
    let before = out.len();
    if disk.read_only {
        let remedy = "the system may have made it read-only after an error: look at the kernel's log, check the disk, then mount it writable";
        out.push(fail(S, ErrorCode::StorageReadOnly, "the disk is read-only", remedy));
    } else if let Some(path) = disk.not_writable.first() {
        let what = format!("{} may not be written by this user", path.display());
        let remedy = "give the folder, with all that is in it, to the user that the agent runs as";
        out.push(fail(S, ErrorCode::StorageReadOnly, what, remedy));
    }
    let reserve = facts.config.as_ref().map_or(0, |config| config.disk_reserve_bytes);
    let free = disk.free_bytes;
    let remedy = "free some room on this disk; the reserve is disk_reserve_bytes in agent.toml";
    if free < DISK_LEAST {
        let what = format!(
            "{} of {} are free: even journals may not be written",
            size(free),
            size(disk.total_bytes)
        );
        out.push(fail(S, ErrorCode::StorageFull, what, remedy));
    } else if free < reserve {
        let what = format!(
            "{} are free, less than the reserve of {}: no release can be downloaded",
            size(free),
            size(reserve)
        );
        out.push(fail(S, ErrorCode::NoRoom, what, remedy));
    } else if free < reserve.saturating_mul(2) {
        let what = format!(
            "{} are free, {} of them stay free: only small releases find room",
            size(free),
            size(reserve)
        );
        out.push(warn(S, ErrorCode::NoRoom, what, remedy));
    }
    if disk.free_files.is_some_and(|files| files < FILES_LEAST) {
        let what = format!("only {} more files can be made on this disk", disk.free_files.unwrap_or(0));
        out.push(fail(S, ErrorCode::StorageFull, what, "remove files that nobody needs from this disk"));
    }
    if out.len() == before {
        out.push(ok(S, format!("{} of {} are free, writable", size(free), size(disk.total_bytes))));
    }
}

fn link(facts: &Facts, out: &mut Vec<Finding>) {
    use Subject::Link as S;
    let running = match &facts.agent {
        Agent::Runs(running) => Some(running),
        Agent::Stopped | Agent::Gone | Agent::Silent => None,
    };
    out.push(match &facts.link {
        Link::NotTried => warn(
            S,
            ErrorCode::WrongState,
            "not tried: without a usable identity there is nobody to connect to",
            "see to the certificates first",
        ),
        Link::Unresolved { address, problem } => fail(
            S,
            ErrorCode::Network,
            format!("the name in {address} cannot be resolved: {problem}"),
            "check the network cable or radio, and the name servers of this device; or the control plane's name has changed: enrol anew",
        ),
        Link::Unreachable { address, problem } => fail(
            S,
            ErrorCode::Network,
            format!("{address} cannot be reached: {problem}"),
            "check that the control plane runs there (`flotilla up --mqtt`), and that firewalls on the way let TCP out to this port",
        ),
        Link::NotSafe { address, cause, problem } => {
            let (code, remedy) = match cause {
                NotSafe::OtherCa => (
                    ErrorCode::CaMismatch,
                    "another server, or somebody in between, answers there: check the address and the way; if the control plane was set up anew, enrol this device anew",
                ),
                NotSafe::Time => (ErrorCode::Tls, "check the clock of this device and that of the control plane"),
                NotSafe::Name => (
                    ErrorCode::Tls,
                    "start the control plane with `--name` and the name or address under which this device reaches it",
                ),
                NotSafe::Certificate => (
                    ErrorCode::Tls,
                    "the control plane does not accept this device's certificate: it has expired, or is of another control plane; renew it or enrol anew",
                ),
                NotSafe::Other => (ErrorCode::Tls, "check that it is the MQTT port of the control plane that answers there"),
            };
            fail(S, code, format!("no safe connection to {address}: {problem}"), remedy)
        }
        Link::Refused { address, problem } => fail(
            S,
            ErrorCode::PermissionDenied,
            format!("{address} refuses this device: {problem}"),
            "the device may be revoked: look with `flotilla device list`; a revoked device has to be enrolled anew",
        ),
        Link::Silent { address } => fail(
            S,
            ErrorCode::Timeout,
            format!("{address} is reachable, but the broker does not answer"),
            "look at the log of the control plane; it may be overloaded or stopping",
        ),
        Link::Open { address, .. } if running.is_some_and(|running| !running.connected) => {
            let problem = running.and_then(|running| running.problem.as_ref());
            let code = problem.map_or(ErrorCode::Network, |problem| problem.code);
            let why = problem.map_or("it is connecting", |problem| problem.text.as_str());
            let what = format!("{address} is reachable, but the agent is not connected: {why}");
            let remedy = match code {
                ErrorCode::PermissionDenied => {
                    "the device may be revoked: look with `flotilla device list`; a revoked device has to be enrolled anew"
                }
                _ => "wait for its next try (5 minutes at most); if it stays, look at the agent's log",
            };
            warn(S, code, what, remedy)
        }
        Link::Open { address, asked: true } => ok(S, format!("{address} accepts this device")),
        Link::Open { address, asked: false } if running.is_some() => ok(S, format!("connected to {address}")),
        Link::Open { address, asked: false } => ok(S, format!("{address} is reachable and is the control plane")),
    });
}

fn board(facts: &Facts, out: &mut Vec<Finding>) {
    use Subject::Board as S;
    let before = out.len();
    let memory = facts.memory;
    if let (Ok(config), Ok(models)) = (&facts.config, &facts.models) {
        for (name, manifest) in judge_models::in_use(models) {
            if let Err(error) = manifest.variant_for(&config.board, ENGINE_TRACT) {
                let what = format!("board profile {}: {name}: {error}", config.board);
                let remedy = "correct `board` in agent.toml to the profile of this hardware, or roll out a release made for it";
                out.push(fail(S, ErrorCode::BoardMismatch, what, remedy));
            }
            if memory.total_bytes > 0 && manifest.constraints.memory_bytes > memory.total_bytes {
                let what = format!(
                    "{name} needs {} of memory, this device has {}",
                    size(manifest.constraints.memory_bytes),
                    size(memory.total_bytes)
                );
                out.push(fail(S, ErrorCode::NoRoom, what, "roll out a smaller release to this device"));
            }
        }
    }
    if let Some(available) = memory.available_bytes
        && memory.total_bytes > 0
        && available < memory.total_bytes / 100 * MEMORY_LEAST
    {
        let what = format!("{} of {} of memory are available", size(available), size(memory.total_bytes));
        let remedy = "stop programs that take memory; a candidate may be refused for want of it";
        out.push(warn(S, ErrorCode::NoRoom, what, remedy));
    }
    if let Some(file) = &facts.blind {
        let what =
            format!("temperature_file {} tells no temperature, so heat is not noticed", file.display());
        let remedy = "name a file in agent.toml that holds thousandths of a degree Celsius, as /sys/class/thermal/thermal_zone0/temp does";
        out.push(warn(S, ErrorCode::NotFound, what, remedy));
    }
    if out.len() == before
        && let Ok(config) = &facts.config
    {
        let memory = match memory.total_bytes {
            0 => "memory unknown".to_owned(),
            total => format!("{} of memory", size(total)),
        };
        out.push(ok(S, format!("profile {}, {}, {memory}", config.board, std::env::consts::ARCH)));
    }
    if let Ok(config) = &facts.config {
        let made_for = &config.profile.hardware.arch;
        if made_for != "any" && made_for != std::env::consts::ARCH {
            let what = format!(
                "profile {} is for {made_for}, this machine is {}",
                config.board,
                std::env::consts::ARCH
            );
            out.push(warn(
                S,
                ErrorCode::BoardMismatch,
                what,
                "correct `board` in agent.toml, or set it to \"auto\"",
            ));
        }
    }
    out.extend(facts.npus.iter().map(npu));
}

/// What an NPU says of itself. Some boards say `alarm` all their lives while they work.
fn npu(unit: &NpuSample) -> Finding {
    let figure = |figure: Option<String>| figure.unwrap_or_else(|| "unknown".to_owned());
    let what = format!(
        "NPU {}: {} % in use, {} of {} MB, {} degrees",
        unit.chip,
        figure(unit.utilisation_percent.map(|percent| percent.to_string())),
        figure(unit.memory_used_mb.map(|mb| mb.to_string())),
        figure(unit.memory_total_mb.map(|mb| mb.to_string())),
        figure(unit.temperature_c.map(|celsius| celsius.to_string())),
    );
    match unit.health {
        Some(NpuHealth::Critical) => {
            let remedy =
                "switch the board off and on; if it stays so, look the error code up with `npu-smi info`";
            warn(Subject::Board, ErrorCode::WrongState, format!("{what}, critical by its own word"), remedy)
        }
        Some(NpuHealth::Warning | NpuHealth::Alarm) => {
            ok(Subject::Board, format!("{what}, with an alarm of its own"))
        }
        _ => ok(Subject::Board, what),
    }
}

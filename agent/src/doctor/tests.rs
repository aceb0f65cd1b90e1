//! Judgements that no test can bring a real device to.

use super::facts::{
    Agent, CertificateFacts, DesiredFacts, DiskFacts, Facts, IdentityFacts, KeyFacts, Launcher, Link,
    MemoryFacts, OutboxFacts, Problem, Running, SmallFiles, TrustFacts,
};
use super::judge::{DISK_LEAST, RENEW_DAYS, SKEW_MS, judge};
use crate::config::Config;
use crate::identity::Names;
use flotilla_device::launch::Binary;
use flotilla_protocol::message::{Finding, NpuHealth, NpuSample, SlotName, Subject, Verdict};
use flotilla_protocol::{Digest, ErrorCode, limits};
use std::collections::BTreeMap;

const DAY_MS: u64 = 24 * 3_600 * 1_000;
const NOW_MS: u64 = 2_000_000_000_000;

fn certificate() -> CertificateFacts {
    CertificateFacts {
        public: Digest::of(b"key"),
        not_before_ms: NOW_MS - DAY_MS,
        not_after_ms: NOW_MS + 365 * DAY_MS,
        uri: Some("flotilla:default/gate-7".to_owned()),
    }
}

/// A device of which everything is well.
fn well() -> Facts {
    let names = Names {
        project: "default".parse().expect("a name"),
        device: "gate-7".parse().expect("a name"),
        mqtt: "plane:8883".to_owned(),
        server: None,
    };
    Facts {
        root: "/var/lib/flotilla".into(),
        now_ms: NOW_MS,
        build_ms: NOW_MS - 100 * DAY_MS,
        agent: Agent::Runs(Running {
            connected: true,
            clock_ahead_ms: Some(40),
            records_waiting: Some(0),
            serving: vec!["digits".to_owned()],
            ..Running::default()
        }),
        launcher: None,
        config: Ok(Config::default()),
        identity: IdentityFacts {
            names: Ok(Some(names)),
            key: Ok(KeyFacts { public: Digest::of(b"key"), mode: 0o600 }),
            certificate: Ok(certificate()),
            ca: Ok(CertificateFacts { uri: None, ..certificate() }),
            chain: Ok(()),
            has_copy: false,
        },
        trust: Ok(TrustFacts { version: 1, issued_at_ms: NOW_MS - DAY_MS, floors: BTreeMap::new() }),
        trust_copy: None,
        small: SmallFiles { accepted: 3, proof_ms: NOW_MS - 1_000, damage: Vec::new() },
        desired: Ok(Some(DesiredFacts {
            version: 3,
            issued_at_ms: NOW_MS - 2_000,
            project: "default".parse().expect("a name"),
            device: "gate-7".to_owned(),
            models: BTreeMap::new(),
        })),
        disk: Ok(DiskFacts {
            total_bytes: 1 << 34,
            free_bytes: 1 << 33,
            free_files: Some(1 << 20),
            read_only: false,
            not_writable: Vec::new(),
        }),
        link: Link::Open { address: "plane:8883".to_owned(), asked: false },
        memory: MemoryFacts { total_bytes: 1 << 32, available_bytes: Some(1 << 31) },
        npus: Vec::new(),
        blind: None,
        models: Ok(BTreeMap::new()),
        outbox: OutboxFacts { exists: true, bytes: 5_000, ..OutboxFacts::default() },
    }
}

fn found(change: impl FnOnce(&mut Facts), subject: Subject) -> Finding {
    let mut facts = well();
    change(&mut facts);
    let findings = judge(&facts);
    for finding in &findings {
        assert!(finding.what.len() <= limits::DIAGNOSIS_TEXT, "{finding:?}");
        assert!(finding.remedy.len() <= limits::DIAGNOSIS_TEXT, "{finding:?}");
        assert_eq!(finding.remedy.is_empty(), finding.verdict == Verdict::Ok, "{finding:?}");
    }
    let worst = findings.into_iter().filter(|finding| finding.subject == subject).max_by_key(|f| f.verdict);
    worst.unwrap_or_else(|| panic!("nothing is said of {}", subject.as_str()))
}

#[track_caller]
fn expect(finding: &Finding, verdict: Verdict, code: ErrorCode, what: &str, remedy: &str) {
    assert_eq!((finding.verdict, finding.code), (verdict, Some(code)), "{finding:?}");
    assert!(finding.what.contains(what) && finding.remedy.contains(remedy), "{finding:?}");
}

fn running(facts: &mut Facts, change: impl FnOnce(&mut Running)) {
    if let Agent::Runs(running) = &mut facts.agent {
        change(running);
    }
}

#[test]
fn of_a_device_that_is_well_every_subject_is() {
    let findings = judge(&well());
    assert!(findings.iter().all(|finding| finding.verdict == Verdict::Ok), "{findings:?}");
    let mut subjects: Vec<_> = findings.iter().map(|finding| finding.subject).collect();
    subjects.dedup();
    assert_eq!(subjects.len(), 11, "{subjects:?}");
}

#[test]
fn an_agent_that_holds_its_folder_without_a_word_is_not_called_stopped() {
    let silent = found(|f| f.agent = Agent::Silent, Subject::Agent);
    expect(
        &silent,
        Verdict::Warn,
        ErrorCode::WrongState,
        "does not answer",
        "look at its log and at the disk",
    );
    let stopped = found(|f| f.agent = Agent::Stopped, Subject::Agent);
    expect(
        &stopped,
        Verdict::Warn,
        ErrorCode::WrongState,
        "no agent runs",
        "`flotilla-agent run --dir /var/lib/flotilla`",
    );
}

/// What the launcher starts, with nothing wrong.
fn launcher() -> Launcher {
    let binary = Binary {
        slot: SlotName::A,
        release: Digest::of(b"agent"),
        counter: 3,
        version: "1.2.0".to_owned(),
        file: "files/agent".to_owned(),
        bytes: 1,
        crc: 1,
    };
    Launcher { damage: None, update: Ok(()), binaries: vec![("confirmed", binary, Ok(()))], given_up: None }
}

#[test]
fn what_the_launcher_starts_is_judged_and_it_is_named_where_an_agent_is_to_be_started() {
    let with = |change: &dyn Fn(&mut Launcher)| {
        let mut launcher = launcher();
        change(&mut launcher);
        found(|f| f.launcher = Some(launcher), Subject::Agent)
    };
    assert_eq!(with(&|_| ()).verdict, Verdict::Ok);
    let damaged = |l: &mut Launcher| {
        l.binaries[0].2 = Err(Problem::new(ErrorCode::DigestMismatch, "its content has changed"));
    };
    let what = "confirmed agent 1.2.0 in slot a: its content";
    expect(&with(&damaged), Verdict::Fail, ErrorCode::DigestMismatch, what, "restart flotilla-launcher");
    let update = |l: &mut Launcher| l.update = Err(Problem::new(ErrorCode::StorageCorrupt, "checksum"));
    expect(&with(&update), Verdict::Fail, ErrorCode::StorageCorrupt, "agent/journal", "flotilla-launcher");
    let launch = |l: &mut Launcher| l.damage = Some("agent/launch: checksum".to_owned());
    expect(&with(&launch), Verdict::Warn, ErrorCode::StorageCorrupt, "agent/launch", "flotilla-launcher");
    let given_up = |l: &mut Launcher| l.given_up = Some((Digest::of(b"x"), "it was late".to_owned()));
    expect(&with(&given_up), Verdict::Warn, ErrorCode::WrongState, "it was late", "corrected release");
    let stopped = found(
        |f| {
            f.agent = Agent::Stopped;
            f.launcher = Some(launcher());
        },
        Subject::Agent,
    );
    expect(&stopped, Verdict::Warn, ErrorCode::WrongState, "no agent runs", "`flotilla-launcher --dir");
}

#[test]
fn a_clock_is_judged_by_what_is_proved_and_by_the_control_planes() {
    use Verdict::{Fail, Ok, Warn};
    let clock = |change: fn(&mut Facts)| found(change, Subject::Clock);
    let behind_build = clock(|f| f.now_ms = f.build_ms - 3 * DAY_MS);
    expect(
        &behind_build,
        Fail,
        ErrorCode::WrongState,
        "3 days behind the build time",
        "start a time service",
    );
    let behind_proof = clock(|f| f.small.proof_ms = f.now_ms + 2 * 3_600_000);
    expect(&behind_proof, Fail, ErrorCode::WrongState, "2 h behind the latest signed", "battery");
    for (ahead, verdict) in [
        (SKEW_MS as i64, Ok),
        (SKEW_MS as i64 + 1, Warn),
        (-(SKEW_MS as i64), Ok),
        (-(SKEW_MS as i64) - 1, Warn),
        (i64::MIN, Warn),
        (i64::MAX, Warn),
    ] {
        let finding = found(|f| running(f, |r| r.clock_ahead_ms = Some(ahead)), Subject::Clock);
        assert_eq!(finding.verdict, verdict, "{ahead}: {finding:?}");
    }
    assert_eq!(clock(|f| f.small.proof_ms = f.now_ms + 1_000).verdict, Ok, "clocks differ a little");
    assert_eq!(clock(|f| f.agent = Agent::Stopped).verdict, Ok);
}

#[test]
fn certificates_are_judged_by_the_days_that_are_left() {
    use Verdict::{Fail, Ok, Warn};
    let with = |left_days: i64, ago_days: i64| {
        let at = |days: i64| NOW_MS.saturating_add_signed(days * DAY_MS as i64);
        let certificate =
            CertificateFacts { not_after_ms: at(left_days), not_before_ms: at(-ago_days), ..certificate() };
        found(|f| f.identity.certificate = Result::Ok(certificate), Subject::Certificates)
    };
    let days = RENEW_DAYS as i64;
    assert_eq!(with(days, 1).verdict, Ok);
    expect(&with(days - 1, 1), Warn, ErrorCode::Expired, "29 more days", "keep the device connected");
    expect(&with(0, 1), Fail, ErrorCode::Expired, "expired 0 days ago", "approval");
    expect(&with(-40, 90), Fail, ErrorCode::Expired, "expired 40 days ago", "check the clock first");
    expect(&with(400, -2), Fail, ErrorCode::Expired, "valid only from 2 days ahead", "set the clock");
    // A clock in 1970 is not what they are judged by.
    let seventies = found(|f| f.now_ms = 1_000, Subject::Certificates);
    assert_eq!(seventies.verdict, Ok, "{seventies:?}");
    let ca = found(
        |f| f.identity.ca = Result::Ok(CertificateFacts { not_after_ms: 1, ..certificate() }),
        Subject::Certificates,
    );
    expect(&ca, Fail, ErrorCode::Expired, "the CA expired", "enrol this device anew");
}

#[test]
fn a_disk_is_judged_by_room_files_and_rights() {
    use Verdict::{Fail, Ok, Warn};
    let reserve = Config::default().disk_reserve_bytes;
    let disk = |change: &dyn Fn(&mut DiskFacts)| found(|f| f.disk.iter_mut().for_each(change), Subject::Disk);
    assert_eq!(disk(&|d| d.free_bytes = 2 * reserve).verdict, Ok);
    expect(
        &disk(&|d| d.free_bytes = 2 * reserve - 1),
        Warn,
        ErrorCode::NoRoom,
        "only small releases",
        "free some room",
    );
    expect(
        &disk(&|d| d.free_bytes = reserve - 1),
        Fail,
        ErrorCode::NoRoom,
        "less than the reserve",
        "disk_reserve_bytes",
    );
    expect(
        &disk(&|d| d.free_bytes = DISK_LEAST - 1),
        Fail,
        ErrorCode::StorageFull,
        "even journals",
        "free some room",
    );
    expect(
        &disk(&|d| d.free_files = Some(3)),
        Fail,
        ErrorCode::StorageFull,
        "only 3 more files",
        "remove files",
    );
    assert_eq!(disk(&|d| d.free_files = None).verdict, Ok);
    expect(&disk(&|d| d.read_only = true), Fail, ErrorCode::StorageReadOnly, "read-only", "kernel's log");
    let rights = disk(&|d| d.not_writable = vec!["/var/lib/flotilla/models".into()]);
    expect(
        &rights,
        Fail,
        ErrorCode::StorageReadOnly,
        "/var/lib/flotilla/models may not be written",
        "give the folder",
    );
    let gone =
        found(|f| f.disk = Err(Problem::new(ErrorCode::StorageIo, "input/output error")), Subject::Disk);
    expect(&gone, Fail, ErrorCode::StorageIo, "input/output error", "cabling");
}

#[test]
fn the_rest_is_judged_too() {
    use Verdict::{Fail, Warn};
    let silent = found(|f| f.link = Link::Silent { address: "plane:1".to_owned() }, Subject::Link);
    expect(&silent, Fail, ErrorCode::Timeout, "does not answer", "log of the control plane");
    let starved = found(|f| f.memory.available_bytes = Some(f.memory.total_bytes / 50), Subject::Board);
    expect(&starved, Warn, ErrorCode::NoRoom, "are available", "stop programs");
    let lost = found(|f| running(f, |r| r.records_lost = 4), Subject::Outbox);
    expect(&lost, Warn, ErrorCode::StorageIo, "4 records were lost", "the agent's log");
    let none = found(|f| running(f, |r| r.records_waiting = None), Subject::Outbox);
    expect(&none, Fail, ErrorCode::StorageIo, "records are not kept", "restart the agent");
    let unread = found(
        |f| f.outbox.problem = Some(Problem::new(ErrorCode::StorageIo, "outbox/db: input/output error")),
        Subject::Outbox,
    );
    expect(&unread, Fail, ErrorCode::StorageIo, "outbox/db", "check the disk");
    let replayed = found(|f| f.small.accepted = 9, Subject::Desired);
    expect(
        &replayed,
        Warn,
        ErrorCode::Replayed,
        "version 3 is stored, 9 was accepted",
        "sends the document again",
    );
    let foreign = found(
        |f| f.desired.iter_mut().flatten().for_each(|d| d.device = "gate-8".to_owned()),
        Subject::Desired,
    );
    expect(&foreign, Warn, ErrorCode::WrongProject, "gate-8", "sends the document again");
    let models =
        found(|f| f.models = Err(Problem::new(ErrorCode::StorageIo, "models: io")), Subject::Journal);
    expect(&models, Fail, ErrorCode::StorageIo, "models: io", "check the disk");
}

#[test]
fn a_thermometer_that_tells_nothing_is_reported() {
    let found = found(|f| f.blind = Some("/sys/zone/temp".into()), Subject::Board);
    expect(&found, Verdict::Warn, ErrorCode::NotFound, "temperature_file /sys/zone/temp", "thousandths");
}

#[test]
fn an_npu_that_alarms_is_reported_and_is_no_trouble_unless_it_is_critical() {
    let unit = |health| NpuSample {
        chip: "310B4".to_owned(),
        temperature_c: Some(65),
        health,
        ..NpuSample::default()
    };
    for (health, verdict, word) in [
        (Some(NpuHealth::Ok), Verdict::Ok, "NPU 310B4"),
        (Some(NpuHealth::Alarm), Verdict::Ok, "an alarm of its own"),
        (None, Verdict::Ok, "unknown of unknown MB, 65 degrees"),
        (Some(NpuHealth::Critical), Verdict::Warn, "critical"),
    ] {
        let findings = judge(&Facts { npus: vec![unit(health)], ..well() });
        let said = findings.iter().find(|finding| finding.what.contains("NPU")).expect("a word of the NPU");
        assert!(said.verdict == verdict && said.what.contains(word), "{said:?}");
    }
}

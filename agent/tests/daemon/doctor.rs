//! The doctor through the real program: each kind of trouble is found, named, and answered with what to do.

use crate::cloud::Cloud;
use crate::device::Device;
use crate::releases::{Plan, letters};
use crate::updates::{confirmed, settled, want};
use flotilla_agent::folder::Folder;
use flotilla_agent::identity::store_trust;
use flotilla_protocol::message::{Command, CommandKind, CommandState, Diagnosis, Verdict};
use flotilla_protocol::{Envelope, EnvelopeKind, ErrorCode};
use serde_json::Value;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DAY: Duration = Duration::from_secs(24 * 3_600);

/// What the doctor says: exit code and findings.
struct Said {
    exit: Option<i32>,
    findings: Vec<Value>,
}

impl Said {
    /// The finding about this with this verdict.
    fn finding(&self, subject: &str, verdict: &str) -> &Value {
        let found = self.findings.iter().find(|f| f["subject"] == subject && f["verdict"] == verdict);
        found.unwrap_or_else(|| panic!("no {verdict} of {subject} in {:#?}", self.findings))
    }

    /// A failure is found, with its code, what it is and what to do, and is in the exit code.
    fn fails(&self, subject: &str, code: ErrorCode, what: &str, remedy: &str) {
        self.has(subject, "fail", code, what, remedy);
        assert_eq!(self.exit, Some(7));
    }

    fn warns(&self, subject: &str, code: ErrorCode, what: &str, remedy: &str) {
        self.has(subject, "warn", code, what, remedy);
    }

    fn has(&self, subject: &str, verdict: &str, code: ErrorCode, what: &str, remedy: &str) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let of = |f: &&Value| f["subject"] == subject && f["verdict"] == verdict;
        let fits = |f: &Value| {
            f["code"] == code.as_str()
                && text(&f["what"]).contains(what)
                && text(&f["remedy"]).contains(remedy)
        };
        let found = self.findings.iter().filter(of).any(fits);
        assert!(found, "no {verdict} of {subject} [{code}] {what:?} -> {remedy:?} in {:#?}", self.findings);
    }
}

async fn doctor(device: &Device) -> Said {
    let output = device.command(&["doctor", "-o", "json"]).await;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {error}"));
    let findings = report["findings"].as_array().unwrap().clone();
    let fails = findings.iter().filter(|f| f["verdict"] == "fail").count();
    assert_eq!(output.status.code(), Some(if fails == 0 { 0 } else { 7 }), "{error}");
    for finding in &findings {
        let well = finding["verdict"] == "ok";
        assert_eq!(finding["remedy"].as_str().unwrap().is_empty(), well, "{finding}");
        assert_eq!(finding["code"].is_null(), well, "{finding}");
    }
    Said { exit: output.status.code(), findings }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

/// Every file with its content and times, without what the test itself and an agent's log change.
fn everything(root: &Path) -> BTreeMap<PathBuf, (Vec<u8>, SystemTime)> {
    let mut all = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let (path, meta) = entry.map(|e| (e.path(), e.metadata().unwrap())).unwrap();
            if meta.is_dir() {
                all.insert(path.clone(), (Vec::new(), meta.modified().unwrap()));
                open.push(path);
            } else {
                all.insert(path.clone(), (std::fs::read(&path).unwrap(), meta.modified().unwrap()));
            }
        }
    }
    all
}

/// A device that has confirmed a release and was switched off.
async fn stopped() -> (Cloud, Device) {
    let (cloud, mut device, _) = settled().await;
    assert!(device.terminate().await.success());
    (cloud, device)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healthy_device_is_well_whether_its_agent_runs_or_not_and_nothing_is_changed() {
    let mut cloud = Cloud::start().await;
    cloud.issued_at_ms = now_ms();
    let first = Plan::good(0).publish(&cloud);
    want(&mut cloud, &first);
    let mut device = Device::started(&cloud).await;
    confirmed(&cloud, first.release).await;
    let hellos = cloud.state().hellos.len();
    let said = doctor(&device).await;
    for subject in [
        "agent",
        "certificates",
        "trust",
        "clock",
        "disk",
        "link",
        "board",
        "journal",
        "slots",
        "desired",
        "outbox",
    ] {
        said.finding(subject, "ok");
    }
    assert_eq!(said.exit, Some(0));
    let clock = said.finding("clock", "ok")["what"].to_string();
    assert!(clock.contains("of the control plane's"), "{clock}");
    assert_eq!(cloud.state().hellos.len(), hellos, "the running agent kept its connection");

    // A full disk may have kept the agent from writing its address down: it runs all the same.
    std::fs::remove_file(device.path("run/endpoint")).unwrap();
    let said = doctor(&device).await;
    said.warns("agent", ErrorCode::WrongState, "does not answer", "look at its log and at the disk");
    let link = said.finding("link", "ok")["what"].to_string();
    assert!(!link.contains("accepts this device"), "the broker is asked nothing in the agent's name: {link}");

    assert!(device.terminate().await.success());
    let before = everything(&device.path(""));
    let said = doctor(&device).await;
    said.warns("agent", ErrorCode::WrongState, "no agent runs", "start it with `flotilla-agent run --dir");
    let link = said.finding("link", "ok")["what"].to_string();
    assert!(link.contains("accepts this device"), "{link}");
    assert_eq!(said.exit, Some(0), "warnings alone are no failure");
    assert_eq!(everything(&device.path("")), before);

    let text = String::from_utf8(device.command(&["doctor"]).await.stdout).unwrap();
    assert!(text.contains("ok    slots") && text.contains("-> start it with"), "{text}");
    let nowhere = device.path("nowhere");
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_flotilla-agent"))
        .args(["doctor", "--dir"])
        .arg(&nowhere)
        .output()
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(!nowhere.exists(), "the doctor makes no folder");
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_with_the_identity_is_found() {
    let (cloud, device) = stopped().await;
    let key = device.path("identity/key.pem");
    let anew = "enrol this device anew";
    let back = "puts the file back from its copy";

    for (file, subject) in [("identity/key.pem", "certificates"), ("identity/ca.pem", "certificates")] {
        let right = std::fs::read(device.path(file)).unwrap();
        std::fs::write(device.path(file), "rubbish").unwrap();
        doctor(&device).await.fails(subject, ErrorCode::StorageCorrupt, file, back);
        std::fs::write(device.path(file), right).unwrap();
    }
    for file in ["trust.cbor", "trust.copy.cbor"] {
        let right = std::fs::read(device.path(file)).unwrap();
        std::fs::write(device.path(file), "rubbish").unwrap();
        doctor(&device).await.warns("trust", ErrorCode::StorageCorrupt, file, back);
        std::fs::write(device.path(file), right).unwrap();
    }
    std::fs::remove_file(device.path("identity.copy")).unwrap();

    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    doctor(&device).await.warns("certificates", ErrorCode::PermissionDenied, "mode 644", "chmod 600");

    let right = std::fs::read(&key).unwrap();
    std::fs::write(&key, rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
    doctor(&device).await.fails("certificates", ErrorCode::StorageCorrupt, "do not belong together", anew);
    std::fs::write(&key, "rubbish").unwrap();
    doctor(&device).await.fails("certificates", ErrorCode::StorageCorrupt, "not a private key", anew);
    std::fs::remove_file(&key).unwrap();
    doctor(&device).await.fails("certificates", ErrorCode::NotFound, "key.pem is missing", anew);
    std::fs::write(&key, right).unwrap();

    cloud.admit_until(&device.path(""), 10 * DAY);
    doctor(&device).await.warns(
        "certificates",
        ErrorCode::Expired,
        "9 more days only",
        "keep the device connected",
    );
    cloud.admit_until(&device.path(""), Duration::ZERO);
    let said = doctor(&device).await;
    said.fails("certificates", ErrorCode::Expired, "expired 1 days ago", "check the clock first");
    said.fails("link", ErrorCode::Tls, "no safe connection", "does not accept this device's certificate");

    cloud.admit(&device.path(""));
    let names = std::fs::read_to_string(device.path("identity/device.json")).unwrap();
    std::fs::write(device.path("identity/device.json"), names.replace("gate-7", "gate-8")).unwrap();
    doctor(&device).await.fails("certificates", ErrorCode::WrongProject, "flotilla:default/gate-7", anew);
    std::fs::write(device.path("identity/device.json"), "rubbish").unwrap();
    doctor(&device).await.fails("certificates", ErrorCode::StorageCorrupt, "device.json is damaged", anew);
    std::fs::remove_file(device.path("identity/device.json")).unwrap();
    doctor(&device).await.fails(
        "certificates",
        ErrorCode::WrongState,
        "not enrolled",
        "flotilla device claim",
    );

    cloud.admit(&device.path(""));
    let other = Cloud::start().await;
    std::fs::write(device.path("identity/ca.pem"), other.root_pem()).unwrap();
    let said = doctor(&device).await;
    said.fails("certificates", ErrorCode::CaMismatch, "does not lead to the stored CA", anew);
    said.fails("trust", ErrorCode::StorageCorrupt, "another CA", anew);
    said.fails("link", ErrorCode::CaMismatch, "no safe connection", "somebody in between");

    cloud.admit(&device.path(""));
    for file in ["trust.cbor", "trust.copy.cbor"] {
        std::fs::write(device.path(file), "rubbish").unwrap();
    }
    doctor(&device).await.fails("trust", ErrorCode::StorageCorrupt, "trust.cbor", anew);
    for file in ["trust.cbor", "trust.copy.cbor"] {
        std::fs::remove_file(device.path(file)).unwrap();
    }
    doctor(&device).await.fails("trust", ErrorCode::StorageCorrupt, "is missing", anew);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_step_at_which_the_link_ends_is_found() {
    let (mut cloud, device) = stopped().await;
    let names = std::fs::read_to_string(device.path("identity/device.json")).unwrap();
    let address = serde_json::from_str::<Value>(&names).unwrap()["mqtt"].as_str().unwrap().to_owned();
    let redirect = |to: &str| {
        std::fs::write(device.path("identity/device.json"), names.replace(&address, to)).unwrap();
    };

    redirect("no-such-host.invalid:8883");
    doctor(&device).await.fails("link", ErrorCode::Network, "cannot be resolved", "name servers");
    redirect(&address.replace("127.0.0.1", "localhost"));
    doctor(&device).await.fails("link", ErrorCode::Tls, "no safe connection", "with `--name`");
    redirect(&address);
    cloud.state().shut_out = true;
    doctor(&device).await.fails("link", ErrorCode::PermissionDenied, "NotAuthorized", "may be revoked");
    cloud.state().shut_out = false;
    cloud.stop().await;
    doctor(&device).await.fails("link", ErrorCode::Network, "cannot be reached", "firewalls");

    // Something that is no control plane.
    let stranger = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    redirect(&stranger.local_addr().unwrap().to_string());
    let task = tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        while let Ok((mut stream, _)) = stranger.accept().await {
            let _ = stream.write_all(b"220 mail.example.org ESMTP\r\n").await;
        }
    });
    doctor(&device).await.fails("link", ErrorCode::Tls, "no safe connection", "MQTT port");
    task.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_may_not_connect_is_found_while_it_runs() {
    let (cloud, mut device, _) = settled().await;
    device.kill().await;
    cloud.state().shut_out = true;
    let said = doctor(&device).await;
    said.warns("agent", ErrorCode::WrongState, "without taking leave", "look at its log");
    device.start().await;
    device
        .until("the refusal", async |d| {
            d.status().await["connection_problem"]["code"].is_string().then_some(())
        })
        .await;
    doctor(&device).await.warns(
        "link",
        ErrorCode::PermissionDenied,
        "the agent is not connected",
        "may be revoked",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_cannot_be_right_is_found() {
    let (mut cloud, mut device, _) = settled().await;
    // Every document of this control plane says that it was signed in 1970.
    let said = doctor(&device).await;
    said.warns("clock", ErrorCode::WrongState, "ahead of the control plane's", "start a time service");
    cloud.issued_at_ms = now_ms() + 400 * DAY.as_millis() as u64;
    cloud.want();
    let newer = |s: &crate::cloud::State| s.reported.as_ref().filter(|r| r.desired_version == 2).map(drop);
    cloud.until("the newer version", newer).await;
    let said = doctor(&device).await;
    said.fails(
        "clock",
        ErrorCode::WrongState,
        "days behind the latest signed document",
        "start a time service",
    );
    assert!(device.terminate().await.success());
    let said = doctor(&device).await;
    said.fails("clock", ErrorCode::WrongState, "days behind the latest signed document", "battery");
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_to_models_and_state_is_found_and_gone_after_the_remedy() {
    let (mut cloud, device, _) = settled().await;
    let second = Plan::good(1).publish(&cloud);
    want(&mut cloud, &second);
    confirmed(&cloud, second.release).await;
    let mut device = device;
    assert!(device.terminate().await.success());

    // The first release lies in slot a, the second, confirmed one, in slot b.
    let flip = |name: &str| {
        let mut bytes = std::fs::read(device.path(name)).unwrap();
        bytes[20] ^= 1;
        std::fs::write(device.path(name), bytes).unwrap();
    };
    flip("models/letters/slot-a/files/model.onnx");
    let said = doctor(&device).await;
    said.warns(
        "slots",
        ErrorCode::DigestMismatch,
        "slot a, an earlier release: model.onnx",
        "it is not used",
    );
    assert_eq!(said.exit, Some(0));
    flip("models/letters/slot-b/files/golden.cbor");
    std::fs::remove_file(device.path("models/letters/slot-b/files/model.onnx")).unwrap();
    let said = doctor(&device).await;
    said.fails(
        "slots",
        ErrorCode::NotFound,
        "slot b, the confirmed release: model.onnx: it is missing, and 1 more",
        "restart the agent",
    );
    std::fs::write(device.path("models/letters/slot-b/release.cbor"), "rubbish").unwrap();
    doctor(&device).await.fails("slots", ErrorCode::StorageCorrupt, "slot b", "restart the agent");

    std::fs::write(device.path("desired.cbor"), "rubbish").unwrap();
    std::fs::write(device.path("counter"), "rubbish").unwrap();
    std::fs::write(device.path("outbox.opening"), "").unwrap();
    let said = doctor(&device).await;
    said.warns("desired", ErrorCode::StorageCorrupt, "desired.cbor", "sends the document again");
    said.warns("desired", ErrorCode::StorageCorrupt, "counter", "written anew");
    said.warns("outbox", ErrorCode::StorageCorrupt, "ended while it opened", "throws this outbox away");

    // The remedy of all of these.
    device.start().await;
    device.until("the right answer", async |d| d.answer().await.filter(|(_, label)| label == "b")).await;
    confirmed(&cloud, second.release).await;
    let said = doctor(&device).await;
    assert_eq!(said.exit, Some(0), "{:?}", said.findings);
    for subject in ["journal", "desired", "outbox"] {
        said.finding(subject, "ok");
    }

    assert!(device.terminate().await.success());
    std::fs::write(device.path("models/letters/journal"), "rubbish").unwrap();
    doctor(&device).await.fails("journal", ErrorCode::StorageCorrupt, "letters", "restart the agent");
    std::fs::remove_dir_all(device.path("models/letters/slot-b")).unwrap();
    std::fs::remove_file(device.path("models/letters/journal")).unwrap();
    doctor(&device).await.warns("journal", ErrorCode::NotFound, "no journal", "restart the agent");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_board_and_a_refused_release_are_found() {
    let mut cloud = Cloud::start().await;
    let release = Plan::changed(0, |m| m.variants[0].boards = vec!["generic".into()]).publish(&cloud);
    want(&mut cloud, &release);
    let mut device = Device::started(&cloud).await;
    confirmed(&cloud, release.release).await;
    let bad = Plan { golden_label: 2, ..Plan::good(1) }.publish(&cloud);
    want(&mut cloud, &bad);
    crate::updates::phase(&cloud, flotilla_protocol::message::Phase::Failed).await;
    doctor(&device).await.warns(
        "journal",
        ErrorCode::ProbeMismatch,
        "letters: release",
        "roll out a corrected release",
    );

    assert!(device.terminate().await.success());
    std::fs::write(device.path("agent.toml"), "board = \"pi-5\"").unwrap();
    doctor(&device).await.fails("board", ErrorCode::BoardMismatch, "pi-5", "correct `board` in agent.toml");
    std::fs::write(device.path("agent.toml"), "bord = \"pi-5\"").unwrap();
    doctor(&device).await.fails("agent", ErrorCode::InvalidInput, "bord", "correct agent.toml");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_or_write_protected_disk_is_found() {
    let Some(disk) = crate::disk::SmallDisk::mount("24m") else { return };
    let mut cloud = Cloud::start().await;
    let release = Plan::good(0).publish(&cloud);
    want(&mut cloud, &release);
    let mut device = Device::at(&cloud, disk.path());
    device.start().await;
    confirmed(&cloud, release.release).await;
    doctor(&device).await.warns("disk", ErrorCode::NoRoom, "only small releases", "disk_reserve_bytes");
    disk.fill(10 << 20);
    doctor(&device).await.fails("disk", ErrorCode::NoRoom, "less than the reserve", "free some room");
    disk.fill(usize::MAX);
    doctor(&device).await.fails("disk", ErrorCode::StorageFull, "even journals", "free some room");
    let label = device.answer().await.map(|(_, label)| label);
    assert_eq!(label.as_deref(), Some("a"), "a full disk keeps nobody from predicting");
    device.kill().await;
    disk.write_protect();
    doctor(&device).await.fails("disk", ErrorCode::StorageReadOnly, "read-only", "kernel's log");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_control_plane_asks_for_an_examination_and_gets_its_findings_once() {
    let (mut cloud, mut device, _) = settled().await;
    let mut bytes = std::fs::read(device.path("models/letters/slot-a/files/golden.cbor")).unwrap();
    bytes[3] ^= 1;
    std::fs::write(device.path("models/letters/slot-a/files/golden.cbor"), bytes).unwrap();
    let examined = |state: &crate::cloud::State, id: u64| -> Option<(CommandState, Option<Diagnosis>)> {
        let reports = &state.reported.as_ref()?.commands;
        reports.iter().find(|r| r.id == id).map(|r| (r.state.clone(), r.diagnosis.clone()))
    };
    cloud.commands = vec![Command { id: 7, kind: CommandKind::Diagnostics, deadline_ms: None }];
    cloud.want();
    let (state, diagnosis) = cloud.until("a diagnosis", |s| examined(s, 7)).await;
    assert_eq!(state, CommandState::Done);
    let diagnosis = diagnosis.unwrap();
    let slots = diagnosis.findings.iter().find(|f| f.verdict == Verdict::Fail).unwrap();
    assert_eq!(slots.code, Some(ErrorCode::DigestMismatch));
    assert!(slots.what.contains("golden.cbor") && slots.remedy.contains("restart the agent"), "{slots:?}");

    // The answer outlives the agent, and is not worked out again for the same command.
    device.kill().await;
    cloud.state().reported = None;
    device.start().await;
    let (_, again) = cloud.until("the diagnosis again", |s| examined(s, 7)).await;
    assert_eq!(again, Some(diagnosis));

    // Of two reports only the newer carries its findings.
    cloud.commands.push(Command { id: 8, kind: CommandKind::Diagnostics, deadline_ms: None });
    cloud.want();
    let (_, second) = cloud.until("a second diagnosis", |s| examined(s, 8)).await;
    assert!(second.is_some());
    let (state, first) = examined(&cloud.state(), 7).unwrap();
    assert_eq!((state, first), (CommandState::Done, None));
    cloud.commands.clear();
    cloud.want();
    cloud.until("none", |s| s.reported.as_ref().filter(|r| r.commands.is_empty()).map(drop)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trust_file_from_the_future_moves_the_clock_and_is_said() {
    let (cloud, device) = stopped().await;
    let envelope =
        Envelope::from_bytes(&cloud.trust(1, BTreeMap::from([(letters(), 3)])).to_bytes()).unwrap();
    let mut file: flotilla_protocol::TrustFile =
        flotilla_protocol::codec::decode(&envelope.payload, 1 << 20).unwrap();
    file.issued_at_ms = now_ms() + 30 * DAY.as_millis() as u64;
    let folder = Folder::open(&device.path("")).unwrap();
    let key = crate::cloud::release_key();
    store_trust(&folder, &Envelope::seal(EnvelopeKind::Trust, &file, &[&key])).unwrap();
    let said = doctor(&device).await;
    said.fails("clock", ErrorCode::WrongState, "29 days behind", "start a time service");
    assert!(said.finding("trust", "ok")["what"].to_string().contains("floors for 1 models"));
}

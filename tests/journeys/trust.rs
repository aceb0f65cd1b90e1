//! Release keys that live offline: the trust file is proposed, signed key by key, published, and devices follow.

use flotilla_tests::{Device, Plane, eventually, run_ok};
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);

/// A command that needs no control plane.
fn offline(arguments: &[&str]) -> Value {
    let mut command = Command::new(flotilla_tests::binary("flotilla"));
    serde_json::from_str(&run_ok(command.args(arguments).args(["-o", "json"]))).unwrap()
}

fn code(output: &Output) -> String {
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let text = String::from_utf8_lossy(&output.stderr);
    let error: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    error["error"]["code"].as_str().unwrap().to_owned()
}

#[test]
fn two_keys_sign_what_one_alone_no_longer_can() {
    let plane = Plane::start();
    let first = plane.release(json!({ "epochs": 3, "patience": 0, "seed": 1 }));
    let mut device = Device::enrol(&plane, "box-1");
    device.start();
    eventually("connected", LIMIT, || plane.device("box-1").filter(|v| v["connected"] == true));

    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (own, other) = (plane.dir.join("keys/release.key"), file("other.key"));
    let (own, other) = (own.to_str().unwrap(), other.as_str());
    let public = offline(&["trust", "key", other])["public"].as_str().unwrap().to_owned();
    let shown: Value = plane.cli(&["trust", "show"]);
    let online = shown["release"]["keys"][0]["public"].as_str().unwrap().to_owned();

    let next = file("trust.next");
    let propose =
        ["trust", "propose", &next, "--threshold", "2", "--release-key", &online, "--release-key", &public];
    let proposed: Value = plane.cli(&propose);
    assert_eq!((proposed["version"].as_u64(), proposed["own_signatures"].as_u64()), (Some(2), Some(0)));
    let publish = ["trust", "publish", &next];
    assert_eq!(code(&plane.cli_output(&publish)), "signature_invalid", "not signed");
    offline(&["trust", "sign", &next, "--key", other]);
    assert_eq!(
        code(&plane.cli_output(&publish)),
        "signature_invalid",
        "signed by a key that is not in force yet"
    );
    let signed = offline(&["trust", "sign", &next, "--key", own]);
    assert_eq!(signed["own_signatures"], 2);
    assert_eq!(offline(&["trust", "show", &next])["version"], 2);
    let published: Value = plane.cli(&publish);
    assert_eq!(published["release"]["threshold"], 2);
    assert_eq!(code(&plane.cli_output(&publish)), "replayed", "once");
    eventually("the device follows", LIMIT, || (device.status()["trust_version"] == 2).then_some(()));

    assert_eq!(code(&plane.cli_output(&["release", "create", "digits"])), "signature_invalid");
    let draft = file("draft.zip");
    let output = plane.cli_output(&["release", "draft", "digits", &draft]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let import = ["release", "import", &draft];
    assert_eq!(code(&plane.cli_output(&import)), "signature_invalid", "one of two");
    offline(&["release", "sign", &draft, "--key", other]);
    let release: Value = plane.cli(&import);
    assert_eq!(release["counter"].as_u64(), first["counter"].as_u64().map(|counter| counter + 1));

    let _rollout: Value = plane.cli(&["rollout", "create", release["digest"].as_str().unwrap()]);
    let confirmed = plane.device("box-1").unwrap();
    assert_eq!((&confirmed["state"], &confirmed["release"]), (&json!("confirmed"), &release["digest"]));

    // The release that one key signed is not taken any more; the confirmed one serves on.
    let back =
        plane.cli_output(&["rollout", "create", first["digest"].as_str().unwrap(), "--device", "box-1"]);
    assert!(Path::new(&draft).exists());
    let text = format!("{}{}", String::from_utf8_lossy(&back.stdout), String::from_utf8_lossy(&back.stderr));
    assert!(text.contains("signature_invalid"), "{text}");
    let after = plane.device("box-1").unwrap();
    assert_eq!(after["release"], release["digest"]);
}

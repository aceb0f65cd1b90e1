//! The agent's own upgrade through the whole control plane: signed, rolled out in waves, confirmed; and taken back.

use flotilla_tests::{Device, Plane, binary, eventually};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(90);

/// A launcher that is killed when it is dropped; its agent ends with it.
struct Launched(Child);

impl Launched {
    fn start(device: &Device) -> Self {
        let log = std::fs::File::options().create(true).append(true).open(device.dir.join("agent.log"));
        let mut command = Command::new(binary("flotilla-launcher"));
        command.arg("--dir").arg(&device.dir).stdin(Stdio::null()).stderr(log.unwrap());
        Self(command.spawn().unwrap())
    }
}

impl Drop for Launched {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// This agent behind a script, so that a release of it is small.
fn agent(folder: &Path, name: &str, body: &str) -> String {
    let path = folder.join(name);
    let agent = binary("flotilla-agent");
    std::fs::write(&path, format!("#!/bin/sh\n{body}\nexec {} \"$@\"\n", agent.display())).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn an_agent_is_released_and_rolled_out_like_a_model_and_a_bad_one_stops_at_the_canary() {
    let plane = Plane::start();
    let devices: Vec<_> = (1..=2).map(|n| Device::enrol(&plane, &format!("box-{n}"))).collect();
    let _launched: Vec<_> = devices.iter().map(Launched::start).collect();
    for device in &devices {
        eventually("connected", LIMIT, || plane.device(&device.id).filter(|v| v["connected"] == true));
    }
    let folder = tempfile::tempdir().unwrap();
    let create = |program: &str| -> Value {
        let version = env!("CARGO_PKG_VERSION");
        let arch = std::env::consts::ARCH;
        plane.cli(&["release", "create-agent", "--binary", program, "--arch", arch, "--version", version])
    };
    let roll_out = |release: &Value, end: &str| {
        let rollout: Value =
            plane.cli(&["rollout", "create", release["digest"].as_str().unwrap(), "--detach"]);
        let path = format!("/api/v1/rollouts/{}", rollout["id"].as_str().unwrap());
        eventually(end, LIMIT, || Some(plane.get(&path).1).filter(|view| view["state"] == end))
    };
    let good = create(&agent(folder.path(), "good", ""));
    assert_eq!(
        (&good["model"], &good["agent"]),
        (&"flotilla-agent".into(), &env!("CARGO_PKG_VERSION").into())
    );
    roll_out(&good, "succeeded");
    for device in &devices {
        let view = plane.device(&device.id).unwrap();
        assert_eq!(view["agent_upgrade"]["release"], good["digest"], "{view}");
        assert_eq!(
            (&view["agent_upgrade"]["slot"], &view["models"]),
            (&"a".into(), &Value::Array(vec![])),
            "{view}"
        );
    }

    let bad = create(&agent(folder.path(), "bad", "[ \"$1\" = run ] && exit 7"));
    let failed = roll_out(&bad, "rolled_back");
    assert!(failed["reason"].as_str().unwrap().contains("code 7"), "{failed}");
    for device in &devices {
        let view = eventually("back", LIMIT, || {
            plane.device(&device.id).filter(|v| v["agent_upgrade"]["phase"] == "confirmed")
        });
        assert_eq!(view["agent_upgrade"]["release"], good["digest"], "{view}");
    }
    let (_, audit) = plane.get("/api/v1/audit");
    let created = audit.as_array().unwrap().iter().filter(|a| a["action"] == "release:create-agent").count();
    assert_eq!(created, 2);
}

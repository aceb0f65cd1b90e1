//! What is installed on devices: the Debian package and the service.

use flotilla_tests::{binary, run_ok};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

/// Whether the machine has a program. In CI nothing may be skipped.
fn has(program: &str) -> bool {
    if Command::new(program).arg("--version").output().is_ok() {
        return true;
    }
    assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "CI must have {program}");
    eprintln!("skipped: {program} is not here");
    false
}

#[test]
fn the_package_brings_programs_that_run_and_a_service_that_may_do_little() {
    if !has("dpkg-deb") {
        return;
    }
    let out = tempfile::tempdir().unwrap();
    let programs = binary("flotilla-agent");
    let programs = programs.parent().unwrap();
    // Unoptimised programs are large, and packing them well takes its time.
    let make = || {
        let mut command = Command::new(deploy().join("package-deb"));
        run_ok(command.arg("amd64").arg(programs).arg(out.path()).env("COMPRESSION", "none"))
    };
    let package = PathBuf::from(make().trim());
    let field =
        |name: &str| run_ok(Command::new("dpkg-deb").arg("-f").arg(&package).arg(name)).trim().to_owned();
    assert_eq!((field("Package").as_str(), field("Architecture").as_str()), ("flotilla-agent", "amd64"));
    assert_eq!(field("Version"), env!("CARGO_PKG_VERSION"));
    assert!(field("Depends").starts_with("libc6 (>= 2."), "{}", field("Depends"));

    let root = out.path().join("root");
    run_ok(Command::new("dpkg-deb").arg("-x").arg(&package).arg(&root));
    let version = run_ok(Command::new(root.join("usr/bin/flotilla-agent")).arg("--version"));
    assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
    run_ok(Command::new(root.join("usr/bin/flotilla-launcher")).arg("--help"));
    let service = root.join("lib/systemd/system/flotilla-agent.service");
    let text = fs::read_to_string(&service).unwrap();
    assert!(text.contains("ExecStart=/usr/bin/flotilla-launcher") && text.contains("NoNewPrivileges=yes"));

    // Again, the same bytes: whoever builds it can compare.
    let first = fs::read(&package).unwrap();
    make();
    assert!(fs::read(&package).unwrap() == first, "the package differs from one build to the next");
}

#[test]
fn systemd_takes_the_service_and_finds_it_well_confined() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        eprintln!("skipped: systemd-analyze is not here");
        return;
    }
    let service = deploy().join("flotilla-agent.service");
    // 0 is best, 10 is worst; without any of its bounds the service would be at 9.2.
    run_ok(
        Command::new("systemd-analyze").args(["security", "--offline=true", "--threshold=25"]).arg(&service),
    );
}

#[test]
fn the_scripts_say_what_is_wrong_with_what_they_are_told() {
    for (script, arguments, word) in [
        ("package-deb", &["sparc", "/nowhere", "/nowhere"][..], "amd64 and arm64"),
        ("package-deb", &[], "deploy/package-deb ARCH FOLDER OUT"),
        ("build-agent", &["sparc"], "x86_64 and aarch64"),
    ] {
        let output = Command::new(deploy().join(script)).args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && said.contains(word), "{script}: {said}");
    }
}

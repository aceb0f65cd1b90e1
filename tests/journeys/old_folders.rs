//! Folders that earlier versions left: today's programs open them and lose nothing.

use flotilla_tests::{Device, Plane, eventually};
use serde_json::Value;
use std::fs::{self, File, Permissions};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

const RELEASE: &str = "c7f9235eb7be6b78ec11a50bba0eba3f81c7bdaaecedcbd17f5fe073c0e9508d";
const LIMIT: Duration = Duration::from_secs(60);

/// Unpacks the folders, private to their owner as they were.
fn unpack(to: &Path) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/folders-v1.zip");
    let mut archive = zip::ZipArchive::new(File::open(file).unwrap()).unwrap();
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).unwrap();
        let path = to.join(entry.enclosed_name().unwrap());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    }
}

#[test]
fn a_control_plane_and_a_device_of_version_0_1_go_on_where_they_were() {
    let folder = tempfile::tempdir().unwrap();
    unpack(folder.path());
    let plane = Plane::start_in(&folder.path().join("plane"));
    let get = |path: &str| plane.get(path).1;
    assert_eq!(get("/api/v1/datasets")[0]["samples"], 240);
    let models = get("/api/v1/models");
    let versions: Vec<_> = models.as_array().unwrap().iter().map(|v| v["source"].as_str().unwrap()).collect();
    assert_eq!(versions, ["trained", "compressed"]);
    let jobs = get("/api/v1/jobs");
    assert!(jobs.as_array().unwrap().iter().all(|job| job["state"] == "succeeded"), "{jobs}");
    assert_eq!(jobs[0]["metrics"].as_array().unwrap().len(), 3, "the whole curve");
    assert_eq!(get("/api/v1/releases")[0]["digest"], RELEASE);
    let rollouts = get("/api/v1/rollouts");
    assert_eq!((&rollouts[0]["state"], &rollouts[0]["release"]), (&"succeeded".into(), &RELEASE.into()));
    let device = plane.device("box-1").unwrap();
    assert_eq!((&device["state"], &device["models"][0]["release"]), (&"confirmed".into(), &RELEASE.into()));
    assert!(get("/api/v1/audit").as_array().unwrap().len() > 8);
    // Its keys still sign: a version that is made today has the next counter.
    let _trained: Value = plane.cli(&["train", "digits", "--config", r#"{"epochs":1,"patience":0}"#]);
    let release: Value = plane.cli(&["release", "create", "digits"]);
    assert_eq!(release["counter"], 2);

    // The device serves what it had confirmed, without its control plane.
    let samples = get("/api/v1/datasets/digits/versions/1/samples?split=test");
    let path =
        format!("/api/v1/datasets/digits/versions/1/samples/{}", samples[0]["digest"].as_str().unwrap());
    let image = plane.get_bytes(&path);
    let mut device = Device::of_folder("box-1", folder.path().join("device"), folder);
    device.start();
    let answer = eventually("a prediction", LIMIT, || {
        let (status, answer) = device.predict("digits", &image);
        (status == 200).then_some(answer)
    });
    assert_eq!(answer["release"], RELEASE);
    // All of it was read as it was: what cannot be read is made anew, and said.
    let log = device.log();
    assert!(!log.contains("damaged") && !log.contains("Repaired"), "{log}");
}

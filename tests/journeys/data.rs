//! Data of a real size, through the command line.

use flotilla_tests::{Plane, test_data};
use serde_json::Value;

#[test]
fn ten_thousand_pictures_are_imported_and_survive_a_kill() {
    let Some(folder) = test_data("images/mnist-t10k") else { return };
    let mut plane = Plane::start();
    let import: Value = plane.cli(&["dataset", "import", "mnist", folder.to_str().unwrap()]);
    let count = |name: &str| import[name].as_u64().unwrap();
    assert_eq!((count("imported") + count("duplicates"), count("skipped_total")), (10_000, 0), "{import}");
    let dataset = &import["dataset"];
    let splits = ["train", "validation", "test"].map(|split| dataset[split].as_u64().unwrap());
    assert_eq!((&dataset["classes"], &dataset["samples"]), (&10.into(), &count("imported").into()));
    assert!(splits.iter().sum::<u64>() == count("imported") && splits.iter().all(|n| *n > 0), "{import}");

    // What was answered is on the disk.
    plane.kill();
    plane.restart();
    let datasets: Value = plane.cli(&["dataset", "list"]);
    assert_eq!(datasets.as_array().unwrap().len(), 1);
    assert_eq!(datasets[0]["samples"], dataset["samples"]);
    let samples = "/api/v1/datasets/mnist/versions/1/samples";
    let (status, test) = plane.get(&format!("{samples}?split=test"));
    assert_eq!((status, test.as_array().unwrap().len() as u64), (200, splits[2]));
    let test = test.as_array().unwrap();
    for sample in [&test[0], &test[test.len() - 1]] {
        let picture = plane.get_bytes(&format!("{samples}/{}", sample["digest"].as_str().unwrap()));
        assert_eq!(&picture[..4], b"\x89PNG");
    }
    let import: Value = plane.cli(&["dataset", "import", "mnist", folder.to_str().unwrap()]);
    assert_eq!((&import["unchanged"], &import["dataset"]["version"]), (&true.into(), &1.into()));
}

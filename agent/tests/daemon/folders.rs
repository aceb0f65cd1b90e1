//! Files that are dropped into a folder, with the agent as its own process.

use crate::device::Device;
use crate::disk::SmallDisk;
use crate::pictures::{get, jpeg_of_claimed_size, png, png_of_claimed_size};
use crate::releases::Plan;
use crate::updates::{confirmed, settled_with, want};
use flotilla_protocol::message::EventKind;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A watched folder beside a device.
struct Inbox {
    root: tempfile::TempDir,
}

impl Inbox {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("in")).unwrap();
        Self { root }
    }

    fn config(&self, more: &str) -> String {
        let path = self.path("");
        format!("[[folder]]\nname = \"in\"\nmodel = \"letters\"\nsettle_ms = 20\npath = {path:?}\n{more}\n")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join("in").join(name)
    }

    /// A file that comes whole.
    fn drop(&self, name: &str, content: &[u8]) {
        let beside = self.root.path().join(name);
        fs::write(&beside, content).unwrap();
        fs::rename(beside, self.path(name)).unwrap();
    }

    fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(folder)).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// The lines by file; each file must have one.
fn lines(path: &Path) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    for path in [path.with_extension("jsonl.1"), path.to_owned()] {
        for line in fs::read_to_string(path).unwrap_or_default().lines() {
            // The last one may just be being written.
            let Ok(line) = serde_json::from_str::<Value>(line) else { continue };
            let file = line["file"].as_str().unwrap().to_owned();
            let before = all.insert(file, line.clone());
            assert_eq!(before, None, "a second line: {line}");
        }
    }
    all
}

fn results(device: &Device) -> BTreeMap<String, Value> {
    lines(&device.path("results/in.jsonl"))
}

async fn until_lines(device: &Device, count: usize) -> BTreeMap<String, Value> {
    device.until("lines", async |d| Some(results(d)).filter(|lines| lines.len() >= count)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn files_have_one_line_each_and_what_is_no_picture_has_its_code_and_is_put_aside() {
    let inbox = Inbox::new();
    inbox.drop("before.png", &png(2, 2));
    inbox.drop("before.txt", b"not a picture");
    // A machine that is busy may take a while between the two halves of what is written slowly.
    let config = inbox.config("max_bytes = 100000").replace("settle_ms = 20", "settle_ms = 1000");
    let (cloud, device, first) = settled_with(&config).await;
    inbox.drop("good.png", &png(2, 2));
    inbox.drop("good.jpg", &png(2, 2));
    inbox.drop(".hidden.png", &png(2, 2));
    inbox.drop("unfinished.png.part", &png(2, 2));
    inbox.drop("size.png", &png(3, 2));
    inbox.drop("large.png", &vec![0; 100_001]);
    inbox.drop("empty.png", b"");
    inbox.drop("cut.png", &png(2, 2)[..40]);
    inbox.drop("bomb.png", &png_of_claimed_size(10_000, 10_000));
    inbox.drop("bomb.jpg", &jpeg_of_claimed_size(10_000, 10_000));
    fs::create_dir_all(inbox.path("folder/inside")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", inbox.path("link.png")).unwrap();
    let pipe = std::process::Command::new("mkfifo").arg(inbox.path("pipe.png")).status().unwrap();
    assert!(pipe.success());
    // A writer that takes its time, and comes back to the file.
    fs::write(inbox.path("slow.png"), &png(2, 2)[..20]).unwrap();
    fs::write(inbox.path("slow.png"), png(2, 2)).unwrap();

    let lines = until_lines(&device, 14).await;
    let code = |file: &str| lines[file]["code"].as_str().unwrap_or("none").to_owned();
    for good in ["before.png", "good.png", "good.jpg", "slow.png"] {
        let line = &lines[good];
        assert_eq!(
            (&line["label"], &line["release"]),
            (&"a".into(), &first.release.to_string().into()),
            "{line}"
        );
        assert_eq!((line["top"].as_array().unwrap().len(), line["model"].as_str()), (3, Some("letters")));
        assert!(line["score"].is_number() && line["at_ms"].is_u64() && line["code"].is_null(), "{line}");
    }
    for (file, expected) in [
        ("before.txt", "sample_invalid"),
        ("size.png", "invalid_input"),
        ("large.png", "too_large"),
        ("empty.png", "sample_invalid"),
        ("cut.png", "sample_invalid"),
        ("bomb.png", "too_large"),
        ("bomb.jpg", "too_large"),
        ("folder", "invalid_input"),
        ("link.png", "invalid_input"),
        ("pipe.png", "invalid_input"),
    ] {
        assert_eq!(code(file), expected, "{}", lines[file]);
        assert!(lines[file]["label"].is_null() && !lines[file]["detail"].as_str().unwrap().is_empty());
    }
    let moved = async |_: &Device| {
        (inbox.names("failed").len() == 10 && inbox.names("done").len() == 4).then_some(())
    };
    device.until("everything is put away", moved).await;
    assert_eq!(inbox.names("done"), ["before.png", "good.jpg", "good.png", "slow.png"]);
    assert_eq!(inbox.names(""), [".hidden.png", "done", "failed", "unfinished.png.part"]);
    assert!(inbox.path("failed/folder/inside").is_dir());

    // The same name again is another file, and takes nobody's place.
    inbox.drop("good.png", &png(2, 2));
    let again = async |_: &Device| (inbox.names("done").len() == 5).then_some(());
    device.until("the second one", again).await;
    assert!(inbox.names("done").contains(&"good.png.1".to_owned()));
    // A file is counted once it is put away.
    let counted = async |d: &Device| {
        let folder = get(d, "/status").await["folders"]["in"].clone();
        (folder["predicted"] == 5 && folder["refused"] == 10 && folder["problem"].is_null()).then_some(())
    };
    device.until("the counts", counted).await;
    assert_eq!(cloud.state().events().filter(|event| event.kind == EventKind::Failed).count(), 0);
    assert_eq!(device.label().await, "a");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_in_place_of_failed_takes_nothing_elsewhere_is_said_and_in_nobodys_way() {
    let inbox = Inbox::new();
    let elsewhere = inbox.root.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, inbox.path("failed")).unwrap();
    let (cloud, device, _) = settled_with(&inbox.config("")).await;
    inbox.drop("note.txt", b"not a picture");
    let stuck = async |d: &Device| {
        let folder = get(d, "/status").await["folders"]["in"].clone();
        (folder["stuck"] == 1).then_some(folder)
    };
    let folder = device.until("it stays", stuck).await;
    let problem = folder["problem"]["detail"].as_str().unwrap();
    assert!(
        problem.contains("failed: it is a link or a file") && problem.contains("take it away"),
        "{problem}"
    );
    let event = cloud.until_event(EventKind::Failed).await;
    assert!(event.detail.contains("take it away"), "{event:?}");
    inbox.drop("good.png", &png(2, 2));
    device.until("others go on", async |_| (inbox.names("done") == ["good.png"]).then_some(())).await;
    assert_eq!(
        (inbox.names(""), fs::read_dir(&elsewhere).unwrap().count()),
        (["done", "failed", "note.txt"].map(str::to_owned).to_vec(), 0)
    );

    fs::remove_file(inbox.path("failed")).unwrap();
    let mended = async |d: &Device| {
        let folder = get(d, "/status").await["folders"]["in"].clone();
        (folder["stuck"] == 0 && folder["problem"].is_null()).then_some(())
    };
    device.until("it goes on", mended).await;
    assert_eq!((inbox.names("failed"), results(&device).len()), (vec!["note.txt".to_owned()], 2));
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_moment_costs_no_file_its_line_and_gives_none_two() {
    for done in ["move", "keep", "delete"] {
        let inbox = Inbox::new();
        let output = inbox.root.path().join("out/results.jsonl");
        let more = format!("done = {done:?}\noutput = {output:?}\noutput_bytes = 65536");
        let (_cloud, mut device, _) = settled_with(&inbox.config(&more)).await;
        const FILES: usize = 150;
        for number in 0..FILES {
            inbox.drop(&format!("{number}.png"), &png(2, 2));
        }
        // Each time it gets a little further, and is killed at another moment.
        for round in 1..8 {
            let enough = async |_: &Device| (lines(&output).len() >= round * 9).then_some(());
            device.until("some lines", enough).await;
            device.kill().await;
            if round == 4 {
                // What a power cut leaves of a line that was never acknowledged.
                let mut torn = fs::read(&output).unwrap();
                torn.extend(b"{\"at_ms\":17,\"file\":\"1");
                fs::write(&output, torn).unwrap();
            }
            device.start().await;
        }
        let all = async |_: &Device| (lines(&output).len() == FILES).then_some(());
        device.until("all lines", all).await;
        let away = async |_: &Device| {
            match done {
                "move" => inbox.names("done").len() == FILES,
                "delete" => inbox.names("").iter().all(|name| name == "done" || name == "failed"),
                _ => inbox.names("").len() == FILES,
            }
            .then_some(())
        };
        device.until("files are put away", away).await;
        assert!(lines(&output).values().all(|line| line["label"] == "a"));
        // Nothing is predicted again by a start in peace.
        assert!(device.terminate().await.success());
        device.start().await;
        inbox.drop("last.png", &png(2, 2));
        let last = async |_: &Device| lines(&output).contains_key("last.png").then_some(());
        device.until("the last one", last).await;
        assert_eq!(lines(&output).len(), FILES + 1, "{done}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swap_while_files_come_loses_and_fails_none() {
    let inbox = Inbox::new();
    let (mut cloud, device, first) =
        settled_with(&inbox.config("settle_ms = 0").replace("settle_ms = 20\n", "")).await;
    let second = Plan::good(1).publish(&cloud);
    let mut dropped = 0;
    for release in [&second, &first, &second] {
        want(&mut cloud, release);
        // Files come as long as the swap takes.
        let confirmed = confirmed(&cloud, release.release);
        let mut confirmed = std::pin::pin!(confirmed);
        loop {
            inbox.drop(&format!("{dropped}.png"), &png(2, 2));
            dropped += 1;
            let wait = tokio::time::timeout(std::time::Duration::from_millis(5), confirmed.as_mut());
            if wait.await.is_ok() {
                break;
            }
        }
    }
    let lines = until_lines(&device, dropped).await;
    let label = BTreeMap::from([(first.release.to_string(), "a"), (second.release.to_string(), "b")]);
    for line in lines.values() {
        assert_eq!(line["label"], label[line["release"].as_str().unwrap()], "{line}");
    }
    let of_first = lines.values().filter(|line| line["label"] == "a").count();
    assert!(of_first > 0 && of_first < dropped, "{of_first} of {dropped}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_model_or_room_for_lines_files_wait_and_a_folder_that_goes_away_is_found_again() {
    let Some(disk) = SmallDisk::mount("4m") else { return };
    let inbox = Inbox::new();
    let output = disk.path().join("results.jsonl");
    let (mut cloud, device, first) = settled_with(&inbox.config(&format!("output = {output:?}"))).await;
    disk.fill(usize::MAX);
    for number in 0..5 {
        inbox.drop(&format!("{number}.png"), &png(2, 2));
    }
    let problem = async |d: &Device| {
        let folder = get(d, "/status").await["folders"]["in"].clone();
        (folder["problem"]["code"] == "storage_full").then_some(())
    };
    device.until("a full disk", problem).await;
    assert_eq!(device.label().await, "a", "others are served");
    disk.release();
    device.until("the lines", async |_| (lines(&output).len() == 5).then_some(())).await;
    let event = cloud.until_event(EventKind::Failed).await;
    assert!(event.detail.starts_with("folder in: "), "{event:?}");

    // Without its model.
    cloud.models.clear();
    cloud.want();
    let gone =
        async |d: &Device| get(d, "/status").await["serving"].as_object().unwrap().is_empty().then_some(());
    device.until("no model", gone).await;
    inbox.drop("waits.png", &png(2, 2));
    let waits = async |d: &Device| {
        (get(d, "/status").await["folders"]["in"]["problem"]["code"] == "not_found").then_some(())
    };
    device.until("a file that waits", waits).await;
    want(&mut cloud, &first);
    device.until("its line", async |_| lines(&output).contains_key("waits.png").then_some(())).await;

    // The folder is unmounted and mounted again.
    fs::rename(inbox.path(""), inbox.root.path().join("elsewhere")).unwrap();
    let lost = async |d: &Device| {
        (get(d, "/status").await["folders"]["in"]["problem"]["code"] == "storage_io").then_some(())
    };
    device.until("a lost folder", lost).await;
    let doctor = device.command(&["doctor"]).await;
    let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(said.contains("folder in: ") && said.contains("storage_io"), "{said}");
    fs::rename(inbox.root.path().join("elsewhere"), inbox.path("")).unwrap();
    inbox.drop("back.png", &png(2, 2));
    device.until("a line again", async |_| lines(&output).contains_key("back.png").then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_can_reach_nobody_goes_on_with_its_folders() {
    let inbox = Inbox::new();
    let (_cloud, mut device, _) = settled_with(&inbox.config("")).await;
    assert!(device.terminate().await.success());
    for file in ["identity/key.pem", "identity.copy"] {
        fs::write(device.path(file), "").unwrap();
    }
    device.start().await;
    inbox.drop("alone.png", &png(2, 2));
    let lines = until_lines(&device, 1).await;
    assert_eq!(lines["alone.png"]["label"], "a");
    let alone = async |d: &Device| {
        let status = get(d, "/status").await;
        (status["connected"] == false && status["folders"]["in"]["predicted"] == 1).then_some(())
    };
    device.until("its status", alone).await;
    assert!(device.terminate().await.success());
}

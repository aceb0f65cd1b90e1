#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use super::*;
use crate::hard::HardExamples;
use crate::host::testing;
use flotilla_protocol::Digest;
use std::time::Duration;

/// A folder, and where its feed keeps what.
struct Bench {
    root: tempfile::TempDir,
    places: Places,
}

impl Bench {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("in")).unwrap();
        let places = Places {
            output: root.path().join("out.jsonl"),
            kept: root.path().join("feeds/in.kept"),
            trial: root.path().join("feeds/in.trial"),
        };
        Self { root, places }
    }

    fn desk(&self, done: Done) -> Desk {
        self.desk_of(done, Arc::new(ModelHost::new()))
    }

    fn desk_of(&self, done: Done, host: Arc<ModelHost>) -> Desk {
        let feed = FolderFeed {
            name: "in".to_owned(),
            path: self.root.path().join("in"),
            model: "letters".parse().unwrap(),
            done,
            output: None,
            output_bytes: 1 << 20,
            settle_ms: 0,
            max_bytes: 1_000,
        };
        Desk::open(feed, &self.places, host, Clock::new(0)).unwrap()
    }

    fn write(&self, name: &str) -> Stamp {
        let path = self.root.path().join("in").join(name);
        fs::write(&path, name).unwrap();
        stamp(&fs::symlink_metadata(path).unwrap())
    }

    fn exists(&self, name: &str) -> bool {
        self.root.path().join("in").join(name).exists()
    }

    fn lines(&self) -> Vec<serde_json::Value> {
        let text = fs::read_to_string(&self.places.output).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// A line as a killed agent left it, before it could do anything else.
fn line_of(stamp: Stamp, refused: bool) -> String {
    let code = if refused { ",\"code\":\"sample_invalid\"" } else { "" };
    format!("{{\"at_ms\":1,\"file\":\"a\",\"stamp\":\"{stamp}\",\"model\":\"letters\"{code}}}\n")
}

#[tokio::test]
async fn a_file_is_on_trial_only_while_its_model_is_at_work() {
    let bench = Bench::new();
    let stamp = bench.write("a");
    let host = Arc::new(testing::host(Digest::of(b"release"), HardExamples::default()));
    let letters = "letters".parse().unwrap();
    let others = host.admit(&letters).unwrap().turn().await;
    let mut desk = bench.desk_of(Done::Delete, Arc::clone(&host));
    let handled = std::thread::spawn(move || desk.handle(OsStr::new("a"), stamp));
    while testing::admitted(&host) < 2 {
        std::thread::yield_now();
    }
    // What was noted between its place in the queue and its turn would be there by now.
    std::thread::sleep(Duration::from_millis(50));
    let trial = || fs::read_to_string(&bench.places.trial).unwrap();
    assert_eq!(trial().trim(), "", "a crash now is the fault of others");
    drop(others);
    let outcome = handled.join().unwrap();
    assert!(matches!(outcome, Outcome::Refused), "{outcome:?}");
    assert_eq!((trial().trim(), bench.lines().len()), ("", 1));
}

#[test]
fn a_kill_between_line_and_move_is_made_good_without_a_second_line() {
    for (done, refused, place) in [
        (Done::Move, false, Some("done/a")),
        (Done::Move, true, Some("failed/a")),
        (Done::Delete, false, None),
        (Done::Delete, true, Some("failed/a")),
        (Done::Keep, false, Some("a")),
        (Done::Keep, true, Some("failed/a")),
    ] {
        let bench = Bench::new();
        let stamp = bench.write("a");
        fs::write(&bench.places.output, line_of(stamp, refused)).unwrap();
        for _ in 0..2 {
            let mut desk = bench.desk(done);
            assert_eq!(desk.look().unwrap().waiting, [], "{done:?}");
            if place == Some("a") {
                assert!(matches!(desk.handle(OsStr::new("a"), stamp), Outcome::Nothing));
            }
        }
        assert_eq!(bench.exists("a"), place == Some("a"), "{done:?} {refused}");
        assert!(place.is_none_or(|place| bench.exists(place)), "{done:?} {refused}");
        assert_eq!(bench.lines().len(), 1);
    }
}

#[test]
fn a_line_of_another_content_settles_nothing() {
    let bench = Bench::new();
    let before = bench.write("a");
    fs::write(&bench.places.output, line_of(before, false)).unwrap();
    fs::write(bench.root.path().join("in/a"), "something else").unwrap();
    let mut desk = bench.desk(Done::Move);
    let found = desk.look().unwrap().waiting;
    assert_eq!(found.len(), 1);
    // Without a model it waits.
    assert!(
        matches!(desk.handle(&found[0].0, found[0].1), Outcome::Wait(fault) if fault.code == ErrorCode::NotFound)
    );
    assert!(matches!(desk.handle(OsStr::new("a"), before), Outcome::Changed(now) if now == found[0].1));
    assert!(bench.exists("a"));
}

#[test]
fn what_cannot_be_moved_has_one_line_stays_and_is_tried_again_by_the_next_agent() {
    let bench = Bench::new();
    // Whoever runs this, a file in place of the target is in the way.
    fs::write(bench.root.path().join("in/failed"), "in the way").unwrap();
    fs::write(bench.root.path().join("in/a"), [0; 1_001]).unwrap();
    let stamp = stamp(&fs::symlink_metadata(bench.root.path().join("in/a")).unwrap());
    let mut desk = bench.desk(Done::Move);
    assert!(matches!(desk.handle(OsStr::new("a"), stamp), Outcome::Stuck(_)));
    assert!(matches!(desk.handle(OsStr::new("a"), stamp), Outcome::Nothing));
    assert_eq!(desk.look().unwrap().waiting, []);
    drop(bench.desk(Done::Move));
    assert_eq!((bench.lines().len(), bench.exists("a")), (1, true));
    fs::remove_file(bench.root.path().join("in/failed")).unwrap();
    drop(bench.desk(Done::Move));
    assert_eq!((bench.lines().len(), bench.exists("failed/a")), (1, true));
}

/// Whoever may put files into the folder must not have the agent write where they may not.
#[test]
fn a_link_in_place_of_done_or_failed_leads_nowhere_and_once_it_is_gone_all_goes_on() {
    let bench = Bench::new();
    let path = |name: &str| bench.root.path().join("in").join(name);
    let elsewhere = bench.root.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    for name in ["failed", "done"] {
        std::os::unix::fs::symlink(&elsewhere, path(name)).unwrap();
    }
    fs::write(path("a"), [0; 1_001]).unwrap();
    fs::write(path("b"), [0; 1_002]).unwrap();
    let done = bench.write("c");
    fs::write(&bench.places.output, line_of(done, false)).unwrap();

    let mut desk = bench.desk(Done::Move);
    for (name, stamp) in desk.look().unwrap().waiting {
        let Outcome::Stuck(fault) = desk.handle(&name, stamp) else { panic!("{name:?} went somewhere") };
        assert!(
            fault.detail.contains("in/failed: it is a link or a file")
                && fault.detail.contains("take it away")
        );
    }
    let looked = desk.look().unwrap();
    assert_eq!((looked.waiting.len(), looked.stuck), (0, 3));
    assert!(looked.problem.unwrap().detail.contains("take it away"));
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
    assert!(["a", "b", "c"].iter().all(|name| bench.exists(name)), "they stay");
    assert_eq!(bench.lines().len(), 3, "each has its line");

    fs::remove_file(path("failed")).unwrap();
    let looked = desk.look().unwrap();
    assert_eq!((looked.stuck, bench.exists("failed/a"), bench.exists("failed/b")), (1, true, true));
    fs::remove_file(path("done")).unwrap();
    assert_eq!((desk.look().unwrap().stuck, bench.exists("done/c")), (0, true));
    assert_eq!(fs::metadata(path("done")).unwrap().mode(), fs::metadata(path("")).unwrap().mode());
    assert_eq!((bench.lines().len(), fs::read_dir(&elsewhere).unwrap().count()), (3, 0));
}

/// Beyond what is listed at once there may be files that are done with: forgotten, they would have a second line.
#[test]
fn a_folder_that_is_too_large_to_be_listed_whole_forgets_nothing() {
    let bench = Bench::new();
    let stamps: Vec<Stamp> = ["a", "b", "c", "d"].iter().map(|name| bench.write(name)).collect();
    let mut desk = bench.desk(Done::Keep);
    for stamp in &stamps {
        desk.kept.add(*stamp, false).unwrap();
    }
    desk.most = 3;
    let entries = desk.entries().unwrap();
    assert_eq!((entries.files.len(), entries.all), (3, false));
    desk.forget_gone(&entries).unwrap();
    assert!(stamps.iter().all(|stamp| desk.kept.get(stamp).is_some()));

    desk.most = 4;
    fs::remove_file(bench.root.path().join("in/a")).unwrap();
    let entries = desk.entries().unwrap();
    desk.forget_gone(&entries).unwrap();
    let kept: Vec<bool> = stamps.iter().map(|stamp| desk.kept.get(stamp).is_some()).collect();
    assert_eq!(kept, [false, true, true, true]);
}

#[test]
fn a_file_that_takes_the_agent_down_again_and_again_is_put_aside() {
    let bench = Bench::new();
    let stamp = bench.write("a");
    for times in 0..trial::MOST {
        let trial = Trial::open(&bench.places.trial).unwrap();
        assert_eq!(trial.ended(stamp), times);
        trial.begin(stamp);
    }
    let mut desk = bench.desk(Done::Move);
    assert!(matches!(desk.handle(OsStr::new("a"), stamp), Outcome::Refused));
    assert_eq!(
        (bench.lines()[0]["code"].as_str(), bench.exists("failed/a")),
        (Some("inference_failed"), true)
    );

    // One that was predicted in peace is not suspected.
    let trial = Trial::open(&bench.places.trial).unwrap();
    trial.begin(stamp);
    trial.end();
    assert_eq!(Trial::open(&bench.places.trial).unwrap().ended(stamp), 0);
}

#[test]
fn a_link_a_pipe_and_a_folder_are_never_opened() {
    let bench = Bench::new();
    let path = |name: &str| bench.root.path().join("in").join(name);
    std::os::unix::fs::symlink("/etc/passwd", path("link")).unwrap();
    fs::create_dir(path("folder")).unwrap();
    rustix::fs::mknodat(CWD, path("pipe"), rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let mut desk = bench.desk(Done::Delete);
    let found = desk.look().unwrap().waiting;
    assert_eq!(found.len(), 3);
    for (name, stamp) in found {
        assert!(matches!(desk.handle(&name, stamp), Outcome::Refused));
    }
    assert!(bench.lines().iter().all(|line| line["code"] == "invalid_input"));
    assert!(fs::symlink_metadata(path("failed/link")).unwrap().is_symlink());
}

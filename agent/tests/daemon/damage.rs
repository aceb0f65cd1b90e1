//! What rots on the disk of a box that nobody visits. Each file is cut short, changed, emptied and removed while the
//! agent is down and the cloud away: the device comes up and serves something that was confirmed; once the cloud is
//! back it has what is wanted again, and has said what happened.

use crate::cloud::{Cloud, State};
use crate::device::Device;
use crate::releases::Plan;
use crate::updates::{confirmed, settled, want};
use flotilla_protocol::message::{DesiredModel, EventKind, EventRecord};
use std::fs;
use std::path::Path;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Damage {
    CutShort,
    First,
    Middle,
    Last,
    Empty,
    Missing,
}

impl Damage {
    const ALL: [Self; 6] =
        [Self::CutShort, Self::First, Self::Middle, Self::Last, Self::Empty, Self::Missing];
    /// One of each kind, for files where the place of a changed byte makes no difference.
    const KINDS: [Self; 4] = [Self::CutShort, Self::Middle, Self::Empty, Self::Missing];

    fn strike(self, path: &Path) {
        let mut bytes = fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let last = bytes.len() - 1;
        match self {
            Self::CutShort => bytes.truncate(bytes.len() / 2),
            Self::First => bytes[0] ^= 0x55,
            Self::Middle => bytes[last / 2] ^= 0x55,
            Self::Last => bytes[last] ^= 0x55,
            Self::Empty => bytes.clear(),
            Self::Missing => return fs::remove_file(path).unwrap(),
        }
        fs::write(path, bytes).unwrap();
    }
}

/// A device that confirmed a release which answers `a`, then one which answers `b`.
struct Bench {
    cloud: Cloud,
    device: Device,
    second: DesiredModel,
}

impl Bench {
    async fn new() -> Self {
        let (mut cloud, device, _) = settled().await;
        let second = Plan::good(1).publish(&cloud);
        want(&mut cloud, &second);
        confirmed(&cloud, second.release).await;
        Self { cloud, device, second }
    }

    /// Damages these files, each in the same way, while nothing runs.
    async fn strike(&mut self, damage: Damage, files: &[&str]) {
        assert!(self.device.terminate().await.success());
        self.cloud.stop().await;
        self.cloud.state().records.clear();
        self.cloud.state().reported = None;
        for file in files {
            damage.strike(&self.device.path(file));
        }
    }

    /// The first answer without a cloud.
    async fn answer(&mut self) -> String {
        self.device.start().await;
        self.device.until("an answer", async |device| device.answer().await).await.1
    }

    /// The cloud is back: what is wanted is confirmed, and serves.
    async fn recover(&mut self) {
        self.cloud.resume().await;
        confirmed(&self.cloud, self.second.release).await;
        let wanted = async |device: &Device| device.answer().await.filter(|(_, label)| label == "b");
        self.device.until("the wanted release", wanted).await;
        // It comes after the first report, which says what the slots hold.
        let stored = async |device: &Device| {
            fs::metadata(device.path("desired.cbor")).ok().filter(|meta| meta.len() > 0).map(drop)
        };
        self.device.until("the wanted state on the disk", stored).await;
    }

    /// The device has said so.
    async fn heard(&self, what: &str) {
        let told = |event: &&EventRecord| {
            matches!(event.kind, EventKind::Repaired | EventKind::Failed)
                && event.code.is_some()
                && event.detail.contains(what)
        };
        let find = |state: &State| state.events().find(told).cloned();
        self.cloud.until(&format!("word of {what}"), find).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_damaged_journal_the_wanted_release_is_found_in_its_slot_and_proves_itself_anew_without_the_cloud()
 {
    let mut bench = Bench::new().await;
    for damage in Damage::ALL {
        bench.strike(damage, &["models/letters/journal"]).await;
        assert_eq!(bench.answer().await, "b", "{damage:?}");
        bench.recover().await;
        bench.heard("journal").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_confirmed_release_gives_way_to_the_one_before_and_comes_back() {
    for file in ["release.cbor", "files/model.onnx", "files/golden.cbor"] {
        let mut bench = Bench::new().await;
        for damage in Damage::ALL {
            let slot = bench.device.journal().confirmed.unwrap().slot.as_str();
            bench.strike(damage, &[&format!("models/letters/slot-{slot}/{file}")]).await;
            assert_eq!(bench.answer().await, "a", "{file} {damage:?}");
            bench.recover().await;
            bench.heard(file.rsplit('/').next().unwrap()).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn if_every_model_is_damaged_the_device_fetches_the_wanted_one_by_itself_and_says_so() {
    let mut bench = Bench::new().await;
    for damage in Damage::ALL {
        let files = ["a", "b"].map(|slot| format!("models/letters/slot-{slot}/files/model.onnx"));
        // The other slot may be damaged from the time before.
        let whole = |file: &&str| fs::metadata(bench.device.path(file)).is_ok_and(|meta| meta.len() > 0);
        let both: Vec<&str> = files.iter().map(String::as_str).filter(whole).collect();
        bench.strike(damage, &both).await;
        bench.device.start().await;
        let said = async |device: &Device| {
            let status = device.status().await;
            let failure = &status["models"]["letters"]["failure"];
            (!failure.is_null()).then(|| failure["code"].as_str().map(ToOwned::to_owned))
        };
        let code = bench.device.until("a reason", said).await;
        assert!(
            matches!(code.as_deref(), Some("digest_mismatch" | "not_found" | "storage_corrupt")),
            "{code:?}"
        );
        assert_eq!(bench.device.answer().await, None, "nothing damaged is served");
        bench.recover().await;
        bench.heard("model.onnx").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_small_files_cost_nothing_but_what_they_said() {
    for (file, said) in [
        ("desired.cbor", Some("desired.cbor")),
        ("accepted", Some("accepted")),
        ("counter", Some("counter")),
        ("run/work-letters", None),
    ] {
        let mut bench = Bench::new().await;
        for damage in Damage::KINDS {
            bench.strike(damage, &[file]).await;
            assert_eq!(bench.answer().await, "b", "{file} {damage:?}");
            bench.recover().await;
            if let Some(said) = said.filter(|_| damage != Damage::Missing) {
                bench.heard(said).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trust_and_identity_are_put_back_from_their_copies() {
    for file in [
        "trust.cbor",
        "trust.copy.cbor",
        "identity/key.pem",
        "identity/cert.pem",
        "identity/ca.pem",
        "identity/device.json",
    ] {
        let mut bench = Bench::new().await;
        for damage in Damage::KINDS {
            if file == "identity/device.json" && damage == Damage::Middle {
                // Within an address: somebody may have written another one.
                continue;
            }
            let before = fs::read(bench.device.path(file)).unwrap();
            bench.strike(damage, &[file]).await;
            assert_eq!(bench.answer().await, "b", "{file} {damage:?}");
            bench.recover().await;
            let after = fs::read(bench.device.path(file)).unwrap();
            // A line that nobody reads may differ.
            let unread = [Damage::First, Damage::Middle, Damage::Last].contains(&damage);
            if after == before && (!unread || file.starts_with("trust")) && file != "trust.copy.cbor" {
                bench.heard("its copy").await;
            }
            assert!(after == before || unread, "{file} {damage:?} is as it was");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_usable_identity_or_trust_the_device_serves_says_what_to_do_and_goes_on_once_it_can() {
    for (pair, named) in [
        (["trust.cbor", "trust.copy.cbor"], "trust.cbor"),
        (["identity/key.pem", "identity.copy"], "key.pem"),
        (["identity/ca.pem", "identity.copy"], "ca.pem"),
    ] {
        let mut bench = Bench::new().await;
        let before = pair.map(|file| fs::read(bench.device.path(file)).unwrap());
        for damage in [Damage::CutShort, Damage::Empty, Damage::Missing] {
            bench.strike(damage, &pair).await;
            assert_eq!(bench.answer().await, "b", "{pair:?} {damage:?}");
            let status = bench.device.status().await;
            let problem = &status["connection_problem"];
            assert_eq!(problem["code"], "storage_corrupt");
            let detail = problem["detail"].as_str().unwrap();
            assert!(detail.contains(named) && detail.contains("enrol"), "{detail}");
            for (file, content) in pair.iter().zip(&before) {
                fs::write(bench.device.path(file), content).unwrap();
            }
            bench.recover().await;
            bench.heard("could reach nobody").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_outbox_stops_nobody_and_records_go_on() {
    for file in ["outbox/db", "outbox/conf"] {
        let mut bench = Bench::new().await;
        for damage in Damage::KINDS {
            bench.strike(damage, &[file]).await;
            assert_eq!(bench.answer().await, "b", "{file} {damage:?}");
            bench.recover().await;
            bench.cloud.until_event(EventKind::Started).await;
            // What is cut off or changed may be room that was not used yet.
            if matches!(damage, Damage::Empty | Damage::Missing) && file == "outbox/db" {
                bench.heard("outbox").await;
            }
        }
    }
}

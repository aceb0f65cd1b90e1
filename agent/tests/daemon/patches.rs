//! A release whose largest file comes as a patch of the one before, and everything that can be wrong with that.

use crate::cloud::{Cloud, State};
use crate::device::Device;
use crate::releases::Plan;
use crate::updates::{confirmed, want};
use flotilla_protocol::manifest::Patch;
use flotilla_protocol::message::{DesiredModel, EventKind};
use flotilla_protocol::{Digest, ErrorCode, ReleaseManifest, limits};
use std::fs;

const CHUNKS: usize = 24;

/// A device with one release confirmed, and what the next one is made of.
struct Bench {
    cloud: Cloud,
    device: Device,
    base: Vec<u8>,
    new: Vec<u8>,
}

fn plan(label: usize) -> Plan {
    Plan { ballast_chunks: CHUNKS, ..Plan::good(label) }
}

impl Bench {
    async fn new() -> Self {
        let mut cloud = Cloud::start().await;
        let first = plan(0).publish(&cloud);
        want(&mut cloud, &first);
        let device = Device::started(&cloud).await;
        confirmed(&cloud, first.release).await;
        cloud.state().asked.clear();
        Self { cloud, device, base: plan(0).ballast(), new: plan(1).ballast() }
    }

    fn patch(&self) -> Vec<u8> {
        flotilla_patch::make(Some(&self.base), &self.new, usize::MAX).unwrap()
    }

    /// The next release, with these patches of its largest file.
    fn publish(&self, patches: Vec<Patch>) -> DesiredModel {
        let with = move |m: &mut ReleaseManifest| m.files[2].patches = patches.clone();
        Plan { manifest: Box::new(with), ..plan(1) }.publish(&self.cloud)
    }

    fn of_base(&self, method: &str, content: &[u8]) -> Patch {
        Patch::of(Some(Digest::of(&self.base)), method, content)
    }

    /// How many chunks of a content were asked for.
    fn asked(&self, content: &[u8]) -> usize {
        self.cloud.state().asked.get(&Digest::of(content)).map_or(0, Vec::len)
    }

    /// The new release serves, made of what it should be made of.
    async fn check(&self, unpatched: &[ErrorCode]) {
        assert_eq!(self.device.label().await, "b");
        let stored = fs::read(self.device.path("models/letters/slot-b/files/ballast.bin")).unwrap();
        assert!(stored == self.new);
        assert!(!self.device.path("models/letters/slot-b/partial").exists(), "nothing of the patch stays");
        if !unpatched.is_empty() {
            self.cloud.until_event(EventKind::Unpatched).await;
        }
        assert_eq!(codes(&self.cloud.state()), unpatched);
    }
}

fn codes(state: &State) -> Vec<ErrorCode> {
    let unpatched = state.events().filter(|event| event.kind == EventKind::Unpatched);
    unpatched.filter_map(|event| event.code).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_release_comes_as_a_patch() {
    let mut bench = Bench::new().await;
    let patch = bench.patch();
    assert!(patch.len() < bench.new.len() / 4, "{}", patch.len());
    bench.cloud.put(patch.clone());
    let second = bench.publish(vec![bench.of_base(flotilla_patch::METHOD, &patch)]);
    want(&mut bench.cloud, &second);
    let report = confirmed(&bench.cloud, second.release).await;
    assert_eq!(report.bytes_rebuilt, bench.new.len() as u64);
    assert_eq!(report.bytes_patches, patch.len() as u64);
    assert_eq!(bench.asked(&bench.new), 0, "the file itself is not asked for");
    assert_eq!(bench.asked(&patch), patch.len().div_ceil(limits::CHUNK));
    bench.check(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_damaged_base_the_file_itself_is_fetched_and_the_patch_is_not() {
    let mut bench = Bench::new().await;
    let patch = bench.patch();
    bench.cloud.put(patch.clone());
    let base = bench.device.path("models/letters/slot-a/files/ballast.bin");
    let mut damaged = bench.base.clone();
    damaged[limits::CHUNK + 7] ^= 1;
    fs::write(base, damaged).unwrap();
    let second = bench.publish(vec![bench.of_base(flotilla_patch::METHOD, &patch)]);
    want(&mut bench.cloud, &second);
    let report = confirmed(&bench.cloud, second.release).await;
    assert_eq!((report.bytes_rebuilt, report.bytes_patches), (0, 0));
    assert_eq!((bench.asked(&patch), bench.asked(&bench.new)), (0, CHUNKS));
    bench.check(&[ErrorCode::DigestMismatch]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_wrong_patch_makes_is_not_believed() {
    let mut bench = Bench::new().await;
    let mut patch = bench.patch();
    let late = patch.len() * 3 / 4;
    patch[late] ^= 0x55;
    bench.cloud.put(patch.clone());
    let second = bench.publish(vec![bench.of_base(flotilla_patch::METHOD, &patch)]);
    want(&mut bench.cloud, &second);
    confirmed(&bench.cloud, second.release).await;
    let fetched = bench.asked(&bench.new);
    assert!((1..CHUNKS).contains(&fetched), "{fetched}: what came out right before is kept");
    bench.check(&[ErrorCode::DigestMismatch]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_patch_that_the_cloud_does_not_give_out_or_of_a_later_method_costs_nothing() {
    let mut bench = Bench::new().await;
    let patch = bench.patch();
    let second = bench.publish(vec![
        bench.of_base("delta-2", b"a better way of later"),
        bench.of_base(flotilla_patch::METHOD, &patch),
    ]);
    want(&mut bench.cloud, &second);
    confirmed(&bench.cloud, second.release).await;
    assert_eq!((bench.asked(b"a better way of later"), bench.asked(&bench.new)), (0, CHUNKS));
    bench.check(&[ErrorCode::NotFound]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_patch_that_is_damaged_in_the_cloud_holds_nothing_up() {
    let mut bench = Bench::new().await;
    let patch = bench.patch();
    let mut damaged = patch.clone();
    // Its last chunk never comes out right, however often it is asked for.
    *damaged.last_mut().unwrap() ^= 1;
    bench.cloud.state().objects.insert(Digest::of(&patch), damaged);
    let second = bench.publish(vec![bench.of_base(flotilla_patch::METHOD, &patch)]);
    want(&mut bench.cloud, &second);
    confirmed(&bench.cloud, second.release).await;
    assert_eq!(bench.asked(&bench.new), CHUNKS);
    bench.check(&[ErrorCode::Network]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_while_the_patch_is_fetched_resumes_where_it_was() {
    let mut bench = Bench::new().await;
    let patch = bench.patch();
    let chunks = patch.len().div_ceil(limits::CHUNK);
    assert!(chunks >= 3, "{chunks}");
    bench.cloud.put(patch.clone());
    let second = bench.publish(vec![bench.of_base(flotilla_patch::METHOD, &patch)]);
    // The envelope, and the first chunk of the patch.
    let digest = Digest::of(&patch);
    bench.cloud.state().budget = Some(2);
    want(&mut bench.cloud, &second);
    let partial = bench.device.path(&format!("models/letters/slot-b/partial/.{digest}"));
    let is_there = async |_: &Device| fs::metadata(&partial).ok().filter(|m| m.len() >= limits::CHUNK as u64);
    bench.device.until("the first chunk", is_there).await;
    bench.device.kill().await;
    {
        let mut state = bench.cloud.state();
        state.budget = None;
        state.asked.clear();
    }
    bench.device.start().await;
    confirmed(&bench.cloud, second.release).await;
    assert_eq!((bench.asked(&patch), bench.asked(&bench.new)), (chunks - 1, 0));
    bench.check(&[]).await;
}

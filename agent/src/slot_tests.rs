//! What is left of a download after a restart, and what a slot lets through.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use super::*;
use flotilla_device::download::{Moment, Next, Pace};
use flotilla_protocol::Pipeline;
use flotilla_protocol::manifest::{Constraints, Golden, Lineage, Metrics, ReleaseKind, Variant};
use flotilla_protocol::pipeline::{
    Activation, Classification, Colour, ImageInput, Input, Layout, Output, Resize,
};
use flotilla_protocol::signature::SigningKey;
use std::fs;

pub(crate) fn content(seed: u8) -> Vec<u8> {
    (0..2 * limits::CHUNK + 77).map(|i| (i % 253) as u8 ^ seed).collect()
}

pub(crate) fn manifest() -> ReleaseManifest {
    let image = ImageInput {
        width: 2,
        height: 2,
        colour: Colour::Grey,
        resize: Resize::Exact,
        layout: Layout::Nchw,
        mean: vec![0.0],
        std: vec![1.0],
        ..ImageInput::none()
    };
    let labels = vec!["a".into(), "b".into()];
    let output = Classification::new(labels, Activation::Softmax);
    let golden = codec::encode(&Golden { tolerance: 0.1, vectors: Vec::new() });
    ReleaseManifest {
        format: 1,
        kind: ReleaseKind::Model,
        project: "default".parse().unwrap(),
        model: "digits".parse().unwrap(),
        version: 1,
        counter: 1,
        created_at_ms: 0,
        expires_at_ms: None,
        variants: vec![Variant { engine: ENGINE_TRACT.into(), boards: Vec::new(), model: "m".into() }],
        files: vec![
            FileEntry::of("m", &content(1)),
            FileEntry::of("copy", &content(1)),
            FileEntry::of("empty", &[]),
            FileEntry::of("golden", &golden),
        ],
        pipeline: Pipeline::new(Input::Image(image), Output::Classification(output)),
        golden: "golden".into(),
        metrics: Metrics::default(),
        lineage: Lineage::default(),
        constraints: Constraints::default(),
        agent: None,
        baseline: None,
    }
}

/// A slot on the real disk.
pub(crate) fn slot_below(root: &Path, place: &str) -> Slot {
    Slot::new(Arc::new(crate::disk::FolderDisk::new(root).unwrap()), root, place.into())
}

struct Bench {
    _root: tempfile::TempDir,
    slot: Slot,
    manifest: ReleaseManifest,
}

impl Bench {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let slot = slot_below(root.path(), "models/digits/slot-a");
        Self { slot, _root: root, manifest: manifest() }
    }

    fn resume(&self) -> Download {
        let mut download = Download::files(&self.manifest.files);
        self.slot.resume(&self.manifest, &mut download).unwrap();
        download
    }

    /// Fetches what is missing; returns how many chunks that were.
    fn fill(&self) -> u32 {
        let (mut download, mut pace, moment) = (self.resume(), Pace::default(), Moment::default());
        let contents = [content(1), codec::encode(&Golden { tolerance: 0.1, vectors: Vec::new() })];
        let mut asked = 0;
        for id in 0.. {
            match download.next(id, &mut pace, &moment) {
                Next::Complete => break,
                Next::Wait { .. } => panic!("every chunk is answered at once"),
                Next::Fetch(fetch) => {
                    let source = contents.iter().find(|c| Digest::of(c) == fetch.digest).unwrap();
                    for i in 0..u64::from(fetch.chunks) {
                        let offset = fetch.offset + i * limits::CHUNK as u64;
                        let end = (offset as usize + limits::CHUNK).min(source.len());
                        let data = source[offset as usize..end].to_vec();
                        let chunk = Chunk { digest: fetch.digest, offset, total: source.len() as u64, data };
                        download.accept(&chunk, &mut pace, &moment);
                        self.slot.write(&self.manifest, &chunk).unwrap();
                        asked += 1;
                    }
                }
            }
        }
        asked
    }

    /// Puts the release's envelope into the slot.
    fn seal(&self) {
        let key = SigningKey::from_seed(&[3; 32]);
        let envelope = Envelope::seal(EnvelopeKind::Release, &self.manifest, &[&key]);
        self.slot.put_envelope(&envelope.to_bytes()).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.slot.path().join(name)
    }
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_download_ends_in_whole_files_under_their_names() {
    let bench = Bench::new();
    assert_eq!(bench.fill(), 4);
    bench.slot.finish(&bench.manifest).unwrap();
    for name in ["m", "copy"] {
        assert_eq!(fs::read(bench.path("files").join(name)).unwrap(), content(1));
    }
    assert_eq!(fs::read(bench.path("files/empty")).unwrap(), b"");
    assert!(!bench.path("partial").exists());
    assert_eq!(bench.slot.present_bytes(&bench.manifest), bench.manifest.total_bytes());
    bench.slot.check(&bench.manifest).unwrap();
}

#[test]
fn after_a_restart_only_what_is_missing_or_damaged_is_fetched() {
    let bench = Bench::new();
    bench.fill();
    flip(&bench.path("partial/m"), limits::CHUNK + 5);
    flip(&bench.path("partial/copy"), limits::CHUNK + 5);
    assert_eq!(bench.fill(), 1);
    bench.slot.finish(&bench.manifest).unwrap();
    assert_eq!(bench.fill(), 0, "finished files are not fetched again");
}

#[test]
fn a_finished_file_that_the_disk_damaged_costs_one_chunk() {
    let bench = Bench::new();
    bench.fill();
    bench.slot.finish(&bench.manifest).unwrap();
    flip(&bench.path("files/m"), 3);
    flip(&bench.path("files/copy"), 3);
    assert_eq!(bench.fill(), 1);
    bench.slot.finish(&bench.manifest).unwrap();
    assert_eq!(fs::read(bench.path("files/m")).unwrap(), content(1));
}

#[test]
fn of_files_with_the_same_content_one_mends_the_other() {
    let bench = Bench::new();
    bench.fill();
    flip(&bench.path("partial/copy"), 7);
    fs::remove_file(bench.path("partial/golden")).unwrap();
    let mut download = bench.resume();
    let reused = bench.slot.reuse(&bench.manifest, std::slice::from_ref(&bench.slot), &mut download).unwrap();
    assert_eq!(reused, 0, "without its envelope nobody knows what lies in a slot");
    bench.seal();
    let reused = bench.slot.reuse(&bench.manifest, std::slice::from_ref(&bench.slot), &mut download).unwrap();
    assert_eq!(reused, limits::CHUNK as u64);
    assert_eq!(bench.fill(), 1, "only what lies nowhere is fetched");
    bench.slot.finish(&bench.manifest).unwrap();
    assert_eq!(fs::read(bench.path("files/copy")).unwrap(), content(1));
}

#[test]
fn chunks_of_what_the_slot_held_before_are_copied_and_then_it_goes() {
    let bench = Bench::new();
    bench.seal();
    bench.fill();
    bench.slot.finish(&bench.manifest).unwrap();
    // The next release shares all but its first chunk, and is wanted although this one was never confirmed.
    let mut next = content(1);
    next[0] ^= 1;
    let manifest = ReleaseManifest { files: vec![FileEntry::of("m", &next)], ..manifest() };
    assert_eq!(bench.slot.prepare(Digest::of(b"next")).unwrap(), None);
    assert!(!bench.path("files").exists() && !bench.path("release.cbor").exists());
    assert!(bench.slot.present_bytes(&manifest) > 0, "its room will be free");
    let mut download = Download::files(&manifest.files);
    bench.slot.resume(&manifest, &mut download).unwrap();
    let nowhere = Bench::new();
    bench.slot.reuse(&manifest, std::slice::from_ref(&nowhere.slot), &mut download).unwrap();
    assert_eq!(download.missing().collect::<Vec<_>>(), [manifest.files[0].chunks[0]]);
    assert!(!bench.path("before").exists());
}

#[test]
fn chunks_of_the_other_slot_are_copied_wherever_they_stand_there_and_damaged_ones_are_not() {
    let (confirmed, next) = (Bench::new(), Bench::new());
    confirmed.seal();
    confirmed.fill();
    confirmed.slot.finish(&confirmed.manifest).unwrap();
    // The new release begins with something new; what follows stood at the beginning before.
    let mut moved = content(9)[..limits::CHUNK].to_vec();
    moved.extend_from_slice(&content(1)[..2 * limits::CHUNK]);
    let manifest = ReleaseManifest { files: vec![FileEntry::of("other-name", &moved)], ..manifest() };
    let reuse = || {
        let mut download = Download::files(&manifest.files);
        next.slot.resume(&manifest, &mut download).unwrap();
        let reused =
            next.slot.reuse(&manifest, std::slice::from_ref(&confirmed.slot), &mut download).unwrap();
        (reused, download.missing().collect::<Vec<_>>())
    };
    flip(&confirmed.path("files/m"), limits::CHUNK + 1);
    flip(&confirmed.path("files/copy"), limits::CHUNK + 1);
    let chunks = &manifest.files[0].chunks;
    assert_eq!(reuse(), (limits::CHUNK as u64, vec![chunks[0], chunks[2]]), "a damaged chunk is no chunk");
    flip(&confirmed.path("files/copy"), limits::CHUNK + 1);
    assert_eq!(reuse(), (limits::CHUNK as u64, vec![chunks[0]]), "the rest, from the file that is whole");
    let written = fs::read(next.path("partial/other-name")).unwrap();
    assert_eq!(written[limits::CHUNK..], moved[limits::CHUNK..]);
    assert!(confirmed.slot.check(&confirmed.manifest).is_err(), "nothing is mended over there");
}

#[test]
fn a_file_with_something_behind_its_end_is_cut_to_its_size() {
    let bench = Bench::new();
    bench.fill();
    let mut long = content(1);
    long.extend([7; 999]);
    fs::write(bench.path("partial/m"), long).unwrap();
    assert_eq!(bench.fill(), 0);
    bench.slot.finish(&bench.manifest).unwrap();
    assert_eq!(fs::read(bench.path("files/m")).unwrap(), content(1));
}

#[test]
fn a_chunk_that_changes_before_the_end_is_found_and_fetched_anew() {
    let bench = Bench::new();
    bench.fill();
    flip(&bench.path("partial/m"), 0);
    let fault = bench.slot.finish(&bench.manifest).unwrap_err();
    assert_eq!((fault.code, fault.transient), (ErrorCode::StorageCorrupt, true));
}

#[test]
fn right_chunks_of_a_wrong_file_are_the_manifests_fault() {
    let mut bench = Bench::new();
    bench.fill();
    for file in bench.manifest.files.iter_mut().filter(|file| file.name == "m") {
        file.digest = Digest::of(b"another");
    }
    let fault = bench.slot.finish(&bench.manifest).unwrap_err();
    assert_eq!((fault.code, fault.transient), (ErrorCode::DigestMismatch, false));
}

#[test]
fn a_slot_keeps_the_wanted_release_and_nothing_of_another() {
    let bench = Bench::new();
    let key = SigningKey::from_seed(&[3; 32]);
    let bytes = Envelope::seal(EnvelopeKind::Release, &bench.manifest, &[&key]).to_bytes();
    let release = Digest::of(&bytes);
    assert_eq!(bench.slot.prepare(release).unwrap(), None);
    bench.slot.put_envelope(&bytes).unwrap();
    bench.fill();
    assert_eq!(bench.slot.prepare(release).unwrap(), Some(bytes));
    assert_eq!(bench.slot.manifest(release).unwrap(), bench.manifest);
    assert!(bench.path("partial/m").exists());
    assert_eq!(bench.slot.prepare(Digest::of(b"other")).unwrap(), None);
    assert!(!bench.path("partial").exists() && !bench.path("release.cbor").exists());
}

#[test]
fn a_changed_envelope_or_file_is_never_loaded() {
    let bench = Bench::new();
    let key = SigningKey::from_seed(&[3; 32]);
    let bytes = Envelope::seal(EnvelopeKind::Release, &bench.manifest, &[&key]).to_bytes();
    let release = Digest::of(&bytes);
    bench.slot.put_envelope(&bytes).unwrap();
    bench.fill();
    bench.slot.finish(&bench.manifest).unwrap();
    flip(&bench.path("files/golden"), 1);
    assert_eq!(bench.slot.load(release, "generic").unwrap_err().code, ErrorCode::DigestMismatch);
    flip(&bench.path("release.cbor"), bytes.len() / 2);
    assert_eq!(bench.slot.load(release, "generic").unwrap_err().code, ErrorCode::StorageCorrupt);
    bench.slot.clear().unwrap();
    assert_eq!(bench.slot.load(release, "generic").unwrap_err().code, ErrorCode::NotFound);
}

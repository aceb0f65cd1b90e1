//! Which patch is taken.

use super::*;
use flotilla_protocol::limits;

const CHUNK: usize = limits::CHUNK;

fn content(byte: u8, chunks: usize) -> Vec<u8> {
    (0..chunks).flat_map(|chunk| vec![byte ^ chunk as u8; CHUNK]).collect()
}

fn base(name: &str) -> Digest {
    Digest::of(name.as_bytes())
}

/// A file of four chunks with patches of two, one and three.
fn file() -> FileEntry {
    let mut file = FileEntry::of("model.onnx", &content(0, 4));
    file.patches = vec![
        Patch::of(Some(base("older")), METHOD, &content(10, 2)),
        Patch::of(Some(base("newer")), METHOD, &content(20, 1)),
        Patch::of(None, METHOD, &content(30, 3)),
    ];
    file
}

fn bases(patches: &mut Patches, download: &Download, held: &[&str]) -> Vec<Option<Digest>> {
    let held: Vec<Digest> = held.iter().map(|name| base(name)).collect();
    let next = || patches.next(download, |base| held.contains(base), |_| 0);
    std::iter::from_fn(next).map(|choice| choice.patch.base).collect()
}

#[test]
fn the_cheapest_with_a_base_that_is_held_comes_first_and_each_is_tried_once() {
    let files = [file(), FileEntry::of("golden.cbor", b"vectors")];
    let download = Download::files(&files);
    let tried = |held: &[&str]| bases(&mut Patches::of(&files), &download, held);
    assert_eq!(tried(&["older", "newer"]), [Some(base("newer")), Some(base("older")), None]);
    assert_eq!(tried(&["older"]), [Some(base("older")), None]);
    assert_eq!(tried(&["another"]), [None], "a new device has the compressed file");
}

#[test]
fn a_method_of_later_is_passed_over() {
    let mut file = file();
    file.patches.iter_mut().for_each(|patch| patch.method = "delta-2".into());
    let download = Download::files(std::slice::from_ref(&file));
    assert!(bases(&mut Patches::of(&[file]), &download, &["older", "newer"]).is_empty());
}

#[test]
fn no_patch_is_fetched_where_less_of_the_file_is_missing() {
    let file = file();
    let mut download = Download::files(std::slice::from_ref(&file));
    (0..3).for_each(|index| download.have(file.digest, index));
    assert_eq!(download.missing_bytes(&file.digest), CHUNK as u64);
    let mut patches = Patches::of(std::slice::from_ref(&file));
    assert_eq!(patches.next(&download, |_| true, |_| 0), None);
    // What of the patch is here already need not be fetched.
    let choice = patches.next(&download, |_| true, |patch| patch.bytes);
    assert!(choice.is_some());
    download.have(file.digest, 3);
    assert_eq!(patches.next(&download, |_| true, |patch| patch.bytes), None, "a whole file needs none");
}

#[test]
fn a_patch_is_given_up_for_what_the_cloud_says_and_not_for_a_link_that_is_down() {
    let entry = file().patches[0].entry();
    let fresh = || Download::files(std::slice::from_ref(&entry));
    let fault = |code| Fault::transient(code, "");
    for (code, given_up) in [
        (ErrorCode::NotFound, true),
        (ErrorCode::FetchDenied, true),
        (ErrorCode::NoRoom, true),
        (ErrorCode::Network, false),
        (ErrorCode::StorageIo, false),
    ] {
        assert_eq!(is_given_up(&fault(code), &fresh()), given_up, "{code}");
    }
    let (mut pace, moment) = (crate::download::Pace::default(), crate::download::Moment::default());
    let asked = |pace: &mut crate::download::Pace| {
        let mut download = fresh();
        assert!(matches!(download.next(7, pace, &moment), crate::download::Next::Fetch(_)));
        download
    };
    let mut wrong = asked(&mut pace);
    let data = vec![1; CHUNK];
    let chunk =
        flotilla_protocol::message::Chunk { digest: entry.digest, offset: 0, total: entry.bytes, data };
    wrong.accept(&chunk, &mut pace, &moment);
    let mut refused = asked(&mut pace);
    refused.refused(7, &mut pace, &moment);
    for download in [wrong, refused] {
        assert!(is_given_up(&fault(ErrorCode::Network), &download));
    }
}

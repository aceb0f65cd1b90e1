//! Downloads over links that lose, repeat, reorder and change chunks.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use super::*;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;

fn content(chunks: usize, tail: usize, salt: u8) -> Vec<u8> {
    (0..chunks * limits::CHUNK + tail).map(|i| (i / 7 + i % 251) as u8 ^ salt).collect()
}

fn chunk_of(content: &[u8], offset: usize) -> Chunk {
    let end = (offset + limits::CHUNK).min(content.len());
    Chunk {
        digest: Digest::of(content),
        offset: offset as u64,
        total: content.len() as u64,
        data: content[offset..end].to_vec(),
    }
}

fn fetch(download: &mut Download, id: u64, now: u64) -> Fetch {
    match download.next(id, now, 0) {
        Next::Fetch(fetch) => fetch,
        other => panic!("expected a fetch, got {other:?}"),
    }
}

#[test]
fn a_download_over_a_good_link_asks_for_each_chunk_once() {
    let file = content(20, 5, 1);
    let mut download = Download::files(&[FileEntry::of("m", &file)]);
    let mut asked = 0;
    let mut id = 0;
    let mut queue = Vec::new();
    loop {
        id += 1;
        match download.next(id, 0, 0) {
            Next::Fetch(fetch) => {
                assert_eq!(fetch.check(), Ok(()));
                asked += fetch.chunks;
                queue.extend((0..fetch.chunks as usize).map(|i| fetch.offset as usize + i * limits::CHUNK));
                assert!(queue.len() <= WINDOW as usize);
            }
            Next::Wait { .. } => {
                let offset = queue.remove(0);
                assert_eq!(download.accept(&chunk_of(&file, offset), 0, 0), Verdict::Write);
            }
            Next::Complete => break,
        }
    }
    assert_eq!((asked, download.bytes_done()), (21, file.len() as u64));
}

#[test]
fn chunks_on_disk_are_not_asked_for_and_damaged_ones_are() {
    let file = content(3, 0, 2);
    let entry = FileEntry::of("m", &file);
    let mut download = Download::files(std::slice::from_ref(&entry));
    assert!(download.mark(entry.digest, 0, &file[..limits::CHUNK]));
    let mut damaged = file[limits::CHUNK..2 * limits::CHUNK].to_vec();
    damaged[9] ^= 1;
    assert!(!download.mark(entry.digest, 1, &damaged));
    assert!(download.mark(entry.digest, 2, &file[2 * limits::CHUNK..]));
    assert!(!download.mark(entry.digest, 3, &[]));
    let asked = fetch(&mut download, 1, 0);
    assert_eq!((asked.offset, asked.chunks), (limits::CHUNK as u64, 1));
}

#[test]
fn a_wrong_chunk_is_counted_and_asked_for_again_after_a_while() {
    let file = content(1, 9, 3);
    let mut download = Download::files(&[FileEntry::of("m", &file)]);
    assert_eq!(fetch(&mut download, 1, 0).chunks, 2);
    let mut bad = chunk_of(&file, 0);
    bad.data[100] ^= 1;
    assert_eq!(download.accept(&bad, 0, 0), Verdict::Wrong);
    assert_eq!(download.wrong(), 1);
    let Next::Wait { until_ms } = download.next(2, 0, 0) else {
        panic!("a wrong chunk is not asked for at once")
    };
    let again = fetch(&mut download, 2, until_ms);
    assert_eq!((again.offset, again.chunks), (0, 1));
    assert_eq!(download.accept(&chunk_of(&file, 0), until_ms, 0), Verdict::Write);
    assert_eq!(download.accept(&chunk_of(&file, limits::CHUNK), until_ms, 0), Verdict::Write);
    assert_eq!(download.next(3, until_ms, 0), Next::Complete);
}

#[test]
fn silence_and_refusals_are_answered_by_asking_ever_later() {
    let file = content(1, 0, 4);
    let mut download = Download::files(&[FileEntry::of("m", &file)]);
    let mut now = 0;
    let mut waits = Vec::new();
    for id in 0..4 {
        fetch(&mut download, id, now);
        if id % 2 == 0 {
            now += TIMEOUT_MS;
        } else {
            assert!(!download.refused(id + 100, now, 0));
            assert!(download.refused(id, now, 0));
        }
        let Next::Wait { until_ms } = download.next(id, now, 0) else { panic!("no wait after trouble {id}") };
        waits.push(until_ms - now);
        now = until_ms;
    }
    assert_eq!(waits, [125, 250, 500, 1_000]);
    assert_eq!(download.troubles(), 4);
}

#[test]
fn a_lost_link_is_no_reason_to_wait() {
    let file = content(2, 0, 5);
    let mut download = Download::files(&[FileEntry::of("m", &file)]);
    fetch(&mut download, 1, 0);
    download.disconnected();
    assert_eq!(fetch(&mut download, 2, 0).chunks, 2);
}

#[test]
fn a_document_is_checked_as_a_whole_and_fetched_anew_if_wrong() {
    let text = content(1, 50, 6);
    let mut download = Download::document(Digest::of(&text), text.len() as u64);
    fetch(&mut download, 1, 0);
    let mut bad = chunk_of(&text, 0);
    bad.data[0] ^= 1;
    assert_eq!(download.accept(&bad, 0, 0), Verdict::Write);
    assert_eq!(download.accept(&chunk_of(&text, limits::CHUNK), 0, 0), Verdict::Write);
    assert_eq!(download.next(2, 0, 0), Next::Complete);
    download.restart(0, 0);
    assert_eq!((download.bytes_done(), download.wrong()), (0, 1));
    assert_eq!(fetch(&mut download, 2, 60_000).chunks, 2);
}

#[test]
fn chunks_of_the_wrong_size_or_place_are_never_written() {
    let text = content(1, 50, 7);
    let mut download = Download::document(Digest::of(&text), text.len() as u64);
    let good = chunk_of(&text, 0);
    let short = Chunk { data: good.data[1..].to_vec(), ..good.clone() };
    let odd = Chunk { offset: 1, ..good.clone() };
    let beyond = Chunk { offset: 2 * limits::CHUNK as u64, ..good.clone() };
    let resized = Chunk { total: 7, ..good.clone() };
    for bad in [short, odd, beyond, resized] {
        assert_eq!(download.accept(&bad, 0, 0), Verdict::Wrong);
    }
    let foreign = Chunk { digest: Digest::of(b"other"), ..good };
    assert_eq!(download.accept(&foreign, 0, 0), Verdict::Foreign);
    assert_eq!(download.bytes_done(), 0);
}

#[test]
fn an_empty_file_needs_nothing() {
    let mut download = Download::files(&[FileEntry::of("empty", &[])]);
    assert_eq!(download.next(1, 0, 0), Next::Complete);
}

/// Over any link that lets something through now and then, every download ends, with exactly the right bytes,
/// and never more than a window in flight.
#[test]
fn every_download_ends_with_the_right_bytes() {
    for seed in 0..100 {
        run_over_a_bad_link(seed);
    }
}

fn run_over_a_bad_link(seed: u64) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let contents: Vec<Vec<u8>> =
        (0..3).map(|i| content(rng.random_range(0..4), rng.random_range(0..9), i)).collect();
    let mut entries: Vec<FileEntry> =
        contents.iter().enumerate().map(|(i, c)| FileEntry::of(format!("f{i}"), c)).collect();
    entries.push(FileEntry { name: "copy".into(), ..entries[0].clone() });
    let by_digest: BTreeMap<Digest, &Vec<u8>> = contents.iter().map(|c| (Digest::of(c), c)).collect();
    let mut written: BTreeMap<Digest, Vec<u8>> =
        contents.iter().map(|c| (Digest::of(c), vec![0; c.len()])).collect();

    let mut download = Download::files(&entries);
    let mut wire: Vec<Chunk> = Vec::new();
    let mut now = 0;
    for id in 0.. {
        assert!(id < 20_000, "seed {seed}: the download does not end");
        assert!(download.in_flight <= WINDOW, "seed {seed}");
        match download.next(id, now, rng.random()) {
            Next::Complete => break,
            Next::Fetch(fetch) => {
                assert_eq!(fetch.check(), Ok(()), "seed {seed}");
                let source = by_digest[&fetch.digest];
                for i in 0..fetch.chunks as usize {
                    let offset = fetch.offset as usize + i * limits::CHUNK;
                    let mut chunk = chunk_of(source, offset);
                    match rng.random_range(0..10) {
                        0 => continue,
                        1 => *chunk.data.last_mut().unwrap() ^= 1,
                        2 => wire.push(chunk.clone()),
                        _ => {}
                    }
                    let place = rng.random_range(0..=wire.len());
                    wire.insert(place, chunk);
                }
                if rng.random_ratio(1, 20) {
                    wire.clear();
                    download.disconnected();
                }
            }
            Next::Wait { until_ms } => match wire.pop() {
                Some(chunk) => {
                    if download.accept(&chunk, now, rng.random()) == Verdict::Write {
                        let start = chunk.offset as usize;
                        written.get_mut(&chunk.digest).unwrap()[start..start + chunk.data.len()]
                            .copy_from_slice(&chunk.data);
                    }
                }
                None => now = now.max(until_ms),
            },
        }
    }
    for (digest, bytes) in &written {
        assert_eq!(Digest::of(bytes), *digest, "seed {seed}");
    }
    assert_eq!(download.bytes_done(), download.bytes_total(), "seed {seed}");
}

//! Downloads over links that lose, repeat, reorder and change chunks, under clocks that jump.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use super::*;
use crate::budget::BURST_MS;
use crate::window::{START, TIMEOUT_MS};
use flotilla_protocol::message::{QuietHours, Settings};
use proptest::prelude::*;
use std::collections::BTreeMap;

const CHUNK: usize = limits::CHUNK;

fn content(chunks: usize, tail: usize, salt: u8) -> Vec<u8> {
    (0..chunks * CHUNK + tail).map(|i| (i / CHUNK * 3 + i / 7 + i % 251) as u8 ^ salt).collect()
}

fn chunk_of(content: &[u8], offset: usize) -> Chunk {
    let end = (offset + CHUNK).min(content.len());
    Chunk {
        digest: Digest::of(content),
        offset: offset as u64,
        total: content.len() as u64,
        data: content[offset..end].to_vec(),
    }
}

fn at(now_ms: u64) -> Moment {
    Moment { now_ms, ..Moment::default() }
}

fn fetch(download: &mut Download, pace: &mut Pace, id: u64, now: u64) -> Fetch {
    match download.next(id, pace, &at(now)) {
        Next::Fetch(fetch) => fetch,
        other => panic!("expected a fetch, got {other:?}"),
    }
}

fn offsets(fetch: &Fetch) -> impl Iterator<Item = usize> + use<> {
    let first = fetch.offset as usize;
    (0..fetch.chunks as usize).map(move |i| first + i * CHUNK)
}

#[test]
fn a_download_over_a_good_link_asks_for_each_chunk_once_and_opens_the_window() {
    let file = content(60, 5, 1);
    let (mut download, mut pace) = (Download::files(&[FileEntry::of("m", &file)]), Pace::default());
    let mut asked = 0;
    let mut most = 0;
    let mut queue = Vec::new();
    for id in 0.. {
        match download.next(id, &mut pace, &at(0)) {
            Next::Fetch(fetch) => {
                assert_eq!(fetch.check(), Ok(()));
                asked += fetch.chunks;
                queue.extend(offsets(&fetch));
                most = most.max(queue.len());
            }
            Next::Wait { .. } => {
                let chunk = chunk_of(&file, queue.remove(0));
                assert_eq!(download.accept(&chunk, &mut pace, &at(0)), Verdict::Write);
            }
            Next::Complete => break,
        }
    }
    assert_eq!((asked, download.bytes_done()), (61, file.len() as u64));
    assert_eq!(most, limits::FETCH_WINDOW);
}

#[test]
fn chunks_that_are_there_are_not_asked_for() {
    let file = content(3, 0, 2);
    let entry = FileEntry::of("m", &file);
    let (mut download, mut pace) = (Download::files(std::slice::from_ref(&entry)), Pace::default());
    download.have(entry.digest, 0);
    download.have(entry.digest, 9);
    assert_eq!(download.found(&file[2 * CHUNK..]), CHUNK as u64);
    assert_eq!(download.found(b"of no file of it"), 0);
    assert_eq!(download.missing().collect::<Vec<_>>(), entry.chunks[1..2]);
    let asked = fetch(&mut download, &mut pace, 1, 0);
    assert_eq!((asked.offset, asked.chunks), (CHUNK as u64, 1));
    assert_eq!(download.found(&file[CHUNK..2 * CHUNK]), CHUNK as u64, "even what is in flight");
    assert_eq!(download.next(2, &mut pace, &at(0)), Next::Complete);
}

#[test]
fn a_chunk_that_stands_in_several_places_is_asked_for_once() {
    let mut first = content(1, 0, 3);
    first.extend_from_slice(&content(1, 0, 4));
    first.extend_from_slice(&content(1, 0, 3));
    let mut second = content(1, 0, 5);
    second.extend_from_slice(&content(1, 0, 3));
    let entries = [FileEntry::of("a", &first), FileEntry::of("b", &second)];
    let (mut download, mut pace) = (Download::files(&entries), Pace::default());
    pace.window.silent();
    let asked = fetch(&mut download, &mut pace, 1, 0);
    assert_eq!((asked.offset, asked.chunks), (0, 1));
    download.accept(&chunk_of(&first, 0), &mut pace, &at(0));
    assert_eq!(download.bytes_done(), 3 * CHUNK as u64);
}

#[test]
fn a_wrong_chunk_is_counted_and_asked_for_again_after_a_while() {
    let file = content(1, 9, 3);
    let (mut download, mut pace) = (Download::files(&[FileEntry::of("m", &file)]), Pace::default());
    assert_eq!(fetch(&mut download, &mut pace, 1, 0).chunks, 2);
    let mut bad = chunk_of(&file, 0);
    bad.data[100] ^= 1;
    assert_eq!(download.accept(&bad, &mut pace, &at(0)), Verdict::Wrong);
    assert_eq!((download.wrong(), pace.window.chunks()), (1, START / 2));
    let Next::Wait { until_ms } = download.next(2, &mut pace, &at(0)) else {
        panic!("a wrong chunk is not asked for at once")
    };
    let again = fetch(&mut download, &mut pace, 2, until_ms);
    assert_eq!((again.offset, again.chunks), (0, 1));
    assert_eq!(download.accept(&chunk_of(&file, 0), &mut pace, &at(until_ms)), Verdict::Write);
    assert_eq!(download.accept(&chunk_of(&file, CHUNK), &mut pace, &at(until_ms)), Verdict::Write);
    assert_eq!(download.next(3, &mut pace, &at(until_ms)), Next::Complete);
}

#[test]
fn a_lost_chunk_is_asked_for_again_as_soon_as_later_ones_show_it() {
    let file = content(40, 0, 9);
    let (mut download, mut pace) = (Download::files(&[FileEntry::of("m", &file)]), Pace::default());
    let asked = fetch(&mut download, &mut pace, 1, 0);
    let mut wire: Vec<usize> = offsets(&asked).collect();
    let lost = wire.remove(0);
    for offset in wire {
        download.accept(&chunk_of(&file, offset), &mut pace, &at(10));
    }
    let again = fetch(&mut download, &mut pace, 2, 10);
    assert_eq!(again.offset, lost as u64, "without waiting for silence");
    assert_eq!(download.troubles(), 0, "loss on the way is no trouble");
}

#[test]
fn silence_and_refusals_are_answered_by_asking_ever_later() {
    let file = content(1, 0, 4);
    let (mut download, mut pace) = (Download::files(&[FileEntry::of("m", &file)]), Pace::default());
    let mut now = 0;
    let mut waits = Vec::new();
    for id in 0..4 {
        fetch(&mut download, &mut pace, id, now);
        if id % 2 == 0 {
            now += pace.window.timeout_ms();
        } else {
            assert!(!download.refused(id + 100, &mut pace, &at(now)));
            assert!(download.refused(id, &mut pace, &at(now)));
        }
        let Next::Wait { until_ms } = download.next(id, &mut pace, &at(now)) else {
            panic!("no wait after trouble {id}")
        };
        waits.push(until_ms - now);
        now = until_ms;
    }
    assert_eq!(waits, [125, 250, 500, 1_000]);
    assert_eq!((download.troubles(), pace.window.timeout_ms()), (4, 4 * TIMEOUT_MS));
}

#[test]
fn a_link_slower_than_the_first_timeout_still_gets_a_model_through() {
    // 4 KB a second: a chunk takes half a minute, and what was asked for too early stands in the pipe.
    let file = content(12, 0, 8);
    let (mut download, mut pace) = (Download::files(&[FileEntry::of("m", &file)]), Pace::default());
    let mut pipe = std::collections::VecDeque::new();
    let (mut now, mut arrives, mut sent) = (0, 32_000, 0);
    for id in 0.. {
        match download.next(id, &mut pace, &at(now)) {
            Next::Fetch(fetch) => {
                sent += fetch.chunks;
                if pipe.is_empty() {
                    arrives = now + 32_000;
                }
                pipe.extend(offsets(&fetch));
            }
            Next::Wait { until_ms } if pipe.is_empty() || until_ms < arrives => now = now.max(until_ms),
            Next::Wait { .. } => {
                now = now.max(arrives);
                arrives = now + 32_000;
                let offset = pipe.pop_front().unwrap();
                download.accept(&chunk_of(&file, offset), &mut pace, &at(now));
            }
            Next::Complete => break,
        }
        assert!(id < 10_000, "it never ends");
    }
    assert!(sent <= 2 * 12, "{sent} chunks were sent for 12");
}

#[test]
fn a_lost_link_is_no_reason_to_wait() {
    let file = content(2, 0, 5);
    let (mut download, mut pace) = (Download::files(&[FileEntry::of("m", &file)]), Pace::default());
    fetch(&mut download, &mut pace, 1, 0);
    download.disconnected();
    assert_eq!(fetch(&mut download, &mut pace, 2, 0).chunks, 2);
}

#[test]
fn a_download_on_hold_takes_what_is_in_flight_and_asks_for_nothing() {
    let file = content(5, 0, 5);
    let (mut download, mut pace) = (Download::files(&[FileEntry::of("m", &file)]), Pace::default());
    let asked = fetch(&mut download, &mut pace, 1, 0);
    download.hold(true);
    for offset in offsets(&asked) {
        assert!(!download.is_idle());
        download.accept(&chunk_of(&file, offset), &mut pace, &at(0));
        assert!(matches!(download.next(2, &mut pace, &at(0)), Next::Wait { .. }));
    }
    assert!(download.is_idle());
    download.hold(false);
    fetch(&mut download, &mut pace, 3, 0);
}

#[test]
fn in_quiet_hours_nothing_is_asked_for_and_what_is_in_flight_still_counts() {
    let file = content(6, 0, 6);
    let (mut download, mut pace) = (Download::files(&[FileEntry::of("m", &file)]), Pace::default());
    let asked = fetch(&mut download, &mut pace, 1, 0);
    let quiet_hours = vec![QuietHours { from_min: 60, to_min: 120 }];
    pace.budget.configure(&Settings { quiet_hours, ..Settings::default() });
    let quiet = Moment { now_ms: 0, wall_ms: Some(61 * 60_000), random: 0 };
    for offset in offsets(&asked) {
        assert_eq!(download.accept(&chunk_of(&file, offset), &mut pace, &quiet), Verdict::Write);
    }
    assert_eq!(download.next(2, &mut pace, &quiet), Next::Wait { until_ms: 60_000 });
    let later = Moment { now_ms: 60_000, wall_ms: Some(120 * 60_000), random: 0 };
    assert!(matches!(download.next(2, &mut pace, &later), Next::Fetch(_)));
}

#[test]
fn a_document_is_checked_as_a_whole_and_fetched_anew_if_wrong() {
    let text = content(1, 50, 6);
    let (mut download, mut pace) =
        (Download::document(Digest::of(&text), text.len() as u64), Pace::default());
    fetch(&mut download, &mut pace, 1, 0);
    let mut bad = chunk_of(&text, 0);
    bad.data[0] ^= 1;
    assert_eq!(download.accept(&bad, &mut pace, &at(0)), Verdict::Write);
    assert_eq!(download.accept(&chunk_of(&text, CHUNK), &mut pace, &at(0)), Verdict::Write);
    assert_eq!(download.next(2, &mut pace, &at(0)), Next::Complete);
    download.restart(&at(0));
    assert_eq!((download.bytes_done(), download.wrong()), (0, 1));
    assert_eq!(fetch(&mut download, &mut pace, 2, 60_000).chunks, 2);
}

#[test]
fn chunks_of_the_wrong_size_or_place_are_never_written() {
    let text = content(1, 50, 7);
    let (mut download, mut pace) =
        (Download::document(Digest::of(&text), text.len() as u64), Pace::default());
    let good = chunk_of(&text, 0);
    let short = Chunk { data: good.data[1..].to_vec(), ..good.clone() };
    let odd = Chunk { offset: 1, ..good.clone() };
    let beyond = Chunk { offset: 2 * CHUNK as u64, ..good.clone() };
    let resized = Chunk { total: 7, ..good.clone() };
    for bad in [short, odd, beyond, resized] {
        assert_eq!(download.accept(&bad, &mut pace, &at(0)), Verdict::Wrong);
    }
    let foreign = Chunk { digest: Digest::of(b"other"), ..good };
    assert_eq!(download.accept(&foreign, &mut pace, &at(0)), Verdict::Foreign);
    assert_eq!(download.bytes_done(), 0);
}

#[test]
fn an_empty_file_needs_nothing() {
    let mut download = Download::files(&[FileEntry::of("empty", &[])]);
    assert_eq!(download.next(1, &mut Pace::default(), &at(0)), Next::Complete);
}

// === over any link ===

/// What a bad link, a bad cloud or a bad clock does next.
#[derive(Clone, Copy, Debug)]
enum Mishap {
    None,
    /// The chunk is lost.
    Lose,
    /// It comes, and comes again later.
    Repeat,
    /// One bit of it is another.
    Change,
    /// It comes out of its order.
    Overtake,
    /// Everything on the way is lost with the connection.
    Disconnect,
    /// The cloud is busy.
    Refuse,
    /// A chunk comes that nobody asked for.
    Unasked,
    /// The running clock goes ahead, or even back.
    Jump(i64),
    /// The wall clock is set.
    SetWall(Option<u64>),
}

fn mishap() -> impl Strategy<Value = Mishap> {
    prop_oneof![
        12 => Just(Mishap::None),
        2 => Just(Mishap::Lose),
        2 => Just(Mishap::Repeat),
        2 => Just(Mishap::Change),
        2 => Just(Mishap::Overtake),
        1 => Just(Mishap::Disconnect),
        1 => Just(Mishap::Refuse),
        1 => Just(Mishap::Unasked),
        1 => (-100_000_000i64..100_000_000).prop_map(Mishap::Jump),
        1 => prop::option::of(0u64..200_000_000).prop_map(Mishap::SetWall),
    ]
}

/// A file of a few chunks, some of them the same.
#[derive(Clone, Debug)]
struct File {
    digest: Digest,
    chunks: Vec<Vec<u8>>,
}

impl File {
    fn new(chunks: usize, tail: usize, salt: u8) -> Self {
        let mut chunks: Vec<Vec<u8>> = (0..chunks).map(|i| vec![salt + i as u8 % 3; CHUNK]).collect();
        if tail > 0 {
            chunks.push(vec![salt; tail]);
        }
        Self { digest: Digest::of(&chunks.concat()), chunks }
    }

    fn bytes(&self) -> u64 {
        self.chunks.iter().map(|chunk| chunk.len() as u64).sum()
    }

    fn chunk(&self, index: usize) -> Chunk {
        let offset = (index * CHUNK) as u64;
        Chunk { digest: self.digest, offset, total: self.bytes(), data: self.chunks[index].clone() }
    }
}

fn files() -> impl Strategy<Value = Vec<File>> {
    prop::collection::vec((0usize..9, 0usize..9, 0u8..3), 1..4).prop_map(|files| {
        files.into_iter().map(|(chunks, tail, salt)| File::new(chunks, tail, salt)).collect()
    })
}

struct World {
    files: Vec<File>,
    download: Download,
    pace: Pace,
    rate: Option<u64>,
    now: u64,
    wall: Option<u64>,
    wire: Vec<Chunk>,
    /// What is written, by file.
    written: BTreeMap<Digest, Vec<Option<Vec<u8>>>>,
    /// What was asked for since the clock last went back, with the moments.
    asked: Vec<(u64, u64)>,
    last_fetch: u64,
}

impl World {
    fn new(files: Vec<File>, rate: Option<u64>, quiet: Option<(u16, u16)>) -> Self {
        let entry = |(i, file): (usize, &File)| FileEntry::of(format!("f{i}"), &file.chunks.concat());
        let entries: Vec<FileEntry> = files.iter().enumerate().map(entry).collect();
        let quiet_hours = quiet.map(|(from_min, to_min)| QuietHours { from_min, to_min });
        let mut pace = Pace::default();
        pace.budget.configure(&Settings {
            download_bytes_per_s: rate,
            quiet_hours: quiet_hours.into_iter().collect(),
            ..Settings::default()
        });
        Self {
            written: files.iter().map(|file| (file.digest, vec![None; file.chunks.len()])).collect(),
            files,
            download: Download::files(&entries),
            pace,
            rate,
            now: 1_000_000_000,
            wall: Some(0),
            wire: Vec::new(),
            asked: Vec::new(),
            last_fetch: 0,
        }
    }

    fn moment(&self, random: u64) -> Moment {
        Moment { now_ms: self.now, wall_ms: self.wall, random }
    }

    fn pass(&mut self, ms: u64) {
        self.now += ms;
        self.wall = self.wall.map(|wall| wall + ms);
    }

    /// A chunk comes; what is judged worth writing is written, and must be what stands there.
    fn deliver(&mut self, chunk: &Chunk, random: u64) {
        let before = self.download.bytes_done();
        let moment = self.moment(random);
        let verdict = self.download.accept(chunk, &mut self.pace, &moment);
        assert_eq!(verdict == Verdict::Write, self.download.bytes_done() > before);
        if verdict != Verdict::Write {
            return;
        }
        for file in &self.files {
            for (index, piece) in file.chunks.iter().enumerate() {
                if *piece == chunk.data {
                    self.written.get_mut(&file.digest).unwrap()[index] = Some(chunk.data.clone());
                }
            }
        }
        let place = (chunk.offset / CHUNK as u64) as usize;
        let own = self.written[&chunk.digest][place].as_ref();
        assert_eq!(own, Some(&chunk.data), "an unverified chunk is written");
    }

    fn step(&mut self, id: u64, mishap: Mishap, random: u64) -> bool {
        let window = self.pace.window.chunks();
        let moment = self.moment(random);
        match self.download.next(id, &mut self.pace, &moment) {
            Next::Complete => return true,
            Next::Fetch(fetch) => {
                assert_eq!(fetch.check(), Ok(()));
                assert!(self.download.in_flight <= window.max(1), "more than a window is in flight");
                assert!((fetch.chunks as usize) <= limits::FETCH_WINDOW);
                self.last_fetch = id;
                let file = self.files.iter().find(|file| file.digest == fetch.digest).unwrap();
                let chunks: Vec<Chunk> = offsets(&fetch).map(|offset| file.chunk(offset / CHUNK)).collect();
                self.account(chunks.iter().map(|chunk| chunk.data.len() as u64).sum());
                self.wire.extend(chunks);
            }
            Next::Wait { until_ms } => match (self.wire.is_empty(), mishap) {
                (true, _) => self.pass(until_ms.saturating_sub(self.now).max(1)),
                (false, Mishap::Overtake) => {
                    let chunk = self.wire.pop().unwrap();
                    self.deliver(&chunk, random);
                }
                (false, _) => {
                    let chunk = self.wire.remove(0);
                    self.pass(random % 50);
                    match mishap {
                        Mishap::Lose => {}
                        Mishap::Repeat => {
                            self.deliver(&chunk, random);
                            self.wire.push(chunk);
                        }
                        Mishap::Change => {
                            let mut chunk = chunk;
                            *chunk.data.last_mut().unwrap() ^= 1;
                            self.deliver(&chunk, random);
                        }
                        _ => self.deliver(&chunk, random),
                    }
                }
            },
        }
        match mishap {
            Mishap::Disconnect => {
                self.wire.clear();
                self.download.disconnected();
                self.pace.window.reconnected();
            }
            Mishap::Refuse => {
                let moment = self.moment(random);
                self.download.refused(self.last_fetch, &mut self.pace, &moment);
            }
            Mishap::Unasked => {
                let file = self.files[random as usize % self.files.len()].clone();
                if !file.chunks.is_empty() {
                    self.deliver(&file.chunk(random as usize / 7 % file.chunks.len()), random);
                }
            }
            Mishap::Jump(ms) => {
                self.now = self.now.saturating_add_signed(ms);
                if ms < 0 {
                    self.asked.clear();
                }
            }
            Mishap::SetWall(wall) => self.wall = wall,
            _ => {}
        }
        false
    }

    /// Over any time, not more was asked for than the limit allows.
    fn account(&mut self, bytes: u64) {
        let Some(rate) = self.rate else { return };
        self.asked.push((self.now, bytes));
        let mut sum = 0;
        for (at, bytes) in self.asked.iter().rev() {
            sum += bytes;
            let most = (self.now - at + BURST_MS + 1) * rate / 1_000 + CHUNK as u64;
            assert!(sum <= most, "{sum} bytes were asked for where {most} may be");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn every_download_ends_with_the_right_bytes_once_the_link_is_good(
        files in files(),
        rate in prop::option::of(20_000u64..10_000_000),
        quiet in prop::option::of((0u16..1_440, 0u16..1_440)),
        mishaps in prop::collection::vec((mishap(), any::<u64>()), 0..300),
    ) {
        let mut world = World::new(files, rate, quiet);
        let mut ended = false;
        for (id, (mishap, random)) in mishaps.into_iter().enumerate() {
            ended = world.step(id as u64, mishap, random);
            if ended {
                break;
            }
        }
        for id in 1_000..20_000 {
            if ended {
                break;
            }
            ended = world.step(id, Mishap::None, id);
        }
        prop_assert!(ended, "the download does not end over a good link: {:?}", world.download);
        for file in &world.files {
            let written = &world.written[&file.digest];
            prop_assert!(written.iter().map(Option::as_ref).eq(file.chunks.iter().map(Some)));
        }
        prop_assert_eq!(world.download.bytes_done(), world.download.bytes_total());
    }
}

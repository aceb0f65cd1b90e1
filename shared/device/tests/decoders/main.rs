//! Malformed bytes of every kind against every decoder. `FLOTILLA_DECODER_CASES` says how many, and
//! `FLOTILLA_DECODER_SEED` which. The fuzz target in `tests/fuzz` gives its bytes to the same function.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod every;

use every::decode_everything;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// Good bytes of every format: the golden files.
fn good() -> Vec<Vec<u8>> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = [here.join("golden"), here.join("../protocol/golden/v1")];
    let files = folders.iter().flat_map(|folder| std::fs::read_dir(folder).unwrap());
    let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).filter(|path| path.is_file()).collect();
    paths.sort();
    let mut all: Vec<Vec<u8>> = paths.iter().map(|path| std::fs::read(path).unwrap()).collect();
    all.push(b"flotilla/v1/default/gate-7/desired".to_vec());
    all.push(
        b"multipart/x-mixed-replace; boundary=frame\n--frame\r\nContent-Type: image/jpeg\r\nContent-Length: 3\r\n\r\nabc\r\n--frame\r\n\r\nde\r\n--frame--"
            .to_vec(),
    );
    all.push(br#"{"secret":"00","csr_pem":"","board":{"board":"","engines":[],"arch":"","cpus":1,"memory_bytes":0,"os":""}}"#.to_vec());
    assert!(all.len() > 15, "the golden files are not where they were");
    all
}

/// Heads of CBOR items with the longest lengths, indefinite ones, tags, and numbers at their ends.
const SPIKES: [&[u8]; 12] = [
    &[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
    &[0xbb, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
    &[0x5b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
    &[0x7b, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff],
    &[0x9f],
    &[0xbf, 0xff],
    &[0x7f, 0x61, 0x61, 0xff],
    &[0xc6, 0xd8, 0x20],
    &[0x1b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
    &[0x3b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
    &[0xfb, 0x7f, 0xf8, 0, 0, 0, 0, 0, 1],
    &[0xf6],
];

/// Damages a message: what a broken peer, a broken disk or an attacker may make of it.
fn damage(bytes: &mut Vec<u8>, other: &[u8], rng: &mut StdRng) {
    for _ in 0..rng.random_range(1..=6) {
        let at = rng.random_range(0..=bytes.len());
        match rng.random_range(0..8) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, rng.random()),
            2 if at < bytes.len() => bytes[at] = rng.random(),
            3 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
            4 if at < bytes.len() => drop(bytes.remove(at)),
            5 => {
                let spike = SPIKES[rng.random_range(0..SPIKES.len())];
                let end = (at + spike.len() * usize::from(rng.random_bool(0.5))).min(bytes.len());
                bytes.splice(at..end, spike.iter().copied());
            }
            6 => {
                let from = rng.random_range(0..=other.len());
                let to = rng.random_range(from..=other.len());
                bytes.splice(at..at, other[from..to].iter().copied());
            }
            _ => {
                let end = rng.random_range(at..=bytes.len());
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
        }
        bytes.truncate(4096);
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

#[test]
fn good_bytes_of_every_format_come_through() {
    good().iter().for_each(|bytes| decode_everything(bytes));
}

#[test]
fn no_bytes_do_any_harm() {
    let cases = number("FLOTILLA_DECODER_CASES").unwrap_or(4_000);
    let seed = number("FLOTILLA_DECODER_SEED").unwrap_or_else(rand::random);
    println!("{cases} cases, FLOTILLA_DECODER_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let good = good();
    for case in 0..cases {
        let mut bytes = good.choose(&mut rng).unwrap().clone();
        if rng.random_bool(0.1) {
            bytes = (0..rng.random_range(0..300)).map(|_| rng.random()).collect();
        } else {
            let other = good.choose(&mut rng).unwrap();
            damage(&mut bytes, other, &mut rng);
        }
        if catch_unwind(AssertUnwindSafe(|| decode_everything(&bytes))).is_err() {
            panic!("case {case} of FLOTILLA_DECODER_SEED={seed}: {}", bytes.escape_ascii());
        }
    }
}

#[test]
fn deep_nesting_does_not_overflow_the_stack() {
    for head in [0x81, 0xa1, 0xc6, 0x9f, 0xbf] {
        decode_everything(&vec![head; 200_000]);
    }
    decode_everything("[".repeat(100_000).as_bytes());
}

//! What a patch is worth, and what one can do that nobody wrote.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use super::*;
use proptest::prelude::*;
use std::convert::Infallible;

fn rebuilt(base: &[u8], patch: &[u8], bytes: u64) -> Result<Vec<u8>, RebuildError<Infallible>> {
    let mut new = Vec::new();
    let mut read = |offset: u64, buffer: &mut [u8]| {
        let rest = base.get(usize::try_from(offset).unwrap_or(usize::MAX)..).unwrap_or(&[]);
        let size = rest.len().min(buffer.len());
        buffer[..size].copy_from_slice(&rest[..size]);
        Ok(size)
    };
    let mut out = |piece: &[u8]| {
        assert!(piece.len() == limits::CHUNK || new.len() + piece.len() == bytes as usize);
        new.extend_from_slice(piece);
        Ok(())
    };
    rebuild(&mut &*patch, &mut read, bytes, &mut out)?;
    Ok(new)
}

/// The share of the whole that the patch has.
fn share(base: Option<&[u8]>, new: &[u8]) -> f64 {
    let patch = make(base, new, usize::MAX).unwrap();
    assert!(rebuilt(base.unwrap_or(&[]), &patch, new.len() as u64).unwrap() == new);
    patch.len() as f64 / new.len() as f64
}

/// Numbers that look random and are the same everywhere.
struct Noise(u64);

impl Noise {
    fn bits(&mut self) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Between -1 and 1, more often small than large.
    fn weight(&mut self) -> f32 {
        let value = |bits: u64| (bits & 0xff_ffff) as f32 / (1 << 23) as f32 - 1.0;
        value(self.bits()) * value(self.bits())
    }
}

/// Two trainings of one layer, the second a little longer, as 32-bit floats and as 8-bit weights.
fn weights(count: usize, by: f32) -> [(Vec<u8>, Vec<u8>); 2] {
    let mut noise = Noise(1);
    let base: Vec<f32> = (0..count).map(|_| noise.weight()).collect();
    let new: Vec<f32> = base.iter().map(|weight| weight + by * noise.weight()).collect();
    let floats = |weights: &[f32]| weights.iter().flat_map(|weight| weight.to_le_bytes()).collect();
    let bytes = |weights: &[f32]| weights.iter().map(|weight| (weight * 127.0) as i8 as u8).collect();
    [(floats(&base), floats(&new)), (bytes(&base), bytes(&new))]
}

#[test]
fn weights_that_moved_a_little_cost_little() {
    let [floats, bytes] = weights(40_000, 0.002);
    let (float, byte) = (share(Some(&floats.0), &floats.1), share(Some(&bytes.0), &bytes.1));
    println!("32-bit floats {float:.3}, 8-bit weights {byte:.3}");
    // A step of 1/500 takes 15 of 24 bits of a number of that size; hardly any 8-bit weight changes.
    assert!(float < 0.6, "{float}");
    assert!(byte < 0.07, "{byte}");
    assert!(share(Some(&floats.1), &floats.1) < 0.005);
    assert!(share(Some(&bytes.0), &floats.1) < 1.02, "a base of no use costs next to nothing");
    assert!(make(Some(&bytes.0), &floats.1, floats.1.len() / 2).is_none(), "and is given up");
}

#[test]
fn floats_are_found_wherever_they_begin_and_wherever_they_moved() {
    let [(base, new), _] = weights(30_000, 0.001);
    let plain = share(Some(&base), &new);
    let notes: Vec<u8> = (0..700).map(|i| (i * 7 % 250) as u8 + 1).collect();
    for (before, after) in [(1, 1), (2, 2), (3, 3), (0, 5), (9, 2)] {
        let file = |size: usize, weights: &[u8]| [&vec![7; size][..], &notes, weights, &notes].concat();
        let moved = share(Some(&file(before, &base)), &file(after, &new));
        assert!(moved < plain + 0.02, "from {before} to {after}: {moved}, {plain} in place");
    }
    // In the middle, too.
    let both = |gap: usize| [&base[..50_000], &vec![9; gap], &notes, &base[50_000..]].concat();
    let moved = share(Some(&both(0)), &both(3));
    assert!(moved < 0.04, "{moved}");
}

#[test]
fn without_a_base_it_is_compressed() {
    let text = "the same words again and again, ".repeat(400);
    let share = share(None, text.as_bytes());
    assert!(share < 0.25, "{share}");
}

#[test]
fn what_ends_early_or_cannot_be_read_is_said() {
    let [(base, new), _] = weights(3_000, 0.01);
    let patch = make(Some(&base), &new, usize::MAX).unwrap();
    let cut = rebuilt(&base, &patch[..patch.len() / 2], new.len() as u64);
    assert!(matches!(cut, Err(RebuildError::Patch(_))));
    let mut broken = |_: u64, _: &mut [u8]| Err(io::Error::other("a bad sector"));
    let failed = rebuild(&mut &*patch, &mut broken, new.len() as u64, &mut |_| Ok::<_, Infallible>(()));
    assert!(matches!(failed, Err(RebuildError::Base(_))));
    let nothing = make(None, &new, usize::MAX).unwrap();
    let mut read = |_: u64, _: &mut [u8]| Ok(0);
    let refused = rebuild(&mut &*nothing, &mut read, new.len() as u64, &mut |_| Err("no room"));
    assert!(matches!(refused, Err(RebuildError::Out("no room"))));
}

/// A patch that was made once is read by all later agents.
#[test]
fn golden_patches_still_read() {
    let [floats, bytes] = weights(1_500, 0.002);
    for (name, (base, new)) in [("floats", floats), ("bytes", bytes)] {
        let path = format!("{}/golden/{name}.delta-1", env!("CARGO_MANIFEST_DIR"));
        if !std::fs::exists(&path).unwrap() {
            assert!(
                std::env::var_os("FLOTILLA_BLESS").is_some(),
                "{path} is missing; FLOTILLA_BLESS=1 writes it"
            );
            std::fs::write(&path, make(Some(&base), &new, usize::MAX).unwrap()).unwrap();
        }
        let patch = std::fs::read(&path).unwrap();
        assert!(rebuilt(&base, &patch, new.len() as u64).unwrap() == new, "{path}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn whatever_was_changed_comes_back(
        base in proptest::collection::vec(any::<u8>(), 0..5_000),
        edits in proptest::collection::vec((any::<prop::sample::Index>(), 0..40_usize, any::<u64>()), 0..8),
        repeat in 1..4_usize,
    ) {
        let mut new = base.repeat(repeat);
        for (at, size, seed) in edits {
            let at = at.index(new.len() + 1);
            let end = (at + size / 2).min(new.len());
            let mut noise = Noise(seed);
            new.splice(at..end, (0..size).map(|_| noise.bits() as u8));
        }
        for base in [None, Some(&base[..])] {
            let patch = make(base, &new, usize::MAX).unwrap();
            prop_assert_eq!(&rebuilt(base.unwrap_or(&[]), &patch, new.len() as u64).unwrap(), &new);
            prop_assert!(patch.len() <= new.len() + new.len() / 20 + 64);
        }
    }

    /// Nobody needs to have written it: it never panics, gives no byte too many, and asks for none beside the buffer.
    #[test]
    fn any_bytes_are_harmless(
        patch in proptest::collection::vec(any::<u8>(), 0..3_000),
        base in proptest::collection::vec(any::<u8>(), 0..3_000),
        bytes in 0..400_000_u64,
    ) {
        match rebuilt(&base, &patch, bytes) {
            Ok(new) => prop_assert_eq!(new.len() as u64, bytes),
            Err(error) => prop_assert!(matches!(error, RebuildError::Patch(_)), "{}", error),
        }
    }

    #[test]
    fn a_damaged_patch_is_harmless(at in any::<prop::sample::Index>(), by in 1..=255_u8) {
        let [(base, new), _] = weights(1_000, 0.002);
        let mut patch = make(Some(&base), &new, usize::MAX).unwrap();
        let at = at.index(patch.len());
        patch[at] ^= by;
        if let Ok(other) = rebuilt(&base, &patch, new.len() as u64) {
            prop_assert_eq!(other.len(), new.len());
        }
    }
}

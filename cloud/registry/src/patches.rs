//! Patches of a model's file against what devices have of it: made when it is released, so that they are signed with it.
//!
//! How the device goes about it: `flotilla_device::patch`. The method and what it is good for: `flotilla_patch`.

use bytes::Bytes;
use flotilla_protocol::manifest::Patch;
use flotilla_protocol::{Digest, limits};

/// Releases back to which there are patches: devices that are further behind fetch the file.
pub(crate) const RELEASES: usize = 4;
/// Largest file that patches are made of and for.
const FILE: usize = 64 * limits::MIB;
/// Smallest: below it a patch saves less than asking for it costs.
const FILE_MIN: usize = 2 * limits::KIB;
/// Bytes that are gone through for one release at most, a base at a time.
const WORK: usize = 256 * limits::MIB;
/// What a patch may have of the bytes that it spares, in per cent; one without a base, which saves less and needs no
/// other file, may have more.
const WORTH_PERCENT: usize = 80;
const COMPRESSED_PERCENT: usize = 90;

/// A file of an earlier release.
#[derive(Clone)]
pub(crate) struct Base {
    pub(crate) digest: Digest,
    pub(crate) content: Bytes,
}

/// Whether patches are made of a file of this size.
pub(crate) fn is_base(bytes: u64) -> bool {
    bytes <= FILE as u64
}

/// The patches of a file that are worth it, the smallest first. Blocks.
pub(crate) fn make(file: &Bytes, bases: &[Base]) -> Vec<(Patch, Bytes)> {
    if !(FILE_MIN..=FILE).contains(&file.len()) {
        return Vec::new();
    }
    let of = |base: Option<&Base>, most: usize| {
        let content = flotilla_patch::make(base.map(|base| &base.content[..]), file, most)?;
        Some((
            Patch::of(base.map(|base| base.digest), flotilla_patch::METHOD, &content),
            Bytes::from(content),
        ))
    };
    let compressed = of(None, file.len() / 100 * COMPRESSED_PERCENT);
    let full = compressed.as_ref().map_or(file.len(), |(_, content)| content.len());
    let digest = Digest::of(file);
    // Who has the same file needs none.
    let related = |base: &&Base| base.digest != digest && is_base(base.content.len() as u64);
    let affordable = WORK / file.len().max(1);
    let made = bases.iter().filter(related).take(affordable);
    let made = made.filter_map(|base| of(Some(base), full / 100 * WORTH_PERCENT));
    let mut patches: Vec<(Patch, Bytes)> = made.chain(compressed).take(limits::FILE_PATCHES).collect();
    patches.sort_by_key(|(patch, _)| patch.bytes);
    patches
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(content: &[u8]) -> Base {
        Base { digest: Digest::of(content), content: Bytes::copy_from_slice(content) }
    }

    /// Bytes without a pattern.
    fn noise(seed: u32, size: usize) -> Vec<u8> {
        let mut state = seed;
        let next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        std::iter::repeat_with(next).take(size).collect()
    }

    #[test]
    fn only_patches_that_save_enough_are_kept_and_the_smallest_comes_first() {
        let file = noise(1, 40_000);
        let near = base(&[&file[..39_000], &noise(2, 1_000)[..]].concat());
        let nearer = base(&[&file[..39_900], &noise(2, 100)[..]].concat());
        let (far, same) = (base(&noise(3, 40_000)), base(&file));
        let made = make(&Bytes::from(file.clone()), &[far, near.clone(), same, nearer.clone()]);
        let bases: Vec<Option<Digest>> = made.iter().map(|(patch, _)| patch.base).collect();
        assert_eq!(bases, [Some(nearer.digest), Some(near.digest)]);
        for (patch, content) in &made {
            assert_eq!((patch.digest, patch.bytes), (Digest::of(content), content.len() as u64));
            assert!(patch.bytes < 2_000, "{}", patch.bytes);
        }
    }

    #[test]
    fn what_can_be_compressed_is_there_for_devices_without_any_base() {
        let file = Bytes::from("a model full of text, ".repeat(1_000));
        let made = make(&file, &[]);
        assert_eq!(made.iter().map(|(patch, _)| patch.base).collect::<Vec<_>>(), [None]);
        assert!(made[0].1.len() < file.len() / 4);
        assert!(make(&Bytes::from(noise(1, 40_000)), &[]).is_empty(), "noise cannot be");
        assert!(make(&file.slice(..FILE_MIN - 1), &[]).is_empty(), "and what is small need not be");
    }
}

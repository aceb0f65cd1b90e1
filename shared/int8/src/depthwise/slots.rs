//! Filters of one channel on x86 with dot products of bytes.
//!
//! A vector holds as many slots as bytes: some channels of one pixel, or of several. The bytes of four taps are interleaved
//! slot by slot, within each 128 bits, which gives four vectors of 32-bit lanes with four bytes each; packing 32-bit lanes to
//! bytes undoes exactly that. So weights, beginnings of sums and scales lie in the order of the lanes, and bytes come out in
//! that of the slots.

use super::Depthwise;
use crate::isa::Isa;
use std::arch::x86_64::*;

/// Weights and what belongs to them in the order of lanes.
#[derive(Clone, Debug)]
pub(super) struct Slots {
    /// Slots of a vector.
    size: usize,
    /// Channels of a block.
    block: usize,
    /// Pixels that a vector holds.
    pixels: usize,
    /// Whether these pixels lie side by side, in the input and in the output.
    adjoin: bool,
    /// Block by block, four taps by four, four vectors.
    weights: Vec<i8>,
    /// Block by block, four vectors.
    start: Vec<i32>,
    /// Block by block, four vectors.
    scales: Vec<f32>,
}

impl Slots {
    /// For a layer whose other parts are complete.
    pub(super) fn of(layer: &Depthwise) -> Option<Self> {
        let size = match layer.isa {
            Isa::Avx512Vnni => 64,
            Isa::AvxVnni => 32,
            _ => return None,
        };
        let channels = layer.input.channels;
        let step = layer.kernel.stride[1] * layer.input.pixel;
        let adjoin = size % channels == 0 && step == channels && layer.output.pixel == channels;
        let block = if adjoin {
            channels
        } else {
            // What wastes the fewest slots; of equals the largest.
            [64, 32, 16]
                .into_iter()
                .filter(|&block| block <= size)
                .min_by_key(|&block| channels.next_multiple_of(block))?
        };
        let (fours, blocks) = (layer.taps.len() / 4, channels.div_ceil(block));
        let (mut weights, mut start, mut scales) = (Vec::new(), Vec::new(), Vec::new());
        for first in (0..blocks).map(|index| index * block) {
            // The channels of the lanes, vector by vector.
            let lanes = (0..size).map(|at| {
                let (vector, lane) = (at / (size / 4), at % (size / 4));
                first + (lane / 4 * 16 + vector * 4 + lane % 4) % block
            });
            for four in 0..fours {
                weights.extend(lanes.clone().flat_map(|channel| {
                    (0..4).map(
                        move |tap| if channel < channels { layer.weight(four * 4 + tap, channel) } else { 0 },
                    )
                }));
            }
            start.extend(
                lanes.clone().map(|channel| if channel < channels { layer.start[channel] } else { 0 }),
            );
            scales.extend(
                lanes.map(|channel| if channel < channels { layer.requant.scale(channel) } else { 0.0 }),
            );
        }
        Some(Self { size, block, pixels: size / block, adjoin, weights, start, scales })
    }

    /// Bytes that are read from where the last pixel of the last block begins.
    pub(super) fn last_bytes(&self) -> usize {
        if self.adjoin { self.size } else { self.block }
    }

    /// Channels up to the last block.
    pub(super) fn last_block(&self, channels: usize) -> usize {
        (channels - 1) / self.block * self.block
    }

    /// Computes all rows. The buffers are as long as the layer says that they must be.
    pub(super) fn run(&self, layer: &Depthwise, input: &[u8], output: &mut [u8]) {
        assert!(input.len() >= layer.reach && output.len() >= layer.output.end());
        let channels = layer.output.channels;
        let (low, high, zero_point) = layer.requant.range().numbers();
        for y in 0..layer.output.height {
            for (index, first) in (0..channels).step_by(self.block).enumerate() {
                let weights = self.size * layer.taps.len();
                let row = Row {
                    input: &input
                        [layer.input.offset + y * layer.kernel.stride[0] * layer.input.row + first..],
                    output: &mut output[layer.output.offset + y * layer.output.row + first..],
                    step: layer.kernel.stride[1] * layer.input.pixel,
                    pixel: layer.output.pixel,
                    width: layer.output.width,
                    channels: self.block.min(channels - first),
                    pixels: self.pixels,
                    taps: layer.taps.as_chunks::<4>().0,
                    weights: &self.weights[index * weights..][..weights],
                    start: &self.start[index * self.size..][..self.size],
                    scales: &self.scales[index * self.size..][..self.size],
                    low,
                    high,
                    zero_point,
                };
                // SAFETY: a layer of an instruction set exists only where `Isa::check` found it. `reach` was counted with what
                // is read of the last pixel, by vectors or pieces of them, and with the furthest tap; rows write at most the
                // channels of their pixels, which lie within the view.
                unsafe {
                    match (self.size, self.adjoin, self.pixels) {
                        (64, true, _) | (64, _, 1) => row_512::<1>(row),
                        (64, _, 2) => row_512::<2>(row),
                        (64, _, _) => row_512::<4>(row),
                        (_, true, _) | (_, _, 1) => row_256::<1>(row),
                        _ => row_256::<2>(row),
                    }
                }
            }
        }
    }
}

/// One row of one block.
struct Row<'a> {
    /// From the first tap of the first pixel on.
    input: &'a [u8],
    /// From the first pixel on.
    output: &'a mut [u8],
    step: usize,
    pixel: usize,
    width: usize,
    channels: usize,
    /// Pixels of a vector.
    pixels: usize,
    taps: &'a [[usize; 4]],
    weights: &'a [i8],
    start: &'a [i32],
    scales: &'a [f32],
    low: f32,
    high: f32,
    zero_point: i32,
}

impl Row<'_> {
    /// Where the pieces of the vector lie that begins at pixel `x`. Pixels behind the last one are the last one again.
    fn pieces<const P: usize>(&self, x: usize) -> [usize; P] {
        std::array::from_fn(|piece| (x + piece).min(self.width - 1) * self.step)
    }

    /// Writes the bytes of the vector that begins at pixel `x`, in `P` pieces.
    #[inline(always)]
    fn write<const P: usize>(&mut self, x: usize, bytes: &[u8]) {
        let there = self.pixels.min(self.width - x);
        if P == 1 {
            // One pixel, or pixels without gaps.
            let count = there * self.channels;
            self.output[x * self.pixel..][..count].copy_from_slice(&bytes[..count]);
        } else {
            for (piece, bytes) in bytes.chunks_exact(bytes.len() / P).take(there).enumerate() {
                self.output[(x + piece) * self.pixel..][..self.channels]
                    .copy_from_slice(&bytes[..self.channels]);
            }
        }
    }
}

/// # Safety
/// Pieces of `64 / P` bytes can be read at each tap of each pixel; there are weights for all taps, and beginnings and scales for
/// four vectors.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn row_512<const P: usize>(mut row: Row<'_>) {
    let (low, high) = (_mm512_set1_ps(row.low), _mm512_set1_ps(row.high));
    let zero_point = _mm512_set1_epi32(row.zero_point);
    for x in (0..row.width).step_by(row.pixels) {
        let pieces = row.pieces::<P>(x);
        // SAFETY: the caller's.
        let bytes = unsafe {
            let input = row.input.as_ptr();
            let start: *const __m512i = row.start.as_ptr().cast();
            let mut s0 = _mm512_loadu_si512(start);
            let mut s1 = _mm512_loadu_si512(start.add(1));
            let mut s2 = _mm512_loadu_si512(start.add(2));
            let mut s3 = _mm512_loadu_si512(start.add(3));
            let mut weights: *const __m512i = row.weights.as_ptr().cast();
            for taps in row.taps {
                let a = load_512::<P>(input.add(taps[0]), &pieces);
                let b = load_512::<P>(input.add(taps[1]), &pieces);
                let c = load_512::<P>(input.add(taps[2]), &pieces);
                let d = load_512::<P>(input.add(taps[3]), &pieces);
                let (ab, cd) = (_mm512_unpacklo_epi8(a, b), _mm512_unpacklo_epi8(c, d));
                s0 = _mm512_dpbusd_epi32(s0, _mm512_unpacklo_epi16(ab, cd), _mm512_loadu_si512(weights));
                s1 = _mm512_dpbusd_epi32(
                    s1,
                    _mm512_unpackhi_epi16(ab, cd),
                    _mm512_loadu_si512(weights.add(1)),
                );
                let (ab, cd) = (_mm512_unpackhi_epi8(a, b), _mm512_unpackhi_epi8(c, d));
                s2 = _mm512_dpbusd_epi32(
                    s2,
                    _mm512_unpacklo_epi16(ab, cd),
                    _mm512_loadu_si512(weights.add(2)),
                );
                s3 = _mm512_dpbusd_epi32(
                    s3,
                    _mm512_unpackhi_epi16(ab, cd),
                    _mm512_loadu_si512(weights.add(3)),
                );
                weights = weights.add(4);
            }
            let scales = row.scales.as_ptr();
            let round = |sums: __m512i, scales: *const f32| {
                let product = _mm512_mul_ps(_mm512_cvtepi32_ps(sums), _mm512_loadu_ps(scales));
                let rounded = _mm512_cvtps_epi32(_mm512_min_ps(_mm512_max_ps(product, low), high));
                _mm512_add_epi32(rounded, zero_point)
            };
            let left = _mm512_packus_epi32(round(s0, scales), round(s1, scales.add(16)));
            let right = _mm512_packus_epi32(round(s2, scales.add(32)), round(s3, scales.add(48)));
            _mm512_packus_epi16(left, right)
        };
        let whole = P == 1 && row.pixels.min(row.width - x) * row.channels == 64;
        let mut found = [0_u8; 64];
        let to = if whole { row.output[x * row.pixel..][..64].as_mut_ptr() } else { found.as_mut_ptr() };
        // SAFETY: both have 64 bytes.
        unsafe { _mm512_storeu_si512(to.cast(), bytes) };
        if !whole {
            row.write::<P>(x, &found);
        }
    }
}

/// A vector of `P` pieces.
///
/// # Safety
/// `64 / P` bytes can be read at each piece behind `from`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn load_512<const P: usize>(from: *const u8, pieces: &[usize; P]) -> __m512i {
    // SAFETY: the caller's.
    unsafe {
        let at = |piece: usize| from.add(pieces[piece]);
        match P {
            1 => _mm512_loadu_si512(at(0).cast()),
            2 => {
                let first = _mm512_castsi256_si512(_mm256_loadu_si256(at(0).cast()));
                _mm512_inserti64x4::<1>(first, _mm256_loadu_si256(at(1).cast()))
            }
            _ => {
                let first = _mm512_castsi128_si512(_mm_loadu_si128(at(0).cast()));
                let second = _mm512_inserti32x4::<1>(first, _mm_loadu_si128(at(1).cast()));
                let third = _mm512_inserti32x4::<2>(second, _mm_loadu_si128(at(2).cast()));
                _mm512_inserti32x4::<3>(third, _mm_loadu_si128(at(3).cast()))
            }
        }
    }
}

/// # Safety
/// Pieces of `32 / P` bytes can be read at each tap of each pixel; there are weights for all taps, and beginnings and scales for
/// four vectors.
#[target_feature(enable = "avx2,avxvnni")]
unsafe fn row_256<const P: usize>(mut row: Row<'_>) {
    let (low, high) = (_mm256_set1_ps(row.low), _mm256_set1_ps(row.high));
    let zero_point = _mm256_set1_epi32(row.zero_point);
    for x in (0..row.width).step_by(row.pixels) {
        let pieces = row.pieces::<P>(x);
        // SAFETY: the caller's.
        let bytes = unsafe {
            let input = row.input.as_ptr();
            let start: *const __m256i = row.start.as_ptr().cast();
            let mut s0 = _mm256_loadu_si256(start);
            let mut s1 = _mm256_loadu_si256(start.add(1));
            let mut s2 = _mm256_loadu_si256(start.add(2));
            let mut s3 = _mm256_loadu_si256(start.add(3));
            let mut weights: *const __m256i = row.weights.as_ptr().cast();
            for taps in row.taps {
                let a = load_256::<P>(input.add(taps[0]), &pieces);
                let b = load_256::<P>(input.add(taps[1]), &pieces);
                let c = load_256::<P>(input.add(taps[2]), &pieces);
                let d = load_256::<P>(input.add(taps[3]), &pieces);
                let (ab, cd) = (_mm256_unpacklo_epi8(a, b), _mm256_unpacklo_epi8(c, d));
                s0 = _mm256_dpbusd_avx_epi32(s0, _mm256_unpacklo_epi16(ab, cd), _mm256_loadu_si256(weights));
                s1 = _mm256_dpbusd_avx_epi32(
                    s1,
                    _mm256_unpackhi_epi16(ab, cd),
                    _mm256_loadu_si256(weights.add(1)),
                );
                let (ab, cd) = (_mm256_unpackhi_epi8(a, b), _mm256_unpackhi_epi8(c, d));
                s2 = _mm256_dpbusd_avx_epi32(
                    s2,
                    _mm256_unpacklo_epi16(ab, cd),
                    _mm256_loadu_si256(weights.add(2)),
                );
                s3 = _mm256_dpbusd_avx_epi32(
                    s3,
                    _mm256_unpackhi_epi16(ab, cd),
                    _mm256_loadu_si256(weights.add(3)),
                );
                weights = weights.add(4);
            }
            let scales = row.scales.as_ptr();
            let round = |sums: __m256i, scales: *const f32| {
                let product = _mm256_mul_ps(_mm256_cvtepi32_ps(sums), _mm256_loadu_ps(scales));
                let rounded = _mm256_cvtps_epi32(_mm256_min_ps(_mm256_max_ps(product, low), high));
                _mm256_add_epi32(rounded, zero_point)
            };
            let left = _mm256_packus_epi32(round(s0, scales), round(s1, scales.add(8)));
            let right = _mm256_packus_epi32(round(s2, scales.add(16)), round(s3, scales.add(24)));
            _mm256_packus_epi16(left, right)
        };
        let whole = P == 1 && row.pixels.min(row.width - x) * row.channels == 32;
        let mut found = [0_u8; 32];
        let to = if whole { row.output[x * row.pixel..][..32].as_mut_ptr() } else { found.as_mut_ptr() };
        // SAFETY: both have 32 bytes.
        unsafe { _mm256_storeu_si256(to.cast(), bytes) };
        if !whole {
            row.write::<P>(x, &found);
        }
    }
}

/// A vector of `P` pieces.
///
/// # Safety
/// `32 / P` bytes can be read at each piece behind `from`.
#[inline]
#[target_feature(enable = "avx2,avxvnni")]
unsafe fn load_256<const P: usize>(from: *const u8, pieces: &[usize; P]) -> __m256i {
    // SAFETY: the caller's.
    unsafe {
        let at = |piece: usize| from.add(pieces[piece]);
        if P == 1 {
            _mm256_loadu_si256(at(0).cast())
        } else {
            let first = _mm256_castsi128_si256(_mm_loadu_si128(at(0).cast()));
            _mm256_inserti128_si256::<1>(first, _mm_loadu_si128(at(1).cast()))
        }
    }
}

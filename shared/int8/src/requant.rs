//! From 32-bit sums back to bytes.

use crate::error::{Error, Result, equal};
use crate::isa::Isa;

/// From 32-bit sums back to bytes: `clamp(round(sum * scale) + zero point)`, ties to even, with a scale an output channel, as
/// `QLinearConv` and `QuantizeLinear` of ONNX define it. The products are 32-bit floats, as in ONNX Runtime.
#[derive(Clone, Debug, PartialEq)]
pub struct Requant {
    /// A scale an output channel: input scale times weight scale over output scale. Followed by zeros, so
    /// that a vector may begin at any channel.
    scales: Vec<f32>,
    channels: usize,
    range: Range,
}

/// The bytes that may come out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Range {
    /// The bounds less the zero point.
    low: f32,
    high: f32,
    zero_point: i32,
}

impl Range {
    /// From the least to the greatest byte.
    pub(crate) fn new(zero_point: u8, low: u8, high: u8) -> Result<Self> {
        if low > high {
            let bounds = "the greatest at most";
            return Err(Error::Bounds { what: "the least byte", value: low.to_string(), bounds });
        }
        let bound = |byte: u8| f32::from(byte) - f32::from(zero_point);
        Ok(Self { low: bound(low), high: bound(high), zero_point: zero_point.into() })
    }

    /// The byte of a number of steps; the zero point for what is no number.
    #[inline(always)]
    pub(crate) fn byte(self, steps: f32) -> u8 {
        (steps.clamp(self.low, self.high).round_ties_even() as i32 + self.zero_point) as u8
    }

    /// The bounds less the zero point, and the zero point.
    #[cfg(target_arch = "x86_64")]
    pub(crate) const fn numbers(self) -> (f32, f32, i32) {
        (self.low, self.high, self.zero_point)
    }
}

/// Refuses what is no scale: it must be positive and finite, and denormal ones lose their digits.
pub(crate) fn scale(scale: f32) -> Result<f32> {
    if scale.is_normal() && scale > 0.0 {
        return Ok(scale);
    }
    let bounds = "a positive number, and none so small that it is denormal";
    Err(Error::Bounds { what: "a scale", value: scale.to_string(), bounds })
}

/// Channels to which scales are padded.
pub(crate) const LANES: usize = 64;

impl Requant {
    /// With a scale an output channel, the zero point of the output, and the least and greatest byte: 0 and 255, or less where
    /// a `Relu` or `Clip` follows.
    pub fn new(scales: &[f32], zero_point: u8, low: u8, high: u8) -> Result<Self> {
        let mut padded = scales.iter().map(|&number| scale(number)).collect::<Result<Vec<f32>>>()?;
        padded.resize(scales.len() + LANES, 0.0);
        Ok(Self { scales: padded, channels: scales.len(), range: Range::new(zero_point, low, high)? })
    }

    /// Output channels.
    #[must_use]
    pub const fn channels(&self) -> usize {
        self.channels
    }

    /// The scale of a channel.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn scale(&self, channel: usize) -> f32 {
        self.scales[channel]
    }

    #[cfg(target_arch = "x86_64")]
    pub(crate) const fn range(&self) -> Range {
        self.range
    }

    pub(crate) fn check(&self, channels: usize) -> Result<()> {
        equal("scales of output channels", self.channels, channels)
    }

    /// Writes the bytes of channels `first..first + channels` of some pixels, which begin at `places`. Their sums are `sums`,
    /// pixel by pixel; each pixel has whole vectors of 16 of them.
    #[inline]
    pub(crate) fn write(&self, isa: Isa, tile: &Tile<'_>, out: &mut [u8]) {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => x86::avx512(self, tile, out),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 | Isa::AvxVnni => x86::avx2(self, tile, out),
            _ => self.scalar(tile, out),
        }
    }

    fn scalar(&self, tile: &Tile<'_>, out: &mut [u8]) {
        let scales = &self.scales[tile.first..][..tile.channels];
        for (&place, sums) in tile.places.iter().zip(tile.sums.chunks_exact(tile.width)) {
            for ((byte, &sum), &scale) in out[place..][..tile.channels].iter_mut().zip(sums).zip(scales) {
                *byte = self.range.byte(sum as f32 * scale);
            }
        }
    }
}

/// Sums of some channels of some pixels, and where their bytes go.
pub(crate) struct Tile<'a> {
    /// Sums, pixel by pixel.
    pub(crate) sums: &'a [i32],
    /// Sums of a pixel, with what pads them to whole vectors of 16.
    pub(crate) width: usize,
    /// The first channel.
    pub(crate) first: usize,
    /// Channels that are written.
    pub(crate) channels: usize,
    /// Where the bytes of each pixel begin.
    pub(crate) places: &'a [usize],
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    //! The same on vectors. Sums and scales are whole vectors long, so that only writing minds the tail.

    use super::{Requant, Tile};
    use std::arch::x86_64::{
        __m256i, _mm_packus_epi16, _mm_storel_epi64, _mm_unpacklo_epi32, _mm256_add_epi32,
        _mm256_castsi256_si128, _mm256_cvtepi32_ps, _mm256_cvtps_epi32, _mm256_extracti128_si256,
        _mm256_loadu_ps, _mm256_loadu_si256, _mm256_max_ps, _mm256_min_ps, _mm256_mul_ps,
        _mm256_packus_epi32, _mm256_set1_epi32, _mm256_set1_ps, _mm512_add_epi32, _mm512_cvtepi32_ps,
        _mm512_cvtps_epi32, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_mask_cvtusepi32_storeu_epi8,
        _mm512_max_ps, _mm512_min_ps, _mm512_mul_ps, _mm512_set1_epi32, _mm512_set1_ps,
    };

    /// What both ask before they go on with pointers.
    fn check(requant: &Requant, tile: &Tile<'_>, out: usize) {
        assert!(tile.places.iter().all(|place| place + tile.channels <= out));
        assert!(tile.channels >= 1 && tile.channels <= tile.width && tile.width.is_multiple_of(16));
        assert!(tile.sums.len() >= tile.places.len() * tile.width);
        assert!(tile.first + tile.width <= requant.scales.len());
    }

    pub(super) fn avx512(requant: &Requant, tile: &Tile<'_>, out: &mut [u8]) {
        check(requant, tile, out.len());
        // SAFETY: `check`; a layer of this instruction set exists only where `Isa::check` found it.
        unsafe { by_16(requant, tile, out) }
    }

    /// # Safety
    /// `check` holds.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn by_16(requant: &Requant, tile: &Tile<'_>, out: &mut [u8]) {
        let (low, high, zero_point) = requant.range.numbers();
        let (low, high, zero_point) =
            (_mm512_set1_ps(low), _mm512_set1_ps(high), _mm512_set1_epi32(zero_point));
        for from in (0..tile.channels).step_by(16) {
            let mask = u16::MAX >> (16 - (tile.channels - from).min(16));
            // SAFETY: the caller's: scales and sums have 16 numbers from here on, and the mask lets no byte be written behind
            // the last channel.
            unsafe {
                let scales = _mm512_loadu_ps(requant.scales.as_ptr().add(tile.first + from));
                for (pixel, place) in tile.places.iter().enumerate() {
                    let sums = _mm512_loadu_si512(tile.sums.as_ptr().add(pixel * tile.width + from).cast());
                    let product = _mm512_mul_ps(_mm512_cvtepi32_ps(sums), scales);
                    let rounded = _mm512_cvtps_epi32(_mm512_min_ps(_mm512_max_ps(product, low), high));
                    let bytes = _mm512_add_epi32(rounded, zero_point);
                    _mm512_mask_cvtusepi32_storeu_epi8(
                        out.as_mut_ptr().add(place + from).cast(),
                        mask,
                        bytes,
                    );
                }
            }
        }
    }

    pub(super) fn avx2(requant: &Requant, tile: &Tile<'_>, out: &mut [u8]) {
        check(requant, tile, out.len());
        // SAFETY: `check`; a layer of this instruction set exists only where `Isa::check` found it.
        unsafe { by_8(requant, tile, out) }
    }

    /// # Safety
    /// `check` holds.
    #[target_feature(enable = "avx2")]
    unsafe fn by_8(requant: &Requant, tile: &Tile<'_>, out: &mut [u8]) {
        let (low, high, zero_point) = requant.range.numbers();
        let (low, high, zero_point) =
            (_mm256_set1_ps(low), _mm256_set1_ps(high), _mm256_set1_epi32(zero_point));
        for from in (0..tile.channels).step_by(8) {
            let count = (tile.channels - from).min(8);
            // SAFETY: the caller's: scales and sums have 8 numbers from here on.
            let scales = unsafe { _mm256_loadu_ps(requant.scales.as_ptr().add(tile.first + from)) };
            for (pixel, place) in tile.places.iter().enumerate() {
                // SAFETY: as above.
                let sums: __m256i =
                    unsafe { _mm256_loadu_si256(tile.sums.as_ptr().add(pixel * tile.width + from).cast()) };
                let product = _mm256_mul_ps(_mm256_cvtepi32_ps(sums), scales);
                let rounded = _mm256_cvtps_epi32(_mm256_min_ps(_mm256_max_ps(product, low), high));
                let sums = _mm256_add_epi32(rounded, zero_point);
                let words = _mm256_packus_epi32(sums, sums);
                // Words 0 to 3 of each half are four of the sums in order, twice.
                let (left, right) = (_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
                let bytes = _mm_unpacklo_epi32(_mm_packus_epi16(left, left), _mm_packus_epi16(right, right));
                let to = &mut out[place + from..][..count];
                if count == 8 {
                    // SAFETY: there are eight bytes.
                    unsafe { _mm_storel_epi64(to.as_mut_ptr().cast(), bytes) };
                } else {
                    let mut all = [0_u8; 8];
                    // SAFETY: there are eight bytes.
                    unsafe { _mm_storel_epi64(all.as_mut_ptr().cast(), bytes) };
                    to.copy_from_slice(&all[..count]);
                }
            }
        }
    }
}

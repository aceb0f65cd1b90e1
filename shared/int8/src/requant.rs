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
    /// The bounds less the zero point.
    low: f32,
    high: f32,
    zero_point: i32,
}

/// Channels to which scales are padded.
pub(crate) const LANES: usize = 64;

impl Requant {
    /// With a scale an output channel, the zero point of the output, and the least and greatest byte: 0 and 255, or less where
    /// a `Relu` or `Clip` follows.
    pub fn new(scales: &[f32], zero_point: u8, low: u8, high: u8) -> Result<Self> {
        if let Some(bad) = scales.iter().find(|scale| !scale.is_normal() || **scale < 0.0) {
            let bounds = "a positive number, and none so small that it is denormal";
            return Err(Error::Bounds { what: "a scale", value: bad.to_string(), bounds });
        }
        if low > high {
            return Err(Error::Bounds {
                what: "the least byte",
                value: low.to_string(),
                bounds: "the greatest at most",
            });
        }
        let mut padded = scales.to_vec();
        padded.resize(scales.len() + LANES, 0.0);
        let bound = |byte: u8| f32::from(byte) - f32::from(zero_point);
        Ok(Self {
            scales: padded,
            channels: scales.len(),
            low: bound(low),
            high: bound(high),
            zero_point: zero_point.into(),
        })
    }

    /// Output channels.
    #[must_use]
    pub const fn channels(&self) -> usize {
        self.channels
    }

    pub(crate) fn check(&self, channels: usize) -> Result<()> {
        equal("scales of output channels", self.channels, channels)
    }

    /// Writes the bytes of channels `first..first + out.len()`, whose sums are `sums`; at most [`LANES`] of them.
    #[inline]
    pub(crate) fn write(&self, isa: Isa, sums: &[i32], first: usize, out: &mut [u8]) {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => x86::avx512(self, sums, first, out),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 | Isa::AvxVnni => x86::avx2(self, sums, first, out),
            _ => self.scalar(sums, first, out),
        }
    }

    fn scalar(&self, sums: &[i32], first: usize, out: &mut [u8]) {
        let scales = &self.scales[first..][..out.len()];
        for ((byte, &sum), &scale) in out.iter_mut().zip(sums).zip(scales) {
            *byte = self.byte(sum, scale);
        }
    }

    /// What a sum becomes.
    fn byte(&self, sum: i32, scale: f32) -> u8 {
        let value = (sum as f32 * scale).clamp(self.low, self.high).round_ties_even();
        (value as i32 + self.zero_point) as u8
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    //! The same on vectors. Sums and scales are whole vectors long, so that only writing minds the tail.

    use super::Requant;
    use std::arch::x86_64::{
        __m128i, __m256i, _mm_packus_epi16, _mm_storeu_si128, _mm256_add_epi32, _mm256_castsi256_si128,
        _mm256_cvtepi32_ps, _mm256_cvtps_epi32, _mm256_extracti128_si256, _mm256_loadu_ps,
        _mm256_loadu_si256, _mm256_max_ps, _mm256_min_ps, _mm256_mul_ps, _mm256_packus_epi32,
        _mm256_set1_epi32, _mm256_set1_ps, _mm512_add_epi32, _mm512_cvtepi32_ps, _mm512_cvtps_epi32,
        _mm512_loadu_ps, _mm512_loadu_si512, _mm512_mask_cvtusepi32_storeu_epi8, _mm512_max_ps,
        _mm512_min_ps, _mm512_mul_ps, _mm512_set1_epi32, _mm512_set1_ps,
    };

    #[inline]
    pub(super) fn avx512(requant: &Requant, sums: &[i32], first: usize, out: &mut [u8]) {
        let vectors = out.len().div_ceil(16);
        let (sums, scales) = (&sums[..vectors * 16], &requant.scales[first..][..vectors * 16]);
        // SAFETY: a layer of this instruction set exists only where `Isa::check` found it.
        unsafe { by_16(requant, sums, scales, out) }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    fn by_16(requant: &Requant, sums: &[i32], scales: &[f32], out: &mut [u8]) {
        let (low, high) = (_mm512_set1_ps(requant.low), _mm512_set1_ps(requant.high));
        let zero_point = _mm512_set1_epi32(requant.zero_point);
        for ((sums, scales), out) in
            sums.chunks_exact(16).zip(scales.chunks_exact(16)).zip(out.chunks_mut(16))
        {
            let mask = u16::MAX >> (16 - out.len());
            // SAFETY: both chunks hold 16 numbers, and the mask writes `out.len()` bytes.
            unsafe {
                let sums = _mm512_cvtepi32_ps(_mm512_loadu_si512(sums.as_ptr().cast()));
                let product = _mm512_mul_ps(sums, _mm512_loadu_ps(scales.as_ptr()));
                let rounded = _mm512_cvtps_epi32(_mm512_min_ps(_mm512_max_ps(product, low), high));
                let bytes = _mm512_add_epi32(rounded, zero_point);
                _mm512_mask_cvtusepi32_storeu_epi8(out.as_mut_ptr().cast(), mask, bytes);
            }
        }
    }

    #[inline]
    pub(super) fn avx2(requant: &Requant, sums: &[i32], first: usize, out: &mut [u8]) {
        let vectors = out.len().div_ceil(8);
        let (sums, scales) = (&sums[..vectors * 8], &requant.scales[first..][..vectors * 8]);
        // SAFETY: a layer of this instruction set exists only where `Isa::check` found it.
        unsafe { by_8(requant, sums, scales, out) }
    }

    #[target_feature(enable = "avx2")]
    fn by_8(requant: &Requant, sums: &[i32], scales: &[f32], out: &mut [u8]) {
        let (low, high) = (_mm256_set1_ps(requant.low), _mm256_set1_ps(requant.high));
        let zero_point = _mm256_set1_epi32(requant.zero_point);
        for ((sums, scales), out) in sums.chunks_exact(8).zip(scales.chunks_exact(8)).zip(out.chunks_mut(8)) {
            // SAFETY: both chunks hold 8 numbers.
            let bytes: __m256i = unsafe {
                let sums = _mm256_cvtepi32_ps(_mm256_loadu_si256(sums.as_ptr().cast()));
                let product = _mm256_mul_ps(sums, _mm256_loadu_ps(scales.as_ptr()));
                _mm256_add_epi32(
                    _mm256_cvtps_epi32(_mm256_min_ps(_mm256_max_ps(product, low), high)),
                    zero_point,
                )
            };
            let words = _mm256_packus_epi32(bytes, bytes);
            let (left, right) = (_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            let packed: __m128i = _mm_packus_epi16(left, right);
            // Words 0-3 of each half are the sums in order, and repeat: bytes 0-3 and 8-11 are the eight.
            let mut all = [0_u8; 16];
            // SAFETY: the array has 16 bytes.
            unsafe { _mm_storeu_si128(all.as_mut_ptr().cast(), packed) };
            if out.len() == 8 {
                out[..4].copy_from_slice(&all[..4]);
                out[4..].copy_from_slice(&all[8..12]);
            } else {
                for (place, byte) in out.iter_mut().enumerate() {
                    *byte = all[place + 4 * usize::from(place >= 4)];
                }
            }
        }
    }
}

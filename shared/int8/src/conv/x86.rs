//! The same for x86.
//!
//! A tile keeps the sums of `M` pixels and `N` vectors of channels in registers: for each quad, `N` vectors of weights are
//! loaded, and four bytes of each pixel are given to all lanes. Sums are written to memory and turned into bytes elsewhere:
//! where both happen in one function, compilers run out of registers.

#![expect(clippy::needless_range_loop, reason = "tiles are told by their rows and columns")]

use super::pack::{Task, quad, tiles};
use std::arch::x86_64::{
    __m256i, __m512i, _mm256_add_epi32, _mm256_dpbusd_avx_epi32, _mm256_hadd_epi32, _mm256_loadu_si256,
    _mm256_madd_epi16, _mm256_permute4x64_epi64, _mm256_set1_epi32, _mm256_setzero_si256,
    _mm256_storeu_si256, _mm256_unpacklo_epi8, _mm512_dpbusd_epi32, _mm512_loadu_si512, _mm512_set1_epi32,
    _mm512_setzero_si512, _mm512_storeu_si512,
};

pub(super) fn avx512(mut task: Task<'_>, weights: &[i8]) {
    task.check(weights.len());
    match task.width {
        64 => tiles!(by_512, 4, task, weights, 6 4 2 1),
        48 => tiles!(by_512, 3, task, weights, 8 4 2 1),
        32 => tiles!(by_512, 2, task, weights, 12 6 4 2 1),
        16 => tiles!(by_512, 1, task, weights, 12 6 4 2 1),
        width => unreachable!("a block of {width} channels"),
    }
}

/// # Safety
/// `check` holds for the task, which has `M` pixels from `first` on and `N` vectors of 16 channels.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn by_512<const M: usize, const N: usize>(task: &mut Task<'_>, first: usize, weights: &[i8]) {
    // SAFETY: the caller's.
    unsafe {
        let mut sums = [[_mm512_setzero_si512(); N]; M];
        for n in 0..N {
            let start = _mm512_loadu_si512(task.start.as_ptr().add(n * 16).cast());
            for of_pixel in &mut sums {
                of_pixel[n] = start;
            }
        }
        let input = task.input.as_ptr();
        let pixels: [*const u8; M] = std::array::from_fn(|m| input.add(*task.bases.get_unchecked(first + m)));
        let mut weights = weights.as_ptr();
        for &run in task.runs {
            for at in 0..task.quads {
                let vectors: [__m512i; N] =
                    std::array::from_fn(|n| _mm512_loadu_si512(weights.add(n * 64).cast()));
                for m in 0..M {
                    let bytes = _mm512_set1_epi32(quad(pixels[m].add(run + at * 4)));
                    for n in 0..N {
                        sums[m][n] = _mm512_dpbusd_epi32(sums[m][n], bytes, vectors[n]);
                    }
                }
                weights = weights.add(N * 64);
            }
        }
        let to = task.sums.as_mut_ptr().add(first * N * 16);
        for m in 0..M {
            for n in 0..N {
                _mm512_storeu_si512(to.add((m * N + n) * 16).cast(), sums[m][n]);
            }
        }
    }
}

pub(super) fn avx_vnni(mut task: Task<'_>, weights: &[i8]) {
    task.check(weights.len());
    assert!(task.width == 16);
    tiles!(by_256, 2, task, weights, 6 4 2 1);
}

/// # Safety
/// `check` holds for the task, which has `M` pixels from `first` on and `N` vectors of 8 channels.
#[target_feature(enable = "avx2,avxvnni")]
unsafe fn by_256<const M: usize, const N: usize>(task: &mut Task<'_>, first: usize, weights: &[i8]) {
    // SAFETY: the caller's.
    unsafe {
        let mut sums = [[_mm256_setzero_si256(); N]; M];
        for n in 0..N {
            let start = _mm256_loadu_si256(task.start.as_ptr().add(n * 8).cast());
            for of_pixel in &mut sums {
                of_pixel[n] = start;
            }
        }
        let input = task.input.as_ptr();
        let pixels: [*const u8; M] = std::array::from_fn(|m| input.add(*task.bases.get_unchecked(first + m)));
        let mut weights = weights.as_ptr();
        for &run in task.runs {
            for at in 0..task.quads {
                let vectors: [__m256i; N] =
                    std::array::from_fn(|n| _mm256_loadu_si256(weights.add(n * 32).cast()));
                for m in 0..M {
                    let bytes = _mm256_set1_epi32(quad(pixels[m].add(run + at * 4)));
                    for n in 0..N {
                        sums[m][n] = _mm256_dpbusd_avx_epi32(sums[m][n], bytes, vectors[n]);
                    }
                }
                weights = weights.add(N * 32);
            }
        }
        let to = task.sums.as_mut_ptr().add(first * N * 8);
        for m in 0..M {
            for n in 0..N {
                _mm256_storeu_si256(to.add((m * N + n) * 8).cast(), sums[m][n]);
            }
        }
    }
}

pub(super) fn avx2(mut task: Task<'_>, weights: &[i16]) {
    task.check(weights.len());
    assert!(task.width == 16);
    tiles!(by_words, 4, task, weights, 3 2 1);
}

/// Products of 16-bit numbers: a vector holds four channels, each with the sums of two halves of its quads.
///
/// # Safety
/// `check` holds for the task, which has `M` pixels from `first` on and `N` vectors of 4 channels; `N` is even.
#[target_feature(enable = "avx2")]
unsafe fn by_words<const M: usize, const N: usize>(task: &mut Task<'_>, first: usize, weights: &[i16]) {
    // SAFETY: the caller's.
    unsafe {
        let zero = _mm256_setzero_si256();
        let mut sums = [[zero; N]; M];
        let input = task.input.as_ptr();
        let pixels: [*const u8; M] = std::array::from_fn(|m| input.add(*task.bases.get_unchecked(first + m)));
        let mut weights = weights.as_ptr();
        for &run in task.runs {
            for at in 0..task.quads {
                let bytes: [__m256i; M] = std::array::from_fn(|m| {
                    _mm256_unpacklo_epi8(_mm256_set1_epi32(quad(pixels[m].add(run + at * 4))), zero)
                });
                for n in 0..N {
                    let vector = _mm256_loadu_si256(weights.add(n * 16).cast());
                    for m in 0..M {
                        sums[m][n] = _mm256_add_epi32(sums[m][n], _mm256_madd_epi16(bytes[m], vector));
                    }
                }
                weights = weights.add(N * 16);
            }
        }
        let to = task.sums.as_mut_ptr().add(first * N * 4);
        for m in 0..M {
            for n in (0..N).step_by(2) {
                // Channels 0 1 4 5 2 3 6 7, put in order.
                let halves = _mm256_hadd_epi32(sums[m][n], sums[m][n + 1]);
                let eight = _mm256_permute4x64_epi64::<0b11_01_10_00>(halves);
                let start = _mm256_loadu_si256(task.start.as_ptr().add(n * 4).cast());
                _mm256_storeu_si256(to.add((m * N + n) * 4).cast(), _mm256_add_epi32(eight, start));
            }
        }
    }
}

//! The same for x86 without dot products of bytes: 16-bit numbers, two taps in a lane.

use super::{BLOCK, TILE, Task};
use std::arch::x86_64::{
    __m256i, _mm_loadl_epi64, _mm_loadu_si128, _mm256_add_epi32, _mm256_castps_si256, _mm256_castsi256_ps,
    _mm256_cvtepi8_epi16, _mm256_cvtepu8_epi32, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_or_si256,
    _mm256_permute4x64_epi64, _mm256_shuffle_ps, _mm256_slli_epi32, _mm256_storeu_si256,
};

/// Calls a kernel with the number of pixels for which it was made.
macro_rules! pixels {
    ($kernel:ident, $task:ident, $sums:ident) => {{
        $task.check();
        // SAFETY: `check` has found that every read lies within the input and the weights; there are sums for `TILE` pixels; a
        // layer of this instruction set exists only where `Isa::check` found it.
        unsafe {
            match $task.pixels {
                8 => $kernel::<8>($task, $sums),
                7 => $kernel::<7>($task, $sums),
                6 => $kernel::<6>($task, $sums),
                5 => $kernel::<5>($task, $sums),
                4 => $kernel::<4>($task, $sums),
                3 => $kernel::<3>($task, $sums),
                2 => $kernel::<2>($task, $sums),
                _ => $kernel::<1>($task, $sums),
            }
        }
    }};
}

pub(super) fn avx2(task: &Task<'_>, sums: &mut [i32; TILE * BLOCK]) {
    pixels!(by_words, task, sums);
}

/// # Safety
/// `check` holds for the task, and it has `M` pixels.
#[target_feature(enable = "avx2")]
unsafe fn by_words<const M: usize>(task: &Task<'_>, sums: &mut [i32; TILE * BLOCK]) {
    // SAFETY: the caller's.
    unsafe {
        for half in [0, 8] {
            let mut found = [_mm256_loadu_si256(task.start.as_ptr().add(half).cast()); M];
            let input = task.input.as_ptr().add(task.base + half);
            for (taps, weights) in
                task.taps.as_chunks::<4>().0.iter().zip(task.weights.chunks_exact(4 * BLOCK))
            {
                // Of eight channels four weights each: taps 0 and 1 in even 32-bit lanes, 2 and 3 in odd ones.
                let from = weights.as_ptr().add(4 * half);
                let [left, right] =
                    [0, 16].map(|at| _mm256_cvtepi8_epi16(_mm_loadu_si128(from.add(at).cast())));
                let (first, second) = pairs(left, right);
                for (m, sum) in found.iter_mut().enumerate() {
                    let pixel = input.add(m * task.step);
                    let [a, b, c, d] =
                        taps.map(|tap| _mm256_cvtepu8_epi32(_mm_loadl_epi64(pixel.add(tap).cast())));
                    let low = _mm256_or_si256(a, _mm256_slli_epi32::<16>(b));
                    let high = _mm256_or_si256(c, _mm256_slli_epi32::<16>(d));
                    *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(low, first));
                    *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(high, second));
                }
            }
            for (m, sum) in found.iter().enumerate() {
                _mm256_storeu_si256(sums.as_mut_ptr().add(m * BLOCK + half).cast(), *sum);
            }
        }
    }
}

/// The even and the odd 32-bit lanes of two vectors, in order.
#[target_feature(enable = "avx2")]
fn pairs(left: __m256i, right: __m256i) -> (__m256i, __m256i) {
    let (left, right) = (_mm256_castsi256_ps(left), _mm256_castsi256_ps(right));
    let even = _mm256_castps_si256(_mm256_shuffle_ps::<0b10_00_10_00>(left, right));
    let odd = _mm256_castps_si256(_mm256_shuffle_ps::<0b11_01_11_01>(left, right));
    // Lanes 0 1 4 5 2 3 6 7, put in order.
    (_mm256_permute4x64_epi64::<0b11_01_10_00>(even), _mm256_permute4x64_epi64::<0b11_01_10_00>(odd))
}

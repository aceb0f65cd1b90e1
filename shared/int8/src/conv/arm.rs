//! The same for 64-bit Arm, which multiplies signed bytes by signed ones: the input is taken less 128, which the beginnings of
//! sums give back.

#![expect(clippy::needless_range_loop, reason = "tiles are told by their rows and columns")]

use super::pack::{Task, quad, tiles};
use std::arch::aarch64::{
    int8x16_t, int32x4_t, vaddq_s32, vdupq_n_s8, vdupq_n_s32, veorq_s8, vget_high_s8, vget_low_s8, vld1q_s8,
    vld1q_s32, vmull_s8, vpadalq_s16, vpaddq_s32, vreinterpretq_s8_s32, vst1q_s32,
};
use std::arch::asm;

pub(super) fn dot(mut task: Task<'_>, weights: &[i8]) {
    task.check(weights.len());
    assert!(task.width == 16);
    tiles!(by_dot, 4, task, weights, 4 2 1);
}

/// `sdot`: to each 32-bit lane the products of its four bytes. The intrinsic is not stable yet.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn sdot(sums: int32x4_t, left: int8x16_t, right: int8x16_t) -> int32x4_t {
    let mut found = sums;
    // SAFETY: one instruction on registers.
    unsafe {
        asm!(
            "sdot {0:v}.4s, {1:v}.16b, {2:v}.16b",
            inout(vreg) found, in(vreg) left, in(vreg) right,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    found
}

/// Four bytes of the input less 128, four times.
///
/// # Safety
/// Four bytes can be read at `from`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn four_times(from: *const u8) -> int8x16_t {
    // SAFETY: the caller's.
    let bytes = vreinterpretq_s8_s32(vdupq_n_s32(unsafe { quad(from) }));
    veorq_s8(bytes, vdupq_n_s8(-128))
}

/// # Safety
/// `check` holds for the task, which has `M` pixels from `first` on and `N` vectors of 4 channels.
#[target_feature(enable = "neon,dotprod")]
unsafe fn by_dot<const M: usize, const N: usize>(task: &mut Task<'_>, first: usize, weights: &[i8]) {
    // SAFETY: the caller's.
    unsafe {
        let mut sums = [[vdupq_n_s32(0); N]; M];
        for n in 0..N {
            let start = vld1q_s32(task.start.as_ptr().add(n * 4));
            for of_pixel in &mut sums {
                of_pixel[n] = start;
            }
        }
        let input = task.input.as_ptr();
        let pixels: [*const u8; M] = std::array::from_fn(|m| input.add(*task.bases.get_unchecked(first + m)));
        let mut weights = weights.as_ptr();
        for &run in task.runs {
            for at in 0..task.quads {
                let vectors: [int8x16_t; N] = std::array::from_fn(|n| vld1q_s8(weights.add(n * 16)));
                for m in 0..M {
                    let bytes = four_times(pixels[m].add(run + at * 4));
                    for n in 0..N {
                        sums[m][n] = sdot(sums[m][n], vectors[n], bytes);
                    }
                }
                weights = weights.add(N * 16);
            }
        }
        let to = task.sums.as_mut_ptr().add(first * N * 4);
        for m in 0..M {
            for n in 0..N {
                vst1q_s32(to.add((m * N + n) * 4), sums[m][n]);
            }
        }
    }
}

pub(super) fn neon(mut task: Task<'_>, weights: &[i8]) {
    task.check(weights.len());
    assert!(task.width == 16);
    tiles!(by_halves, 4, task, weights, 2 1);
}

/// Products of bytes fit 16 bits, and pairs of them are added to 32-bit sums: each channel has one of each half of its quads.
///
/// # Safety
/// `check` holds for the task, which has `M` pixels from `first` on and `N` vectors of 4 channels.
#[target_feature(enable = "neon")]
unsafe fn by_halves<const M: usize, const N: usize>(task: &mut Task<'_>, first: usize, weights: &[i8]) {
    // SAFETY: the caller's.
    unsafe {
        let mut sums = [[[vdupq_n_s32(0); 2]; N]; M];
        let input = task.input.as_ptr();
        let pixels: [*const u8; M] = std::array::from_fn(|m| input.add(*task.bases.get_unchecked(first + m)));
        let mut weights = weights.as_ptr();
        for &run in task.runs {
            for at in 0..task.quads {
                let vectors: [int8x16_t; N] = std::array::from_fn(|n| vld1q_s8(weights.add(n * 16)));
                for m in 0..M {
                    let bytes = vget_low_s8(four_times(pixels[m].add(run + at * 4)));
                    for n in 0..N {
                        let [left, right] = &mut sums[m][n];
                        *left = vpadalq_s16(*left, vmull_s8(vget_low_s8(vectors[n]), bytes));
                        *right = vpadalq_s16(*right, vmull_s8(vget_high_s8(vectors[n]), bytes));
                    }
                }
                weights = weights.add(N * 16);
            }
        }
        let to = task.sums.as_mut_ptr().add(first * N * 4);
        for m in 0..M {
            for n in 0..N {
                let [left, right] = sums[m][n];
                let start = vld1q_s32(task.start.as_ptr().add(n * 4));
                vst1q_s32(to.add((m * N + n) * 4), vaddq_s32(vpaddq_s32(left, right), start));
            }
        }
    }
}

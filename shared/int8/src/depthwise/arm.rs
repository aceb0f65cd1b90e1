//! The same for 64-bit Arm: 16-bit products, tap by tap.

use super::{BLOCK, TILE, Task};
use std::arch::aarch64::{
    int32x4_t, vget_high_s8, vget_high_s16, vget_high_u8, vget_low_s8, vget_low_s16, vget_low_u8, vld1q_s32,
    vld1q_u8, vld4q_s8, vmlal_s16, vmovl_s8, vmovl_u8, vreinterpretq_s16_u16, vst1q_s32,
};

pub(super) fn neon(task: &Task<'_>, sums: &mut [i32; TILE * BLOCK]) {
    task.check();
    // SAFETY: `check` has found that every read lies within the input and the weights; there are sums for `TILE` pixels; a layer
    // of this instruction set exists only where `Isa::check` found it.
    unsafe { by_tap(task, sums) }
}

/// # Safety
/// `check` holds for the task.
#[target_feature(enable = "neon")]
unsafe fn by_tap(task: &Task<'_>, sums: &mut [i32; TILE * BLOCK]) {
    // SAFETY: the caller's.
    unsafe {
        for (pixel, sums) in sums.as_chunks_mut::<BLOCK>().0.iter_mut().take(task.pixels).enumerate() {
            let mut found: [int32x4_t; 4] =
                std::array::from_fn(|n| vld1q_s32(task.start.as_ptr().add(n * 4)));
            let input = task.input.as_ptr().add(task.base + pixel * task.step);
            for (taps, weights) in
                task.taps.as_chunks::<4>().0.iter().zip(task.weights.chunks_exact(4 * BLOCK))
            {
                let weights = vld4q_s8(weights.as_ptr());
                for (&tap, weights) in taps.iter().zip([weights.0, weights.1, weights.2, weights.3]) {
                    let bytes = vld1q_u8(input.add(tap));
                    let low = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(bytes)));
                    let high = vreinterpretq_s16_u16(vmovl_u8(vget_high_u8(bytes)));
                    let (left, right) = (vmovl_s8(vget_low_s8(weights)), vmovl_s8(vget_high_s8(weights)));
                    found[0] = vmlal_s16(found[0], vget_low_s16(low), vget_low_s16(left));
                    found[1] = vmlal_s16(found[1], vget_high_s16(low), vget_high_s16(left));
                    found[2] = vmlal_s16(found[2], vget_low_s16(high), vget_low_s16(right));
                    found[3] = vmlal_s16(found[3], vget_high_s16(high), vget_high_s16(right));
                }
            }
            for (n, found) in found.into_iter().enumerate() {
                vst1q_s32(sums.as_mut_ptr().add(n * 4), found);
            }
        }
    }
}

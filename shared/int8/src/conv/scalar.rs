//! The reference: what every other kernel must give.

use super::pack::Task;

pub(super) fn sum(task: Task<'_>, weights: &[i8]) {
    for (&base, sums) in task.bases.iter().zip(task.sums.chunks_exact_mut(task.width)) {
        sums.copy_from_slice(task.start);
        let quads =
            task.runs.iter().flat_map(|run| task.input[base + run..][..task.quads * 4].as_chunks::<4>().0);
        for (bytes, weights) in quads.zip(weights.chunks_exact(4 * task.width)) {
            for (sum, weights) in sums.iter_mut().zip(weights.as_chunks::<4>().0) {
                for (&byte, &weight) in bytes.iter().zip(weights) {
                    *sum += i32::from(byte) * i32::from(weight);
                }
            }
        }
    }
}

//! A full convolution as a product of matrices: the patches of some images become columns, so that all the arithmetic
//! is in the engine's matrix product, forward and backward.
//!
//! The engine's own convolution is as fast forward, but its gradients are general convolutions with kernels as large
//! as the planes.

use rayon::prelude::*;

/// Numbers of patches that are laid out at once.
const PATCH_VALUES: usize = 1 << 20;

/// A convolution with an odd kernel and a border of zeros that keeps the size.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Convolve {
    pub(crate) inputs: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) kernel: usize,
    pub(crate) stride: usize,
}

impl Convolve {
    /// Rows and columns of the result.
    pub(crate) fn output(&self) -> (usize, usize) {
        (self.height.div_ceil(self.stride), self.width.div_ceil(self.stride))
    }

    /// Pixels of a plane of the result.
    pub(crate) fn plane(&self) -> usize {
        let (rows, columns) = self.output();
        rows * columns
    }

    /// Numbers of a patch.
    pub(crate) fn patch(&self) -> usize {
        self.inputs * self.kernel * self.kernel
    }

    /// Numbers of an image.
    pub(crate) fn image(&self) -> usize {
        self.inputs * self.height * self.width
    }

    /// Images whose patches are laid out at once.
    pub(crate) fn images_at_once(&self) -> usize {
        (PATCH_VALUES / (self.patch() * self.plane())).max(1)
    }

    /// The patches of images as columns: a row for each place of a patch, a column for each pixel of each result.
    pub(crate) fn columns(&self, x: &[f32]) -> Vec<f32> {
        let (plane, (rows, columns)) = (self.plane(), self.output());
        let images = x.len() / self.image();
        let mut out = vec![0.0; self.patch() * images * plane];
        out.par_chunks_exact_mut(images * plane).enumerate().for_each(|(place, line)| {
            let (channel, dy, dx) = self.place(place);
            for (image, to) in x.chunks_exact(self.image()).zip(line.chunks_exact_mut(plane)) {
                let from = &image[channel * self.height * self.width..][..self.height * self.width];
                for (row, to) in to.chunks_exact_mut(columns).enumerate().take(rows) {
                    let Some(from) = self.row(from, row, dy) else { continue };
                    let inside = self.inside(columns, dx);
                    let first = (inside.start * self.stride + dx).saturating_sub(self.kernel / 2);
                    match (self.stride, &mut to[inside]) {
                        (_, []) => {}
                        (1, to) => to.copy_from_slice(&from[first..first + to.len()]),
                        (stride, to) => {
                            let from = from[first..].iter().step_by(stride);
                            to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
                        }
                    }
                }
            }
        });
        out
    }

    /// The reverse of [`Self::columns`]: every pixel gets the sum of what its places in the patches have.
    pub(crate) fn gather(&self, patches: &[f32], images: usize) -> Vec<f32> {
        let (plane, (_, columns)) = (self.plane(), self.output());
        let mut out = vec![0.0; images * self.image()];
        out.par_chunks_exact_mut(self.image()).enumerate().for_each(|(index, image)| {
            for place in 0..self.patch() {
                let (channel, dy, dx) = self.place(place);
                let from = &patches[(place * images + index) * plane..][..plane];
                let to = &mut image[channel * self.height * self.width..][..self.height * self.width];
                let inside = self.inside(columns, dx);
                let first = (inside.start * self.stride + dx).saturating_sub(self.kernel / 2);
                for (row, from) in from.chunks_exact(columns).enumerate() {
                    let Some(start) = self.start(row, dy) else { continue };
                    let to = to[start..start + self.width].get_mut(first..).unwrap_or_default();
                    let to = to.iter_mut().step_by(self.stride);
                    to.zip(&from[inside.clone()]).for_each(|(to, from)| *to += from);
                }
            }
        });
        out
    }

    /// Channel, row and column of a place in a patch.
    fn place(&self, place: usize) -> (usize, usize, usize) {
        let square = self.kernel * self.kernel;
        (place / square, place % square / self.kernel, place % self.kernel)
    }

    /// Where in a plane the row begins that a row of the result reads at this row of its patches.
    fn start(&self, row: usize, dy: usize) -> Option<usize> {
        let row = (row * self.stride + dy).checked_sub(self.kernel / 2)?;
        (row < self.height).then_some(row * self.width)
    }

    fn row<'a>(&self, plane: &'a [f32], row: usize, dy: usize) -> Option<&'a [f32]> {
        self.start(row, dy).map(|start| &plane[start..start + self.width])
    }

    /// The columns of the result whose patches are, at this column of theirs, within the image.
    fn inside(&self, columns: usize, dx: usize) -> std::ops::Range<usize> {
        let border = self.kernel / 2;
        let start = border.saturating_sub(dx).div_ceil(self.stride).min(columns);
        let end = (self.width + border).saturating_sub(dx).div_ceil(self.stride).clamp(start, columns);
        start..end
    }
}

/// Exchanges the two outer of three axes.
pub(crate) fn exchange(values: &[f32], outer: usize, inner: usize) -> Vec<f32> {
    let length = values.len() / (outer * inner).max(1);
    let mut out = vec![0.0; values.len()];
    out.par_chunks_exact_mut((outer * length).max(1)).enumerate().for_each(|(place, to)| {
        for (index, to) in to.chunks_exact_mut(length).enumerate() {
            to.copy_from_slice(&values[(index * inner + place) * length..][..length]);
        }
    });
    out
}

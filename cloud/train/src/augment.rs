//! Changing training images a little, so that the network learns what does not matter.
//!
//! One affine map and one pass of noise an image. Pixels from outside the image get the colour that its borders
//! have most often, per channel.

use rand::{Rng, rngs::StdRng};

use crate::{Augment, Images};

/// Changes training images.
pub(crate) struct Augmenter {
    settings: Augment,
    height: usize,
    width: usize,
    outside: Vec<f32>,
}

impl Augmenter {
    pub(crate) fn new(settings: Augment, images: &Images) -> Self {
        Self { settings, height: images.height, width: images.width, outside: borders(images) }
    }

    /// Writes a changed copy of an image to the end of `out`.
    pub(crate) fn apply(&self, image: &[f32], rng: &mut StdRng, out: &mut Vec<f32>) {
        let start = out.len();
        let settings = &self.settings;
        let geometry = [settings.shift_px, settings.rotate_deg, settings.scale];
        if geometry.iter().all(|&v| v == 0.0) {
            out.extend_from_slice(image);
        } else {
            self.map(image, rng, out);
        }
        // Asked for only where it can be, so that other settings draw the same numbers as without it.
        if settings.mirror && rng.random::<bool>() {
            out[start..].chunks_exact_mut(self.width).for_each(<[f32]>::reverse);
        }
        if settings.noise > 0.0 {
            out[start..].iter_mut().for_each(|v| *v += settings.noise * normal(rng));
        }
    }

    fn map(&self, image: &[f32], rng: &mut StdRng, out: &mut Vec<f32>) {
        let mut within = |limit: f32| if limit > 0.0 { rng.random_range(-limit..=limit) } else { 0.0 };
        let (dx, dy) = (within(self.settings.shift_px), within(self.settings.shift_px));
        let (sin, cos) = within(self.settings.rotate_deg).to_radians().sin_cos();
        let size = 1.0 + within(self.settings.scale);
        let (cy, cx) = ((self.height - 1) as f32 / 2.0, (self.width - 1) as f32 / 2.0);
        for (channel, plane) in image.chunks_exact(self.height * self.width).enumerate() {
            for y in 0..self.height {
                for x in 0..self.width {
                    let (u, v) = (x as f32 - cx - dx, y as f32 - cy - dy);
                    let (sx, sy) = ((cos * u + sin * v) / size + cx, (cos * v - sin * u) / size + cy);
                    out.push(self.between(plane, self.outside[channel], sx, sy));
                }
            }
        }
    }

    /// The value between pixels, weighted by how near each of the four is.
    fn between(&self, plane: &[f32], outside: f32, x: f32, y: f32) -> f32 {
        let (left, top) = (x.floor(), y.floor());
        let (fx, fy) = (x - left, y - top);
        let at = |dx: isize, dy: isize| {
            let (x, y) = (left as isize + dx, top as isize + dy);
            let inside = (0..self.width as isize).contains(&x) && (0..self.height as isize).contains(&y);
            if inside { plane[y as usize * self.width + x as usize] } else { outside }
        };
        let upper = at(0, 0) * (1.0 - fx) + at(1, 0) * fx;
        let lower = at(0, 1) * (1.0 - fx) + at(1, 1) * fx;
        upper * (1.0 - fy) + lower * fy
    }
}

/// The median of the border pixels, per channel.
fn borders(images: &Images) -> Vec<f32> {
    let (height, width) = (images.height, images.width);
    (0..images.channels)
        .map(|channel| {
            let mut values = Vec::new();
            // A few hundred images tell the colour of the borders as well as all of them.
            for index in (0..images.len()).take(512) {
                let plane = &images.image(index)[channel * height * width..(channel + 1) * height * width];
                for y in 0..height {
                    let step = if y == 0 || y == height - 1 { 1 } else { width - 1 };
                    values.extend((0..width).step_by(step).map(|x| plane[y * width + x]));
                }
            }
            let middle = values.len() / 2;
            *values.select_nth_unstable_by(middle, f32::total_cmp).1
        })
        .collect()
}

/// A number from the normal distribution.
pub(crate) fn normal(rng: &mut StdRng) -> f32 {
    // One minus, because the logarithm of zero is none.
    let (radius, angle) = (1.0 - rng.random::<f32>(), rng.random::<f32>());
    (-2.0 * radius.ln()).sqrt() * (std::f32::consts::TAU * angle).cos()
}

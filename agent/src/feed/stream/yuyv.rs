//! YUYV, the form in which cameras give uncompressed frames: two pixels in four bytes, `Y0 U Y1 V`.

use flotilla_device::Fault;
use flotilla_protocol::ErrorCode;

/// A frame as a camera gives it.
pub(super) struct Picture {
    /// Rows of `stride` bytes.
    pub(super) bytes: Vec<u8>,
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) stride: u32,
}

impl Picture {
    /// As a picture that models take.
    pub(super) fn encoded(&self) -> Result<Vec<u8>, Fault> {
        let pixels = self.rgb().ok_or_else(|| {
            let (got, size) = (self.bytes.len(), format!("{} x {}", self.width, self.height));
            Fault::transient(
                ErrorCode::SampleInvalid,
                format!("the frame has {got} bytes, too few for {size} pixels"),
            )
        })?;
        flotilla_runtime::encode_rgb(&pixels, self.width, self.height)
            .map_err(|error| Fault::lasting(error.code(), error.detail()))
    }

    /// Red, green and blue, a byte each; none if bytes are missing.
    ///
    /// ITU-R BT.601 with limited range, which V4L2 says of this format unless the driver says otherwise, in integers:
    /// `R = (298 (Y-16) + 409 (V-128) + 128) >> 8` and so on (Microsoft, "Recommended 8-Bit YUV Formats for Video Rendering").
    fn rgb(&self) -> Option<Vec<u8>> {
        let (width, height, stride) = (self.width as usize, self.height as usize, self.stride as usize);
        let row = width.div_ceil(2) * 4;
        if stride < row || self.bytes.len() < stride.checked_mul(height.checked_sub(1)?)?.checked_add(row)? {
            return None;
        }
        let mut out = Vec::with_capacity(width * height * 3);
        for line in self.bytes.chunks(stride).take(height) {
            for (index, [y0, u, y1, v]) in line[..row].as_chunks::<4>().0.iter().enumerate() {
                out.extend(pixel(*y0, *u, *v));
                if 2 * index + 1 < width {
                    out.extend(pixel(*y1, *u, *v));
                }
            }
        }
        Some(out)
    }
}

fn pixel(y: u8, u: u8, v: u8) -> [u8; 3] {
    let (c, d, e) = (i32::from(y) - 16, i32::from(u) - 128, i32::from(v) - 128);
    let byte = |sum: i32| ((sum + 128) >> 8).clamp(0, 255) as u8;
    [byte(298 * c + 409 * e), byte(298 * c - 100 * d - 208 * e), byte(298 * c + 516 * d)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_colours_of_bt601_come_out() {
        // SMPTE colour bars at full saturation, as BT.601 gives them.
        for (yuv, rgb) in [
            ([16, 128, 128], [0, 0, 0]),
            ([235, 128, 128], [255, 255, 255]),
            ([81, 90, 240], [255, 0, 0]),
            ([145, 54, 34], [0, 255, 0]),
            ([41, 240, 110], [0, 0, 255]),
            ([210, 16, 146], [255, 255, 0]),
            ([126, 128, 128], [128, 128, 128]),
        ] {
            let got = pixel(yuv[0], yuv[1], yuv[2]);
            let near = got.iter().zip(rgb).all(|(a, b)| i32::from(*a).abs_diff(b) <= 2);
            assert!(near, "{yuv:?}: {got:?}, not {rgb:?}");
        }
        assert_eq!(pixel(0, 0, 0).len() + pixel(255, 255, 255).len(), 6, "nothing overflows");
    }

    #[test]
    fn rows_may_be_padded_and_of_odd_width_and_a_cut_frame_is_no_picture() {
        // Three pixels a row, two rows, ten bytes a row; the last row's padding may be missing.
        let row = [235, 128, 16, 128, 235, 128, 16, 128, 7, 7];
        let mut bytes = [row, row].concat();
        bytes.truncate(18);
        let picture = Picture { bytes, width: 3, height: 2, stride: 10 };
        let (white, black) = ([255; 3], [0; 3]);
        assert_eq!(picture.rgb().expect("a picture"), [white, black, white, white, black, white].concat());
        let encoded = picture.encoded().expect("a PNG");
        assert!(encoded.starts_with(b"\x89PNG"));
        let cut = Picture { bytes: vec![0; 17], ..picture };
        assert_eq!(cut.encoded().expect_err("too short").code, ErrorCode::SampleInvalid);
        assert!(Picture { stride: 2, ..cut }.rgb().is_none());
    }
}

//! Looks into a picture: only what decodes completely becomes a sample.

use super::collector::Shape;
use flotilla_protocol::limits;
use image::{ImageFormat, ImageReader, Limits};
use std::io::Cursor;

/// Extensions of pictures that are read.
pub(super) const EXTENSIONS: [&str; 3] = ["png", "jpg", "jpeg"];
/// Extensions of pictures that are known and not read.
pub(super) const OTHER_EXTENSIONS: [&str; 8] = ["gif", "bmp", "webp", "tif", "tiff", "avif", "heic", "ppm"];
/// Bytes a decoder may use for one picture.
const DECODE_BYTES: u64 = 512 * limits::MIB as u64;
/// Where a JPEG's end marker is looked for: some programs write a little behind it.
const JPEG_TAIL: usize = 4 * limits::KIB;
const JPEG_END: [u8; 2] = [0xff, 0xd9];

/// The columns and rows of a picture that decodes completely within these bounds, or why it does not.
pub(crate) fn look_into(bytes: &[u8], pixels_max: u64, decode_bytes: u64) -> Result<(u32, u32), String> {
    check_within(bytes, pixels_max, decode_bytes).map(|shape| (shape.width, shape.height))
}

/// Decodes a picture to see that it is one. The error says why it is none.
pub(super) fn check(bytes: &[u8]) -> Result<Shape, String> {
    check_within(bytes, limits::IMAGE_PIXELS, DECODE_BYTES)
}

fn check_within(bytes: &[u8], pixels_max: u64, decode_bytes: u64) -> Result<Shape, String> {
    let decode_failed = |e: image::ImageError| format!("it does not decode: {e}");
    let reader = || {
        let mut reader = ImageReader::new(Cursor::new(bytes))
            .with_guessed_format()
            .map_err(|e| format!("it cannot be read: {e}"))?;
        let mut bounds = Limits::default();
        bounds.max_alloc = Some(decode_bytes);
        reader.limits(bounds);
        Ok::<_, String>(reader)
    };
    let first = reader()?;
    let format = first.format();
    if !matches!(format, Some(ImageFormat::Png | ImageFormat::Jpeg)) {
        return Err("it is neither png nor jpeg".into());
    }
    let (width, height) = first.into_dimensions().map_err(decode_failed)?;
    let pixels = u64::from(width) * u64::from(height);
    if pixels == 0 || pixels > pixels_max {
        return Err(format!("it has {width} x {height} pixels; up to {pixels_max} are possible"));
    }
    // The decoder fills what is missing of a cut JPEG with grey.
    let tail = &bytes[bytes.len().saturating_sub(JPEG_TAIL)..];
    if format == Some(ImageFormat::Jpeg) && !tail.windows(2).any(|pair| pair == JPEG_END) {
        return Err("it is cut off: its end marker is missing".into());
    }
    let picture = reader()?.decode().map_err(decode_failed)?;
    Ok(Shape { width, height, grey: !picture.color().has_color() })
}

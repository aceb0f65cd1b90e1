//! Grey pixels to PNG, always to the same bytes: samples are named by their digest.

use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder};

/// Encodes rows of grey pixels. Nothing is compressed: these pictures are small, and the bytes must not
/// change with the compressor's version.
pub(super) fn encode(pixels: &[u8], width: u32, height: u32) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(pixels.len() + 128);
    PngEncoder::new_with_quality(&mut out, CompressionType::Uncompressed, FilterType::NoFilter)
        .write_image(pixels, width, height, ExtendedColorType::L8)
        .map_err(|e| format!("it cannot be encoded: {e}"))?;
    Ok(out)
}

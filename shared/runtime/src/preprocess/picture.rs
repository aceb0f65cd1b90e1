//! Pictures: decoding within bounds, and bringing the pixels to the colour channels of the model.

use crate::error::{Source, no_panic};
use crate::{DECODE_BYTES, Error, IMAGE_SIDE, Result};
use flotilla_protocol::limits;
use flotilla_protocol::pipeline::Colour;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{
    DynamicImage, ExtendedColorType, ImageDecoder, ImageEncoder, ImageError, ImageFormat, ImageReader,
    ImageResult, Limits,
};
use std::borrow::Cow;
use std::io::Cursor;

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";
const JPEG: &[u8] = b"\xff\xd8\xff";

/// Whether bytes begin as files of pictures do, in every build alike.
pub(super) fn is_known(bytes: &[u8]) -> bool {
    let starts: [&[u8]; 4] = [PNG, JPEG, b"GIF87a", b"GIF89a"];
    let webp = bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP");
    // Two letters say little: the size of the file stands behind them.
    let bmp = match bytes {
        [b'B', b'M', a, b, c, d, ..] => u32::from_le_bytes([*a, *b, *c, *d]) as usize == bytes.len(),
        _ => false,
    };
    webp || bmp || starts.iter().any(|start| bytes.starts_with(start))
}

/// Pixels row by row, the channels of a pixel beside each other, a byte each.
pub(crate) struct Picture<'a> {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) channels: usize,
    pub(crate) bytes: Cow<'a, [u8]>,
}

impl<'a> Picture<'a> {
    /// Pixels as they are, of this size.
    pub(crate) fn raw(bytes: &'a [u8], width: u32, height: u32, colour: Colour) -> Result<Self> {
        let channels = colour.channels();
        let need = width as usize * height as usize * channels;
        if bytes.len() != need {
            return Err(Error::RawLength { got: bytes.len(), need });
        }
        Ok(Self { width, height, channels, bytes: Cow::Borrowed(bytes) })
    }

    /// Decodes a PNG or JPEG, with the feature `media` WebP, BMP and the first picture of a GIF too. The size in its header is
    /// checked before memory for its pixels is taken.
    ///
    /// Colour to grey is BT.601 luma in integers, rounded: `(19595 R + 38470 G + 7471 B + 32768) >> 16`.
    /// Transparency is dropped, 16-bit values are scaled to 8 bits. With `orient` a picture stands as the orientation in
    /// the camera's metadata says.
    pub(crate) fn decode(bytes: &[u8], colour: Colour, orient: bool) -> Result<Self> {
        let (format, name) = match image::guess_format(bytes) {
            Ok(format @ ImageFormat::Png) => (format, "PNG"),
            Ok(format @ ImageFormat::Jpeg) => (format, "JPEG"),
            #[cfg(feature = "media")]
            Ok(format @ ImageFormat::WebP) => (format, "WebP"),
            #[cfg(feature = "media")]
            Ok(format @ ImageFormat::Bmp) => (format, "BMP"),
            #[cfg(feature = "media")]
            Ok(format @ ImageFormat::Gif) => (format, "GIF"),
            _ => return Err(Error::ImageFormat),
        };
        let fail = |source: Source| Error::ImageDecode { format: name, source };
        if format == ImageFormat::Jpeg && !jpeg_is_complete(bytes) {
            return Err(fail("it ends in the middle of its data".into()));
        }
        let mut size = (0, 0);
        let result = no_panic(|| decode_within_bounds(bytes, format, orient, &mut size))
            .map_err(|p| fail(p.into()))?;
        let (width, height) = size;
        match result {
            Ok(Some(image)) => Ok(Self::of(image, colour)),
            Ok(None) | Err(ImageError::Limits(_)) => Err(Error::ImageTooLarge { width, height }),
            Err(error) => Err(fail(error.into())),
        }
    }

    fn of(image: DynamicImage, colour: Colour) -> Picture<'static> {
        let (width, height) = (image.width(), image.height());
        let bytes = match colour {
            Colour::Rgb => image.into_rgb8().into_raw(),
            Colour::Bgr => turned(image.into_rgb8().into_raw()),
            Colour::Grey if image.color().has_color() => luma(&image.into_rgb8().into_raw()),
            Colour::Grey => image.into_luma8().into_raw(),
        };
        Picture { width, height, channels: colour.channels(), bytes: Cow::Owned(bytes) }
    }
}

/// Pixels as a PNG.
pub(crate) fn png(pixels: &[u8], width: u32, height: u32, colour: Colour) -> Result<Vec<u8>> {
    let (kind, pixels) = match colour {
        Colour::Grey => (ExtendedColorType::L8, Cow::Borrowed(pixels)),
        Colour::Rgb => (ExtendedColorType::Rgb8, Cow::Borrowed(pixels)),
        Colour::Bgr => (ExtendedColorType::Rgb8, Cow::Owned(turned(pixels.to_vec()))),
    };
    let mut out = Vec::new();
    let encoder = PngEncoder::new_with_quality(&mut out, CompressionType::Best, FilterType::Adaptive);
    let written = encoder.write_image(&pixels, width, height, kind);
    written.map_err(|error| Error::ImageEncode { source: error.into() })?;
    Ok(out)
}

/// Pixels of a camera, red, green and blue a byte each, as a picture that [`crate::Input::Encoded`] takes: a PNG without
/// compression, which costs next to nothing to write and to read.
pub fn encode_rgb(pixels: &[u8], width: u32, height: u32) -> Result<Vec<u8>> {
    let need = width as usize * height as usize * Colour::Rgb.channels();
    if pixels.len() != need {
        return Err(Error::RawLength { got: pixels.len(), need });
    }
    let mut out = Vec::with_capacity(need + need / 64 + 1_024);
    let encoder = PngEncoder::new_with_quality(&mut out, CompressionType::Uncompressed, FilterType::NoFilter);
    let written = encoder.write_image(pixels, width, height, ExtendedColorType::Rgb8);
    written.map_err(|error| Error::ImageEncode { source: error.into() })?;
    Ok(out)
}

/// The picture, or none where its size is over the bounds; `size` is set as soon as it is known.
fn decode_within_bounds(
    bytes: &[u8],
    format: ImageFormat,
    orient: bool,
    size: &mut (u32, u32),
) -> ImageResult<Option<DynamicImage>> {
    let mut bounds = Limits::no_limits();
    bounds.max_alloc = Some(DECODE_BYTES);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(bounds);
    let mut decoder = reader.into_decoder()?;
    *size = decoder.dimensions();
    let (width, height) = *size;
    let fits = width <= IMAGE_SIDE
        && height <= IMAGE_SIDE
        && u64::from(width) * u64::from(height) <= limits::IMAGE_PIXELS
        && decoder.total_bytes() <= DECODE_BYTES;
    if !fits {
        return Ok(None);
    }
    // Metadata that cannot be read says nothing.
    let orientation = orient.then(|| decoder.orientation().ok()).flatten();
    let mut image = DynamicImage::from_decoder(decoder)?;
    if let Some(orientation) = orientation {
        image.apply_orientation(orientation);
    }
    Ok(Some(image))
}

fn luma(rgb: &[u8]) -> Vec<u8> {
    let grey = |[r, g, b]: &[u8; 3]| {
        let sum = 19_595 * u32::from(*r) + 38_470 * u32::from(*g) + 7_471 * u32::from(*b);
        ((sum + 32_768) >> 16) as u8
    };
    rgb.as_chunks::<3>().0.iter().map(grey).collect()
}

/// Pixels with their first and last channel exchanged.
fn turned(mut pixels: Vec<u8>) -> Vec<u8> {
    pixels.as_chunks_mut::<3>().0.iter_mut().for_each(|pixel| pixel.swap(0, 2));
    pixels
}

/// Whether the end marker follows the first scan. The decoder fills what is missing with grey, which would
/// make a prediction out of half a picture.
fn jpeg_is_complete(bytes: &[u8]) -> bool {
    const SCAN: u8 = 0xda;
    const END: [u8; 2] = [0xff, 0xd9];
    let mut at = 2;
    while let Some(&[0xff, marker, high, low]) = bytes.get(at..at + 4) {
        if marker == SCAN {
            // Inside a scan 0xff is always followed by zero or a restart marker, so this is the real end.
            return bytes[at..].windows(2).any(|pair| pair == END);
        }
        // A marker may be preceded by fill bytes.
        at += if marker == 0xff { 1 } else { 2 + usize::from(u16::from_be_bytes([high, low])) };
    }
    false
}

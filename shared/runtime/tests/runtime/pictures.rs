//! Pre-processing with pixel values worked out by hand.

use crate::support::{grey, image, jpeg, png, rgb};
use ::image::{GrayAlphaImage, GrayImage, RgbImage, RgbaImage};
use flotilla_protocol::pipeline::{Colour, Filter, Layout, Place, Resize};
use flotilla_protocol::{ErrorCode, Pipeline, limits};
use flotilla_runtime::{Error, Input, Preprocessor, preprocess};

fn with_normalisation(mut pipeline: Pipeline, mean: &[f32], std: &[f32]) -> Pipeline {
    let image = image(&mut pipeline);
    (image.mean, image.std) = (mean.to_vec(), std.to_vec());
    pipeline
}

#[test]
fn raw_grey_pixels_become_values_from_0_to_1() {
    let pipeline = grey(2, 2, Resize::Exact, &["a"]);
    assert_eq!(preprocess(&pipeline, Input::Raw(&[0, 51, 102, 255])).unwrap(), [0.0, 0.2, 0.4, 1.0]);
    let pipeline = with_normalisation(pipeline, &[0.5], &[0.5]);
    assert_eq!(preprocess(&pipeline, Input::Raw(&[0, 255, 255, 0])).unwrap(), [-1.0, 1.0, 1.0, -1.0]);
}

#[test]
fn colour_pixels_follow_the_layout_and_each_channel_its_own_normalisation() {
    let raw = Input::Raw(&[255, 0, 51, 0, 255, 102]);
    let planes = rgb(2, 1, Resize::Exact, Layout::Nchw, &["a"]);
    assert_eq!(preprocess(&planes, raw).unwrap(), [1.0, 0.0, 0.0, 1.0, 0.2, 0.4]);
    let pixels = rgb(2, 1, Resize::Exact, Layout::Nhwc, &["a"]);
    assert_eq!(preprocess(&pixels, raw).unwrap(), [1.0, 0.0, 0.2, 0.0, 1.0, 0.4]);
    assert_eq!(Preprocessor::new(&planes).unwrap().given()[0].shape, [1, 3, 1, 2]);
    assert_eq!(Preprocessor::new(&pixels).unwrap().given()[0].shape, [1, 1, 2, 3]);
    let shifted = with_normalisation(pixels, &[0.0, 1.0, 0.0], &[1.0, 1.0, 0.5]);
    assert_eq!(preprocess(&shifted, raw).unwrap(), [1.0, -1.0, 0.4, 0.0, 0.0, 0.8]);
}

#[test]
fn a_tensor_stands_for_the_picture_that_it_was_made_of() {
    let (grey, rgb) = (grey(3, 2, Resize::Exact, &["a"]), |layout| {
        with_normalisation(rgb(1, 2, Resize::Exact, layout, &["a"]), &[0.5, 0.4, 0.3], &[0.5, 0.2, 2.0])
    });
    let raw = [0, 51, 102, 255, 7, 200];
    for pipeline in [grey, rgb(Layout::Nchw), rgb(Layout::Nhwc)] {
        let preprocessor = Preprocessor::new(&pipeline).unwrap();
        let pictures = preprocessor.pictures().unwrap();
        let tensor = preprocessor.tensor(Input::Raw(&raw)).unwrap();
        let picture = pictures.picture(&tensor).unwrap();
        assert_eq!(picture, preprocessor.miniature(Input::Raw(&raw)).unwrap());
        assert_eq!(preprocessor.tensor(Input::Encoded(&picture)).unwrap(), tensor);
        assert_eq!(pictures.picture(&tensor[1..]).unwrap_err().code(), ErrorCode::InvalidInput);
        let wild = [f32::NAN, f32::INFINITY, -9.0, 9.0, 0.0, 0.0];
        assert!(pictures.picture(&wild).is_ok(), "whatever an application sends");
    }
}

#[test]
fn colour_becomes_bt601_luma() {
    let picture = RgbImage::from_raw(4, 1, vec![255, 0, 0, 0, 255, 0, 0, 0, 255, 100, 100, 100]).unwrap();
    let tensor = preprocess(&grey(4, 1, Resize::Exact, &["a"]), Input::Encoded(&png(picture))).unwrap();
    let bytes: Vec<f32> = tensor.iter().map(|value| (value * 255.0).round()).collect();
    assert_eq!(bytes, [76.0, 150.0, 29.0, 100.0]);
}

#[test]
fn grey_pictures_fill_all_three_channels_and_transparency_is_dropped() {
    let three = rgb(1, 1, Resize::Exact, Layout::Nhwc, &["a"]);
    let one = grey(1, 1, Resize::Exact, &["a"]);
    let of = |pipeline: &Pipeline, bytes: Vec<u8>| preprocess(pipeline, Input::Encoded(&bytes)).unwrap();
    assert_eq!(of(&three, png(GrayImage::from_raw(1, 1, vec![51]).unwrap())), [0.2; 3]);
    assert_eq!(of(&one, png(GrayAlphaImage::from_raw(1, 1, vec![51, 7]).unwrap())), [0.2]);
    assert_eq!(of(&three, png(RgbaImage::from_raw(1, 1, vec![0, 51, 255, 0]).unwrap())), [0.0, 0.2, 1.0]);
    let sixteen = image::ImageBuffer::<image::Luma<u16>, _>::from_raw(1, 1, vec![51 * 257]).unwrap();
    assert_eq!(of(&one, png(image::DynamicImage::ImageLuma16(sixteen))), [0.2]);
}

#[test]
fn jpeg_pictures_come_out_close_to_what_went_in() {
    let picture = RgbImage::from_fn(32, 32, |x, _| if x < 16 { [200, 30, 30] } else { [30, 30, 200] }.into());
    let pipeline = rgb(2, 1, Resize::Stretch, Layout::Nhwc, &["a"]);
    let tensor = preprocess(&pipeline, Input::Encoded(&jpeg(picture))).unwrap();
    let expected = [200.0, 30.0, 30.0, 30.0, 30.0, 200.0].map(|value| value / 255.0);
    // The widened triangle of each half reaches a little into the other.
    assert!(tensor.iter().zip(expected).all(|(a, b)| (a - b).abs() < 0.12), "{tensor:?}");
}

#[test]
fn pictures_of_another_size_are_stretched_or_refused_as_the_pipeline_says() {
    let bytes = png(GrayImage::from_raw(2, 1, vec![0, 255]).unwrap());
    let tensor = preprocess(&grey(4, 1, Resize::Stretch, &["a"]), Input::Encoded(&bytes)).unwrap();
    assert_eq!(tensor, [0.0, 0.25, 0.75, 1.0]);
    let error = preprocess(&grey(4, 1, Resize::Exact, &["a"]), Input::Encoded(&bytes)).unwrap_err();
    assert!(matches!(error, Error::ImageSize { got: (2, 1), need: (4, 1) }));
    assert_eq!(error.code(), ErrorCode::InvalidInput);
    assert!(!error.is_bad_input(), "another release might take it");
}

#[test]
fn raw_pixels_must_have_exactly_the_right_length() {
    let pipeline = rgb(2, 2, Resize::Stretch, Layout::Nchw, &["a"]);
    for got in [0, 4, 11, 13] {
        let error = preprocess(&pipeline, Input::Raw(&vec![0; got])).unwrap_err();
        assert!(matches!(error, Error::RawLength { got: g, need: 12 } if g == got), "{error}");
    }
}

#[test]
fn half_a_picture_is_an_error_and_not_a_guess() {
    let picture = RgbImage::from_fn(64, 64, |x, y| [x as u8 * 4, y as u8 * 4, (x * y) as u8].into());
    let pipeline = grey(8, 8, Resize::Stretch, &["a"]);
    for whole in [png(picture.clone()), jpeg(picture)] {
        assert!(preprocess(&pipeline, Input::Encoded(&whole)).is_ok());
        for length in [12, whole.len() / 2, whole.len() - 20] {
            let error = preprocess(&pipeline, Input::Encoded(&whole[..length])).unwrap_err();
            assert!(matches!(error, Error::ImageDecode { .. }), "{length}: {error}");
            assert_eq!(error.code(), ErrorCode::SampleInvalid);
            assert!(error.is_bad_input());
        }
    }
    for nothing in [&b""[..], b"%PDF-1.7", b"hello"] {
        let error = preprocess(&pipeline, Input::Encoded(nothing)).unwrap_err();
        assert!(matches!(error, Error::ImageFormat), "{error}");
    }
}

/// A PNG header that announces this size, with next to no data behind it.
fn png_bomb(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = png(GrayImage::from_raw(1, 1, vec![0]).unwrap());
    bytes[16..20].copy_from_slice(&width.to_be_bytes());
    bytes[20..24].copy_from_slice(&height.to_be_bytes());
    let mut crc = flate2::Crc::new();
    crc.update(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&crc.sum().to_be_bytes());
    bytes
}

#[test]
fn a_picture_that_announces_too_many_pixels_is_refused_by_its_header() {
    let pipeline = grey(8, 8, Resize::Stretch, &["a"]);
    for (width, height) in [(10_000, 10_000), (70_000, 1), (1, 70_000), (i32::MAX as u32, i32::MAX as u32)] {
        let error = preprocess(&pipeline, Input::Encoded(&png_bomb(width, height))).unwrap_err();
        assert!(error.is_bad_input(), "{width} x {height}: {}", error.detail());
        if width < 1_000_000 {
            assert!(
                matches!(error, Error::ImageTooLarge { width: w, height: h } if (w, h) == (width, height)),
                "{width} x {height}: {}",
                error.detail()
            );
        }
    }
    let mut jpeg = jpeg(GrayImage::new(8, 8));
    let frame = jpeg.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0xff, 0xff, 0xff, 0xff]);
    let error = preprocess(&pipeline, Input::Encoded(&jpeg)).unwrap_err();
    assert!(matches!(error, Error::ImageTooLarge { width: 65_535, height: 65_535 }), "{}", error.detail());
    assert_eq!(error.code(), ErrorCode::TooLarge);
}

#[test]
fn pipelines_beyond_the_bounds_are_refused() {
    let good = grey(8, 8, Resize::Stretch, &["a"]);
    let mut pipelines = vec![
        grey(0, 8, Resize::Stretch, &["a"]),
        grey(8, 8, Resize::Stretch, &[]),
        grey(100_000, 1, Resize::Stretch, &["a"]),
        grey(limits::IMAGE_PIXELS as u32, 2, Resize::Stretch, &["a"]),
        with_normalisation(good.clone(), &[0.0], &[0.0]),
        with_normalisation(good.clone(), &[f32::NAN], &[1.0]),
        with_normalisation(good.clone(), &[0.0; 3], &[1.0; 3]),
    ];
    pipelines.push(Pipeline { format: 2, ..good });
    for pipeline in pipelines {
        assert!(matches!(Preprocessor::new(&pipeline), Err(Error::Pipeline(_))), "{pipeline:?}");
    }
}

#[test]
fn the_form_of_an_input_is_told_by_its_signature() {
    let preprocessor = Preprocessor::new(&grey(2, 2, Resize::Exact, &["a"])).unwrap();
    let picture = png(GrayImage::new(1, 1));
    assert_eq!(preprocessor.told(Input::Unsaid(&picture)), Input::Encoded(&picture));
    let photo = jpeg(GrayImage::new(8, 8));
    assert_eq!(preprocessor.told(Input::Unsaid(&photo)), Input::Encoded(&photo));
    assert_eq!(preprocessor.told(Input::Unsaid(&[0xff; 12])), Input::Raw(&[0xff; 12]));
    assert_eq!(preprocessor.told(Input::Unsaid(&[])), Input::Raw(&[]));
    assert_eq!(preprocessor.told(Input::Raw(&picture)), Input::Raw(&picture), "who knows says it");
}

#[test]
fn blue_comes_first_where_a_model_wants_it() {
    let mut pipeline = rgb(1, 1, Resize::Exact, Layout::Nchw, &["a"]);
    image(&mut pipeline).colour = Colour::Bgr;
    let picture = png(RgbImage::from_raw(1, 1, vec![255, 51, 0]).unwrap());
    assert_eq!(preprocess(&pipeline, Input::Encoded(&picture)).unwrap(), [0.0, 0.2, 1.0]);
    let preprocessor = Preprocessor::new(&pipeline).unwrap();
    let small = preprocessor.miniature(Input::Encoded(&picture)).unwrap();
    assert_eq!(preprocessor.tensor(Input::Encoded(&small)).unwrap(), [0.0, 0.2, 1.0]);
}

#[test]
fn a_letterboxed_picture_keeps_its_shape_and_the_rest_is_filled() {
    let mut pipeline = grey(4, 4, Resize::Letterbox { fill: 51, place: Place::Centre }, &["a"]);
    image(&mut pipeline).filter = Filter::Nearest;
    let picture = png(GrayImage::from_raw(2, 1, vec![0, 255]).unwrap());
    let tensor = preprocess(&pipeline, Input::Encoded(&picture)).unwrap();
    let (fill, line) = ([0.2; 4], [0.0, 0.0, 1.0, 1.0]);
    assert_eq!(tensor, [fill, line, line, fill].concat());
    image(&mut pipeline).resize = Resize::Letterbox { fill: 51, place: Place::TopLeft };
    assert_eq!(preprocess(&pipeline, Input::Encoded(&picture)).unwrap(), [line, line, fill, fill].concat());
}

#[test]
fn a_cropped_picture_is_its_middle() {
    let pipeline = grey(2, 2, Resize::Crop { keep_milli: 1_000 }, &["a"]);
    let picture = png(GrayImage::from_raw(4, 2, vec![1, 51, 102, 1, 1, 153, 204, 1]).unwrap());
    assert_eq!(preprocess(&pipeline, Input::Encoded(&picture)).unwrap(), [0.2, 0.4, 0.6, 0.8]);
    let pipeline = grey(2, 2, Resize::Crop { keep_milli: 500 }, &["a"]);
    let picture = png(GrayImage::from_raw(
        4,
        4,
        (0..16).map(|n| if [5, 6, 9, 10].contains(&n) { 255 } else { 0 }).collect(),
    )
    .unwrap());
    assert_eq!(preprocess(&pipeline, Input::Encoded(&picture)).unwrap(), [1.0; 4]);
    let bad = grey(2, 2, Resize::Crop { keep_milli: 0 }, &["a"]);
    assert!(matches!(Preprocessor::new(&bad), Err(Error::Pipeline(_))));
}

/// A JPEG whose metadata says that it lies on its side (Exif 2.3, tag 0x0112, value 6).
fn on_its_side(photo: &[u8]) -> Vec<u8> {
    let exif = b"\xff\xe1\x00\x22Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    [&photo[..2], exif, &photo[2..]].concat()
}

#[test]
fn the_orientation_of_a_camera_is_applied_where_the_pipeline_says_so() {
    // Black on the left, white on the right; turned to the right by a quarter, black is above.
    let photo = on_its_side(&jpeg(GrayImage::from_fn(32, 16, |x, _| [if x < 16 { 0 } else { 255 }].into())));
    let mut pipeline = grey(2, 2, Resize::Stretch, &["a"]);
    let said = |pipeline: &Pipeline| {
        let tensor = preprocess(pipeline, Input::Encoded(&photo)).unwrap();
        tensor.iter().map(|value| *value > 0.5).collect::<Vec<_>>()
    };
    assert_eq!(said(&pipeline), [false, true, false, true]);
    image(&mut pipeline).orient = true;
    assert_eq!(said(&pipeline), [false, false, true, true]);
}

#[test]
fn a_miniature_is_as_small_as_the_model_and_gives_nearly_the_same_tensor() {
    let photo = RgbImage::from_fn(640, 480, |x, y| [x as u8, (y * 3) as u8, (x ^ y) as u8].into());
    let photo = jpeg(photo);
    for pipeline in
        [rgb(32, 24, Resize::Stretch, Layout::Nchw, &["a"]), grey(32, 24, Resize::Stretch, &["a"])]
    {
        let preprocessor = Preprocessor::new(&pipeline).unwrap();
        let small = preprocessor.miniature(Input::Encoded(&photo)).unwrap();
        assert!(small.len() < photo.len() / 10, "{} bytes of {}", small.len(), photo.len());
        let whole = preprocessor.tensor(Input::Encoded(&photo)).unwrap();
        let again = preprocessor.tensor(Input::Unsaid(&small)).unwrap();
        let error = whole.iter().zip(&again).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(error <= 0.51 / 255.0, "{error}");
    }
}

#[test]
fn frames_of_a_camera_lose_nothing_on_their_way_to_the_model() {
    let pixels: Vec<u8> = (0..3 * 2 * 3).map(|i| i * 13).collect();
    let encoded = flotilla_runtime::encode_rgb(&pixels, 3, 2).unwrap();
    let pipeline = rgb(3, 2, Resize::Exact, Layout::Nhwc, &["a"]);
    let tensor = preprocess(&pipeline, Input::Encoded(&encoded)).unwrap();
    assert_eq!(tensor, preprocess(&pipeline, Input::Raw(&pixels)).unwrap());
    let error = flotilla_runtime::encode_rgb(&pixels[1..], 3, 2).unwrap_err();
    assert_eq!(error.code(), ErrorCode::InvalidInput);
}

/// More kinds of pictures, in builds that have their decoders.
#[test]
#[cfg(feature = "media")]
fn other_kinds_of_pictures_are_decoded_within_the_same_bounds() {
    use image::ImageFormat::{Bmp, Gif, WebP};
    let pipeline = rgb(2, 1, Resize::Exact, Layout::Nhwc, &["a"]);
    let picture = RgbImage::from_raw(2, 1, vec![255, 0, 51, 0, 255, 102]).unwrap();
    for format in [WebP, Bmp, Gif] {
        let mut bytes = std::io::Cursor::new(Vec::new());
        image::DynamicImage::ImageRgb8(picture.clone()).write_to(&mut bytes, format).unwrap();
        let mut bytes = bytes.into_inner();
        let tensor = preprocess(&pipeline, Input::Encoded(&bytes)).unwrap();
        assert_eq!(tensor, [1.0, 0.0, 0.2, 0.0, 1.0, 0.4], "{format:?}");
        assert_eq!(
            preprocess(&pipeline, Input::Unsaid(&bytes)).unwrap(),
            tensor,
            "{format:?} is told from pixels"
        );
        if format == Bmp {
            bytes[18..22].copy_from_slice(&60_000u32.to_le_bytes());
            bytes[22..26].copy_from_slice(&60_000u32.to_le_bytes());
            let error = preprocess(&pipeline, Input::Encoded(&bytes)).unwrap_err();
            assert_eq!(error.code(), ErrorCode::TooLarge, "{}", error.detail());
        }
        let _ = preprocess(&pipeline, Input::Encoded(&bytes[..bytes.len() / 2]));
    }
    assert!(flotilla_runtime::PICTURES.contains(&"image/webp"));
}

#[test]
#[cfg(not(feature = "media"))]
fn other_kinds_of_pictures_are_refused_by_name_of_those_that_are_known() {
    let pipeline = grey(2, 2, Resize::Exact, &["a"]);
    for bytes in [&b"BM\0\0"[..], b"GIF89a", b"RIFF\x10\0\0\0WEBPVP8L"] {
        let error = preprocess(&pipeline, Input::Encoded(bytes)).unwrap_err();
        assert_eq!(error.code(), ErrorCode::SampleInvalid);
        assert!(error.to_string().contains("image/png, image/jpeg"), "{error}");
    }
}

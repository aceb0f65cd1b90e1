//! Resizing against values worked out by hand and against another implementation.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use super::*;
use std::borrow::Cow;

fn picture(width: u32, height: u32, bytes: &[u8]) -> Picture<'_> {
    let channels = bytes.len() / (width * height) as usize;
    Picture { width, height, channels, bytes: Cow::Borrowed(bytes) }
}

fn stretch(picture: &Picture<'_>, width: u32, height: u32) -> Vec<f32> {
    filtered(picture, width, height, Filter::Smooth)
}

fn filtered(picture: &Picture<'_>, width: u32, height: u32, filter: Filter) -> Vec<f32> {
    let (width, height) = (u64::from(width), u64::from(height));
    scale(picture, &Scaled { size: (width, height), columns: 0..width, rows: 0..height }, filter)
}

#[test]
fn a_plain_filter_looks_at_the_nearest_pixels_only() {
    let picture = picture(8, 1, &[0, 80, 0, 0, 0, 40, 0, 0]);
    // As cv2.resize with INTER_LINEAR: centres 2, 6 lie between two pixels each.
    assert_eq!(filtered(&picture, 2, 1, Filter::Bilinear), [40.0, 20.0]);
    // As cv2.resize with INTER_NEAREST_EXACT: the pixels in which 2 and 6 lie.
    assert_eq!(filtered(&picture, 2, 1, Filter::Nearest), [0.0, 0.0]);
    assert_eq!(filtered(&picture, 8, 1, Filter::Nearest)[1], 80.0);
}

#[test]
fn a_part_of_the_scaled_picture_is_that_part_of_the_whole() {
    let bytes: Vec<u8> = (0_u32..20 * 14).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let picture = picture(20, 14, &bytes);
    for filter in [Filter::Smooth, Filter::Bilinear, Filter::Nearest] {
        let whole = filtered(&picture, 11, 9, filter);
        let part = scale(&picture, &Scaled { size: (11, 9), columns: 3..8, rows: 2..9 }, filter);
        let expected: Vec<f32> = (2..9).flat_map(|row| whole[row * 11 + 3..row * 11 + 8].to_vec()).collect();
        assert_eq!(part, expected, "{filter:?}");
    }
}

#[test]
fn two_pixels_become_four_around_half_pixel_centres() {
    // Centres 0.25, 0.75, 1.25, 1.75 between pixels centred at 0.5 and 1.5; the edges repeat.
    assert_eq!(stretch(&picture(2, 1, &[0, 100]), 4, 1), [0.0, 25.0, 75.0, 100.0]);
    assert_eq!(stretch(&picture(1, 2, &[0, 100]), 1, 4), [0.0, 25.0, 75.0, 100.0]);
}

#[test]
fn shrinking_averages_every_source_pixel() {
    // Half the size: weights 1/8, 3/8, 3/8, 1/8 inside; at the edge the missing 1/8 is shared out.
    let inner = stretch(&picture(8, 1, &[0, 80, 0, 0, 0, 0, 0, 0]), 4, 1);
    let expected = [80.0 * 3.0 / 7.0, 80.0 / 8.0, 0.0, 0.0];
    assert!(inner.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-4), "{inner:?}");
}

#[test]
fn the_same_size_changes_nothing() {
    let bytes: Vec<u8> = (0..=255).collect();
    let same: Vec<f32> = bytes.iter().map(|&byte| f32::from(byte)).collect();
    assert_eq!(stretch(&picture(16, 16, &bytes), 16, 16), same);
}

#[test]
fn a_flat_picture_stays_flat_in_every_size_and_channel() {
    let bytes = [[10_u8, 20, 30]; 7 * 5].concat();
    for (width, height) in [(1, 1), (3, 4), (7, 5), (20, 11)] {
        let out = stretch(&picture(7, 5, &bytes), width, height);
        assert_eq!(out.len(), (width * height * 3) as usize);
        for pixel in out.chunks(3) {
            assert!(pixel.iter().zip([10.0, 20.0, 30.0]).all(|(a, b)| (a - b).abs() < 1e-4), "{pixel:?}");
        }
    }
}

#[test]
fn it_agrees_with_the_image_crate_within_its_rounding() {
    let bytes: Vec<u8> = (0_u32..64 * 48 * 3).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let reference = image::RgbImage::from_raw(64, 48, bytes.clone()).unwrap();
    for (width, height) in [(32, 32), (17, 40), (100, 70), (64, 10)] {
        let ours = stretch(&picture(64, 48, &bytes), width, height);
        let theirs =
            image::imageops::resize(&reference, width, height, image::imageops::FilterType::Triangle)
                .into_raw();
        let worst = ours.iter().zip(&theirs).map(|(a, b)| (a - f32::from(*b)).abs()).fold(0.0, f32::max);
        assert!(worst <= 1.01, "{width} x {height}: {worst}");
    }
}

//! What rounding to 8 bits may lose.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use flotilla_onnx::{f16_bits, f16_value};
use proptest::prelude::*;

use super::{Channels, Quantised, sqnr_db};
use crate::Clip;

const GRID: &[u8] = &[100, 95, 90, 85, 80, 75, 70];

fn quantise(data: &[f32], channels: Channels, ratios: &[u8]) -> Result<Quantised, usize> {
    super::quantise(data, channels, &Clip::Mse(ratios.to_vec()), false, None)
}

fn noise(data: &[f32], quantised: &Quantised, channels: Channels) -> f64 {
    data.iter().zip(quantised.floats(channels)).map(|(a, b)| (f64::from(*a) - f64::from(b)).powi(2)).sum()
}

fn dequantise(values: &[i8], scales: &[f32], channels: Channels) -> Vec<f32> {
    let scale_of = |place: usize| scales[place / channels.inner % channels.count];
    values.iter().enumerate().map(|(place, &v)| f32::from(v) * scale_of(place)).collect()
}

#[test]
fn channels_are_told_apart_along_any_axis() {
    // Along axis 1 of [2, 2, 2], channel 0 holds the small elements and channel 1 the large ones.
    let data = [0.1, -0.127, 100.0, 127.0, 0.05, 0.0, -127.0, 64.0];
    let channels = Channels::along(&[2, 2, 2], 1).unwrap();
    let quantised = quantise(&data, channels, &[100]).unwrap();
    assert_eq!(quantised.scales, [0.127 / 127.0, 1.0]);
    assert_eq!(quantised.values, [100, -127, 100, 127, 50, 0, -127, 64]);
    assert_eq!(Channels::along(&[2, 2], 2), None);
}

#[test]
fn a_channel_of_zeros_stays_zero() {
    let channels = Channels::along(&[2, 3], 0).unwrap();
    let quantised = quantise(&[0.0, -0.0, 0.0, 1.0, 2.0, 3.0], channels, GRID).unwrap();
    assert_eq!(quantised.values[..3], [0, 0, 0]);
    assert_eq!(quantised.scales[0], 1.0);
    assert_eq!(sqnr_db(&[0.0; 4], &[0.0; 4]), None);
}

#[test]
fn an_element_that_is_no_number_is_named() {
    let channels = Channels::along(&[1, 4], 0).unwrap();
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        assert_eq!(quantise(&[1.0, 2.0, bad, 3.0], channels, GRID), Err(2));
    }
}

#[test]
fn one_outlier_is_clipped_when_that_loses_less() {
    // Many elements in a range that one element is outside of: giving that one up is cheaper.
    let mut data: Vec<f32> = (0..40_960).map(|i| (i % 200) as f32 / 200.0 + 0.003).collect();
    data[7] = 1.1;
    let channels = Channels::along(&[1, data.len()], 0).unwrap();
    let whole = quantise(&data, channels, &[100]).unwrap();
    let chosen = quantise(&data, channels, GRID).unwrap();
    let (fine, coarse) = (noise(&data, &chosen, channels), noise(&data, &whole, channels));
    assert!(fine < coarse, "{fine} is not below {coarse}");
    assert!(sqnr_db(&data, &chosen.floats(channels)) > sqnr_db(&data, &whole.floats(channels)));
    let most = super::quantise(&data, channels, &Clip::Percentile(9990), false, None).unwrap();
    assert!((most.scales[0] * 127.0 - 0.998).abs() < 0.002, "{}", most.scales[0] * 127.0);
    let all = super::quantise(&data, channels, &Clip::Percentile(10_000), false, None).unwrap();
    assert_eq!(all, whole);
    assert!(chosen.scales[0] < whole.scales[0]);
    assert_eq!(chosen.values[7], 127);
}

#[test]
fn what_the_input_never_shows_does_not_count() {
    let data = [1.0, 0.31, 0.62, 0.17];
    let channels = Channels::along(&[1, 4], 0).unwrap();
    let of = |energy: Option<&[f32]>| {
        super::quantise(&data, channels, &Clip::Mse(vec![100, 62]), false, energy).unwrap().scales[0] * 127.0
    };
    assert!((of(None) - 1.0).abs() < 1e-6);
    assert!(
        (of(Some(&[0.0, 1.0, 1.0, 1.0])) - 0.62).abs() < 1e-6,
        "the largest is clipped, for nothing reads it"
    );
}

#[test]
fn scales_become_halves_if_all_of_them_can_and_clip_nothing_by_that() {
    let channels = Channels::along(&[2, 2], 0).unwrap();
    let data = [0.3, -0.1, 5.0, 4.9];
    let halves = super::quantise(&data, channels, &Clip::Mse(vec![100]), true, None).unwrap();
    assert!(halves.half);
    for scale in &halves.scales {
        assert_eq!(f16_value(f16_bits(*scale)), *scale);
    }
    let back = halves.floats(channels);
    assert!(data.iter().zip(&back).all(|(a, b)| (a - b).abs() <= 0.5 * halves.scales[1]), "{back:?}");
    assert_eq!(halves.values[0], 127);
    let tiny = super::quantise(
        &[1e-6, 1.0],
        Channels::along(&[2, 1], 0).unwrap(),
        &Clip::Mse(vec![100]),
        true,
        None,
    );
    assert!(!tiny.unwrap().half);
}

#[test]
fn the_extremes_of_the_number_format_survive() {
    let tiny = f32::from_bits(1);
    let channels = Channels::along(&[2, 2], 0).unwrap();
    let quantised = quantise(&[f32::MAX, f32::MIN, tiny, -tiny], channels, GRID).unwrap();
    let back = dequantise(&quantised.values, &quantised.scales, channels);
    assert!(back.iter().all(|v| v.is_finite()), "{back:?}");
    assert!((back[0] / f32::MAX - 1.0).abs() < 1e-6);
    assert_eq!(back[2..], [0.0, 0.0]);
}

proptest! {
    #[test]
    fn no_element_is_further_off_than_half_a_step_or_what_was_clipped(
        (dims, axis, data) in (1_usize..5, 1_usize..6, 1_usize..5, 0_usize..3).prop_flat_map(|(a, b, c, axis)| {
            let element = prop_oneof![-1.0_f32..1.0, -1e30_f32..1e30, -1e-30_f32..1e-30];
            (Just([a, b, c]), Just(axis), prop::collection::vec(element, a * b * c))
        })
    ) {
        let channels = Channels::along(&dims, axis).unwrap();
        let quantised = quantise(&data, channels, GRID).unwrap();
        let back = dequantise(&quantised.values, &quantised.scales, channels);
        for (place, (value, got)) in data.iter().zip(&back).enumerate() {
            let scale = quantised.scales[place / channels.inner % channels.count];
            let step = f64::from(scale) / 2.0 * 1.0001;
            let clipped = f64::from(value.abs()) - 127.0 * f64::from(scale) * 0.9999;
            let error = (f64::from(*value) - f64::from(*got)).abs();
            prop_assert!(error <= step.max(clipped), "{value} became {got} with scale {scale}");
        }
        // More ratios to choose from never lose more.
        let whole = quantise(&data, channels, &[100]).unwrap();
        prop_assert!(noise(&data, &quantised, channels) <= noise(&data, &whole, channels));
        // What has been rounded once is not rounded again.
        let again = quantise(&back, channels, &[100]).unwrap();
        prop_assert_eq!(again.values, quantised.values);
    }
}

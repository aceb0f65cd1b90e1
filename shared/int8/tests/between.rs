//! What stands between layers gives what the operators of ONNX define, on every instruction set of this processor.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use flotilla_int8::{
    Average, Binary, Dequantise, Error, Isa, Kernel, Largest, Layout, Nearest, Operation, Quantise,
    Quantised, Table, View,
};
use proptest::prelude::*;
use proptest::sample::select;

const ALIEN: u8 = 7;

/// A view with gaps, or without any.
fn views() -> impl Strategy<Value = [View; 3]> {
    let sizes = (1..=6_usize, 1..=9_usize, select(vec![1_usize, 3, 16, 17, 70]));
    (sizes, prop::array::uniform3(select(vec![0_usize, 0, 2]))).prop_map(
        |((height, width, channels), gaps)| {
            gaps.map(|gap| {
                let pixel = channels + gap;
                View { offset: gap, height, width, channels, pixel, row: width * pixel + gap }
            })
        },
    )
}

fn quantised() -> impl Strategy<Value = Quantised> {
    (select(vec![0.02_f32, 0.5, 0.0039]), any::<u8>())
        .prop_map(|(scale, zero_point)| Quantised { scale, zero_point })
}

/// Where the pixels of a view lie, channel by channel.
fn places(view: View) -> impl Iterator<Item = usize> + Clone {
    (0..view.height).flat_map(move |y| {
        (0..view.width).flat_map(move |x| {
            (0..view.channels).map(move |channel| view.offset + y * view.row + x * view.pixel + channel)
        })
    })
}

fn noise(seed: u64, count: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    (0..count).map(|_| next()).collect()
}

fn real(byte: u8, is: Quantised) -> f64 {
    (f64::from(byte) - f64::from(is.zero_point)) * f64::from(is.scale)
}

/// Whether a byte stands for a number: half a step off at most, and a little for 32-bit arithmetic.
fn stands_for(byte: u8, number: f64, is: Quantised, bounds: (u8, u8)) -> bool {
    let steps = number / f64::from(is.scale) + f64::from(is.zero_point);
    (steps.clamp(bounds.0.into(), bounds.1.into()) - f64::from(byte)).abs() <= 0.501
}

/// Bytes between pixels are as they were.
fn gaps_are_untouched(out: &[u8], view: View) -> bool {
    let mut gaps = vec![true; out.len()];
    places(view).for_each(|place| gaps[place] = false);
    out.iter().zip(gaps).all(|(&byte, gap)| !gap || byte == ALIEN)
}

proptest! {
    #[test]
    fn sums_and_products(
        [left, right, to] in views(), numbers in prop::array::uniform3(quantised()), product in any::<bool>(), seed in any::<u64>(),
        bounds in select(vec![(0, 255), (40, 200)]),
    ) {
        let [left_is, right_is, to_is] = numbers;
        let (a, b) = (noise(seed, left.end()), noise(!seed, right.end()));
        let operation = if product { Operation::Mul } else { Operation::Add };
        for isa in Isa::here() {
            let made = Binary::new(isa, operation, (left, left_is), (right, right_is), (to, to_is), bounds).unwrap();
            let mut out = vec![ALIEN; to.end() + 3];
            made.run(&a, &b, &mut out).unwrap();
            for ((from, other), place) in places(left).zip(places(right)).zip(places(to)) {
                let (x, y) = (real(a[from], left_is), real(b[other], right_is));
                let number = if product { x * y } else { x + y };
                prop_assert!(stands_for(out[place], number, to_is, bounds), "{isa}: {x} {y} {}", out[place]);
            }
            prop_assert!(gaps_are_untouched(&out, to));
            prop_assert!(made.run(&a[..a.len() - 1], &b, &mut out).is_err());
        }
    }

    #[test]
    fn functions_of_bytes([from, to, _] in views(), numbers in prop::array::uniform2(quantised()), seed in any::<u64>()) {
        let [from_is, to_is] = numbers;
        let input = noise(seed, from.end());
        let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
        let ends = |is: Quantised| (is.scale, is.zero_point);
        let made = Table::of(from, to, ends(from_is), ends(to_is), sigmoid).unwrap();
        let mut out = vec![ALIEN; to.end() + 3];
        made.run(&input, &mut out).unwrap();
        for (from, to) in places(from).zip(places(to)) {
            prop_assert!(stands_for(out[to], sigmoid(real(input[from], from_is) as f32).into(), to_is, (0, 255)));
        }
        prop_assert!(gaps_are_untouched(&out, to));
        Table::copy(from, to).unwrap().run(&input, &mut out).unwrap();
        prop_assert!(places(from).zip(places(to)).all(|(from, to)| input[from] == out[to]));
    }

    #[test]
    fn floats_become_bytes_and_bytes_floats(
        [view, ..] in views(), is in quantised(), planes in any::<bool>(), seed in any::<u64>(),
    ) {
        let count = view.height * view.width * view.channels;
        let floats: Vec<f32> = noise(seed, count).iter().map(|&byte| (f32::from(byte) - 100.0) * 0.013).collect();
        let layout = if planes { Layout::Nchw } else { Layout::Nhwc };
        let order = |index: usize| {
            let (pixel, channel) = (index / view.channels, index % view.channels);
            if planes { channel * view.height * view.width + pixel } else { index }
        };
        for isa in Isa::here() {
            let mut bytes = vec![ALIEN; view.end() + 3];
            Quantise::new(isa, layout, view, is).unwrap().run(&floats, &mut bytes).unwrap();
            for (index, place) in places(view).enumerate() {
                prop_assert!(stands_for(bytes[place], floats[order(index)].into(), is, (0, 255)));
            }
            prop_assert!(gaps_are_untouched(&bytes, view));
            let mut back = vec![0.0; count];
            Dequantise::new(isa, layout, view, is).unwrap().run(&bytes, &mut back).unwrap();
            for (index, place) in places(view).enumerate() {
                prop_assert!((f64::from(back[order(index)]) - real(bytes[place], is)).abs() < 1e-4);
            }
        }
    }

    #[test]
    fn pooling(
        from in views(), window in prop::array::uniform2((1..=3_usize, 1..=2_usize, 1..=2_usize)),
        edge in prop::array::uniform2(prop::array::uniform2(0..=1_usize)), count_padding in any::<bool>(),
        numbers in prop::array::uniform2(quantised()), seed in any::<u64>(),
    ) {
        let [from, ..] = from;
        let [(rows, down, apart), (columns, right, aside)] = window;
        let kernel = Kernel { size: [rows, columns], stride: [down, right], dilation: [apart, aside] };
        let out = |axis: usize, have: usize| {
            let padded = have + edge[axis][0] + edge[axis][1];
            padded.checked_sub((kernel.size[axis] - 1) * kernel.dilation[axis] + 1).map(|room| room / kernel.stride[axis] + 1)
        };
        let (Some(height), Some(width)) = (out(0, from.height), out(1, from.width)) else { return Ok(()) };
        let to = View::packed(height, width, from.channels);
        let [from_is, to_is] = numbers;
        let input = noise(seed, from.end());
        for isa in Isa::here() {
            let largest = Largest::new(isa, kernel, edge, from, to);
            let average = Average::new(isa, kernel, edge, count_padding, (from, from_is), (to, to_is), (0, 255));
            // Windows over nothing but the edge have no value.
            let (Ok(largest), Ok(average)) = (largest, average) else { continue };
            let (mut most, mut mean) = (vec![0; to.end()], vec![0; to.end()]);
            largest.run(&input, &mut most).unwrap();
            average.run(&input, &mut mean).unwrap();
            for (index, place) in places(to).enumerate() {
                let (pixel, channel) = (index / to.channels, index % to.channels);
                let (y, x) = (pixel / width, pixel % width);
                let inside: Vec<u8> = (0..rows * columns)
                    .filter_map(|tap| {
                        let row = (y * down + tap / columns * apart).checked_sub(edge[0][0])?;
                        let column = (x * right + tap % columns * aside).checked_sub(edge[1][0])?;
                        let is_there = row < from.height && column < from.width;
                        is_there.then(|| input[from.offset + row * from.row + column * from.pixel + channel])
                    })
                    .collect();
                prop_assert_eq!(most[place], *inside.iter().max().unwrap());
                let count = if count_padding { rows * columns } else { inside.len() };
                let number = inside.iter().map(|&byte| real(byte, from_is)).sum::<f64>() / count as f64;
                prop_assert!(stands_for(mean[place], number, to_is, (0, 255)), "{isa} {number} {}", mean[place]);
            }
        }
    }
}

#[test]
fn pictures_grow_by_the_nearest_pixel() {
    let (from, to) = (View::packed(2, 2, 3), View::packed(4, 3, 3));
    let input: Vec<u8> = (0..12).collect();
    let mut out = vec![0; to.end()];
    let made = Nearest::new(from, to, vec![0, 0, 1, 1], vec![0, 1, 1]).unwrap();
    made.run(&input, &mut out).unwrap();
    let row = |a: u8, b: u8| [a, b, b].into_iter().flat_map(|at| [at, at + 1, at + 2]);
    let expected: Vec<u8> = row(0, 3).chain(row(0, 3)).chain(row(6, 9)).chain(row(6, 9)).collect();
    assert_eq!(out, expected);
    let beyond = Nearest::new(from, to, vec![0, 0, 1, 2], vec![0, 1, 1]);
    assert!(matches!(beyond, Err(Error::Bounds { .. })));
}

#[test]
fn what_has_no_value_is_refused_or_the_zero_point() {
    let view = View::packed(1, 1, 4);
    let is = Quantised { scale: 0.1, zero_point: 9 };
    let mut out = [0; 4];
    let quantise = Quantise::new(Isa::best(), Layout::Nhwc, view, is).unwrap();
    quantise.run(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0], &mut out).unwrap();
    assert_eq!(out, [9, 255, 0, 9]);
    for scale in [0.0, f32::NAN, -1.0, f32::INFINITY, 1e-42] {
        assert!(
            Quantise::new(Isa::best(), Layout::Nhwc, view, Quantised { scale, ..is }).is_err(),
            "{scale}"
        );
    }
    let edge = Largest::new(Isa::best(), Kernel::square(2, 1), [[2, 0], [0, 0]], view, view);
    assert!(matches!(edge, Err(Error::Bounds { what: "padding", .. })));
}

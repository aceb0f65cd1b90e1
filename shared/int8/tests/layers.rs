//! Every kernel of this processor gives what the definition says, byte for byte, whatever the shapes.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use flotilla_int8::{Conv, Depthwise, Error, Isa, Kernel, Requant, SLACK, View};
use proptest::prelude::*;
use proptest::sample::select;

/// A layer by its numbers.
#[derive(Clone, Debug)]
struct Layer {
    kernel: Kernel,
    input: View,
    output: View,
    groups: usize,
    zero_point: u8,
    output_zero_point: u8,
    bounds: (u8, u8),
    seed: u64,
}

/// Numbers that are the same for the same seed.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn byte(&mut self) -> u8 {
        // The extremes are where arithmetic overflows.
        match self.next() % 8 {
            0 => 0,
            1 => 255,
            _ => self.next() as u8,
        }
    }

    fn weight(&mut self) -> i8 {
        match self.next() % 8 {
            0 => -128,
            1 => 127,
            _ => self.next() as i8,
        }
    }
}

/// What a layer is made of, beside its shape.
struct Content {
    bytes: Vec<u8>,
    weights: Vec<i8>,
    bias: Vec<i32>,
    scales: Vec<f32>,
}

impl Layer {
    /// Weights are `[output channel][row][column][input channel of the group]`.
    fn content(&self) -> Content {
        let mut noise = Noise(self.seed);
        let inner = self.kernel.size[0] * self.kernel.size[1] * (self.input.channels / self.groups);
        let typical = 300.0 * (inner as f32).sqrt() * 74.0;
        Content {
            bytes: (0..self.input.end() + SLACK).map(|_| noise.byte()).collect(),
            weights: (0..inner * self.output.channels).map(|_| noise.weight()).collect(),
            bias: (0..self.output.channels).map(|_| noise.next() as i32 % 100_000 - 50_000).collect(),
            scales: (0..self.output.channels)
                .map(|_| (1.0 + noise.next() as f32 / (1_u64 << 31) as f32) * 255.0 / typical)
                .collect(),
        }
    }

    fn requant(&self, content: &Content) -> Requant {
        Requant::new(&content.scales, self.output_zero_point, self.bounds.0, self.bounds.1).unwrap()
    }

    /// The output by its definition, written into a buffer of 7s.
    fn defined(&self, content: &Content) -> Vec<u8> {
        let mut out = vec![7; self.output.end() + 5];
        let (inner, of_group) = (self.input.channels / self.groups, self.output.channels / self.groups);
        let [rows, columns] = self.kernel.size;
        for y in 0..self.output.height {
            for x in 0..self.output.width {
                for channel in 0..self.output.channels {
                    let mut sum = i64::from(content.bias[channel]);
                    for row in 0..rows {
                        for column in 0..columns {
                            for i in 0..inner {
                                let at = self.input.offset
                                    + (y * self.kernel.stride[0] + row * self.kernel.dilation[0])
                                        * self.input.row
                                    + (x * self.kernel.stride[1] + column * self.kernel.dilation[1])
                                        * self.input.pixel
                                    + channel / of_group * inner
                                    + i;
                                let weight =
                                    content.weights[((channel * rows + row) * columns + column) * inner + i];
                                sum += (i64::from(content.bytes[at]) - i64::from(self.zero_point))
                                    * i64::from(weight);
                            }
                        }
                    }
                    let scaled =
                        (i32::try_from(sum).unwrap() as f32 * content.scales[channel]).round_ties_even();
                    let byte = scaled + f32::from(self.output_zero_point);
                    let byte = byte.max(self.bounds.0.into()).min(self.bounds.1.into());
                    out[self.output.offset + y * self.output.row + x * self.output.pixel + channel] =
                        byte as u8;
                }
            }
        }
        out
    }
}

/// A view with gaps between pixels and rows.
fn view(height: usize, width: usize, channels: usize, gaps: [usize; 3]) -> View {
    let pixel = channels + gaps[0];
    View { offset: gaps[2], height, width, channels, pixel, row: width * pixel + gaps[1] }
}

fn layers(depthwise: bool) -> impl Strategy<Value = Layer> {
    let window = (select(vec![1_usize, 1, 2, 3, 3, 5]), 1..=3_usize, select(vec![1_usize, 1, 2]));
    let channels = (
        select(vec![1_usize, 1, 1, 2, 3]),
        1..=40_usize,
        select(vec![1_usize, 2, 3, 8, 16, 17, 33, 48, 50, 70]),
    );
    let gaps = select(vec![0_usize, 0, 1, 5]);
    (
        [window.clone(), window],
        channels,
        (1..=7_usize, 1..=15_usize),
        (gaps.clone(), gaps),
        (any::<u8>(), any::<u8>(), select(vec![(0, 255), (0, 255), (30, 200), (9, 9)]), any::<u64>()),
    )
        .prop_map(move |(windows, (groups, inner, of_group), (height, width), (gap, other), numbers)| {
            let [(rows, down, apart), (columns, right, aside)] = windows;
            let kernel = Kernel { size: [rows, columns], stride: [down, right], dilation: [apart, aside] };
            let need = |out: usize, axis: usize| {
                (out - 1) * kernel.stride[axis] + (kernel.size[axis] - 1) * kernel.dilation[axis] + 1
            };
            let (groups, input, output) = if depthwise {
                (inner * of_group, inner * of_group, inner * of_group)
            } else {
                (groups, groups * inner, groups * of_group)
            };
            Layer {
                kernel,
                input: view(need(height, 0), need(width, 1), input, [gap, other, gap]),
                output: view(height, width, output, [other, gap, other]),
                groups,
                zero_point: numbers.0,
                output_zero_point: numbers.1,
                bounds: numbers.2,
                seed: numbers.3,
            }
        })
}

fn conv(isa: Isa, layer: &Layer, content: &Content) -> Result<Conv, Error> {
    let Layer { kernel, input, output, groups, zero_point, .. } = layer.clone();
    let requant = layer.requant(content);
    Conv::new(isa, kernel, input, output, groups, &content.weights, &content.bias, zero_point, requant)
}

proptest! {
    #[test]
    fn convolutions_and_dense_layers_are_exact(layer in layers(false)) {
        let content = layer.content();
        let expected = layer.defined(&content);
        for isa in Isa::here() {
            let conv = conv(isa, &layer, &content).unwrap();
            let mut out = vec![7; expected.len()];
            conv.run(&content.bytes, &mut out).unwrap();
            prop_assert!(out == expected, "{isa}: {:?}", out.iter().zip(&expected).position(|(a, b)| a != b));
            // No byte behind what it says is read.
            conv.run(&content.bytes[..conv.input_bytes()], &mut out).unwrap();
            prop_assert!(conv.run(&content.bytes[..conv.input_bytes() - 1], &mut out).is_err());
            prop_assert!(conv.run(&content.bytes, &mut out[..conv.output_bytes() - 1]).is_err());
            prop_assert!(conv.input_bytes() <= layer.input.end() + SLACK);
        }
    }

    #[test]
    fn filters_of_one_channel_are_exact(layer in layers(true)) {
        let content = layer.content();
        let expected = layer.defined(&content);
        let (taps, channels) = (layer.kernel.size[0] * layer.kernel.size[1], layer.output.channels);
        let by_tap: Vec<i8> =
            (0..taps * channels).map(|at| content.weights[at % channels * taps + at / channels]).collect();
        for isa in Isa::here() {
            let (kernel, requant) = (layer.kernel, layer.requant(&content));
            let made = Depthwise::new(
                isa, kernel, layer.input, layer.output, &by_tap, &content.bias, layer.zero_point, requant,
            );
            let made = made.unwrap();
            let mut out = vec![7; expected.len()];
            made.run(&content.bytes, &mut out).unwrap();
            prop_assert!(out == expected, "{isa}: {:?}", out.iter().zip(&expected).position(|(a, b)| a != b));
            made.run(&content.bytes[..made.input_bytes()], &mut out).unwrap();
            prop_assert!(made.run(&content.bytes[..made.input_bytes() - 1], &mut out).is_err());
            prop_assert!(made.input_bytes() <= layer.input.end() + SLACK);
        }
    }

    /// Whatever numbers a layer is said to have, it is made or refused, and what was made runs within its buffers.
    #[test]
    fn absurd_layers_are_refused(
        sizes in prop::array::uniform8(select(vec![0_usize, 1, 2, 7, 65_536, 65_537, usize::MAX / 2, usize::MAX])),
        steps in prop::array::uniform4(select(vec![0_usize, 1, 3, 70_000, usize::MAX])),
        groups in select(vec![0_usize, 1, 2, usize::MAX]),
    ) {
        let input = View {
            offset: steps[3], height: sizes[0], width: sizes[1], channels: sizes[2], pixel: steps[0], row: steps[1],
        };
        let output = View { height: sizes[3], width: sizes[4], channels: sizes[5], ..input };
        let kernel = Kernel { size: [sizes[6], sizes[7]], stride: [steps[0], steps[2]], dilation: [1, steps[2]] };
        let scales = vec![1.0; sizes[5].min(8)];
        let requant = Requant::new(&scales, 0, 0, 255).unwrap();
        let weights = vec![1; 16];
        let made = Conv::new(Isa::best(), kernel, input, output, groups, &weights, &vec![0; scales.len()], 0, requant);
        if let Ok(conv) = made {
            prop_assume!(conv.input_bytes() < 1 << 20 && conv.output_bytes() < 1 << 20);
            conv.run(&vec![0; conv.input_bytes()], &mut vec![0; conv.output_bytes()]).unwrap();
        }
    }
}

#[test]
fn scales_that_are_no_scales_are_refused() {
    for bad in [0.0, -1.0, f32::NAN, f32::INFINITY, 1e-40] {
        let refused = Requant::new(&[1.0, bad], 0, 0, 255);
        assert!(matches!(refused, Err(Error::Bounds { what: "a scale", .. })), "{bad}");
    }
    assert!(Requant::new(&[1.0], 0, 2, 1).is_err());
}

#[test]
fn the_best_instruction_set_is_one_that_is_here() {
    assert!(Isa::best().is_here() && Isa::here().next() == Some(Isa::Scalar));
    println!("{:?}", Isa::here().map(Isa::name).collect::<Vec<_>>());
}

//! 16-bit floats (binary16), rounded to nearest, ties to even.

use tract_onnx::pb::{TensorProto, tensor_proto::DataType};

use crate::Tensor;

/// The largest magnitude of a 16-bit float.
pub const F16_MAX: f32 = 65504.0;

/// The nearest 16-bit float, as its bits; what is over the largest becomes infinite.
#[must_use]
pub fn f16_bits(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = (bits >> 16 & 0x8000) as u16;
    let magnitude = bits & 0x7fff_ffff;
    if magnitude > 0x7f80_0000 {
        return sign | 0x7e00;
    }
    let exponent = (magnitude >> 23) as i32 - 127;
    let (mantissa, shift) = match exponent {
        16.. => return sign | 0x7c00,
        // A subnormal result: the implicit bit becomes explicit, and more bits go.
        ..-14 => (magnitude & 0x007f_ffff | 0x0080_0000, (13 - 14 - exponent).min(31) as u32),
        _ => (magnitude - (112 << 23), 13),
    };
    let kept = mantissa >> shift;
    let (rest, half) = (mantissa & ((1 << shift) - 1), 1 << (shift - 1));
    // Rounding up may carry into the exponent, which is then right, too.
    let up = rest > half || rest == half && kept & 1 == 1;
    sign | (kept + u32::from(up)) as u16
}

/// The value of a 16-bit float.
#[must_use]
pub fn f16_value(bits: u16) -> f32 {
    let (exponent, mantissa) = (i32::from(bits >> 10 & 0x1f), f32::from(bits & 0x3ff));
    let magnitude = match exponent {
        0 => mantissa * 2.0_f32.powi(-24),
        31 if mantissa == 0.0 => f32::INFINITY,
        31 => f32::NAN,
        _ => (1024.0 + mantissa) * 2.0_f32.powi(exponent - 25),
    };
    if bits & 0x8000 == 0 { magnitude } else { -magnitude }
}

/// A constant of 16-bit floats.
#[must_use]
pub fn tensor_f16(name: &str, tensor: &Tensor<f32>) -> TensorProto {
    let bytes = tensor.data.iter().flat_map(|v| f16_bits(*v).to_le_bytes()).collect();
    crate::tensor::raw(name, DataType::Float16, &tensor.dims, bytes)
}

/// A constant of unsigned 8-bit integers.
#[must_use]
pub fn tensor_u8(name: &str, tensor: &Tensor<u8>) -> TensorProto {
    crate::tensor::raw(name, DataType::Uint8, &tensor.dims, tensor.data.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_comes_back_and_neighbours_round_to_even() {
        for bits in 0..=u16::MAX {
            let value = f16_value(bits);
            if value.is_nan() {
                assert!(f16_value(f16_bits(value)).is_nan());
                continue;
            }
            assert_eq!(f16_bits(value), bits, "{value}");
            // Half way to the next one.
            let next = f16_value(bits.wrapping_add(1));
            if bits & 0x7fff < 0x7bff && next.is_finite() {
                let middle = (value + next) / 2.0;
                assert_eq!(f16_bits(middle) & 1, 0, "{middle} between {value} and {next}");
                assert_eq!(f16_bits(middle.abs().next_up()), (bits & 0x7fff) + 1);
            }
        }
        assert_eq!([f16_bits(F16_MAX), f16_bits(65520.0), f16_bits(-1e30)], [0x7bff, 0x7c00, 0xfc00]);
        assert_eq!([f16_bits(1e-30), f16_bits(-0.0), f16_bits(f32::from_bits(1))], [0, 0x8000, 0]);
        assert_eq!([f16_bits(1.0), f16_bits(-2.0), f16_bits(0.099_976)], [0x3c00, 0xc000, 0x2e66]);
    }
}

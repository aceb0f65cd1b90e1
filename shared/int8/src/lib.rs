//! Kernels on 8-bit integers: what a quantised network spends its time in.
//!
//! Values are unsigned bytes with a scale and a zero point, channel by channel within a pixel (NHWC); weights are signed bytes
//! with a scale an output channel; sums are 32-bit integers and exact. Rounding is that of the ONNX operators: a sum times a
//! 32-bit scale, to the nearest integer, ties to even, plus the zero point, clamped.
//!
//! - [`Isa`]: the instruction sets that kernels are written for, and which of them this processor has. [`Isa::Scalar`] is plain
//!   Rust, the reference that all others are tested against, and what runs where nothing else does.
//! - [`View`]: where the pixels of an activation lie in a buffer.
//! - [`Conv`]: full and grouped convolutions and dense layers, [`Depthwise`]: one filter a channel.
//! - [`Requant`]: from sums back to bytes.
//! - [`Quantise`], [`Dequantise`]: from and to floats; [`Binary`]: sums and products of two activations; [`Table`]: the same
//!   function of every byte.
//! - [`Largest`], [`Average`]: pooling; [`Nearest`]: larger or smaller pictures.
//!
//! Everything is checked when a layer is made: where a layer may read and write is known then, and each run asks only whether
//! its buffers are long enough. No run allocates.

mod conv;
mod depthwise;
mod elementwise;
mod error;
mod isa;
mod pool;
mod requant;
mod view;

pub use conv::{Conv, Kernel};
pub use depthwise::Depthwise;
pub use elementwise::{Binary, Dequantise, Layout, Operation, Quantise, Quantised, Table};
pub use error::{Error, Result};
pub use isa::Isa;
pub use pool::{Average, Largest, Nearest, Padding};
pub use requant::Requant;
pub use view::View;

/// Bytes behind the last pixel of an activation that kernels may read and never use.
pub const SLACK: usize = 64;
/// The largest side, number of channels, kernel, stride or dilation.
pub const MAX_SIDE: usize = 1 << 16;
/// The most bytes of one activation, and of one layer's weights.
pub const MAX_BYTES: usize = 1 << 30;

//! The bundled data: 1,797 handwritten digits. See `assets/README.md`.

/// Gzipped csv: 64 values 0..16 and the digit, a line.
pub(crate) const BYTES: &[u8] = include_bytes!("../assets/digits.csv.gz");
/// What the values go up to.
pub(crate) const PIXEL_MAX: u16 = 16;
/// The name under which its lines are reported.
pub(crate) const FILE: &str = "digits.csv";
/// Origin and licence.
pub(crate) const DESCRIPTION: &str = "bundled: Optical Recognition of Handwritten Digits (E. Alpaydin, C. Kaynak; \
     UCI Machine Learning Repository; CC BY 4.0), 1,797 pictures as scikit-learn ships them";
/// The licence alone, as SPDX names it.
pub(crate) const LICENCE: &str = "CC-BY-4.0";

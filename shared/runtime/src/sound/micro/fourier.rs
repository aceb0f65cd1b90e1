//! A Fourier transform of real integers of 16 bits, with the roundings of kiss_fft at `FIXED_POINT` 16.
//!
//! Sizes are powers of two: radix 4 as long as it goes, then 2. Every step divides its inputs by the radix, so that
//! nothing overflows.

use std::f64::consts::PI;

/// A complex number; its parts wrap as those of kiss_fft do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Complex {
    pub(super) re: i16,
    pub(super) im: i16,
}

impl Complex {
    /// Of `turn` radians.
    fn unit(turn: f64) -> Self {
        let part = |value: f64| (0.5 + f64::from(i16::MAX) * value).floor() as i16;
        Self { re: part(turn.cos()), im: part(turn.sin()) }
    }

    fn over(self, divisor: i16) -> Self {
        let share = i32::from(i16::MAX / divisor);
        Self { re: rounded(i32::from(self.re) * share), im: rounded(i32::from(self.im) * share) }
    }

    fn plus(self, other: Self) -> Self {
        Self { re: self.re.wrapping_add(other.re), im: self.im.wrapping_add(other.im) }
    }

    fn minus(self, other: Self) -> Self {
        Self { re: self.re.wrapping_sub(other.re), im: self.im.wrapping_sub(other.im) }
    }

    fn times(self, other: Self) -> Self {
        let product = |a: i16, b: i16| i32::from(a) * i32::from(b);
        Self {
            re: rounded(product(self.re, other.re).wrapping_sub(product(self.im, other.im))),
            im: rounded(product(self.re, other.im).wrapping_add(product(self.im, other.re))),
        }
    }
}

/// A product of two numbers of 15 bits of fraction, as one of them.
fn rounded(product: i32) -> i16 {
    (product.wrapping_add(1 << 14) >> 15) as i16
}

pub(super) struct Fourier {
    /// Points of the complex transform, half those of the real one.
    half: usize,
    twiddles: Vec<Complex>,
    /// Those that make the real transform of the complex one.
    splits: Vec<Complex>,
    input: Vec<Complex>,
    work: Vec<Complex>,
    output: Vec<Complex>,
}

impl Fourier {
    /// For `size` real points: a power of two, 4 or more.
    pub(super) fn new(size: usize) -> Self {
        let half = size / 2;
        let twiddle = |n: usize| Complex::unit(-2.0 * PI * n as f64 / half as f64);
        let split = |n: usize| Complex::unit(-PI * ((n + 1) as f64 / half as f64 + 0.5));
        Self {
            half,
            twiddles: (0..half).map(twiddle).collect(),
            splits: (0..half / 2).map(split).collect(),
            input: vec![Complex::default(); half],
            work: vec![Complex::default(); half],
            output: vec![Complex::default(); half + 1],
        }
    }

    /// The spectrum of these samples and zeros behind them.
    pub(super) fn transform(&mut self, samples: impl Iterator<Item = i16>) -> &[Complex] {
        self.input.fill(Complex::default());
        for (index, sample) in samples.enumerate() {
            let point = &mut self.input[index / 2];
            *(if index % 2 == 0 { &mut point.re } else { &mut point.im }) = sample;
        }
        step(&mut self.work, &self.input, 1, &self.twiddles);
        self.split();
        &self.output
    }

    /// Takes the spectra of even and odd samples apart, and joins them to that of all.
    fn split(&mut self) {
        let half = self.half;
        let first = self.work[0].over(2);
        self.output[0] = Complex { re: first.re.wrapping_add(first.im), im: 0 };
        self.output[half] = Complex { re: first.re.wrapping_sub(first.im), im: 0 };
        let halved = |a: i32| (a >> 1) as i16;
        for k in 1..=half / 2 {
            let near = self.work[k].over(2);
            let far = self.work[half - k];
            let far = Complex { re: far.re, im: far.im.wrapping_neg() }.over(2);
            let sum = near.plus(far);
            let turned = near.minus(far).times(self.splits[k - 1]);
            let [sum_re, sum_im] = [sum.re, sum.im].map(i32::from);
            let [turned_re, turned_im] = [turned.re, turned.im].map(i32::from);
            self.output[k] = Complex { re: halved(sum_re + turned_re), im: halved(sum_im + turned_im) };
            self.output[half - k] =
                Complex { re: halved(sum_re - turned_re), im: halved(turned_im - sum_im) };
        }
    }
}

/// Transforms every `stride`th of `input` into `output`.
fn step(output: &mut [Complex], input: &[Complex], stride: usize, twiddles: &[Complex]) {
    let size = output.len();
    if size == 1 {
        output[0] = input[0];
        return;
    }
    let radix = if size.is_multiple_of(4) { 4 } else { 2 };
    let part = size / radix;
    for (index, output) in output.chunks_exact_mut(part).enumerate() {
        step(output, &input[index * stride..], stride * radix, twiddles);
    }
    for k in 0..part {
        let twiddle = |times: usize| twiddles[k * stride * times];
        if radix == 2 {
            let (near, far) = (output[k].over(2), output[k + part].over(2).times(twiddle(1)));
            output[k] = near.plus(far);
            output[k + part] = near.minus(far);
            continue;
        }
        let near = output[k].over(4);
        let [a, b, c] = [1, 2, 3].map(|times| output[k + times * part].over(4).times(twiddle(times)));
        let (sum, difference) = (near.plus(b), near.minus(b));
        let (outer, turn) = (a.plus(c), a.minus(c));
        output[k] = sum.plus(outer);
        output[k + 2 * part] = sum.minus(outer);
        let turn = Complex { re: turn.im, im: turn.re.wrapping_neg() };
        output[k + part] = difference.plus(turn);
        output[k + 3 * part] = difference.minus(turn);
    }
}

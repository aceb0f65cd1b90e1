//! What is expected of a file's bytes, from those before and from the base. Writing and reading go through the same code,
//! so that neither can expect anything else than the other.

use super::bits::{Bits, EVEN, Prob};

/// How a cell is predicted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Mode {
    /// Each byte from the one before, as far as that is known to say something.
    #[default]
    Plain,
    /// Each byte from that of the base.
    Bytes,
    /// Each 32-bit float from that of the base; the first one begins so many bytes behind the cell's begin.
    Floats(u8),
}

impl Mode {
    pub(super) const ALL: [Mode; 6] =
        [Mode::Plain, Mode::Bytes, Mode::Floats(0), Mode::Floats(1), Mode::Floats(2), Mode::Floats(3)];

    /// Whether the base is looked at.
    pub(super) fn uses_base(self) -> bool {
        matches!(self, Mode::Bytes | Mode::Floats(_))
    }

    fn number(self) -> usize {
        match self {
            Mode::Plain => 0,
            Mode::Bytes => 1,
            Mode::Floats(phase) => 2 + usize::from(phase % 4),
        }
    }
}

/// How a cell is predicted, and where from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Prediction {
    pub(super) mode: Mode,
    /// From a place in the file to that in the base.
    pub(super) shift: i64,
}

/// Everything learnt so far.
pub(super) struct Model {
    last: Prediction,
    modes: [[Prob; 8]; Mode::ALL.len()],
    moved: Prob,
    /// Bytes.
    plain: [Prob; 256],
    /// Bytes, a byte before them.
    text: Vec<[Prob; 256]>,
    bytes: Vec<Step>,
    floats: Floats,
    course: Course,
}

/// What of the last bytes says something about the next one.
#[derive(Clone, Copy, Default)]
pub(super) struct Course {
    /// The last byte of the file.
    byte: u8,
    /// How large the last steps of bytes were, in 16ths.
    steps: i32,
    /// Where the highest bit of a step between floats is expected, in 16ths: its place and the float's exponent together,
    /// because after a little more training the steps of a layer are of one size, however large its weights are.
    level: i32,
}

impl Model {
    pub(super) fn new() -> Self {
        Self {
            last: Prediction::default(),
            modes: [[EVEN; 8]; Mode::ALL.len()],
            moved: EVEN,
            plain: [EVEN; 256],
            text: vec![[EVEN; 256]; 256],
            bytes: vec![Step::new(); STEP_SIZES * BASE_SIZES],
            floats: Floats { places: vec![Step::new(); PLACES], negative: EVEN, second: EVEN },
            course: Course { level: 136 * 16, ..Course::default() },
        }
    }

    /// How the last cell was predicted.
    pub(super) fn last(&self) -> Prediction {
        self.last
    }

    /// Tries something: what the cell would cost.
    pub(super) fn price(&mut self, prediction: Prediction, base: &[u8], cell: &mut [u8]) -> u64 {
        let (last, course) = (self.last, self.course);
        let mut price = super::bits::Price::default();
        self.prediction(&mut price, prediction);
        self.cell(&mut price, prediction.mode, base, cell);
        (self.last, self.course) = (last, course);
        price.paid
    }

    /// How the next cell is predicted.
    pub(super) fn prediction<B: Bits>(&mut self, bits: &mut B, given: Prediction) -> Prediction {
        let probs = &mut self.modes[self.last.mode.number()];
        let (wanted, mut node) = (given.mode.number(), 1);
        for at in (0..3).rev() {
            let bit = bits.bit(&mut probs[node], wanted >> at & 1 == 1);
            node = node * 2 + usize::from(bit);
        }
        let mode = Mode::ALL.get(node - 8).copied().unwrap_or_default();
        let mut shift = self.last.shift;
        if mode.uses_base() && bits.bit(&mut self.moved, given.shift != shift) {
            let halves = [given.shift as u32, (given.shift >> 32) as u32].map(|half| bits.raw(32, half));
            shift = (i64::from(halves[1]) << 32) | i64::from(halves[0]);
        }
        if mode != self.last.mode {
            self.course.steps = 0;
        }
        self.last = Prediction { mode, shift };
        self.last
    }

    /// The bytes of a cell; `base` has as many.
    pub(super) fn cell<B: Bits>(&mut self, bits: &mut B, mode: Mode, base: &[u8], cell: &mut [u8]) {
        match mode {
            Mode::Plain => cell.iter_mut().for_each(|byte| *byte = self.byte(bits, *byte)),
            Mode::Bytes => self.steps(bits, base, cell),
            Mode::Floats(phase) => {
                let phase = usize::from(phase).min(cell.len());
                let (head, words) = cell.split_at_mut(phase);
                let (base_head, base_words) = base.split_at(phase);
                self.steps(bits, base_head, head);
                let (words, tail) = words.as_chunks_mut::<4>();
                let (base_words, base_tail) = base_words.as_chunks::<4>();
                for (word, base) in words.iter_mut().zip(base_words) {
                    self.float(bits, *base, word);
                }
                self.steps(bits, base_tail, tail);
            }
        }
        self.course.byte = cell.last().copied().unwrap_or(self.course.byte);
    }

    fn byte<B: Bits>(&mut self, bits: &mut B, byte: u8) -> u8 {
        let (any, after) = (&mut self.plain, &mut self.text[usize::from(self.course.byte)]);
        let mut node = 1;
        for at in (0..8).rev() {
            let bit = bits.either(&mut after[node], &mut any[node], byte >> at & 1 == 1);
            node = node * 2 + usize::from(bit);
        }
        self.course.byte = node as u8;
        node as u8
    }

    fn steps<B: Bits>(&mut self, bits: &mut B, base: &[u8], bytes: &mut [u8]) {
        for (byte, base) in bytes.iter_mut().zip(base) {
            let step = &mut self.bytes[step_size(self.course.steps) * BASE_SIZES + base_size(*base)];
            let by = step.code(bits, byte.wrapping_sub(*base).cast_signed());
            *byte = base.wrapping_add(by.cast_unsigned());
            self.course.steps += (i32::from(by.unsigned_abs()) * 64 - self.course.steps) / 8;
        }
    }

    fn float<B: Bits>(&mut self, bits: &mut B, base: [u8; 4], word: &mut [u8; 4]) {
        let [base, new] = [base, *word].map(u32::from_le_bytes);
        let exponent = i32::from((base >> 23) as u8);
        let by = rank(new).wrapping_sub(rank(base));
        let by = self.floats.code(bits, &mut self.course.level, exponent, by);
        *word = unrank(rank(base).wrapping_add(by)).to_le_bytes();
    }
}

/// How many sizes of the last steps are told apart.
const STEP_SIZES: usize = 9;

fn step_size(steps: i32) -> usize {
    [4, 12, 28, 50, 80, 120, 190, 400].partition_point(|most| *most < steps)
}

/// How many sizes of the base's bytes are told apart: where the scale of 8-bit weights has moved, large ones go farther.
const BASE_SIZES: usize = 6;

fn base_size(base: u8) -> usize {
    let size = match base.cast_signed().unsigned_abs() {
        0..=15 => 0,
        16..=50 => 1,
        _ => 2,
    };
    if base >= 128 { size + 3 } else { size }
}

/// What is expected of a small step up or down.
#[derive(Clone)]
struct Step {
    moves: Prob,
    down: Prob,
    farther: [Prob; 12],
    far: [Prob; 256],
}

impl Step {
    fn new() -> Self {
        Self { moves: EVEN, down: EVEN, farther: [EVEN; 12], far: [EVEN; 256] }
    }

    fn code<B: Bits>(&mut self, bits: &mut B, by: i8) -> i8 {
        if !bits.bit(&mut self.moves, by != 0) {
            return 0;
        }
        let down = bits.bit(&mut self.down, by < 0);
        let wanted = by.unsigned_abs();
        let near = self.farther.iter_mut().zip(1..).find_map(|(farther, size)| {
            let farther = bits.bit(farther, wanted > size);
            (!farther).then_some(size)
        });
        let size = near.unwrap_or_else(|| bits.byte(&mut self.far, wanted)).cast_signed();
        if down { size.wrapping_neg() } else { size }
    }
}

/// Places where the highest bit of a step may be expected: 0 for no step.
const PLACES: usize = 33;

/// What is expected of the steps between floats.
struct Floats {
    /// How far the highest bit is from where it is expected.
    places: Vec<Step>,
    negative: Prob,
    /// The bit below the highest.
    second: Prob,
}

impl Floats {
    fn code<B: Bits>(&mut self, bits: &mut B, level: &mut i32, exponent: i32, by: i32) -> i32 {
        let wanted = by.unsigned_abs();
        let place = (u32::BITS - wanted.leading_zeros()).cast_signed();
        let expected = ((*level - exponent * 16 + 8) >> 4).clamp(0, 32);
        let off = self.places[expected as usize].code(bits, (place - expected) as i8);
        let place = (expected + i32::from(off)).clamp(0, 32);
        if place == 0 {
            return 0;
        }
        *level += ((place + exponent) * 16 - *level) / 8;
        let negative = bits.bit(&mut self.negative, by < 0);
        let mut size = 1;
        let mut left = place.cast_unsigned() - 1;
        if left > 0 {
            left -= 1;
            size = size << 1 | u32::from(bits.bit(&mut self.second, wanted >> left & 1 == 1));
        }
        if left > 0 {
            let below = (1 << left) - 1;
            size = size << left | bits.raw(left, wanted & below);
        }
        if negative { size.wrapping_neg().cast_signed() } else { size.cast_signed() }
    }
}

/// Floats in their order, one by one.
fn rank(bits: u32) -> i32 {
    let bits = bits.cast_signed();
    // Negative ones come in the reverse order of their bits.
    bits ^ ((bits >> 31).cast_unsigned() >> 1).cast_signed()
}

fn unrank(rank: i32) -> u32 {
    (rank ^ ((rank >> 31).cast_unsigned() >> 1).cast_signed()).cast_unsigned()
}

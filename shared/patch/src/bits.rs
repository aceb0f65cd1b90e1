//! Bits by arithmetic coding, each with a probability that is learnt from those before it. The coder is that of LZMA.

use flotilla_protocol::limits;
use std::io::{self, ErrorKind, Read};

/// Bits after which a probability is as slow to change as it gets.
const SETTLED: u8 = 250;
/// Bits that a special probability must have seen before it is believed.
const TELLING: u8 = 12;
/// How sure a probability may become, in 65536ths.
const SUREST: i32 = 48;
/// Below it the range is widened by a byte.
const NARROW: u32 = 1 << 24;
/// Bytes that stand behind the last one that matters.
const TAIL: usize = 5;

/// How likely a bit is zero, in 65536ths.
#[derive(Clone, Copy)]
pub(super) struct Prob {
    zero: u16,
    seen: u8,
}

/// Nothing is known.
pub(super) const EVEN: Prob = Prob { zero: 1 << 15, seen: 0 };

impl Prob {
    fn follow(&mut self, bit: bool) {
        let target = if bit { 0 } else { i32::from(u16::MAX) };
        let step = (target - i32::from(self.zero)) * 2 / (2 * i32::from(self.seen) + 3);
        self.zero = (i32::from(self.zero) + step).clamp(SUREST, i32::from(u16::MAX) - SUREST) as u16;
        self.seen = (self.seen + 1).min(SETTLED);
    }

    fn bound(self, range: u32) -> u32 {
        (range >> 16) * u32::from(self.zero)
    }
}

/// Where bits go to or come from. What is given counts when they are written; what comes back is what they are.
pub(super) trait Bits {
    /// One bit of this probability.
    fn bit(&mut self, prob: &mut Prob, bit: bool) -> bool;

    /// The lowest `count` bits of a number about which nothing is known; 32 at most.
    fn raw(&mut self, count: u32, value: u32) -> u32;

    /// Learns without anything being written.
    fn learn(&mut self, prob: &mut Prob, bit: bool) {
        prob.follow(bit);
    }

    /// One bit of the special probability, or of the general one as long as that knows more.
    fn either(&mut self, special: &mut Prob, general: &mut Prob, bit: bool) -> bool {
        let (used, other) = if special.seen >= TELLING { (special, general) } else { (general, special) };
        let bit = self.bit(used, bit);
        self.learn(other, bit);
        bit
    }

    /// A number of 8 bits, of which the higher ones say what to expect of the lower ones.
    fn byte(&mut self, probs: &mut [Prob; 256], value: u8) -> u8 {
        let mut node = 1;
        for at in (0..8).rev() {
            let bit = self.bit(&mut probs[node], value >> at & 1 == 1);
            node = node * 2 + usize::from(bit);
        }
        node as u8
    }
}

/// Writes bits.
pub(super) struct Encoder {
    low: u64,
    range: u32,
    /// The last byte, to which one may be carried.
    last: u8,
    /// It and the bytes of all ones behind it.
    held: usize,
    out: Vec<u8>,
}

impl Encoder {
    pub(super) fn new() -> Self {
        Self { low: 0, range: u32::MAX, last: 0, held: 1, out: Vec::new() }
    }

    /// Bytes so far.
    pub(super) fn len(&self) -> usize {
        self.out.len() + self.held
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        (0..TAIL).for_each(|_| self.shift());
        self.out
    }

    fn shift(&mut self) {
        let carry = (self.low >> 32) as u8;
        if carry > 0 || self.low < 0xff00_0000 {
            self.out.push(self.last.wrapping_add(carry));
            self.out.resize(self.out.len() + self.held - 1, carry.wrapping_sub(1));
            self.held = 0;
            self.last = (self.low >> 24) as u8;
        }
        self.held += 1;
        self.low = (self.low & 0x00ff_ffff) << 8;
    }

    fn widen(&mut self) {
        while self.range < NARROW {
            self.range <<= 8;
            self.shift();
        }
    }
}

impl Bits for Encoder {
    fn bit(&mut self, prob: &mut Prob, bit: bool) -> bool {
        let bound = prob.bound(self.range);
        if bit {
            self.low += u64::from(bound);
            self.range -= bound;
        } else {
            self.range = bound;
        }
        prob.follow(bit);
        self.widen();
        bit
    }

    fn raw(&mut self, count: u32, value: u32) -> u32 {
        for at in (0..count).rev() {
            self.range >>= 1;
            if value >> at & 1 == 1 {
                self.low += u64::from(self.range);
            }
            self.widen();
        }
        value
    }
}

/// Reads bits.
pub(super) struct Decoder<'a> {
    from: &'a mut dyn Read,
    buffer: Vec<u8>,
    at: usize,
    code: u32,
    range: u32,
    /// Zeros read behind the end.
    beyond: usize,
    error: Option<io::Error>,
}

impl<'a> Decoder<'a> {
    pub(super) fn new(from: &'a mut dyn Read) -> Self {
        let (buffer, range) = (Vec::new(), u32::MAX);
        let mut decoder = Self { from, buffer, at: 0, code: 0, range, beyond: 0, error: None };
        (0..TAIL).for_each(|_| decoder.shift());
        decoder
    }

    /// What was wrong with the bytes; the bits since then mean nothing.
    pub(super) fn error(&mut self) -> Option<io::Error> {
        let ended = (self.beyond > TAIL).then(|| ErrorKind::UnexpectedEof.into());
        self.error.take().or(ended)
    }

    fn shift(&mut self) {
        self.code = self.code << 8 | u32::from(self.next());
    }

    fn next(&mut self) -> u8 {
        if self.at == self.buffer.len() {
            self.fill();
        }
        let byte = self.buffer.get(self.at).copied();
        match byte {
            Some(_) => self.at += 1,
            None => self.beyond = self.beyond.saturating_add(1),
        }
        byte.unwrap_or(0)
    }

    fn fill(&mut self) {
        if self.beyond > 0 || self.error.is_some() {
            return;
        }
        self.at = 0;
        self.buffer.resize(8 * limits::KIB, 0);
        let got = loop {
            match self.from.read(&mut self.buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                got => break got,
            }
        };
        self.buffer.truncate(*got.as_ref().unwrap_or(&0));
        self.error = got.err();
    }

    fn widen(&mut self) {
        while self.range < NARROW {
            self.range <<= 8;
            self.shift();
        }
    }
}

impl Bits for Decoder<'_> {
    fn bit(&mut self, prob: &mut Prob, _: bool) -> bool {
        let bound = prob.bound(self.range);
        let bit = self.code >= bound;
        if bit {
            self.code -= bound;
            self.range -= bound;
        } else {
            self.range = bound;
        }
        prob.follow(bit);
        self.widen();
        bit
    }

    fn raw(&mut self, count: u32, _: u32) -> u32 {
        let mut value = 0;
        for _ in 0..count {
            self.range >>= 1;
            let bit = self.code >= self.range;
            if bit {
                self.code -= self.range;
            }
            value = value << 1 | u32::from(bit);
            self.widen();
        }
        value
    }
}

/// Counts what bits would cost, and learns nothing from them.
#[derive(Default)]
pub(super) struct Price {
    /// In 256ths of a bit.
    pub(super) paid: u64,
}

impl Bits for Price {
    fn bit(&mut self, prob: &mut Prob, bit: bool) -> bool {
        let likely = if bit { 65_536 - u32::from(prob.zero) } else { u32::from(prob.zero) };
        self.paid += u64::from(COSTS[(likely >> 8) as usize]);
        bit
    }

    fn learn(&mut self, _: &mut Prob, _: bool) {}

    fn raw(&mut self, count: u32, value: u32) -> u32 {
        self.paid += u64::from(count) * 256;
        value
    }
}

/// What a bit costs, by how likely it is in 256ths.
static COSTS: std::sync::LazyLock<[u16; 256]> = std::sync::LazyLock::new(|| {
    std::array::from_fn(|likely| (-((likely as f64 + 0.5) / 256.0).log2() * 256.0) as u16)
});

//! Makes patches: of all predictions of a cell the one that costs least.

use super::CELL;
use super::bits::Encoder;
use super::model::{Mode, Model, Prediction};
use std::collections::HashMap;

/// Bytes by which a place of the base is known again.
const MARK: usize = 16;
/// Places of a base that are known at most.
const MARKS: usize = 1 << 16;
/// What a byte may cost before its cell is looked for elsewhere in the base, in 256ths of a bit.
const DEAR: u64 = 5 * 256;

/// The patch that makes `new` of `base`, or without a base compresses it; none if it has more than `most` bytes.
pub fn make(base: Option<&[u8]>, new: &[u8], most: usize) -> Option<Vec<u8>> {
    let (mut model, mut encoder) = (Model::new(), Encoder::new());
    let marks = base.map(Marks::of);
    let mut cell = [0; CELL];
    for (index, piece) in new.chunks(CELL).enumerate() {
        let at = index * CELL;
        let cell = &mut cell[..piece.len()];
        cell.copy_from_slice(piece);
        let (source, last) = (Source { base, at }, model.last());
        let mut best = Best::of(&mut model, source, cell);
        best.try_all(last.shift);
        if let (Some(base), Some(marks)) = (base, &marks) {
            // A file that grew or shrank somewhere goes on at a distance, from the beginning or from the end.
            best.try_all(0);
            best.try_all(base.len() as i64 - new.len() as i64);
            if best.price > DEAR * piece.len() as u64
                && let Some(shift) = marks.shift(piece, at)
            {
                best.try_all(shift);
            }
        }
        let prediction = best.prediction;
        model.prediction(&mut encoder, prediction);
        let basis = source.basis(prediction.shift, cell.len());
        model.cell(&mut encoder, prediction.mode, &basis, cell);
        if encoder.len() > most {
            return None;
        }
    }
    Some(encoder.finish()).filter(|patch| patch.len() <= most)
}

/// Where a cell lies, and what it may be predicted from.
#[derive(Clone, Copy)]
struct Source<'a> {
    base: Option<&'a [u8]>,
    at: usize,
}

impl Source<'_> {
    fn basis(self, shift: i64, size: usize) -> Vec<u8> {
        let (base, from) = (self.base.unwrap_or(&[]), self.at as i64 + shift);
        let byte = |place| usize::try_from(place).ok().and_then(|place| base.get(place)).copied();
        (from..).take(size).map(|place| byte(place).unwrap_or(0)).collect()
    }
}

/// The best prediction of a cell so far.
struct Best<'a, 'b> {
    model: &'a mut Model,
    source: Source<'b>,
    cell: &'a mut [u8],
    tried: Vec<i64>,
    prediction: Prediction,
    price: u64,
}

impl<'a, 'b> Best<'a, 'b> {
    fn of(model: &'a mut Model, source: Source<'b>, cell: &'a mut [u8]) -> Self {
        let shift = model.last().shift;
        let mut best = Self {
            model,
            source,
            cell,
            tried: Vec::new(),
            prediction: Prediction::default(),
            price: u64::MAX,
        };
        let plain = Mode::ALL.into_iter().filter(|mode| !mode.uses_base());
        plain.for_each(|mode| best.try_one(Prediction { mode, shift }, &[]));
        best
    }

    /// Tries everything that predicts from so far away in the base.
    fn try_all(&mut self, shift: i64) {
        if self.source.base.is_none() || self.tried.contains(&shift) {
            return;
        }
        self.tried.push(shift);
        let basis = self.source.basis(shift, self.cell.len());
        let modes = Mode::ALL.into_iter().filter(|mode| mode.uses_base());
        modes.for_each(|mode| self.try_one(Prediction { mode, shift }, &basis));
    }

    fn try_one(&mut self, prediction: Prediction, basis: &[u8]) {
        let price = self.model.price(prediction, basis, self.cell);
        if price < self.price {
            (self.prediction, self.price) = (prediction, price);
        }
    }
}

/// Places of the base by what stands there.
struct Marks<'a>(HashMap<&'a [u8], usize>);

impl<'a> Marks<'a> {
    fn of(base: &'a [u8]) -> Self {
        let apart = MARK * (1 + base.len() / (MARKS * MARK));
        let places = base.windows(MARK).enumerate().step_by(apart).filter(|(_, mark)| is_telling(mark));
        Self(places.map(|(place, mark)| (mark, place)).collect())
    }

    /// How far off the base has something that stands in this piece.
    fn shift(&self, piece: &[u8], at: usize) -> Option<i64> {
        let place = |(off, mark)| self.0.get(mark).map(|place| *place as i64 - (at + off) as i64);
        piece.windows(MARK).enumerate().find_map(place)
    }
}

/// Whether it can be told from others: rows of the same byte stand everywhere.
fn is_telling(mark: &[u8]) -> bool {
    mark.iter().any(|byte| *byte != mark[0])
}

//! Several networks that one model was made into, each with what a search made of it: which one ships.

use crate::search::{mark, refusal};
use crate::{Budget, Compressed, Error, OverBudget, Point, Result};

/// What a search made of one network.
#[derive(Clone, Debug)]
pub struct Tried {
    /// What the network is, in a few words.
    pub name: String,
    /// The result, or what was measured where nothing is within the budget.
    pub result: std::result::Result<Compressed, Box<OverBudget>>,
}

/// The smallest result, and the place of its network. Its report holds the candidates of all of them.
pub fn smallest(budget: &Budget, tried: Vec<Tried>) -> Result<(usize, Compressed)> {
    let bytes = |tried: &Tried| tried.result.as_ref().ok().map(|made| made.report.bytes_after);
    let best = (0..tried.len()).filter_map(|place| Some((bytes(&tried[place])?, place))).min();
    let mut points: Vec<Point> = Vec::new();
    let (mut winner, mut chosen) = (None, None);
    for (place, Tried { name, result }) in tried.into_iter().enumerate() {
        let before = points.len();
        let named = |point: Point| Point { name: format!("{name}: {}", point.name), ..point };
        match result {
            Ok(mut made) => {
                points.extend(std::mem::take(&mut made.report.measured).into_iter().map(named));
                if best.is_some_and(|(_, best)| best == place) {
                    chosen = made.report.chosen.map(|chosen| before + chosen);
                    winner = Some((place, made));
                }
            }
            Err(refused) => points.extend(refused.nearest.into_iter().map(named)),
        }
    }
    mark(&mut points);
    match winner {
        Some((place, mut made)) => {
            (made.report.measured, made.report.chosen) = (points, chosen);
            Ok((place, made))
        }
        None => Err(Error::OverBudget(Box::new(refusal(budget, points)))),
    }
}

//! The best labels of an answer.

use super::Answer;
use flotilla_runtime::Answer as Said;
use serde::Serialize;

/// A label and its score.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Ranked<'a> {
    /// The label's name.
    pub label: &'a str,
    /// Its score.
    pub score: f32,
}

impl Answer {
    /// The `count` labels with the highest scores, the best first; of equals, the one that comes first among the labels.
    pub fn top(&self, count: usize) -> Vec<Ranked<'_>> {
        // Only of these the scores are those of labels.
        if !matches!(self.prediction.answer, Said::Class(_) | Said::Labels(_)) {
            return Vec::new();
        }
        let scores = self.prediction.scores.iter();
        let mut all: Vec<_> =
            self.labels.iter().zip(scores).map(|(label, score)| Ranked { label, score: *score }).collect();
        all.sort_by(|a, b| b.score.total_cmp(&a.score));
        all.truncate(count);
        all
    }
}

//! One cell, and what its text may mean: a number, a truth, or that nothing is known.

use std::borrow::Cow;

/// What a row holds in one column, as it was sent. A text is read as a number or a date where the column is one.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// Nothing: `null` of JSON, or no text.
    Missing,
    /// A number of JSON.
    Number(f64),
    /// `true` or `false` of JSON.
    Boolean(bool),
    /// A text without spaces around it; never empty.
    Text(Box<str>),
}

/// Texts that say that a value is not known: those that pandas writes and reads.
const MISSING: &[&str] =
    &["NA", "N/A", "n/a", "NaN", "nan", "-NaN", "-nan", "NULL", "null", "None", "<NA>", "#N/A", "#NA"];

impl Cell {
    /// The cell with this text, trimmed.
    pub fn of_text(text: &str) -> Self {
        match text.trim() {
            "" => Cell::Missing,
            text => Cell::Text(text.into()),
        }
    }

    /// Whether it is empty, or says that its value is not known.
    pub fn is_missing(&self) -> bool {
        match self {
            Cell::Missing => true,
            Cell::Text(text) => MISSING.contains(&&**text),
            Cell::Number(_) | Cell::Boolean(_) => false,
        }
    }

    /// The finite number that it is.
    pub fn number(&self) -> Option<f64> {
        let number = match self {
            Cell::Missing => return None,
            Cell::Number(number) => *number,
            Cell::Boolean(truth) => f64::from(u8::from(*truth)),
            Cell::Text(text) => text.parse().ok()?,
        };
        number.is_finite().then_some(number)
    }

    /// The truth that it is: true or false, yes or no and their first letters in any case, 1 or 0.
    pub fn boolean(&self) -> Option<bool> {
        let is = |text: &str, words: &[&str]| words.iter().any(|word| text.eq_ignore_ascii_case(word));
        match self {
            Cell::Boolean(truth) => Some(*truth),
            Cell::Text(text) if is(text, &["true", "t", "yes", "y"]) => Some(true),
            Cell::Text(text) if is(text, &["false", "f", "no", "n"]) => Some(false),
            _ => match self.number()? {
                1.0 => Some(true),
                0.0 => Some(false),
                _ => None,
            },
        }
    }

    /// Its text; a number's is the shortest.
    pub fn text(&self) -> Cow<'_, str> {
        match self {
            Cell::Missing => Cow::Borrowed(""),
            Cell::Number(number) => Cow::Owned(number.to_string()),
            Cell::Boolean(truth) => Cow::Borrowed(if *truth { "true" } else { "false" }),
            Cell::Text(text) => Cow::Borrowed(text),
        }
    }

    /// The same as a value of JSON.
    pub(super) fn json(&self) -> serde_json::Value {
        match self {
            Cell::Missing => serde_json::Value::Null,
            Cell::Number(number) => serde_json::json!(number),
            Cell::Boolean(truth) => (*truth).into(),
            Cell::Text(text) => (&**text).into(),
        }
    }

    /// Its text as errors show it.
    pub(super) fn shown(&self) -> String {
        shown(&self.text())
    }
}

/// A text of others as errors show it: quoted, and not long.
pub(super) fn shown(text: &str) -> String {
    let start: String = text.chars().take(40).collect();
    if start.len() < text.len() { format!("{start:?} ...") } else { format!("{start:?}") }
}

/// `1.0` and `1.50` without the zeros: tables of whole numbers with gaps are often written so.
pub(super) fn plain(text: &str) -> Option<&str> {
    let (whole, fraction) = text.split_once('.')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole.strip_prefix('-').unwrap_or(whole)) || !digits(fraction) || !fraction.ends_with('0') {
        return None;
    }
    Some(text.trim_end_matches('0').trim_end_matches('.'))
}

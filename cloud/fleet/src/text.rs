//! Small helpers for texts and times that come from outside.

use std::time::{SystemTime, UNIX_EPOCH};

/// `text`, cut to at most `max` bytes at a character's boundary, on one line: a control character becomes a space, so
/// that a device's text cannot forge lines in a log, command a terminal or grow sixfold when it is escaped.
pub(crate) fn bounded(text: &str, max: usize) -> String {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].replace(char::is_control, " ")
}

/// Milliseconds since 1970; 0 for moments before.
pub(crate) fn millis(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_between_characters_and_kept_on_one_line() {
        assert_eq!(bounded("a\nb\0c", 10), "a b c");
        assert_eq!(bounded("\u{1b}[2J\u{9b}2J", 10), " [2J 2J");
        assert_eq!(bounded("grüße", 3), "gr");
        assert_eq!(bounded("grüße", 4), "grü");
        assert_eq!(bounded("grüße", 100), "grüße");
        assert_eq!(bounded("ü", 0), "");
    }
}

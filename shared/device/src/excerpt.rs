//! Which lines of a log are sent: those of a span of time and a level, the newest as far as they fit.
//!
//! A line begins with its moment (RFC 3339, UTC) and its level, as in `2026-11-27T20:23:12.123456Z  INFO agent: text`. One
//! that does not goes with the line before it.

use flotilla_protocol::limits;
use flotilla_protocol::message::{LogLevel, LogQuery};
use std::collections::VecDeque;
use std::time::UNIX_EPOCH;

/// Takes a log line by line, oldest first, and holds no more than was asked for.
#[derive(Debug)]
pub struct Excerpt {
    query: LogQuery,
    most: usize,
    bytes: VecDeque<u8>,
    lengths: VecDeque<usize>,
    left_out: u64,
    /// Whether the last line that had a moment is wanted.
    wanted: bool,
}

impl Excerpt {
    /// An excerpt without lines yet.
    pub fn new(query: LogQuery) -> Self {
        let most = (query.max_bytes as usize).min(limits::LOG_PULL);
        let (bytes, lengths) = (VecDeque::new(), VecDeque::new());
        Self { query, most, bytes, lengths, left_out: 0, wanted: false }
    }

    /// The next line, without its end.
    pub fn line(&mut self, line: &[u8]) {
        if let Some((at_ms, level)) = head(line) {
            let LogQuery { from_ms, to_ms, level: least, .. } = self.query;
            self.wanted = (from_ms..to_ms).contains(&at_ms) && level <= least;
        }
        if !self.wanted {
            return;
        }
        let length = line.len() + 1;
        self.bytes.extend(line);
        self.bytes.push_back(b'\n');
        self.lengths.push_back(length);
        while self.bytes.len() > self.most {
            let oldest = self.lengths.pop_front().unwrap_or(self.bytes.len());
            self.bytes.drain(..oldest);
            self.left_out += 1;
        }
    }

    /// The lines, and how many older ones found no room.
    pub fn finish(self) -> (Vec<u8>, u64) {
        (self.bytes.into(), self.left_out)
    }
}

/// Moment, in milliseconds since 1970, and level of a line.
fn head(line: &[u8]) -> Option<(u64, LogLevel)> {
    let text = std::str::from_utf8(line.get(..line.len().min(64))?)
        .unwrap_or_else(|error| std::str::from_utf8(&line[..error.valid_up_to()]).unwrap_or_default());
    let (moment, rest) = text.split_once(' ')?;
    let level = match rest.split_whitespace().next()? {
        "ERROR" => LogLevel::Error,
        "WARN" => LogLevel::Warn,
        "INFO" => LogLevel::Info,
        "DEBUG" => LogLevel::Debug,
        "TRACE" => LogLevel::Trace,
        _ => return None,
    };
    let since = humantime::parse_rfc3339(moment).ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some((u64::try_from(since.as_millis()).ok()?, level))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: LogQuery =
        LogQuery { from_ms: 0, to_ms: u64::MAX, max_bytes: 1 << 20, level: LogLevel::Trace };

    fn taken(query: LogQuery, lines: &[&str]) -> (String, u64) {
        let mut excerpt = Excerpt::new(query);
        lines.iter().for_each(|line| excerpt.line(line.as_bytes()));
        let (bytes, left_out) = excerpt.finish();
        (String::from_utf8_lossy(&bytes).into_owned(), left_out)
    }

    #[test]
    fn moments_and_levels_are_read_and_what_is_none_is_not_taken_for_one() {
        for (line, expected) in [
            ("1970-01-01T00:00:00Z ERROR a", Some((0, LogLevel::Error))),
            ("2000-02-29T12:30:00.5Z  INFO a", Some((951_827_400_500, LogLevel::Info))),
            ("2026-11-27T20:23:12.123456Z DEBUG a", Some((1_795_810_992_123, LogLevel::Debug))),
            ("2026-13-27T20:23:12Z INFO a", None),
            ("2026-11-27T24:00:00Z INFO a", None),
            ("2026-11-27 20:23:12Z INFO a", None),
            ("2026-11-27T20:23:12 INFO a", None),
            ("1969-12-31T23:59:59Z INFO a", None),
            ("2026-11-27T20:23:12Z NEWS a", None),
            ("2026-11-27T20:23:12Z", None),
            ("", None),
        ] {
            assert_eq!(head(line.as_bytes()), expected, "{line}");
        }
    }

    #[test]
    fn a_span_and_a_level_choose_and_lines_without_a_moment_go_with_the_one_before() {
        let lines = [
            "left over of a line",
            "1970-01-01T00:00:01.000000Z  INFO a: early",
            "1970-01-01T00:00:02.000000Z ERROR a: broken",
            "  because of this",
            "1970-01-01T00:00:03.000000Z DEBUG a: how",
            "1970-01-01T00:00:04.000000Z  WARN a: late",
        ];
        let span = LogQuery { from_ms: 2_000, to_ms: 4_000, ..ALL };
        assert_eq!(taken(span, &lines).0, [lines[2], lines[3], lines[4], ""].join("\n"));
        let serious = LogQuery { level: LogLevel::Warn, ..ALL };
        assert_eq!(taken(serious, &lines).0, [lines[2], lines[3], lines[5], ""].join("\n"));
        let none = LogQuery { from_ms: 9_000, ..ALL };
        assert_eq!(taken(none, &lines), (String::new(), 0));
    }

    proptest! {
        #[test]
        fn the_newest_whole_lines_win_and_the_bound_holds_at_every_moment(
            texts in proptest::collection::vec("[a-z]{0,300}", 0..100), most in 0u32..4_000,
        ) {
            let lines: Vec<_> = texts.iter().enumerate()
                .map(|(n, text)| format!("1970-01-01T00:{:02}:{:02}.000001Z  INFO a: {text}", n / 60, n % 60))
                .collect();
            let mut excerpt = Excerpt::new(LogQuery { max_bytes: most, ..ALL });
            for line in &lines {
                excerpt.line(line.as_bytes());
                prop_assert!(excerpt.bytes.len() <= most as usize);
            }
            let (bytes, left_out) = excerpt.finish();
            let rest = &lines[left_out as usize..];
            prop_assert_eq!(bytes, rest.iter().fold(String::new(), |all, line| all + line + "\n").into_bytes());
            if let Some(next) = (left_out as usize).checked_sub(1) {
                // One line more would not have fitted, or came before one that alone was too long.
                let with: usize = lines[next..].iter().map(|line| line.len() + 1).sum();
                let long = lines[..=next].iter().any(|line| line.len() + 1 > most as usize);
                prop_assert!(with > most as usize || long);
            }
        }

        #[test]
        fn any_bytes_are_a_log(bytes: Vec<u8>) {
            let mut excerpt = Excerpt::new(ALL);
            bytes.split(|byte| *byte == b'\n').for_each(|line| excerpt.line(line));
            prop_assert!(excerpt.finish().0.len() <= bytes.len() + 1);
        }
    }
}

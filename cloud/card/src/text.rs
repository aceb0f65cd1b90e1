//! Numbers for people, and what keeps a text a text.

use flotilla_runtime::metrics::Metric;
use flotilla_runtime::quality::Figure;

/// Stands where there is no figure.
pub(crate) const NONE: &str = "–";

/// A whole number, its thousands apart.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

pub(crate) fn bytes(bytes: u64) -> String {
    format!("{} bytes", count(bytes))
}

pub(crate) fn percent(share: f64) -> String {
    format!("{:.2} %", share * 100.0)
}

pub(crate) fn number(value: f64) -> String {
    if value != 0.0 && !(1e-3..1e6).contains(&value.abs()) {
        format!("{value:.3e}")
    } else {
        format!("{value:.4}")
    }
}

/// A figure of a metric: shares as per cent.
pub(crate) fn of(metric: Metric, value: f64) -> String {
    if metric.is_share() { percent(value) } else { number(value) }
}

/// A figure with its interval, as a sentence has it.
pub(crate) fn told(metric: Metric, figure: Figure) -> String {
    match (figure.value, figure.interval) {
        (Some(value), Some([low, high])) => {
            format!("{} (95 % interval {} to {})", of(metric, value), of(metric, low), of(metric, high))
        }
        (Some(value), None) => of(metric, value),
        (None, _) => "not defined by these samples".to_owned(),
    }
}

/// A share with its interval, as a table has it.
pub(crate) fn share(figure: Figure) -> String {
    let in_hundred = |share: f64| format!("{:.1}", share * 100.0);
    match (figure.value, figure.interval) {
        (Some(value), Some([low, high])) => {
            format!("{} ({}–{})", in_hundred(value), in_hundred(low), in_hundred(high))
        }
        (Some(value), None) => in_hundred(value),
        (None, _) => NONE.to_owned(),
    }
}

/// A number with its interval, as a table has it.
pub(crate) fn ranged(figure: Figure) -> String {
    match (figure.value, figure.interval) {
        (Some(value), Some([low, high])) => format!("{} ({}–{})", number(value), number(low), number(high)),
        (Some(value), None) => number(value),
        (None, _) => NONE.to_owned(),
    }
}

/// A moment, to the minute.
pub(crate) fn moment(ms: u64) -> String {
    let moment = i64::try_from(ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    moment.map_or_else(|| NONE.to_owned(), |moment| format!("{} UTC", moment.strftime("%Y-%m-%d %H:%M")))
}

/// A text within HTML or SVG, in an attribute too. Control characters have no place there.
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

/// A text cut to so many characters.
pub(crate) fn cut(text: &str, characters: usize) -> String {
    match text.char_indices().nth(characters) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(moment(1_764_340_000_000), "2025-11-28 14:26 UTC");
        assert_eq!(moment(u64::MAX), NONE);
        let figure = Figure { value: Some(0.5), interval: Some([0.25, 0.75]) };
        assert_eq!(share(figure), "50.0 (25.0–75.0)");
        assert_eq!(told(Metric::Accuracy, figure), "50.00 % (95 % interval 25.00 % to 75.00 %)");
        assert_eq!(told(Metric::R2, figure), "0.5000 (95 % interval 0.2500 to 0.7500)");
        assert_eq!([number(0.0), number(1.5e-5), number(-2.5e7)], ["0.0000", "1.500e-5", "-2.500e7"]);
    }

    #[test]
    fn nothing_ends_an_attribute_or_a_tag() {
        assert_eq!(escaped("<a href='x\"'>&\n"), "&lt;a href=&#39;x&quot;&#39;&gt;&amp; ");
        assert_eq!(cut("äöü", 2), "äö…");
    }
}

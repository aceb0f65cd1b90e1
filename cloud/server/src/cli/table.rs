//! Plain text for a terminal: tables, and what others said without what it could do to one.

/// Text of several lines, harmless to a terminal.
pub(crate) fn printable(text: &str) -> String {
    let harmless = |c: char| if c.is_control() && !matches!(c, '\n' | '\t') { '\u{fffd}' } else { c };
    text.chars().map(harmless).collect()
}

/// The same on one line.
pub(crate) fn line(text: &str) -> String {
    printable(text).replace(['\n', '\t'], " ")
}

/// Prints rows under a header, columns as wide as their widest cell.
pub(crate) fn print(header: &[&str], rows: &[Vec<String>]) {
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| line(cell)).collect()).collect();
    let mut widths: Vec<usize> = header.iter().map(|h| h.chars().count()).collect();
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: Vec<&str>| {
        let padded: Vec<_> =
            cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        println!("{}", padded.join("  ").trim_end());
    };
    line(header.to_vec());
    for row in &rows {
        line(row.iter().map(String::as_str).collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_device_says_does_nothing_to_the_terminal() {
        assert_eq!(printable("a\tb\x1b[2J\r\n\u{9b}"), "a\tb\u{fffd}[2J\u{fffd}\n\u{fffd}");
        assert_eq!(line("a\tb\x1b[2J\nc"), "a b\u{fffd}[2J c");
    }
}

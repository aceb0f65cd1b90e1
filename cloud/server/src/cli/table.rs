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

/// Prints rows under a header, columns as wide as their widest cell. What texts of devices say to a terminal is not passed
/// on to it.
pub(crate) fn print(header: &[&str], rows: &[Vec<String>]) {
    lines(header, rows).iter().for_each(|line| println!("{line}"));
}

/// The same beside a failure.
pub(crate) fn print_to_stderr(header: &[&str], rows: &[Vec<String>]) {
    lines(header, rows).iter().for_each(|line| eprintln!("{line}"));
}

fn lines(header: &[&str], rows: &[Vec<String>]) -> Vec<String> {
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
        padded.join("  ").trim_end().to_owned()
    };
    let rows = rows.iter().map(|row| line(row.iter().map(String::as_str).collect()));
    std::iter::once(line(header.to_vec())).chain(rows).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cell_commands_a_terminal() {
        let rows = [vec!["\u{1b}[2J7\u{9b}1m".to_owned(), "x\ny".to_owned()]];
        assert_eq!(lines(&["A", "B"], &rows), ["A         B", "\u{fffd}[2J7\u{fffd}1m  x y"]);
    }

    #[test]
    fn what_a_device_says_does_nothing_to_the_terminal() {
        assert_eq!(printable("a\tb\x1b[2J\r\n\u{9b}"), "a\tb\u{fffd}[2J\u{fffd}\n\u{fffd}");
        assert_eq!(line("a\tb\x1b[2J\nc"), "a b\u{fffd}[2J c");
    }
}

//! A card as Markdown.

use crate::page::{Block, Cell, Fact, Page, Table};
use crate::{Card, metadata};

impl Card {
    /// The card as Markdown, headed by metadata that other tools read. Pictures become tables.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut out = metadata::block(self);
        let Page { title, sections } = self.page();
        out.push_str(&format!("\n# {}\n", words(&title)));
        for section in sections {
            out.push_str(&format!("\n## {}\n", words(&section.title)));
            for block in &section.blocks {
                out.push('\n');
                write(&mut out, block);
            }
        }
        out
    }
}

fn write(out: &mut String, block: &Block) {
    match block {
        Block::Text(text) => out.push_str(&format!("{}\n", words(text))),
        Block::Facts(facts) => {
            for Fact { name, value } in facts {
                out.push_str(&format!("- **{}**: {}\n", words(name), cell(value)));
            }
        }
        Block::Table(table) => write_table(out, table),
        Block::Picture { caption, table, .. } => match table {
            Some(table) => write_table(out, table),
            None => out.push_str(&format!("(A picture in the HTML form: {}.)\n", words(caption))),
        },
    }
}

fn write_table(out: &mut String, table: &Table) {
    if !table.caption.is_empty() {
        out.push_str(&format!("{}:\n\n", words(&table.caption)));
    }
    let line =
        |cells: &mut dyn Iterator<Item = String>| format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "));
    out.push_str(&line(&mut table.columns.iter().map(|column| words(&column.name))));
    let rule = |number: bool| if number { "---:" } else { "---" }.to_owned();
    out.push_str(&line(&mut table.columns.iter().map(|column| rule(column.number))));
    for row in &table.rows {
        out.push_str(&line(&mut row.iter().map(cell)));
    }
    if table.more > 0 {
        out.push_str(&format!("\n{} more rows are in the JSON form.\n", table.more));
    }
}

fn cell(cell: &Cell) -> String {
    match cell {
        Cell::Text(text) => words(text),
        // A code span has no escapes: what could end it, or a table's cell, is written as words.
        Cell::Code(text) if text.contains(['`', '|', '\\']) || text.chars().any(char::is_control) => {
            words(text)
        }
        Cell::Code(text) => format!("`{text}`"),
    }
}

/// A text in which nothing is mark-up, neither Markdown's nor HTML's, and which stays on its line.
fn words(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (place, c) in text.char_indices() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '~' | '$' => out.extend(['\\', c]),
            // These are mark-up at the start of a line only.
            '#' | '-' | '+' | '=' | '!' if place == 0 => out.extend(['\\', c]),
            c if c.is_control() || c == '\u{2028}' || c == '\u{2029}' => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_name_is_mark_up() {
        assert_eq!(words("a|b\n# c"), "a\\|b # c");
        assert_eq!(words("<script>alert(1)</script>"), "&lt;script&gt;alert(1)&lt;/script&gt;");
        assert_eq!(words("[x](javascript:1) *b* `c`"), "\\[x\\](javascript:1) \\*b\\* \\`c\\`");
        assert_eq!(words("- item"), "\\- item");
        assert_eq!(cell(&Cell::Code("a`|b".into())), "a\\`\\|b");
        assert_eq!(cell(&Cell::Code("abc".into())), "`abc`");
    }
}

//! A card as one HTML file that needs no other.

use crate::Card;
use crate::page::{Block, Cell, Fact, Page, Table};
use crate::text::escaped;
use std::fmt::Write as _;

const STYLE: &str = include_str!("style.css");

impl Card {
    /// The card as HTML: one file without scripts that fetches nothing, for light and dark screens and for paper.
    #[must_use]
    pub fn html(&self) -> String {
        let Page { title, sections } = self.page();
        let title = escaped(&title);
        let mut out = format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n<title>{title}: model card</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n"
        );
        for section in sections {
            // Writing to a string does not fail.
            let _ = writeln!(
                out,
                "<section id=\"{}\">\n<h2>{}</h2>",
                escaped(&section.id),
                escaped(&section.title)
            );
            section.blocks.iter().for_each(|block| write(&mut out, block));
            out.push_str("</section>\n");
        }
        out.push_str("<footer>A model card made by Flotilla.</footer>\n</body>\n</html>\n");
        out
    }
}

fn write(out: &mut String, block: &Block) {
    match block {
        Block::Text(text) => {
            let _ = writeln!(out, "<p>{}</p>", escaped(text));
        }
        Block::Facts(facts) => {
            out.push_str("<dl>\n");
            for Fact { name, value } in facts {
                let _ = writeln!(out, "<dt>{}</dt><dd>{}</dd>", escaped(name), cell(value));
            }
            out.push_str("</dl>\n");
        }
        Block::Table(table) => write_table(out, table),
        Block::Picture { svg, caption, table } => {
            let _ = writeln!(out, "<figure>\n<figcaption>{}</figcaption>\n{svg}", escaped(caption));
            if let Some(table) = table {
                out.push_str("<details><summary>The same as a table</summary>\n");
                write_table(out, table);
                out.push_str("</details>\n");
            }
            out.push_str("</figure>\n");
        }
    }
}

fn write_table(out: &mut String, table: &Table) {
    out.push_str("<div class=\"table\"><table>\n");
    if !table.caption.is_empty() {
        let _ = writeln!(out, "<caption>{}</caption>", escaped(&table.caption));
    }
    let class = |number: bool| if number { " class=\"n\"" } else { "" };
    out.push_str("<thead><tr>");
    for column in &table.columns {
        let _ = write!(out, "<th scope=\"col\"{}>{}</th>", class(column.number), escaped(&column.name));
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    for row in &table.rows {
        out.push_str("<tr>");
        for (column, value) in table.columns.iter().zip(row) {
            let _ = write!(out, "<td{}>{}</td>", class(column.number), cell(value));
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody></table></div>\n");
    if table.more > 0 {
        let _ = writeln!(out, "<p><small>{} more rows are in the JSON form.</small></p>", table.more);
    }
}

fn cell(cell: &Cell) -> String {
    match cell {
        Cell::Text(text) => escaped(text),
        Cell::Code(text) => format!("<code>{}</code>", escaped(text)),
    }
}

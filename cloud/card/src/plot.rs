//! Pictures of figures, as SVG that stands on its own.
//!
//! Lines and texts have the colour of the text around (`currentColor`), marks that of the variable `--accent`, and what is
//! written on a mark that of `--on-accent`, so that a picture fits light and dark pages alike.

use crate::text::{cut, escaped, percent};
use flotilla_runtime::metrics::scores::Bin;
use flotilla_runtime::quality::Class;
use std::fmt::Write as _;

/// Classes of a heat map at most.
pub(crate) const HEAT_CLASSES: usize = 60;
/// Classes of a heat map with numbers in it at most.
const HEAT_NUMBERS: usize = 25;
/// Characters of a label beside a picture.
const LABEL: usize = 14;
const ACCENT: &str = "var(--accent, #0b6e6e)";
const ON_ACCENT: &str = "var(--on-accent, #ffffff)";

fn opened(width: f64, height: f64, title: &str) -> String {
    format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" font-family="system-ui, sans-serif" font-size="12" fill="currentColor"><title>{}</title>"#,
        escaped(title)
    )
}

/// A confusion matrix: a row a true class, a column a predicted one, the stronger the larger the part of the row.
pub(crate) fn heat_map(classes: &[Class], confusion: &[Vec<u64>]) -> Option<String> {
    let count = classes.len();
    if count == 0 || count > HEAT_CLASSES || confusion.len() != count {
        return None;
    }
    let numbers = count <= HEAT_NUMBERS;
    let cell = if numbers { 36.0 } else { 12.0 };
    let letters = classes.iter().map(|class| class.label.chars().count().min(LABEL + 1)).max().unwrap_or(1);
    let margin = 30.0 + 7.5 * letters as f64;
    let side = cell * count as f64;
    let [width, height] = [margin + side + 8.0, margin + side + 8.0];
    let mut svg = opened(width, height, "Confusion matrix: true class by row, predicted class by column");
    let middle = margin + side / 2.0;
    // Writing to a string does not fail.
    let _ = write!(
        svg,
        r#"<text x="{middle:.1}" y="12" text-anchor="middle">predicted</text><text transform="translate(12 {middle:.1}) rotate(-90)" text-anchor="middle">true</text>"#
    );
    for (place, class) in classes.iter().enumerate() {
        let at = margin + cell * (place as f64 + 0.5);
        let (label, size) = (escaped(&cut(&class.label, LABEL)), if numbers { 12 } else { 9 });
        let _ = write!(
            svg,
            r#"<text x="{:.1}" y="{:.1}" text-anchor="end" font-size="{size}">{label}</text><text transform="translate({:.1} {:.1}) rotate(-90)" font-size="{size}">{label}</text>"#,
            margin - 6.0,
            at + 4.0,
            at + 4.0,
            margin - 6.0,
        );
    }
    let _ = write!(
        svg,
        r#"<rect x="{margin}" y="{margin}" width="{side}" height="{side}" fill="none" stroke="currentColor" stroke-opacity="0.25"/>"#
    );
    for (row, counts) in confusion.iter().enumerate() {
        let support = counts.iter().sum::<u64>().max(1) as f64;
        for (column, samples) in counts.iter().enumerate().filter(|(_, samples)| **samples > 0) {
            let part = *samples as f64 / support;
            let (x, y) = (margin + cell * column as f64, margin + cell * row as f64);
            // What is rare is seen, too.
            let strength = 0.12 + 0.88 * part;
            let told = format!(
                "{} taken for {}: {samples} ({})",
                classes[row].label,
                classes.get(column).map_or("", |class| class.label.as_str()),
                percent(part)
            );
            let _ = write!(
                svg,
                r#"<g><rect x="{x:.1}" y="{y:.1}" width="{cell}" height="{cell}" fill="{ACCENT}" fill-opacity="{strength:.2}"/>"#
            );
            if numbers {
                let ink = if strength > 0.5 { ON_ACCENT } else { "currentColor" };
                let size = if *samples < 10_000 { 12 } else { 9 };
                let _ = write!(
                    svg,
                    r#"<text x="{:.1}" y="{:.1}" text-anchor="middle" font-size="{size}" fill="{ink}">{samples}</text>"#,
                    x + cell / 2.0,
                    y + cell / 2.0 + 4.0,
                );
            }
            let _ = write!(svg, "<title>{}</title></g>", escaped(&told));
        }
    }
    svg.push_str("</svg>");
    Some(svg)
}

/// A reliability diagram: how often a model is right over how sure it is, and below how many samples are as sure.
pub(crate) fn reliability(bins: &[Bin]) -> String {
    const LEFT: f64 = 52.0;
    const SIDE: f64 = 260.0;
    const TOP: f64 = 12.0;
    const BELOW: f64 = 56.0;
    let mut svg = opened(
        LEFT + SIDE + 16.0,
        TOP + SIDE + BELOW + 44.0,
        "Reliability diagram: share that is right by how sure the model is",
    );
    let at = |share: f64| (LEFT + share * SIDE, TOP + (1.0 - share) * SIDE);
    for tick in 0..=4_u8 {
        let share = f64::from(tick) / 4.0;
        let (x, y) = at(share);
        let _ = write!(
            svg,
            r#"<line x1="{LEFT}" x2="{:.1}" y1="{y:.1}" y2="{y:.1}" stroke="currentColor" stroke-opacity="0.12"/><text x="{:.1}" y="{:.1}" text-anchor="end">{share:.2}</text><text x="{x:.1}" y="{:.1}" text-anchor="middle">{share:.2}</text>"#,
            LEFT + SIDE,
            LEFT - 6.0,
            y + 4.0,
            TOP + SIDE + BELOW + 16.0,
        );
    }
    let width = SIDE / bins.len().max(1) as f64;
    let most = bins.iter().map(|bin| bin.samples).max().unwrap_or(0).max(1) as f64;
    for (place, bin) in bins.iter().enumerate().filter(|(_, bin)| bin.samples > 0) {
        let x = LEFT + width * place as f64;
        let (_, y) = at(bin.accuracy);
        let base = TOP + SIDE;
        let tall = BELOW * 0.75 * bin.samples as f64 / most;
        let _ = write!(
            svg,
            r#"<g><rect x="{:.1}" y="{y:.1}" width="{:.1}" height="{:.1}" fill="{ACCENT}" fill-opacity="0.7"/><rect x="{:.1}" y="{:.1}" width="{:.1}" height="{tall:.1}" fill="currentColor" fill-opacity="0.35"/><title>{} samples: sure by {}, right {}</title></g>"#,
            x + 1.0,
            width - 2.0,
            base - y,
            x + 1.0,
            base + BELOW - tall,
            width - 2.0,
            bin.samples,
            percent(bin.confidence),
            percent(bin.accuracy),
        );
    }
    let ((x1, y1), (x2, y2)) = (at(0.0), at(1.0));
    let _ = write!(
        svg,
        r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" stroke="currentColor" stroke-dasharray="4 4" stroke-opacity="0.6"/><rect x="{LEFT}" y="{TOP}" width="{SIDE}" height="{SIDE}" fill="none" stroke="currentColor" stroke-opacity="0.25"/><text x="{:.1}" y="{:.1}" text-anchor="middle">confidence; below: samples</text><text transform="translate(14 {:.1}) rotate(-90)" text-anchor="middle">share that is right</text></svg>"#,
        LEFT + SIDE / 2.0,
        TOP + SIDE + BELOW + 36.0,
        TOP + SIDE / 2.0,
    );
    svg
}

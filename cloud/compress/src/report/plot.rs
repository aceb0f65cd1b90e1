//! The measured candidates as a picture: what is lost over the size of the file, as an SVG that stands on its own.
//!
//! Lines and texts have the colour of the text around the picture (`currentColor`), and marks that of the variable
//! `--accent` where the page has one, so that it fits light and dark pages alike.

use std::fmt::Write as _;

use super::Report;
use crate::Point;

/// The picture.
const SIZE: [f64; 2] = [640.0, 400.0];
/// Where the axes cross, and how far they reach.
const LEFT: f64 = 76.0;
const RIGHT: f64 = 616.0;
const TOP: f64 = 24.0;
const BOTTOM: f64 = 336.0;
/// A bound of the budget is in the picture if it is no more than so many times what was measured,
const FAR: f64 = 4.0;
/// or a loss of no more than so many percentage points.
const NEAR: f64 = 2.0;
/// Marks on an axis, about.
const TICKS: f64 = 5.0;

impl Report {
    /// The candidates by size and loss, the best of them joined by a line and those that none beats filled, as an SVG
    /// picture. A diamond is the model before.
    #[must_use]
    pub fn pareto_svg(&self) -> String {
        let points = &self.measured;
        let unit = if self.metric.is_share() { 100.0 } else { 1.0 };
        let (bytes, kilo) = if self.bytes_before < 2048 { ("bytes", 1.0) } else { ("kB", 1e-3) };
        let allowed = self.budget.unwrap_or_default();
        let sizes = points.iter().map(|point| point.bytes as f64 * kilo);
        let bound = allowed.max_bytes.filter(|bytes| *bytes as f64 <= FAR * self.bytes_before as f64);
        let sizes = sizes.chain(bound.map(|bytes| bytes as f64 * kilo));
        let x = Axis::over(sizes.chain([0.0, self.bytes_before as f64 * kilo]), LEFT, RIGHT);
        let drops = points.iter().map(|point| point.drop * unit).filter(|drop| drop.is_finite());
        // A bound far beyond all that was measured would leave no room for it.
        let most = drops.clone().fold(0.0, f64::max);
        let bound = Some(allowed.max_drop * unit).filter(|_| self.budget.is_some());
        let bound = bound.filter(|bound| *bound <= f64::max(FAR * most, NEAR));
        let y = Axis::over(drops.chain(bound).chain([0.0]), BOTTOM, TOP);
        let mut svg = String::new();
        let [width, height] = SIZE;
        let loss = if self.metric.is_share() {
            format!("{} lost, percentage points", self.metric)
        } else {
            let change = if self.metric.higher_is_better() { "lost" } else { "gained" };
            format!("{} {change}", self.metric)
        };
        // Writing to a string does not fail.
        let _ = write!(
            svg,
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" font-family="system-ui, sans-serif" font-size="12" fill="currentColor"><title>{} candidates by size of the file and {}</title>"#,
            points.len(),
            escaped(&loss),
        );
        x.draw(&mut svg, true);
        y.draw(&mut svg, false);
        let _ = write!(
            svg,
            r#"<text x="{}" y="{}" text-anchor="middle">Size of the file, {bytes}</text><text transform="translate(16 {}) rotate(-90)" text-anchor="middle">{}</text>"#,
            f64::midpoint(LEFT, RIGHT),
            BOTTOM + 44.0,
            f64::midpoint(TOP, BOTTOM),
            escaped(&loss),
        );
        self.bounds(&mut svg, &x, &y, kilo, unit);
        let place = |point: &Point| (x.at(point.bytes as f64 * kilo), y.at(point.drop * unit));
        self.front(&mut svg, place);
        let before = (x.at(self.bytes_before as f64 * kilo), y.at(0.0));
        let _ = write!(
            svg,
            r#"<path d="M{0:.1} {1:.1}l5 5-5 5-5-5z" transform="translate(0 -5)" fill="none" stroke="currentColor"><title>before: {2} bytes</title></path>"#,
            before.0, before.1, self.bytes_before,
        );
        for (index, point) in points.iter().enumerate().filter(|(_, point)| point.drop.is_finite()) {
            self.dot(&mut svg, point, place(point), self.chosen == Some(index), unit, &y);
        }
        svg.push_str("</svg>");
        svg
    }

    /// What the budget allows, where that lies within the picture.
    fn bounds(&self, svg: &mut String, x: &Axis, y: &Axis, kilo: f64, unit: f64) {
        let Some(budget) = &self.budget else { return };
        let line = |svg: &mut String, from: (f64, f64), to: (f64, f64), told: &str| {
            let _ = write!(
                svg,
                r#"<line x1="{:.1}" y1="{:.1}" x2="{:.1}" y2="{:.1}" stroke="currentColor" stroke-opacity="0.5" stroke-dasharray="5 4"><title>{told}</title></line>"#,
                from.0, from.1, to.0, to.1,
            );
        };
        if y.holds(budget.max_drop * unit) {
            let at = y.at(budget.max_drop * unit);
            line(svg, (LEFT, at), (RIGHT, at), &format!("budget: a loss of {}", budget.max_drop));
        }
        if let Some(bytes) = budget.max_bytes.filter(|bytes| x.holds(*bytes as f64 * kilo)) {
            let at = x.at(bytes as f64 * kilo);
            line(svg, (at, TOP), (at, BOTTOM), &format!("budget: {bytes} bytes"));
        }
    }

    /// The line through the candidates that no other beats in what the picture shows: size and loss.
    fn front(&self, svg: &mut String, place: impl Fn(&Point) -> (f64, f64)) {
        let mut points: Vec<&Point> = self.measured.iter().filter(|point| point.drop.is_finite()).collect();
        points.sort_by(|a, b| a.bytes.cmp(&b.bytes).then(a.drop.total_cmp(&b.drop)));
        let mut least = f64::INFINITY;
        points.retain(|point| {
            let better = point.drop < least;
            least = least.min(point.drop);
            better
        });
        let line = points.into_iter().map(|point| {
            let (x, y) = place(point);
            format!("{x:.1},{y:.1}")
        });
        let line: Vec<String> = line.collect();
        let _ = write!(
            svg,
            r#"<polyline points="{}" fill="none" stroke="var(--accent, #2a78c8)" stroke-width="1.5" stroke-opacity="0.6"/>"#,
            line.join(" "),
        );
    }

    fn dot(&self, svg: &mut String, point: &Point, at: (f64, f64), chosen: bool, unit: f64, y: &Axis) {
        let (cx, cy) = at;
        if let Some([low, high]) = point.drop_interval {
            let _ = write!(
                svg,
                r#"<line x1="{cx:.1}" x2="{cx:.1}" y1="{:.1}" y2="{:.1}" stroke="currentColor" stroke-opacity="0.35"/>"#,
                y.clamped(low * unit),
                y.clamped(high * unit),
            );
        }
        let fill = if point.pareto { "var(--accent, #2a78c8)" } else { "none" };
        let stroke = if point.pareto { fill } else { "currentColor" };
        let radius = if chosen { 7 } else { 4 };
        let _ = write!(
            svg,
            r#"<circle cx="{cx:.1}" cy="{cy:.1}" r="{radius}" fill="{fill}" stroke="{stroke}"><title>{}</title></circle>"#,
            escaped(&told(point)),
        );
        if chosen {
            let end = cx > f64::midpoint(LEFT, RIGHT);
            let (dx, anchor) = if end { (-12.0, "end") } else { (12.0, "start") };
            let _ = write!(
                svg,
                r#"<text x="{:.1}" y="{:.1}" text-anchor="{anchor}" font-weight="600">{}</text>"#,
                cx + dx,
                (cy - 8.0).max(TOP + 8.0),
                escaped(&point.name),
            );
        }
    }
}

fn told(point: &Point) -> String {
    let mut text = format!("{}: {} bytes, drop {:.4}", point.name, point.bytes, point.drop);
    if let Some([low, high]) = point.drop_interval {
        let _ = write!(text, " ({low:.4} to {high:.4})");
    }
    let _ = write!(text, ", p50 {:.3} ms", point.latency.p50_ms);
    if let Some(macs) = point.macs {
        let _ = write!(text, ", {macs} MACs");
    }
    if let Some(peak) = point.peak_bytes {
        let _ = write!(text, ", {peak} bytes of memory");
    }
    text
}

/// Values along one side of the picture.
struct Axis {
    low: f64,
    high: f64,
    step: f64,
    from: f64,
    to: f64,
}

impl Axis {
    /// An axis that reaches over all values, to round numbers.
    fn over(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let (low, high) =
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        let span = if high > low { high - low } else { 1.0 };
        let rough = span / TICKS;
        let power = 10.0_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|step| *step >= rough);
        let step = step.unwrap_or(rough);
        let (low, high) = ((low / step).floor() * step, ((low + span) / step).ceil() * step);
        Self { low, high, step, from, to }
    }

    fn at(&self, value: f64) -> f64 {
        self.from + (value - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    fn holds(&self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }

    /// An interval may reach further than the picture.
    fn clamped(&self, value: f64) -> f64 {
        self.at(value).clamp(self.from.min(self.to), self.from.max(self.to))
    }

    fn draw(&self, svg: &mut String, level: bool) {
        let ticks = ((self.high - self.low) / self.step).round() as usize;
        let digits = (-self.step.log10().floor()).clamp(0.0, 9.0) as usize;
        for tick in 0..=ticks {
            let value = self.low + tick as f64 * self.step;
            let at = self.at(value);
            // No minus before what is rounded to zero.
            let value = if value.abs() < self.step / 2.0 { 0.0 } else { value };
            let _ = if level {
                write!(
                    svg,
                    r#"<line x1="{at:.1}" x2="{at:.1}" y1="{TOP}" y2="{BOTTOM}" stroke="currentColor" stroke-opacity="0.12"/><text x="{at:.1}" y="{}" text-anchor="middle">{value:.digits$}</text>"#,
                    BOTTOM + 20.0,
                )
            } else {
                write!(
                    svg,
                    r#"<line x1="{LEFT}" x2="{RIGHT}" y1="{at:.1}" y2="{at:.1}" stroke="currentColor" stroke-opacity="0.12"/><text x="{}" y="{:.1}" text-anchor="end">{value:.digits$}</text>"#,
                    LEFT - 8.0,
                    at + 4.0,
                )
            };
        }
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::{Axis, escaped};

    #[test]
    fn axes_end_at_round_numbers_and_hold_every_value() {
        for values in [vec![0.0, 97.3], vec![-0.2, 0.013], vec![5.0], vec![0.0, 0.0], vec![0.0, 1e9]] {
            let axis = Axis::over(values.iter().copied(), 0.0, 100.0);
            for value in &values {
                assert!((0.0..=100.0).contains(&axis.at(*value)), "{values:?}");
            }
            let ticks = (axis.high - axis.low) / axis.step;
            assert!((1.0..=8.0).contains(&ticks.round()) && (ticks - ticks.round()).abs() < 1e-6, "{ticks}");
        }
        assert_eq!(escaped(r#"a<b> & "c""#), "a&lt;b&gt; &amp; &quot;c&quot;");
    }
}

//! A drawing of curves over a logarithmic axis, as SVG.

use std::fmt::Write as _;

/// One curve.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Curve {
    /// Its name, for the legend.
    pub(super) name: &'static str,
    /// Table entries, and a share from 0 to 1.
    pub(super) points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 440.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 140.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;
/// Distinguishable without seeing red and green apart (Okabe and Ito).
const COLOURS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];

/// Draws the curves.
pub(super) fn draw(curves: &[Curve], title: &str) -> String {
    let entries = || curves.iter().flat_map(|curve| curve.points.iter().map(|point| point.0));
    let least = entries().fold(f64::INFINITY, f64::min).max(1.0).log2();
    let most = entries().fold(0.0, f64::max).max(1.0).log2();
    let across = |entries: f64| {
        LEFT + (entries.max(1.0).log2() - least) / (most - least).max(1e-9) * (WIDTH - LEFT - RIGHT)
    };
    let down = |share: f64| HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"15\">{title}</text>\n"
    );
    for tenth in (0..=10).step_by(2) {
        let y = down(f64::from(tenth) / 10.0);
        let _ = writeln!(
            svg,
            "<path d=\"M{LEFT} {y:.1}H{:.1}\" stroke=\"#ddd\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}%</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            y + 4.0,
            tenth * 10
        );
    }
    let mut ticks: Vec<f64> = entries().collect();
    ticks.sort_by(f64::total_cmp);
    ticks.dedup();
    for entries in ticks {
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" font-size=\"10\">{entries}</text>",
            across(entries),
            HEIGHT - BOTTOM + 16.0
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">table entries</text>",
        (LEFT + WIDTH - RIGHT) / 2.0,
        HEIGHT - 12.0
    );
    for ((number, curve), colour) in curves.iter().enumerate().zip(COLOURS.iter().cycle()) {
        let points: Vec<String> = curve
            .points
            .iter()
            .map(|(entries, share)| format!("{:.1},{:.1}", across(*entries), down(*share)))
            .collect();
        let y = TOP + 18.0 * number as f64 + 12.0;
        let x = WIDTH - RIGHT + 12.0;
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\n\
             <path d=\"M{x} {:.1}h18\" stroke=\"{colour}\" stroke-width=\"2\"/><text x=\"{}\" y=\"{y:.1}\">{}</text>",
            points.join(" "),
            y - 4.0,
            x + 24.0,
            curve.name
        );
    }
    svg.push_str("</svg>\n");
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_is_further_up_and_larger_tables_are_further_right() {
        let curves = [Curve { name: "planner", points: vec![(16.0, 0.0), (64.0, 0.5), (256.0, 1.0)] }];
        let svg = draw(&curves, "A title");
        assert!(svg.contains("points=\"60.0,390.0 340.0,215.0 620.0,40.0\""), "{svg}");
        assert!(svg.contains("A title") && svg.contains(">planner</text>") && svg.ends_with("</svg>\n"));
    }
}

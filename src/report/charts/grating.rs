//! What the animal saw: the orientation relative to the target, over time, and the share of each of the seven steps.
//!
//! Step k is `target - 90 + 15 k` degrees, k = 0 .. 6. A short stretch is drawn as a line; a long session as a map,
//! since a line would fill its panel.

use std::fmt::Write;

use maud::PreEscaped;

use super::super::data::{FrameRow, SessionReport};
use super::super::digest::Digest;
use super::super::format;
use super::{LEFT, Px, RIGHT, Scale, Svg, TimeAxis, WIDTH, gap_of, phase_bands};

/// Half a period of a grating, dark to bright; near enough to a sine.
const STOPS: &str = concat!(
    r##"<stop offset="0" stop-color="#1c1c1c"/><stop offset=".2" stop-color="#303030"/>"##,
    r##"<stop offset=".5" stop-color="#808080"/><stop offset=".8" stop-color="#d0d0d0"/>"##,
    r##"<stop offset="1" stop-color="#e4e4e4"/>"##
);
/// Steps of the feedback, and degrees between them.
const STEPS: usize = 7;
const STEP_DEG: f64 = 15.0;
/// Width of a column of the map.
const COLUMN: f64 = 4.0;

/// How far the grating has turned towards the target, 0 to 90 degrees; none while none is shown.
fn turned_deg(frame: &FrameRow, target_deg: f64) -> Option<f64> {
    let shown = f64::from(frame.shown_deg.filter(|d| d.is_finite())?);
    let turned = (shown - target_deg + 90.0).rem_euclid(360.0);
    // Beyond the target by rounding, or by a task that turns both ways: the nearer end.
    turned.is_finite().then(|| if turned > 225.0 { 0.0 } else { turned.min(90.0) })
}

fn step(turned: f64) -> usize {
    ((turned / STEP_DEG).round() as usize).min(STEPS - 1)
}

/// Frames that showed each step.
pub(in super::super) fn shares(report: &SessionReport) -> [u64; STEPS] {
    let mut n = [0; STEPS];
    for turned in report.frames.iter().filter_map(|f| turned_deg(f, report.target_deg)) {
        n[step(turned)] += 1;
    }
    n
}

/// The key: seven gratings at their orientations and the share of time of each.
pub(in super::super) fn key(report: &SessionReport) -> PreEscaped<String> {
    let shares = shares(report);
    let total = shares.iter().sum::<u64>();
    let most = shares.iter().copied().max().unwrap_or(0).max(1);
    let mut svg = Svg::new(WIDTH, 190.0, "Share of time of each of the seven orientations");
    let pitch = (RIGHT - LEFT) / STEPS as f64;
    for (k, n) in shares.into_iter().enumerate() {
        let x = LEFT + pitch * (k as f64 + 0.5);
        let away = 90.0 - STEP_DEG * k as f64;
        let name = if k == STEPS - 1 { "target".to_owned() } else { format!("\u{2212}{away:.0}°") };
        svg.text(if k == STEPS - 1 { "label label-hit mid" } else { "label mid" }, x, 16.0, &name);
        let shown = (report.target_deg - away).rem_euclid(360.0);
        grating(&mut svg, k, (x, 62.0), if shown.is_finite() { shown } else { 0.0 });
        let length = 46.0 * n as f64 / most as f64;
        svg.rect("fill-ink", x - 18.0, 164.0 - length, 36.0, length);
        svg.text("tick mid", x, 158.0 - length, &format::percent(n, total));
        svg.line("axis", x - 30.0, 164.0, x + 30.0, 164.0);
        svg.text("tick mid", x, 182.0, &format!("{}°", format::fixed(shown, 0)));
    }
    svg.text("tick end", LEFT + 6.0, 16.0, "from target");
    svg.text("tick end", LEFT + 6.0, 182.0, "on screen");
    svg.text("tick end", LEFT + 6.0, 150.0, "share of");
    svg.text("tick end", LEFT + 6.0, 164.0, "frames");
    svg.finish()
}

/// A little Gabor patch whose bars stand at `deg`, anticlockwise from horizontal.
fn grating(svg: &mut Svg, k: usize, (x, y): (f64, f64), deg: f64) {
    const HALF_PERIOD: f64 = 5.0;
    // The gradient runs across the bars.
    let across = (deg + 90.0).to_radians();
    let (dx, dy) = (across.cos() * HALF_PERIOD, -across.sin() * HALF_PERIOD);
    let (x1, y1, x2, y2) = (Px(x - dx / 2.0), Px(y - dy / 2.0), Px(x + dx / 2.0), Px(y + dy / 2.0));
    let ends =
        format!(r#"gradientUnits="userSpaceOnUse" spreadMethod="reflect" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}""#);
    svg.raw(&format!(r#"<linearGradient id="bars{k}" {ends}>{STOPS}</linearGradient>"#));
    let (x, y) = (Px(x), Px(y));
    svg.raw(&format!(r##"<circle class="patch" cx="{x}" cy="{y}" r="32" fill="url(#bars{k})"/>"##));
}

/// Orientation over the session: a map of the share of each step, or a line where the session is short.
pub(in super::super) fn orientation(report: &SessionReport, digest: &Digest) -> Option<PreEscaped<String>> {
    if shares(report).iter().sum::<u64>() == 0 {
        return None;
    }
    let axis = TimeAxis::new(digest.span_s);
    let (top, bottom) = (10.0, 10.0 + 18.0 * STEPS as f64);
    let mut svg = Svg::new(WIDTH, bottom + 28.0, "Orientation of the grating relative to the target over the session");
    if digest.has_close_up() {
        map(&mut svg, &axis, report, (top, bottom));
    } else {
        panel(&mut svg, &axis, report, digest, (top, bottom));
    }
    axis.labels(&mut svg, bottom);
    Some(svg.finish())
}

/// Each column's darkness is the share of its shown frames at that step.
fn map(svg: &mut Svg, axis: &TimeAxis, report: &SessionReport, (top, bottom): (f64, f64)) {
    let columns = ((RIGHT - LEFT) / COLUMN).ceil() as usize;
    let mut counts = vec![[0_u32; STEPS]; columns];
    for frame in report.frames.iter().filter(|f| f.time_s.is_finite()) {
        if let Some(turned) = turned_deg(frame, report.target_deg) {
            let column = ((axis.x(frame.time_s) - LEFT) / COLUMN).max(0.0) as usize;
            counts[column.min(columns - 1)][step(turned)] += 1;
        }
    }
    let row = (bottom - top) / STEPS as f64;
    step_axis(svg, top, row);
    // One path for each shade, so that the map costs few elements.
    let mut shades: [String; 8] = Default::default();
    for (c, column) in counts.iter().enumerate() {
        let total: u32 = column.iter().sum();
        for (k, n) in column.iter().enumerate().filter(|(_, n)| **n > 0) {
            let shade = ((f64::from(*n) / f64::from(total)).sqrt() * 8.0).ceil().clamp(1.0, 8.0) as usize - 1;
            let (x, y) = (LEFT + COLUMN * c as f64, bottom - row * (k as f64 + 1.0));
            let _ = write!(shades[shade], "M{} {}h{COLUMN}v{}h-{COLUMN}z", Px(x), Px(y), Px(row - 1.0));
        }
    }
    for (i, d) in shades.iter().enumerate() {
        svg.path(&format!("shade shade-{}", i + 1), d);
    }
}

/// Labels of the seven rows.
fn step_axis(svg: &mut Svg, top: f64, row: f64) {
    for k in 0..STEPS {
        let y = top + row * (STEPS - k) as f64 - row / 2.0 + 4.0;
        match k {
            0 => svg.text("tick end", LEFT - 10.0, y, "\u{2212}90°"),
            3 => svg.text("tick end", LEFT - 10.0, y, "\u{2212}45°"),
            6 => svg.text("label label-hit end", LEFT - 10.0, y, "target"),
            _ => {}
        }
    }
}

/// Orientation as a line of steps, for a stretch in which steps can be seen.
pub(super) fn panel(
    svg: &mut Svg,
    axis: &TimeAxis,
    report: &SessionReport,
    digest: &Digest,
    (top, bottom): (f64, f64),
) {
    phase_bands(svg, axis, digest, top, bottom);
    axis.grid(svg, top, bottom);
    let row = (bottom - top) / STEPS as f64;
    step_axis(svg, top, row);
    let y = Scale::new((-STEP_DEG / 2.0, 90.0 + STEP_DEG / 2.0), (bottom, top));
    svg.line("limit limit-hit", LEFT, y.at(90.0), RIGHT, y.at(90.0));
    let mut d = String::new();
    let mut last: Option<(f64, f64)> = None;
    for frame in report.frames.iter().filter(|f| axis.shows(f.time_s, f.time_s)) {
        let x = axis.x(frame.time_s);
        let now = turned_deg(frame, report.target_deg).map(|t| y.at(t));
        let _ = match (last.filter(|l| x - l.0 <= gap_of(axis)), now) {
            (Some((_, before)), Some(now)) if before == now => Ok(()),
            (Some(_), Some(now)) => write!(d, "H{}V{}", Px(x), Px(now)),
            (None, Some(now)) => write!(d, "M{} {}h1", Px(x), Px(now)),
            (Some(_), None) => write!(d, "H{}", Px(x)),
            (None, None) => Ok(()),
        };
        last = now.map(|now| (x, now));
    }
    if let Some((x, _)) = last {
        let _ = write!(d, "H{}", Px(x));
    }
    svg.path("trace steps", &d);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(deg: f32) -> FrameRow {
        FrameRow { shown_deg: Some(deg), ..FrameRow::default() }
    }

    #[test]
    fn orientation_is_relative_to_the_target_and_modulo_a_turn() {
        assert_eq!(turned_deg(&shown(90.0), 90.0), Some(90.0));
        assert_eq!(turned_deg(&shown(0.0), 90.0), Some(0.0));
        assert_eq!(turned_deg(&shown(345.0), 30.0), Some(45.0));
        assert_eq!(turned_deg(&shown(f32::NAN), 90.0), None);
        assert_eq!(turned_deg(&FrameRow::default(), 90.0), None);
        assert_eq!((step(0.0), step(44.0), step(90.0)), (0, 3, 6));
    }

    #[test]
    fn shares_count_only_frames_with_a_grating() {
        let frames = vec![shown(90.0), shown(75.0), shown(75.0), FrameRow::default()];
        let report = SessionReport { frames, target_deg: 90.0, ..SessionReport::default() };
        assert_eq!(shares(&report), [0, 0, 0, 0, 0, 2, 1]);
    }
}

//! Brain motion: the shift of each frame in rows and columns, and how well the frame fitted the template.

use std::fmt::Write;

use maud::PreEscaped;

use super::super::data::{FrameRow, SessionReport};
use super::super::digest::Digest;
use super::{
    LEFT, Px, RIGHT, Scale, Svg, TimeAxis, WIDTH, gap_of, phase_bands, quantile, tick_label, ticks, trace_path,
};

/// Name, top, range of values, and the value of a frame.
type Panel = (&'static str, f64, (f64, f64), fn(&FrameRow) -> f32);

/// Three panels above one axis; `None` where no frame was registered.
pub(in super::super) fn motion(report: &SessionReport, digest: &Digest) -> Option<PreEscaped<String>> {
    let any = |value: fn(&FrameRow) -> f32| report.frames.iter().any(|f| value(f).is_finite());
    if !any(|f| f.dy_px) && !any(|f| f.dx_px) && !any(|f| f.score) {
        return None;
    }
    let axis = TimeAxis::new(digest.span_s);
    let mut svg = Svg::new(WIDTH, 322.0, "Shift in rows and columns and score of the fit over the session");
    // One scale for both directions, or the eye compares wrongly.
    let shifts = || report.frames.iter().flat_map(|f| [f.dy_px, f.dx_px]);
    let low = quantile(shifts(), 0.0).unwrap_or(0.0).min(-0.5);
    let high = quantile(shifts(), 1.0).unwrap_or(0.0).max(0.5);
    let margin = (high - low) * 0.06;
    let shift = (low - margin, high + margin);
    let score_low = quantile(report.frames.iter().map(|f| f.score), 0.0).unwrap_or(0.0);
    let score = (if score_low < 0.5 { score_low.clamp(-1.0, 0.0) } else { 0.5 }, 1.02);
    let panels: [Panel; 3] = [
        ("dy (rows), pixels", 24.0, shift, |f| f.dy_px),
        ("dx (columns), pixels", 126.0, shift, |f| f.dx_px),
        ("score of the fit", 228.0, score, |f| f.score),
    ];
    for (name, top, range, value) in panels {
        let bottom = top + 66.0;
        phase_bands(&mut svg, &axis, &quiet(digest), top, bottom);
        axis.grid(&mut svg, top, bottom);
        doubts(&mut svg, &axis, report, top, bottom);
        svg.text("panel", LEFT, top - 8.0, name);
        let y = Scale::new(range, (bottom, top));
        let marks = ticks(range.0, range.1, 4.5);
        for v in &marks {
            svg.line("grid", LEFT, y.at(*v), RIGHT, y.at(*v));
            svg.text("tick end", LEFT - 10.0, y.at(*v) + 4.0, &tick_label(*v, &marks));
        }
        let points = report.frames.iter().map(|f| (axis.x(f.time_s), y.clamped(f64::from(value(f)))));
        let finite = points.map(|(x, v)| (x, if v.is_finite() { v } else { f64::NAN }));
        svg.path("trace fine", &trace_path(finite, gap_of(&axis)));
    }
    axis.labels(&mut svg, 294.0);
    Some(svg.finish())
}

/// Only the baseline and the pauses are shaded.
fn quiet(digest: &Digest) -> Digest {
    use super::super::data::Phase;
    let mut quiet = digest.clone();
    quiet.runs.retain(|r| matches!(r.phase, Phase::Baseline | Phase::Paused));
    quiet
}

/// Doubted frames as ticks through the panel, one a column at most.
pub(super) fn doubts(svg: &mut Svg, axis: &TimeAxis, report: &SessionReport, top: f64, bottom: f64) {
    let mut d = String::new();
    let mut last = f64::NEG_INFINITY;
    for frame in report.frames.iter().filter(|f| f.doubted && axis.shows(f.time_s, f.time_s)) {
        let x = axis.x(frame.time_s);
        if x - last >= 0.8 {
            let _ = write!(d, "M{} {}V{}", Px(x), Px(top), Px(bottom));
            last = x;
        }
    }
    svg.path("doubt", &d);
}

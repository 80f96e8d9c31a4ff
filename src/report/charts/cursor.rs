//! The cursor z between its two limits: 0 (`range_low`, below it the aversive end) and `threshold - range_low` (the
//! target). A panel that both the whole session and the close-up draw.

use maud::PreEscaped;

use super::super::data::SessionReport;
use super::super::digest::Digest;
use super::{
    DENSE, LEFT, RIGHT, Scale, Svg, TimeAxis, WIDTH, envelope, gap_of, phase_bands, quantile, tick_label, ticks,
    trace_path,
};

/// Whether the session has a cursor at all.
pub(in super::super) fn exists(report: &SessionReport) -> bool {
    report.frames.iter().any(|f| f.cursor.is_finite())
}

/// The cursor at which the target is reached, where the calibration says so.
pub(in super::super) fn target(report: &SessionReport) -> Option<f64> {
    let c = report.calibration.as_ref()?;
    Some(c.threshold - c.range_low).filter(|t| t.is_finite() && *t > 0.0)
}

/// The whole session: the band between smallest and largest, and the mean.
pub(in super::super) fn cursor(report: &SessionReport, digest: &Digest) -> Option<PreEscaped<String>> {
    if !exists(report) {
        return None;
    }
    let axis = TimeAxis::new(digest.span_s);
    let (top, bottom) = (10.0, 190.0);
    let mut svg = Svg::new(WIDTH, bottom + 28.0, "The cursor over the session, with its range and threshold");
    panel(&mut svg, &axis, report, digest, (top, bottom));
    axis.labels(&mut svg, bottom);
    Some(svg.finish())
}

/// Rows of text on the right do not touch at this distance.
const LABELS_APART: f64 = 15.0;

/// Limits of the vertical scale: the samples that are shown (in a long stretch nearly all) and both limits of the task.
fn limits(axis: &TimeAxis, report: &SessionReport, dense: bool) -> (f64, f64) {
    let values = || report.frames.iter().filter(|f| axis.shows(f.time_s, f.time_s)).map(|f| f.cursor);
    let rare = if dense { 0.0002 } else { 0.0 };
    let low = quantile(values(), rare).unwrap_or(0.0).min(0.0);
    let high = quantile(values(), 1.0 - rare).unwrap_or(1.0).max(target(report).unwrap_or(0.0)).max(low + 1e-6);
    let margin = (high - low) * 0.08;
    (low - margin, high + margin)
}

/// Draws the panel with its own vertical axis and the limits labelled on the right.
pub(super) fn panel(
    svg: &mut Svg,
    axis: &TimeAxis,
    report: &SessionReport,
    digest: &Digest,
    (top, bottom): (f64, f64),
) {
    let shown = || report.frames.iter().filter(|f| axis.shows(f.time_s, f.time_s));
    let dense = shown().count() as f64 > DENSE * (RIGHT - LEFT);
    let limits = limits(axis, report, dense);
    let y = Scale::new(limits, (bottom, top));
    phase_bands(svg, axis, digest, top, bottom);
    axis.grid(svg, top, bottom);
    let marks = ticks(limits.0, limits.1, 4.0);
    for v in &marks {
        svg.line("grid", LEFT, y.at(*v), RIGHT, y.at(*v));
        svg.text("tick end", LEFT - 10.0, y.at(*v) + 4.0, &tick_label(*v, &marks));
    }
    let points = || shown().map(|f| (axis.x(f.time_s), y.clamped(f64::from(f.cursor))));
    if dense {
        let (band, mean) = envelope(points(), 2.0);
        svg.path("cursor-band", &band);
        svg.path("trace cursor", &mean);
    } else {
        svg.path("trace cursor", &trace_path(points(), gap_of(axis)));
    }
    // Where the limits are close, their labels are moved apart.
    let apart = target(report).map_or(0.0, |target| ((LABELS_APART - (y.at(0.0) - y.at(target))) / 2.0).max(0.0));
    if report.calibration.is_some() {
        svg.line("limit limit-aversive", LEFT, y.at(0.0), RIGHT, y.at(0.0));
        svg.text("label label-aversive", RIGHT + 10.0, y.at(0.0) + 4.0 + apart, "range low");
    }
    if let Some(target) = target(report) {
        svg.line("limit limit-hit", LEFT, y.at(target), RIGHT, y.at(target));
        svg.text("label label-hit", RIGHT + 10.0, y.at(target) + 4.0 - apart, "threshold");
    }
}

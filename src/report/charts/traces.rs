//! dF/F of the ensemble, one row for each cell, P+ above P-, all on one scale.

use maud::PreEscaped;

use super::super::data::{Role, SessionReport, Trace};
use super::super::digest::Digest;
use super::super::format;
use super::{
    DENSE, LEFT, RIGHT, Scale, Svg, TimeAxis, WIDTH, envelope, gap_of, phase_bands, quantile, reward_lines, role_class,
    role_name, trace_path,
};

/// More rows than this are not readable on a page.
pub(in super::super) const MOST_TRACES: usize = 48;
/// Rows that the largest transients may reach over those above.
const REACH_ROWS: f64 = 1.75;

/// Rows as they are drawn: top to bottom, with the scale that all share.
pub(super) struct Rows<'a> {
    pub traces: Vec<&'a Trace>,
    pub row: f64,
    /// Units of height for 1.0 of dF/F.
    gain: f64,
}

impl<'a> Rows<'a> {
    /// P+ first, then P-, then others. `None` where no trace has a sample.
    pub fn new(report: &'a SessionReport, row: f64) -> Option<Self> {
        let order = |role| match role {
            Role::Plus => 0,
            Role::Minus => 1,
            Role::Other => 2,
        };
        let mut traces: Vec<&Trace> = report.traces.iter().filter(|t| !t.dff.is_empty()).collect();
        traces.sort_by_key(|t| order(t.role));
        traces.truncate(MOST_TRACES);
        let peaks = traces
            .iter()
            .filter_map(|t| Some(quantile(t.dff.iter().copied(), 0.999)? - quantile(t.dff.iter().copied(), 0.2)?));
        let peak = shared_peak(peaks.collect())?;
        let gain = if peak > 1e-6 { row * 1.45 / peak } else { row };
        Some(Self { traces, row, gain })
    }

    pub fn height(&self) -> f64 {
        self.row * self.traces.len() as f64
    }

    /// Draws the rows below `top`, with names on the left and a scale bar on the right.
    pub fn draw(&self, svg: &mut Svg, axis: &TimeAxis, report: &SessionReport, top: f64) {
        let shown = report.frames.iter().filter(|f| axis.shows(f.time_s, f.time_s)).count();
        let dense = shown as f64 > DENSE * (RIGHT - LEFT);
        let mut previous = None;
        for (i, trace) in self.traces.iter().enumerate() {
            let foot = top + self.row * (i as f64 + 1.0) - 3.0;
            let rest = quantile(trace.dff.iter().copied(), 0.2).unwrap_or(0.0);
            let points =
                report.frames.iter().zip(&trace.dff).filter(|(f, _)| axis.shows(f.time_s, f.time_s)).map(|(f, v)| {
                    let rise = (f64::from(*v) - rest) * self.gain;
                    let rise =
                        if v.is_finite() { rise.clamp(-0.5 * self.row, REACH_ROWS * self.row) } else { f64::NAN };
                    (axis.x(f.time_s), foot - rise)
                });
            let line = if dense {
                let (band, mean) = envelope(points, 1.0);
                svg.path(&format!("envelope fill-{}", role_class(trace.role)), &band);
                mean
            } else {
                trace_path(points, gap_of(axis))
            };
            svg.path(&format!("trace line-{}", role_class(trace.role)), &line);
            let class = format!("label end label-{}", role_class(trace.role));
            svg.text(&class, LEFT - 10.0, foot + 2.0, &trace.roi_id.to_string());
            if previous != Some(trace.role) {
                svg.text(&format!("panel label-{}", role_class(trace.role)), 8.0, foot + 2.0, role_name(trace.role));
                previous = Some(trace.role);
            }
        }
        self.scale_bar(svg, top);
    }

    fn scale_bar(&self, svg: &mut Svg, top: f64) {
        let wanted = self.row * 1.5 / self.gain;
        let steps = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0];
        let value = steps.into_iter().rev().find(|s| *s <= wanted).unwrap_or(wanted);
        let foot = top + self.row * 2.0 - 3.0;
        let y = Scale::new((0.0, 1.0), (foot, foot - self.gain));
        svg.line("bar", RIGHT + 12.0, y.at(0.0), RIGHT + 12.0, y.at(value));
        let middle = y.at(value / 2.0);
        svg.text("tick", RIGHT + 20.0, middle - 2.0, &format!("{}\u{202f}%", format::significant(value * 100.0, 2)));
        svg.text("tick", RIGHT + 20.0, middle + 12.0, "\u{394}F/F");
    }
}

/// The peak that fills a row: the largest cell's, unless it stands far above its fellows. One cell whose F0 is near 0
/// must not flatten all others.
fn shared_peak(mut peaks: Vec<f64>) -> Option<f64> {
    peaks.sort_unstable_by(f64::total_cmp);
    let largest = *peaks.last()?;
    let upper_quarter = peaks[(peaks.len() - 1) * 3 / 4];
    Some(if upper_quarter > 0.0 { largest.min(1.5 * upper_quarter) } else { largest })
}

/// All cells over the whole session; `None` where there is nothing to draw.
pub(in super::super) fn traces(report: &SessionReport, digest: &Digest) -> Option<PreEscaped<String>> {
    let row = if report.traces.len() > 24 { 18.0 } else { 38.0 };
    let rows = Rows::new(report, row)?;
    let axis = TimeAxis::new(digest.span_s);
    // Room above for the first row's peaks.
    let top = 12.0 + 0.6 * row;
    let bottom = top + rows.height() + 6.0;
    let mut svg = Svg::new(WIDTH, bottom + 28.0, "dF/F of the ensemble's cells over the session");
    phase_bands(&mut svg, &axis, digest, 2.0, bottom);
    axis.grid(&mut svg, 2.0, bottom);
    reward_lines(&mut svg, &axis, digest, 2.0, bottom);
    rows.draw(&mut svg, &axis, report, top);
    axis.labels(&mut svg, bottom);
    Some(svg.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_cell_far_above_the_others_does_not_flatten_them() {
        assert_eq!(shared_peak(vec![3.0, 2.0, 3.5, 3.4]), Some(3.5));
        assert_eq!(shared_peak(vec![1.0, 2.0, 235.0, 2.0, 1.5]), Some(3.0));
        assert_eq!(shared_peak(vec![0.0, 0.0, 4.0, 0.0, 0.0]), Some(4.0));
        assert_eq!(shared_peak(vec![]), None);
    }
}

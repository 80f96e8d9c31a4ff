//! Latency from a frame to its decision: a histogram on two logarithmic axes, so that the tail can be seen.

use maud::PreEscaped;

use super::super::data::{LatencyHistogram, SessionReport, StageLatency};
use super::super::format;
use super::{LEFT, RIGHT, Scale, Svg, WIDTH};

const BINS_PER_DECADE: i32 = 20;

/// The end-to-end histogram: the recorder's, or one made from the rows of the frames.
pub(in super::super) fn histogram(report: &SessionReport) -> Option<LatencyHistogram> {
    if let Some(h) = &report.latency_histogram {
        let fits = h.edges_us.len() == h.counts.len() + 1;
        let rising = h.edges_us.windows(2).all(|w| w[0] < w[1]) && h.edges_us.iter().all(|e| e.is_finite());
        return (fits && rising && h.counts.iter().any(|c| *c > 0)).then(|| h.clone());
    }
    let bin = |v: f64| (v.max(0.1).log10() * f64::from(BINS_PER_DECADE)).floor() as i32;
    let values: Vec<f64> =
        report.frames.iter().filter_map(|f| f.latency_us).filter(|v| v.is_finite()).map(f64::from).collect();
    let (first, last) = values.iter().fold((i32::MAX, i32::MIN), |(a, b), v| (a.min(bin(*v)), b.max(bin(*v))));
    if first > last {
        return None;
    }
    let mut counts = vec![0; (last - first + 1) as usize];
    for v in values {
        counts[(bin(v) - first) as usize] += 1;
    }
    let edges_us = (first..=last + 1).map(|k| 10.0_f64.powf(f64::from(k) / f64::from(BINS_PER_DECADE))).collect();
    Some(LatencyHistogram { edges_us, counts })
}

/// The session's chart; `None` where nothing was measured.
pub(in super::super) fn chart(report: &SessionReport) -> Option<PreEscaped<String>> {
    let what = "from the frame's last byte to its decision";
    drawn(&histogram(report)?, report.latency.as_ref(), what)
}

/// One distribution with its percentiles; `what` was measured. `None` where nothing was.
pub(in super::super) fn drawn(
    h: &LatencyHistogram,
    summary: Option<&StageLatency>,
    what: &str,
) -> Option<PreEscaped<String>> {
    let used: Vec<usize> = (0..h.counts.len()).filter(|k| h.counts[*k] > 0).collect();
    let (first, last) = (*used.first()?, *used.last()?);
    let log = |us: f64| us.max(0.1).log10();
    // Room on both sides, to a third of a decade.
    let range = (log(h.edges_us[first]) - 0.12, log(h.edges_us[last + 1]) + 0.12);
    let x = Scale::new(range, (LEFT, RIGHT));
    let most = h.counts.iter().copied().max().unwrap_or(1) as f64;
    let decades = most.log10().ceil().max(1.0);
    let (top, bottom) = (62.0, 222.0);
    // Half a decade below 1, so that a single frame has a height.
    let y = Scale::new((-0.5, decades), (bottom, top));
    let mut svg = Svg::new(WIDTH, bottom + 44.0, &format!("Histogram of the latency {what}"));
    for k in 0..=decades as i32 {
        let v = f64::from(k);
        svg.line("grid", LEFT, y.at(v), RIGHT, y.at(v));
        svg.text("tick end", LEFT - 10.0, y.at(v) + 4.0, &format::count(10_u64.saturating_pow(k as u32)));
    }
    svg.text("panel", LEFT, top - 46.0, "Frames (logarithmic)");
    time_ticks(&mut svg, &x, range, bottom, what);
    for k in used {
        let (a, b) = (x.at(log(h.edges_us[k])), x.at(log(h.edges_us[k + 1])));
        let height = bottom - y.at((h.counts[k] as f64).log10());
        let title = format!(
            "{} to {}: {}",
            format::latency(h.edges_us[k]),
            format::latency(h.edges_us[k + 1]),
            format::count(h.counts[k])
        );
        svg.titled_rect("fill-faint", [a + 0.4, bottom - height, (b - a - 0.8).max(0.8), height], &title);
    }
    if let Some(s) = summary {
        let marks = [("p50", s.p50_us), ("p99", s.p99_us), ("p99.9", s.p999_us), ("largest", s.max_us)];
        percentiles(&mut svg, &x, &marks, (top, bottom));
    }
    Some(svg.finish())
}

/// Decades labelled; 2 and 5 between them too where there is room.
fn time_ticks(svg: &mut Svg, x: &Scale, range: (f64, f64), bottom: f64, what: &str) {
    svg.line("axis", LEFT, bottom, RIGHT, bottom);
    let roomy = range.1 - range.0 < 3.2;
    for decade in range.0.floor() as i32..=range.1.ceil() as i32 {
        for digit in 1..10 {
            let us = f64::from(digit) * 10.0_f64.powi(decade);
            if (range.0..=range.1).contains(&us.log10()) {
                let labelled = digit == 1 || (roomy && (digit == 2 || digit == 5));
                let at = x.at(us.log10());
                svg.line("axis", at, bottom, at, bottom + if labelled { 6.0 } else { 3.0 });
                if labelled {
                    svg.text("tick mid", at, bottom + 19.0, &short(us));
                }
            }
        }
    }
    svg.text("tick mid", (LEFT + RIGHT) / 2.0, bottom + 38.0, what);
}

/// A round latency without needless digits.
fn short(us: f64) -> String {
    let (value, unit) = if us < 1e3 {
        (us, "µs")
    } else if us < 1e6 {
        (us / 1e3, "ms")
    } else {
        (us / 1e6, "s")
    };
    format!("{}\u{202f}{unit}", format::significant(value, 1))
}

/// Marks on two levels, so that neighbours do not write over each other.
fn percentiles(svg: &mut Svg, x: &Scale, marks: &[(&str, f64)], (top, bottom): (f64, f64)) {
    let mut ends = [f64::NEG_INFINITY; 3];
    for (name, us) in marks.iter().filter(|m| m.1.is_finite()) {
        let at = x.clamped(us.max(0.1).log10());
        let text = format!("{name} {}", format::latency(*us));
        let half = 3.6 * text.chars().count() as f64;
        let left = (at - half).min(RIGHT + 84.0 - 2.0 * half);
        let level = ends.iter().position(|e| *e + 10.0 <= left).unwrap_or(2);
        ends[level] = left + 2.0 * half;
        let y = top - 8.0 - 16.0 * level as f64;
        svg.line("limit", at, y + 4.0, at, bottom);
        svg.text("label mid", left + half, y, &text);
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::data::FrameRow;
    use super::*;

    #[test]
    fn a_histogram_is_made_from_the_frames_where_none_was_kept() {
        let row = |us: f32| FrameRow { latency_us: Some(us), ..FrameRow::default() };
        let frames = vec![row(100.0), row(105.0), row(1000.0), row(f32::NAN), FrameRow::default()];
        let report = SessionReport { frames, ..SessionReport::default() };
        let h = histogram(&report).unwrap();
        assert_eq!(h.counts.iter().sum::<u64>(), 3);
        assert_eq!(h.edges_us.len(), h.counts.len() + 1);
        assert!(h.edges_us[0] <= 100.0 && *h.edges_us.last().unwrap() > 1000.0);
    }

    #[test]
    fn a_histogram_whose_edges_do_not_fit_is_not_drawn() {
        let latency_histogram = Some(LatencyHistogram { edges_us: vec![1.0, 2.0], counts: vec![3, 4] });
        assert!(chart(&SessionReport { latency_histogram, ..SessionReport::default() }).is_none());
    }
}

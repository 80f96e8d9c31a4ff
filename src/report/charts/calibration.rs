//! The distribution of x in the baseline, with what the calibration took from it.

use std::fmt::Write;

use maud::PreEscaped;

use super::super::data::Calibration;
use super::super::format;
use super::{LEFT, Px, RIGHT, Scale, Svg, WIDTH, quantile, tick_label, ticks};

const BINS: usize = 90;

/// Histogram of the baseline's x; `None` where it was not kept.
pub(in super::super) fn distribution(calibration: &Calibration) -> Option<PreEscaped<String>> {
    let values = || calibration.baseline_x.iter().copied();
    let n = values().filter(|v| v.is_finite()).count();
    let ends = [calibration.range_low, calibration.threshold].into_iter().filter(|v| v.is_finite());
    let low = ends.clone().fold(quantile(values(), 0.0)?, f64::min);
    let high = ends.fold(quantile(values(), 1.0)?, f64::max);
    let margin = ((high - low) * 0.04).max(1e-6);
    let x = Scale::new((low - margin, high + margin), (LEFT, RIGHT));
    let width = (high - low + 2.0 * margin) / BINS as f64;
    let mut bins = [0_u64; BINS];
    for v in values().filter(|v| v.is_finite()) {
        let k = ((f64::from(v) - low + margin) / width).floor().clamp(0.0, BINS as f64 - 1.0);
        bins[k as usize] += 1;
    }
    let most = bins.iter().copied().max().unwrap_or(1).max(1) as f64;
    let (top, bottom) = (54.0, 206.0);
    let y = Scale::new((0.0, most * 1.06), (bottom, top));
    let mut svg = Svg::new(WIDTH, bottom + 44.0, "Distribution of x in the baseline");
    for (k, count) in bins.iter().enumerate().filter(|(_, c)| **c > 0) {
        let from = low - margin + width * k as f64;
        let title = format!(
            "x {} to {}: {}",
            format::significant(from, 3),
            format::significant(from + width, 3),
            format::count(*count)
        );
        let (left, right) = (x.at(from), x.at(from + width));
        let height = bottom - y.at(*count as f64);
        svg.titled_rect("fill-faint", [left + 0.4, bottom - height, right - left - 0.8, height], &title);
    }
    normal(&mut svg, calibration, &x, &y, n as f64 * width);
    svg.line("axis", LEFT, bottom, RIGHT, bottom);
    let marks = ticks(low - margin, high + margin, 9.0);
    for v in &marks {
        svg.line("axis", x.at(*v), bottom, x.at(*v), bottom + 4.0);
        svg.text("tick mid", x.at(*v), bottom + 17.0, &tick_label(*v, &marks));
    }
    svg.text(
        "tick mid",
        (LEFT + RIGHT) / 2.0,
        bottom + 36.0,
        "x = mean \u{394}F/F of P+ minus mean \u{394}F/F of P\u{2212}",
    );
    svg.text("tick end", LEFT - 10.0, top + 10.0, "frames");
    for (value, class, label_class, name) in [
        (calibration.range_low, "limit limit-aversive", "label-aversive", "range low"),
        (calibration.mu_half, "limit", "label-faint", "\u{3bc} of the lower half"),
        (calibration.threshold, "limit limit-hit", "label-hit", "threshold"),
    ] {
        if value.is_finite() {
            mark(&mut svg, &x, value, (top, bottom), [class, label_class, name]);
        }
    }
    Some(svg.finish())
}

fn mark(svg: &mut Svg, x: &Scale, value: f64, (top, bottom): (f64, f64), [line, label, name]: [&str; 3]) {
    let at = x.at(value);
    // The middle one stands a line higher, so that it may be as close to its neighbours as it likes.
    let rise = if line == "limit" { 16.0 } else { 0.0 };
    svg.line(line, at, top - 10.0 - rise, at, bottom);
    let anchor = if at < LEFT + 60.0 {
        ""
    } else if at > RIGHT - 60.0 {
        " end"
    } else {
        " mid"
    };
    svg.text(&format!("label {label}{anchor}"), at, top - 16.0 - rise, &format!("{name} {}", format::fixed(value, 2)));
}

/// The normal curve of the mirrored lower half, scaled to the counts.
fn normal(svg: &mut Svg, c: &Calibration, x: &Scale, y: &Scale, area: f64) {
    if !(c.mu_half.is_finite() && c.sigma_half.is_finite() && c.sigma_half > 0.0) {
        return;
    }
    let mut d = String::new();
    for i in 0..=120 {
        let z = -3.5 + 7.0 * f64::from(i) / 120.0;
        let density = (-0.5 * z * z).exp() / (c.sigma_half * (2.0 * std::f64::consts::PI).sqrt());
        let px = x.at(c.mu_half + z * c.sigma_half);
        if (LEFT..=RIGHT).contains(&px) {
            let _ = write!(d, "{}{} {}", if d.is_empty() { 'M' } else { 'L' }, Px(px), Px(y.clamped(density * area)));
        }
    }
    svg.path("trace cursor", &d);
}

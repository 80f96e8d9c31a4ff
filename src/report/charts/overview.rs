//! The session at a glance: one mark for each trial, running fractions, rewards a minute.

use std::fmt::Write;

use maud::PreEscaped;

use super::super::data::{Outcome, SessionReport, TrialRow};
use super::super::digest::Digest;
use super::super::format;
use super::{LEFT, Px, RIGHT, Scale, Svg, TimeAxis, WIDTH, multiples, phase_bands, tick_label, ticks};

const LANE: f64 = 20.0;

/// How many trials the running fractions look back.
pub(in super::super) fn look_back(closed: u64) -> usize {
    (closed / 3).clamp(5, 20) as usize
}

/// Outcome raster, running fractions and rewards a minute, above one axis.
pub(in super::super) fn overview(report: &SessionReport, digest: &Digest) -> PreEscaped<String> {
    let axis = TimeAxis::new(digest.span_s);
    let mut svg = Svg::new(WIDTH, 372.0, "Outcomes of trials, running fractions and rewards a minute over the session");
    let (raster, fractions, rewards) = (26.0, 122.0, 268.0);
    svg.text("panel", LEFT, raster - 10.0, "Trials");
    svg.text("panel", LEFT, fractions - 10.0, "Fraction of the last trials");
    svg.text("panel", LEFT, rewards - 10.0, "Rewards a minute");
    for (top, bottom) in [(raster, raster + 3.0 * LANE), (fractions, fractions + 110.0), (rewards, rewards + 70.0)] {
        baseline_band(&mut svg, &axis, digest, top, bottom);
        axis.grid(&mut svg, top, bottom);
    }
    lanes(&mut svg, &axis, &report.trials, digest, raster);
    running(&mut svg, &axis, report, digest, (fractions, fractions + 110.0));
    rate(&mut svg, &axis, digest, (rewards, rewards + 70.0));
    axis.labels(&mut svg, rewards + 70.0);
    svg.finish()
}

/// Only the baseline is shaded here; the phases of single trials are too thin.
fn baseline_band(svg: &mut Svg, axis: &TimeAxis, digest: &Digest, top: f64, bottom: f64) {
    let mut quiet = digest.clone();
    quiet.runs.retain(|r| matches!(r.phase, super::super::data::Phase::Baseline | super::super::data::Phase::Paused));
    phase_bands(svg, axis, &quiet, top, bottom);
}

fn lanes(svg: &mut Svg, axis: &TimeAxis, trials: &[TrialRow], digest: &Digest, top: f64) {
    let n = digest.outcomes;
    let rows = [
        (Outcome::Hit, "hit", "fill-hit", n.hit),
        (Outcome::Miss, "miss", "fill-miss", n.miss),
        (Outcome::Aversive, "aversive", "fill-aversive", n.aversive),
    ];
    for (i, (outcome, name, class, count)) in rows.into_iter().enumerate() {
        let y = top + LANE * i as f64;
        svg.line("grid", LEFT, y + LANE / 2.0, RIGHT, y + LANE / 2.0);
        svg.text("label end", LEFT - 10.0, y + LANE / 2.0 + 4.0, name);
        svg.text("label", RIGHT + 10.0, y + LANE / 2.0 + 4.0, &format::count(count));
        let drawn = trials.iter().filter(|t| t.outcome == outcome && t.start_s.is_finite() && t.end_s.is_finite());
        for trial in drawn.filter(|t| axis.shows(t.start_s, t.end_s)) {
            let (x, width) = axis.stretch(trial.start_s, trial.end_s);
            let title = format!(
                "trial {}: {name}, {} to {} ({})",
                trial.number,
                format::clock(trial.start_s),
                format::clock(trial.end_s),
                format::duration(trial.end_s - trial.start_s)
            );
            // A sliver of ground keeps neighbours apart.
            svg.titled_rect(class, [x, y + 3.0, (width - 0.6).max(1.2), LANE - 6.0], &title);
        }
    }
}

fn running(svg: &mut Svg, axis: &TimeAxis, report: &SessionReport, digest: &Digest, (top, bottom): (f64, f64)) {
    let y = Scale::new((0.0, 1.0), (bottom, top));
    for v in [0.0, 0.5, 1.0] {
        svg.line(if v == 0.0 { "axis" } else { "grid" }, LEFT, y.at(v), RIGHT, y.at(v));
        svg.text("tick end", LEFT - 10.0, y.at(v) + 4.0, &format!("{:.0}\u{202f}%", v * 100.0));
    }
    let mut ends: Vec<(f64, &str)> = Vec::new();
    if let Some(chance) = report.calibration.as_ref().map(|c| c.chance_fraction).filter(|c| (0.0..=1.0).contains(c)) {
        svg.line("chance", LEFT, y.at(chance), RIGHT, y.at(chance));
        ends.push((y.at(chance), "label-faint chance"));
    }
    let look_back = look_back(digest.outcomes.closed());
    let closed: Vec<&TrialRow> =
        report.trials.iter().filter(|t| t.outcome != Outcome::Open && t.end_s.is_finite()).collect();
    for (outcome, line, label) in
        [(Outcome::Aversive, "line-aversive", "label-aversive aversive"), (Outcome::Hit, "line-hit", "label-hit hit")]
    {
        let mut d = String::new();
        let mut last = 0.0;
        for (i, trial) in closed.iter().enumerate().skip(look_back.min(closed.len()).saturating_sub(1)) {
            let recent = &closed[(i + 1).saturating_sub(look_back)..=i];
            last = recent.iter().filter(|t| t.outcome == outcome).count() as f64 / recent.len() as f64;
            let (px, py) = (Px(axis.x(trial.end_s)), Px(y.at(last)));
            let _ = if d.is_empty() { write!(d, "M{px} {py}h0") } else { write!(d, "H{px}V{py}") };
        }
        if !d.is_empty() {
            let _ = write!(d, "H{}", Px(RIGHT));
            ends.push((y.at(last), label));
        }
        svg.path(line, &d);
    }
    direct_labels(svg, ends, top, bottom);
}

/// Labels at the right end of their lines, moved apart where they would touch.
fn direct_labels(svg: &mut Svg, mut ends: Vec<(f64, &str)>, top: f64, bottom: f64) {
    const APART: f64 = 14.0;
    ends.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut floor = top - APART;
    for end in &mut ends {
        end.0 = end.0.max(floor + APART);
        floor = end.0;
    }
    let mut ceiling = bottom + APART;
    for end in ends.iter_mut().rev() {
        end.0 = end.0.min(ceiling - APART);
        ceiling = end.0;
    }
    for (y, label) in ends {
        let (class, text) = label.split_once(' ').unwrap_or(("label", label));
        svg.text(&format!("label {class}"), RIGHT + 10.0, y + 4.0, text);
    }
}

fn rate(svg: &mut Svg, axis: &TimeAxis, digest: &Digest, (top, bottom): (f64, f64)) {
    let length = axis.span_s.1 - axis.span_s.0;
    let bin_s = if length <= 180.0 {
        10.0
    } else {
        [60.0, 120.0, 300.0, 600.0, 1800.0].into_iter().find(|b| length / b <= 120.0).unwrap_or(3600.0)
    };
    let starts = multiples((axis.span_s.0 / bin_s).floor() * bin_s, axis.span_s.1, bin_s);
    let bins: Vec<(f64, f64, usize)> = starts
        .iter()
        .map(|&from| {
            (from, from + bin_s, digest.rewards_s.iter().filter(|t| **t >= from && **t < from + bin_s).count())
        })
        .collect();
    // The first and the last bin may be cut by the session: what was in them counts for the time that they had.
    let rates: Vec<(f64, f64, f64)> = bins
        .iter()
        .map(|&(from, to, n)| {
            let (a, b) = (from.max(axis.span_s.0), to.min(axis.span_s.1));
            (a, b, n as f64 * 60.0 / (b - a).max(bin_s / 3.0))
        })
        .collect();
    let most = rates.iter().map(|r| r.2).fold(1.0, f64::max);
    let y = Scale::new((0.0, most * 1.05), (bottom, top));
    let marks = ticks(0.0, most * 1.05, 3.0);
    for v in &marks {
        svg.line("grid", LEFT, y.at(*v), RIGHT, y.at(*v));
        svg.text("tick end", LEFT - 10.0, y.at(*v) + 4.0, &tick_label(*v, &marks));
    }
    for (from, to, per_minute) in rates.into_iter().filter(|r| r.2 > 0.0) {
        let (x, width) = axis.stretch(from, to);
        let title =
            format!("{} to {}: {} a minute", format::clock(from), format::clock(to), format::fixed(per_minute, 1));
        svg.titled_rect("fill-hit", [x + 0.5, y.at(per_minute), width - 1.0, bottom - y.at(per_minute)], &title);
    }
}

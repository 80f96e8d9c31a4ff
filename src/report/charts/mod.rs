//! Charts as inline SVG, composed by hand from a few parts: a canvas, a linear scale, ticks, a decimated line.
//!
//! All charts over time share [`LEFT`] and [`RIGHT`], so that the same instant stands at the same place in every
//! figure of the page. Colours are CSS classes (`style.css`), so that light, dark and print need one drawing.

pub(super) mod anatomy;
pub(super) mod calibration;
pub(super) mod closeup;
pub(super) mod cursor;
pub(super) mod grating;
pub(super) mod latency;
pub(super) mod motion;
pub(super) mod overview;
mod svg;
pub(super) mod traces;

use std::fmt::Write;

use super::data::{Phase, Role};
use super::digest::Digest;
use super::format;
use svg::{Px, Svg, escape};

/// Width of a full figure, in its own units (about one CSS pixel on a 1280 px screen).
pub(super) const WIDTH: f64 = 1120.0;
/// Where the plots begin and end.
pub(super) const LEFT: f64 = 92.0;
pub(super) const RIGHT: f64 = WIDTH - 92.0;

/// Samples in a unit of width beyond which a line would fill its panel, and a band with its mean is drawn instead.
pub(super) const DENSE: f64 = 3.0;

/// A linear map from values to coordinates.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale {
    from: (f64, f64),
    to: (f64, f64),
}

impl Scale {
    /// Maps `from` onto `to`; an empty `from` is widened.
    pub fn new(from: (f64, f64), to: (f64, f64)) -> Self {
        let from = if from.1 > from.0 { from } else { (from.0 - 0.5, from.0 + 0.5) };
        Self { from, to }
    }

    pub fn at(&self, v: f64) -> f64 {
        self.to.0 + (v - self.from.0) / (self.from.1 - self.from.0) * (self.to.1 - self.to.0)
    }

    /// Like `at`, but stays inside.
    pub fn clamped(&self, v: f64) -> f64 {
        if v.is_nan() { f64::NAN } else { self.at(v.clamp(self.from.0, self.from.1)) }
    }

    /// Coordinates for one unit, signed.
    pub fn per_unit(&self) -> f64 {
        (self.to.1 - self.to.0) / (self.from.1 - self.from.0)
    }
}

/// Round values between two ends, about `wanted` of them.
pub(super) fn ticks(from: f64, to: f64, wanted: f64) -> Vec<f64> {
    let raw = (to - from) / wanted.max(1.0);
    if !(raw.is_finite() && raw > 0.0) {
        return Vec::new();
    }
    let power = 10.0_f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|s| *s >= raw * 0.999).unwrap_or(raw);
    multiples(from, to, step)
}

/// Multiples of `step` between two ends.
pub(super) fn multiples(from: f64, to: f64, step: f64) -> Vec<f64> {
    let first = (from / step - 1e-9).ceil();
    (0..200).map(|i| (first + f64::from(i)) * step).take_while(|v| *v <= to + step * 1e-9).collect()
}

/// As many decimals as the distance of ticks asks for.
pub(super) fn tick_label(v: f64, ticks: &[f64]) -> String {
    let step = if ticks.len() > 1 { ticks[1] - ticks[0] } else { v.abs().max(1.0) };
    format::fixed(v, (-(step.log10() + 1e-9).floor()).clamp(0.0, 6.0) as usize)
}

/// A horizontal axis of time.
pub(super) struct TimeAxis {
    pub span_s: (f64, f64),
    pub scale: Scale,
}

impl TimeAxis {
    pub fn new(span_s: (f64, f64)) -> Self {
        Self { span_s, scale: Scale::new(span_s, (LEFT, RIGHT)) }
    }

    pub fn x(&self, time_s: f64) -> f64 {
        self.scale.at(time_s)
    }

    /// Whether any of the stretch is on the axis.
    pub fn shows(&self, from_s: f64, to_s: f64) -> bool {
        to_s >= self.span_s.0 && from_s <= self.span_s.1
    }

    /// Left edge and width of a stretch, cut to the axis.
    pub fn stretch(&self, from_s: f64, to_s: f64) -> (f64, f64) {
        let (a, b) = (self.scale.clamped(from_s), self.scale.clamped(to_s));
        (a, (b - a).max(0.0))
    }

    fn ticks(&self) -> Vec<f64> {
        const STEPS: [f64; 14] =
            [1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0, 7200.0];
        let raw = (self.span_s.1 - self.span_s.0) / 11.0;
        match STEPS.into_iter().find(|s| *s >= raw) {
            Some(step) if self.span_s.1 - self.span_s.0 >= 4.0 => multiples(self.span_s.0, self.span_s.1, step),
            _ => ticks(self.span_s.0, self.span_s.1, 8.0),
        }
    }

    /// Faint vertical lines through a panel.
    pub fn grid(&self, svg: &mut Svg, top: f64, bottom: f64) {
        for t in self.ticks() {
            svg.line("grid", self.x(t), top, self.x(t), bottom);
        }
    }

    /// The axis below the last panel, labelled.
    pub fn labels(&self, svg: &mut Svg, y: f64) {
        svg.line("axis", LEFT, y, RIGHT, y);
        let ticks = self.ticks();
        let short = self.span_s.1 - self.span_s.0 < 4.0;
        for t in &ticks {
            svg.line("axis", self.x(*t), y, self.x(*t), y + 4.0);
            let label = if short { tick_label(*t, &ticks) } else { format::clock(*t) };
            svg.text("tick mid", self.x(*t), y + 17.0, &label);
        }
        let unit = if short {
            "s"
        } else if self.span_s.1 >= 3600.0 {
            "h:min:s"
        } else {
            "min:s"
        };
        svg.text("tick", RIGHT + 26.0, y + 17.0, unit);
    }
}

/// A line that leaves gaps at values that are not finite and at jumps along x, and that draws no more than the
/// smallest and the largest sample of each column of a unit's width.
pub(super) fn trace_path(points: impl Iterator<Item = (f64, f64)>, gap: f64) -> String {
    let mut pen = Pen::default();
    let mut column: Option<Column> = None;
    let mut last_x = f64::NEG_INFINITY;
    for (x, y) in points.filter(|p| p.0.is_finite()) {
        let lift = x - last_x > gap || !y.is_finite();
        last_x = x;
        if let Some(c) = column.take_if(|c| lift || c.key != x.floor()) {
            c.draw(&mut pen);
        }
        if lift {
            pen.lift();
        }
        if y.is_finite() {
            match &mut column {
                Some(c) => c.add(x, y),
                None => column = Some(Column { key: x.floor(), low: (x, y), high: (x, y) }),
            }
        }
    }
    if let Some(c) = column {
        c.draw(&mut pen);
    }
    pen.lift();
    pen.d
}

/// Writes the data of a path.
#[derive(Default)]
struct Pen {
    d: String,
    /// Points since the pen was set down.
    points: u32,
}

impl Pen {
    fn to(&mut self, (x, y): (f64, f64)) {
        let _ = write!(self.d, "{}{} {}", if self.points == 0 { 'M' } else { 'L' }, Px(x), Px(y));
        self.points += 1;
    }

    fn lift(&mut self) {
        if self.points == 1 {
            // A sample alone between gaps is a point: a line of no length with round caps.
            self.d.push_str("h0");
        }
        self.points = 0;
    }
}

/// The samples of one column: where the smallest and the largest are.
struct Column {
    key: f64,
    low: (f64, f64),
    high: (f64, f64),
}

impl Column {
    fn add(&mut self, x: f64, y: f64) {
        if y < self.low.1 {
            self.low = (x, y);
        }
        if y > self.high.1 {
            self.high = (x, y);
        }
    }

    fn draw(self, pen: &mut Pen) {
        let (first, second) = if self.low.0 <= self.high.0 { (self.low, self.high) } else { (self.high, self.low) };
        pen.to(first);
        if second != first {
            pen.to(second);
        }
    }
}

/// The band between the smallest and the largest sample of each column of `width`, and the line of their means.
pub(super) fn envelope(points: impl Iterator<Item = (f64, f64)>, width: f64) -> (String, String) {
    let mut columns: Vec<(f64, f64, f64, f64, f64)> = Vec::new(); // key, low, high, sum, n
    for (x, y) in points.filter(|p| p.0.is_finite() && p.1.is_finite()) {
        let key = (x / width).floor();
        match columns.last_mut() {
            Some(c) if c.0 == key => *c = (key, c.1.min(y), c.2.max(y), c.3 + y, c.4 + 1.0),
            _ => columns.push((key, y, y, y, 1.0)),
        }
    }
    let (mut band, mut line) = (String::new(), String::new());
    // The last column may begin at the plot's right edge.
    let middle = |key: f64| ((key + 0.5) * width).min(RIGHT);
    for part in columns.chunk_by(|a, b| b.0 - a.0 <= 2.0) {
        for (i, c) in part.iter().enumerate() {
            let (x, command) = (Px(middle(c.0)), if i == 0 { 'M' } else { 'L' });
            let _ = write!(band, "{command}{x} {}", Px(c.1));
            let _ = write!(line, "{command}{x} {}", Px(c.3 / c.4));
        }
        for c in part.iter().rev() {
            let _ = write!(band, "L{} {}", Px(middle(c.0)), Px(c.2));
        }
        band.push('z');
    }
    (band, line)
}

/// The value below which a fraction `q` of the finite values lies.
pub(super) fn quantile(values: impl Iterator<Item = f32>, q: f64) -> Option<f64> {
    let mut finite: Vec<f32> = values.filter(|v| v.is_finite()).collect();
    if finite.is_empty() {
        return None;
    }
    let k = ((finite.len() - 1) as f64 * q.clamp(0.0, 1.0)).round() as usize;
    Some(f64::from(*finite.select_nth_unstable_by(k, f32::total_cmp).1))
}

/// The same for a slice.
pub(super) fn quantile_of(values: &[f32], q: f64) -> Option<f64> {
    quantile(values.iter().copied(), q)
}

/// The horizontal distance beyond which two samples are not joined: half a second, or three units.
pub(super) fn gap_of(axis: &TimeAxis) -> f64 {
    (axis.scale.per_unit() * 0.5).max(3.0)
}

/// A phase's class of shading, or none where the ground is left as it is.
pub(super) fn phase_class(phase: Phase) -> Option<&'static str> {
    match phase {
        Phase::Baseline => Some("band-baseline"),
        Phase::Start | Phase::Iti => Some("band-rest"),
        Phase::HitHold => Some("band-hit"),
        Phase::AversiveHold => Some("band-aversive"),
        Phase::Paused => Some("band-paused"),
        Phase::Idle | Phase::Control => None,
    }
}

/// Shades phases behind a panel; stretches that are too thin to see are left out.
pub(super) fn phase_bands(svg: &mut Svg, axis: &TimeAxis, digest: &Digest, top: f64, bottom: f64) {
    for run in digest.runs.iter().filter(|r| axis.shows(r.start_s, r.end_s)) {
        let (x, width) = axis.stretch(run.start_s, run.end_s);
        if let Some(class) = phase_class(run.phase).filter(|_| width >= 0.4) {
            svg.rect(class, x, top, width, bottom - top);
        }
    }
}

/// Thin lines through a panel at the rewards, one a column at most.
pub(super) fn reward_lines(svg: &mut Svg, axis: &TimeAxis, digest: &Digest, top: f64, bottom: f64) {
    let mut drawn = 0;
    let mut d = String::new();
    let mut last = f64::NEG_INFINITY;
    for t in digest.rewards_s.iter().filter(|t| axis.shows(**t, **t)) {
        let x = axis.x(*t);
        if x - last >= 1.0 {
            let _ = write!(d, "M{} {}V{}", Px(x), Px(top), Px(bottom));
            last = x;
            drawn += 1;
        }
    }
    // Many lines would hide what they mark.
    svg.path(if drawn > 16 { "reward reward-faint" } else { "reward" }, &d);
}

/// The class that colours a role.
pub(super) fn role_class(role: Role) -> &'static str {
    match role {
        Role::Plus => "plus",
        Role::Minus => "minus",
        Role::Other => "other",
    }
}

/// The role as the field writes it.
pub(super) fn role_name(role: Role) -> &'static str {
    match role {
        Role::Plus => "P+",
        Role::Minus => "P\u{2212}",
        Role::Other => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(ticks(-0.3, 2.2, 5.0), [0.0, 0.5, 1.0, 1.5, 2.0]);
        assert_eq!(ticks(1.0, 1.0, 5.0), [0.0; 0]);
        assert_eq!(ticks(0.0, f64::INFINITY, 5.0), [0.0; 0]);
        assert_eq!(tick_label(0.5, &[0.0, 0.5]), "0.5");
        assert_eq!(tick_label(20.0, &[0.0, 20.0]), "20");
    }

    #[test]
    fn a_value_that_is_not_finite_is_a_gap() {
        let ys = [1.0, 2.0, f64::NAN, 4.0, f64::INFINITY, 6.0, 7.0];
        let d = trace_path(ys.into_iter().enumerate().map(|(i, y)| (i as f64, y)), 5.0);
        assert_eq!(d, "M0 1L1 2M3 4h0M5 6L6 7");
    }

    #[test]
    fn a_jump_in_time_is_a_gap() {
        let d = trace_path([(0.0, 1.0), (1.0, 1.0), (9.0, 1.0), (10.0, 2.0)].into_iter(), 5.0);
        assert_eq!(d, "M0 1L1 1M9 1L10 2");
    }

    #[test]
    fn decimation_keeps_the_extremes_of_each_column() {
        let points = (0..100_000).map(|i| (f64::from(i) / 1000.0, if i == 54_321 { 99.0 } else { f64::from(i % 7) }));
        let d = trace_path(points, 5.0);
        assert!(d.contains(" 99"), "the one peak is drawn");
        assert_eq!(d.matches(['M', 'L']).count(), 200, "two points in each of 100 columns");
    }

    #[test]
    fn a_quantile_ignores_what_is_not_finite() {
        assert_eq!(quantile([3.0, f32::NAN, 1.0, 2.0, f32::INFINITY].into_iter(), 0.5), Some(2.0));
        assert_eq!(quantile(std::iter::empty(), 0.5), None);
    }
}

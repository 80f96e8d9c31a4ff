//! What several parts of the page need to know of a session, computed once.

use super::data::{Outcome, Phase, SessionReport};

/// Seconds that the close-up shows.
const WINDOW_S: f64 = 60.0;

/// A stretch of frames in one phase.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct PhaseRun {
    pub phase: Phase,
    pub start_s: f64,
    pub end_s: f64,
}

/// Trials by outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Outcomes {
    pub hit: u64,
    pub aversive: u64,
    pub miss: u64,
    pub open: u64,
}

impl Outcomes {
    /// Trials that ended.
    pub fn closed(self) -> u64 {
        self.hit + self.aversive + self.miss
    }
}

/// The session's numbers.
#[derive(Debug, Clone)]
pub(super) struct Digest {
    /// First and last time of the session's axis, in seconds; the second is always larger.
    pub span_s: (f64, f64),
    /// The stretch that is shown in detail.
    pub window_s: (f64, f64),
    pub outcomes: Outcomes,
    pub runs: Vec<PhaseRun>,
    /// Times of the frames that ordered a reward.
    pub rewards_s: Vec<f64>,
    pub doubted: u64,
}

impl Digest {
    pub fn new(report: &SessionReport) -> Self {
        let span_s = span(report);
        let rewards_s = report.frames.iter().filter(|f| f.reward && f.time_s.is_finite()).map(|f| f.time_s).collect();
        Self {
            span_s,
            window_s: window(report, span_s),
            outcomes: outcomes(report),
            runs: runs(report),
            rewards_s,
            doubted: report.frames.iter().filter(|f| f.doubted).count() as u64,
        }
    }

    /// Whether the session is longer than its close-up.
    pub fn has_close_up(&self) -> bool {
        self.span_s.1 - self.span_s.0 > 1.5 * WINDOW_S
    }
}

fn span(report: &SessionReport) -> (f64, f64) {
    let times = || report.frames.iter().map(|f| f.time_s).filter(|t| t.is_finite());
    let from = times().fold(f64::INFINITY, f64::min);
    let to = times().fold(f64::NEG_INFINITY, f64::max);
    if from < to {
        (from, to)
    } else {
        let from = if from.is_finite() { from } else { 0.0 };
        let length = if report.duration_s.is_finite() && report.duration_s > 0.0 { report.duration_s } else { 1.0 };
        (from, from + length)
    }
}

fn outcomes(report: &SessionReport) -> Outcomes {
    let mut n = Outcomes::default();
    for trial in &report.trials {
        match trial.outcome {
            Outcome::Hit => n.hit += 1,
            Outcome::Aversive => n.aversive += 1,
            Outcome::Miss => n.miss += 1,
            Outcome::Open => n.open += 1,
        }
    }
    n
}

fn runs(report: &SessionReport) -> Vec<PhaseRun> {
    let mut runs: Vec<PhaseRun> = Vec::new();
    for frame in report.frames.iter().filter(|f| f.time_s.is_finite()) {
        match runs.last_mut() {
            Some(run) => {
                run.end_s = frame.time_s;
                if run.phase != frame.phase {
                    runs.push(PhaseRun { phase: frame.phase, start_s: frame.time_s, end_s: frame.time_s });
                }
            }
            None => runs.push(PhaseRun { phase: frame.phase, start_s: frame.time_s, end_s: frame.time_s }),
        }
    }
    runs
}

/// The minute that tells most: different outcomes first, then how many; without trials, around the highest cursor.
fn window(report: &SessionReport, span: (f64, f64)) -> (f64, f64) {
    if span.1 - span.0 <= WINDOW_S {
        return span;
    }
    let fit = |start: f64| {
        let start = start.clamp(span.0, span.1 - WINDOW_S);
        (start, start + WINDOW_S)
    };
    let mut best: Option<(u32, f64)> = None;
    for (i, first) in report.trials.iter().enumerate().filter(|(_, t)| t.start_s.is_finite()) {
        let (from, to) = fit(first.start_s - 2.0);
        let mut n = [0_u32; 3];
        // A trial that ends just before the right edge would show its end but not what follows: leave three seconds.
        let inside = report.trials[i..].iter().take(WINDOW_S as usize * 4);
        for trial in inside.filter(|t| t.start_s >= from && t.end_s <= to - 3.0) {
            match trial.outcome {
                Outcome::Hit => n[0] += 1,
                Outcome::Aversive => n[1] += 1,
                Outcome::Miss => n[2] += 1,
                Outcome::Open => {}
            }
        }
        let score = n.iter().map(|&k| 12 * u32::from(k > 0) + k.min(3)).sum::<u32>() + 3 * n[0].min(3);
        if best.is_none_or(|(most, _)| score > most) {
            best = Some((score, from));
        }
    }
    if let Some((_, from)) = best {
        return fit(from);
    }
    let peak = report
        .frames
        .iter()
        .filter(|f| f.cursor.is_finite() && f.time_s.is_finite())
        .max_by(|a, b| a.cursor.total_cmp(&b.cursor));
    fit(peak.map_or(span.0, |f| f.time_s - WINDOW_S / 2.0))
}

#[cfg(test)]
mod tests {
    use super::super::data::{FrameRow, TrialRow};
    use super::*;

    fn trial(start_s: f64, outcome: Outcome) -> TrialRow {
        TrialRow { start_s, end_s: start_s + 8.0, outcome, ..TrialRow::default() }
    }

    fn frames(n: usize) -> Vec<FrameRow> {
        (0..n).map(|i| FrameRow { time_s: i as f64, ..FrameRow::default() }).collect()
    }

    #[test]
    fn the_close_up_prefers_a_minute_with_every_outcome() {
        let mut report = SessionReport { frames: frames(1000), ..SessionReport::default() };
        report.trials = (0..90).map(|i| trial(i as f64 * 10.0, Outcome::Hit)).collect();
        report.trials[50].outcome = Outcome::Aversive;
        report.trials[52].outcome = Outcome::Miss;
        let (from, to) = Digest::new(&report).window_s;
        assert!(from <= 500.0 && to >= 528.0, "{from} {to}");
        assert!((to - from - 60.0).abs() < 1e-9);
    }

    #[test]
    fn an_empty_session_has_an_axis() {
        let digest = Digest::new(&SessionReport::default());
        assert!(digest.span_s.1 > digest.span_s.0);
        assert!(digest.runs.is_empty() && !digest.has_close_up());
    }

    #[test]
    fn runs_cover_the_session_without_holes() {
        let mut report = SessionReport { frames: frames(10), ..SessionReport::default() };
        for f in &mut report.frames[4..7] {
            f.phase = Phase::Control;
        }
        let runs = Digest::new(&report).runs;
        assert_eq!(runs.len(), 3);
        assert!(runs.windows(2).all(|w| w[0].end_s == w[1].start_s));
        assert_eq!(runs[1], PhaseRun { phase: Phase::Control, start_s: 4.0, end_s: 7.0 });
    }
}

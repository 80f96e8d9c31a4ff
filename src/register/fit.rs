//! One frame against one template: followed from a lag, searched for, and judged.
//!
//! In: a frame, a bank of weights and tables. Out: a [`Fit`] (shift, score), and whether the frame is blank or torn.

use super::bank::{BANDS, Bank, Measured, Solution};
use super::kernel::Plane;
use super::rigid::Rigid;
#[cfg(test)]
use crate::frame::FrameView;

/// A solution further than this from its whole-pixel lag is measured again from nearer by.
const REACH_PX: f64 = 1.0;
/// A frame whose variance is below this fraction of the typical one has no image in it.
const BLANK_VARIANCE: f64 = 0.05;
/// A band that fits less than this, while others fit better than [`BAND_GOOD`], tears the frame.
const BAND_LOST: f64 = 0.25;
const BAND_GOOD: f64 = 0.6;
/// ... and less than its mean by this many of its standard deviations over the good frames: cells come and go.
const BAND_DEVIATIONS: f64 = 6.0;
/// Bands whose fit is noisier than this say nothing.
const BAND_NOISE: f64 = 0.12;

/// A frame's fit at one place.
#[derive(Clone, Copy)]
pub(super) struct Fit {
    pub measured: Measured,
    pub solution: Solution,
    pub shift: (f64, f64),
    pub score: f64,
    pub converged: bool,
}

impl Rigid {
    pub(super) fn clamp(&self, lag: (i32, i32)) -> (i32, i32) {
        // odd lines are read further aside, and must stay within the frame too
        let max_x = (self.max.1 - self.phase.lines().whole.abs()).max(0);
        (lag.0.clamp(-self.max.0, self.max.0), lag.1.clamp(-max_x, max_x))
    }

    /// Follows the content from a whole-pixel lag.
    pub(super) fn track(&self, bank: &Bank, plane: Plane, start: (i32, i32)) -> Fit {
        self.track_from(bank, plane, bank.measure(self.path, plane, self.clamp(start)))
    }

    /// The same from what was measured at the first lag.
    pub(super) fn track_from(&self, bank: &Bank, plane: Plane, mut measured: Measured) -> Fit {
        let mut lag = measured.lag;
        let mut passes = 1;
        loop {
            let solution = bank.solve(&measured);
            let next = self.clamp((lag.0 + solution.dy.round() as i32, lag.1 + solution.dx.round() as i32));
            let near = solution.dy.abs() <= REACH_PX && solution.dx.abs() <= REACH_PX;
            if near || next == lag || passes >= self.config.max_iterations {
                // beyond a pixel the expansion is only a direction: the contrast at the lag itself is what is known
                let far = solution.dy.abs() > 1.0 || solution.dx.abs() > 1.0;
                let gain = if far { bank.gain_at_lag(&measured) } else { solution.gain };
                let shift = (f64::from(lag.0) + solution.dy, f64::from(lag.1) + solution.dx - bank.half_rest());
                return Fit { measured, solution, shift, score: gain * self.norm(&measured, 0), converged: near };
            }
            lag = next;
            measured = bank.measure(self.path, plane, lag);
            passes += 1;
        }
    }

    /// The score a frame would have if its content lay at the lag.
    #[cfg(test)]
    pub(super) fn score_at(&self, frame: &FrameView, lag: (i32, i32)) -> f64 {
        let plane = Plane { samples: frame.samples, width: self.geometry.width_px, saturation: frame.saturation };
        let measured = self.bank.measure(self.path, plane, lag);
        self.bank.gain_at_lag(&measured) * self.norm(&measured, 0)
    }

    /// Measures a frame's tiles again where the last one lay, whole and in strips that begin at `cuts`.
    #[cfg(test)]
    pub(super) fn blocks_do_not_depend_on_strips(&mut self, frame: &FrameView, cuts: &[usize]) {
        let plane = Plane { samples: frame.samples, width: self.geometry.width_px, saturation: frame.saturation };
        let lag = self.clamp((self.record.shift.0.round() as i32, self.record.shift.1.round() as i32));
        if let Some(blocks) = &mut self.blocks {
            blocks.check_strips(self.path, &self.bank, plane, lag, cuts);
        }
    }

    /// What turns a contrast into a score: the whole frame's (0) or a band's (1 to 8).
    pub(super) fn norm(&self, measured: &Measured, which: usize) -> f64 {
        let record = &self.record;
        let variance = measured.all.variance();
        let typical = record.variance.0 / f64::from(record.variance.1.max(1));
        let ratio = if variance > 0.0 && record.variance.1 > 0 { (typical / variance).sqrt() } else { 1.0 };
        ratio / record.typical.mean[which]
    }

    /// Looks for the content everywhere within the largest shift; with `field` also says how prominent it is.
    pub(super) fn reacquire(&mut self, plane: Plane, field: bool) -> (Fit, f64) {
        let nominees = self.wide.search(plane, self.phase.lines().whole, &self.spectrum, field);
        (self.best_of(&self.bank, plane, &nominees.lags[..nominees.count]), nominees.prominence())
    }

    /// Of the nominated lags the one with the highest exact contrast, tracked from there.
    pub(super) fn best_of(&self, bank: &Bank, plane: Plane, lags: &[(i32, i32)]) -> Fit {
        let mut best = ((0, 0), f64::NEG_INFINITY);
        for &lag in lags {
            let lag = self.clamp(lag);
            let gain = bank.gain_at_lag(&bank.measure(self.path, plane, lag));
            if gain > best.1 {
                best = (lag, gain);
            }
        }
        self.track(bank, plane, best.0)
    }

    pub(super) fn is_blank(&self, measured: &Measured) -> bool {
        let (all, record) = (&measured.all, &self.record);
        let rows = all.count / (self.geometry.width_px as i64).max(1);
        let variance = all.variance();
        let typical = record.variance.0 / f64::from(record.variance.1.max(1));
        variance <= 0.0 || variance < BLANK_VARIANCE * typical || all.flat_rows > record.flat_rows + rows / 2
    }

    /// Rows without content where the baseline had some, or bands that do not fit while others do.
    pub(super) fn is_torn(&self, plane: Plane, fit: &Fit) -> bool {
        let excess = (self.geometry.height_px as i64 / 50).max(3);
        if fit.measured.all.flat_rows > self.record.flat_rows + excess && !self.record.learning {
            return true;
        }
        let typical = &self.record.typical;
        let fits = |k: usize, gain: Option<(f64, f64)>| {
            let (gain, noise) = gain?;
            let norm = self.norm(&fit.measured, k + 1);
            let deviation = typical.deviation[k + 1];
            // while the deviation is unknown only a band that shows nothing at all counts
            let limit = if deviation.is_finite() {
                BAND_LOST.min(1.0 - BAND_DEVIATIONS * deviation / typical.mean[k + 1])
            } else {
                0.1
            };
            (noise * norm < BAND_NOISE).then_some((gain * norm < limit, gain * norm > BAND_GOOD))
        };
        let (mut lost, mut good) = (false, false);
        for (k, gain) in self.bank.band_gains(&fit.measured).into_iter().enumerate() {
            let (is_lost, is_good) = fits(k, gain).unwrap_or_default();
            lost |= is_lost;
            good |= is_good;
        }
        if good && !lost {
            // what lies beyond the window is as variable as the band beside it
            let edges = self.bank.edge_gains(self.path, plane, &fit.measured);
            for (k, gains) in [0, BANDS - 1].into_iter().zip(edges) {
                lost |= gains.into_iter().filter_map(|gain| fits(k, gain)).any(|(is_lost, _)| is_lost);
            }
        }
        lost && good
    }
}

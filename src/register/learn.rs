//! What good frames teach: the template during a baseline, what to expect of a frame, the offset to the reference.
//!
//! In: frames with their fits. Out: a new bank at frames 1, 2, 4, 8, ... of a baseline and at its end.

use super::bank::Measured;
use super::fit::Fit;
use super::kernel::{Plane, Region, accumulate};
use super::phase::Lines;
use super::rigid::Rigid;
use super::state::{Contrasts, Learned};
use super::{FitVerdict, Registration, TemplateOffset, filter};
use crate::frame::Geometry;

/// Least contrast that a baseline's frames share with its first: the rest is noise that is not white.
pub(super) const CONTRAST_MIN: f64 = 0.1;
/// A baseline starts anew when this many frames in a row do not fit its first few.
const MISFITS_MAX: u32 = 8;
/// Good frames from which the expectation for a loaded template is learned.
const LEARNING_FRAMES: u32 = 32;

impl Rigid {
    /// Whether the first few frames of a baseline were the odd ones, and not those that do not fit them.
    pub(super) fn starts_anew(&mut self) -> bool {
        if !self.record.baseline || self.record.frames >= MISFITS_MAX {
            return false;
        }
        self.record.misfits += 1;
        self.record.misfits >= MISFITS_MAX
    }

    /// The baseline's first frame is the first template.
    pub(super) fn first_frame(&mut self, plane: Plane) -> Registration {
        let Geometry { height_px, width_px } = self.geometry;
        let whole = Region { rows: 0..height_px, step: 1, columns: 0..width_px, lag_y: 0, lag_x: 0 };
        let mut measured = Measured::default();
        accumulate(self.path, plane, self.bank.weights(), &whole, &mut measured.all);
        if measured.all.saturated as f64 > self.config.saturated_fraction * measured.all.count as f64 {
            return self.held(FitVerdict::Saturated, 0.0);
        }
        if self.is_blank(&measured) {
            return self.held(FitVerdict::Blank, 0.0);
        }
        self.record.flat_rows = measured.all.flat_rows;
        self.record.variance = (measured.all.variance(), 1);
        self.record.locked = true;
        self.accumulator.add(plane, (0, 0));
        self.record.frames = 1;
        self.measure_noise(plane);
        self.refresh();
        Registration { dy_px: 0.0, dx_px: 0.0, score: 1.0, verdict: FitVerdict::Good, reacquired: false }
    }

    /// A good frame teaches: the template during a baseline, the expectation after a template was loaded.
    pub(super) fn take_good(&mut self, plane: Plane, registration: &Registration, fit: &Fit) {
        let record = &mut self.record;
        let variance = fit.measured.all.variance();
        if record.variance.1 == 0 {
            record.variance = (variance, 1);
        }
        if record.learning || record.baseline || self.update.is_some() {
            let mut contrasts: Contrasts = Contrasts::default();
            contrasts[0] = fit.solution.gain;
            for (contrast, gain) in contrasts[1..].iter_mut().zip(self.bank.band_gains(&fit.measured)) {
                *contrast = gain.map_or(1.0, |(gain, _)| gain);
            }
            record.learned.add(&contrasts);
        }
        if record.learning {
            record.learned.tell(&mut record.typical);
            record.flat_rows = record.flat_rows.max(fit.measured.all.flat_rows);
            record.learning = record.learned.count < LEARNING_FRAMES;
        }
        if !record.baseline {
            return self.gather_update(plane, registration, fit);
        }
        record.misfits = 0;
        let lag = (registration.dy_px.round() as i32, registration.dx_px.round() as i32);
        if self.accumulator.add(plane, lag) {
            record.frames = self.accumulator.frames();
            record.variance.0 += variance;
            record.variance.1 += 1;
            record.flat_rows = record.flat_rows.max(fit.measured.all.flat_rows);
            if record.frames.is_power_of_two() {
                self.measure_noise(plane);
                self.refresh();
            }
        }
    }

    pub(super) fn measure_noise(&mut self, plane: Plane) {
        self.record.frame_noise.0 += filter::white_noise(plane);
        self.record.frame_noise.1 += 1;
    }

    /// Makes the template from the frames accumulated so far.
    pub(super) fn refresh(&mut self) {
        if let Some((even, odd)) = self.accumulator.lines() {
            self.phase.estimate(even, odd);
        }
        self.accumulator.mean(self.record.bias, self.phase.px, &mut self.mean);
        let (sum, count) = self.record.frame_noise;
        self.expect_more();
        self.record.template_noise = sum / f64::from(count.max(1)) / f64::from(self.record.frames.max(1));
        self.record.template = true;
        self.record.built_from = self.record.frames;
        self.build_template();
        self.update_offset();
    }

    /// What the new template's typical contrast will be. Noise of a template that is not white escapes the correction
    /// and makes typical contrasts `1 / (1 + c / n)` for one of n frames: c is known from the last template.
    pub(super) fn expect_more(&mut self) {
        let record = &mut self.record;
        record.learned.tell(&mut record.typical);
        if record.learned.count > 0 && record.built_from > 0 {
            let share = f64::from(record.built_from) / f64::from(record.frames.max(1));
            for (mean, deviation) in record.typical.mean.iter_mut().zip(&mut record.typical.deviation) {
                *mean = mean.max(CONTRAST_MIN);
                let next = 1.0 / (1.0 + (1.0 / *mean - 1.0) * share);
                *deviation *= next / *mean;
                *mean = next;
            }
        }
        record.learned = Learned::default();
        record.learning = record.frames == 1;
    }

    pub(super) fn build_template(&mut self) {
        self.bank.build(self.path, &mut self.filters, &self.mean, self.record.template_noise, self.phase.lines());
        self.wide.store(self.filters.band(), &mut self.spectrum);
        if let Some(blocks) = &mut self.blocks {
            blocks.build(self.path, &self.bank, &self.filters, self.record.frames);
        }
    }

    pub(super) fn build_reference(&mut self) {
        self.reference_bank.build(self.path, &mut self.filters, &self.reference, 0.0, Lines::default());
        self.wide.store(self.filters.band(), &mut self.reference_spectrum);
    }

    /// Registers the template to the reference.
    pub(super) fn update_offset(&mut self) {
        if !self.record.template || !self.record.reference || self.margins.is_empty() {
            self.record.offset = None;
            return;
        }
        let plane = self.bank.as_plane();
        let nominees = self.wide.search(plane, 0, &self.reference_spectrum, true);
        let fit = self.best_of(&self.reference_bank, plane, &nominees.lags[..nominees.count]);
        let score = nominees.prominence();
        let ((dy, dx), origin) = (fit.shift, self.origin());
        let (dy_px, dx_px) = (dy - origin.0, dx - origin.1);
        self.record.offset =
            Some(TemplateOffset { dy_px, dx_px, score, trusted: score >= self.config.min_reference_score });
    }
}

//! The baseline, from its first frame to its end, and what starts full with it.

use super::settings::ActivitySettings;
use super::{Activity, BaselineScratch, ExponentialF0, Extras, Head, Smoother, SpikeDetector, baseline, circular_dff};
use crate::config::activity::{Bleaching, F0Mode};

impl Extras {
    pub(super) fn new(settings: &ActivitySettings, rois: usize) -> Self {
        let f0 = if settings.is_exponential() { rois } else { 0 };
        Self {
            f0: vec![ExponentialF0::default(); f0],
            smoother: Smoother::new(settings, rois),
            deconvolver: baseline::deconvolver(settings, rois),
            spikes: settings.spikes.map(|spikes| SpikeDetector::new(spikes, rois)),
            rest: vec![0.0; rois],
            fading: vec![0.0; if settings.bleaching == Bleaching::Off { 0 } else { rois }],
            frames: 0,
        }
    }

    /// Whether the baseline's end has to find dF/F for these, with or without a z-score.
    fn need_dff(&self) -> bool {
        self.smoother.is_on() || self.deconvolver.is_some()
    }

    /// Forgets everything.
    fn begin(&mut self) {
        self.f0.fill(ExponentialF0::default());
        self.fading.fill(0.0);
        self.frames = 0;
    }

    /// Shows an ROI its baseline: F, and dF/F where that is needed.
    fn show(&mut self, roi: usize, f: &[f64], dff: &[f64], settings: &ActivitySettings, scratch: &mut BaselineScratch) {
        if self.smoother.is_on() {
            self.smoother.show(roi, dff);
        }
        if let Some(deconvolver) = &mut self.deconvolver {
            let rest = scratch.percentile(dff.iter().copied(), settings.rest_percentile);
            self.rest[roi] = rest;
            deconvolver.show(roi, settings.poles_of(dff), dff, rest);
        }
        if let Some(spikes) = &mut self.spikes {
            spikes.show(roi, f);
        }
    }
}

impl Activity {
    /// Ends the baseline: undoes fading, fills the history, fixes the F0 of the mode `baseline`, and finds what the
    /// z-score and the rate are measured against. Returns the frames in the block; with none the history starts empty.
    /// With z-score it takes about 0.05 us for each ROI and frame of the baseline: 5 ms for 10 ROIs and 9,000 frames,
    /// 30 ms for 200 and 3,000.
    pub fn end_baseline(&mut self) -> usize {
        if self.head.running {
            return self.head.baseline_frames;
        }
        self.estimate_neuropil();
        self.head.running = true;
        self.head.history_at = 0;
        self.undo_fading();
        self.find_floors();
        // In the mode `baseline` the windows, and with them F0, stay what the last baseline frame left.
        if self.settings.mode == F0Mode::RunningPercentile {
            self.windows.begin(self.settings.percentile);
        }
        for roi in 0..self.head.roi_count {
            self.end_row(roi);
        }
        self.head.baseline_frames
    }

    /// The baseline's end for one ROI.
    fn end_row(&mut self, roi: usize) {
        let Head { roi_count, history_frames, capacity_frames, baseline_frames: frames, .. } = self.head;
        let row = &self.block[roi * capacity_frames..][..frames];
        let back = |back: usize| baseline::circular_back(row, back);
        for age in 0..history_frames {
            self.history[(history_frames - 1 - age) * roi_count + roi] = back(age);
        }
        if let Some(f0) = self.extras.f0.get_mut(roi) {
            *f0 = ExponentialF0::default();
            row.iter().for_each(|&f| _ = f0.step(f, &self.settings));
            self.head.f0[roi] = f0.value();
        }
        let settings = ActivitySettings { floor: self.head.floors[roi], ..self.settings };
        let dff = &mut self.scratch_row[..frames];
        let wants_dff = self.scores || self.extras.need_dff();
        if wants_dff {
            circular_dff(row, &settings, &mut self.scratch.window, dff);
        }
        if self.settings.mode == F0Mode::RunningPercentile {
            if wants_dff && frames > 0 {
                self.windows.copy(roi, &self.scratch.window);
            } else {
                self.windows.fill(roi, (0..history_frames).rev().map(back));
            }
        }
        if frames > 0 {
            self.extras.show(roi, row, dff, &settings, &mut self.scratch);
        }
        if self.scores {
            self.scratch.smooth(dff);
            (self.head.z_mean[roi], self.head.z_sd[roi]) = self.scratch.z_statistics(dff, &settings);
        }
    }

    /// Finds each ROI's share of its neuropil, and corrects the baseline anew.
    fn estimate_neuropil(&mut self) {
        let Head { roi_count, capacity_frames, baseline_frames: frames, offset_counts: offset, .. } = self.head;
        let Some(estimate) = self.neuropil.as_mut().filter(|_| self.head.removes_neuropil) else { return };
        for (roi, coefficient) in self.coefficients.iter_mut().enumerate().take(roi_count) {
            let row = &mut self.block[roi * capacity_frames..][..frames];
            *coefficient = estimate.coefficient(roi, row, self.coefficient);
            let more = self.coefficient - *coefficient;
            row.iter_mut().zip(estimate.row(roi, frames)).for_each(|(f, fneu)| *f += more * (fneu - offset));
        }
        if !self.settings.is_exponential() {
            self.fill_windows();
            (0..roi_count).for_each(|roi| self.head.f0[roi] = self.windows.percentile(roi));
        }
    }

    /// Fits each ROI's fading and takes it out of its baseline.
    fn undo_fading(&mut self) {
        if self.settings.bleaching == Bleaching::Off {
            return;
        }
        let Head { roi_count, capacity_frames, baseline_frames: frames, .. } = self.head;
        for roi in 0..roi_count {
            let row = &mut self.block[roi * capacity_frames..][..frames];
            self.extras.fading[roi] = baseline::undo_fading(row, &self.settings, &mut self.scratch);
        }
        if self.settings.mode == F0Mode::Baseline {
            self.fill_windows();
            (0..roi_count).for_each(|roi| self.head.f0[roi] = self.windows.percentile(roi));
        }
    }

    /// Where an ROI's F0 stops meaning something.
    fn find_floors(&mut self) {
        let share = if self.head.removes_neuropil && self.head.raw_frames > 0 { self.floor_share } else { 0.0 };
        for (floor, &sum) in self.head.floors.iter_mut().zip(&self.head.raw_sum) {
            let mean = sum / self.head.raw_frames as f64 - self.head.offset_counts;
            *floor = self.settings.floor;
            if share > 0.0 && share * mean > *floor {
                *floor = share * mean;
            }
        }
    }

    /// Begins a baseline anew: history, block, F0 and z-score are forgotten; the detector's offset stays.
    pub fn begin_baseline(&mut self) {
        self.head.running = false;
        self.head.baseline_frames = 0;
        self.head.doubted_first = 0;
        self.head.history_at = 0;
        self.head.raw_sum.fill(0.0);
        self.head.raw_frames = 0;
        self.coefficients.fill(self.coefficient);
        self.head.floors.fill(self.settings.floor);
        self.windows.begin(self.settings.percentile);
        self.history.fill(f64::NAN);
        self.extras.begin();
        self.rate.fill(f64::NAN);
        self.head.f0.fill(f64::NAN);
        self.head.z_mean.fill(f64::NAN);
        self.head.z_sd.fill(f64::NAN);
    }

    /// Replaces the detector's offset by one that was estimated from the baseline, in everything that the baseline
    /// left, as if it had been known from the first frame. To be called at the baseline's end.
    pub fn rebase_detector_offset(&mut self, offset_counts: f64) {
        let before = self.head.offset_counts;
        self.set_detector_offset(offset_counts);
        // F - o - c (Fneu - o) moves by (1 - c) times the change where a neuropil is removed, else by the change.
        let share = if self.head.removes_neuropil { 1.0 - self.coefficient } else { 1.0 };
        let delta = (before - self.head.offset_counts) * share;
        if delta == 0.0 {
            return;
        }
        for value in &mut self.block {
            *value += delta;
        }
        self.windows.shift(delta);
        for (roi, f0) in self.head.f0.iter_mut().enumerate() {
            match self.extras.f0.get_mut(roi) {
                Some(own) => {
                    own.shift(delta);
                    *f0 = own.value();
                }
                None => *f0 = self.windows.percentile(roi),
            }
        }
    }

    /// A doubted frame of the baseline: its place in time is kept, with the values of the last good frame, so that
    /// segments of the baseline stay segments of time. Those before the first good frame wait for it.
    pub(super) fn hold_baseline(&mut self) {
        let Head { roi_count, capacity_frames, baseline_frames: frames, .. } = self.head;
        if frames == 0 {
            self.head.doubted_first = (self.head.doubted_first + 1).min(capacity_frames);
        } else if frames < capacity_frames {
            for roi in 0..roi_count {
                let last = self.block[roi * capacity_frames + frames - 1];
                self.keep_baseline(roi, frames..frames + 1, last);
            }
            if let Some(estimate) = &mut self.neuropil {
                estimate.hold(frames);
            }
            self.head.baseline_frames += 1;
        }
    }

    /// Puts a value into the block at these frames of the baseline, and into the window that F0 is found in.
    fn keep_baseline(&mut self, roi: usize, frames: std::ops::Range<usize>, value: f64) {
        for frame in frames.clone() {
            self.head.f0[roi] = match self.extras.f0.get_mut(roi) {
                Some(f0) => f0.step(value, &self.settings),
                None => self.windows.set(roi, frame, value),
            };
        }
        self.block[roi * self.head.capacity_frames..][frames].fill(value);
    }

    /// Takes a valid frame of the baseline into block, windows and F0.
    pub(super) fn enter_baseline(&mut self, fneu: &[f64]) {
        let capacity = self.head.capacity_frames;
        let waiting = std::mem::take(&mut self.head.doubted_first);
        let frames = self.head.baseline_frames + waiting;
        if frames >= capacity {
            return;
        }
        for roi in 0..self.head.roi_count {
            self.keep_baseline(roi, frames - waiting..frames + 1, self.f[roi]);
        }
        if let Some(estimate) = &mut self.neuropil {
            estimate.keep(frames - waiting..frames + 1, fneu);
        }
        self.head.baseline_frames = frames + 1;
    }

    /// Fills every ROI's window anew from the block (baseline, or mode `baseline`) or from the history.
    pub(super) fn fill_windows(&mut self) {
        let Head { roi_count, history_frames, capacity_frames, baseline_frames, running, .. } = self.head;
        if self.settings.is_exponential() {
            return;
        }
        self.windows.begin(self.settings.percentile);
        for roi in 0..roi_count {
            if running && self.settings.mode == F0Mode::RunningPercentile {
                self.windows.fill(roi, (0..history_frames).map(|frame| self.history[frame * roi_count + roi]));
            } else {
                self.windows.fill(roi, self.block[roi * capacity_frames..][..baseline_frames].iter().copied());
            }
        }
    }

    /// From now on F counts as it comes.
    #[cfg(test)]
    pub(crate) fn forget_fading(&mut self) {
        self.extras.fading.fill(0.0);
    }
}

//! Activity: from the mean of an ROI to dF/F and a z-score.
//!
//! In, for each frame: `f`, the mean of each ROI's pixels, `fneu`, that of the neuropil around it (it may be empty),
//! in detector counts, and whether registration trusts the frame. Out, for each ROI: the corrected F and F0 in
//! counts, dF/F, the z-score, and whether the ROI is valid.
//!
//! - corrected `F = f - offset - coefficient * (fneu - offset)`; the coefficient is given, or estimated for each ROI
//!   when the baseline ends (`neuropil`): until then it is 0.7, and the baseline is corrected anew;
//! - `F0(n)` = a percentile of F over the last frames, this one included (`running_percentile`), or over the
//!   whole baseline (`baseline`), during the baseline over the frames that there have been; or an exponential
//!   mean, which may be robust to transients (`exponential`, `robust`);
//! - `dF/F = (F - F0) / F0`, which may be smoothed; `z = (dF/F - mean) / SD` with mean and SD (n - 1), or their robust
//!   counterparts, of the baseline's dF/F against the circular F0 (see [`circular_dff`]), the very values that the
//!   calibration sees;
//! - where the configuration asks for it, a rate: dF/F above its rest, deconvolved ([`Deconvolver`]), or spikes a
//!   second ([`SpikeDetector`]). There is none before the baseline's end. It is not smoothed.
//!
//! When the baseline ends, the history starts full: its newest entry is the baseline's last frame, and it goes back
//! through the baseline, around and around where that is shorter than the window. Everything that runs (exponential F0,
//! smoothing, deconvolution, spikes) goes on as if the baseline had just been shown. A doubted frame enters no
//! statistic: its values are computed against the last F0, and to the deconvolution it is missing. An ROI whose F0 is
//! at or below the floor, or not finite, is invalid on that frame, with NaN for dF/F and z; a value that is not finite
//! takes its place in the history and counts for nothing in the percentile.
//!
//! Bleaching: with `bleaching = "exponential"` the baseline is divided by the exponential that fits it, and so is every
//! frame after it, up to a factor of 2; frames that never came count as time.
//!
//! Method: the running percentile of Francioni et al. (Nature 2026; CLOOSE), with Hazen's interpolation. Cost for a
//! window of 3,000: see [`Activity::step`].

mod autocovariance;
mod baseline;
mod block;
mod neuropil;
mod oasis;
mod offset;
mod pages;
mod percentile;
mod running;
mod settings;
mod state;
mod voltage;

use crate::config::activity::ActivityConfig;
pub use autocovariance::estimate_poles;
pub use baseline::{BaselineBlock, BaselineScratch, baseline_signal, circular_dff, mean_sd, undo_fading, z_score};
use neuropil::NeuropilEstimate;
pub use oasis::{Deconvolver, HISTORY_FRAMES, Poles};
pub use offset::estimate_detector_offset;
pub use percentile::Windows;
use running::{ExponentialF0, Smoother};
use serde::{Deserialize, Serialize};
pub use settings::{ActivitySettings, SpikeSettings};
use thiserror::Error;
pub use voltage::{Spike, SpikeDetector};

/// Why a saved state cannot be taken.
#[derive(Debug, Error)]
pub enum StateError {
    /// The bytes are not such a state.
    #[error("activity: the state cannot be read: {0}")]
    Unreadable(#[from] postcard::Error),
    /// The state belongs to another configuration.
    #[error("activity: the state has {what} {got}, expected {expected}")]
    Shape {
        /// What differs.
        what: &'static str,
        /// What the state has.
        got: usize,
        /// What this stage has.
        expected: usize,
    },
    /// The bytes end before the state does.
    #[error("activity: the state has {got} bytes, expected {expected}")]
    Short {
        /// Bytes that there are.
        got: usize,
        /// Bytes that the state needs.
        expected: usize,
    },
}

/// The values of one frame, one entry for each ROI, borrowed until the next frame.
#[derive(Debug, Clone, Copy)]
pub struct ActivityFrame<'a> {
    /// F without the detector's offset and the neuropil, counts.
    pub f: &'a [f64],
    /// F0, counts; NaN before the first valid frame.
    pub f0: &'a [f64],
    /// (F - F0)/F0, also where F0 lies under the floor and the ROI is invalid; NaN where there is no such number.
    pub dff: &'a [f64],
    /// dF/F in standard deviations of the baseline's; NaN where there is no such number, and until the baseline's end.
    pub z: &'a [f64],
    /// Deconvolved dF/F a frame, or spikes a second; NaN until the baseline's end; empty where the configuration asks
    /// for neither.
    pub rate: &'a [f64],
    /// Whether F0 is above the floor and everything finite.
    pub valid: &'a [bool],
}

/// What is saved apart from the two large tables.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Head {
    roi_count: usize,
    history_frames: usize,
    capacity_frames: usize,
    running: bool,
    baseline_frames: usize,
    doubted_first: usize,
    history_at: usize,
    offset_counts: f64,
    removes_neuropil: bool,
    /// Sum of each ROI's F as it came, over the good frames of the baseline, and how many these are.
    raw_sum: Vec<f64>,
    raw_frames: u64,
    /// Where each ROI's F0 is at or below this, the ROI is invalid; counts.
    floors: Vec<f64>,
    f0: Vec<f64>,
    z_mean: Vec<f64>,
    z_sd: Vec<f64>,
}

/// What runs in some configurations only.
#[derive(Debug, Clone)]
struct Extras {
    /// One for each ROI in the exponential modes of F0, else none.
    f0: Vec<ExponentialF0>,
    smoother: Smoother,
    deconvolver: Option<Deconvolver>,
    spikes: Option<SpikeDetector>,
    /// For each ROI, dF/F that is no activity.
    rest: Vec<f64>,
    /// For each ROI, how much of its brightness it loses a frame.
    fading: Vec<f64>,
    /// Frames since the baseline's first, those that never came included.
    frames: u64,
}

/// The stage. It begins in its baseline; [`Activity::end_baseline`] ends that.
#[derive(Debug, Clone)]
pub struct Activity {
    settings: ActivitySettings,
    /// As configured, and of every ROI during a baseline.
    coefficient: f64,
    /// In force for each ROI.
    coefficients: Vec<f64>,
    /// Where the baseline tells them.
    neuropil: Option<NeuropilEstimate>,
    floor_share: f64,
    scores: bool,
    head: Head,
    /// Baseline: ROI after ROI, `capacity_frames` apart.
    block: Vec<f64>,
    /// History: frame after frame, so that one frame reads and writes one run of memory.
    history: Vec<f64>,
    /// What F0 is a percentile of: the history, or the baseline so far.
    windows: Windows,
    extras: Extras,
    /// For the baseline's end: one ROI's window, and a row.
    scratch: BaselineScratch,
    scratch_row: Vec<f64>,
    f: Vec<f64>,
    dff: Vec<f64>,
    z: Vec<f64>,
    rate: Vec<f64>,
    valid: Vec<bool>,
}

impl Activity {
    /// A stage for `roi_count` ROIs, a running window of `f0_window_frames` ([`ActivityConfig::f0_window_frames`])
    /// and a baseline of at most `baseline_capacity_frames` valid frames. All memory is taken here.
    pub fn new(
        config: &ActivityConfig,
        roi_count: usize,
        f0_window_frames: usize,
        baseline_capacity_frames: usize,
    ) -> Self {
        let settings = ActivitySettings::new(config, f0_window_frames);
        let history_frames = settings.history_frames();
        let window_slots = if settings.is_exponential() { 0 } else { history_frames.max(baseline_capacity_frames) };
        Self {
            settings,
            coefficient: 0.0,
            coefficients: vec![0.0; roi_count],
            neuropil: None,
            floor_share: config.f0_floor_share,
            scores: config.z_score,
            head: Head {
                roi_count,
                history_frames,
                capacity_frames: baseline_capacity_frames,
                running: false,
                baseline_frames: 0,
                doubted_first: 0,
                history_at: 0,
                offset_counts: config.detector_offset_counts.unwrap_or(0.0),
                removes_neuropil: false,
                raw_sum: vec![0.0; roi_count],
                raw_frames: 0,
                floors: vec![config.f0_floor; roi_count],
                f0: vec![f64::NAN; roi_count],
                z_mean: vec![f64::NAN; roi_count],
                z_sd: vec![f64::NAN; roi_count],
            },
            // Written, so that its pages are there before the thread comes to them.
            block: vec![f64::NAN; roi_count * baseline_capacity_frames],
            history: vec![f64::NAN; roi_count * history_frames],
            windows: Windows::new(settings.percentile, roi_count, window_slots),
            extras: Extras::new(&settings, roi_count),
            scratch: BaselineScratch::new(&settings, baseline_capacity_frames),
            scratch_row: vec![0.0; baseline_capacity_frames],
            f: vec![f64::NAN; roi_count],
            dff: vec![f64::NAN; roi_count],
            z: vec![f64::NAN; roi_count],
            rate: vec![f64::NAN; if config.has_rate() { roi_count } else { 0 }],
            valid: vec![false; roi_count],
        }
    }

    /// Removes this share of the neuropil's F from every ROI's; 0, as at first, removes none.
    pub fn with_neuropil(mut self, coefficient: f64) -> Self {
        self.coefficient = coefficient;
        self.coefficients.fill(coefficient);
        self
    }

    /// Removes from each ROI's F the share of its neuropil's that the baseline tells, 0 to 1; until its end, and where
    /// it cannot be told, 0.7.
    pub fn with_estimated_neuropil(self, frame_rate_hz: f64) -> Self {
        let estimate = NeuropilEstimate::new(self.head.roi_count, self.head.capacity_frames, frame_rate_hz);
        Self { neuropil: Some(estimate), ..self.with_neuropil(neuropil::USUAL) }
    }

    /// The share of its neuropil's F that is removed from each ROI's.
    pub fn neuropil_coefficients(&self) -> &[f64] {
        &self.coefficients
    }

    /// One frame. `f` and `fneu` hold a value for each ROI (missing ones are NaN; an empty `fneu`: no neuropil is
    /// removed); a doubted frame has `valid` false. 10 ROIs against 3,000 frames take 0.3 us,
    /// 200 some 5 us.
    pub fn step(&mut self, f: &[f64], fneu: &[f64], valid: bool) -> ActivityFrame<'_> {
        let offset = self.head.offset_counts;
        self.head.removes_neuropil = !fneu.is_empty() && self.coefficient != 0.0;
        for (roi, corrected) in self.f.iter_mut().enumerate() {
            let mut value = f.get(roi).copied().unwrap_or(f64::NAN) - offset;
            if self.head.removes_neuropil {
                value -= self.coefficients[roi] * (fneu.get(roi).copied().unwrap_or(f64::NAN) - offset);
            }
            // Adding 0 makes a negative zero positive, so that equal values have equal bits in the sorted windows.
            *corrected = value + 0.0;
        }
        if valid && !self.head.running {
            self.head.raw_frames += 1;
            for (sum, &f) in self.head.raw_sum.iter_mut().zip(f) {
                *sum += f;
            }
        }
        if self.head.running {
            for (f, &fading) in self.f.iter_mut().zip(&self.extras.fading) {
                *f *= baseline::fading_gain(fading, self.extras.frames);
            }
        }
        self.extras.frames += 1;
        match (self.head.running, valid) {
            (true, true) => self.enter_history(),
            (true, false) => {}
            (false, true) => self.enter_baseline(fneu),
            (false, false) => self.hold_baseline(),
        }
        for roi in 0..self.head.roi_count {
            let f0 = self.head.f0[roi];
            let dff = (self.f[roi] - f0) / f0;
            // Below the floor the ratio means little: it is told, and kept out of the cursor.
            self.dff[roi] = if dff.is_finite() { dff } else { f64::NAN };
            self.valid[roi] = dff.is_finite() && f0 > self.head.floors[roi];
            self.follow(roi, valid);
            self.z[roi] = z_score(self.dff[roi], self.head.z_mean[roi], self.head.z_sd[roi]);
        }
        ActivityFrame {
            f: &self.f,
            f0: &self.head.f0,
            dff: &self.dff,
            z: &self.z,
            rate: &self.rate,
            valid: &self.valid,
        }
    }

    /// From dF/F of an ROI to its rate and its smoothed dF/F. Neither sees a frame that is doubted or invalid.
    fn follow(&mut self, roi: usize, frame_valid: bool) {
        if !self.head.running {
            return;
        }
        let sound = frame_valid && self.valid[roi];
        let Extras { deconvolver, spikes, smoother, rest, .. } = &mut self.extras;
        let dff = if sound { self.dff[roi] } else { f64::NAN };
        if let Some(deconvolver) = deconvolver {
            self.rate[roi] = deconvolver.step(roi, dff - rest[roi]);
        }
        if let Some(spikes) = spikes {
            self.rate[roi] = spikes.step(roi, if frame_valid { self.f[roi] } else { f64::NAN }).rate_hz;
        }
        if smoother.is_on() && sound {
            self.dff[roi] = smoother.step(roi, dff);
        }
    }

    /// So many frames never came. They are time: to the deconvolution, and to the indicator's fading.
    pub fn skip(&mut self, frames: u64) {
        self.extras.frames = self.extras.frames.saturating_add(frames);
        if self.head.running
            && let Some(deconvolver) = &mut self.extras.deconvolver
        {
            deconvolver.skip(frames);
        }
    }

    /// Where each ROI's F0 is at or below this, the ROI is invalid, counts.
    pub fn floors(&self) -> &[f64] {
        &self.head.floors
    }

    /// Sets the detector's offset, for a configuration that leaves it to be estimated. To be called before the first
    /// frame of a baseline: values that are in the block already keep the offset that they came with.
    pub fn set_detector_offset(&mut self, offset_counts: f64) {
        self.head.offset_counts = if offset_counts.is_finite() { offset_counts } else { 0.0 };
    }

    /// The detector's offset in use, counts.
    pub fn detector_offset(&self) -> f64 {
        self.head.offset_counts
    }

    /// The valid frames of the baseline.
    pub fn baseline(&self) -> BaselineBlock<'_> {
        let Head { roi_count, capacity_frames, baseline_frames, .. } = self.head;
        // `new` and `enter_baseline` keep the block within its memory; an empty block stands in for the impossible.
        BaselineBlock::new(&self.block, roi_count, baseline_frames, capacity_frames).unwrap_or(BaselineBlock::EMPTY)
    }

    /// Whether the baseline has all the frames that there is memory for. Later ones are computed and not kept.
    pub fn baseline_is_full(&self) -> bool {
        self.head.baseline_frames == self.head.capacity_frames
    }

    /// How F becomes dF/F, z and rate, for the calibration.
    pub fn settings(&self) -> ActivitySettings {
        self.settings
    }

    /// Mean and SD of an ROI's dF/F in the baseline; NaN before its end and for an ROI that there is not.
    pub fn z_statistics(&self, roi: usize) -> (f64, f64) {
        let of = |values: &[f64]| values.get(roi).copied().unwrap_or(f64::NAN);
        (of(&self.head.z_mean), of(&self.head.z_sd))
    }

    /// Takes a valid frame after the baseline into history, windows and F0; the oldest frame leaves.
    fn enter_history(&mut self) {
        for (roi, f0) in self.extras.f0.iter_mut().enumerate() {
            self.head.f0[roi] = f0.step(self.f[roi], &self.settings);
        }
        let frames = self.head.history_frames;
        if frames == 0 {
            return;
        }
        let slot = self.head.history_at;
        self.history[slot * self.head.roi_count..][..self.head.roi_count].copy_from_slice(&self.f);
        for (roi, (f0, &f)) in self.head.f0.iter_mut().zip(&self.f).enumerate() {
            *f0 = self.windows.set(roi, slot, f);
        }
        self.head.history_at = (slot + 1) % frames;
    }
}

#[cfg(test)]
mod mode_tests;
#[cfg(test)]
mod tests;

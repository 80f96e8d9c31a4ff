//! Activity: from the mean of an ROI to dF/F and a z-score.
//!
//! In, for each frame: `f`, the mean of each ROI's pixels, `fneu`, that of the neuropil around it (it may be empty),
//! in detector counts, and whether registration trusts the frame. Out, for each ROI: the corrected F and F0 in
//! counts, dF/F, the z-score, and whether the ROI is valid.
//!
//! - corrected `F = f - offset - coefficient * (fneu - offset)`;
//! - `F0(n)` = a percentile of F over the last frames, this one included ([`F0Mode::RunningPercentile`]), or over the
//!   whole baseline ([`F0Mode::Baseline`]); during the baseline over the frames that there have been;
//! - `dF/F = (F - F0) / F0`; `z = (dF/F - mean) / SD` with mean and SD (n - 1) of the baseline's dF/F against the
//!   circular F0 (see [`circular_dff`]), the very values that the calibration sees.
//!
//! When the baseline ends, the history starts full: its newest entry is the baseline's last frame, and it goes back
//! through the baseline, around and around where that is shorter than the window. A doubted frame enters no
//! statistic: its values are computed against the last F0. An ROI whose F0 is at or below the floor, or not finite,
//! is invalid on that frame, with NaN for dF/F and z; a value that is not finite takes its place in the history and
//! counts for nothing in the percentile.
//!
//! Method: the running percentile of Francioni et al. (Nature 2026; CLOOSE), with Hazen's interpolation. Cost for a
//! window of 3,000: see [`Activity::step`]. It does not smooth and does not deconvolve.

mod baseline;
mod offset;
mod percentile;

use crate::config::activity::{ActivityConfig, F0Mode};
pub use baseline::{BaselineBlock, F0Settings, circular_dff, mean_sd, z_score};
pub use offset::estimate_detector_offset;
pub use percentile::Windows;
use serde::{Deserialize, Serialize};
use thiserror::Error;

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

/// The stage. It begins in its baseline; [`Activity::end_baseline`] ends that.
#[derive(Debug, Clone)]
pub struct Activity {
    settings: F0Settings,
    coefficient: f64,
    floor_share: f64,
    scores: bool,
    head: Head,
    /// Baseline: ROI after ROI, `capacity_frames` apart.
    block: Vec<f64>,
    /// History: frame after frame, so that one frame reads and writes one run of memory.
    history: Vec<f64>,
    /// What F0 is a percentile of: the history, or the baseline so far.
    windows: Windows,
    /// Scratch for the baseline's end: a window and a row.
    scratch_window: Windows,
    scratch_row: Vec<f64>,
    f: Vec<f64>,
    dff: Vec<f64>,
    z: Vec<f64>,
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
        let settings = F0Settings::new(config, f0_window_frames);
        let history_frames = match settings.mode {
            F0Mode::RunningPercentile => settings.window_frames,
            F0Mode::Baseline => 0,
        };
        let window_slots = history_frames.max(baseline_capacity_frames);
        Self {
            settings,
            coefficient: 0.0,
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
            block: vec![0.0; roi_count * baseline_capacity_frames],
            history: vec![f64::NAN; roi_count * history_frames],
            windows: Windows::new(settings.percentile, roi_count, window_slots),
            scratch_window: Windows::new(settings.percentile, 1, window_slots),
            scratch_row: vec![0.0; baseline_capacity_frames],
            f: vec![f64::NAN; roi_count],
            dff: vec![f64::NAN; roi_count],
            z: vec![f64::NAN; roi_count],
            valid: vec![false; roi_count],
        }
    }

    /// Removes this share of the neuropil's F from every ROI's; 0, as at first, removes none.
    pub fn with_neuropil(mut self, coefficient: f64) -> Self {
        self.coefficient = coefficient;
        self
    }

    /// One frame. `f` and `fneu` hold a value for each ROI (missing ones are NaN; an empty `fneu`: no neuropil is
    /// removed); a doubted frame has `valid` false. 10 ROIs against 3,000 frames take 0.5 us,
    /// 200 some 25 us (the windows, 15 MB, are more than a cache of one core).
    pub fn step(&mut self, f: &[f64], fneu: &[f64], valid: bool) -> ActivityFrame<'_> {
        let offset = self.head.offset_counts;
        self.head.removes_neuropil = !fneu.is_empty() && self.coefficient != 0.0;
        for (roi, corrected) in self.f.iter_mut().enumerate() {
            let mut value = f.get(roi).copied().unwrap_or(f64::NAN) - offset;
            if self.head.removes_neuropil {
                value -= self.coefficient * (fneu.get(roi).copied().unwrap_or(f64::NAN) - offset);
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
        match (self.head.running, valid) {
            (true, true) => self.enter_history(),
            (true, false) => {}
            (false, true) => self.enter_baseline(),
            (false, false) => self.hold_baseline(),
        }
        for roi in 0..self.head.roi_count {
            let f0 = self.head.f0[roi];
            let dff = (self.f[roi] - f0) / f0;
            // Below the floor the ratio means little: it is told, and kept out of the cursor.
            self.dff[roi] = if dff.is_finite() { dff } else { f64::NAN };
            self.valid[roi] = dff.is_finite() && f0 > self.head.floors[roi];
            self.z[roi] = z_score(self.dff[roi], self.head.z_mean[roi], self.head.z_sd[roi]);
        }
        ActivityFrame { f: &self.f, f0: &self.head.f0, dff: &self.dff, z: &self.z, valid: &self.valid }
    }

    /// Ends the baseline: fills the history, fixes the F0 of the mode `baseline`, and finds mean and SD for the
    /// z-score. Returns the frames in the block; with none the history starts empty. With z-score it takes about
    /// 0.05 us for each ROI and frame of the baseline: 5 ms for 10 ROIs and 9,000 frames, 30 ms for 200 and 3,000.
    pub fn end_baseline(&mut self) -> usize {
        if self.head.running {
            return self.head.baseline_frames;
        }
        self.head.running = true;
        self.head.history_at = 0;
        self.find_floors();
        let Head { roi_count, history_frames, capacity_frames, baseline_frames: frames, .. } = self.head;
        // In the mode `baseline` the windows, and with them F0, stay what the last baseline frame left.
        let running = self.settings.mode == F0Mode::RunningPercentile;
        if running {
            self.windows.begin(self.settings.percentile);
        }
        for roi in 0..roi_count {
            let row = &self.block[roi * capacity_frames..][..frames];
            for back in 0..history_frames {
                self.history[(history_frames - 1 - back) * roi_count + roi] = baseline::circular_back(row, back);
            }
            if self.scores {
                let settings = F0Settings { floor: self.head.floors[roi], ..self.settings };
                let dff = &mut self.scratch_row[..frames];
                circular_dff(row, &settings, &mut self.scratch_window, dff);
                (self.head.z_mean[roi], self.head.z_sd[roi]) = mean_sd(dff);
            }
            if running && self.scores && frames > 0 {
                self.windows.copy(roi, &self.scratch_window);
            } else if running {
                let oldest_first = (0..history_frames).rev();
                self.windows.fill(roi, oldest_first.map(|back| baseline::circular_back(row, back)));
            }
        }
        frames
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

    /// Where each ROI's F0 is at or below this, the ROI is invalid, counts.
    pub fn floors(&self) -> &[f64] {
        &self.head.floors
    }

    /// Begins a baseline anew: history, block, F0 and z-score are forgotten; the detector's offset stays.
    pub fn begin_baseline(&mut self) {
        self.head.running = false;
        self.head.baseline_frames = 0;
        self.head.doubted_first = 0;
        self.head.history_at = 0;
        self.head.raw_sum.fill(0.0);
        self.head.raw_frames = 0;
        self.head.floors.fill(self.settings.floor);
        self.windows.begin(self.settings.percentile);
        self.history.fill(f64::NAN);
        self.head.f0.fill(f64::NAN);
        self.head.z_mean.fill(f64::NAN);
        self.head.z_sd.fill(f64::NAN);
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

    /// How F0 is found, for the calibration.
    pub fn f0_settings(&self) -> F0Settings {
        self.settings
    }

    /// Mean and SD of an ROI's dF/F in the baseline; NaN before its end and for an ROI that there is not.
    pub fn z_statistics(&self, roi: usize) -> (f64, f64) {
        let of = |values: &[f64]| values.get(roi).copied().unwrap_or(f64::NAN);
        (of(&self.head.z_mean), of(&self.head.z_sd))
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
            *f0 = self.windows.percentile(roi);
        }
    }

    /// A doubted frame of the baseline: its place in time is kept, with the values of the last good frame, so that
    /// segments of the baseline stay segments of time. Those before the first good frame wait for it.
    fn hold_baseline(&mut self) {
        let Head { roi_count, capacity_frames, baseline_frames: frames, .. } = self.head;
        if frames == 0 {
            self.head.doubted_first = (self.head.doubted_first + 1).min(capacity_frames);
        } else if frames < capacity_frames {
            for roi in 0..roi_count {
                let last = self.block[roi * capacity_frames + frames - 1];
                self.keep_baseline(roi, frames..frames + 1, last);
            }
            self.head.baseline_frames += 1;
        }
    }

    /// Puts a value into the block at these frames of the baseline, and into the window that F0 is found in.
    fn keep_baseline(&mut self, roi: usize, frames: std::ops::Range<usize>, value: f64) {
        for frame in frames.clone() {
            self.head.f0[roi] = self.windows.set(roi, frame, value);
        }
        self.block[roi * self.head.capacity_frames..][frames].fill(value);
    }

    /// Takes a valid frame of the baseline into block, windows and F0.
    fn enter_baseline(&mut self) {
        let capacity = self.head.capacity_frames;
        let waiting = std::mem::take(&mut self.head.doubted_first);
        let frames = self.head.baseline_frames + waiting;
        if frames >= capacity {
            return;
        }
        for roi in 0..self.head.roi_count {
            self.keep_baseline(roi, frames - waiting..frames + 1, self.f[roi]);
        }
        self.head.baseline_frames = frames + 1;
    }

    /// Takes a valid frame after the baseline into history, windows and F0; the oldest frame leaves.
    fn enter_history(&mut self) {
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

    /// Fills every ROI's window anew from the block (baseline, or mode `baseline`) or from the history.
    fn fill_windows(&mut self) {
        let Head { roi_count, history_frames, capacity_frames, baseline_frames, running, .. } = self.head;
        self.windows.begin(self.settings.percentile);
        for roi in 0..roi_count {
            if running && self.settings.mode == F0Mode::RunningPercentile {
                self.windows.fill(roi, (0..history_frames).map(|frame| self.history[frame * roi_count + roi]));
            } else {
                self.windows.fill(roi, self.block[roi * capacity_frames..][..baseline_frames].iter().copied());
            }
        }
    }
}

/// Saving and loading. The windows are not saved: they follow from block and history.
impl Activity {
    /// Appends the state. Does not allocate when `out` has room: about 8 bytes for each ROI and frame of the baseline
    /// and of the window.
    pub fn save(&self, out: &mut Vec<u8>) -> Result<(), StateError> {
        postcard::to_io(&self.head, &mut *out)?;
        let Head { roi_count, capacity_frames, baseline_frames, running, .. } = self.head;
        for roi in 0..roi_count {
            append(out, &self.block[roi * capacity_frames..][..baseline_frames]);
        }
        if running {
            append(out, &self.history);
        }
        Ok(())
    }

    /// Takes a saved state and returns how many bytes it had. Where it does not fit, nothing changes.
    pub fn load(&mut self, bytes: &[u8]) -> Result<usize, StateError> {
        let (head, rest): (Head, &[u8]) = postcard::take_from_bytes(bytes)?;
        let own = &self.head;
        let counts = [
            ("ROIs", head.roi_count, own.roi_count),
            ("F0 values", head.f0.len(), own.roi_count),
            ("floors", head.floors.len(), own.roi_count),
            ("sums of F", head.raw_sum.len(), own.roi_count),
            ("baseline means", head.z_mean.len(), own.roi_count),
            ("baseline SDs", head.z_sd.len(), own.roi_count),
            ("history frames", head.history_frames, own.history_frames),
            ("baseline capacity", head.capacity_frames, own.capacity_frames),
            ("baseline frames (at most)", head.baseline_frames, head.baseline_frames.min(own.capacity_frames)),
            ("history position (below)", head.history_at, head.history_at.min(own.history_frames.max(1) - 1)),
        ];
        for (what, got, expected) in counts {
            if got != expected {
                return Err(StateError::Shape { what, got, expected });
            }
        }
        let history_len = if head.running { self.history.len() } else { 0 };
        let needed = (head.roi_count * head.baseline_frames + history_len) * size_of::<f64>();
        let tables = rest.get(..needed).ok_or(StateError::Short { got: rest.len(), expected: needed })?;
        let (block, history) = tables.split_at(needed - history_len * size_of::<f64>());
        let row_bytes = head.baseline_frames * size_of::<f64>();
        for roi in 0..head.roi_count {
            let row = &mut self.block[roi * head.capacity_frames..][..head.baseline_frames];
            read(&block[roi * row_bytes..][..row_bytes], row);
        }
        if head.running {
            read(history, &mut self.history);
        } else {
            self.history.fill(f64::NAN);
        }
        self.head = head;
        self.fill_windows();
        Ok(bytes.len() - rest.len() + needed)
    }
}

/// Appends values as little-endian bytes.
fn append(out: &mut Vec<u8>, values: &[f64]) {
    for value in values {
        out.extend_from_slice(&value.to_le_bytes());
    }
}

/// Reads little-endian bytes into values, as many as there are of both.
fn read(bytes: &[u8], values: &mut [f64]) {
    let (words, _) = bytes.as_chunks::<8>();
    for (value, word) in values.iter_mut().zip(words) {
        *value = f64::from_le_bytes(*word);
    }
}

#[cfg(test)]
mod tests;

//! The baseline block, and dF/F of the baseline as the calibration and the z-score see it.
//!
//! In: the corrected F of every valid frame of the baseline, ROI after ROI, in counts. Out: dF/F of each of its
//! frames against a *circular* F0: the percentile over the window that ends with that frame and goes back through the
//! block, from its first frame on to its last, as often around as the window is long. It is what the running F0 gives
//! when the baseline is shown again and again, and it depends on the frame's place in the block alone.
//!
//! Cost: one pass of the window, about 0.05 us per ROI and frame for a window of 3,000.

use super::percentile::Windows;
use crate::config::activity::{ActivityConfig, F0Mode};

/// Corrected F of a baseline, borrowed: `roi_count` rows of `frames` values in counts, `stride` values apart.
#[derive(Debug, Clone, Copy)]
pub struct BaselineBlock<'a> {
    values: &'a [f64],
    roi_count: usize,
    frames: usize,
    stride: usize,
}

impl<'a> BaselineBlock<'a> {
    /// No ROI, no frame.
    pub const EMPTY: Self = Self { values: &[], roi_count: 0, frames: 0, stride: 0 };

    /// A block whose rows lie `stride` values apart (`stride >= frames`). `None` where `values` is too short.
    pub fn new(values: &'a [f64], roi_count: usize, frames: usize, stride: usize) -> Option<Self> {
        let needed = match roi_count {
            0 => 0,
            rows => (rows - 1).checked_mul(stride)?.checked_add(frames)?,
        };
        (stride >= frames && values.len() >= needed).then_some(Self { values, roi_count, frames, stride })
    }

    /// Rows in the block.
    pub fn roi_count(&self) -> usize {
        self.roi_count
    }

    /// Frames in the block.
    pub fn frames(&self) -> usize {
        self.frames
    }

    /// The frames of one ROI, oldest first; `None` where there is no such ROI.
    pub fn row(&self, roi: usize) -> Option<&'a [f64]> {
        let start = (roi < self.roi_count).then(|| roi * self.stride)?;
        self.values.get(start..start + self.frames)
    }
}

/// How F0 is found: what the configuration says, with the window in frames.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct F0Settings {
    /// Running percentile, or the percentile of the whole baseline.
    pub mode: F0Mode,
    /// The percentile, in percent.
    pub percentile: f64,
    /// Length of the running window, in frames; 1 or more.
    pub window_frames: usize,
    /// An ROI whose F0 is at or below this is invalid; counts.
    pub floor: f64,
}

impl F0Settings {
    /// The settings of `config` with a running window of `window_frames` (0 counts as 1).
    pub fn new(config: &ActivityConfig, window_frames: usize) -> Self {
        Self {
            mode: config.f0_mode,
            percentile: config.f0_percentile,
            window_frames: window_frames.max(1),
            floor: config.f0_floor,
        }
    }

    /// (F - F0)/F0, or NaN where the ROI is invalid: F0 at or below the floor, or anything not finite.
    pub(crate) fn dff(&self, f: f64, f0: f64) -> f64 {
        // Written so that a NaN among the two fails the condition.
        let dff = if f0 > self.floor { (f - f0) / f0 } else { f64::NAN };
        if dff.is_finite() { dff } else { f64::NAN }
    }
}

/// dF/F of one ROI's baseline `f` against the circular F0, into `out` (as long as `f`); NaN where the ROI is invalid.
/// `window` is one ROI's, with `window_frames` slots (running percentile) or `f.len()` (whole baseline); with fewer,
/// or with an `out` of another length, everything is NaN.
pub fn circular_dff(f: &[f64], settings: &F0Settings, window: &mut Windows, out: &mut [f64]) {
    out.fill(f64::NAN);
    let frames = f.len();
    let window_frames = match settings.mode {
        F0Mode::RunningPercentile => settings.window_frames,
        F0Mode::Baseline => frames,
    };
    if frames == 0 || out.len() != frames || window.slots() < window_frames {
        return;
    }
    window.begin(settings.percentile);
    if settings.mode == F0Mode::Baseline {
        let f0 = window.fill(0, f.iter().copied());
        for (dff, &value) in out.iter_mut().zip(f) {
            *dff = settings.dff(value, f0);
        }
        return;
    }
    // The oldest value stands in the slot from which on `frames` steps, going around, end at the first one: so the
    // window is left as it was found, and the history can go on from it.
    let mut oldest = (window_frames - frames % window_frames) % window_frames;
    let slots = (0..window_frames).map(|slot| (slot + window_frames - oldest) % window_frames);
    window.fill(0, slots.map(|age| circular_back(f, window_frames - 1 - age)));
    for (dff, &value) in out.iter_mut().zip(f) {
        *dff = settings.dff(value, window.set(0, oldest, value));
        oldest += 1;
        if oldest == window_frames {
            oldest = 0;
        }
    }
}

/// The value of `f` that stands `back` frames before its end, going around (0: the last).
pub(crate) fn circular_back(f: &[f64], back: usize) -> f64 {
    match f.len() {
        0 => f64::NAN,
        frames => f[frames - 1 - back % frames],
    }
}

/// Mean and standard deviation (n - 1) of the finite values, summed in their order; NaN where there are too few.
pub fn mean_sd(values: &[f64]) -> (f64, f64) {
    let finite = || values.iter().copied().filter(|v| v.is_finite());
    let (mut count, mut sum) = (0.0, 0.0);
    for value in finite() {
        count += 1.0;
        sum += value;
    }
    if count == 0.0 {
        return (f64::NAN, f64::NAN);
    }
    let mean = sum / count;
    if count < 2.0 {
        return (mean, f64::NAN);
    }
    let mut squares = 0.0;
    for value in finite() {
        squares += (value - mean) * (value - mean);
    }
    (mean, (squares / (count - 1.0)).sqrt())
}

/// dF/F in standard deviations of the baseline's, or NaN where there is no spread to divide by.
pub fn z_score(dff: f64, mean: f64, sd: f64) -> f64 {
    let z = if sd > 0.0 { (dff - mean) / sd } else { f64::NAN };
    if z.is_finite() { z } else { f64::NAN }
}

#[cfg(test)]
mod tests {
    use super::super::percentile::hazen;
    use super::*;
    use proptest::prelude::*;

    fn settings(mode: F0Mode, window_frames: usize) -> F0Settings {
        F0Settings { mode, percentile: 10.0, window_frames, floor: 1.0 }
    }

    /// The definition, frame by frame.
    fn slow_dff(f: &[f64], window_frames: usize) -> Vec<f64> {
        (0..f.len())
            .map(|at| {
                let n = f.len();
                let mut window: Vec<f64> =
                    (0..window_frames).map(|back| f[(at + n * window_frames - back) % n]).collect();
                window.sort_by(f64::total_cmp);
                let f0 = hazen(&window, 10.0);
                (f[at] - f0) / f0
            })
            .collect()
    }

    proptest! {
        #[test]
        fn the_window_goes_around_the_baseline(
            f in prop::collection::vec((100i32..140).prop_map(f64::from), 1..40),
            window_frames in 1usize..100,
        ) {
            let mut window = Windows::new(0.0, 1, window_frames);
            let mut dff = vec![0.0; f.len()];
            circular_dff(&f, &settings(F0Mode::RunningPercentile, window_frames), &mut window, &mut dff);
            prop_assert_eq!(dff, slow_dff(&f, window_frames));
        }
    }

    #[test]
    fn the_baseline_mode_has_one_f0() {
        let f = [10.0, 30.0, 20.0, 40.0, 50.0];
        let mut dff = [0.0; 5];
        circular_dff(&f, &settings(F0Mode::Baseline, 2), &mut Windows::new(0.0, 1, 5), &mut dff);
        assert_eq!(dff, [0.0, 2.0, 1.0, 3.0, 4.0]);
    }

    #[test]
    fn an_f0_at_the_floor_makes_the_roi_invalid() {
        let s = settings(F0Mode::Baseline, 1);
        assert!(s.dff(5.0, 1.0).is_nan());
        assert!(s.dff(5.0, -3.0).is_nan());
        assert!(s.dff(5.0, f64::NAN).is_nan());
        assert!(s.dff(f64::INFINITY, 2.0).is_nan());
        assert_eq!(s.dff(5.0, 2.0), 1.5);
    }

    #[test]
    fn the_sd_divides_by_n_minus_1() {
        assert_eq!(mean_sd(&[1.0, f64::NAN, 3.0]), (2.0, 2.0f64.sqrt()));
        assert!(mean_sd(&[1.0]).1.is_nan());
        assert!(mean_sd(&[]).0.is_nan());
        assert!(z_score(1.0, 0.0, 0.0).is_nan());
        assert_eq!(z_score(3.0, 1.0, 4.0), 0.5);
    }

    #[test]
    fn a_block_that_is_too_short_is_refused() {
        let values = [1.0; 7];
        assert!(BaselineBlock::new(&values, 2, 3, 4).is_some());
        assert!(BaselineBlock::new(&values, 2, 4, 4).is_none());
        assert!(BaselineBlock::new(&values, 2, 3, 2).is_none());
        assert!(BaselineBlock::new(&values, usize::MAX, 3, 4).is_none());
        assert!(BaselineBlock::new(&[], 0, 0, 0).is_some());
    }
}

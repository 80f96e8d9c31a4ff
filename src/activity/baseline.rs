//! The baseline block, and dF/F of the baseline as the calibration and the z-score see it.
//!
//! In: the corrected F of every valid frame of the baseline, ROI after ROI, in counts. Out: dF/F of each of its
//! frames against a *circular* F0: the percentile over the window that ends with that frame and goes back through the
//! block, from its first frame on to its last, as often around as the window is long. It is what the running F0 gives
//! when the baseline is shown again and again, and it depends on the frame's place in the block alone.
//!
//! Cost: one pass of the window, about 0.04 us per ROI and frame for a window of 3,000.

use super::oasis::{Deconvolver, HISTORY_FRAMES};
use super::percentile::Windows;
use super::running::{ExponentialF0, Smoother};
use super::settings::ActivitySettings;
use super::voltage::SpikeDetector;
use crate::config::activity::{Bleaching, Deconvolution, F0Mode, ZStatistics};
use crate::config::decode::Signal;

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

/// dF/F of one ROI's baseline `f` against the circular F0, into `out` (as long as `f`); NaN where the ROI is invalid.
/// `window` is one ROI's, with `window_frames` slots (running percentile) or `f.len()` (whole baseline); with fewer,
/// or with an `out` of another length, everything is NaN.
pub fn circular_dff(f: &[f64], settings: &ActivitySettings, window: &mut Windows, out: &mut [f64]) {
    out.fill(f64::NAN);
    let frames = f.len();
    let window_frames = match settings.mode {
        F0Mode::RunningPercentile => settings.window_frames,
        F0Mode::Baseline => frames,
        F0Mode::Exponential | F0Mode::Robust => 0,
    };
    if frames == 0 || out.len() != frames || window.slots() < window_frames {
        return;
    }
    match settings.mode {
        F0Mode::RunningPercentile => running_dff(f, settings, window, out),
        F0Mode::Baseline => {
            window.begin(settings.percentile);
            let f0 = window.fill(0, f.iter().copied());
            out.iter_mut().zip(f).for_each(|(dff, &f)| *dff = settings.dff(f, f0));
        }
        F0Mode::Exponential | F0Mode::Robust => {
            let mut f0 = ExponentialF0::default();
            f.iter().for_each(|&f| _ = f0.step(f, settings));
            out.iter_mut().zip(f).for_each(|(dff, &f)| *dff = settings.dff(f, f0.step(f, settings)));
        }
    }
}

/// The same with the running percentile. It leaves `window` as the history after the baseline has it, the oldest value
/// in slot 0.
fn running_dff(f: &[f64], settings: &ActivitySettings, window: &mut Windows, out: &mut [f64]) {
    let (frames, window_frames) = (f.len(), settings.window_frames);
    window.begin(settings.percentile);
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

/// Memory for one ROI's baseline, taken once.
#[derive(Debug, Clone)]
pub struct BaselineScratch {
    pub(crate) window: Windows,
    smoother: Smoother,
    deconvolver: Option<Deconvolver>,
    spikes: Option<SpikeDetector>,
}

impl BaselineScratch {
    /// For baselines of at most so many frames.
    pub fn new(settings: &ActivitySettings, baseline_frames: usize) -> Self {
        Self {
            window: Windows::new(settings.percentile, 1, settings.history_frames().max(baseline_frames)),
            smoother: Smoother::new(settings, 1),
            deconvolver: deconvolver(settings, 1),
            spikes: settings.spikes.map(|spikes| SpikeDetector::new(spikes, 1)),
        }
    }

    /// Slots of the window.
    pub fn window_frames(&self) -> usize {
        self.window.slots()
    }

    /// The value of `percent` among the finite ones of `values`, which are no more than the window has slots.
    pub(crate) fn percentile(&mut self, values: impl Iterator<Item = f64>, percent: f64) -> f64 {
        self.window.begin(percent);
        self.window.fill(0, values)
    }

    /// Centre and spread of a baseline's dF/F, as the z-score takes them.
    pub(crate) fn z_statistics(&mut self, dff: &[f64], settings: &ActivitySettings) -> (f64, f64) {
        match settings.z_statistics {
            ZStatistics::Plain => mean_sd(dff),
            ZStatistics::Robust => {
                let median = self.percentile(dff.iter().copied(), 50.0);
                let deviation = self.percentile(dff.iter().map(|v| (v - median).abs()), 50.0);
                (median, SD_OF_MAD * deviation)
            }
        }
    }

    /// Smooths a baseline's dF/F as if it had been shown before.
    pub(crate) fn smooth(&mut self, dff: &mut [f64]) {
        if self.smoother.is_on() {
            self.smoother.show(0, dff);
            dff.iter_mut().for_each(|dff| *dff = self.smoother.step(0, *dff));
        }
    }
}

/// The standard deviation of a normal distribution in median absolute deviations.
const SD_OF_MAD: f64 = 1.482_602_218_505_602;

/// The deconvolver that the settings ask for.
pub(crate) fn deconvolver(settings: &ActivitySettings, rois: usize) -> Option<Deconvolver> {
    (settings.deconvolution != Deconvolution::Off)
        .then(|| Deconvolver::new(settings.deconvolution.is_second_order(), settings.lag_frames, rois, HISTORY_FRAMES))
}

/// A signal of one ROI over its baseline `f`, into `out` (as long), as it would be if the baseline were shown again:
/// dF/F against the circular F0, its z-score, or the rate. NaN where the ROI is invalid.
pub fn baseline_signal(
    f: &[f64],
    settings: &ActivitySettings,
    signal: Signal,
    scratch: &mut BaselineScratch,
    out: &mut [f64],
) {
    circular_dff(f, settings, &mut scratch.window, out);
    match signal {
        Signal::Dff => scratch.smooth(out),
        Signal::Z => {
            scratch.smooth(out);
            let (mean, sd) = scratch.z_statistics(out, settings);
            out.iter_mut().for_each(|value| *value = z_score(*value, mean, sd));
        }
        Signal::Rate => baseline_rate(f, settings, scratch, out),
    }
}

/// From dF/F of a baseline, in `out`, to its rate.
fn baseline_rate(f: &[f64], settings: &ActivitySettings, scratch: &mut BaselineScratch, out: &mut [f64]) {
    let rest = match scratch.deconvolver {
        Some(_) => scratch.percentile(out.iter().copied(), settings.rest_percentile),
        None => f64::NAN,
    };
    let BaselineScratch { deconvolver, spikes, .. } = scratch;
    let defined = |dff: f64, rate: f64| if dff.is_finite() { rate } else { f64::NAN };
    if let Some(spikes) = spikes {
        spikes.show(0, f);
        out.iter_mut().zip(f).for_each(|(value, &f)| *value = defined(*value, spikes.step(0, f).rate_hz));
    } else if let Some(deconvolver) = deconvolver {
        deconvolver.show(0, settings.poles_of(out), out, rest);
        out.iter_mut().for_each(|value| *value = defined(*value, deconvolver.step(0, *value - rest)));
    } else {
        out.fill(f64::NAN);
    }
}

/// Takes an ROI's fading out of its baseline, where the settings ask for that, and gives its rate: the share of its
/// brightness that it loses a frame, 0 for none.
pub fn undo_fading(f: &mut [f64], settings: &ActivitySettings, scratch: &mut BaselineScratch) -> f64 {
    let rate = fading(f, settings, scratch);
    if rate > 0.0 {
        f.iter_mut().zip(0..).for_each(|(f, frame)| *f *= fading_gain(rate, frame));
    }
    rate
}

/// How much of its brightness an ROI loses a frame, as a rate of an exponential; 0 where it loses none, or nothing can
/// be said. Fitted to the logarithms of the medians of twenty stretches of its baseline, which transients leave alone.
fn fading(f: &[f64], settings: &ActivitySettings, scratch: &mut BaselineScratch) -> f64 {
    let length = f.len() / FADING_BINS;
    if settings.bleaching == Bleaching::Off || length < 5 {
        return 0.0;
    }
    let mut logs = [0.0; FADING_BINS];
    for (log, bin) in logs.iter_mut().zip(f.chunks_exact(length)) {
        *log = libm::log(scratch.percentile(bin.iter().copied(), 50.0));
    }
    let middle = (FADING_BINS as f64 - 1.0) / 2.0;
    let (mut slope, mut squares) = (0.0, 0.0);
    for (index, log) in logs.iter().enumerate() {
        slope += (index as f64 - middle) * log;
        squares += (index as f64 - middle) * (index as f64 - middle);
    }
    let rate = -slope / squares / length as f64;
    // Written so that a NaN is none.
    if rate > 0.0 && rate.is_finite() { rate } else { 0.0 }
}

/// Stretches of a baseline to which fading is fitted.
const FADING_BINS: usize = 20;
/// The most that fading is made up for.
const FADING_GAIN_MAX: f64 = 2.0;

/// By how much F of a frame is multiplied to undo fading at `rate` since frame 0; 1 to 2.
pub(crate) fn fading_gain(rate: f64, frame: u64) -> f64 {
    if rate > 0.0 { libm::exp(rate * frame as f64).min(FADING_GAIN_MAX) } else { 1.0 }
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
    use crate::config::activity::ActivityConfig;
    use proptest::prelude::*;

    fn settings(mode: F0Mode, window_frames: usize) -> ActivitySettings {
        let config = ActivityConfig { f0_mode: mode, f0_floor: 1.0, ..ActivityConfig::default() };
        ActivitySettings::new(&config, window_frames)
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

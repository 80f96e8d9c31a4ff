//! Running values of each ROI that need no window: the exponential F0, and the smoothing of dF/F.
//!
//! A value that is not finite enters nothing. Sums of the boxcar are added up anew for each frame, from the oldest
//! value to the newest, so that nothing is left of a value that has gone. Cost: nanoseconds for each ROI and frame.

use super::settings::ActivitySettings;
use crate::config::activity::{F0Mode, Smoothing};
use serde::{Deserialize, Serialize};

/// Mean absolute value of the lower half of a normal distribution, in standard deviations, inverted.
const SD_OF_MEAN: f64 = 1.253_314_137_315_500_1;
/// Frames below F0 before their mean says something of the noise.
const NOISE_FRAMES_MIN: u64 = 10;

/// The exponential F0 of one ROI. Until there have been as many frames as the time constant has, it is their mean.
///
/// Robust: a frame counts as no more than so many standard deviations above F0. The noise is that of the frames below
/// F0, among which there are no transients. What lasts still raises F0, slowly: a cell that stays brighter is believed
/// in the end.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct ExponentialF0 {
    f0: f64,
    frames: u64,
    below: f64,
    frames_below: u64,
}

impl ExponentialF0 {
    /// One frame; gives F0 with it, NaN before the first.
    pub(crate) fn step(&mut self, f: f64, settings: &ActivitySettings) -> f64 {
        if f.is_finite() {
            self.enter(f, settings);
        }
        self.value()
    }

    /// F0; NaN before the first frame.
    pub(crate) fn value(&self) -> f64 {
        if self.frames > 0 { self.f0 } else { f64::NAN }
    }

    /// Adds to F0, as an offset that is found late does.
    pub(crate) fn shift(&mut self, delta: f64) {
        self.f0 += delta;
    }

    fn enter(&mut self, f: f64, settings: &ActivitySettings) {
        let gain = |frames: u64| settings.f0_gain.max(1.0 / (frames as f64 + 1.0));
        let mut distance = f - self.f0;
        if self.frames > 0 && settings.mode == F0Mode::Robust {
            if distance < 0.0 {
                self.below += gain(self.frames_below) * (-distance - self.below);
                self.frames_below += 1;
            } else if self.frames_below >= NOISE_FRAMES_MIN {
                distance = distance.min(settings.f0_clip_sd * SD_OF_MEAN * self.below);
            }
        }
        self.f0 += gain(self.frames) * distance;
        self.frames += 1;
    }
}

/// The smoothing of several ROIs.
#[derive(Debug, Clone)]
pub(crate) struct Smoother {
    kind: Smoothing,
    gain: f64,
    frames: usize,
    /// ROI after ROI: the last values (boxcar), or the mean alone.
    values: Vec<f64>,
    counts: Vec<u64>,
}

impl Smoother {
    pub(crate) fn new(settings: &ActivitySettings, rois: usize) -> Self {
        let frames = match settings.smoothing {
            Smoothing::Off => 0,
            Smoothing::Boxcar => settings.smoothing_frames,
            Smoothing::Exponential => 1,
        };
        let (kind, gain) = (settings.smoothing, settings.smoothing_gain);
        Self { kind, gain, frames, values: vec![0.0; frames * rois], counts: vec![0; rois] }
    }

    pub(crate) fn is_on(&self) -> bool {
        self.kind != Smoothing::Off
    }

    /// Forgets an ROI.
    pub(crate) fn begin(&mut self, roi: usize) {
        self.counts[roi] = 0;
    }

    /// Forgets an ROI and shows it these values.
    pub(crate) fn show(&mut self, roi: usize, values: &[f64]) {
        self.begin(roi);
        values.iter().for_each(|&value| _ = self.step(roi, value));
    }

    /// One value of an ROI; gives the smoothed one, NaN for one that is not finite.
    pub(crate) fn step(&mut self, roi: usize, value: f64) -> f64 {
        if !value.is_finite() {
            return f64::NAN;
        }
        let own = &mut self.values[roi * self.frames..][..self.frames];
        let count = self.counts[roi];
        self.counts[roi] = count.wrapping_add(1);
        match self.kind {
            Smoothing::Off => value,
            Smoothing::Boxcar => {
                let newest = (count % own.len() as u64) as usize;
                own[newest] = value;
                let kept = (count + 1).min(own.len() as u64) as usize;
                let oldest = (newest + 1 + own.len() - kept) % own.len();
                (0..kept).map(|k| own[(oldest + k) % own.len()]).fold(0.0, |sum, value| sum + value) / kept as f64
            }
            Smoothing::Exponential => {
                own[0] = if count == 0 { value } else { own[0] + self.gain * (value - own[0]) };
                own[0]
            }
        }
    }

    /// What changes, for saving.
    pub(crate) fn state(&self) -> (&Vec<f64>, &Vec<u64>) {
        (&self.values, &self.counts)
    }

    /// Takes a saved state; false where it is of another shape.
    pub(crate) fn restore(&mut self, (values, counts): (Vec<f64>, Vec<u64>)) -> bool {
        let fits = values.len() == self.values.len() && counts.len() == self.counts.len();
        if fits {
            (self.values, self.counts) = (values, counts);
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::activity::ActivityConfig;

    fn settings(change: impl FnOnce(&mut ActivityConfig)) -> ActivitySettings {
        let mut config = ActivityConfig::default();
        change(&mut config);
        ActivitySettings::new(&config, 1)
    }

    /// A resting level of 100 with noise, and a transient of 150 counts for a third of the time.
    fn f0_of_an_active_cell(mode: F0Mode) -> f64 {
        let settings = settings(|c| (c.f0_mode, c.f0_tau_s) = (mode, 10.0));
        let mut f0 = ExponentialF0::default();
        let mut state = 1u64;
        for frame in 0..6_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let noise = (state >> 40) as f64 / (1u64 << 24) as f64 - 0.5;
            let transient = if frame > 300 && frame % 90 < 30 { 150.0 } else { 0.0 };
            f0.step(100.0 + transient + 20.0 * noise, &settings);
        }
        f0.value()
    }

    #[test]
    fn activity_raises_the_exponential_f0_and_hardly_the_robust_one() {
        let (plain, robust) = (f0_of_an_active_cell(F0Mode::Exponential), f0_of_an_active_cell(F0Mode::Robust));
        assert!(plain > 135.0, "{plain}");
        assert!((95.0..110.0).contains(&robust), "{robust}");
    }

    #[test]
    fn the_exponential_f0_is_the_mean_at_first_and_then_forgets() {
        let settings = settings(|c| (c.f0_mode, c.f0_tau_s) = (F0Mode::Exponential, 2.0));
        let mut f0 = ExponentialF0::default();
        assert!(f0.step(f64::NAN, &settings).is_nan());
        let means = [10.0, 20.0, 60.0].map(|f| f0.step(f, &settings));
        assert_eq!(means.map(|m| (m * 1e9).round() / 1e9), [10.0, 15.0, 30.0]);
        (0..600).for_each(|_| _ = f0.step(50.0, &settings));
        let before = f0.value();
        // One time constant, 60 frames.
        (0..60).for_each(|_| _ = f0.step(150.0, &settings));
        assert!((f0.value() - (150.0 - (150.0 - before) / core::f64::consts::E)).abs() < 1e-6);
    }

    #[test]
    fn smoothing_looks_back_and_leaves_out_what_is_not_finite() {
        let mut boxcar = Smoother::new(&settings(|c| c.smoothing = Smoothing::Boxcar), 2);
        let smooth = [3.0, 6.0, f64::NAN, 9.0, 0.0].map(|v| boxcar.step(1, v));
        assert_eq!((smooth[0], smooth[1], smooth[3], smooth[4]), (3.0, 4.5, 6.0, 5.0));
        assert!(smooth[2].is_nan());
        assert_eq!(boxcar.step(0, 1.0), 1.0, "the other ROI is its own");
        let on = |c: &mut ActivityConfig| (c.smoothing, c.smoothing_tau_s) = (Smoothing::Exponential, 1.0);
        let mut exponential = Smoother::new(&settings(on), 1);
        exponential.step(0, 0.0);
        let last = (0..30).map(|_| exponential.step(0, 1.0)).last().unwrap();
        assert!((last - (1.0 - 1.0 / core::f64::consts::E)).abs() < 1e-12, "{last}");
    }
}

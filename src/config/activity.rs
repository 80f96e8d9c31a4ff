//! Configuration of the activity stage: detector offset, F0, dF/F, z-score, deconvolution, spikes of voltage imaging.

use serde::{Deserialize, Serialize};

/// What the indicator reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActivityMode {
    /// Calcium: slow transients on a baseline.
    Calcium,
    /// Voltage: spikes of a frame or two, at 1 kHz or so.
    Voltage,
}

/// How F0 of an ROI is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum F0Mode {
    /// The percentile over the last frames, this one included.
    RunningPercentile,
    /// The percentile over the whole baseline block, fixed from its end on.
    Baseline,
    /// The exponential running mean: activity raises it.
    Exponential,
    /// The same, in which a frame counts as no more than `f0_clip_sd` of the noise above F0: transients hardly raise
    /// it.
    Robust,
}

/// Whether the indicator's fading is undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bleaching {
    /// No.
    Off,
    /// By an exponential that is fitted to each ROI's medians in the baseline, up to a factor of 2.
    Exponential,
}

/// How dF/F is smoothed, causally.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Smoothing {
    /// Not.
    Off,
    /// Mean of the last `smoothing_frames`.
    Boxcar,
    /// Exponential mean over `smoothing_tau_s`.
    Exponential,
}

/// What the z-score is measured in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ZStatistics {
    /// Mean and standard deviation of the baseline's dF/F.
    Plain,
    /// Its median, and 1.4826 times the median absolute deviation from that: transients do not count.
    Robust,
}

/// The model of the deconvolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Deconvolution {
    /// None.
    Off,
    /// An instant rise and an exponential decay.
    Ar1,
    /// An exponential rise and an exponential decay.
    Ar2,
}

impl Deconvolution {
    /// Whether the rise takes time.
    pub(crate) fn is_second_order(self) -> bool {
        self == Deconvolution::Ar2
    }
}

/// Which way a spike goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Polarity {
    /// Brighter.
    Positive,
    /// Darker.
    Negative,
}

/// What turns the mean of an ROI into dF/F.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ActivityConfig {
    /// `calcium` (the default) or `voltage`: the latter counts spikes, and `rate` is their number a second.
    pub mode: ActivityMode,
    /// Frames a second of the plane that controls, 0.1 to 20,000; what the time constants here are counted in. Default
    /// 30.
    pub frame_rate_hz: f64,
    /// `running_percentile` (the default), `baseline`, `exponential` or `robust`.
    pub f0_mode: F0Mode,
    /// The percentile that is F0, in percent, 0 to 100. Default 10.
    pub f0_percentile: f64,
    /// Length of the running window in trial lengths, above 0 to 100. Default 4 (3,000 frames for a trial of 750).
    pub f0_window_trials: f64,
    /// Time constant of F0 in the modes `exponential` and `robust`, 0.1 to 3,600 s. Default 60.
    pub f0_tau_s: f64,
    /// How far above F0 a frame counts in the mode `robust`, in standard deviations of the noise (taken from the
    /// frames below F0), 0.5 to 10. Default 1.
    pub f0_clip_sd: f64,
    /// An ROI whose F0 is at or below this is invalid; counts above the detector's offset, 0 or more. Default 0.
    pub f0_floor: f64,
    /// An ROI is invalid as well where its F0 is at or below this share of its own mean F in the baseline, 0 to 1.
    /// Default 0.1. It applies where a neuropil is removed: what is left of a dim cell may be next to nothing.
    pub f0_floor_share: f64,
    /// What the detector reads in the dark, in counts (-65,536 to 65,535). Absent: estimated from pixels.
    pub detector_offset_counts: Option<f64>,
    /// `off` (the default) or `exponential`: whether F after the baseline is corrected for the indicator's fading.
    pub bleaching: Bleaching,
    /// `off` (the default), `boxcar` or `exponential`: smoothing of dF/F, and with it of z; not of the rate.
    pub smoothing: Smoothing,
    /// Frames of the boxcar, 1 to 256. Default 3.
    pub smoothing_frames: u32,
    /// Time constant of the exponential smoothing, 0.001 to 60 s. Default 0.1.
    pub smoothing_tau_s: f64,
    /// Whether the z-score is computed. It costs a pass over the whole baseline of every ROI when that ends (about
    /// 0.05 us per ROI and frame), so turn it off with hundreds of ROIs and `decode.signal = "dff"`. Default true.
    pub z_score: bool,
    /// `plain` (the default) or `robust`.
    pub z_statistics: ZStatistics,
    /// `off` (the default), `ar1` or `ar2`: deconvolution of dF/F; `rate` is dF/F a frame.
    pub deconvolution: Deconvolution,
    /// The rate at a frame is that of the frame this many before it, 0 to 256. Default 0. A lag sees more and misses
    /// less.
    pub deconvolution_lag_frames: u32,
    /// Time constant of the indicator's decay, 0.001 to 60 s. Absent: estimated for each ROI from the baseline, or 1 s
    /// where nothing can be seen there.
    pub decay_s: Option<f64>,
    /// Time constant of its rise for `ar2`, above 0, below the decay. Absent: estimated, or a tenth of the decay.
    pub rise_s: Option<f64>,
    /// The percentile of the baseline's dF/F that counts as no activity, in percent, 0 to 100. Default 50.
    pub rest_percentile: f64,
    /// Spikes, in the mode `voltage`.
    pub voltage: VoltageConfig,
}

/// How spikes are found in the mode `voltage`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VoltageConfig {
    /// Corner of the causal high-pass (Butterworth of order 4), 0.1 Hz to 0.45 of the frame rate. Default 50.
    pub highpass_hz: f64,
    /// `positive` (the default) or `negative`.
    pub polarity: Polarity,
    /// A spike is a rise beyond this many standard deviations of the running noise, 1 to 100. Default 4.
    pub threshold_sd: f64,
    /// Time constant of the running noise, 0.01 to 600 s. Default 5.
    pub noise_tau_s: f64,
    /// After a spike none is counted for this long, 0 to 1 s. Default 0.002.
    pub refractory_s: f64,
    /// Time constant over which spikes make a rate, 0.001 to 60 s. Default 0.1.
    pub rate_tau_s: f64,
}

impl Default for ActivityConfig {
    fn default() -> Self {
        Self {
            mode: ActivityMode::Calcium,
            frame_rate_hz: 30.0,
            f0_mode: F0Mode::RunningPercentile,
            f0_percentile: 10.0,
            f0_window_trials: 4.0,
            f0_tau_s: 60.0,
            f0_clip_sd: 1.0,
            f0_floor: 0.0,
            f0_floor_share: 0.1,
            detector_offset_counts: None,
            bleaching: Bleaching::Off,
            smoothing: Smoothing::Off,
            smoothing_frames: 3,
            smoothing_tau_s: 0.1,
            z_score: true,
            z_statistics: ZStatistics::Plain,
            deconvolution: Deconvolution::Off,
            deconvolution_lag_frames: 0,
            decay_s: None,
            rise_s: None,
            rest_percentile: 50.0,
            voltage: VoltageConfig::default(),
        }
    }
}

impl Default for VoltageConfig {
    fn default() -> Self {
        Self {
            highpass_hz: 50.0,
            polarity: Polarity::Positive,
            threshold_sd: 4.0,
            noise_tau_s: 5.0,
            refractory_s: 0.002,
            rate_tau_s: 0.1,
        }
    }
}

impl ActivityConfig {
    /// Frames of the running window for trials of `trial_frames`: the product, rounded half away from zero, 1 or more.
    pub fn f0_window_frames(&self, trial_frames: u32) -> usize {
        let frames = (self.f0_window_trials * f64::from(trial_frames)).round();
        if frames >= 1.0 { frames as usize } else { 1 }
    }

    /// Whether each ROI has a rate: deconvolved, or of its spikes.
    pub fn has_rate(&self) -> bool {
        self.deconvolution != Deconvolution::Off || self.mode == ActivityMode::Voltage
    }

    /// Pushes one sentence for each value that cannot be used.
    pub fn validate(&self, section: &str, violations: &mut Vec<String>) {
        let mut range = |key: &str, value: f64, low: f64, high: f64, unit: &str| {
            if !(low..=high).contains(&value) {
                violations.push(format!("{section}.{key}: {value}, expected {low} to {high}{unit}"));
            }
        };
        range("f0_percentile", self.f0_percentile, 0.0, 100.0, " percent");
        range("f0_floor_share", self.f0_floor_share, 0.0, 1.0, "");
        range("frame_rate_hz", self.frame_rate_hz, 0.1, 20_000.0, " Hz");
        range("f0_tau_s", self.f0_tau_s, 0.1, 3_600.0, " s");
        range("f0_clip_sd", self.f0_clip_sd, 0.5, 10.0, " standard deviations");
        range("smoothing_frames", f64::from(self.smoothing_frames), 1.0, 256.0, " frames");
        range("smoothing_tau_s", self.smoothing_tau_s, 0.001, 60.0, " s");
        range("deconvolution_lag_frames", f64::from(self.deconvolution_lag_frames), 0.0, 256.0, " frames");
        range("rest_percentile", self.rest_percentile, 0.0, 100.0, " percent");
        if let Some(offset) = self.detector_offset_counts {
            range("detector_offset_counts", offset, -65_536.0, 65_535.0, " counts");
        }
        if let Some(decay_s) = self.decay_s {
            range("decay_s", decay_s, 0.001, 60.0, " s");
        }
        let voltage = &self.voltage;
        range("voltage.highpass_hz", voltage.highpass_hz, 0.1, self.highpass_max_hz(), " Hz");
        range("voltage.threshold_sd", voltage.threshold_sd, 1.0, 100.0, " standard deviations");
        range("voltage.noise_tau_s", voltage.noise_tau_s, 0.01, 600.0, " s");
        range("voltage.refractory_s", voltage.refractory_s, 0.0, 1.0, " s");
        range("voltage.rate_tau_s", voltage.rate_tau_s, 0.001, 60.0, " s");
        let mut expect = |key: &str, value: f64, good: bool, expected: &str| {
            if !good {
                violations.push(format!("{section}.{key}: {value}, expected {expected}"));
            }
        };
        let window = self.f0_window_trials;
        expect("f0_window_trials", window, window > 0.0 && window <= 100.0, "above 0, to 100 trial lengths");
        let floor = self.f0_floor;
        expect("f0_floor", floor, floor.is_finite() && floor >= 0.0, "0 counts or more");
        if let Some(rise_s) = self.rise_s {
            let below = self.decay_s.unwrap_or(60.0);
            expect("rise_s", rise_s, rise_s > 0.0 && rise_s < below, "above 0, below decay_s");
        }
        if self.mode == ActivityMode::Voltage && self.deconvolution != Deconvolution::Off {
            violations.push(format!("{section}.deconvolution: expected \"off\" in the mode \"voltage\""));
        }
    }

    /// The highest corner that the filter can have. Nobody reads it in the mode `calcium`.
    fn highpass_max_hz(&self) -> f64 {
        if self.mode == ActivityMode::Voltage { 0.45 * self.frame_rate_hz } else { 20_000.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_is_four_trial_lengths() {
        assert_eq!(ActivityConfig::default().f0_window_frames(750), 3000);
        let half = ActivityConfig { f0_window_trials: 0.5, ..Default::default() };
        assert_eq!(half.f0_window_frames(5), 3, "2.5 frames are rounded away from zero");
    }

    fn violations(config: &ActivityConfig) -> Vec<String> {
        let mut violations = Vec::new();
        config.validate("activity", &mut violations);
        violations
    }

    #[test]
    fn every_violation_names_its_key() {
        let bad = ActivityConfig {
            f0_percentile: 101.0,
            f0_window_trials: 0.0,
            f0_floor: f64::NAN,
            f0_floor_share: -0.1,
            detector_offset_counts: Some(f64::INFINITY),
            frame_rate_hz: 0.0,
            f0_tau_s: 0.0,
            f0_clip_sd: 0.0,
            smoothing_frames: 0,
            smoothing_tau_s: f64::NAN,
            deconvolution_lag_frames: 257,
            decay_s: Some(0.0),
            rise_s: Some(1.0),
            rest_percentile: -1.0,
            ..Default::default()
        };
        let found = violations(&bad);
        assert_eq!(found.len(), 14, "{found:#?}");
        assert_eq!(found[0], "activity.f0_percentile: 101, expected 0 to 100 percent");
        assert!(violations(&ActivityConfig::default()).is_empty());
    }

    #[test]
    fn the_voltage_filter_must_fit_the_frame_rate() {
        let voltage = ActivityConfig { mode: ActivityMode::Voltage, frame_rate_hz: 1_000.0, ..Default::default() };
        assert!(violations(&voltage).is_empty());
        let slow = ActivityConfig { frame_rate_hz: 100.0, ..voltage.clone() };
        assert_eq!(violations(&slow), ["activity.voltage.highpass_hz: 50, expected 0.1 to 45 Hz"]);
        let both = ActivityConfig { deconvolution: Deconvolution::Ar1, ..voltage };
        assert_eq!(violations(&both), ["activity.deconvolution: expected \"off\" in the mode \"voltage\""]);
        assert!(both.has_rate() && !ActivityConfig::default().has_rate());
    }
}

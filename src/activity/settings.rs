//! What the configuration says, in frames.

use super::oasis::Poles;
use crate::config::activity::{
    ActivityConfig, ActivityMode, Bleaching, Deconvolution, F0Mode, Polarity, Smoothing, ZStatistics,
};

/// How F becomes dF/F, z and rate: the configuration with its times in frames.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ActivitySettings {
    /// How F0 is found.
    pub mode: F0Mode,
    /// The percentile, in percent.
    pub percentile: f64,
    /// Length of the running window, in frames; 1 or more.
    pub window_frames: usize,
    /// An ROI whose F0 is at or below this is invalid; counts.
    pub floor: f64,
    /// Share of a frame in the exponential F0.
    pub f0_gain: f64,
    /// How far above F0 a frame counts in the robust mode, in standard deviations.
    pub f0_clip_sd: f64,
    /// Whether fading is undone.
    pub bleaching: Bleaching,
    /// How dF/F is smoothed.
    pub smoothing: Smoothing,
    /// Frames of the boxcar; 1 or more.
    pub smoothing_frames: usize,
    /// Share of a frame in the exponential smoothing.
    pub smoothing_gain: f64,
    /// Mean and standard deviation, or median and median absolute deviation.
    pub z_statistics: ZStatistics,
    /// The model of the deconvolution.
    pub deconvolution: Deconvolution,
    /// Its lag, in frames.
    pub lag_frames: u32,
    /// Its poles, where they are given; those of one second and a tenth where they cannot be estimated.
    pub poles: Poles,
    /// Whether an ROI's own decay is estimated.
    pub estimate_decay: bool,
    /// Whether an ROI's own rise is estimated.
    pub estimate_rise: bool,
    /// Percentile of the baseline's dF/F that is no activity, in percent.
    pub rest_percentile: f64,
    /// Spikes, in voltage mode.
    pub spikes: Option<SpikeSettings>,
}

/// How spikes are found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SpikeSettings {
    /// Corner of the high-pass, as a share of the frame rate; below 0.5.
    pub corner: f64,
    /// 1 or -1.
    pub sign: f64,
    /// Threshold, in standard deviations of the noise.
    pub threshold_sd: f64,
    /// Share of a frame in the running noise.
    pub noise_gain: f64,
    /// Frames after a spike in which none is counted.
    pub refractory_frames: u32,
    /// Share of a frame in the rate.
    pub rate_gain: f64,
    /// Frames a second.
    pub frame_rate_hz: f64,
}

/// Share of one frame in an exponential mean over so many frames.
fn gain(frames: f64) -> f64 {
    -libm::expm1(-1.0 / frames)
}

impl ActivitySettings {
    /// The settings of `config` with a running window of `window_frames` (0 counts as 1).
    pub fn new(config: &ActivityConfig, window_frames: usize) -> Self {
        let rate = config.frame_rate_hz;
        let second_order = config.deconvolution.is_second_order();
        let decay_frames = rate * config.decay_s.unwrap_or(1.0);
        let rise_frames = if second_order { config.rise_s.map_or(0.1 * decay_frames, |s| s * rate) } else { 0.0 };
        let voltage = &config.voltage;
        let spikes = (config.mode == ActivityMode::Voltage).then(|| SpikeSettings {
            corner: voltage.highpass_hz / rate,
            sign: if voltage.polarity == Polarity::Negative { -1.0 } else { 1.0 },
            threshold_sd: voltage.threshold_sd,
            noise_gain: gain(rate * voltage.noise_tau_s),
            refractory_frames: (rate * voltage.refractory_s).round() as u32,
            rate_gain: gain(rate * voltage.rate_tau_s),
            frame_rate_hz: rate,
        });
        Self {
            mode: config.f0_mode,
            percentile: config.f0_percentile,
            window_frames: window_frames.max(1),
            floor: config.f0_floor,
            f0_gain: gain(rate * config.f0_tau_s),
            f0_clip_sd: config.f0_clip_sd,
            bleaching: config.bleaching,
            smoothing: config.smoothing,
            smoothing_frames: config.smoothing_frames.max(1) as usize,
            smoothing_gain: gain(rate * config.smoothing_tau_s),
            z_statistics: config.z_statistics,
            deconvolution: config.deconvolution,
            lag_frames: config.deconvolution_lag_frames,
            poles: Poles::of_frames(decay_frames, rise_frames),
            estimate_decay: config.decay_s.is_none(),
            estimate_rise: second_order && config.rise_s.is_none(),
            rest_percentile: config.rest_percentile,
            spikes,
        }
    }

    /// Frames of history that the running percentile has; none in the other modes.
    pub(crate) fn history_frames(&self) -> usize {
        if self.mode == F0Mode::RunningPercentile { self.window_frames } else { 0 }
    }

    /// Whether F0 needs no window.
    pub(crate) fn is_exponential(&self) -> bool {
        matches!(self.mode, F0Mode::Exponential | F0Mode::Robust)
    }

    /// (F - F0)/F0, or NaN where the ROI is invalid: F0 at or below the floor, or anything not finite.
    pub(crate) fn dff(&self, f: f64, f0: f64) -> f64 {
        // Written so that a NaN among the two fails the condition.
        let dff = if f0 > self.floor { (f - f0) / f0 } else { f64::NAN };
        if dff.is_finite() { dff } else { f64::NAN }
    }

    /// The poles for an ROI whose baseline had this dF/F.
    pub(crate) fn poles_of(&self, dff: &[f64]) -> Poles {
        if !self.estimate_decay && !self.estimate_rise {
            return self.poles;
        }
        let Some(found) = super::estimate_poles(dff, self.deconvolution.is_second_order()) else { return self.poles };
        let decay = if self.estimate_decay { found.decay } else { self.poles.decay };
        let rise = if self.estimate_rise { found.rise } else { self.poles.rise };
        let both = Poles { decay, rise };
        // What is given and what is found may not go together: the decay has to be the slower one.
        if both.are_sound() { both } else { self.poles }
    }
}

//! Voltage imaging: spikes of one frame or two, and their rate.
//!
//! In: F of an ROI, at 1 kHz or so, counts. Out: a rate in spikes a second, and whether this frame is a spike. F goes
//! through a causal high-pass (Butterworth of order 4 as two second-order sections by the bilinear transform, 50 Hz by
//! default, as Francioni et al. did), which takes away bleaching, motion and the slow potential. A spike is the frame
//! in which what is left rises beyond n standard deviations of the running noise; it is told at once, and none follows
//! for the refractory time. The rate is the exponential mean of spikes.
//!
//! The running noise is the running median of the absolute value (a frame above it raises it by a small share, a frame
//! below lowers it by the same), over 0.6745: spikes hardly raise the threshold that is to find them. It begins with
//! the mean of the first 100 frames, in which no spikes are found. A frame that is not finite changes nothing.
//!
//! Cost: 15 ns for each ROI and frame. It does not look at the shape of a spike.

use super::settings::SpikeSettings;
use serde::{Deserialize, Serialize};

/// Frames from which the noise is known well enough to look for spikes.
const WARM_UP_FRAMES: u64 = 100;
/// Median and mean of the absolute value of a normal distribution, in standard deviations.
const MEDIAN_OF_SD: f64 = 0.674_489_750_196_081_7;
const MEAN_OF_SD: f64 = 0.797_884_560_802_865_4;
/// By how much one frame moves the logarithm of the median at a share of 1, either way: with it a median that is wrong
/// by a little comes back with the time constant, since 0.4287 of the frames change sides for each unit of the
/// logarithm.
const MEDIAN_STEP: f64 = 0.5 / 0.4287;
/// Quality factors of the two sections of a Butterworth filter of order 4: 1 / (2 cos(pi/8)), 1 / (2 cos(3 pi/8)).
const QUALITIES: [f64; 2] = [0.541_196_100_146_197, 1.306_562_964_876_376_4];

/// Coefficients of one second-order section.
#[derive(Debug, Clone, Copy)]
struct Section {
    b0: f64,
    a1: f64,
    a2: f64,
}

impl Section {
    fn highpass(corner: f64, quality: f64) -> Self {
        let angle = 2.0 * std::f64::consts::PI * corner;
        let (sin, cos) = (libm::sin(angle), libm::cos(angle));
        let alpha = sin / (2.0 * quality);
        let a0 = 1.0 + alpha;
        Self { b0: (1.0 + cos) / 2.0 / a0, a1: -2.0 * cos / a0, a2: (1.0 - alpha) / a0 }
    }

    /// One value through the section, whose memory is `state` (transposed direct form II; b1 = -2 b0, b2 = b0).
    fn step(&self, state: &mut [f64; 2], x: f64) -> f64 {
        let y = self.b0 * x + state[0];
        state[0] = -2.0 * self.b0 * x - self.a1 * y + state[1];
        state[1] = self.b0 * x - self.a2 * y;
        y
    }
}

/// What is kept of one ROI.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
struct Trace {
    frames: u64,
    /// The first F: the filter begins as if it had always been there.
    first: f64,
    memory: [[f64; 2]; 2],
    /// Median of the absolute filtered value; in the first frames, their mean.
    noise: f64,
    was_beyond: bool,
    rests_frames: u32,
    rate_hz: f64,
}

/// What one frame of an ROI says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spike {
    /// Whether a spike begins here.
    pub is_spike: bool,
    /// What the filter leaves, upwards for spikes; counts.
    pub filtered: f64,
    /// Standard deviation of the running noise, counts.
    pub noise_sd: f64,
    /// Spikes a second.
    pub rate_hz: f64,
}

/// Spikes of several ROIs.
#[derive(Debug, Clone)]
pub struct SpikeDetector {
    settings: SpikeSettings,
    sections: [Section; 2],
    traces: Vec<Trace>,
}

impl SpikeDetector {
    /// For so many ROIs; all memory is taken here.
    pub fn new(settings: SpikeSettings, rois: usize) -> Self {
        let sections = QUALITIES.map(|quality| Section::highpass(settings.corner, quality));
        Self { settings, sections, traces: vec![Trace::default(); rois] }
    }

    /// Forgets an ROI.
    pub fn begin(&mut self, roi: usize) {
        self.traces[roi] = Trace::default();
    }

    /// Forgets an ROI and shows it this F.
    pub(crate) fn show(&mut self, roi: usize, f: &[f64]) {
        self.begin(roi);
        f.iter().for_each(|&f| _ = self.step(roi, f));
    }

    /// One frame of an ROI; one that is not finite changes nothing.
    pub fn step(&mut self, roi: usize, f: f64) -> Spike {
        let trace = &mut self.traces[roi];
        let mut is_spike = false;
        let mut filtered = f64::NAN;
        if f.is_finite() {
            if trace.frames == 0 {
                trace.first = f;
            }
            let mut y = self.settings.sign * (f - trace.first);
            for (section, memory) in self.sections.iter().zip(&mut trace.memory) {
                y = section.step(memory, y);
            }
            filtered = y;
            is_spike = trace.decide(y, &self.settings);
        }
        Spike { is_spike, filtered, noise_sd: trace.noise_sd(), rate_hz: trace.rate_hz }
    }

    /// What changes, for saving.
    pub(crate) fn save(&self, out: &mut Vec<u8>) -> Result<(), postcard::Error> {
        postcard::to_io(&self.traces, &mut *out).map(|_| ())
    }

    /// Takes a saved state of as many ROIs and returns the bytes behind it.
    pub(crate) fn load<'b>(&mut self, bytes: &'b [u8]) -> Result<&'b [u8], postcard::Error> {
        let (traces, rest): (Vec<Trace>, &[u8]) = postcard::take_from_bytes(bytes)?;
        if traces.len() != self.traces.len() {
            return Err(postcard::Error::DeserializeBadEncoding);
        }
        self.traces = traces;
        Ok(rest)
    }
}

impl Trace {
    fn noise_sd(&self) -> f64 {
        self.noise / if self.frames >= WARM_UP_FRAMES { MEDIAN_OF_SD } else { MEAN_OF_SD }
    }

    /// Whether a spike begins with the filtered value `y`; takes it into noise and rate.
    fn decide(&mut self, y: f64, settings: &SpikeSettings) -> bool {
        let warm = self.frames >= WARM_UP_FRAMES;
        // The noise of the frames before: a spike is not measured by itself.
        let threshold = settings.threshold_sd * self.noise_sd();
        let beyond = warm && y > threshold && threshold > 0.0;
        let is_spike = beyond && !self.was_beyond && self.rests_frames == 0;
        self.was_beyond = beyond;
        self.rests_frames = if is_spike { settings.refractory_frames } else { self.rests_frames.saturating_sub(1) };
        let gain = settings.noise_gain.max(1.0 / (self.frames as f64 + 1.0));
        if warm {
            let step = if y.abs() > self.noise { MEDIAN_STEP } else { -MEDIAN_STEP };
            self.noise *= 1.0 + gain * step;
        } else {
            self.noise += gain * (y.abs() - self.noise);
        }
        let spikes_hz = if is_spike { settings.frame_rate_hz } else { 0.0 };
        self.rate_hz += settings.rate_gain * (spikes_hz - self.rate_hz);
        self.frames += 1;
        if self.frames == WARM_UP_FRAMES {
            self.noise *= MEDIAN_OF_SD / MEAN_OF_SD;
        }
        is_spike
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::activity::ActivitySettings;
    use crate::config::activity::{ActivityConfig, ActivityMode, Polarity};

    fn detector(change: impl FnOnce(&mut ActivityConfig)) -> SpikeDetector {
        let mut config =
            ActivityConfig { mode: ActivityMode::Voltage, frame_rate_hz: 1_000.0, ..ActivityConfig::default() };
        change(&mut config);
        SpikeDetector::new(ActivitySettings::new(&config, 1).spikes.unwrap(), 1)
    }

    /// Gain of the filter at a frequency, from the mean square of its last 1,000 frames.
    fn gain(hz: f64) -> f64 {
        let mut detector = detector(|_| {});
        let wave = |frame: u32| libm::sin(2.0 * std::f64::consts::PI * hz * f64::from(frame) / 1_000.0);
        let squares = (0..4_000).map(|frame| detector.step(0, wave(frame)).filtered.powi(2)).skip(3_000);
        (2.0 * squares.sum::<f64>() / 1_000.0).sqrt()
    }

    #[test]
    fn the_high_pass_is_a_butterworth_of_order_4() {
        // |H|^2 = 1 / (1 + (wc / w)^8) with w = tan(pi f / fs).
        let w = |hz: f64| libm::tan(std::f64::consts::PI * hz / 1_000.0);
        for hz in [20.0, 50.0, 100.0, 240.0] {
            let ratio = w(50.0) / w(hz);
            let expected = 1.0 / (1.0 + ratio.powi(8)).sqrt();
            assert!((gain(hz) - expected).abs() < 1e-3, "{hz} Hz: {}, expected {expected}", gain(hz));
        }
    }

    /// Noise of standard deviation 1 on a level that falls, and a spike of `size` at every frame of `spikes`.
    fn found(detector: &mut SpikeDetector, frames: u32, size: f64, every: u32) -> Vec<u32> {
        let mut state = 5u64;
        let mut draw = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f64 / (1u64 << 24) as f64
        };
        (0..frames)
            .filter(|&frame| {
                let noise = (0..12).map(|_| draw()).sum::<f64>() - 6.0;
                let spike = if frame % every == every - 1 { size } else { 0.0 };
                detector.step(0, 500.0 - 0.01 * f64::from(frame) + noise + spike).is_spike
            })
            .collect()
    }

    #[test]
    fn spikes_are_found_in_their_frame_and_give_the_rate() {
        let mut up = detector(|c| c.voltage.threshold_sd = 5.0);
        let times = found(&mut up, 5_000, 15.0, 100);
        assert_eq!(times, (1..50).map(|k| 100 * k + 99).collect::<Vec<u32>>());
        let rate = up.step(0, f64::NAN).rate_hz;
        assert!((8.0..18.0).contains(&rate), "{rate} Hz, expected 10 and a little, a frame after a spike");
        let mut down = detector(|c| (c.voltage.threshold_sd, c.voltage.polarity) = (5.0, Polarity::Negative));
        assert_eq!(found(&mut down, 5_000, -15.0, 100), times);
    }

    #[test]
    fn spikes_do_not_raise_the_noise() {
        let (mut quiet, mut busy) = (detector(|_| {}), detector(|_| {}));
        found(&mut quiet, 20_000, 0.0, 50);
        found(&mut busy, 20_000, 20.0, 50);
        let sd = |detector: &mut SpikeDetector| detector.step(0, f64::NAN).noise_sd;
        let (quiet, busy) = (sd(&mut quiet), sd(&mut busy));
        assert!((0.8..1.05).contains(&quiet), "{quiet}: the filter takes a tenth of white noise");
        assert!(busy < 1.4 * quiet, "{busy} with spikes of 20 in one frame of 50, {quiet} without");
    }

    #[test]
    fn no_spike_follows_within_the_refractory_time() {
        let mut detector = detector(|c| c.voltage.refractory_s = 0.05);
        let times = found(&mut detector, 5_000, 15.0, 20);
        assert!(times.windows(2).all(|pair| pair[1] - pair[0] > 50), "{times:?}");
        assert!(times.len() > 50);
    }
}

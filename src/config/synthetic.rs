//! The synthetic animal: its field of view, its microscope, its neurons, and how it learns.
//!
//! Defaults describe a 30 Hz recording of 512 x 512 pixels at one photon a pixel with ten control neurons, and an
//! animal that learns within one short session.

use serde::{Deserialize, Serialize};

use crate::frame::{Geometry, PixelType};

/// Section `[synthetic]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SyntheticConfig {
    /// Seed of everything that is drawn; the same seed and configuration give the same bytes.
    pub seed: u64,
    /// Rows of a frame, in pixels, 32 to 4,096.
    pub height_px: usize,
    /// Columns of a frame, in pixels, 32 to 4,096.
    pub width_px: usize,
    /// Frames a second, in hertz, 1 to 1,000.
    pub frame_rate_hz: f64,
    /// How the source stores a pixel.
    pub pixel_type: PixelType,
    /// Pixels are stored as `maximum - value` (every bit turned over), as Scanbox does.
    pub inverted: bool,
    /// What can be seen: cells, neuropil, vessels.
    pub anatomy: AnatomyConfig,
    /// What the microscope adds: photons, gain, offset, noise.
    pub detector: DetectorConfig,
    /// How the brain moves under the microscope.
    pub motion: MotionConfig,
    /// How spikes become fluorescence.
    pub calcium: CalciumConfig,
    /// When the neurons fire, and how reward changes that.
    pub animal: AnimalConfig,
}

/// What can be seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AnatomyConfig {
    /// Neurons in the field of view, 1 to 2,000.
    pub cells: usize,
    /// Radius of a soma, in pixels, 2 to 40; cells differ by 15 % around it.
    pub cell_radius_px: f64,
    /// Distance that cells keep from one another and from the frame's edges, in pixels, 0 to 100.
    pub margin_px: f64,
    /// Light of a resting soma relative to the mean of what lies around it, 0.1 to 10.
    pub soma_contrast: f64,
    /// Share of the background that is neuropil and glows with the common fluctuation, 0 to 1.
    pub neuropil_share: f64,
    /// Standard deviation of that fluctuation, relative, 0 to 0.5.
    pub glow_sd: f64,
    /// Its time constant, in seconds, 0.1 to 1,000.
    pub glow_tau_s: f64,
    /// Dark vessels that cross the field of view, 0 to 50.
    pub vessels: usize,
}

/// What the microscope adds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DetectorConfig {
    /// Mean photons that a pixel of the resting field of view gives in one frame, 0.01 to 50.
    pub photons_per_px: f64,
    /// Counts that one photon makes, 0 to 1,000.
    pub gain_counts: f64,
    /// Counts in the dark, -10,000 to 60,000.
    pub offset_counts: f64,
    /// Standard deviation of the electronics' noise, in counts, 0 to 1,000.
    pub read_noise_counts: f64,
    /// Photons arrive at random (Poisson); without it each pixel shows its expectation, for tests.
    pub photon_noise: bool,
}

/// How the brain moves: a drift that is pulled back (Ornstein-Uhlenbeck), and rare jumps that decay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MotionConfig {
    /// Standard deviation of the drift in rows and in columns, in pixels, 0 to 5.
    pub drift_sd_px: f64,
    /// Time constant of the drift, in seconds, 0.01 to 1,000.
    pub drift_tau_s: f64,
    /// Jumps a second, in hertz, 0 to 5.
    pub jump_rate_hz: f64,
    /// Standard deviation of a jump in rows and in columns, in pixels, 0 to 20.
    pub jump_sd_px: f64,
    /// Time constant with which a jump decays, in seconds, 0.01 to 100.
    pub jump_tau_s: f64,
    /// Largest shift in rows and in columns, in pixels, 0 to 30.
    pub limit_px: f64,
}

/// How spikes become fluorescence; the defaults are of the order of GCaMP7f.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CalciumConfig {
    /// dF/F at the peak of the transient of one spike, 0 to 5.
    pub dff_per_spike: f64,
    /// Time constant of the rise, in seconds, 0.001 to 1; below the decay's.
    pub rise_tau_s: f64,
    /// Time constant of the decay, in seconds, 0.01 to 10.
    pub decay_tau_s: f64,
}

/// When the neurons fire, and the stated rule by which reward changes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AnimalConfig {
    /// Indices of the cells that reward leaves as they are (P+).
    pub p_plus: Vec<usize>,
    /// Indices of the cells that reward quietens (P-).
    pub p_minus: Vec<usize>,
    /// Bursts that a cell has by itself, in hertz, 0 to 5.
    pub burst_rate_hz: f64,
    /// Events of the whole network in which cells take part at random, in hertz, 0 to 5.
    pub shared_rate_hz: f64,
    /// Probability that a cell takes part in such an event, 0 to 1.
    pub shared_participation: f64,
    /// Duration of a burst, in seconds, 0.01 to 5.
    pub burst_duration_s: f64,
    /// Firing rate within a burst, in hertz, 0 to 200.
    pub burst_spikes_hz: f64,
    /// Firing rate outside bursts, in hertz, 0 to 20.
    pub quiet_spikes_hz: f64,
    /// What each reward takes off the event rate of the P- cells, as a fraction, 0 to 1.
    pub learning_rate: f64,
    /// Fraction of their event rate below which P- cells never fall, above 0 to 1.
    pub floor: f64,
}

impl Default for SyntheticConfig {
    fn default() -> Self {
        Self {
            seed: 1,
            height_px: 512,
            width_px: 512,
            frame_rate_hz: 30.0,
            pixel_type: PixelType::U16,
            inverted: false,
            anatomy: AnatomyConfig::default(),
            detector: DetectorConfig::default(),
            motion: MotionConfig::default(),
            calcium: CalciumConfig::default(),
            animal: AnimalConfig::default(),
        }
    }
}

impl Default for AnatomyConfig {
    fn default() -> Self {
        Self {
            cells: 40,
            cell_radius_px: 5.5,
            margin_px: 8.0,
            soma_contrast: 2.5,
            neuropil_share: 0.7,
            glow_sd: 0.05,
            glow_tau_s: 5.0,
            vessels: 4,
        }
    }
}

impl Default for DetectorConfig {
    fn default() -> Self {
        Self {
            photons_per_px: 1.0,
            gain_counts: 120.0,
            offset_counts: 100.0,
            read_noise_counts: 12.0,
            photon_noise: true,
        }
    }
}

impl Default for MotionConfig {
    fn default() -> Self {
        Self {
            drift_sd_px: 0.7,
            drift_tau_s: 2.0,
            jump_rate_hz: 0.02,
            jump_sd_px: 2.5,
            jump_tau_s: 0.3,
            limit_px: 12.0,
        }
    }
}

impl Default for CalciumConfig {
    fn default() -> Self {
        Self { dff_per_spike: 0.25, rise_tau_s: 0.04, decay_tau_s: 0.5 }
    }
}

impl Default for AnimalConfig {
    fn default() -> Self {
        Self {
            p_plus: vec![0, 2, 4, 6, 8],
            p_minus: vec![1, 3, 5, 7, 9],
            burst_rate_hz: 0.05,
            shared_rate_hz: 0.8,
            shared_participation: 0.6,
            burst_duration_s: 0.2,
            burst_spikes_hz: 40.0,
            quiet_spikes_hz: 0.05,
            learning_rate: 0.08,
            floor: 0.1,
        }
    }
}

impl SyntheticConfig {
    /// Height and width of a frame.
    pub fn geometry(&self) -> Geometry {
        Geometry::new(self.height_px, self.width_px)
    }

    /// Seconds from frame to frame.
    pub fn frame_period_s(&self) -> f64 {
        1.0 / self.frame_rate_hz
    }

    /// Pushes one sentence for each value that cannot be used.
    pub fn validate(&self, section: &str, violations: &mut Vec<String>) {
        let mut check = Check { section, violations };
        check.range("height_px", self.height_px as f64, 32.0, 4096.0);
        check.range("width_px", self.width_px as f64, 32.0, 4096.0);
        check.range("frame_rate_hz", self.frame_rate_hz, 1.0, 1000.0);
        let a = &self.anatomy;
        check.range("anatomy.cells", a.cells as f64, 1.0, 2000.0);
        check.range("anatomy.cell_radius_px", a.cell_radius_px, 2.0, 40.0);
        check.range("anatomy.margin_px", a.margin_px, 0.0, 100.0);
        check.range("anatomy.soma_contrast", a.soma_contrast, 0.1, 10.0);
        check.range("anatomy.neuropil_share", a.neuropil_share, 0.0, 1.0);
        check.range("anatomy.glow_sd", a.glow_sd, 0.0, 0.5);
        check.range("anatomy.glow_tau_s", a.glow_tau_s, 0.1, 1000.0);
        check.range("anatomy.vessels", a.vessels as f64, 0.0, 50.0);
        let d = &self.detector;
        check.range("detector.photons_per_px", d.photons_per_px, 0.01, 50.0);
        check.range("detector.gain_counts", d.gain_counts, 0.0, 1000.0);
        check.range("detector.offset_counts", d.offset_counts, -10_000.0, 60_000.0);
        check.range("detector.read_noise_counts", d.read_noise_counts, 0.0, 1000.0);
        let m = &self.motion;
        check.range("motion.drift_sd_px", m.drift_sd_px, 0.0, 5.0);
        check.range("motion.drift_tau_s", m.drift_tau_s, 0.01, 1000.0);
        check.range("motion.jump_rate_hz", m.jump_rate_hz, 0.0, 5.0);
        check.range("motion.jump_sd_px", m.jump_sd_px, 0.0, 20.0);
        check.range("motion.jump_tau_s", m.jump_tau_s, 0.01, 100.0);
        check.range("motion.limit_px", m.limit_px, 0.0, 30.0);
        let c = &self.calcium;
        check.range("calcium.dff_per_spike", c.dff_per_spike, 0.0, 5.0);
        check.range("calcium.rise_tau_s", c.rise_tau_s, 0.001, 1.0);
        check.range("calcium.decay_tau_s", c.decay_tau_s, 0.01, 10.0);
        if c.rise_tau_s >= c.decay_tau_s {
            check
                .say("calcium.rise_tau_s", format!("{}, expected below decay_tau_s ({})", c.rise_tau_s, c.decay_tau_s));
        }
        self.animal.validate(a.cells, &mut check);
    }
}

impl AnimalConfig {
    fn validate(&self, cells: usize, check: &mut Check<'_>) {
        check.range("animal.burst_rate_hz", self.burst_rate_hz, 0.0, 5.0);
        check.range("animal.shared_rate_hz", self.shared_rate_hz, 0.0, 5.0);
        check.range("animal.shared_participation", self.shared_participation, 0.0, 1.0);
        check.range("animal.burst_duration_s", self.burst_duration_s, 0.01, 5.0);
        check.range("animal.burst_spikes_hz", self.burst_spikes_hz, 0.0, 200.0);
        check.range("animal.quiet_spikes_hz", self.quiet_spikes_hz, 0.0, 20.0);
        check.range("animal.learning_rate", self.learning_rate, 0.0, 1.0);
        check.range("animal.floor", self.floor, 1e-6, 1.0);
        for (key, list) in [("animal.p_plus", &self.p_plus), ("animal.p_minus", &self.p_minus)] {
            for cell in list.iter().filter(|&&cell| cell >= cells) {
                check.say(key, format!("cell {cell}, expected 0 to {}", cells.saturating_sub(1)));
            }
        }
        for cell in self.p_minus.iter().filter(|cell| self.p_plus.contains(cell)) {
            check.say("animal.p_minus", format!("cell {cell} is in p_plus too, expected in one of them"));
        }
    }
}

struct Check<'a> {
    section: &'a str,
    violations: &'a mut Vec<String>,
}

impl Check<'_> {
    fn say(&mut self, key: &str, what: String) {
        self.violations.push(format!("{}.{key}: {what}", self.section));
    }

    fn range(&mut self, key: &str, value: f64, low: f64, high: f64) {
        // Written so that NaN is a violation.
        if !(value >= low && value <= high) {
            self.say(key, format!("{value}, expected {low} to {high}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn violations(config: &SyntheticConfig) -> Vec<String> {
        let mut violations = Vec::new();
        config.validate("synthetic", &mut violations);
        violations
    }

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(violations(&SyntheticConfig::default()), Vec::<String>::new());
    }

    #[test]
    fn every_violation_is_listed_and_names_its_key() {
        let mut config = SyntheticConfig::default();
        config.detector.photons_per_px = f64::NAN;
        config.calcium.rise_tau_s = 0.9;
        config.animal.floor = 0.0;
        config.animal.p_minus = vec![0, 40];
        let found = violations(&config);
        for (said, key) in found.iter().zip([
            "synthetic.detector.photons_per_px: NaN",
            "synthetic.calcium.rise_tau_s: 0.9, expected below",
            "synthetic.animal.floor: 0",
            "synthetic.animal.p_minus: cell 40, expected 0 to 39",
            "synthetic.animal.p_minus: cell 0 is in p_plus",
        ]) {
            assert!(said.starts_with(key), "{said}");
        }
        assert_eq!(found.len(), 5, "{found:?}");
    }
}

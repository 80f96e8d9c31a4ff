//! Configuration of the decoder: the signal, its smoothing, and the two ensembles.

use serde::{Deserialize, Serialize};

/// The most ROIs that one ensemble can hold.
pub const ENSEMBLE_MAX: usize = 64;

/// Which value of an ROI enters the cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Signal {
    /// dF/F, as the experiment did.
    Dff,
    /// dF/F in standard deviations of the baseline's dF/F.
    Z,
    /// The rate: deconvolved dF/F, or spikes a second in voltage mode.
    Rate,
}

/// What makes one number of the ROIs' activity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DecodeConfig {
    /// `dff` (the default), `z`, or `rate`, which needs `activity.deconvolution` or `activity.mode = "voltage"`.
    pub signal: Signal,
    /// Valid frames over which the cursor is averaged, 1 to 64. Default 3. The calibration uses the same length.
    pub smooth_frames: u32,
}

impl Default for DecodeConfig {
    fn default() -> Self {
        Self { signal: Signal::Dff, smooth_frames: 3 }
    }
}

impl DecodeConfig {
    /// Pushes one sentence for each value that cannot be used.
    pub fn validate(&self, section: &str, violations: &mut Vec<String>) {
        if !(1..=64).contains(&self.smooth_frames) {
            violations.push(format!("{section}.smooth_frames: {}, expected 1 to 64 frames", self.smooth_frames));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_violation_names_its_key() {
        let bad = DecodeConfig { smooth_frames: 0, ..Default::default() };
        let mut violations = Vec::new();
        bad.validate("decode", &mut violations);
        assert_eq!(violations, ["decode.smooth_frames: 0, expected 1 to 64 frames"]);
        let mut none = Vec::new();
        DecodeConfig::default().validate("decode", &mut none);
        assert!(none.is_empty());
    }
}

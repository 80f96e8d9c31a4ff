//! Configuration of the activity stage: detector offset, F0, z-score.

use serde::{Deserialize, Serialize};

/// How F0 of an ROI is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum F0Mode {
    /// The percentile over the last frames, this one included.
    RunningPercentile,
    /// The percentile over the whole baseline block, fixed from its end on.
    Baseline,
}

/// What turns the mean of an ROI into dF/F.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ActivityConfig {
    /// `running_percentile` (the default) or `baseline`.
    pub f0_mode: F0Mode,
    /// The percentile that is F0, in percent, 0 to 100. Default 10.
    pub f0_percentile: f64,
    /// Length of the running window in trial lengths, above 0 to 100. Default 4 (3,000 frames for a trial of 750).
    pub f0_window_trials: f64,
    /// An ROI whose F0 is at or below this is invalid; counts above the detector's offset, 0 or more. Default 0.
    pub f0_floor: f64,
    /// An ROI is invalid as well where its F0 is at or below this share of its own mean F in the baseline, 0 to 1.
    /// Default 0.1. It applies where a neuropil is removed: what is left of a dim cell may be next to nothing.
    pub f0_floor_share: f64,
    /// What the detector reads in the dark, in counts (-65,536 to 65,535). Absent: estimated from pixels.
    pub detector_offset_counts: Option<f64>,
    /// Whether the z-score is computed. It costs a pass over the whole baseline of every ROI when that ends (about
    /// 0.05 us per ROI and frame), so turn it off with hundreds of ROIs and `decode.signal = "dff"`. Default true.
    pub z_score: bool,
}

impl Default for ActivityConfig {
    fn default() -> Self {
        Self {
            f0_mode: F0Mode::RunningPercentile,
            f0_percentile: 10.0,
            f0_window_trials: 4.0,
            f0_floor: 0.0,
            f0_floor_share: 0.1,
            detector_offset_counts: None,
            z_score: true,
        }
    }
}

impl ActivityConfig {
    /// Frames of the running window for trials of `trial_frames`: the product, rounded half away from zero, 1 or more.
    pub fn f0_window_frames(&self, trial_frames: u32) -> usize {
        let frames = (self.f0_window_trials * f64::from(trial_frames)).round();
        if frames >= 1.0 { frames as usize } else { 1 }
    }

    /// Pushes one sentence for each value that cannot be used.
    pub fn validate(&self, section: &str, violations: &mut Vec<String>) {
        let mut expect = |key: &str, value: f64, good: bool, expected: &str| {
            if !good {
                violations.push(format!("{section}.{key}: {value}, expected {expected}"));
            }
        };
        let percentile = self.f0_percentile;
        expect("f0_percentile", percentile, (0.0..=100.0).contains(&percentile), "0 to 100 percent");
        let window = self.f0_window_trials;
        expect("f0_window_trials", window, window > 0.0 && window <= 100.0, "above 0, to 100 trial lengths");
        let floor = self.f0_floor;
        expect("f0_floor", floor, floor.is_finite() && floor >= 0.0, "0 counts or more");
        let share = self.f0_floor_share;
        expect("f0_floor_share", share, (0.0..=1.0).contains(&share), "0 to 1");
        if let Some(offset) = self.detector_offset_counts {
            expect(
                "detector_offset_counts",
                offset,
                (-65_536.0..=65_535.0).contains(&offset),
                "-65536 to 65535 counts",
            );
        }
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

    #[test]
    fn every_violation_names_its_key() {
        let bad = ActivityConfig {
            f0_percentile: 101.0,
            f0_window_trials: 0.0,
            f0_floor: f64::NAN,
            f0_floor_share: -0.1,
            detector_offset_counts: Some(f64::INFINITY),
            ..Default::default()
        };
        let mut violations = Vec::new();
        bad.validate("activity", &mut violations);
        assert_eq!(violations.len(), 5);
        assert_eq!(violations[0], "activity.f0_percentile: 101, expected 0 to 100 percent");
        let mut none = Vec::new();
        ActivityConfig::default().validate("activity", &mut none);
        assert!(none.is_empty());
    }
}

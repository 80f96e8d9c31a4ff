//! Configuration of the calibration from a baseline.

use serde::{Deserialize, Serialize};

/// How the threshold is found, and what day 1 demands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CalibrationConfig {
    /// Segments of one trial length that are drawn from the baseline, 1 to 100,000; the baseline needs as many
    /// frames. Default 200.
    pub segments: u32,
    /// Step between candidate thresholds, in the units of the cursor, above 0. Default 0.005.
    pub threshold_step: f64,
    /// The fraction of segments that may exceed the threshold by chance, 0 to below 1. Default 0.5.
    pub target_fraction: f64,
    /// The difficulty of day 1 in its baseline's standard deviations; absent on day 1 itself. Finite.
    pub day1_z_half: Option<f64>,
    /// Seed of the draw, any whole number up to 2^63 - 1 (what TOML can write). Default 1.
    pub seed: u64,
}

impl Default for CalibrationConfig {
    fn default() -> Self {
        Self { segments: 200, threshold_step: 0.005, target_fraction: 0.5, day1_z_half: None, seed: 1 }
    }
}

impl CalibrationConfig {
    /// Pushes one sentence for each value that cannot be used.
    pub fn validate(&self, section: &str, violations: &mut Vec<String>) {
        if !(1..=100_000).contains(&self.segments) {
            violations.push(format!("{section}.segments: {}, expected 1 to 100000", self.segments));
        }
        if !(self.threshold_step.is_finite() && self.threshold_step > 0.0) {
            violations.push(format!("{section}.threshold_step: {}, expected above 0", self.threshold_step));
        }
        if !(0.0..1.0).contains(&self.target_fraction) {
            violations.push(format!("{section}.target_fraction: {}, expected 0 to below 1", self.target_fraction));
        }
        if let Some(z_half) = self.day1_z_half
            && !z_half.is_finite()
        {
            violations.push(format!("{section}.day1_z_half: {z_half}, expected a finite number"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_violation_names_its_key() {
        let bad = CalibrationConfig {
            segments: 0,
            threshold_step: 0.0,
            target_fraction: 1.0,
            day1_z_half: Some(f64::NAN),
            seed: 0,
        };
        let mut violations = Vec::new();
        bad.validate("calibration", &mut violations);
        assert_eq!(violations.len(), 4);
        assert_eq!(violations[0], "calibration.segments: 0, expected 1 to 100000");
        let mut none = Vec::new();
        CalibrationConfig::default().validate("calibration", &mut none);
        assert!(none.is_empty());
    }
}

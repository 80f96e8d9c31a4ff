//! `[register]`: how brain motion is estimated. Defaults fit 512 x 512 frames at 30 Hz; nothing depends on the size.

use serde::{Deserialize, Serialize};

/// Configuration of the rigid registration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RegisterConfig {
    /// Estimate motion at all; when false every frame has the shift (0, 0) and the verdict `Off`.
    pub enabled: bool,
    /// Standard deviation of the smoothing that lives in the template's weight images, in pixels, 0.5 to 8.
    pub sigma_px: f64,
    /// Passes over a frame's pixels while tracking, 1 to 8. One pass is the rule; a second follows when the content
    /// moved by more than a pixel since the last frame.
    pub max_iterations: u32,
    /// Below this score a frame's verdict is `LowScore`, 0 to 1. The score is 1 for a frame that fits as well as the
    /// baseline's frames do, and near 0 for one of another place, so one default serves all photon rates.
    pub min_score: f64,
    /// A shift further than this from the last good one gets the verdict `Jump` for that one frame, in pixels, above 0.
    pub max_jump_px: f64,
    /// Largest shift that is searched and tracked, as a fraction of the height and of the width, 0.01 to 0.25.
    pub max_shift_fraction: f64,
    /// A frame with a larger fraction of saturated samples is `Saturated`, above 0 to 1.
    pub saturated_fraction: f64,
    /// Accumulated frames that a template needs before it may freeze, 1 to 65,535.
    pub min_template_frames: u32,
    /// Below this score the template's offset to the reference image is not trusted, 0 to 1.
    pub min_reference_score: f64,
    /// Use the processor's vector instructions where it has them. The results are the same bits either way.
    pub simd: bool,
}

impl Default for RegisterConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            sigma_px: 1.0,
            max_iterations: 4,
            min_score: 0.4,
            max_jump_px: 15.0,
            max_shift_fraction: 0.15,
            saturated_fraction: 0.05,
            min_template_frames: 100,
            min_reference_score: 0.3,
            simd: true,
        }
    }
}

impl RegisterConfig {
    /// Pushes one sentence for each value out of its range.
    pub fn validate(&self, section: &str, violations: &mut Vec<String>) {
        let mut range = |key: &str, value: f64, low: f64, high: f64| {
            if !(low..=high).contains(&value) {
                violations.push(format!("{section}.{key}: {value}, expected {low} to {high}"));
            }
        };
        range("sigma_px", self.sigma_px, 0.5, 8.0);
        range("max_iterations", f64::from(self.max_iterations), 1.0, 8.0);
        range("min_score", self.min_score, 0.0, 1.0);
        range("max_shift_fraction", self.max_shift_fraction, 0.01, 0.25);
        range("min_template_frames", f64::from(self.min_template_frames), 1.0, 65_535.0);
        range("min_reference_score", self.min_reference_score, 0.0, 1.0);
        if self.max_jump_px.is_nan() || self.max_jump_px <= 0.0 {
            violations.push(format!("{section}.max_jump_px: {}, expected more than 0", self.max_jump_px));
        }
        if !(self.saturated_fraction > 0.0 && self.saturated_fraction <= 1.0) {
            let value = self.saturated_fraction;
            violations.push(format!("{section}.saturated_fraction: {value}, expected more than 0 and at most 1"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_valid() {
        let mut violations = Vec::new();
        RegisterConfig::default().validate("register", &mut violations);
        assert_eq!(violations, Vec::<String>::new());
    }

    #[test]
    fn every_violation_is_listed_and_names_its_key() {
        let config = RegisterConfig {
            sigma_px: f64::NAN,
            max_iterations: 0,
            min_score: -1.0,
            max_jump_px: 0.0,
            max_shift_fraction: 0.9,
            saturated_fraction: 2.0,
            min_template_frames: 0,
            min_reference_score: 7.0,
            ..RegisterConfig::default()
        };
        let mut violations = Vec::new();
        config.validate("register", &mut violations);
        assert_eq!(violations.len(), 8);
        assert!(violations.contains(&"register.min_score: -1, expected 0 to 1".to_string()));
    }
}

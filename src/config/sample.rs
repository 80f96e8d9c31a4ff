//! Configuration of the `sample` stage: how the pixels of an ROI become one number a frame.

use serde::{Deserialize, Serialize};

/// Which weights the pixels of an ROI have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SampleMode {
    /// The weights of the ROI file (`lam` in suite2p): F is the weighted mean.
    #[default]
    Weighted,
    /// Every listed pixel counts the same: F is the plain mean.
    Plain,
    /// As `weighted`, and where cells overlap, each is told from the others and from the background by non-negative
    /// least squares: F is the weighted mean that the frame would give with that cell alone.
    Demix,
}

/// Section `[sample]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SampleConfig {
    /// Weights of the pixels of an ROI: `weighted` (those of the file), `plain` (all 1), or `demix` (those of the file,
    /// with the light of overlapping cells told apart). No unit.
    pub mode: SampleMode,
    /// Round the shift to whole pixels (halves away from zero) before the masks are moved; otherwise it is rounded to
    /// 1/256 pixel and the masks move by bilinear weights. True or false.
    pub whole_pixel: bool,
    /// How much of the neuropil's fluorescence the activity stage subtracts, 0 to 2, no unit. 0 turns the neuropil
    /// off: no annuli are made.
    pub neuropil_coefficient: f64,
    /// Width of the border around a cell that belongs neither to it nor to its neuropil, in pixels, 0 to 50.
    pub neuropil_inner_px: u32,
    /// Pixels that a neuropil annulus holds at least, where the frame has so many, 1 to 100,000.
    pub neuropil_min_pixels: u32,
}

impl Default for SampleConfig {
    fn default() -> Self {
        Self {
            mode: SampleMode::Weighted,
            whole_pixel: false,
            neuropil_coefficient: 0.7,
            neuropil_inner_px: 2,
            neuropil_min_pixels: 350,
        }
    }
}

impl SampleConfig {
    /// Pushes one sentence for each value outside its range; `section` is the table's name, such as `sample`.
    pub fn validate(&self, section: &str, violations: &mut Vec<String>) {
        if !(0.0..=2.0).contains(&self.neuropil_coefficient) {
            violations
                .push(format!("{section}.neuropil_coefficient: {}, expected 0 (off) to 2", self.neuropil_coefficient));
        }
        if self.neuropil_inner_px > 50 {
            violations.push(format!("{section}.neuropil_inner_px: {}, expected 0 to 50", self.neuropil_inner_px));
        }
        if !(1..=100_000).contains(&self.neuropil_min_pixels) {
            violations
                .push(format!("{section}.neuropil_min_pixels: {}, expected 1 to 100000", self.neuropil_min_pixels));
        }
    }

    /// Whether neuropil annuli are made and sampled.
    pub fn neuropil_is_on(&self) -> bool {
        self.neuropil_coefficient != 0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        let mut violations = Vec::new();
        SampleConfig::default().validate("sample", &mut violations);
        assert_eq!(violations, Vec::<String>::new());
    }

    #[test]
    fn every_value_out_of_range_is_named_at_once() {
        let config = SampleConfig {
            neuropil_coefficient: f64::NAN,
            neuropil_inner_px: 51,
            neuropil_min_pixels: 0,
            ..SampleConfig::default()
        };
        let mut violations = Vec::new();
        config.validate("sample", &mut violations);
        assert_eq!(
            violations,
            [
                "sample.neuropil_coefficient: NaN, expected 0 (off) to 2",
                "sample.neuropil_inner_px: 51, expected 0 to 50",
                "sample.neuropil_min_pixels: 0, expected 1 to 100000",
            ]
        );
    }
}

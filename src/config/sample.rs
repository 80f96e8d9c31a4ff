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

/// What becomes of pixels that several ROIs have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// They count for each of them.
    #[default]
    Keep,
    /// They count for none of them, as by default in suite2p.
    LeaveOut,
}

/// How much of the neuropil is removed: a number, or a word.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected \"estimate\", or a number from 0 (off) to 2")]
pub enum NeuropilCoefficient {
    /// A word.
    Word(NeuropilWord),
    /// The same share for every ROI, 0 to 2, no unit.
    Share(f64),
}

/// The words of [`NeuropilCoefficient`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NeuropilWord {
    /// The baseline tells, for each ROI.
    Estimate,
}

/// Section `[sample]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SampleConfig {
    /// Weights of the pixels of an ROI: `weighted` (those of the file), `plain` (all 1), or `demix` (those of the file,
    /// with the light of overlapping cells told apart). No unit.
    pub mode: SampleMode,
    /// Pixels that several ROIs of a plane have: `keep`, or `leave_out` (what suite2p calls `allow_overlap = False`; of
    /// each ROI at least one pixel must remain). No unit.
    pub overlap: Overlap,
    /// Use the processor's vector instructions where it has them: faster, and the same bits. True or false.
    pub simd: bool,
    /// Round the shift to whole pixels (halves away from zero) before the masks are moved; otherwise it is rounded to
    /// 1/256 pixel and the masks move by bilinear weights. True or false.
    pub whole_pixel: bool,
    /// How much of the neuropil's fluorescence the activity stage subtracts, 0 to 2, no unit. 0 turns the neuropil
    /// off: no annuli are made. `"estimate"`: for each ROI what its baseline tells, 0 to 1, from how F and the neuropil
    /// move together while the cell is silent; 0.7 until the baseline's end, and where nothing can be told.
    pub neuropil_coefficient: NeuropilCoefficient,
    /// Width of the border around a cell that belongs neither to it nor to its neuropil, in pixels, 0 to 50.
    pub neuropil_inner_px: u32,
    /// Pixels that a neuropil annulus holds more than, where the frame has so many, 1 to 100,000.
    pub neuropil_min_pixels: u32,
    /// Where cells are crowded, their faint pixels count as neuropil: those whose weight is below this percentile of
    /// the weights around, 0 (none) to 100; suite2p's `lam_percentile`.
    pub neuropil_weight_percentile: f64,
}

impl Default for SampleConfig {
    fn default() -> Self {
        Self {
            mode: SampleMode::Weighted,
            overlap: Overlap::Keep,
            simd: true,
            whole_pixel: false,
            neuropil_coefficient: NeuropilCoefficient::Share(0.7),
            neuropil_inner_px: 2,
            neuropil_min_pixels: 350,
            neuropil_weight_percentile: 50.0,
        }
    }
}

impl SampleConfig {
    /// Pushes one sentence for each value outside its range; `section` is the table's name, such as `sample`.
    pub fn validate(&self, section: &str, violations: &mut Vec<String>) {
        if let NeuropilCoefficient::Share(share) = self.neuropil_coefficient
            && !(0.0..=2.0).contains(&share)
        {
            violations.push(format!("{section}.neuropil_coefficient: {share}, expected \"estimate\", or 0 (off) to 2"));
        }
        if self.neuropil_inner_px > 50 {
            violations.push(format!("{section}.neuropil_inner_px: {}, expected 0 to 50", self.neuropil_inner_px));
        }
        if !(1..=100_000).contains(&self.neuropil_min_pixels) {
            violations
                .push(format!("{section}.neuropil_min_pixels: {}, expected 1 to 100000", self.neuropil_min_pixels));
        }
        if !(0.0..=100.0).contains(&self.neuropil_weight_percentile) {
            let percentile = self.neuropil_weight_percentile;
            violations.push(format!("{section}.neuropil_weight_percentile: {percentile}, expected 0 to 100"));
        }
        if (self.mode, self.overlap) == (SampleMode::Demix, Overlap::LeaveOut) {
            let what = "leave_out, expected keep with mode = \"demix\", which tells overlapping cells apart";
            violations.push(format!("{section}.overlap: {what}"));
        }
    }

    /// Whether neuropil annuli are made and sampled.
    pub fn neuropil_is_on(&self) -> bool {
        self.neuropil_coefficient != NeuropilCoefficient::Share(0.0)
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
            neuropil_coefficient: NeuropilCoefficient::Share(f64::NAN),
            neuropil_inner_px: 51,
            neuropil_min_pixels: 0,
            ..SampleConfig::default()
        };
        let mut violations = Vec::new();
        config.validate("sample", &mut violations);
        assert_eq!(
            violations,
            [
                "sample.neuropil_coefficient: NaN, expected \"estimate\", or 0 (off) to 2",
                "sample.neuropil_inner_px: 51, expected 0 to 50",
                "sample.neuropil_min_pixels: 0, expected 1 to 100000",
            ]
        );
    }

    #[test]
    fn the_neuropil_coefficient_is_a_number_or_a_word() {
        let read = |value: &str| toml::from_str::<SampleConfig>(&format!("neuropil_coefficient = {value}"));
        let coefficient = |value: &str| read(value).map(|c| c.neuropil_coefficient).map_err(|e| e.to_string());
        assert_eq!(coefficient("0.7"), Ok(SampleConfig::default().neuropil_coefficient));
        assert_eq!(coefficient("1"), Ok(NeuropilCoefficient::Share(1.0)));
        assert_eq!(coefficient("\"estimate\""), Ok(NeuropilCoefficient::Word(NeuropilWord::Estimate)));
        assert!(coefficient("\"guess\"").is_err_and(|e| e.contains("expected \"estimate\", or a number")));
        let config = read("\"estimate\"").expect("a word");
        assert!(config.neuropil_is_on() && !read("0").expect("a number").neuropil_is_on());
        let written = toml::to_string(&config).expect("it can be written");
        assert_eq!(toml::from_str::<SampleConfig>(&written).expect("and read"), config);
    }

    #[test]
    fn a_mode_that_there_is_not_is_told_which_there_are() {
        let error = toml::from_str::<SampleConfig>("mode = \"mixed\"").unwrap_err().to_string();
        assert!(error.contains("expected one of `weighted`, `plain`, `demix`"), "{error}");
    }
}

//! `[register]`: how brain motion is estimated. Defaults fit 512 x 512 frames at 30 Hz; nothing depends on the size.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Largest phase of odd lines, in pixels.
const PHASE_MAX_PX: f64 = 8.0;

/// What is known of bidirectional scanning: a word, or the phase in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected \"off\", \"estimate\", or pixels")]
pub enum BidirectionalPhase {
    /// A word.
    Word(PhaseWord),
    /// By how many columns the content of odd lines (1, 3, ..) lies to the right of the even lines', -8 to 8.
    Px(f64),
}

/// The words of [`BidirectionalPhase`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PhaseWord {
    /// All lines are read alike.
    Off,
    /// The baseline's template tells.
    Estimate,
}

impl BidirectionalPhase {
    /// Whether odd lines may be read elsewhere than even ones.
    pub fn is_on(self) -> bool {
        self != BidirectionalPhase::Word(PhaseWord::Off)
    }

    /// Whether the baseline tells.
    pub fn is_estimated(self) -> bool {
        self == BidirectionalPhase::Word(PhaseWord::Estimate)
    }

    /// Pixels, where they are given.
    pub fn px(self) -> Option<f64> {
        match self {
            BidirectionalPhase::Px(px) => Some(px),
            BidirectionalPhase::Word(_) => None,
        }
    }

    /// Largest phase that there may be, in pixels.
    pub fn largest_px(self) -> f64 {
        match self {
            BidirectionalPhase::Px(px) => px.abs(),
            BidirectionalPhase::Word(PhaseWord::Estimate) => PHASE_MAX_PX,
            BidirectionalPhase::Word(PhaseWord::Off) => 0.0,
        }
    }
}

/// Configuration of the registration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RegisterConfig {
    /// Another day's template instead of one from the baseline: the directory of that session, or a TIFF with a mean
    /// image for each plane that is read, in their order; empty: the baseline makes it.
    pub template: PathBuf,
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
    /// Slow update: after so many good frames behind the baseline the template becomes a mean of itself and of theirs,
    /// 100 to 65,535; 0: it stays as the baseline made it. It costs every frame some 100 us for 512 x 512. Not
    /// together with `z_step_um`, whose drift it would hide, or `piecewise`, whose blocks' shifts it would.
    pub template_update_frames: u32,
    /// The frames' share in it, 0.01 to 1.
    pub template_update_share: f64,
    /// Below this score the template's offset to the reference image is not trusted, 0 to 1.
    pub min_reference_score: f64,
    /// The same where there is no reference image and one was drawn from the masks, 0 to 1: a few masks look like a
    /// few other cells more easily than an image does.
    pub min_rendered_reference_score: f64,
    /// Bidirectional scanning: by how many columns the content of odd lines (1, 3, ..) lies to the right of where even
    /// lines show it. `"off"`: not at all. `"estimate"`: the baseline tells. Or pixels, -8 to 8. Registration and masks
    /// read odd lines there; frames are not resampled.
    pub bidirectional_phase: BidirectionalPhase,
    /// Axial drift: a TIFF of slices at rising depths, against which the depth is followed; empty: the recording's own
    /// planes are the slices.
    pub z_stack: PathBuf,
    /// From one slice (or plane) to the next, in um, 0 to 1,000; 0: the depth is not followed.
    pub z_step_um: f64,
    /// Frames of a plane over which its depth is averaged, 1 to 1,000,000.
    pub z_average_frames: u32,
    /// A drift of more than this from the template's depth is a warning, in um, above 0.
    pub z_warning_um: f64,
    /// Piecewise-rigid: overlapping blocks of the frame are each refined from the frame's shift, as far as they can
    /// tell, and masks follow the blocks around them. Shift, score and verdict of the frame stay what they are.
    pub piecewise: bool,
    /// Blocks from top to bottom, 1 to 16, at least 24 rows apart; read where `piecewise` is on.
    pub blocks_y: u32,
    /// Blocks from left to right, 1 to 16, at least 24 columns apart; read where `piecewise` is on.
    pub blocks_x: u32,
    /// How far a block may lie from the frame's shift, along each axis, in pixels, 0.5 to 8.
    pub max_block_shift_px: f64,
    /// Use the processor's vector instructions where it has them. The results are the same bits either way.
    pub simd: bool,
}

impl Default for RegisterConfig {
    fn default() -> Self {
        Self {
            template: PathBuf::new(),
            enabled: true,
            sigma_px: 1.0,
            max_iterations: 4,
            min_score: 0.4,
            max_jump_px: 15.0,
            max_shift_fraction: 0.15,
            saturated_fraction: 0.05,
            min_template_frames: 100,
            template_update_frames: 0,
            template_update_share: 0.2,
            min_reference_score: 0.3,
            min_rendered_reference_score: 0.6,
            bidirectional_phase: BidirectionalPhase::Word(PhaseWord::Off),
            z_stack: PathBuf::new(),
            z_step_um: 0.0,
            z_average_frames: 300,
            z_warning_um: 5.0,
            piecewise: false,
            blocks_y: 8,
            blocks_x: 8,
            max_block_shift_px: 4.0,
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
        if self.template_update_frames > 0 {
            range("template_update_frames", f64::from(self.template_update_frames), 100.0, 65_535.0);
        }
        range("template_update_share", self.template_update_share, 0.01, 1.0);
        range("min_reference_score", self.min_reference_score, 0.0, 1.0);
        range("min_rendered_reference_score", self.min_rendered_reference_score, 0.0, 1.0);
        range("z_step_um", self.z_step_um, 0.0, 1_000.0);
        range("z_average_frames", f64::from(self.z_average_frames), 1.0, 1e6);
        range("z_warning_um", self.z_warning_um, f64::MIN_POSITIVE, f64::MAX);
        range("blocks_y", f64::from(self.blocks_y), 1.0, 16.0);
        range("blocks_x", f64::from(self.blocks_x), 1.0, 16.0);
        range("max_block_shift_px", self.max_block_shift_px, 0.5, 8.0);
        if self.template_update_frames > 0 && self.z_step_um > 0.0 {
            violations.push(format!(
                "{section}.template_update_frames: {} together with {section}.z_step_um, expected 0 where the depth is \
                 followed: a template that follows hides the drift",
                self.template_update_frames
            ));
        }
        if self.template_update_frames > 0 && self.piecewise {
            violations.push(format!(
                "{section}.template_update_frames: {} together with {section}.piecewise, expected 0 where blocks are \
                 refined: a template that follows hides where they moved",
                self.template_update_frames
            ));
        }
        if !self.z_stack.as_os_str().is_empty() && self.z_step_um == 0.0 {
            violations
                .push(format!("{section}.z_step_um: 0 with {section}.z_stack, expected the slices' distance in um"));
        }
        if self.piecewise && !self.enabled {
            violations.push(format!(
                "{section}.piecewise: true without registration, expected false, or {section}.enabled = true"
            ));
        }
        let phase = self.bidirectional_phase;
        if phase.px().is_some_and(|px| !(-PHASE_MAX_PX..=PHASE_MAX_PX).contains(&px)) {
            let px = phase.px().unwrap_or_default();
            violations.push(format!(
                "{section}.bidirectional_phase: {px}, expected \"off\", \"estimate\", or -8 to 8 pixels"
            ));
        }
        if phase.is_estimated() && !self.enabled {
            violations.push(format!(
                "{section}.bidirectional_phase: \"estimate\" without registration, expected pixels, \"off\", or \
                 {section}.enabled = true"
            ));
        }
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
            template_update_frames: 7,
            template_update_share: 0.0,
            min_reference_score: 7.0,
            min_rendered_reference_score: -0.1,
            bidirectional_phase: BidirectionalPhase::Px(-9.0),
            blocks_y: 0,
            blocks_x: 17,
            max_block_shift_px: 9.0,
            ..RegisterConfig::default()
        };
        let mut violations = Vec::new();
        config.validate("register", &mut violations);
        assert_eq!(violations.len(), 15);
        assert!(violations.contains(&"register.min_score: -1, expected 0 to 1".to_string()));
    }

    #[test]
    fn a_template_that_follows_goes_with_nothing_that_it_would_hide() {
        let following = RegisterConfig { template_update_frames: 900, ..RegisterConfig::default() };
        let violations = |config: RegisterConfig| {
            let mut violations = Vec::new();
            config.validate("register", &mut violations);
            violations
        };
        assert_eq!(violations(following.clone()), Vec::<String>::new());
        let deep = violations(RegisterConfig { z_step_um: 2.0, ..following.clone() });
        assert!(deep.iter().any(|v| v.contains("900 together with register.z_step_um")), "{deep:?}");
        let blocks = violations(RegisterConfig { piecewise: true, ..following });
        assert!(blocks.len() == 1 && blocks[0].contains("900 together with register.piecewise"), "{blocks:?}");
    }

    #[test]
    fn the_phase_of_odd_lines_is_a_word_or_pixels() {
        let read = |value: &str| toml::from_str::<RegisterConfig>(&format!("bidirectional_phase = {value}"));
        let phase = |value: &str| read(value).map(|config| config.bidirectional_phase).map_err(|e| e.to_string());
        assert_eq!(phase("\"off\""), Ok(RegisterConfig::default().bidirectional_phase));
        assert_eq!(phase("\"estimate\""), Ok(BidirectionalPhase::Word(PhaseWord::Estimate)));
        assert_eq!(phase("-1.5"), Ok(BidirectionalPhase::Px(-1.5)));
        assert_eq!(phase("2"), Ok(BidirectionalPhase::Px(2.0)));
        assert!(phase("\"on\"").is_err_and(|e| e.contains("expected \"off\", \"estimate\", or pixels")));
        let config = read("0.75").expect("pixels");
        let written = toml::to_string(&config).expect("it can be written");
        assert_eq!(toml::from_str::<RegisterConfig>(&written).expect("and read"), config);
        let alone = RegisterConfig { enabled: false, ..read("\"estimate\"").expect("a word") };
        let mut violations = Vec::new();
        alone.validate("register", &mut violations);
        assert!(violations.len() == 1 && violations[0].starts_with("register.bidirectional_phase: \"estimate\""));
    }
}

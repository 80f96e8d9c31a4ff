//! Registration: where does each frame's content lie relative to the template?
//!
//! In: [`FrameView`](crate::frame::FrameView)s of one plane. Out: a [`Registration`] for each: the shift (dy rows, dx
//! columns, pixels; `frame(r, c) = template(r - dy, c - dx)`), a score, a verdict. The template is the mean of the
//! baseline's aligned frames, or loaded; it is itself registered to the ROI set's reference image.
//!
//! Why this way: an estimate from one pass over the raw samples, against weight images into which all smoothing has
//! been folded, reaches the noise's bound within a factor of two and takes as long as reading the frame a few times
//! (Lucas and Kanade 1981, in the form where the template's gradients are precomputed). FFTs are ten times slower and
//! no better, so they only find the content again when it was lost. Sums over pixels are integers: the same bits on
//! every machine, for every cutting into strips.
//!
//! Where a bidirectional scanner puts odd lines aside of even ones, odd lines are read so much further right
//! (`phase.rs`); shifts are those of the even lines.
//!
//! Where `piecewise` is on, overlapping blocks of the frame are refined from its shift (`piecewise.rs`), and masks
//! follow them ([`BlockGrid`]).
//!
//! Where `template_update_frames` says so, the frozen template slowly follows what changes (`update.rs`); shifts stay
//! relative to what it was.
//!
//! **Invariant**: this stage reads no clock, and `step` allocates nothing.

mod ahead;
mod axial;
mod bank;
mod blocks;
#[cfg(test)]
mod blocks_tests;
mod filter;
mod fit;
mod kernel;
mod learn;
#[cfg(test)]
mod lines_tests;
mod phase;
mod piecewise;
mod resample;
mod rigid;
mod shrink;
mod state;
mod template;
#[cfg(test)]
mod tests;
mod update;
#[cfg(test)]
mod update_tests;
mod wide;

pub use axial::{Axial, AxialConfig, SLICES_MAX};
pub use blocks::{BLOCKS_MAX, BlockGrid};
pub use resample::resample;
pub use rigid::Rigid;

use serde::{Deserialize, Serialize};

/// How well a frame fits the template, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FitVerdict {
    /// The shift can be relied on.
    Good,
    /// The frame does not fit anywhere within the largest shift; the last good shift is reported.
    LowScore,
    /// The content moved further than `max_jump_px` since the last good frame; the new shift is reported.
    Jump,
    /// Too many samples at saturation; the last good shift is reported.
    Saturated,
    /// No image in the frame; the last good shift is reported.
    Blank,
    /// Some rows fit and others do not, or rows are missing; the last good shift is reported. A tear near to the first
    /// or the last row is seen where enough shows beyond it.
    Torn,
    /// There is no template, or the frame has another size than was configured.
    NotReady,
    /// Registration is turned off.
    Off,
    /// Its producer changed the frame while it was read; the shift says nothing.
    Changed,
}

/// What registration says of one frame.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Registration {
    /// Rows by which the content lies below its place in the template, in pixels.
    pub dy_px: f64,
    /// Columns by which the content lies to the right of its place in the template, in pixels.
    pub dx_px: f64,
    /// Goodness of fit, 0 to 1: 1 fits as the baseline's frames do.
    pub score: f64,
    /// Whether the shift can be relied on.
    pub verdict: FitVerdict,
    /// The shift comes from a wide search, not from tracking.
    pub reacquired: bool,
}

impl Registration {
    /// What is said where there is nothing to register: no shift, no score.
    pub const fn none() -> Self {
        Self { dy_px: 0.0, dx_px: 0.0, score: 0.0, verdict: FitVerdict::Off, reacquired: false }
    }

    /// How far masks lie on the frame from where they were drawn, down and right, in pixels, before any block's shift:
    /// they follow the template where its `offset` is sure, and are taken to have been drawn on it where it is not.
    pub fn moved_px(&self, offset: Option<TemplateOffset>) -> (f64, f64) {
        match offset {
            Some(o) if o.trusted => (o.dy_px + self.dy_px, o.dx_px + self.dx_px),
            _ => (self.dy_px, self.dx_px),
        }
    }
}

/// Where the template's content lies relative to the ROI set's reference image.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TemplateOffset {
    /// Rows, in pixels.
    pub dy_px: f64,
    /// Columns, in pixels.
    pub dx_px: f64,
    /// How far the match stands out of all other lags, 0 to 1.
    pub score: f64,
    /// The score reaches `min_reference_score`.
    pub trusted: bool,
}

/// What can be wrong with a command to this stage.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RegisterError {
    /// The baseline was too short, or too many of its frames were doubted.
    #[error("the template has {have} accumulated frames, expected at least {need}")]
    TooFewFrames {
        /// Frames in the template.
        have: u32,
        /// Frames that it needs.
        need: u32,
    },
    /// Freeze without a baseline.
    #[error("no baseline is running, expected begin_baseline before freeze_template")]
    NoBaseline,
    /// An image of another size than the frames.
    #[error(
        "the image is {got_height_px} x {got_width_px} with {got_values} values, expected {height_px} x {width_px}"
    )]
    WrongSize {
        /// Rows of the image.
        got_height_px: usize,
        /// Columns of the image.
        got_width_px: usize,
        /// Values in the image.
        got_values: usize,
        /// Rows expected.
        height_px: usize,
        /// Columns expected.
        width_px: usize,
    },
    /// An image with values that are not numbers.
    #[error("the image has {count} values that are not finite, expected none")]
    NotFinite {
        /// How many.
        count: usize,
    },
    /// An image without contrast.
    #[error("the image is the same everywhere, expected one with structure")]
    Featureless,
    /// A saved state that cannot be loaded.
    #[error("the saved state cannot be loaded: {why}, {got} bytes, expected {expected}")]
    BadState {
        /// What is wrong with it.
        why: &'static str,
        /// Bytes there are.
        got: usize,
        /// Bytes that were expected.
        expected: usize,
    },
}

//! Feedback: from the cursor to the rotation of the grating, and to the step that is shown.
//!
//! In: `z`, the cursor above the bottom of its range. Out: the rotation in degrees and a step, 0 (furthest from the
//! target) to `step_count - 1` (the target). With `range = T - range_low`:
//!
//! - `rotation = round(span * z / range)`, half away from zero, not limited: 0 at the bottom of the range, the span
//!   (90 degrees for seven steps of 15) at the threshold;
//! - the edges of the steps, in z: `step_count - 1` equally spaced ones from 0 to `range`, and one below them by the
//!   same spacing. The highest edge that z reaches decides; below all of them it is the first step.
//!
//! The threshold itself is reached at the last edge, while the rotation rounds: a hit (rotation >= 90) comes up to
//! half a degree below it.

use crate::config::task::TaskConfig;
use serde::{Deserialize, Serialize};

/// The mapping. Without a range ([`Feedback::set_range`]) the rotation is NaN and the step the first.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Feedback {
    step_count: u32,
    span_deg: f64,
    range: f64,
}

impl Feedback {
    /// The mapping for the grating of `config`.
    pub fn new(config: &TaskConfig) -> Self {
        Self { step_count: config.step_count.max(3), span_deg: config.span_deg(), range: f64::NAN }
    }

    /// Takes the calibration's threshold and the bottom of the range, in the units of the decoded signal.
    pub fn set_range(&mut self, threshold: f64, range_low: f64) {
        let range = threshold - range_low;
        self.range = if range.is_finite() && range > 0.0 { range } else { f64::NAN };
    }

    /// The threshold above the bottom of the range; NaN without one.
    pub fn range(&self) -> f64 {
        self.range
    }

    /// Rotation in whole degrees.
    pub fn rotation_deg(&self, cursor: f64) -> f64 {
        (self.span_deg * cursor / self.range).round()
    }

    /// The step that is shown, 0 to `step_count - 1`.
    pub fn step(&self, cursor: f64) -> usize {
        let last = self.step_count.saturating_sub(1);
        (0..=last).rev().find(|&step| cursor >= self.edge(step)).unwrap_or(0) as usize
    }

    /// The cursor at which `step` begins.
    fn edge(&self, step: u32) -> f64 {
        // Of n steps the edges 1 to n - 1 run from 0 to the range, n - 2 spacings; edge 0 stands one below.
        let spacings = f64::from(self.step_count.max(3) - 2);
        if step == self.step_count.saturating_sub(1) {
            self.range
        } else {
            self.range * (f64::from(step) - 1.0) / spacings
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn feedback(threshold: f64, range_low: f64) -> Feedback {
        let mut feedback = Feedback::new(&TaskConfig::default());
        feedback.set_range(threshold, range_low);
        feedback
    }

    #[test]
    fn the_rotation_is_0_at_range_low_and_90_at_the_threshold() {
        let f = feedback(0.75, 0.25);
        assert_eq!(f.range(), 0.5);
        assert_eq!(f.rotation_deg(0.0), 0.0);
        assert_eq!(f.rotation_deg(0.5), 90.0);
        assert_eq!(f.rotation_deg(1.0), 180.0, "not limited");
    }

    #[test]
    fn the_rotation_rounds_half_away_from_zero() {
        let f = feedback(90.0, 0.0);
        assert_eq!([0.5, 1.5, -0.5, -1.5, 89.5].map(|z| f.rotation_deg(z)), [1.0, 2.0, -1.0, -2.0, 90.0]);
        assert_eq!(f.rotation_deg(-0.49), 0.0);
        assert_eq!(f.rotation_deg(89.49), 89.0);
    }

    #[test]
    fn the_highest_edge_that_z_reaches_decides() {
        let f = feedback(5.0, 0.0);
        let steps = [-9.0, -1.0, -0.5, 0.0, 0.99, 1.0, 2.0, 3.0, 4.0, 4.99, 5.0, 99.0].map(|z| f.step(z));
        assert_eq!(steps, [0, 0, 0, 1, 1, 2, 3, 4, 5, 5, 6, 6]);
    }

    #[test]
    fn without_a_range_there_is_no_rotation() {
        for f in [Feedback::new(&TaskConfig::default()), feedback(1.0, 1.0), feedback(f64::NAN, 0.0)] {
            assert!(f.rotation_deg(1.0).is_nan());
            assert_eq!(f.step(1.0), 0);
        }
        assert_eq!(feedback(1.0, 0.0).step(f64::NAN), 0);
    }

    proptest! {
        #[test]
        fn step_and_rotation_never_fall_as_z_rises(range in 1e-3f64..1e3, a in -1e3f64..1e3, b in -1e3f64..1e3) {
            let f = feedback(range, 0.0);
            let (low, high) = if a < b { (a, b) } else { (b, a) };
            prop_assert!(f.step(low) <= f.step(high));
            prop_assert!(f.rotation_deg(low) <= f.rotation_deg(high));
        }
    }
}

//! Configuration of the trial: its phases in frames of the control plane, its outcomes, what the screen shows.

use serde::{Deserialize, Serialize};

/// What fills the screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Screen {
    /// The grating, at an orientation of its own.
    Grating,
    /// Mean grey.
    Grey,
    /// Black.
    Black,
}

/// The trial's table. Lengths are frames of the control plane (30 frames are 1 s at 30 Hz).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TaskConfig {
    /// Length of a trial, its start included, 1 to 1,000,000 frames. Default 750.
    pub trial_frames: u32,
    /// Frames at a trial's start before control begins, less than `trial_frames`. Default 15.
    pub start_frames: u32,
    /// Frames for which the grating is held at the target after a hit, 1 to 1,000,000. Default 60.
    pub hit_hold_frames: u32,
    /// The frame of the hold at which the reward falls due, 1 to `hit_hold_frames`. Default 3.
    pub hit_reward_frame: u32,
    /// Whether a rotation below `aversive_rotation_deg` ends a trial. Default true.
    pub aversive: bool,
    /// Frames for which the grating is held furthest from the target after an aversive end. Default 60.
    pub aversive_hold_frames: u32,
    /// Inter-trial interval after a hit or an aversive end, frames. Default 15.
    pub iti_frames: u32,
    /// Inter-trial interval after a miss, frames. Default 90.
    pub miss_iti_frames: u32,
    /// The frame of a miss's interval at which the noise begins, 0 (none) to `miss_iti_frames`. Default 30.
    pub miss_noise_frame: u32,
    /// Length of the white noise, 0 to 600 s. Default 2.
    pub noise_duration_s: f64,
    /// Orientation of the target, 0 to below 360 degrees. Default 90.
    pub target_deg: f64,
    /// Orientations that the grating can take, 3 to 64. Default 7.
    pub step_count: u32,
    /// Degrees between neighbouring orientations, above 0 to 180. Default 15.
    pub step_deg: f64,
    /// Consecutive frames for which the rotation must be kept for a hit; 0 and 1: the first frame is a hit. Default 0.
    pub hold_frames: u32,
    /// A rotation of this many degrees or more is a hit; finite. Default 90.
    pub hit_rotation_deg: f64,
    /// A rotation below this is an aversive end, degrees; below `hit_rotation_deg`. Default 0.
    pub aversive_rotation_deg: f64,
    /// The screen during a trial's start, `grey` or `black`. Default grey.
    pub start_screen: Screen,
    /// The screen during the interval after a hit or an aversive end, `grey` or `black`. Default grey.
    pub iti_screen: Screen,
    /// The screen during the interval after a miss, `grey` or `black`. Default black.
    pub miss_iti_screen: Screen,
}

impl Default for TaskConfig {
    fn default() -> Self {
        Self {
            trial_frames: 750,
            start_frames: 15,
            hit_hold_frames: 60,
            hit_reward_frame: 3,
            aversive: true,
            aversive_hold_frames: 60,
            iti_frames: 15,
            miss_iti_frames: 90,
            miss_noise_frame: 30,
            noise_duration_s: 2.0,
            target_deg: 90.0,
            step_count: 7,
            step_deg: 15.0,
            hold_frames: 0,
            hit_rotation_deg: 90.0,
            aversive_rotation_deg: 0.0,
            start_screen: Screen::Grey,
            iti_screen: Screen::Grey,
            miss_iti_screen: Screen::Black,
        }
    }
}

/// The longest phase, in frames: far beyond any trial, and far from where a counter would wrap.
const PHASE_FRAMES_MAX: u32 = 1_000_000;

impl TaskConfig {
    /// Degrees from the first orientation to the target: `(step_count - 1) * step_deg`. The rotation at the threshold.
    pub fn span_deg(&self) -> f64 {
        f64::from(self.step_count.saturating_sub(1)) * self.step_deg
    }

    /// Orientation of the grating at `step` (0 is furthest from the target), from 0 to below 360 degrees. A step
    /// beyond the last is the last, the target.
    pub fn shown_deg(&self, step: usize) -> f64 {
        let last = self.step_count.saturating_sub(1);
        let below = last - u32::try_from(step).unwrap_or(last).min(last);
        let deg = (self.target_deg - f64::from(below) * self.step_deg) % 360.0;
        if deg < 0.0 { deg + 360.0 } else { deg }
    }

    /// Pushes one sentence for each value that cannot be used.
    pub fn validate(&self, section: &str, violations: &mut Vec<String>) {
        self.validate_lengths(section, violations);
        let mut expect = |key: &str, value: f64, good: bool, expected: &str| {
            if !good {
                violations.push(format!("{section}.{key}: {value}, expected {expected}"));
            }
        };
        let noise = self.noise_duration_s;
        expect("noise_duration_s", noise, (0.0..=600.0).contains(&noise), "0 to 600 s");
        let target = self.target_deg;
        expect("target_deg", target, (0.0..360.0).contains(&target), "0 to below 360 degrees");
        let step = self.step_deg;
        expect("step_deg", step, step > 0.0 && step <= 180.0, "above 0, to 180 degrees");
        let hit = self.hit_rotation_deg;
        expect("hit_rotation_deg", hit, hit.is_finite(), "a finite number of degrees");
        let aversive = self.aversive_rotation_deg;
        let below = aversive.is_finite() && (!self.aversive || aversive < hit);
        expect("aversive_rotation_deg", aversive, below, "a finite number of degrees below hit_rotation_deg");
        let screens = [("start", self.start_screen), ("iti", self.iti_screen), ("miss_iti", self.miss_iti_screen)];
        for (key, screen) in screens {
            if screen == Screen::Grating {
                violations.push(format!("{section}.{key}_screen: grating, expected grey or black"));
            }
        }
    }

    /// The part of `validate` that concerns whole numbers.
    fn validate_lengths(&self, section: &str, violations: &mut Vec<String>) {
        let mut expect = |key: &str, value: u32, low: u32, high: u32| {
            if !(low..=high).contains(&value) {
                violations.push(format!("{section}.{key}: {value}, expected {low} to {high}"));
            }
        };
        expect("trial_frames", self.trial_frames, 1, PHASE_FRAMES_MAX);
        expect("start_frames", self.start_frames, 0, self.trial_frames.saturating_sub(1));
        expect("hit_hold_frames", self.hit_hold_frames, 1, PHASE_FRAMES_MAX);
        expect("hit_reward_frame", self.hit_reward_frame, 1, self.hit_hold_frames);
        expect("aversive_hold_frames", self.aversive_hold_frames, 0, PHASE_FRAMES_MAX);
        expect("iti_frames", self.iti_frames, 0, PHASE_FRAMES_MAX);
        expect("miss_iti_frames", self.miss_iti_frames, 0, PHASE_FRAMES_MAX);
        expect("miss_noise_frame", self.miss_noise_frame, 0, self.miss_iti_frames);
        expect("hold_frames", self.hold_frames, 0, self.trial_frames.saturating_sub(self.start_frames));
        expect("step_count", self.step_count, 3, 64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_one_of_seven_orientations_from_target_minus_90_to_target() {
        let config = TaskConfig::default();
        let shown: Vec<f64> = (0..7).map(|step| config.shown_deg(step)).collect();
        assert_eq!(shown, [0.0, 15.0, 30.0, 45.0, 60.0, 75.0, 90.0]);
        assert_eq!(config.shown_deg(7), 90.0);
        assert_eq!(config.shown_deg(usize::MAX), 90.0);
        assert_eq!(config.span_deg(), 90.0);
    }

    #[test]
    fn orientations_are_modulo_360() {
        let config = TaskConfig { target_deg: 30.0, ..Default::default() };
        let shown: Vec<f64> = (0..7).map(|step| config.shown_deg(step)).collect();
        assert_eq!(shown, [300.0, 315.0, 330.0, 345.0, 0.0, 15.0, 30.0]);
    }

    #[test]
    fn every_violation_names_its_key() {
        let bad = TaskConfig {
            start_frames: 750,
            hit_reward_frame: 61,
            miss_noise_frame: 91,
            step_count: 2,
            target_deg: 360.0,
            aversive_rotation_deg: 90.0,
            iti_screen: Screen::Grating,
            ..Default::default()
        };
        let mut violations = Vec::new();
        bad.validate("task", &mut violations);
        assert_eq!(violations.len(), 7, "{violations:?}");
        assert_eq!(violations[1], "task.hit_reward_frame: 61, expected 1 to 60");
        let mut none = Vec::new();
        TaskConfig::default().validate("task", &mut none);
        assert!(none.is_empty());
    }
}

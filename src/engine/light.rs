//! A sync line that answers light: for rigs where it lights an LED that the microscope sees, so that a pulse, its light
//! in a frame, and the pulse that answers it make a round trip with everything in it.

use serde::{Deserialize, Serialize};

/// After so many frames without a pulse one goes out all the same, and begins a round trip: light that comes while
/// there is light already is not answered.
const RESTART_FRAMES: u32 = 10;

/// Which frames are answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct LightAnswer {
    bright_counts: f64,
    pub(super) state: LightState,
}

/// What it remembers.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(super) struct LightState {
    was_bright: bool,
    frames_since_pulse: u32,
}

impl LightAnswer {
    /// Frames are bright from so many counts on.
    pub fn new(bright_counts: f64) -> Self {
        Self { bright_counts, state: LightState::default() }
    }

    /// Whether a frame with these F of the ROIs, in counts, is answered.
    pub fn step(&mut self, f: &[f64]) -> bool {
        let mean = f.iter().sum::<f64>() / f.len() as f64;
        let is_bright = mean >= self.bright_counts;
        let state = &mut self.state;
        state.frames_since_pulse += 1;
        let answers = (is_bright && !state.was_bright) || state.frames_since_pulse >= RESTART_FRAMES;
        state.was_bright = is_bright;
        if answers {
            state.frames_since_pulse = 0;
        }
        answers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn light_is_answered_when_it_comes_and_darkness_after_a_while() {
        let mut light = LightAnswer::new(100.0);
        let mut answered = |f: f64| light.step(&[f - 10.0, f + 10.0]);
        assert_eq!(
            [50.0, 120.0, 130.0, 50.0, 100.0, f64::NAN].map(&mut answered),
            [false, true, false, false, true, false]
        );
        // The frame that is not a number counts as dark.
        let dark: Vec<bool> = (0..20).map(|_| answered(50.0)).collect();
        let places: Vec<usize> = (0..20).filter(|&k| dark[k]).collect();
        assert_eq!(places, [8, 18]);
    }
}

//! Decode: from the ROIs' activity to one number, the cursor, and from the cursor to the grating.
//!
//! In, for each frame after the baseline: dF/F, z and rate of each ROI, which ROIs are valid, and whether registration
//! trusts the frame. Out: `x(n)`, P+ minus P- ([`Ensembles::difference`]), and the cursor
//! `z(n) = mean of x over the last 3 valid frames - range_low`, in the units of the chosen signal. Until there have
//! been three frames, x(n) stands for the mean. Nothing restarts with a trial, and no baseline frame enters: the
//! engine calls [`Decoder::begin`] when the baseline has ended, and [`Decoder::step`] for every frame after that.
//!
//! A doubted frame, or one on which a population has no valid cell, leaves everything as it was: the cursor is held.
//! Cost: at most 128 additions a frame. Method: Francioni et al. (Nature 2026; CLOOSE), except that CLOOSE has no
//! notion of a doubted frame. [`feedback::Feedback`] maps the cursor to rotation and step.

mod ensembles;
pub mod feedback;

pub use crate::config::decode::ENSEMBLE_MAX;
use crate::config::decode::{DecodeConfig, Signal};
pub use ensembles::{EnsembleError, Ensembles};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a saved state cannot be taken.
#[derive(Debug, Error)]
pub enum StateError {
    /// The bytes are not such a state.
    #[error("decode: the state cannot be read: {0}")]
    Unreadable(#[from] postcard::Error),
    /// The state's ensembles do not fit this session.
    #[error("decode: {0}")]
    Ensembles(#[from] EnsembleError),
    /// The state was saved with another smoothing.
    #[error("decode: the state smooths over {got} frames, expected {expected}")]
    Smoothing {
        /// Frames in the state.
        got: usize,
        /// Frames of this decoder.
        expected: usize,
    },
}

/// What one frame gives.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Decoded {
    /// Whether this frame moved the cursor. False: x and the cursor are held.
    pub valid: bool,
    /// P+ minus P-, of this frame or of the last valid one; 0 before the first.
    pub x: f64,
    /// The smoothed x above `range_low`, of this frame or of the last valid one; 0 before the first.
    pub cursor: f64,
}

/// All that changes.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct State {
    ensembles: Ensembles,
    range_low: f64,
    /// The last x, as a ring.
    history: Vec<f64>,
    /// Valid frames since `begin`.
    count: u64,
    held: Decoded,
}

/// The stage.
#[derive(Debug, Clone)]
pub struct Decoder {
    signal: Signal,
    roi_count: usize,
    state: State,
}

impl Decoder {
    /// A decoder with these ensembles, which may both be empty until [`Decoder::set_ensembles`].
    pub fn new(config: &DecodeConfig, ensembles: &Ensembles, roi_count: usize) -> Result<Self, EnsembleError> {
        let room = || Vec::with_capacity(ENSEMBLE_MAX);
        let mut decoder = Self {
            signal: config.signal,
            roi_count,
            state: State {
                ensembles: Ensembles { plus: room(), minus: room() },
                range_low: 0.0,
                history: vec![0.0; config.smooth_frames.max(1) as usize],
                count: 0,
                held: Decoded { valid: false, x: 0.0, cursor: 0.0 },
            },
        };
        if *ensembles != Ensembles::default() {
            decoder.set_ensembles(ensembles)?;
        }
        Ok(decoder)
    }

    /// Replaces the ensembles, between baseline and task. Does not allocate; refused ones change nothing.
    pub fn set_ensembles(&mut self, ensembles: &Ensembles) -> Result<(), EnsembleError> {
        ensembles.check(self.roi_count)?;
        let own = &mut self.state.ensembles;
        for (own, new) in [(&mut own.plus, &ensembles.plus), (&mut own.minus, &ensembles.minus)] {
            own.clear();
            own.extend_from_slice(new);
        }
        Ok(())
    }

    /// The ensembles in use.
    pub fn ensembles(&self) -> &Ensembles {
        &self.state.ensembles
    }

    /// The signal in use.
    pub fn signal(&self) -> Signal {
        self.signal
    }

    /// Begins with the first frame after a baseline: an empty history, and the bottom of the cursor's range.
    pub fn begin(&mut self, range_low: f64) {
        self.state.range_low = range_low;
        self.state.count = 0;
        self.state.held = Decoded { valid: false, x: 0.0, cursor: 0.0 };
    }

    /// Moves the bottom of the cursor's range, as a calibration or an operator does; the history of x stays.
    pub fn set_range_low(&mut self, range_low: f64) {
        self.state.held.cursor += self.state.range_low - range_low;
        self.state.range_low = range_low;
    }

    /// Frames over which x is averaged.
    pub fn smooth_frames(&self) -> u32 {
        self.state.history.len() as u32
    }

    /// One frame. The slices hold a value for each ROI; a missing one is invalid.
    pub fn step(&mut self, dff: &[f64], z: &[f64], rate: &[f64], roi_valid: &[bool], frame_valid: bool) -> Decoded {
        let values = match self.signal {
            Signal::Dff => dff,
            Signal::Z => z,
            Signal::Rate => rate,
        };
        let state = &mut self.state;
        state.held.valid = false;
        if !frame_valid {
            return state.held;
        }
        let ensembles = &state.ensembles;
        let x = ensembles.difference(|cell| {
            let roi = match cell.checked_sub(ensembles.plus.len()) {
                None => ensembles.plus.get(cell),
                Some(cell) => ensembles.minus.get(cell),
            };
            let roi = roi.map_or(usize::MAX, |&roi| roi as usize);
            if roi_valid.get(roi) == Some(&true) { values.get(roi).copied().unwrap_or(f64::NAN) } else { f64::NAN }
        });
        if !x.is_finite() {
            return state.held;
        }
        let frames = state.history.len() as u64;
        // The ring is at least one long, and the remainder below its length.
        state.history[(state.count % frames) as usize] = x;
        state.count = state.count.wrapping_add(1);
        let smooth = if state.count < frames { x } else { ring_mean(&state.history, state.count) };
        let cursor = smooth - state.range_low;
        state.held = Decoded { valid: true, x, cursor };
        state.held
    }

    /// Appends the state. Does not allocate when `out` has room.
    pub fn save(&self, out: &mut Vec<u8>) -> Result<(), StateError> {
        postcard::to_io(&self.state, &mut *out)?;
        Ok(())
    }

    /// Takes a saved state and returns how many bytes it had. Where it does not fit, nothing changes.
    pub fn load(&mut self, bytes: &[u8]) -> Result<usize, StateError> {
        let (state, rest): (State, &[u8]) = postcard::take_from_bytes(bytes)?;
        let (got, expected) = (state.history.len(), self.state.history.len());
        if got != expected {
            return Err(StateError::Smoothing { got, expected });
        }
        if state.ensembles == Ensembles::default() {
            self.state.ensembles.plus.clear();
            self.state.ensembles.minus.clear();
        } else {
            self.set_ensembles(&state.ensembles)?;
        }
        // The ensembles keep their own memory, which has room for the largest.
        let ensembles = std::mem::take(&mut self.state.ensembles);
        self.state = State { ensembles, ..state };
        Ok(bytes.len() - rest.len())
    }
}

/// The mean of a full ring, summed from its oldest entry to its newest; `count` values have entered it.
fn ring_mean(ring: &[f64], count: u64) -> f64 {
    let oldest = (count % ring.len() as u64) as usize;
    let (newer, older) = ring.split_at(oldest);
    let mut sum = 0.0;
    for x in older.iter().chain(newer) {
        sum += x;
    }
    sum / ring.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoder(smooth_frames: u32) -> Decoder {
        let config = DecodeConfig { smooth_frames, ..Default::default() };
        Decoder::new(&config, &Ensembles { plus: vec![0], minus: vec![1] }, 2).unwrap()
    }

    fn step(decoder: &mut Decoder, x: f64) -> Decoded {
        decoder.step(&[x, 0.0], &[], &[], &[true, true], true)
    }

    #[test]
    fn z_is_the_mean_of_x_over_the_last_3_frames_minus_range_low() {
        let mut d = decoder(3);
        d.begin(-1.0);
        let cursors = [3.0, 6.0, 9.0, 0.0, 3.0].map(|x| step(&mut d, x).cursor);
        assert_eq!(cursors, [4.0, 7.0, 7.0, 6.0, 5.0], "for the first two frames x alone");
    }

    #[test]
    fn no_baseline_frame_enters() {
        let mut d = decoder(3);
        for _ in 0..5 {
            step(&mut d, 100.0);
        }
        d.begin(0.0);
        assert_eq!(step(&mut d, 1.0).cursor, 1.0);
        assert_eq!(step(&mut d, 2.0).cursor, 2.0);
        assert_eq!(step(&mut d, 3.0).cursor, 2.0);
    }

    #[test]
    fn a_doubted_frame_holds_the_cursor() {
        let mut d = decoder(3);
        d.begin(0.0);
        for x in [3.0, 6.0, 9.0] {
            step(&mut d, x);
        }
        let held = d.step(&[1e9, 0.0], &[], &[], &[true, true], false);
        assert_eq!(held, Decoded { valid: false, x: 9.0, cursor: 6.0 });
        assert_eq!(step(&mut d, 0.0).cursor, 5.0, "the doubted frame is not among the last 3");
    }

    #[test]
    fn a_population_without_a_valid_cell_holds_the_cursor() {
        let mut d = decoder(1);
        d.begin(0.0);
        step(&mut d, 4.0);
        let held = Decoded { valid: false, x: 4.0, cursor: 4.0 };
        assert_eq!(d.step(&[1.0, 1.0], &[], &[], &[true, false], true), held);
        assert_eq!(d.step(&[f64::NAN, 1.0], &[], &[], &[true, true], true), held);
        assert_eq!(d.step(&[], &[], &[], &[], true), held);
    }

    #[test]
    fn the_signal_is_dff_or_z_or_the_rate() {
        let config = DecodeConfig { signal: Signal::Z, ..Default::default() };
        let mut d = Decoder::new(&config, &Ensembles { plus: vec![1], minus: vec![] }, 2).unwrap();
        assert_eq!(d.step(&[1.0, 2.0], &[3.0, 4.0], &[5.0, 6.0], &[true, true], true).x, 4.0);
        assert_eq!(d.signal(), Signal::Z);
        let config = DecodeConfig { signal: Signal::Rate, ..config };
        let mut d = Decoder::new(&config, &Ensembles { plus: vec![1], minus: vec![] }, 2).unwrap();
        assert_eq!(d.step(&[1.0, 2.0], &[3.0, 4.0], &[5.0, 6.0], &[true, true], true).x, 6.0);
    }

    #[test]
    fn ensembles_can_be_replaced_between_baseline_and_task() {
        let mut d = Decoder::new(&DecodeConfig::default(), &Ensembles::default(), 3).unwrap();
        assert!(!d.step(&[1.0, 2.0, 4.0], &[], &[], &[true; 3], true).valid, "no ensembles, no cursor");
        let new = Ensembles { plus: vec![2], minus: vec![0, 1] };
        d.set_ensembles(&new).unwrap();
        assert_eq!(d.ensembles(), &new);
        assert_eq!(d.step(&[1.0, 2.0, 4.0], &[], &[], &[true; 3], true).x, 2.5);
        let bad = Ensembles { plus: vec![3], minus: vec![] };
        assert!(d.set_ensembles(&bad).is_err());
        assert_eq!(d.ensembles(), &new, "refused ones change nothing");
    }

    #[test]
    fn snapshot_load_and_go_on_equals_uninterrupted() {
        let mut one = decoder(3);
        one.begin(0.1);
        for frame in 0..20u32 {
            let mut bytes = Vec::new();
            one.save(&mut bytes).unwrap();
            let mut two = Decoder::new(&DecodeConfig::default(), &Ensembles::default(), 2).unwrap();
            assert_eq!(two.load(&bytes).unwrap(), bytes.len());
            let x = f64::from(frame * 37 % 11) * 0.1;
            let (a, b) = if frame % 4 == 3 {
                (one.step(&[], &[], &[], &[], false), two.step(&[], &[], &[], &[], false))
            } else {
                (step(&mut one, x), step(&mut two, x))
            };
            assert_eq!((a.valid, a.x.to_bits(), a.cursor.to_bits()), (b.valid, b.x.to_bits(), b.cursor.to_bits()));
        }
    }

    #[test]
    fn a_state_that_does_not_fit_is_refused() {
        let mut bytes = Vec::new();
        decoder(3).save(&mut bytes).unwrap();
        assert!(matches!(decoder(2).load(&bytes), Err(StateError::Smoothing { got: 3, expected: 2 })));
        let mut small = Decoder::new(&DecodeConfig::default(), &Ensembles::default(), 1).unwrap();
        assert!(matches!(small.load(&bytes), Err(StateError::Ensembles(_))));
        assert!(decoder(3).load(&bytes[..3]).is_err());
    }
}

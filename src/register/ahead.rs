//! What the lines of a frame say before its last one has come.
//!
//! In: a frame that is still arriving, and how far it has come. Out: the sums of the first pass over those rows, at the
//! lag where the frame before it lay. The shift hangs on every row, and so does all that follows from it; the sums of a
//! pass do not, and they are most of registration's time. When the frame is whole, the pass goes on where it stood,
//! if it still is the one that would be made: the same template, the same lag. Sums are integers, so nobody can tell.

use super::bank::Measured;
use super::kernel::Plane;
use super::rigid::Rigid;
use crate::frame::{Arrival, FrameView};

/// Rows that are measured in one go: some 6 us of 512 columns, for which whoever brings the frame may have to wait.
const ROWS: usize = 64;

/// A first pass that has begun.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    /// Of which frame, and how many rows of it are in the sums.
    arrival: Arrival,
    /// With which build of the bank.
    builds: u64,
    measured: Measured,
}

impl Rigid {
    /// Looks at some of the lines that have arrived and were not looked at yet; whether there are more. Reads no
    /// row below `arrival.rows_px`, and changes nothing but the time that the step will take.
    pub fn look_ahead(&mut self, frame: &FrameView, arrival: Arrival) -> bool {
        let (true, Some(plane)) = (self.config.enabled && self.has_template(), self.plane_of(frame)) else {
            return false;
        };
        let rows_px = arrival.rows_px.min(self.geometry.height_px);
        if arrival.number == 0 || rows_px == 0 {
            return false;
        }
        self.keep_ahead_of(arrival);
        let mut ahead = self.begun();
        let from = ahead.arrival.rows_px;
        let to = rows_px.min(from + ROWS).max(from);
        self.bank.measure_rows(self.path, plane, from..to, &mut ahead.measured);
        ahead.arrival = Arrival { rows_px: to, ..arrival };
        self.ahead = Some(ahead);
        to < rows_px
    }

    /// The first pass over a whole frame, or the rest of it.
    pub(super) fn first_pass(&mut self, plane: Plane) -> Measured {
        let Ahead { arrival, mut measured, .. } = self.begun();
        self.ahead = None;
        self.bank.measure_rows(self.path, plane, arrival.rows_px..self.geometry.height_px, &mut measured);
        measured
    }

    /// Forgets a pass over any other frame than this one.
    pub(super) fn keep_ahead_of(&mut self, arrival: Arrival) {
        self.ahead = self.ahead.filter(|ahead| arrival.number != 0 && ahead.arrival.number == arrival.number);
    }

    /// The pass that has begun, where it is the one that would be made now: the same template, the same lag. Else a new
    /// one, of no frame yet.
    fn begun(&self) -> Ahead {
        let (builds, lag) = (self.bank.builds(), self.first_lag());
        let begun = self.ahead.filter(|ahead| ahead.builds == builds && ahead.measured.lag == lag);
        begun.unwrap_or(Ahead { arrival: Arrival::default(), builds, measured: self.bank.begin(lag) })
    }

    /// Where the frame before this one lay, in whole pixels.
    fn first_lag(&self) -> (i32, i32) {
        self.clamp((self.record.shift.0.round() as i32, self.record.shift.1.round() as i32))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Rigid;
    use super::super::tests::{Scene, config, ready, view, wander};
    use super::Arrival;
    use crate::config::register::{BidirectionalPhase, PhaseWord, RegisterConfig};
    use proptest::prelude::*;

    const ROWS: usize = 96;
    const COLUMNS: usize = 80;

    /// Lets a tracker see the first rows of a frame whose other rows are not there yet.
    fn show(rigid: &mut Rigid, scene: &Scene, samples: &[u16], arrival: Arrival) {
        let there = arrival.rows_px * COLUMNS;
        let slot = [&samples[..there], &vec![u16::MAX; samples.len() - there][..]].concat();
        while rigid.look_ahead(&view(scene.geometry, &slot), arrival) {}
    }

    #[test]
    fn what_was_seen_is_not_read_again() {
        let scene = Scene::new(ROWS, COLUMNS, 7);
        let (mut plain, mut early) = (ready(&scene, &config(), 20.0), ready(&scene, &config(), 20.0));
        let (samples, others) = (scene.samples(0.5, -0.5, 20.0, 1), scene.samples(1.5, 0.5, 20.0, 2));
        let arrival = Arrival { number: 1, rows_px: ROWS / 2 };
        show(&mut early, &scene, &others, arrival);
        let a = plain.step(&view(scene.geometry, &samples));
        assert_ne!(a, early.step_arrived(&view(scene.geometry, &samples), arrival), "half of it is the other frame's");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn whatever_was_seen_of_a_frame_before_it_was_whole_its_registration_is_the_same(
            seed in 0u64..99,
            odd_lines in prop_oneof![
                Just(BidirectionalPhase::Word(PhaseWord::Off)), (-3.0f64..3.0).prop_map(BidirectionalPhase::Px)
            ],
            piecewise in any::<bool>(),
            // Of each frame: after how many rows it was looked at, where it lies, and whether another one came instead.
            frames in prop::collection::vec((prop::collection::vec(1usize..60, 0..6), -9.0f64..9.0, any::<bool>()), 6),
        ) {
            let scene = Scene::new(ROWS, COLUMNS, seed);
            let config = RegisterConfig {
                bidirectional_phase: odd_lines,
                piecewise,
                blocks_y: 2,
                blocks_x: 2,
                template_update_frames: 4,
                ..config()
            };
            let (mut plain, mut early) = (ready(&scene, &config, 20.0), ready(&scene, &config, 20.0));
            for (t, (looks, dy, is_another)) in (1..).zip(frames) {
                let samples = scene.samples(wander(t).0 + dy, wander(t).1, 20.0, u64::from(t) + seed);
                let mut arrival = Arrival { number: u64::from(t), rows_px: 0 };
                for rows in looks {
                    arrival.rows_px = (arrival.rows_px + rows).min(ROWS);
                    show(&mut early, &scene, &samples, arrival);
                    prop_assert_eq!(early.ahead.map(|ahead| ahead.arrival.rows_px), Some(arrival.rows_px));
                }
                let (samples, arrival) = if is_another {
                    (scene.samples(wander(t).0, wander(t).1, 20.0, u64::from(t)), Arrival { number: 99, ..arrival })
                } else {
                    (samples, arrival)
                };
                let a = plain.step(&view(scene.geometry, &samples));
                prop_assert_eq!(a, early.step_arrived(&view(scene.geometry, &samples), arrival));
                prop_assert_eq!(plain.block_shifts(), early.block_shifts());
                prop_assert!(early.ahead.is_none());
            }
            let (mut a, mut b) = (Vec::new(), Vec::new());
            plain.save(&mut a);
            early.save(&mut b);
            prop_assert!(a == b);
        }
    }
}

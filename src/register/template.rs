//! The template in the making: the mean of the baseline's frames, each moved back by its shift in whole pixels.
//!
//! In: frames and their shifts. Out: a mean image in counts. Sums are integers. Whole pixels, since interpolation
//! would blur twice as much and colour the noise, whose whiteness the registration relies on. Cost: some 100 us a
//! frame of 512 x 512. Nothing is allocated after `new`.

use super::kernel::Plane;

/// Frames that fit the sums: 65,535 * 65,535 is below 2^32.
const FRAMES_MAX: u32 = 65_535;

/// Sums over aligned frames.
pub(super) struct Accumulator {
    width: usize,
    sums: Vec<u32>,
    counts: Vec<u16>,
    frames: u32,
}

impl Accumulator {
    pub(super) fn new(count: usize, width: usize) -> Self {
        Self { width, sums: vec![0; count], counts: vec![0; count], frames: 0 }
    }

    pub(super) fn clear(&mut self) {
        self.sums.fill(0);
        self.counts.fill(0);
        self.frames = 0;
    }

    /// Frames added so far.
    pub(super) fn frames(&self) -> u32 {
        self.frames
    }

    /// Adds a frame whose content lies at the lag; what lies outside the frame is not counted. False when full.
    pub(super) fn add(&mut self, plane: Plane, lag: (i32, i32)) -> bool {
        if self.frames >= FRAMES_MAX {
            return false;
        }
        let width = self.width as i32;
        let height = self.sums.len() as i32 / width;
        let (first, end) = ((-lag.1).clamp(0, width) as usize, (width - lag.1).clamp(0, width) as usize);
        for row in (-lag.0).max(0)..(height - lag.0).min(height) {
            let to = row as usize * self.width;
            let from = ((row + lag.0) * width + lag.1) as isize;
            let source = &plane.samples[(from + first as isize) as usize..(from + end as isize) as usize];
            let sums = self.sums[to + first..to + end].iter_mut();
            for ((sum, count), &s) in sums.zip(&mut self.counts[to + first..to + end]).zip(source) {
                *sum += u32::from(s);
                *count += 1;
            }
        }
        self.frames += 1;
        true
    }

    /// Writes the mean less `bias`; a pixel that no frame covered keeps what `out` has.
    pub(super) fn mean(&self, bias: i32, out: &mut [f32]) {
        for ((o, &sum), &count) in out.iter_mut().zip(&self.sums).zip(&self.counts) {
            if count > 0 {
                let counts = i64::from(sum) - i64::from(bias) * i64::from(count);
                *o = (counts as f64 / f64::from(count)) as f32;
            }
        }
    }

    /// Appends the sums as little-endian bytes.
    pub(super) fn save(&self, out: &mut Vec<u8>) {
        for sum in &self.sums {
            out.extend_from_slice(&sum.to_le_bytes());
        }
        for count in &self.counts {
            out.extend_from_slice(&count.to_le_bytes());
        }
    }

    /// Bytes that [`Accumulator::save`] appends.
    pub(super) fn saved_len(&self) -> usize {
        self.sums.len() * 4 + self.counts.len() * 2
    }

    /// Takes back what `save` wrote; `bytes` has the length `saved_len`.
    pub(super) fn load(&mut self, bytes: &[u8], frames: u32) {
        let (sums, counts) = bytes.split_at(self.sums.len() * 4);
        for (sum, b) in self.sums.iter_mut().zip(sums.chunks_exact(4)) {
            *sum = u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        }
        for (count, b) in self.counts.iter_mut().zip(counts.chunks_exact(2)) {
            *count = u16::from_le_bytes([b[0], b[1]]);
        }
        self.frames = frames;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_moved_back_by_their_shift_and_the_border_counts_what_it_has() {
        let scene = |r: i32, c: i32| (100 + 10 * r + c) as u16;
        let frame = |dy: i32, dx: i32| -> Vec<u16> {
            (0..6).flat_map(|r| (0..5).map(move |c| scene(r - dy, c - dx))).collect()
        };
        let mut accumulator = Accumulator::new(30, 5);
        for lag in [(0, 0), (2, -1), (-1, 3)] {
            let samples = frame(lag.0, lag.1);
            assert!(accumulator.add(Plane { samples: &samples, width: 5, saturation: 65_535 }, lag));
        }
        let mut mean = vec![0.0; 30];
        accumulator.mean(0, &mut mean);
        for r in 0..6 {
            for c in 0..5 {
                assert_eq!(mean[(r * 5 + c) as usize], f32::from(scene(r, c)));
            }
        }
        assert_eq!((accumulator.counts[0], accumulator.counts[2 * 5 + 1]), (1, 3));
    }

    #[test]
    fn a_frame_displaced_beyond_its_own_size_adds_nothing() {
        let mut accumulator = Accumulator::new(30, 5);
        let samples = [7; 30];
        assert!(accumulator.add(Plane { samples: &samples, width: 5, saturation: 65_535 }, (9, -8)));
        assert!(accumulator.counts.iter().all(|&c| c == 0));
    }
}

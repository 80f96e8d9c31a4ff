//! The template in the making: the mean of the baseline's frames, each moved back by its shift in whole pixels.
//!
//! In: frames and their shifts. Out: a mean image in counts. Sums are integers. Whole pixels, since interpolation
//! would blur twice as much and colour the noise, whose whiteness the registration relies on. Cost: some 100 us a
//! frame of 512 x 512. Nothing is allocated after `new`.

use super::kernel::Plane;

/// Frames that fit the sums: 65,535 * 65,535 is below 2^32.
const FRAMES_MAX: u32 = 65_535;

/// Sums over aligned lines, and how many there were at each pixel.
pub(super) struct LineSums {
    pub sums: Vec<u32>,
    pub counts: Vec<u16>,
}

impl LineSums {
    fn new(count: usize) -> Self {
        Self { sums: vec![0; count], counts: vec![0; count] }
    }

    fn clear(&mut self) {
        self.sums.fill(0);
        self.counts.fill(0);
    }
}

/// Sums over aligned frames; where odd lines may lie aside (see `phase.rs`), kept apart for even and odd lines.
pub(super) struct Accumulator {
    width: usize,
    /// Of all lines, or of the even ones.
    lines: LineSums,
    odd: Option<LineSums>,
    frames: u32,
}

impl Accumulator {
    pub(super) fn new(count: usize, width: usize, keep_apart: bool) -> Self {
        Self { width, lines: LineSums::new(count), odd: keep_apart.then(|| LineSums::new(count)), frames: 0 }
    }

    pub(super) fn clear(&mut self) {
        self.lines.clear();
        self.odd.iter_mut().for_each(LineSums::clear);
        self.frames = 0;
    }

    /// Frames added so far.
    pub(super) fn frames(&self) -> u32 {
        self.frames
    }

    /// Even and odd lines, where they are kept apart.
    pub(super) fn lines(&self) -> Option<(&LineSums, &LineSums)> {
        self.odd.as_ref().map(|odd| (&self.lines, odd))
    }

    /// Adds a frame whose content lies at the lag; what lies outside the frame is not counted. False when full.
    pub(super) fn add(&mut self, plane: Plane, lag: (i32, i32)) -> bool {
        if self.frames >= FRAMES_MAX {
            return false;
        }
        let width = self.width as i32;
        let height = self.lines.sums.len() as i32 / width;
        let (first, end) = ((-lag.1).clamp(0, width) as usize, (width - lag.1).clamp(0, width) as usize);
        for row in (-lag.0).max(0)..(height - lag.0).min(height) {
            let to = row as usize * self.width;
            let from = ((row + lag.0) * width + lag.1) as isize;
            let source = &plane.samples[(from + first as isize) as usize..(from + end as isize) as usize];
            let lines = match &mut self.odd {
                Some(odd) if (row + lag.0) % 2 == 1 => odd,
                _ => &mut self.lines,
            };
            let sums = lines.sums[to + first..to + end].iter_mut();
            for ((sum, count), &s) in sums.zip(&mut lines.counts[to + first..to + end]).zip(source) {
                *sum += u32::from(s);
                *count += 1;
            }
        }
        self.frames += 1;
        true
    }

    /// Writes the mean less `bias`, odd lines moved back by `phase_px`; a pixel that no frame covered keeps what `out`
    /// has.
    pub(super) fn mean(&self, bias: i32, phase_px: f64, out: &mut [f32]) {
        if let Some(odd) = &self.odd {
            return self.mean_of_both(odd, bias, phase_px, out);
        }
        for ((o, &sum), &count) in out.iter_mut().zip(&self.lines.sums).zip(&self.lines.counts) {
            if count > 0 {
                let counts = i64::from(sum) - i64::from(bias) * i64::from(count);
                *o = (counts as f64 / f64::from(count)) as f32;
            }
        }
    }

    fn mean_of_both(&self, odd: &LineSums, bias: i32, phase_px: f64, out: &mut [f32]) {
        let (whole, width) = (phase_px.floor() as isize, self.width as isize);
        let right = phase_px - phase_px.floor();
        for (at, o) in out.iter_mut().enumerate() {
            let (mut sum, mut count) = (f64::from(self.lines.sums[at]), f64::from(self.lines.counts[at]));
            let column = at as isize % width + whole;
            for (column, weight) in [(column, 1.0 - right), (column + 1, right)] {
                if (0..width).contains(&column) {
                    let from = (at as isize / width * width + column) as usize;
                    sum += weight * f64::from(odd.sums[from]);
                    count += weight * f64::from(odd.counts[from]);
                }
            }
            if count > 0.0 {
                *o = (sum / count - f64::from(bias)) as f32;
            }
        }
    }

    fn parts(&self) -> impl Iterator<Item = &LineSums> {
        std::iter::once(&self.lines).chain(&self.odd)
    }

    /// Appends the sums as little-endian bytes.
    pub(super) fn save(&self, out: &mut Vec<u8>) {
        for lines in self.parts() {
            for sum in &lines.sums {
                out.extend_from_slice(&sum.to_le_bytes());
            }
            for count in &lines.counts {
                out.extend_from_slice(&count.to_le_bytes());
            }
        }
    }

    /// Bytes that [`Accumulator::save`] appends.
    pub(super) fn saved_len(&self) -> usize {
        self.parts().map(|lines| lines.sums.len() * 4 + lines.counts.len() * 2).sum()
    }

    /// Takes back what `save` wrote; `bytes` has the length `saved_len`.
    pub(super) fn load(&mut self, bytes: &[u8], frames: u32) {
        let mut rest = bytes;
        for lines in std::iter::once(&mut self.lines).chain(&mut self.odd) {
            let (sums, after) = rest.split_at(lines.sums.len() * 4);
            let (counts, after) = after.split_at(lines.counts.len() * 2);
            for (sum, b) in lines.sums.iter_mut().zip(sums.chunks_exact(4)) {
                *sum = u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            }
            for (count, b) in lines.counts.iter_mut().zip(counts.chunks_exact(2)) {
                *count = u16::from_le_bytes([b[0], b[1]]);
            }
            rest = after;
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
        let mut accumulator = Accumulator::new(30, 5, false);
        for lag in [(0, 0), (2, -1), (-1, 3)] {
            let samples = frame(lag.0, lag.1);
            assert!(accumulator.add(Plane { samples: &samples, width: 5, saturation: 65_535 }, lag));
        }
        let mut mean = vec![0.0; 30];
        accumulator.mean(0, 0.0, &mut mean);
        for r in 0..6 {
            for c in 0..5 {
                assert_eq!(mean[(r * 5 + c) as usize], f32::from(scene(r, c)));
            }
        }
        assert_eq!((accumulator.lines.counts[0], accumulator.lines.counts[2 * 5 + 1]), (1, 3));
    }

    #[test]
    fn a_frame_displaced_beyond_its_own_size_adds_nothing() {
        let mut accumulator = Accumulator::new(30, 5, false);
        let samples = [7; 30];
        assert!(accumulator.add(Plane { samples: &samples, width: 5, saturation: 65_535 }, (9, -8)));
        assert!(accumulator.lines.counts.iter().all(|&c| c == 0));
    }

    #[test]
    fn odd_lines_come_back_to_their_place_whatever_row_they_were_recorded_in() {
        let scene = |r: i32, c: f64| 100.0 + 10.0 * f64::from(r) + 4.0 * c;
        let mut accumulator = Accumulator::new(60, 10, true);
        for lag in [(0, 0), (1, -1), (0, 1)] {
            let frame = |i: i32| {
                let (row, column) = (i / 10, i % 10);
                let aside = if row % 2 == 1 { 1.5 } else { 0.0 };
                scene(row - lag.0, f64::from(column - lag.1) - aside) as u16
            };
            let samples: Vec<u16> = (0..60).map(frame).collect();
            assert!(accumulator.add(Plane { samples: &samples, width: 10, saturation: 65_535 }, lag));
        }
        let mut mean = vec![0.0; 60];
        accumulator.mean(0, 1.5, &mut mean);
        for (i, &found) in (0..60).zip(&mean) {
            // where the odd line's neighbours are both inside
            if i % 10 < 7 && i % 10 > 0 && i / 10 < 5 {
                assert!((f64::from(found) - scene(i / 10, f64::from(i % 10))).abs() < 1e-4, "{i}: {found}");
            }
        }
        let mut saved = Vec::new();
        accumulator.save(&mut saved);
        assert_eq!(saved.len(), accumulator.saved_len());
        let mut other = Accumulator::new(60, 10, true);
        other.load(&saved, 3);
        let mut again = vec![0.0; 60];
        other.mean(0, 1.5, &mut again);
        assert_eq!(again, mean);
    }
}

//! The recording in little: moments of every pixel, and the frames averaged over bins in time.
//!
//! In: aligned frames, one after another. Out: the mean, the variance of one frame's noise (half the mean squared
//! difference of successive frames, which slow activity hardly enters), and at most `bins_max` averaged frames. When
//! they are full, neighbours are averaged and bins are twice as long from then on: bounded memory, one pass.

use std::ops::Range;

use crate::frame::Geometry;

/// Averaged frames, each of `frames_per_bin` frames.
pub(super) struct Movie {
    pub geometry: Geometry,
    /// One image after the other.
    pub bins: Vec<f32>,
    pub frames_per_bin: usize,
    /// Frames taken so far.
    pub frames: usize,
    bins_max: usize,
    open: Vec<f32>,
    in_open: usize,
    sums: Vec<f64>,
    differences: Vec<f64>,
    last: Vec<f32>,
}

impl Movie {
    pub(super) fn new(geometry: Geometry, bins_max: usize) -> Self {
        let zeros = vec![0.0; geometry.count()];
        Self {
            geometry,
            bins: Vec::new(),
            frames_per_bin: 1,
            frames: 0,
            bins_max: bins_max.max(2) / 2 * 2,
            open: zeros.clone(),
            in_open: 0,
            sums: vec![0.0; geometry.count()],
            differences: vec![0.0; geometry.count()],
            last: zeros,
        }
    }

    /// Takes a frame. Where nothing was recorded, outside of the rows and columns, the mean of what was recorded there
    /// before stands for it, or the nearest pixel.
    pub(super) fn add(&mut self, frame: &[f32], rows: &Range<usize>, cols: &Range<usize>) {
        let width = self.geometry.width_px;
        let mut frame = frame.to_vec();
        for at in 0..frame.len() {
            let (row, col) = (at / width, at % width);
            if !(rows.contains(&row) && cols.contains(&col)) {
                frame[at] = if self.frames > 0 {
                    (self.sums[at] / self.frames as f64) as f32
                } else {
                    let nearest = |at: usize, of: &Range<usize>| at.clamp(of.start, of.end - 1);
                    frame[nearest(row, rows) * width + nearest(col, cols)]
                };
            }
        }
        self.add_whole(&frame);
    }

    fn add_whole(&mut self, frame: &[f32]) {
        self.sums.iter_mut().zip(frame).for_each(|(sum, &v)| *sum += f64::from(v));
        if self.frames > 0 {
            for ((sum, &v), &last) in self.differences.iter_mut().zip(frame).zip(&self.last) {
                *sum += f64::from((v - last) * (v - last));
            }
        }
        self.last.copy_from_slice(frame);
        self.open.iter_mut().zip(frame).for_each(|(sum, &v)| *sum += v);
        (self.frames, self.in_open) = (self.frames + 1, self.in_open + 1);
        if self.in_open == self.frames_per_bin {
            let share = 1.0 / self.in_open as f32;
            self.bins.extend(self.open.iter().map(|sum| sum * share));
            self.open.fill(0.0);
            self.in_open = 0;
            if self.bin_count() == self.bins_max {
                self.halve();
            }
        }
    }

    /// Averages neighbours.
    fn halve(&mut self) {
        let count = self.geometry.count();
        for pair in 0..self.bin_count() / 2 {
            for at in 0..count {
                let (a, b) = (self.bins[2 * pair * count + at], self.bins[(2 * pair + 1) * count + at]);
                self.bins[pair * count + at] = 0.5 * (a + b);
            }
        }
        self.bins.truncate(self.bin_count() / 2 * count);
        self.frames_per_bin *= 2;
    }

    pub(super) fn bin_count(&self) -> usize {
        self.bins.len() / self.geometry.count()
    }

    pub(super) fn mean(&self) -> Vec<f32> {
        self.sums.iter().map(|sum| (sum / self.frames.max(1) as f64) as f32).collect()
    }

    /// Variance of the noise of one frame's pixels.
    pub(super) fn noise(&self) -> Vec<f32> {
        let share = 0.5 / self.frames.saturating_sub(1).max(1) as f64;
        self.differences.iter().map(|sum| (sum * share) as f32).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_bins_become_twice_as_long() {
        let mut movie = Movie::new(Geometry::new(1, 2), 4);
        for t in 0..11 {
            movie.add(&[t as f32, 1.0], &(0..1), &(0..2));
        }
        assert_eq!((movie.frames_per_bin, movie.bin_count(), movie.frames), (4, 2, 11));
        assert_eq!(movie.bins, [1.5, 1.0, 5.5, 1.0]);
        assert_eq!(movie.mean(), [5.0, 1.0]);
        assert_eq!(movie.noise(), [0.5, 0.0]);
    }
}

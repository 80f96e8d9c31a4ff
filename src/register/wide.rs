//! The wide search: where, within the largest shift, might the content be?
//!
//! In: a frame, and the spectrum of a band-passed template. Out: a few whole-pixel lags, best first, and how far the
//! best stands out of the field of all others. The frame is binned 2 x 2 (not when it is small), correlated with the
//! template by FFT, and not whitened: whitening hurts at low photon counts. An FFT's last bits may differ between
//! machines, so it only nominates; exact integer sums decide among the nominees.
//!
//! Cost: about 0.5-1 ms for 512 x 512 (scalar FFT), only when tracking was lost. Nothing is allocated after `new`.

use std::sync::Arc;

use realfft::num_complex::Complex;
use realfft::{ComplexToReal, RealFftPlanner, RealToComplex};
use rustfft::{Fft, FftPlanner};

use super::kernel::Plane;
use crate::frame::Geometry;

/// Lags that a search nominates.
pub(super) const NOMINEES: usize = 5;
/// Bins around a peak that belong to it.
const PEAK_RADIUS: i32 = 3;

/// Whole-pixel lags, best first, and the best one's prominence.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Nominees {
    /// Lags (rows, columns).
    pub lags: [(i32, i32); NOMINEES],
    /// How many of them are valid.
    pub count: usize,
    /// Peak less mean of the field, in standard deviations of the field away from the peak.
    z: f64,
    /// Highest value of the field away from the peak, in the same standard deviations.
    second_z: f64,
}

impl Nominees {
    /// 0 where another lag fits as well as the best, towards 1 the further the best stands out.
    pub(super) fn prominence(&self) -> f64 {
        if self.z > 0.0 { (1.0 - self.second_z.max(0.0) / self.z).clamp(0.0, 1.0) } else { 0.0 }
    }
}

/// Plans and buffers for one frame size.
pub(super) struct Wide {
    geometry: Geometry,
    bin: usize,
    rows: usize,
    columns: usize,
    bins: usize,
    max: (i32, i32),
    forward_row: Arc<dyn RealToComplex<f32>>,
    inverse_row: Arc<dyn ComplexToReal<f32>>,
    forward_column: Arc<dyn Fft<f32>>,
    inverse_column: Arc<dyn Fft<f32>>,
    line: Vec<f32>,
    half: Vec<Complex<f32>>,
    /// Column-major: the rows of one frequency lie together.
    spectrum: Vec<Complex<f32>>,
    scratch: Vec<Complex<f32>>,
    surface: Vec<f32>,
}

impl Wide {
    /// A search within +-`max_y`, +-`max_x` pixels.
    pub(super) fn new(geometry: Geometry, max_y: usize, max_x: usize) -> Self {
        let bin = if geometry.height_px.min(geometry.width_px) < 96 { 1 } else { 2 };
        let rows = good_size((geometry.height_px / bin).max(1));
        let columns = good_size((geometry.width_px / bin).max(1));
        let mut real = RealFftPlanner::<f32>::new();
        let (forward_row, inverse_row) = (real.plan_fft_forward(columns), real.plan_fft_inverse(columns));
        let mut complex = FftPlanner::<f32>::new();
        let (forward_column, inverse_column) = (complex.plan_fft_forward(rows), complex.plan_fft_inverse(rows));
        let scratch = forward_row
            .get_scratch_len()
            .max(inverse_row.get_scratch_len())
            .max(forward_column.get_inplace_scratch_len())
            .max(inverse_column.get_inplace_scratch_len());
        let bins = columns / 2 + 1;
        let zero = Complex::new(0.0, 0.0);
        Self {
            geometry,
            bin,
            rows,
            columns,
            bins,
            max: (max_y as i32, max_x as i32),
            forward_row,
            inverse_row,
            forward_column,
            inverse_column,
            line: vec![0.0; columns],
            half: vec![zero; bins],
            spectrum: vec![zero; bins * rows],
            scratch: vec![zero; scratch],
            surface: vec![0.0; rows * columns],
        }
    }

    /// An empty spectrum of the right size.
    pub(super) fn spectrum(&self) -> Vec<Complex<f32>> {
        vec![Complex::new(0.0, 0.0); self.spectrum.len()]
    }

    /// Stores the spectrum of a band-passed template in `out`.
    pub(super) fn store(&mut self, image: &[f32], out: &mut [Complex<f32>]) {
        let width = self.geometry.width_px;
        self.transform(|row, column| image[row * width + column]);
        for (o, s) in out.iter_mut().zip(&self.spectrum) {
            *o = s.conj();
        }
    }

    /// Correlates the frame with a stored template and nominates lags. With `field` all lags up to a quarter of the
    /// frame are computed, so that the prominence is measured against many; else only those within the largest shift.
    /// Odd lines are read `odd` columns further right.
    pub(super) fn search(&mut self, plane: Plane, odd: i32, template: &[Complex<f32>], field: bool) -> Nominees {
        let samples = plane.samples;
        let sum: u64 = samples.iter().map(|&s| u64::from(s)).sum();
        let mean = (sum / (samples.len() as u64).max(1)) as i32;
        let width = plane.width;
        self.transform(|row, column| {
            let aside = if row % 2 == 1 { odd } else { 0 };
            let column = (column as i32 + aside).clamp(0, width as i32 - 1) as usize;
            (i32::from(samples[row * width + column]) - mean) as f32
        });
        for (s, t) in self.spectrum.iter_mut().zip(template) {
            *s *= t;
        }
        for column in self.spectrum.chunks_exact_mut(self.rows) {
            self.inverse_column.process_with_scratch(column, &mut self.scratch);
        }
        let reach = self.reach(field);
        for lag in -reach.0..=reach.0 {
            let row = lag.rem_euclid(self.rows as i32) as usize;
            for (h, k) in self.half.iter_mut().zip(0..) {
                *h = self.spectrum[k * self.rows + row];
            }
            self.half[0].im = 0.0;
            if self.columns.is_multiple_of(2) {
                self.half[self.bins - 1].im = 0.0;
            }
            let target = &mut self.surface[row * self.columns..(row + 1) * self.columns];
            // the only error is a wrong length, and the lengths are fixed in `new`
            let _ = self.inverse_row.process_with_scratch(&mut self.half, target, &mut self.scratch);
        }
        self.nominate(reach)
    }

    /// Largest lag in bins that is computed along each axis.
    fn reach(&self, field: bool) -> (i32, i32) {
        let (rows, columns, bin) = (self.rows as i32, self.columns as i32, self.bin as i32);
        let own = (self.max.0 / bin, self.max.1 / bin);
        let reach = if field { (own.0.max(rows / 4), own.1.max(columns / 4)) } else { own };
        (reach.0.min((rows - 1) / 2), reach.1.min((columns - 1) / 2))
    }

    fn transform(&mut self, value: impl Fn(usize, usize) -> f32) {
        let width = self.geometry.width_px;
        let (binned_rows, binned_columns) = (self.geometry.height_px / self.bin, width / self.bin);
        for row in 0..self.rows {
            self.line.fill(0.0);
            if row < binned_rows {
                for (column, target) in self.line[..binned_columns].iter_mut().enumerate() {
                    let (r, c) = (row * self.bin, column * self.bin);
                    *target = if self.bin == 2 {
                        value(r, c) + value(r, c + 1) + value(r + 1, c) + value(r + 1, c + 1)
                    } else {
                        value(r, c)
                    };
                }
            }
            let _ = self.forward_row.process_with_scratch(&mut self.line, &mut self.half, &mut self.scratch);
            for (k, h) in self.half.iter().enumerate() {
                self.spectrum[k * self.rows + row] = *h;
            }
        }
        for column in self.spectrum.chunks_exact_mut(self.rows) {
            self.forward_column.process_with_scratch(column, &mut self.scratch);
        }
    }

    fn at(&self, y: i32, x: i32) -> f32 {
        let row = y.rem_euclid(self.rows as i32) as usize;
        self.surface[row * self.columns + x.rem_euclid(self.columns as i32) as usize]
    }

    fn nominate(&self, reach: (i32, i32)) -> Nominees {
        let bin = self.bin as i32;
        let (max_y, max_x) = ((self.max.0 / bin).min(reach.0), (self.max.1 / bin).min(reach.1));
        let mut nominees = Nominees::default();
        let mut taken = [(0, 0); NOMINEES];
        let near = |peaks: &[(i32, i32)], y: i32, x: i32| {
            peaks.iter().any(|p| (p.0 - y).abs() <= PEAK_RADIUS && (p.1 - x).abs() <= PEAK_RADIUS)
        };
        for n in 0..NOMINEES {
            let mut best = (f32::NEG_INFINITY, (0, 0));
            for y in -max_y..=max_y {
                for x in -max_x..=max_x {
                    let value = self.at(y, x);
                    if value > best.0 && !near(&taken[..n], y, x) {
                        best = (value, (y, x));
                    }
                }
            }
            if best.0 == f32::NEG_INFINITY {
                break;
            }
            taken[n] = best.1;
            nominees.lags[n] = (best.1.0 * bin, best.1.1 * bin);
            nominees.count = n + 1;
        }
        if nominees.count > 0 {
            self.measure_prominence(reach, taken[0], &mut nominees);
        }
        nominees
    }

    fn measure_prominence(&self, reach: (i32, i32), peak: (i32, i32), nominees: &mut Nominees) {
        let (mut count, mut sum, mut square, mut highest) = (0.0f64, 0.0f64, 0.0f64, f64::NEG_INFINITY);
        let radius = 2 * PEAK_RADIUS;
        for y in -reach.0..=reach.0 {
            for x in -reach.1..=reach.1 {
                if (y - peak.0).abs() > radius || (x - peak.1).abs() > radius {
                    let value = f64::from(self.at(y, x));
                    count += 1.0;
                    sum += value;
                    square += value * value;
                    highest = highest.max(value);
                }
            }
        }
        if count < 2.0 {
            return;
        }
        let mean = sum / count;
        let deviation = (square / count - mean * mean).max(0.0).sqrt();
        if deviation > 0.0 {
            nominees.z = (f64::from(self.at(peak.0, peak.1)) - mean) / deviation;
            nominees.second_z = (highest - mean) / deviation;
        }
    }
}

/// The smallest length from `n` on that only has the factors 2, 3 and 5.
fn good_size(n: usize) -> usize {
    let smooth = |mut k: usize| {
        for factor in [2, 3, 5] {
            while k.is_multiple_of(factor) {
                k /= factor;
            }
        }
        k == 1
    };
    (n..).find(|&k| smooth(k)).unwrap_or(n)
}

//! What all blocks together say: each believed as far as it can tell, the rest made up from its neighbours.
//!
//! In: for each block where it says that it lies beyond the frame's shift, `m` (rows, columns, pixels), and how
//! precisely, `I` (a 2 x 2 matrix of information, pixels^-2). Out: the most probable field `u`, which makes
//!
//! ```text
//! sum_b (u_b - m_b)' I_b (u_b - m_b) + sum_axis u' inverse(S R) u
//! ```
//!
//! smallest, where blocks scatter around the frame's shift with the variance S, and the correlation R of two blocks is
//! `p^rows q^columns` of their distance. S and the mean squares of the differences between neighbours, `2 S (1 - p)`
//! and `2 S (1 - q)`, are taken from the frame at hand, for each axis of the shift: mean squares of what was measured,
//! less what noise explains, less one standard deviation of that difference. So a frame that moved as a whole has
//! S = 0 and keeps its shift; where lines moved differently, blocks beside each other are averaged and blocks below
//! each other are not; and a dark block, which says nothing, follows its neighbours.
//!
//! The inverse of R has nine entries a block, and the system a band of twice the blocks of a row; it is solved directly,
//! in a written order. Nothing is allocated after `new`.

use super::blocks::{OWN, SHARED};

/// The smallest standard deviation that is believed of anything, in pixels.
const LEAST_PX: f64 = 0.01;
/// Standard deviations.
const DEVIATIONS: f64 = 2.0;
/// The largest correlation that is believed.
const CORRELATION_MAX: f64 = 0.999;

/// What one block says.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Said {
    /// Where it lies beyond the frame's shift: rows, columns.
    pub at: [f64; 2],
    /// Information about it: rows, rows with columns, columns. All zero where the block says nothing.
    pub information: [f64; 3],
}

impl Said {
    /// Variance of each axis; `None` where a block says nothing of one of them.
    fn variance(&self) -> Option<[f64; 2]> {
        let [yy, yx, xx] = self.information;
        let determinant = yy * xx - yx * yx;
        (determinant > 1e-6 * yy * xx && determinant.is_finite()).then(|| [xx / determinant, yy / determinant])
    }
}

/// How blocks differ along one axis of the shift.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Scatter {
    /// Variance around the frame's shift, in pixels squared.
    variance: f64,
    /// Correlation with the block below, and with the block to the right.
    correlation: [f64; 2],
}

/// An entry of the inverse of the correlation `p^|i - j|` of `n` blocks in a line.
fn inverse(p: f64, n: usize, i: usize, j: usize) -> f64 {
    let ends = usize::from(i == 0) + usize::from(i + 1 == n);
    match i.abs_diff(j) {
        0 if n == 1 => 1.0,
        0 if ends > 0 => 1.0 / (1.0 - p * p),
        0 => (1.0 + p * p) / (1.0 - p * p),
        1 => -p / (1.0 - p * p),
        _ => 0.0,
    }
}

/// A mean of squares less what noise explains.
#[derive(Clone, Copy, Default)]
struct Excess {
    weights: f64,
    sum: f64,
    squares: f64,
}

impl Excess {
    /// `noise` is the variance that is expected of `difference`, `precision` the sum of variances by which it is judged.
    fn add(&mut self, difference: f64, noise: f64, precision: f64) {
        let weight = 1.0 / (precision * precision + LEAST_PX * LEAST_PX);
        self.weights += weight;
        self.sum += weight * (difference * difference - noise);
        self.squares += (weight * noise) * (weight * noise);
    }

    fn variance(&self) -> f64 {
        if self.weights <= 0.0 {
            return LEAST_PX * LEAST_PX;
        }
        ((self.sum - DEVIATIONS * (2.0 * self.squares).sqrt()) / self.weights).max(LEAST_PX * LEAST_PX)
    }
}

/// Room for the solution for one number of blocks.
pub(super) struct Shrinker {
    rows: usize,
    columns: usize,
    /// The system's lower band, row by row; the diagonal comes last.
    band: Vec<f64>,
    right: Vec<f64>,
}

impl Shrinker {
    pub(super) fn new(rows: usize, columns: usize) -> Self {
        let unknowns = 2 * rows * columns;
        Self { rows, columns, band: vec![0.0; unknowns * (2 * columns + 3)], right: vec![0.0; unknowns] }
    }

    fn neighbours(&self, block: usize) -> [Option<usize>; 2] {
        let (row, column) = (block / self.columns, block % self.columns);
        [(row + 1 < self.rows).then(|| block + self.columns), (column + 1 < self.columns).then(|| block + 1)]
    }

    fn scatter(&self, said: &[Said]) -> [Scatter; 2] {
        let (mut frame, mut neighbour) = ([Excess::default(); 2], [[Excess::default(); 2]; 2]);
        for (block, one) in said.iter().enumerate() {
            let Some(variance) = one.variance() else { continue };
            for axis in 0..2 {
                frame[axis].add(one.at[axis], variance[axis], variance[axis]);
            }
            for (direction, other) in self.neighbours(block).into_iter().enumerate() {
                let Some(other) = other.map(|other| &said[other]) else { continue };
                let Some(beside) = other.variance() else { continue };
                for axis in 0..2 {
                    let both = variance[axis] + beside[axis];
                    neighbour[axis][direction].add(one.at[axis] - other.at[axis], (1.0 - SHARED) * both, both);
                }
            }
        }
        [0, 1].map(|axis: usize| {
            let variance = frame[axis].variance();
            let alike = |between: &Excess| (1.0 - between.variance() / (2.0 * variance)).clamp(0.0, CORRELATION_MAX);
            Scatter { variance, correlation: [alike(&neighbour[axis][0]), alike(&neighbour[axis][1])] }
        })
    }

    /// The most probable field.
    pub(super) fn solve(&mut self, said: &[Said], field: &mut [[f64; 2]]) {
        let scatter = self.scatter(said);
        let reach = 2 * self.columns + 2;
        let stride = reach + 1;
        self.band.fill(0.0);
        let diagonal = |i: usize| i * stride + reach;
        for (block, one) in said.iter().enumerate() {
            let i = 2 * block;
            let [yy, yx, xx] = one.information.map(|value| OWN * value);
            self.band[diagonal(i)] += yy;
            self.band[diagonal(i + 1)] += xx;
            self.band[diagonal(i + 1) - 1] += yx;
            self.right[i] = yy * one.at[0] + yx * one.at[1];
            self.right[i + 1] = yx * one.at[0] + xx * one.at[1];
            let (row, column) = (block / self.columns, block % self.columns);
            for above in row.saturating_sub(1)..=row {
                for beside in column.saturating_sub(1)..self.columns.min(column + 2) {
                    let other = above * self.columns + beside;
                    for (axis, s) in scatter.iter().enumerate().filter(|_| other <= block) {
                        let [p, q] = s.correlation;
                        let along = inverse(p, self.rows, row, above) * inverse(q, self.columns, column, beside);
                        self.band[diagonal(i + axis) - 2 * (block - other)] += along / s.variance;
                    }
                }
            }
        }
        self.factorise(reach);
        for (u, value) in field.iter_mut().zip(self.right.chunks_exact(2)) {
            *u = [value[0], value[1]];
        }
    }

    /// L D L' of the band, and the solution in place of the right-hand side.
    fn factorise(&mut self, reach: usize) {
        let (n, stride) = (self.right.len(), reach + 1);
        for i in 0..n {
            let (above, row) = self.band.split_at_mut(i * stride);
            let first = i.saturating_sub(reach);
            // row i holds the columns i - reach ..= i; while it is made, L times D stands in it
            for j in first..i {
                let other = &above[j * stride..(j + 1) * stride];
                let from = first.max(j.saturating_sub(reach));
                let mut sum = row[reach + j - i];
                for k in from..j {
                    sum -= row[reach + k - i] * other[reach + k - j];
                }
                row[reach + j - i] = sum;
            }
            let mut pivot = row[reach];
            for j in first..i {
                let scaled = row[reach + j - i];
                let factor = scaled / above[j * stride + reach];
                pivot -= scaled * factor;
                row[reach + j - i] = factor;
            }
            row[reach] = pivot;
            let mut value = self.right[i];
            for j in first..i {
                value -= row[reach + j - i] * self.right[j];
            }
            self.right[i] = value;
        }
        for i in (0..n).rev() {
            let mut value = self.right[i] / self.band[i * stride + reach];
            for j in i + 1..n.min(i + reach + 1) {
                value -= self.band[j * stride + reach + i - j] * self.right[j];
            }
            self.right[i] = value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SURE: [f64; 3] = [1e4, 100.0, 1e4];

    fn solved(rows: usize, columns: usize, said: &[Said]) -> Vec<[f64; 2]> {
        let mut field = vec![[f64::NAN; 2]; said.len()];
        Shrinker::new(rows, columns).solve(said, &mut field);
        field
    }

    /// Noise of standard deviation 1 that looks random.
    fn noise(k: usize) -> f64 {
        let mut state = (k as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        state ^= state >> 29;
        state = state.wrapping_mul(0xbf58_476d_1ce4_e5b9);
        state ^= state >> 32;
        let mut sum = 0.0;
        for _ in 0..12 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            sum += (state >> 11) as f64 / (1u64 << 53) as f64;
        }
        sum - 6.0
    }

    #[test]
    fn the_field_solves_the_equations_that_are_written_down() {
        let (rows, columns) = (3, 4);
        let said: Vec<Said> = (0..12)
            .map(|b| Said {
                at: [(b as f64).sin(), (2.0 * b as f64).cos()],
                information: [50.0 + b as f64, 3.0, 80.0 - b as f64],
            })
            .collect();
        let mut shrinker = Shrinker::new(rows, columns);
        let scatter = shrinker.scatter(&said);
        let mut field = vec![[0.0; 2]; 12];
        shrinker.solve(&said, &mut field);
        // u = S R I (m - u), with R written out
        for b in 0..12 {
            for (axis, s) in scatter.iter().enumerate() {
                let mut sum = 0.0;
                for c in 0..12 {
                    let [yy, yx, xx] = said[c].information.map(|v| OWN * v);
                    let off = [said[c].at[0] - field[c][0], said[c].at[1] - field[c][1]];
                    let (rows, columns) = ((b / 4_usize).abs_diff(c / 4) as i32, (b % 4_usize).abs_diff(c % 4) as i32);
                    let alike = s.correlation[0].powi(rows) * s.correlation[1].powi(columns);
                    sum += s.variance * alike * [yy * off[0] + yx * off[1], yx * off[0] + xx * off[1]][axis];
                }
                assert!((field[b][axis] - sum).abs() < 1e-8, "block {b}, axis {axis}: {} {sum}", field[b][axis]);
            }
        }
    }

    #[test]
    fn noise_alone_leaves_the_frames_shift_almost_as_it_was() {
        let mut square = 0.0;
        for seed in 0..40 {
            let said: Vec<Said> = (0..64)
                .map(|b| Said {
                    at: [0.1 * noise(1_000 * seed + 2 * b), 0.1 * noise(1_000 * seed + 2 * b + 1)],
                    information: [100.0, 0.0, 100.0],
                })
                .collect();
            square += solved(8, 8, &said).iter().flatten().map(|u| u * u).sum::<f64>() / (128.0 * 40.0);
        }
        assert!(square.sqrt() < 0.02, "{} px of 0.1 px remain", square.sqrt());
    }

    #[test]
    fn a_block_that_says_nothing_follows_its_neighbours_and_all_silent_ones_the_frame() {
        let mut said = vec![Said::default(); 64];
        assert_eq!(solved(8, 8, &said), [[0.0; 2]; 64]);
        for (b, one) in said.iter_mut().enumerate().filter(|(b, _)| b % 8 < 4) {
            *one = Said { at: [1.0 + 0.1 * (b / 8) as f64, -0.5], information: SURE };
        }
        let field = solved(8, 8, &said);
        for (b, u) in field.iter().enumerate() {
            let expected = 1.0 + 0.1 * (b / 8) as f64;
            assert!((u[0] - expected).abs() < 0.2 && (u[1] + 0.5).abs() < 0.1, "block {b}: {u:?}");
        }
    }

    #[test]
    fn lines_that_moved_differently_are_averaged_along_and_not_across() {
        let said: Vec<Said> = (0..64)
            .map(|b| Said { at: [0.0, ((b / 8) as f64).sin() + 0.2 * noise(b)], information: [25.0, 0.0, 25.0] })
            .collect();
        let field = solved(8, 8, &said);
        let error = field.iter().enumerate().map(|(b, u)| (u[1] - ((b / 8) as f64).sin()).powi(2)).sum::<f64>() / 64.0;
        assert!(error.sqrt() < 0.12, "{}", error.sqrt());
    }
}

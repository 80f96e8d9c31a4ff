//! How much of the neuropil an ROI sees, estimated from its baseline.
//!
//! In: F of an ROI and of its neuropil over the baseline, in counts. Out: the coefficient r, 0 to 1, in
//! `F = cell + r * Fneu`.
//!
//! Idea: while a cell is silent, whatever moves its F together with its neuropil's F *is* neuropil (the same idea makes
//! others fit a line under the lower envelope of F over Fneu, or choose r by the error on held-out frames: Allen
//! Institute, Visual Coding white paper 2016; FISSA, Keemink et al. 2018). Here:
//!
//! 1. Means over half a second, so that photon noise does not blur Fneu.
//! 2. Differences between bins up to ten seconds apart: F at rest and slow fading drop out of them.
//! 3. `dF = r dFneu` by iteratively reweighted least squares with Tukey's biweight, whose width is three standard
//!    deviations of the photon noise (taken from even against odd frames): a pair in which a transient begins or ends
//!    has no weight. From four starts, one of them with a biweight that is wide at first; the
//!    one under which most pairs are explained is kept.
//! 4. Three times more with the quiet bins alone: those in which `F - r Fneu` stands within 1.5 standard deviations of
//!    the noise above its level, which is its lower quintile within ten seconds. Transients and their tails are out.
//!
//! Where there are too few bins, or the neuropil does not move beyond its noise, nothing can be said, and the ROI keeps
//! [`USUAL`]. On synthetic traces of 3,000 frames with transients, photon noise and fading the median error is some
//! 0.03; with 900 frames it is twice that. A cell that is active most of the time, or at the very moments at which its
//! neuropil is, gets too large an r. Cost: some 0.5 ms for each ROI with a baseline of 9,000 frames, at its end.

use std::ops::Range;

/// The coefficient during a baseline, and of ROIs of which nothing can be said; suite2p's.
pub(crate) const USUAL: f64 = 0.7;

/// Bins without which nothing is estimated.
const BINS_MIN: usize = 20;
/// Distances between the bins of a pair.
const LAGS: [usize; 9] = [1, 2, 3, 4, 6, 8, 12, 16, 20];
/// Bins to either side among which the level of silence is sought.
const AROUND: usize = 20;
/// Coefficients to begin with, and how many times too wide the biweight is at first: it halves with each iteration.
const STARTS: [(f64, f64); 4] = [(0.2, 1.0), (0.5, 1.0), (0.8, 1.0), (0.5, 32.0)];
const ITERATIONS: usize = 8;
const ROUNDS: usize = 3;
/// Half width of the biweight, in standard deviations of the noise of a pair.
const WIDTH_SD: f64 = 3.0;
/// How far above the level's lower quintile a quiet bin may stand, in standard deviations of its noise: the quintile
/// itself lies 0.84 of them below the middle.
const QUIET_SD: f64 = 0.84 + 1.5;
/// How many times its noise the mean square of the neuropil's differences must be.
const MOVES: f64 = 4.0;
/// Standard deviations of a normal distribution in a median absolute value.
const SD_OF_MEDIAN: f64 = 1.482_602_218_505_602;

/// Fneu of the baseline, the coefficients, and memory to estimate them; all taken at construction.
#[derive(Debug, Clone)]
pub(crate) struct NeuropilEstimate {
    bin_frames: usize,
    capacity_frames: usize,
    /// Fneu of the baseline, ROI after ROI, `capacity_frames` apart.
    block: Vec<f64>,
    bins: Bins,
}

/// Means over half a second of one ROI.
#[derive(Debug, Clone)]
struct Bins {
    f: Vec<f64>,
    neuropil: Vec<f64>,
    quiet: Vec<bool>,
    sorted: Vec<f64>,
}

/// Noise of one bin, as standard deviations in counts.
#[derive(Debug, Clone, Copy)]
struct Noise {
    f: f64,
    neuropil: f64,
}

impl Noise {
    /// That of `F - r Fneu`.
    fn of_residual(self, r: f64) -> f64 {
        (self.f * self.f + r * r * self.neuropil * self.neuropil).sqrt()
    }
}

/// Sums over pairs of bins.
#[derive(Debug, Clone, Copy, Default)]
struct Pairs {
    weight: f64,
    /// Of weights, products of differences, and squares of the neuropil's.
    product: f64,
    square: f64,
    explained: f64,
}

impl NeuropilEstimate {
    pub(crate) fn new(roi_count: usize, capacity_frames: usize, frame_rate_hz: f64) -> Self {
        // half a second, an even number of frames
        let bin_frames = 2 * ((frame_rate_hz / 4.0).round() as usize).max(1);
        let bins = capacity_frames / bin_frames + 1;
        Self {
            bin_frames,
            capacity_frames,
            // Written, so that its pages are there before the thread comes to them.
            block: vec![f64::NAN; roi_count * capacity_frames],
            bins: Bins {
                f: Vec::with_capacity(bins),
                neuropil: Vec::with_capacity(bins),
                quiet: Vec::with_capacity(bins),
                sorted: Vec::with_capacity(bins.max(2 * AROUND + 1)),
            },
        }
    }

    /// Keeps a frame's Fneu at these frames of the baseline; missing values are NaN.
    pub(crate) fn keep(&mut self, frames: Range<usize>, fneu: &[f64]) {
        for (roi, row) in self.block.chunks_exact_mut(self.capacity_frames.max(1)).enumerate() {
            row[frames.clone()].fill(fneu.get(roi).copied().unwrap_or(f64::NAN));
        }
    }

    /// A doubted frame has the values of the one before it.
    pub(crate) fn hold(&mut self, frame: usize) {
        for row in self.block.chunks_exact_mut(self.capacity_frames.max(1)) {
            row[frame] = row[frame - 1];
        }
    }

    /// Fneu of an ROI's baseline.
    pub(crate) fn row(&self, roi: usize, frames: usize) -> &[f64] {
        &self.block[roi * self.capacity_frames..][..frames]
    }

    /// The same, to be loaded.
    pub(crate) fn row_mut(&mut self, roi: usize, frames: usize) -> &mut [f64] {
        &mut self.block[roi * self.capacity_frames..][..frames]
    }

    /// The coefficient of an ROI whose baseline, with `removed` times Fneu taken off, is `f`.
    pub(crate) fn coefficient(&mut self, roi: usize, f: &[f64], removed: f64) -> f64 {
        let fneu = &self.block[roi * self.capacity_frames..][..f.len()];
        estimate(f, fneu, removed, self.bin_frames, &mut self.bins).unwrap_or(USUAL)
    }
}

fn estimate(f: &[f64], fneu: &[f64], removed: f64, bin_frames: usize, bins: &mut Bins) -> Option<f64> {
    let noise = bins.fill(f, fneu, removed, bin_frames)?;
    let fits = STARTS.iter().filter_map(|&(start, widest)| bins.fit(start, widest, noise));
    let (mut r, _) = fits.reduce(|best, next| if next.1 > best.1 { next } else { best })?;
    for _ in 0..ROUNDS {
        bins.find_quiet(r, noise);
        r = bins.fit(r, 1.0, noise)?.0;
    }
    Some(r.clamp(0.0, 1.0))
}

impl Bins {
    /// Takes the means, and gives their noise. A bin with a value that is not finite is left out.
    fn fill(&mut self, f: &[f64], fneu: &[f64], removed: f64, bin_frames: usize) -> Option<Noise> {
        self.f.clear();
        self.neuropil.clear();
        self.quiet.clear();
        for (f, fneu) in f.chunks_exact(bin_frames).zip(fneu.chunks_exact(bin_frames)) {
            let (mut sum, mut sum_neuropil) = (0.0, 0.0);
            for (f, fneu) in f.iter().zip(fneu) {
                sum += f + removed * fneu;
                sum_neuropil += fneu;
            }
            if sum.is_finite() && sum_neuropil.is_finite() {
                self.f.push(sum / bin_frames as f64);
                self.neuropil.push(sum_neuropil / bin_frames as f64);
                self.quiet.push(true);
            }
        }
        if self.f.len() < BINS_MIN {
            return None;
        }
        let own = self.noise_of(f.iter().zip(fneu).map(|(f, fneu)| f + removed * fneu), bin_frames);
        let neuropil = self.noise_of(fneu.iter().copied(), bin_frames);
        // Without any noise the biweight would have no width.
        let least = 1e-9 * self.f.iter().fold(1e-9_f64, |most, f| most.max(f.abs()));
        Some(Noise { f: own.max(least), neuropil })
    }

    /// Noise of a bin's mean, from even frames against odd ones.
    fn noise_of(&mut self, values: impl Iterator<Item = f64>, bin_frames: usize) -> f64 {
        self.sorted.clear();
        let (mut difference, mut sign, mut count) = (0.0, 1.0, 0);
        for value in values {
            difference += sign * value;
            (sign, count) = (-sign, count + 1);
            if count == bin_frames {
                if difference.is_finite() {
                    self.sorted.push(f64::abs(difference / bin_frames as f64));
                }
                (difference, count) = (0.0, 0);
            }
        }
        self.sorted.sort_unstable_by(f64::total_cmp);
        self.sorted.get(self.sorted.len() / 2).map_or(0.0, |median| SD_OF_MEDIAN * median)
    }

    /// r from a start, and how much it explains. `None` where the neuropil does not move.
    fn fit(&self, start: f64, widest: f64, noise: Noise) -> Option<(f64, f64)> {
        let (mut r, mut wider) = (start, widest);
        for _ in 0..ITERATIONS {
            let pairs = self.pairs(r, wider, noise);
            wider = (0.5 * wider).max(1.0);
            let of_noise = 2.0 * noise.neuropil * noise.neuropil * pairs.weight;
            // Written so that a NaN is nothing to go by.
            let moves = pairs.square > MOVES * of_noise && pairs.square > 0.0;
            if !moves {
                return None;
            }
            r = (pairs.product / pairs.square).clamp(0.0, 1.2);
        }
        Some((r, self.pairs(r, 1.0, noise).explained))
    }

    fn pairs(&self, r: f64, wider: f64, noise: Noise) -> Pairs {
        let width = wider * WIDTH_SD * core::f64::consts::SQRT_2 * noise.of_residual(r);
        let mut sums = Pairs::default();
        for lag in LAGS {
            for (from, to) in (lag..self.f.len()).enumerate() {
                if !(self.quiet[from] && self.quiet[to]) {
                    continue;
                }
                let (df, dn) = (self.f[to] - self.f[from], self.neuropil[to] - self.neuropil[from]);
                let off = (df - r * dn) / width;
                let near = 1.0 - off * off;
                if near > 0.0 {
                    let weight = near * near;
                    sums.weight += weight;
                    sums.product += weight * df * dn;
                    sums.square += weight * dn * dn;
                    sums.explained += weight * near;
                }
            }
        }
        sums
    }

    /// Marks the bins in which the cell is silent.
    fn find_quiet(&mut self, r: f64, noise: Noise) {
        let limit = QUIET_SD * noise.of_residual(r);
        for bin in 0..self.f.len() {
            let around = bin.saturating_sub(AROUND)..(bin + AROUND + 1).min(self.f.len());
            let residual = |k: usize| self.f[k] - r * self.neuropil[k];
            self.sorted.clear();
            self.sorted.extend(around.map(residual));
            self.sorted.sort_unstable_by(f64::total_cmp);
            let quintile = self.sorted[(self.sorted.len() - 1) / 5];
            self.quiet[bin] = residual(bin) < quintile + limit;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that look random and are the same everywhere: uniform, and nearly normal.
    struct Draw(u64);

    impl Draw {
        fn uniform(&mut self) -> f64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            ((mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 11) as f64 / (1u64 << 53) as f64
        }

        fn normal(&mut self) -> f64 {
            (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
        }
    }

    /// F and Fneu at 30 Hz: a cell of 60 counts with transients of 60 to 150 % on each event (decay 0.7 s), in a
    /// neuropil of 120 counts that wanders by 10 % within a second, of which a share `follows` the cell; fading by
    /// 10 %, and the noise of one photon a pixel.
    fn traces(seed: u64, frames: usize, r: f64, events: f64, follows: f64) -> (Vec<f64>, Vec<f64>) {
        let mut draw = Draw(seed);
        let (mut cell, mut wander) = (0.0, 0.0);
        let mut f = Vec::new();
        let mut fneu = Vec::new();
        for t in 0..frames {
            let event = draw.uniform() < events;
            cell = 0.953 * cell + if event { 0.6 + 0.9 * draw.uniform() } else { 0.0 };
            wander = 0.97 * wander + 0.243 * draw.normal();
            let fading = 1.0 - 0.1 * t as f64 / frames as f64;
            let neuropil = 120.0 * (1.0 + 0.1 * wander + follows * cell) * fading;
            let clean = 60.0 * (1.0 + cell) * fading + r * neuropil;
            f.push(clean + (120.0 * clean.max(0.0) / 70.0).sqrt() * draw.normal());
            fneu.push(neuropil + (120.0 * neuropil.max(0.0) / 450.0).sqrt() * draw.normal());
        }
        (f, fneu)
    }

    /// Errors over 60 ROIs whose truth goes from 0.3 to 0.95, sorted by size.
    fn errors(frames: usize, events: f64, follows: f64) -> Vec<f64> {
        let mut estimator = NeuropilEstimate::new(1, frames, 30.0);
        let mut errors: Vec<f64> = (0..60)
            .map(|k| {
                let truth = 0.3 + 0.65 * f64::from(k) / 59.0;
                let (f, fneu) = traces(1_000 + k as u64, frames, truth, events, follows);
                fneu.iter().enumerate().for_each(|(t, fneu)| estimator.keep(t..t + 1, &[*fneu]));
                let corrected: Vec<f64> = f.iter().zip(&fneu).map(|(f, n)| f - 0.7 * n).collect();
                (estimator.coefficient(0, &corrected, 0.7) - truth).abs()
            })
            .collect();
        errors.sort_by(f64::total_cmp);
        errors
    }

    #[test]
    fn a_known_contamination_is_found_whatever_the_cell_does() {
        // frames, events a frame, how much of the cell is in its own neuropil
        for (frames, events, follows, bound) in [
            (3_000, 0.0, 0.0, 0.05),
            (3_000, 0.003, 0.0, 0.05),
            (3_000, 0.01, 0.0, 0.05),
            (3_000, 0.003, 0.05, 0.05),
            (9_000, 0.005, 0.05, 0.05),
            (9_000, 0.02, 0.0, 0.05),
            (900, 0.003, 0.0, 0.1),
        ] {
            let errors = errors(frames, events, follows);
            let (median, ninth) = (errors[30], errors[54]);
            assert!(median <= bound, "{frames} {events} {follows}: {median}, nine of ten below {ninth}");
            assert!(ninth <= 0.25, "{frames} {events} {follows}: {median}, nine of ten below {ninth}");
        }
    }

    #[test]
    fn where_nothing_can_be_said_the_usual_coefficient_stays() {
        let mut estimator = NeuropilEstimate::new(1, 3_000, 30.0);
        let mut draw = Draw(5);
        let f: Vec<f64> = (0..3_000).map(|_| 100.0 + 10.0 * draw.normal()).collect();
        for (t, _) in f.iter().enumerate() {
            estimator.keep(t..t + 1, &[120.0 + 5.0 * draw.normal()]);
        }
        assert_eq!(estimator.coefficient(0, &f, 0.7), USUAL, "a neuropil of noise alone");
        assert_eq!(estimator.coefficient(0, &f[..200], 0.7), USUAL, "13 bins");
        assert_eq!(estimator.coefficient(0, &[f64::NAN; 3_000], 0.7), USUAL);
        estimator.keep(0..3_000, &[50.0]);
        assert_eq!(estimator.coefficient(0, &f, 0.7), USUAL, "a neuropil that never moves");
    }
}

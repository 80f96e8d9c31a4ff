//! Cells by what they do: pixels whose neighbourhood brightens together, for a while, by more than noise does.
//!
//! In: the binned movie and the noise of its pixels. Each bin is smoothed by a Gaussian that matches a cell (a quarter
//! of the diameter), divided by the square root of the noise's variance, freed of what is slower than the high-pass,
//! and averaged over a transient's length. The whole is scaled so that the median pixel's robust standard deviation
//! over time is 1: most pixels are silent, so this is the noise as it is, neuropil included. Then z stands for each
//! pixel and bin.
//!
//! A pixel's **energy** is the root of the mean of `max(0, z - 1)^2`, in robust standard deviations above the median
//! of all pixels. Peaks of that map are seeds, strongest first; one whose z follows that of a stronger seed nearby is
//! another part of the same cell and is dropped. From each seed a region grows: the weight of a pixel is the projection
//! of its own trace on the seed's active bins.

use super::filter::{Gaussian, Patch, peaks, quantile, robust};
use super::movie::Movie;
use super::{DetectConfig, Found, FoundBy};
use crate::frame::Geometry;

/// Pixels whose traces are turned at a time: a line of the cache.
const BLOCK: usize = 16;
/// z from which a bin counts as active.
const ACTIVE_Z: f32 = 1.0;
/// Seeds that are dropped as parts of a stronger one lie within this many diameters.
const SAME_CELL_DIAMETERS: f64 = 1.6;
/// A region holds the pixels above this fraction of its largest weight.
const REGION_FRACTION: f32 = 0.35;

/// How bins are filtered in time, in bins.
pub(super) struct Pace {
    /// Bins of the running mean that is subtracted; `None` where the recording is shorter: its median is.
    pub high_pass: Option<usize>,
    /// Bins that are averaged.
    pub window: usize,
}

impl Pace {
    pub(super) fn of(config: &DetectConfig, movie: &Movie) -> Self {
        let bins = movie.bin_count();
        let in_bins = |frames: f64| (frames / movie.frames_per_bin as f64).round().max(1.0) as usize;
        let high_pass = in_bins(f64::from(config.high_pass_frames)).max(3);
        let transient = f64::from(config.transient_frames).min(movie.frames as f64 / 20.0);
        Self { high_pass: ((high_pass as f64) < 0.7 * bins as f64).then_some(high_pass), window: in_bins(transient) }
    }
}

/// z of every bin and pixel, and the map of energies.
pub(super) struct Activity {
    geometry: Geometry,
    z: Vec<f32>,
    /// How much each pixel brightens.
    pub energy: Vec<f32>,
    /// How much it darkens, in the same unit: noise does both alike.
    counter: Vec<f32>,
}

impl Activity {
    pub(super) fn new(movie: &Movie, noise: &[f32], diameter_px: f64, pace: &Pace) -> Self {
        let geometry = movie.geometry;
        let count = geometry.count();
        let least = 1e-6 + 1e-3 * noise.iter().sum::<f32>() / count as f32;
        let scale = Gaussian::new(geometry, diameter_px / 2.0).of(noise);
        let scale: Vec<f32> = scale.iter().map(|&v| 1.0 / v.max(least).sqrt()).collect();
        let mut z = vec![0.0; movie.bins.len()];
        let mut gaussian = Gaussian::new(geometry, diameter_px / 4.0);
        for (bin, out) in movie.bins.chunks_exact(count).zip(z.chunks_exact_mut(count)) {
            gaussian.smooth(bin, out);
            out.iter_mut().zip(&scale).for_each(|(z, s)| *z *= s);
        }
        filter_in_time(&mut z, count, pace);
        let factor = typical_deviation(&z, geometry);
        if factor > 0.0 {
            z.iter_mut().for_each(|z| *z /= factor);
        } else {
            z.fill(0.0);
        }
        let (mut energy, mut counter) = (energies(&z, count, 1.0), energies(&z, count, -1.0));
        let (median, deviation) = robust(&mut energy.clone());
        let scale = if deviation > 0.0 { 1.0 / deviation } else { 0.0 };
        energy.iter_mut().chain(&mut counter).for_each(|e| *e = (*e - median) * scale);
        Self { geometry, z, energy, counter }
    }

    pub(super) fn trace(&self, at: usize) -> impl Iterator<Item = f32> + '_ {
        self.z.iter().skip(at).step_by(self.geometry.count()).copied()
    }

    /// Seeds above the threshold, strongest first, one a cell.
    pub(super) fn seeds(&self, config: &DetectConfig, diameter_px: f64) -> Vec<usize> {
        let radius = (diameter_px / 4.0).round().max(2.0) as usize;
        let near = SAME_CELL_DIAMETERS * diameter_px * SAME_CELL_DIAMETERS * diameter_px;
        let mut kept: Vec<(usize, Vec<f32>, bool)> = Vec::new();
        for at in self.beyond_noise(
            peaks(&self.energy, self.geometry, radius, 2, config.min_energy as f32),
            config,
            diameter_px,
        ) {
            let trace: Vec<f32> = self.trace(at).collect();
            let alike = |other: &(usize, Vec<f32>, bool)| {
                self.distance_squared(at, other.0) <= near
                    && correlation(&trace, &other.1) >= config.same_cell_correlation as f32
            };
            let own = !kept.iter().any(alike);
            kept.push((at, trace, own));
        }
        kept.into_iter().filter(|seed| seed.2).map(|seed| seed.0).collect()
    }

    /// As many of the peaks, strongest first, as leave the expected part of false ones below `max_false`. Peaks of
    /// darkening that lie in no active cell say how many of brightening are noise.
    fn beyond_noise(&self, mut found: Vec<usize>, config: &DetectConfig, diameter_px: f64) -> Vec<usize> {
        let radius = (diameter_px / 4.0).round().max(2.0) as usize;
        let sure: Vec<usize> =
            found.iter().copied().filter(|&at| f64::from(self.energy[at]) >= 2.0 * config.min_energy).collect();
        let near = diameter_px * diameter_px;
        let mut noise = peaks(&self.counter, self.geometry, radius, 2, config.min_energy as f32);
        noise.retain(|&at| sure.iter().all(|&other| self.distance_squared(at, other) > near));
        let (mut kept, mut above) = (0, 0);
        for (k, &at) in found.iter().enumerate() {
            while above < noise.len() && self.counter[noise[above]] >= self.energy[at] {
                above += 1;
            }
            // one more than was seen is expected; a sure one above all noise needs no others beside it
            let few = (above + 1) as f64 <= config.max_false * (k + 1) as f64;
            if few || above == 0 && k < sure.len() {
                kept = k + 1;
            }
        }
        found.truncate(kept);
        found
    }

    fn distance_squared(&self, a: usize, b: usize) -> f64 {
        let width = self.geometry.width_px;
        let row = (a / width) as f64 - (b / width) as f64;
        let col = (a % width) as f64 - (b % width) as f64;
        row * row + col * col
    }

    /// The region that grows from a seed: its places, by weight above 0.
    pub(super) fn region(&self, movie: &Movie, seed: usize, diameter_px: f64, pace: &Pace) -> Found {
        let count = self.geometry.count();
        let mut weights: Vec<f32> = self.trace(seed).map(|z| if z > ACTIVE_Z { z } else { 0.0 }).collect();
        subtract_slow(&mut weights, pace);
        // they sum to 0, so that what never changes has no weight
        let mean = weights.iter().sum::<f32>() / weights.len().max(1) as f32;
        weights.iter_mut().for_each(|w| *w -= mean);
        let radius = (1.2 * diameter_px).ceil() as usize;
        let patch = Patch::around(seed, radius, self.geometry);
        let mut sums = vec![0.0_f32; patch.size.0 * patch.size.1];
        for (bin, &weight) in movie.bins.chunks_exact(count).zip(&weights) {
            for (sum, at) in sums.iter_mut().zip(patch.places(self.geometry.width_px)) {
                *sum += weight * bin[at];
            }
        }
        let local = Geometry::new(patch.size.0, patch.size.1);
        let smooth = Gaussian::new(local, (diameter_px / 12.0).max(0.7)).of(&sums);
        let least = REGION_FRACTION * smooth[patch.middle];
        let inside = patch.connected(&smooth, least);
        let places: Vec<usize> = patch.places(self.geometry.width_px).collect();
        let pixels = inside.iter().filter(|&&k| smooth[k] > 0.0).map(|&k| (places[k], smooth[k])).collect();
        Found { pixels, by: FoundBy::Activity, score: f64::from(self.energy[seed]) }
    }
}

/// Subtracts what is slow from every pixel's trace, and averages it over the window.
fn filter_in_time(z: &mut [f32], count: usize, pace: &Pace) {
    let bins = z.len() / count;
    let mut traces = vec![vec![0.0_f32; bins]; BLOCK];
    for first in (0..count).step_by(BLOCK) {
        let block = BLOCK.min(count - first);
        for bin in 0..bins {
            for (k, trace) in traces[..block].iter_mut().enumerate() {
                trace[bin] = z[bin * count + first + k];
            }
        }
        for trace in &mut traces[..block] {
            subtract_slow(trace, pace);
            *trace = running_mean(trace, pace.window);
        }
        for bin in 0..bins {
            for (k, trace) in traces[..block].iter().enumerate() {
                z[bin * count + first + k] = trace[bin];
            }
        }
    }
}

fn subtract_slow(trace: &mut [f32], pace: &Pace) {
    if let Some(bins) = pace.high_pass {
        let slow = running_mean(trace, bins);
        trace.iter_mut().zip(slow).for_each(|(v, slow)| *v -= slow);
    } else {
        let median = quantile(&mut trace.to_vec(), 0.5);
        trace.iter_mut().for_each(|v| *v -= median);
    }
}

/// The mean over a window around each value, cut at the ends.
fn running_mean(trace: &[f32], window: usize) -> Vec<f32> {
    if window <= 1 {
        return trace.to_vec();
    }
    let mut sums = Vec::with_capacity(trace.len() + 1);
    sums.push(0.0_f64);
    for &v in trace {
        sums.push(sums[sums.len() - 1] + f64::from(v));
    }
    let before = window / 2;
    let mean = |at: usize| {
        let (first, end) = (at.saturating_sub(before), (at + window - before).min(trace.len()));
        ((sums[end] - sums[first]) / (end - first) as f64) as f32
    };
    (0..trace.len()).map(mean).collect()
}

/// The median over pixels of the robust deviation over time.
fn typical_deviation(z: &[f32], geometry: Geometry) -> f32 {
    let mut deviations = Vec::new();
    let mut trace = Vec::new();
    for row in (0..geometry.height_px).step_by(4) {
        for col in (0..geometry.width_px).step_by(4) {
            trace.clear();
            trace.extend(z.iter().skip(row * geometry.width_px + col).step_by(geometry.count()).map(|z| z.abs()));
            deviations.push(1.4826 * quantile(&mut trace, 0.5));
        }
    }
    quantile(&mut deviations, 0.5)
}

fn energies(z: &[f32], count: usize, sign: f32) -> Vec<f32> {
    let mut energy = vec![0.0_f32; count];
    for bin in z.chunks_exact(count) {
        for (sum, &z) in energy.iter_mut().zip(bin) {
            let beyond = (sign * z - ACTIVE_Z).max(0.0);
            *sum += beyond * beyond;
        }
    }
    let share = 1.0 / (z.len() / count).max(1) as f32;
    energy.iter_mut().for_each(|e| *e = (*e * share).sqrt());
    energy
}

/// The cosine of two traces.
fn correlation(a: &[f32], b: &[f32]) -> f32 {
    let sum = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f32>();
    let norm = (sum(a, a) * sum(b, b)).sqrt();
    if norm > 0.0 { sum(a, b) / norm } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_running_mean_is_cut_at_the_ends() {
        assert_eq!(running_mean(&[1.0, 2.0, 3.0, 4.0], 3), [1.5, 2.0, 3.0, 3.5]);
        assert_eq!(running_mean(&[1.0, 2.0], 1), [1.0, 2.0]);
    }

    #[test]
    fn a_constant_is_slow() {
        for high_pass in [None, Some(3)] {
            let mut trace = vec![7.0; 9];
            subtract_slow(&mut trace, &Pace { high_pass, window: 1 });
            assert!(trace.iter().all(|v| v.abs() < 1e-6));
        }
    }

    #[test]
    fn traces_that_rise_together_are_alike() {
        assert!((correlation(&[1.0, 0.0, 2.0], &[2.0, 0.0, 4.0]) - 1.0).abs() < 1e-6);
        assert_eq!(correlation(&[1.0, 0.0], &[0.0, 1.0]), 0.0);
        assert_eq!(correlation(&[0.0, 0.0], &[0.0, 1.0]), 0.0);
    }
}

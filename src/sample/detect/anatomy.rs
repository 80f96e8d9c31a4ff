//! Cells by how they look: spots of the mean image that look like the cells which activity has shown.
//!
//! In: the mean image, the noise of its pixels, the map of energies, and the active cells. Spots are peaks of a
//! difference of Gaussians at a cell's size, and four numbers describe each: its contrast at that size, its height, its
//! area at half of that, and how much of the contrast is left at 1.4 times the size. Contrasts are in standard
//! deviations of one frame's noise where the spot lies, so neither the detector's gain nor its offset matters.
//!
//! The spots under active cells say what a cell looks like in this recording: the median and covariance of their
//! numbers (with a little of a sphere added). How far a spot is from that (Mahalanobis' distance) is its unlikeness; a
//! spot that lies alone and has more energy than is usual, but too little to be a seed, may be a little more unlike.
//! Spots within `max_unlikeness` are cells that were silent, or too faint to be seen moving; the most alike first, and
//! no more than `max_silent` for each active cell. With fewer than [`EXAMPLES_MIN`] examples nobody knows what a cell
//! looks like, and none is taken.

use super::filter::{Gaussian, Patch, background, peaks, quantile};
use super::{DetectConfig, Found, FoundBy};
use crate::frame::Geometry;

/// Active cells that are needed to know what a cell looks like.
pub(super) const EXAMPLES_MIN: usize = 20;
const NUMBERS: usize = 4;
/// Added to the variances of the standardised numbers.
const SPHERE: f64 = 0.05;
/// Energy that a spot without activity usually has at its largest.
const ENERGY_USUAL: f64 = 1.5;
/// Squared unlikeness that a unit of energy more or less makes up for.
const ENERGY_COUNTS: f64 = 0.6;

/// A spot of the mean image.
struct Spot {
    at: usize,
    /// What describes it.
    numbers: [f64; NUMBERS],
    /// Places of the pixels above half its height, and how far each is above the background.
    pixels: Vec<(usize, f32)>,
}

/// Spots that look like cells, most alike first; how many examples there were.
pub(super) fn cells(
    mean: &[f32],
    noise: &[f32],
    geometry: Geometry,
    diameter_px: f64,
    active: &[Found],
    energy: &[f32],
    config: &DetectConfig,
) -> (Vec<Found>, usize) {
    let spots = spots(mean, noise, geometry, diameter_px);
    let position = |at: usize| ((at / geometry.width_px) as f64, (at % geometry.width_px) as f64);
    let centres: Vec<(f64, f64)> = active.iter().map(|found| found.centre(geometry)).collect();
    let distance = |a: (f64, f64), b: (f64, f64)| {
        let (down, right) = (a.0 - b.0, a.1 - b.1);
        (down * down + right * right).sqrt()
    };
    let mut examples = Vec::new();
    for &centre in &centres {
        let near = spots.iter().map(|spot| (distance(position(spot.at), centre), spot));
        let nearest = near.min_by(|a, b| a.0.total_cmp(&b.0));
        examples.extend(nearest.filter(|(px, _)| *px <= 0.4 * diameter_px).map(|(_, spot)| spot.numbers));
    }
    if examples.len() < EXAMPLES_MIN {
        return (Vec::new(), examples.len());
    }
    let looks = Looks::of(&examples);
    let mut taken = vec![false; geometry.count()];
    active.iter().flat_map(|found| &found.pixels).for_each(|&(at, _)| taken[at] = true);
    let mut found = Vec::new();
    for spot in spots {
        let apart = centres.iter().all(|&centre| distance(position(spot.at), centre) > 0.5 * diameter_px);
        let unlikeness = looks.unlikeness(&spot.numbers);
        let alone = centres.iter().all(|&centre| distance(position(spot.at), centre) > diameter_px);
        let moved = if alone { energy_near(energy, spot.at, geometry).clamp(0.0, 4.0) - ENERGY_USUAL } else { 0.0 };
        let score = unlikeness * unlikeness - ENERGY_COUNTS * moved;
        if apart && !taken[spot.at] && score <= config.max_unlikeness * config.max_unlikeness {
            found.push(Found { pixels: spot.pixels, by: FoundBy::Anatomy, score });
        }
    }
    found.sort_by(|a, b| a.score.total_cmp(&b.score));
    found.truncate((config.max_silent * active.len() as f64) as usize);
    (found, examples.len())
}

/// The largest energy of a place and its neighbours.
fn energy_near(energy: &[f32], at: usize, geometry: Geometry) -> f64 {
    let near = Patch::around(at, 1, geometry);
    f64::from(near.places(geometry.width_px).map(|k| energy[k]).fold(f32::NEG_INFINITY, f32::max))
}

fn spots(mean: &[f32], noise: &[f32], geometry: Geometry, diameter_px: f64) -> Vec<Spot> {
    let smooth = |sigma_px: f64| Gaussian::new(geometry, sigma_px).of(mean);
    let at_scale = |sigma_px: f64| -> Vec<f32> {
        smooth(sigma_px).iter().zip(&smooth(1.6 * sigma_px)).map(|(a, b)| a - b).collect()
    };
    let side = (2.5 * diameter_px) as usize | 1;
    let noise = background(noise, geometry, side, 0.5);
    let least = 1e-6 + 1e-3 * noise.iter().sum::<f32>() / noise.len() as f32;
    let scale: Vec<f32> = noise.iter().map(|v| v.max(least).sqrt()).collect();
    let sigma = diameter_px / 5.0;
    let (small, large) = (at_scale(sigma), at_scale(1.4 * sigma));
    let sharp = smooth((diameter_px / 12.0).max(0.7));
    let contrast: Vec<f32> = small.iter().zip(&scale).map(|(v, s)| v / s).collect();
    let radius = (diameter_px / 4.0).round().max(2.0) as usize;
    let mut found = Vec::new();
    for at in peaks(&contrast, geometry, radius, 3, 0.0) {
        let patch = Patch::around(at, diameter_px.ceil() as usize, geometry);
        let values: Vec<f32> = patch.places(geometry.width_px).map(|k| sharp[k]).collect();
        let floor = quantile(&mut values.clone(), 0.3);
        let height = sharp[at] - floor;
        if height <= 0.0 {
            continue;
        }
        let places: Vec<usize> = patch.places(geometry.width_px).collect();
        let inside = patch.connected(&values, floor + 0.5 * height);
        let pixels: Vec<(usize, f32)> = inside.into_iter().map(|k| (places[k], (values[k] - floor).max(0.0))).collect();
        let numbers = [
            libm::log(f64::from(contrast[at])),
            libm::log(f64::from(height / scale[at])),
            libm::log(pixels.len() as f64),
            f64::from(large[at] / small[at]),
        ];
        found.push(Spot { at, numbers, pixels });
    }
    found
}

/// What examples have in common.
struct Looks {
    middle: [f64; NUMBERS],
    deviation: [f64; NUMBERS],
    /// Lower triangle of the covariance's Cholesky factor.
    factor: [[f64; NUMBERS]; NUMBERS],
}

impl Looks {
    fn of(examples: &[[f64; NUMBERS]]) -> Self {
        let count = examples.len() as f64;
        let (mut middle, mut deviation) = ([0.0; NUMBERS], [0.0; NUMBERS]);
        for k in 0..NUMBERS {
            let mut values: Vec<f64> = examples.iter().map(|e| e[k]).collect();
            values.sort_by(f64::total_cmp);
            middle[k] = values[values.len() / 2];
            let mean = values.iter().sum::<f64>() / count;
            deviation[k] = (values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / count).sqrt().max(1e-9);
        }
        let mut looks = Self { middle, deviation, factor: [[0.0; NUMBERS]; NUMBERS] };
        let scaled: Vec<[f64; NUMBERS]> = examples.iter().map(|e| looks.scaled(e)).collect();
        let mean: [f64; NUMBERS] = std::array::from_fn(|k| scaled.iter().map(|e| e[k]).sum::<f64>() / count);
        for row in 0..NUMBERS {
            for col in 0..=row {
                let products = scaled.iter().map(|e| (e[row] - mean[row]) * (e[col] - mean[col]));
                let mut rest = products.sum::<f64>() / count + if row == col { SPHERE } else { 0.0 };
                for k in 0..col {
                    rest -= looks.factor[row][k] * looks.factor[col][k];
                }
                looks.factor[row][col] = if row == col { rest.max(1e-6).sqrt() } else { rest / looks.factor[col][col] };
            }
        }
        looks
    }

    fn scaled(&self, numbers: &[f64; NUMBERS]) -> [f64; NUMBERS] {
        std::array::from_fn(|k| (numbers[k] - self.middle[k]) / self.deviation[k])
    }

    /// Mahalanobis' distance from the middle.
    fn unlikeness(&self, numbers: &[f64; NUMBERS]) -> f64 {
        let scaled = self.scaled(numbers);
        let mut solved = [0.0; NUMBERS];
        for row in 0..NUMBERS {
            let known: f64 = (0..row).map(|k| self.factor[row][k] * solved[k]).sum();
            solved[row] = (scaled[row] - known) / self.factor[row][row];
        }
        solved.iter().map(|v| v * v).sum::<f64>().sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unlikeness_counts_deviations_along_what_varies_together() {
        // the first two rise together, the others are on their own
        let examples: Vec<[f64; 4]> = (0..400_u32)
            .map(|k| {
                let [a, b, c] = [7_u32, 11, 13].map(|p| f64::from(k * p % 101) / 50.0 - 1.0);
                [a, a, b, c]
            })
            .collect();
        let looks = Looks::of(&examples);
        let middle = looks.middle;
        assert!(looks.unlikeness(&middle) < 1e-9);
        let moved = |by: [f64; 4]| looks.unlikeness(&std::array::from_fn(|k| middle[k] + by[k]));
        let (along, across) = (moved([1.0, 1.0, 0.0, 0.0]), moved([1.0, -1.0, 0.0, 0.0]));
        assert!(along < 2.0 && across > 4.0 * along, "{along} {across}");
    }
}
